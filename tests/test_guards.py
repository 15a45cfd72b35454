"""What cannot be raw crops is refused with a hint; swapped channels are noticed, on drawn cells and on real ones."""

from __future__ import annotations

import csv
from itertools import islice

import numpy as np
import pytest
from scipy import ndimage
from skimage import filters, measure

from subcell_atlas.encoders.guards import check_crops, likeness_to_dna, part_in_two, solidity, swapped_channels
from subcell_atlas.errors import BadInput
from subcell_atlas.images.crops import cut_cells
from subcell_atlas.images.files import decode_channel
from subcell_atlas.images.simulated import make_cell, make_proteome

RYBG = ("microtubules", "er", "nucleus", "protein")
SETS = (RYBG, ("microtubules", "nucleus", "protein"), ("er", "nucleus", "protein"), ("nucleus", "protein"))
COLOR_OF = {"microtubules": "red", "er": "yellow", "nucleus": "blue", "protein": "green"}
HPA_UM = 0.0800885
CROP = {"crop_um": 640 * HPA_UM, "crop_px": 128}


def check(crops, channels=RYBG, patch=16):
    check_crops(crops, channels, patch=patch, encoder="subcell-some")


def crops_of(shape=(6, 4, 32, 32), dtype="uint8", low=0, high=200):
    pixels = np.random.default_rng(1).uniform(low, high, shape)
    return (np.rint(pixels) if np.dtype(dtype).kind == "u" else pixels).astype(dtype)


def draw_cell(seed, *, side=128, nuclear_protein=False, masked=True):
    """Return (4, side, side) of 0 to 1: lines of microtubules, a net of ER, a nucleus, spots or a nuclear protein."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:side, :side] - side / 2.0
    angle = np.arctan2(y, x)
    center = rng.uniform(-0.04, 0.04, 2) * side
    from_nucleus = np.hypot((y - center[0]) / rng.uniform(0.8, 1.2), x - center[1])
    body = np.hypot(x, y) < side * (0.38 + 0.04 * np.sin(3 * angle + rng.uniform(0, 6)))
    nucleus = from_nucleus < 0.14 * side
    cytoplasm = body & ~nucleus
    ripple = smooth(rng, side, side / 20)
    lines = np.sin(14 * angle + 3 * ripple) > 0.6
    net = (np.abs(smooth(rng, side, side / 50)) < 0.4) * np.exp(-np.clip(from_nucleus / side - 0.14, 0, 1) * 8)
    dna = nucleus * (1 + 0.15 * smooth(rng, side, side / 30))
    spots = smooth(rng, side, side / 60) > 1.2
    protein = 0.9 * dna if nuclear_protein else cytoplasm * (0.2 + spots)
    light = np.stack([cytoplasm * (0.1 + lines), cytoplasm * (0.1 + net), dna + 0.03 * body, protein])
    light = ndimage.gaussian_filter(light, (0, side / 200, side / 200)) + 0.02 * rng.uniform(size=(4, side, side))
    return np.clip(light / 1.7, 0, 1) * (body if masked else 1)


def smooth(rng, side, sigma):
    noise = ndimage.gaussian_filter(rng.normal(size=(side, side)), sigma)
    return noise / noise.std()


def draw_cells(n=8, *, dtype="uint8", **how):
    drawn = np.stack([draw_cell(seed, **how) for seed in range(n)])
    full = {"uint8": 255, "uint16": 4095, "float32": 1}[dtype]
    return (drawn * full).astype(dtype)


def only(crops, channels):
    return crops[:, [RYBG.index(name) for name in channels]]


def swapped(crops, channels, one, other="nucleus"):
    order = list(range(len(channels)))
    i, j = channels.index(one), channels.index(other)
    order[i], order[j] = j, i
    return crops[:, order]


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "float16", "float32", "float64"])
def test_raw_crops_of_every_depth_pass(dtype):
    check(crops_of(dtype=dtype))
    check(crops_of((2, 4, 48, 64), dtype=dtype))
    check(crops_of((1, 2, 32, 32), dtype=dtype), ("nucleus", "protein"))
    check(np.zeros((0, 4, 32, 32), dtype))


def test_raw_crops_scaled_to_one_pass_and_so_do_dim_ones_among_others():
    check(crops_of(dtype="float32", high=1))
    check(crops_of(dtype="float32", high=300 / 65535))
    dim = crops_of(dtype="float32", high=1)
    dim[2] *= 1e-5
    check(dim)
    of_two_levels = crops_of()
    of_two_levels[1] //= 150
    assert np.ptp(of_two_levels[1]) == 1
    check(of_two_levels)


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        (
            (6, 5, 32, 32),
            r"\(N, 4, H, W\) with the channels microtubules, er, nucleus, protein, in this order; got shape",
        ),
        ((6, 2, 32, 32), "2 channels: subcell-bg-mae and subcell-bg-vit take nucleus, protein"),
        (
            (6, 3, 32, 32),
            "3 channels: subcell-rbg-mae and subcell-rbg-vit take microtubules, nucleus, protein; "
            "subcell-ybg-mae and subcell-ybg-vit take er, nucleus, protein",
        ),
        ((6, 32, 32, 4), r"look like \(N, H, W, C\): give crops.transpose\(0, 3, 1, 2\)"),
        ((6, 32, 32, 3), r"look like \(N, H, W, C\)"),
        ((4, 32, 32), r"One crop is given as crop\[None\]"),
        ((32, 32, 4), r"crop.transpose\(2, 0, 1\)\[None\]"),
        ((32, 32), r"got shape \(32, 32\)\.$"),
        ((6, 4, 1, 32, 32), "got shape"),
    ],
)
def test_other_shapes_are_refused_with_what_they_look_like(shape, message):
    with pytest.raises(BadInput, match=f"'subcell-some' takes crops.*{message}"):
        check(crops_of(shape))


def test_four_channels_for_an_encoder_of_two_name_the_encoders_of_four():
    with pytest.raises(BadInput, match="4 channels: subcell-rybg-mae and subcell-rybg-vit take microtubules, er"):
        check(crops_of(), ("nucleus", "protein"))


@pytest.mark.parametrize(
    ("sides", "message"),
    [
        ((32, 40), r"multiples of 16 px; got 32 x 40 \(near 40: 32 or 48\)"),
        ((650, 9), r"\(near 650: 640 or 656; near 9: 16\)"),
        ((100, 100), r"\(near 100: 96 or 112\)"),
        ((0, 32), r"\(near 0: 16\)"),
    ],
)
def test_sides_that_the_patch_does_not_divide_are_refused_with_the_nearest_that_it_does(sides, message):
    with pytest.raises(BadInput, match=message):
        check(np.zeros((1, 4, *sides), np.uint8))


@pytest.mark.parametrize("dtype", ["int16", "int32", "int64", "uint32", "complex64"])
def test_other_depths_are_refused(dtype):
    with pytest.raises(BadInput, match=f"got {dtype}: counts of 0 to 65535 fit into uint16"):
        check(np.ones((2, 4, 32, 32), dtype))


def test_a_mask_is_no_picture():
    with pytest.raises(BadInput, match="got bool: a mask is no picture"):
        check(np.ones((2, 4, 32, 32), bool))
    with pytest.raises(BadInput, match="two intensities only, such as 0 and 1: a mask, or floats of"):
        check(crops_of(high=1))


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_values_that_are_not_finite_are_refused_by_crop(value):
    crops = crops_of(dtype="float32")
    crops[[1, 4], 2, 7, 9] = value
    with pytest.raises(BadInput, match=r"NaN or infinite values: 2 of 6 crops \(1, 4\)"):
        check(crops)


def test_negative_values_are_refused_by_crop():
    crops = crops_of(dtype="float32")
    crops[5, 0, 0, 0] = -0.25
    with pytest.raises(BadInput, match=r"cannot be negative: 1 of 6 crops \(5\), down to -0.25.*z-scored or scaled to"):
        check(crops)
    scored = (crops_of(dtype="float64") - 100) / 58
    with pytest.raises(BadInput, match=r"6 of 6 crops \(0, 1, 2, 3, 4, …\).*Give the raw picture"):
        check(scored)


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "float32"])
def test_constant_and_empty_crops_are_refused_by_crop(dtype):
    crops = crops_of(dtype=dtype)
    crops[[0, 3]] = 0
    with pytest.raises(BadInput, match=r"empty \(0 everywhere\) show no cell: 2 of 6 crops \(0, 3\)"):
        check(crops)
    crops[3] = 7
    with pytest.raises(BadInput, match=r"constant show no cell: 2 of 6 crops \(0, 3\)"):
        check(crops)


def test_floats_too_small_to_be_raw_are_refused():
    with pytest.raises(BadInput, match=r"Crops lie between .* is not that of raw intensities"):
        check(crops_of(dtype="float32", high=5e-5))
    with pytest.raises(BadInput, match="Crops lie between"):
        check(crops_of(dtype="float32", low=1, high=1 + 5e-5))


@pytest.mark.parametrize("channels", SETS, ids="-".join)
@pytest.mark.parametrize("dtype", ["uint8", "uint16", "float32"])
@pytest.mark.parametrize("masked", [True, False], ids=["masked", "whole"])
def test_drawn_cells_are_quiet_in_order_and_found_when_the_nucleus_is_swapped(channels, dtype, masked):
    crops = only(draw_cells(dtype=dtype, masked=masked), channels)
    assert swapped_channels(crops, channels) is None
    for other in channels:
        if other != "nucleus":
            said = swapped_channels(swapped(crops, channels, other), channels)
            assert said is not None, other
            assert said.startswith(f"The {other} channel looks like DNA, the nucleus channel does not (")
            assert said.endswith(f" of 8 crops): are the channels in the order {', '.join(channels)}?")


@pytest.mark.parametrize("side", [64, 200, 640])
def test_cells_of_every_size_are_judged_alike(side):
    crops = draw_cells(6, side=side)
    assert swapped_channels(crops, RYBG) is None
    assert "er channel looks like DNA" in swapped_channels(swapped(crops, RYBG, "er"), RYBG)


def test_an_order_that_begins_with_the_nucleus_is_found():
    crops = draw_cells()
    assert "microtubules channel looks like DNA" in swapped_channels(crops[:, [2, 1, 0, 3]], RYBG)
    assert "microtubules channel looks like DNA" in swapped_channels(crops[:, [2, 3, 0, 1]], RYBG)
    assert "er channel looks like DNA" in swapped_channels(crops[:, ::-1], RYBG)


@pytest.mark.parametrize("channels", SETS, ids="-".join)
def test_a_nuclear_protein_is_no_evidence(channels):
    crops = only(draw_cells(nuclear_protein=True), channels)
    assert likeness_to_dna(crops[0])[channels.index("protein")] > 0.65
    assert swapped_channels(crops, channels) is None


def test_a_nuclear_protein_is_not_taken_for_the_dna_that_lies_elsewhere():
    crops = swapped(draw_cells(nuclear_protein=True), RYBG, "er")
    assert swapped_channels(crops, RYBG).startswith("The er channel looks like DNA")


def test_a_few_odd_cells_among_many_are_no_evidence():
    crops = draw_cells(16)
    crops[:5] = swapped(crops[:5], RYBG, "er")
    assert swapped_channels(crops, RYBG) is None


def test_too_few_crops_say_nothing():
    crops = swapped(draw_cells(5), RYBG, "er")
    assert swapped_channels(crops, RYBG) is not None
    assert swapped_channels(crops[:3], RYBG) is None
    assert swapped_channels(crops[:0], RYBG) is None


def test_of_many_crops_some_are_looked_at_all_over_the_batch():
    crops = draw_cells(10)
    wrong = swapped(crops, RYBG, "microtubules")
    half = np.concatenate([np.repeat(crops, 7, axis=0), np.repeat(wrong, 7, axis=0)])
    assert "(35 of 47 crops)" not in (said := swapped_channels(half, RYBG))
    assert " of 47 crops)" in said


def test_what_cannot_be_judged_is_let_through():
    crops = draw_cells()
    assert swapped_channels(only(crops, ("er", "protein")), ("er", "protein")) is None
    assert swapped_channels(crops, ("nucleus", "protein")) is None
    assert swapped_channels(crops[0], RYBG) is None
    assert swapped_channels(np.zeros((8, 4, 32, 32), np.uint8), RYBG) is None
    assert swapped_channels(np.full((8, 4, 32, 32), np.nan, np.float32), RYBG) is None
    assert swapped_channels(np.ones((8, 4, 1, 1), np.uint8), RYBG) is None
    no_nucleus = crops.copy()
    no_nucleus[:, 2] = no_nucleus[:, 1]
    assert swapped_channels(no_nucleus, RYBG) is None


def test_part_in_two_is_otsus_method(rng):
    values = np.concatenate([rng.normal(10, 2, 700), rng.normal(30, 3, 300)])
    threshold, separability = part_in_two(values)
    assert threshold == pytest.approx(filters.threshold_otsu(values, nbins=128), abs=np.ptp(values) / 128)
    above = values > threshold
    within = np.var(values[above]) * above.mean() + np.var(values[~above]) * (~above).mean()
    assert separability == pytest.approx(1 - within / np.var(values), abs=0.01)
    assert part_in_two(np.full(9, 3.0))[1] == 0


def test_solidity_is_that_of_the_large_parts(rng):
    bright = smooth(rng, 90, 5) > 0.5
    parts = measure.regionprops(measure.label(bright, connectivity=1))
    large = [part for part in parts if part.area >= 0.2 * max(each.area for each in parts)]
    assert len(parts) > len(large) > 1
    expected = sum(part.area for part in large) / sum(part.area / part.solidity for part in large)
    assert solidity(bright) == pytest.approx(expected, rel=0.05)
    assert solidity(np.ones((5, 7), bool)) == pytest.approx(1)
    assert solidity(np.zeros((5, 7), bool)) == 0
    ring = np.ones((10, 10), bool)
    ring[2:8, 2:8] = False
    assert solidity(ring) == pytest.approx(0.64)


@pytest.mark.parametrize("masked", [True, False], ids=["masked", "whole"])
def test_simulated_cells_are_quiet_in_order(masked):
    proteome = make_proteome(24, seed=11)
    cells = [make_cell(proteome, protein, 0, size=128) for protein in range(24)]
    crops = np.stack([cell.channels * cell.mask if masked else cell.channels for cell in cells])
    expect(crops, found=("microtubules", "er", "protein") if masked else ("microtubules",))  # neighbors touch


def read(prefix, suffix):
    paths = {name: prefix.with_name(f"{prefix.name}_{color}.{suffix}") for name, color in COLOR_OF.items()}
    return {name: decode_channel(path.read_bytes(), path.name) for name, path in paths.items()}


def expect(crops, *, found):
    """Whatever the channels, the right order is quiet; each swap of `found` is noticed."""
    for channels in SETS:
        of_set = only(crops, channels)
        assert swapped_channels(of_set, channels) is None, channels
        for other in found:
            if other in channels:
                said = swapped_channels(swapped(of_set, channels, other), channels)
                assert said is not None, (channels, other)
                assert f"The {other} channel looks like DNA" in said


def test_real_masked_cells(real_data):
    with (real_data / "hpa_cells" / "cells.csv").open(encoding="utf-8") as file:
        table = list(csv.DictReader(file))
    cells = []
    for image in islice(sorted({row["image"] for row in table}), 0, None, 5):
        picture = np.stack(list(read(real_data / "hpa_cells" / "images" / image, "jpg").values()))
        for row in table:
            if row["image"] == image:
                top, left = 512 * int(row["tile_row"]), 512 * int(row["tile_col"])
                cells.append(picture[:, top : top + 512, left : left + 512])
    crops = np.stack(cells)
    assert len(crops) == 63
    expect(crops, found=("microtubules", "er", "protein"))
    for start in range(0, len(crops), 9):
        expect(crops[start : start + 9], found=("microtubules", "er"))


def test_real_crops_of_a_field_without_masks(real_data):
    paths = sorted((real_data / "hpa_fields" / "mtm1_56_F11_1").glob("*.npy"))
    crops = np.stack([np.load(path)[..., [0, 3, 2, 1]].transpose(2, 0, 1) for path in paths])
    assert len(crops) == 13
    expect(crops, found=("microtubules", "er", "protein"))


@pytest.mark.parametrize("masking", ["cell", "none"])
def test_real_cells_with_many_nuclei(real_data, masking):
    folder = real_data / "cm4ai_fields" / "A1_A2_target_unknown"
    crops = np.concatenate(
        [
            cut_cells(
                read(folder / f"B2AI_1_Paclitaxel_{name}_z01", "jpg"), None,
                is_crop=False, masking=masking, pixel_size_um=HPA_UM, **CROP,
            ).crops
            for name in ("A1_R5", "A1_R6", "A2_R5")
        ]
    )  # fmt: skip
    assert len(crops) > 30
    expect(crops, found=("microtubules", "er"))
