"""Pictures to crops: every format decodes to the same cell, cells are found whole, a crop holds one of them."""

from __future__ import annotations

import contextlib
import io
import struct
import zlib

import numpy as np
import pytest
import tifffile
from fake_encoder import draw_cell
from PIL import Image
from scipy.ndimage import gaussian_filter

from subcell_atlas.errors import BadImage
from subcell_atlas.images.cells import find_cells
from subcell_atlas.images.crops import cut_cells, cut_window, resize
from subcell_atlas.images.files import decode_channel, decode_channels, decode_labels, read_bytes
from subcell_atlas.images.segmentation import segment_cells
from subcell_atlas.images.thumbnails import compose, decode_thumbnail, encode_jpeg, encode_thumbnail

SMOOTH = gaussian_filter(draw_cell(2, side=64)["protein"].astype(float), 2).astype(np.uint8)


def pillow(picture, kind, **options) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, kind, **options)
    return buffer.getvalue()


def tiff(picture, **options) -> bytes:
    buffer = io.BytesIO()
    tifffile.imwrite(buffer, picture, **options)
    return buffer.getvalue()


def npy(picture) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, picture)
    return buffer.getvalue()


def colored(picture, *, red=0.0, green=0.0, blue=0.0):
    return np.stack([picture * red, picture * green, picture * blue], axis=-1).astype(np.uint8)


FILES = {
    "gray.png": pillow(SMOOTH, "PNG"),
    "deep.png": pillow(SMOOTH.astype(np.uint16) * 256, "PNG"),
    "opaque.png": pillow(np.stack([SMOOTH, np.full_like(SMOOTH, 255)], axis=-1), "PNG"),
    "green.png": pillow(colored(SMOOTH, green=1), "PNG"),
    "gray.jpg": pillow(SMOOTH, "JPEG", quality=95),
    "blue.jpg": pillow(colored(SMOOTH, blue=1), "JPEG", quality=95),
    "yellow.jpg": pillow(colored(SMOOTH, red=1, green=1), "JPEG", quality=95),
    "green.jpg": pillow(colored(SMOOTH, green=1), "JPEG", quality=75),
    "gray.tif": tiff(SMOOTH),
    "deep.tif": tiff(SMOOTH.astype(np.uint16) * 256, compression="zlib"),
    "lzw.tif": pillow(SMOOTH, "TIFF", compression="tiff_lzw"),
    "deep lzw.tif": pillow(SMOOTH.astype(np.uint16) * 256, "TIFF", compression="tiff_lzw"),
    "one page.tiff": tiff(SMOOTH[None]),
    "gray.npy": npy(SMOOTH),
    "float.npy": npy(SMOOTH / 255),
    "long.npy": npy(SMOOTH.astype(np.int64)),
    "last.npy": npy(SMOOTH[..., None]),
    "first.npy": npy(SMOOTH[None]),
}


@pytest.mark.parametrize("name", FILES)
def test_one_channel_looks_the_same_from_every_kind_of_file(name):
    channel = decode_channel(FILES[name], name)
    assert channel.shape == SMOOTH.shape
    dtypes = {"deep": np.uint16, "long": np.uint16, "floa": np.float32}
    assert channel.dtype == dtypes.get(name[:4], np.uint8)
    scaled = channel.astype(float) / channel.max() * SMOOTH.max()
    tolerance = 12 if name.endswith(".jpg") else 0.5
    assert np.abs(scaled - SMOOTH).max() <= tolerance


def test_a_colored_picture_of_several_things_is_no_channel():
    other = np.rot90(SMOOTH * (np.arange(64) < 24).astype(np.uint8))
    mixed = np.stack([SMOOTH * (np.arange(64) > 40).astype(np.uint8), other, np.zeros_like(SMOOTH)], axis=-1)
    for name, content in {"a.png": pillow(mixed, "PNG"), "a.jpg": pillow(mixed, "JPEG")}.items():
        with pytest.raises(BadImage, match="planes differ, where one channel was expected"):
            decode_channel(content, name)
    with pytest.raises(BadImage, match="6 channels where one was expected; name the file `image`"):
        decode_channel(npy(np.stack([SMOOTH] * 6)), "six.npy")


@pytest.mark.parametrize("layout", ["last", "first"])
@pytest.mark.parametrize("kind", ["npy", "tif"])
def test_several_channels_may_come_first_or_last(layout, kind):
    stack = np.stack(list(draw_cell(3).values()))
    given = np.moveaxis(stack, 0, -1) if layout == "last" else stack
    content = npy(given) if kind == "npy" else tiff(given, photometric="minisblack")
    np.testing.assert_array_equal(decode_channels(content, f"a.{kind}"), stack)


def test_four_channels_may_be_packed_into_a_png():
    stack = np.stack(list(draw_cell(3).values()))
    np.testing.assert_array_equal(decode_channels(pillow(np.moveaxis(stack, 0, -1), "PNG"), "a.png"), stack)


def png_header(width: int, height: int) -> bytes:
    """Return a PNG that claims to be large and holds nothing."""
    header = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    chunks = [header, b"IDAT" + zlib.compress(b"\0"), b"IEND"]
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(chunk) - 4) + chunk + struct.pack(">I", zlib.crc32(chunk)) for chunk in chunks
    )


def tiff_header(width: int, height: int) -> bytes:
    """Return a TIFF of one pixel that claims to be large."""
    content = tiff(np.zeros((1, 1), np.uint8))
    for tag, side in ((256, width), (257, height)):
        content = content.replace(struct.pack("<HHII", tag, 4, 1, 1), struct.pack("<HHII", tag, 4, 1, side))
    return content


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("text.png", b"image_id,nucleus\n", "cannot be decoded"),
        ("text.jpg", b"image_id,nucleus\n", "cannot be decoded"),
        ("text.tif", b"image_id,nucleus\n", "cannot be decoded"),
        ("text.npy", b"image_id,nucleus\n", "cannot be decoded"),
        ("cut.png", FILES["gray.png"][:200], "cannot be decoded"),
        ("cut.jpg", FILES["gray.jpg"][:300], "cannot be decoded"),
        ("cut.tif", FILES["deep.tif"][:-400], "cannot be decoded"),
        ("cut.npy", FILES["gray.npy"][:-1], "cannot be decoded"),
        ("header.npy", FILES["gray.npy"][:50], "cannot be decoded"),
        ("bomb.png", png_header(60_000, 60_000), "more than the limit"),
        ("bomb.tif", tiff_header(60_000, 60_000), "more than the limit"),
        (
            "pickle.npy",
            b"\x93NUMPY\x01\x00v\x00{'descr': '|O', 'fortran_order': False, 'shape': (1,), }".ljust(128),
            "cannot",
        ),
        ("nan.npy", npy(np.array([[1.0, np.nan], [0, 1]])), "NaN or infinite"),
        ("z.npy", npy(np.array([[1.0, -1.0], [0, 1]])), "negative intensities; give raw intensities"),
        ("huge.npy", npy(np.array([[1, 70_000]])), "intensities outside 0 to 65535"),
        ("words.npy", npy(np.array([["a", "b"]])), "values are no intensities"),
        ("line.npy", npy(np.arange(9)), "is no picture"),
        ("number.npy", npy(np.array(3)), "is no picture"),
        ("deep.npy", npy(np.zeros((2, 2, 9, 9))), "is no picture"),
        ("none.npy", npy(np.zeros((0, 4))), "without pixels"),
        ("pixel.png", pillow(colored(SMOOTH, green=1)[:1, :1], "PNG"), "is no picture"),
    ],
)
def test_what_is_no_picture_is_refused_with_the_reason(name, content, reason):
    for decode in (decode_channel, decode_channels, decode_labels):
        if decode is decode_labels and name.endswith(".jpg"):
            continue
        with pytest.raises(BadImage, match=reason):
            decode(content, name)


@pytest.mark.filterwarnings("ignore")
def test_damaged_files_never_raise_anything_but_bad_image():
    rng = np.random.default_rng(3)
    for name, good in FILES.items():
        for _ in range(25):
            content = bytearray(good)
            for at in rng.integers(0, min(len(good), 400), rng.integers(1, 6)):
                content[at] = rng.integers(0, 256)
            with contextlib.suppress(BadImage):
                decode_channel(bytes(content[: rng.integers(1, len(good) + 1)]), name)


def test_files_that_cannot_be_read_are_refused_with_the_reason(tmp_path):
    (tmp_path / "empty.png").touch()
    (tmp_path / "folder.png").mkdir()
    for name, reason in {
        "none.png": "the file is missing",
        "empty.png": "the file is empty",
        "folder.png": "cannot be read",
        "a.gif": "pictures are .png, .jpg",
        "plain": "without a suffix",
        "a\0.png": "is no name of a file",
        f"{'a' * 300}.png": "cannot be read",
    }.items():
        with pytest.raises(BadImage, match=reason):
            read_bytes(tmp_path / name)


def test_labels_come_as_numbers_from_gray_deep_and_palette_files():
    labels = np.zeros((20, 20), np.uint8)
    labels[:5], labels[10:] = 3, 200
    palette = Image.fromarray(labels)
    palette.putpalette(list(range(256)) * 3)
    buffer = io.BytesIO()
    palette.save(buffer, "PNG")
    for name, content in {
        "a.png": pillow(labels, "PNG"),
        "palette.png": buffer.getvalue(),
        "rgb.png": pillow(colored(labels, red=1, green=1, blue=1), "PNG"),
        "a.tif": tiff(labels.astype(np.uint16)),
        "a.npy": npy(labels.astype(np.int64)),
        "bool.npy": npy(labels > 0),
    }.items():
        read = decode_labels(content, name)
        assert read.dtype == np.int32
        np.testing.assert_array_equal(read, labels > 0 if name == "bool.npy" else labels)
    with pytest.raises(BadImage, match="JPEG changes the numbers of a mask"):
        decode_labels(pillow(labels, "JPEG"), "a.jpg")
    with pytest.raises(BadImage, match="a mask has one channel"):
        decode_labels(pillow(colored(labels, red=1), "PNG"), "color.png")


def draw_field(n: int = 2, *, side: int = 400, seed: int = 0):
    """Return nucleus, cytoplasm and truth of a field: `n` x `n` round cells of 40 px, and one that the border cuts."""
    rows, columns = np.mgrid[:side, :side]
    truth, nucleus, cytoplasm = np.zeros((side, side), int), np.zeros((side, side)), np.zeros((side, side))
    centers = [(100 + 110 * i, 100 + 110 * j) for i in range(n) for j in range(n)] + [(200, side - 10)]
    for number, (y, x) in enumerate(centers, start=1):
        radius = np.hypot(rows - y, columns - x)
        truth[radius < 40] = number
        cytoplasm += 120 * (radius < 40)
        nucleus += (150 + 20 * number) * (radius < 18)
    noise = np.random.default_rng(seed).normal(0, 6, (2, side, side))
    to_picture = lambda plane, i: (gaussian_filter(plane, 2) + 12 + noise[i]).clip(0, 255).astype(np.uint8)  # noqa: E731
    return to_picture(nucleus, 0), to_picture(cytoplasm, 1), truth


def test_segmentation_finds_each_whole_cell_and_leaves_out_the_cut_one():
    nucleus, cytoplasm, truth = draw_field()
    labels = segment_cells(nucleus, cytoplasm, pixel_size_um=0.4).labels
    boxes = find_cells(labels)
    assert len(boxes) == 4
    for number in range(1, 5):
        mine = labels[truth == number]
        label = np.bincount(mine).argmax()
        overlap = ((labels == label) & (truth == number)).sum() / ((labels == label) | (truth == number)).sum()
        assert label > 0
        assert overlap > 0.8
    assert not labels[:, -1].any()


def test_touching_cells_are_parted_between_their_nuclei():
    rows, columns = np.mgrid[:200, :300]
    left, right = (np.hypot(rows - 100, columns - x) for x in (115, 185))
    nucleus = gaussian_filter(200.0 * ((left < 18) | (right < 18)), 2).astype(np.uint8)
    cytoplasm = gaussian_filter(120.0 * ((left < 40) | (right < 40)), 2).astype(np.uint8)
    labels = segment_cells(nucleus, cytoplasm, pixel_size_um=0.4).labels
    assert len(find_cells(labels)) == 2
    assert labels[100, 105] != labels[100, 195]
    assert (labels[left < 30] == labels[100, 105]).mean() > 0.9


def test_cells_do_not_depend_on_the_pixel_size_of_the_picture():
    nucleus, cytoplasm, _ = draw_field()
    fine = [np.kron(plane, np.ones((2, 2), np.uint8)) for plane in (nucleus, cytoplasm)]
    assert len(find_cells(segment_cells(*fine, pixel_size_um=0.2).labels)) == 4


def test_a_field_without_nuclei_is_refused():
    flat = np.full((100, 100), 7, np.uint8)
    with pytest.raises(BadImage, match="no nucleus stands out"):
        segment_cells(flat, flat, pixel_size_um=0.4)


def test_the_box_of_a_labelled_cell_is_half_open():
    labels = np.zeros((50, 60), np.int32)
    labels[10:30, 5:25] = 4
    (box,) = find_cells(labels)
    assert (box.label, box.y0, box.x0, box.y1, box.x1) == (4, 10, 5, 30, 25)
    assert box.center == (20, 15)


def test_a_mask_that_only_tells_cells_from_background_is_refused():
    labels = np.zeros((50, 60), np.int32)
    labels[5:20, 5:20] = labels[30:45, 30:45] = 255
    with pytest.raises(BadImage, match="one number in 2 areas; give each cell a number of its own"):
        find_cells(labels)


@pytest.mark.parametrize("factor", [-1, 70_000, 2**31, 0.5, 1e12, float("nan")])
def test_a_mask_whose_numbers_are_no_labels_is_refused(factor):
    labels = np.zeros((20, 20), np.int64)
    labels[5:10, 5:10], labels[12:18, 12:18] = 1, 2
    with pytest.raises(BadImage, match=r"^m\.npy: "):
        decode_labels(npy(labels * factor), "m.npy")
    np.testing.assert_array_equal(decode_labels(npy(labels.astype(np.float64)), "m.npy"), labels)


def gray_field(labels):
    return {
        "nucleus": np.where(labels > 0, 100 + labels, 20).astype(np.uint8),
        "protein": np.eye(*labels.shape, dtype=np.uint8),
    }


def cut(channels, labels=None, **options):
    given = {"is_crop": False, "masking": "cell", "pixel_size_um": 1.0, "crop_um": 32.0, "crop_px": 32}
    return cut_cells(channels, labels, **{**given, **options})


def test_a_crop_holds_its_cell_in_the_middle_and_not_the_neighbor():
    labels = np.zeros((64, 64), np.int32)
    labels[20:40, 20:34], labels[20:40, 34:48] = 1, 2
    channels = gray_field(labels) | {"protein": np.arange(64 * 64, dtype=np.uint16).reshape(64, 64).astype(np.uint8)}
    masked = cut(channels, labels)
    assert masked.mask_source == "given"
    assert masked.crops.shape == (2, 2, 32, 32)
    assert set(np.unique(masked.crops[0, 0])) == {0, 101}
    assert set(np.unique(masked.crops[1, 0])) == {0, 102}
    rows, columns = np.nonzero(masked.crops[0, 0])
    assert abs(rows.mean() - 15.5) <= 1
    assert abs(columns.mean() - 15.5) <= 1
    plain = cut(channels, labels, masking="none")
    assert set(np.unique(plain.crops[0, 0])) == {20, 101, 102}


def test_a_cell_at_the_edge_is_filled_up_with_black():
    labels = np.zeros((64, 64), np.int32)
    labels[1:21, 1:21] = 1
    crop = cut(gray_field(labels), labels).crops[0, 0]
    assert (crop == 101).sum() == 400
    assert (crop[:6] == 0).all()


def test_the_crop_spans_its_micrometers_whatever_the_pixel_size():
    rows, columns = np.mgrid[:128, :128]
    disc = (np.hypot(rows - 63.5, columns - 63.5) < 40).astype(np.uint8) * 200
    channels = {"nucleus": disc, "protein": disc}
    fine = cut(channels, is_crop=True, pixel_size_um=0.25)
    coarse = cut({name: plane[::2, ::2] for name, plane in channels.items()}, is_crop=True, pixel_size_um=0.5)
    assert fine.mask_source == "none"
    wide = [(crops.crops[0, 0][16] > 100).sum() for crops in (fine, coarse)]
    assert wide[0] == pytest.approx(80 * 0.25, abs=1)
    assert wide[1] == pytest.approx(wide[0], abs=1)


def test_deep_and_float_pictures_keep_their_range_when_they_are_resized():
    for dtype, top in ((np.uint16, 60_000), (np.float32, 0.75)):
        picture = np.full((1, 64, 64), top, dtype)
        crop = resize(cut_window(picture, (32, 32), side_px=48), 16)
        assert crop.dtype == dtype
        assert (crop == top).all()


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32])
def test_half_the_size_is_the_mean_of_four_pixels_as_in_subcells_training_crops(rng, dtype):
    picture = (rng.random((2, 64, 64)) * 200).astype(dtype)
    crop = resize(cut_window(picture, (32, 32), side_px=64), 32)
    means = (
        picture[:, ::2, ::2].astype(float) + picture[:, 1::2, ::2] + picture[:, ::2, 1::2] + picture[:, 1::2, 1::2]
    ) / 4
    assert np.abs(crop - means).max() <= (1e-4 if dtype == np.float32 else 0.5)


def test_the_largest_label_is_the_cell_of_a_crop():
    labels = np.zeros((32, 32), np.int32)
    labels[:20], labels[25:] = 5, 6
    crop = cut(gray_field(labels), labels, is_crop=True).crops[0, 0]
    assert set(np.unique(crop)) == {0, 105}
    with pytest.raises(BadImage, match="the mask is empty"):
        cut(gray_field(labels), labels * 0, is_crop=True)


def test_pictures_that_show_no_cell_are_refused_with_the_reason():
    labels = np.zeros((64, 64), np.int32)
    labels[20:40, 20:40] = 1
    good = gray_field(labels)
    small = {name: plane[:10, :10] for name, plane in good.items()}
    other = {**good, "protein": good["protein"][:, :50]}
    for channels, mask, reason in (
        (other, None, "the channels differ in size: nucleus 64 x 64, protein 64 x 50"),
        (
            {**good, "protein": good["protein"].astype(np.uint16)},
            None,
            "differ in depth: nucleus uint8, protein uint16",
        ),
        ({**good, "protein": good["protein"] * 0}, None, "the protein channel is constant"),
        (small, None, "10 x 10 px is too small"),
        (good, labels[:40], "the mask is 40 x 64 px, the picture 64 x 64"),
        (good, labels * 0, "no cell was found"),
    ):
        with pytest.raises(BadImage, match=reason):
            cut(channels, mask)


def test_a_thumbnail_holds_every_channel_at_its_own_brightness():
    crop = np.stack(
        [
            plane.astype(np.uint16) * scale
            for plane, scale in zip(draw_cell(side=64).values(), (1, 9, 90, 200), strict=True)
        ]
    )
    content = encode_thumbnail(crop)
    tiles = decode_thumbnail(content)
    assert content[:2] == b"\xff\xd8"
    assert tiles.shape == (4, 128, 128)
    assert all(tile.max() > 230 for tile in tiles)
    assert np.corrcoef(np.asarray(Image.fromarray(tiles[2]).resize((64, 64))).ravel(), crop[2].ravel())[0, 1] > 0.95


def test_colors_are_those_of_the_human_protein_atlas_and_only_of_the_shown_channels():
    tiles = np.zeros((2, 8, 8), np.uint8)
    tiles[0, :4], tiles[1, 4:] = 200, 200
    picture = compose(tiles, ("nucleus", "protein"), show=("nucleus",))
    assert picture[0, 0].argmax() == 2
    assert not picture[4:].any()
    picture = compose(tiles, ("nucleus", "protein"), show=("nucleus", "protein"))
    assert picture[7, 7].argmax() == 1
    with Image.open(io.BytesIO(encode_jpeg(picture))) as image:
        assert np.abs(np.asarray(image).astype(int) - picture).max() < 12


def test_a_kept_mask_says_where_the_cell_is_in_a_crop_that_shows_its_neighbors_too():
    labels = np.zeros((100, 100), np.int32)
    labels[30:50, 30:50], labels[30:50, 52:72] = 1, 2
    channels = gray_field(labels)
    shown = cut(channels, labels, masking="none", keep_masks=True)
    assert shown.masks.shape == (2, 32, 32)
    assert shown.masks.dtype == bool
    np.testing.assert_array_equal(shown.masks[0], labels[24:56, 24:56] == 1)
    np.testing.assert_array_equal(shown.crops[0, 0], channels["nucleus"][24:56, 24:56])
    alone = cut(channels, labels, keep_masks=True)
    np.testing.assert_array_equal(alone.masks, shown.masks)
    np.testing.assert_array_equal(alone.crops, shown.crops * shown.masks[:, None])
    assert cut(channels, labels).masks is None


@pytest.mark.parametrize("crop_px", [8, 16, 20, 48])
def test_a_mask_covers_the_pixels_of_which_the_cell_fills_half_at_every_scale(crop_px):
    labels = np.zeros((100, 100), np.int32)
    labels[30:55, 34:60] = 1
    mask = cut(gray_field(labels), labels, masking="none", keep_masks=True, crop_px=crop_px).masks[0]
    assert mask.shape == (crop_px, crop_px)
    assert mask.mean() == pytest.approx(25 * 26 / 32**2, rel=0.12)
    top, left = round(42.5 - 16), 47 - 16
    starts = np.array([np.flatnonzero(mask.any(axis=1))[0], np.flatnonzero(mask.any(axis=0))[0]])
    assert np.abs(starts - np.array([30 - top, 34 - left]) * crop_px / 32).max() <= 0.5


def test_a_crop_without_a_mask_is_all_cell_and_a_mask_ends_at_the_edge_of_the_picture():
    crop = draw_cell(side=32)
    assert cut(crop, is_crop=True, masking="none", keep_masks=True).masks.all()
    labels = np.zeros((100, 100), np.int32)
    labels[1:21, 40:60] = 1
    mask = cut(gray_field(labels), labels, masking="none", keep_masks=True).masks[0]
    np.testing.assert_array_equal(np.flatnonzero(mask.any(axis=1)), np.arange(6, 26))


def test_a_cell_that_its_window_does_not_meet_is_left_out():
    labels = np.zeros((100, 100), np.int32)
    labels[:10, :10] = 1
    with pytest.raises(BadImage, match="they show nothing"):
        cut(draw_cell(side=100), labels, is_crop=True, masking="none", keep_masks=True)
