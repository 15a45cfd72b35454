"""Pictures in files: PNG, JPEG, TIFF (8- and 16-bit) and NumPy arrays, by channel or all channels in one file."""

from __future__ import annotations

import io
import math
import struct
import tokenize
import zipfile
import zlib
from pathlib import Path

import numpy as np
from PIL import Image

from ..errors import BadImage

__all__ = ["MAX_PIXELS", "PICTURE_SUFFIXES", "decode_channel", "decode_channels", "decode_labels", "read_bytes"]

MAX_PIXELS = 16384 * 16384  # of one channel; larger is refused before it is decoded: a decompression bomb looks so
PICTURE_SUFFIXES = (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".npy")
MAX_EXCESS = 0.05  # light that a plane may add to the brightest of a coloured channel; measured: 0.018 in CM4AI's JPEG
STEP = 3  # pixels; every so many are looked at to tell whether the planes of a picture are one channel

UNDECODABLE = (  # what the libraries raise for a file that is not what its suffix says
    OSError, ValueError, SyntaxError, LookupError, TypeError, EOFError, MemoryError, ArithmeticError,
    NotImplementedError, RuntimeError, struct.error, tokenize.TokenError, zipfile.BadZipFile, zlib.error,
)  # fmt: skip

Image.MAX_IMAGE_PIXELS = None  # the limit above decides; Pillow's own would only warn below twice its value


def read_bytes(path: Path) -> bytes:
    """Read a file whole; raise BadImage when it is missing, empty or of a kind that is not read."""
    if path.suffix.lower() not in PICTURE_SUFFIXES:
        msg = f"{path.name}: pictures are {', '.join(PICTURE_SUFFIXES)}, not {path.suffix or 'without a suffix'!r}"
        raise BadImage(msg)
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        raise BadImage(f"{path}: the file is missing") from None
    except OSError as exc:
        raise BadImage(f"{path}: cannot be read ({exc.strerror})") from exc
    except ValueError as exc:
        raise BadImage(f"{str(path)!r} is no name of a file: {exc}") from exc
    if not content:
        raise BadImage(f"{path.name}: the file is empty")
    return content


def decode_channel(content: bytes, name: str, *, max_pixels: int = MAX_PIXELS) -> np.ndarray:
    """Decode a file that holds one channel into (H, W) uint8, uint16 or float32.

    An RGB file counts when one of its channels is used (HPA colours each channel's file) or all are equal.
    max_pixels: of a larger picture, which is refused before it is decoded.
    """
    planes = planes_of(content, name, max_pixels=max_pixels)
    if len(planes) > 4:
        raise BadImage(f"{name}: {len(planes)} channels where one was expected; name the file `image`, with `channels`")
    used = [plane for plane in planes[:3] if plane.any()]  # a fourth is opacity
    return np.ascontiguousarray(join_planes(used, name) if used else planes[0])


def join_planes(planes: list[np.ndarray], name: str) -> np.ndarray:
    """Return the brightest of the planes of a coloured file of one channel.

    Yellow (HPA's endoplasmic reticulum) has the channel in red and in green, and JPEG leaves traces of it in the
    others. A picture in which a plane is bright where the brightest is dark is no single channel.
    """
    if len(planes) == 1:
        return planes[0]
    some = [plane[::STEP, ::STEP] for plane in planes]
    brightest = max(range(len(planes)), key=lambda i: float(some[i].mean()))
    for plane in some:
        if np.maximum(plane, some[brightest]).mean() > (1 + MAX_EXCESS) * some[brightest].mean():
            msg = f"{name}: a colour picture whose planes differ, where one channel was expected"
            raise BadImage(msg)
    return planes[brightest]


def decode_channels(content: bytes, name: str, *, max_pixels: int = MAX_PIXELS) -> np.ndarray:
    """Decode a file that holds several channels into (C, H, W); a channel axis of at most 8 may be first or last.

    max_pixels: of one channel; a larger picture is refused before it is decoded.
    """
    return np.ascontiguousarray(planes_of(content, name, max_pixels=max_pixels))


def planes_of(content: bytes, name: str, *, max_pixels: int = MAX_PIXELS) -> np.ndarray:
    """Return the same as it lies in memory."""
    picture = decode(content, name, max_pixels=max_pixels)
    if picture.ndim == 2:
        return picture[None]
    if picture.shape[-1] <= 8:
        return np.moveaxis(picture, -1, 0)
    if picture.shape[0] <= 8:
        return picture
    raise BadImage(f"{name}: an array of shape {picture.shape} is no picture of at most 8 channels")


def decode_labels(content: bytes, name: str) -> np.ndarray:
    """Decode a mask into (H, W) int32 labels; 0 is background. A palette's numbers are labels, its colours are not."""
    if Path(name).suffix.lower() in (".jpg", ".jpeg"):
        raise BadImage(f"{name}: JPEG changes the numbers of a mask; save it as PNG, TIFF or .npy")
    labels = decode(content, name, palette=False)
    if labels.ndim == 3 and (labels == labels[..., :1]).all():
        labels = labels[..., 0]
    if labels.ndim != 2:
        raise BadImage(f"{name}: a mask has one channel; this has shape {labels.shape}")
    if labels.dtype.kind == "f" and ((labels != np.rint(labels)).any() or labels.max() > np.iinfo(np.uint16).max):
        raise BadImage(f"{name}: a mask has whole numbers up to 65535, this has {float(labels.max()):.6g} or fractions")
    return labels.astype(np.int32)


def decode(content: bytes, name: str, *, palette: bool = True, max_pixels: int = MAX_PIXELS) -> np.ndarray:
    """Decode any file into an array, (H, W) or with one more axis, of the dtype that its intensities have.

    palette: the numbers of a picture with a palette become its colours. Raise BadImage when it cannot be decoded.
    """
    suffix = Path(name).suffix.lower()
    try:
        check_pixels(size_told(content, suffix), max_pixels)
        picture = decode_by_suffix(content, suffix, palette=palette)
    except UNDECODABLE as exc:
        reason = (str(exc).splitlines() or [""])[0][:120] or type(exc).__name__
        raise BadImage(f"{name}: cannot be decoded ({reason})") from exc
    if picture.ndim > 2:
        picture = np.squeeze(picture)
    if picture.ndim not in (2, 3):
        raise BadImage(f"{name}: an array of shape {picture.shape} is no picture")
    return as_intensities(picture, name)


def decode_by_suffix(content: bytes, suffix: str, *, palette: bool) -> np.ndarray:
    """Decode with the library that reads files of `suffix`."""
    if suffix == ".npy":
        return np.load(io.BytesIO(content), allow_pickle=False)
    if suffix in (".tif", ".tiff"):
        return decode_tiff(content)
    if is_deep_png(content):
        return decode_deep_png(content)
    return decode_with_pillow(content, palette=palette)


def size_told(content: bytes, suffix: str) -> tuple[int, ...]:
    """Return the shape that a file claims to have, without decoding it; of an array nothing: it is as long as it is."""
    if suffix == ".npy":
        return ()
    if suffix in (".tif", ".tiff"):
        import tifffile

        with tifffile.TiffFile(io.BytesIO(content)) as tiff:
            return tuple(tiff.series[0].shape)
    if is_deep_png(content):
        return struct.unpack(">II", content[16:24])
    with Image.open(io.BytesIO(content)) as image:
        return image.size


def decode_tiff(content: bytes) -> np.ndarray:
    """Decode a TIFF."""
    import tifffile

    with tifffile.TiffFile(io.BytesIO(content)) as tiff:
        return tiff.asarray()


def is_deep_png(content: bytes) -> bool:
    """Tell whether a PNG has several channels of 16 bits, of which Pillow would keep 8."""
    depth, color = content[24:26].ljust(2, b"\0")
    return content.startswith(b"\x89PNG\r\n\x1a\n") and depth == 16 and color in (2, 4, 6)


def decode_deep_png(content: bytes) -> np.ndarray:
    """Decode such a PNG into (H, W, C), R G B A as they lie in the file."""
    import imagecodecs

    return imagecodecs.png_decode(content)


def decode_with_pillow(content: bytes, *, palette: bool) -> np.ndarray:
    """Decode a PNG, JPEG or simple TIFF, without opacity where it is gray."""
    with Image.open(io.BytesIO(content)) as image:
        if image.mode == "P" and palette:
            return np.asarray(image.convert("RGB"))
        return np.asarray(image.getchannel("L") if image.mode == "LA" else image)


def check_pixels(shape: tuple[int, ...], most: int) -> None:
    """Raise ValueError when a picture of `shape` is too large to be one."""
    sides = [int(side) for side in shape]
    if math.prod(sorted(sides)[-2:]) > most or math.prod(sides) > 8 * most:
        msg = f"{' x '.join(str(side) for side in sides)} pixels are more than the limit of {most}"
        raise ValueError(msg)


def as_intensities(picture: np.ndarray, name: str) -> np.ndarray:
    """Return `picture` as uint8, uint16 or float32; raise BadImage when it cannot be intensities."""
    if picture.size == 0:
        raise BadImage(f"{name}: a picture without pixels")
    if picture.dtype == np.bool_:
        return picture.astype(np.uint8)
    if picture.dtype in (np.uint8, np.uint16):
        return picture
    if np.issubdtype(picture.dtype, np.integer):
        if picture.min() < 0 or picture.max() > np.iinfo(np.uint16).max:
            raise BadImage(f"{name}: {picture.dtype} intensities outside 0 to 65535")
        return picture.astype(np.uint16)
    if np.issubdtype(picture.dtype, np.floating):
        if not np.isfinite(picture).all():
            raise BadImage(f"{name}: NaN or infinite intensities")
        if picture.min() < 0:
            raise BadImage(f"{name}: negative intensities; give raw intensities, not standardized ones")
        return picture.astype(np.float32)
    raise BadImage(f"{name}: {picture.dtype} values are no intensities")
