"""A picture that a person uploads: which file is which channel, and what in it is a cell.

Pictures stay in the session; nothing of them is stored.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import streamlit as st
from PIL import Image, ImageDraw

from subcell_atlas.encoders.guards import swapped_channels
from subcell_atlas.encoders.specs import HPA_PIXEL_SIZE_UM, EncoderSpec
from subcell_atlas.errors import BadImage, BadInput
from subcell_atlas.images.cells import find_cells
from subcell_atlas.images.crops import cells_of_field, check_channels, cut_cells
from subcell_atlas.images.files import PICTURE_SUFFIXES, decode_channel, decode_channels
from subcell_atlas.images.thumbnails import COLORS, compose, encode_thumbnail, stretch
from subcell_atlas.pages import parts
from subcell_atlas.pages.parts import plain
from subcell_atlas.pages.pictures import whole_view
from subcell_atlas.pages.reading import Cell

__all__ = ["Asked", "ask_picture", "read_planes"]

MAX_MB = 50  # of a file
MAX_PIXELS = 6144 * 6144  # of a channel: twice the side of HPA's largest fields
MAX_FILES = 8
PREVIEW_PX = 640
COLORS_OF_PLANES = ("red", "green", "blue", "4th")
N_SHOWN = 8  # cells
MAX_CELLS = 60
WHOLE, FIELD, SQUARE = "One cell, cut out", "A field: find its cells", "A field: a square of it"
SPOKEN = {  # in names of files: HPA's colours, and what the channels show
    "nucleus": ("nucleus", "nuclei", "dapi", "hoechst", "dna", "blue"),
    "microtubules": ("microtubule", "tubulin", "red"),
    "er": ("er", "reticulum", "calreticulin", "yellow"),
    "protein": ("protein", "gfp", "antibody", "green"),
}


@dataclass(frozen=True)
class Asked:
    """A picture that is asked for. crops: (n, C, size, size), as the encoder sees them; mark: told apart by it."""

    name: str
    crops: np.ndarray
    mark: str


def ask_picture(spec: EncoderSpec, masking: str) -> Asked | None:
    """Let a person upload a picture, say what it shows, and see what the encoder will; None before that.

    Raise BadImage when it cannot be used.
    """
    files = st.file_uploader(
        f"A file with all channels, or a file for each: {', '.join(spec.channels)}",
        type=[suffix[1:] for suffix in PICTURE_SUFFIXES],
        accept_multiple_files=True,
        key="picture",
        max_upload_size=MAX_MB,
    )
    if not files:
        st.caption("Raw intensities of 8 or 16 bits are best. The picture is not kept.")
        return None
    if len(files) > MAX_FILES:
        raise BadInput(f"{len(files)} files are more than the {MAX_FILES} that a picture may have.")
    contents = {file.name: file.getvalue() for file in files}
    planes = kept_planes(contents)
    left, right = st.columns([2, 3], gap="medium")
    with left:
        channels = assign(spec.channels, planes)
        pixel_um = st.number_input(
            "Size of a pixel, µm", 0.005, 5.0, HPA_PIXEL_SIZE_UM, 0.01, format="%.4f", key="pixel_size", width=180
        )
        what = st.radio("It shows", [WHOLE, FIELD, SQUARE], key="picture_shows")
    check_channels(channels)
    with right:
        crops = choose_crops(channels, what=what or WHOLE, pixel_um=pixel_um, spec=spec, masking=masking)
    if crops is None:
        return None
    show_crops(crops, spec)
    mark = hashlib.sha256(crops.tobytes() + repr(crops.shape).encode()).hexdigest()
    return Asked(", ".join(contents), crops, mark)


@st.cache_data(show_spinner=False, max_entries=4, scope="session")
def kept_planes(contents: Mapping[str, bytes]) -> dict[str, np.ndarray]:
    """Return what `read_planes` does, kept for the session."""
    return read_planes(contents)


def read_planes(contents: Mapping[str, bytes]) -> dict[str, np.ndarray]:
    """Return the planes (H, W) of some files by name; raise BadImage when one cannot be read or differs in size."""
    planes: dict[str, np.ndarray] = {}
    for name, content in contents.items():
        if len(contents) > 1:
            with suppress(BadImage):  # it may still be a picture of several channels
                planes[name] = decode_channel(content, name, max_pixels=MAX_PIXELS)
                continue
        found = decode_channels(content, name, max_pixels=MAX_PIXELS)
        colors = COLORS_OF_PLANES if Path(name).suffix.lower() not in (".tif", ".tiff", ".npy") else ()
        for index, plane in enumerate(found):
            if plane.any() or len(found) == 1:
                part = colors[index] if index < len(colors) else str(index + 1)
                planes[name if len(found) == 1 else f"{name} · {part}"] = plane
    shapes = {f"{plane.shape[0]} x {plane.shape[1]}" for plane in planes.values()}
    if len(shapes) > 1:
        raise BadImage(f"The files differ in size: {', '.join(sorted(shapes))} px. Give the channels of one picture.")
    return planes


def assign(channels: Sequence[str], planes: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Let a person say which plane is which channel; as guessed from their names before."""
    if len(planes) < len(channels):
        few = f"{len(planes)} channel{'s' * (len(planes) != 1)}"
        raise BadInput(f"{few} given; the encoder of this atlas looks at {len(channels)}: {', '.join(channels)}.")
    names = list(planes)
    guessed = guess(channels, names)
    chosen = {
        channel: st.selectbox(
            channel.upper() if channel == "er" else channel.capitalize(), names, index=names.index(guessed[channel]),
            key=f"plane_{channel}_{hashlib.sha256(repr(names).encode()).hexdigest()[:8]}",
        )
        for channel in channels
    }  # fmt: skip
    if len(set(chosen.values())) < len(channels):
        st.warning("Two channels come from the same plane.")
    return {channel: planes[name] for channel, name in chosen.items()}


def guess(channels: Sequence[str], names: Sequence[str]) -> dict[str, str]:
    """Return which of `names` each channel probably is: the one that speaks of it, else those left over, in order."""
    found: dict[str, str] = {}
    for channel in channels:
        for name in names:
            words = "".join(letter if letter.isalnum() else " " for letter in name.lower()).split()
            if name not in found.values() and any(speaks_of(channel, word) for word in words):
                found[channel] = name
                break
    rest = [name for name in names if name not in found.values()]
    return {channel: found.get(channel) or rest.pop(0) for channel in channels}


def speaks_of(channel: str, word: str) -> bool:
    """Tell whether a word of a file's name means a channel."""
    return any(word.startswith(said) if len(said) > 2 else word == said for said in SPOKEN.get(channel, (channel,)))


def choose_crops(
    channels: Mapping[str, np.ndarray], *, what: str, pixel_um: float, spec: EncoderSpec, masking: str
) -> np.ndarray | None:
    """Show the picture and let a person choose what in it is meant; return the crops (n, C, size, size) of that."""
    labels = None
    height, width = next(iter(channels.values())).shape
    preview = draw(channels)
    if what == FIELD:
        labels = labels_of(channels, pixel_um)
        boxes = find_cells(labels)
        if not boxes:
            raise BadImage("No whole cell was found in it. Choose a square of it, or give one cell.")
        numbers = [box.label for box in boxes[:MAX_CELLS]]
        st.image(outlined(preview, labels), alt="The picture with the outlines of its cells, numbered")
        chosen = st.pills("Cells", numbers, selection_mode="multi", default=numbers, key=f"cells_{len(numbers)}")
        if not chosen:
            st.caption("Choose at least one cell.")
            return None
        labels = np.where(np.isin(labels, chosen), labels, 0)
    elif what == SQUARE:
        side = min(round(spec.crop_um / pixel_um), height, width)
        x = st.slider("From the left, px", 0, max(width - side, 1), (width - side) // 2, key="square_x")
        y = st.slider("From the top, px", 0, max(height - side, 1), (height - side) // 2, key="square_y")
        scale = preview.width / width
        box = [value * scale for value in (x, y, x + side, y + side)]
        ImageDraw.Draw(preview).rectangle(box, outline="white", width=2)
        st.image(preview, alt="The picture with the chosen square")
        channels = {name: plane[y : y + side, x : x + side] for name, plane in channels.items()}
    else:
        st.image(preview, alt="The picture in pseudo-color")
    cut = cut_cells(
        dict(channels), labels, is_crop=what != FIELD, masking=masking, pixel_size_um=pixel_um, crop_um=spec.crop_um,
        crop_px=spec.crop_px,
    )  # fmt: skip
    return cut.crops


def labels_of(channels: Mapping[str, np.ndarray], pixel_um: float) -> np.ndarray:
    """Return the cells of a field (H, W) int32, found once."""
    content = b"".join(plane.tobytes() for plane in channels.values())
    mark = hashlib.sha256(content + repr((list(channels), pixel_um)).encode()).hexdigest()
    return kept_labels(mark, pixel_um, channels)


@st.cache_data(show_spinner="Finding its cells…", max_entries=2, scope="session")
def kept_labels(mark: str, pixel_um: float, _channels: Mapping[str, np.ndarray]) -> np.ndarray:
    """Return what `labels_of` does, kept for the session; `mark` tells pictures apart."""
    del mark
    return cells_of_field(_channels, pixel_size_um=pixel_um, segmenter="watershed").labels


def draw(channels: Mapping[str, np.ndarray]) -> Image.Image:
    """Return channels in pseudo-color, at most `PREVIEW_PX` wide and high."""
    height, width = next(iter(channels.values())).shape
    scale = min(PREVIEW_PX / max(height, width), 1)
    size = max(round(width * scale), 1), max(round(height * scale), 1)
    tiles = np.stack([stretch(plane, size) for plane in channels.values()])
    return Image.fromarray(compose(tiles, list(channels), show=[name for name in channels if name in COLORS]))


def outlined(preview: Image.Image, labels: np.ndarray) -> Image.Image:
    """Return a picture with the outlines and numbers of its cells."""
    from skimage.segmentation import find_boundaries

    rows, columns = (
        np.arange(to) * of // to for to, of in zip((preview.height, preview.width), labels.shape, strict=True)
    )
    small = labels[rows][:, columns]
    drawn = np.array(preview)
    drawn[find_boundaries(small, mode="inner")] = 255
    picture = Image.fromarray(drawn)
    pen = ImageDraw.Draw(picture)
    for box in find_cells(small):
        pen.text(box.center[::-1], str(box.label), fill="white", stroke_width=2, stroke_fill="black", anchor="mm")
    return picture


def show_crops(crops: np.ndarray, spec: EncoderSpec) -> None:
    """Show what the encoder sees, and say when its channels look swapped."""
    st.markdown(f"**What the encoder sees** :gray[{parts.plural(len(crops), 'cell')}, {spec.crop_um:.0f} µm wide]")
    view = whole_view(spec.channels)
    with st.grid(N_SHOWN, min_column_width=112, gap="xsmall"):
        for number, crop in enumerate(crops[:N_SHOWN], 1):
            st.image(view.picture([Cell(None, None, encode_thumbnail(crop))]), width="stretch", alt=f"Cell {number}")
    if remark := swapped_channels(crops, spec.channels):
        st.warning(plain(remark))
