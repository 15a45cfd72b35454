"""A thousand damaged inputs: each is rejected with a reason, none stops the run, none becomes a row."""

from __future__ import annotations

import io
import struct
import zlib
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import tifffile
from fake_encoder import CHANNELS, PIXEL_UM, FakeEncoder, draw_cell, write_cell, write_manifest
from PIL import Image

from ingest.job import Options, ingest_pictures
from ingest.manifest import read_manifest
from subcell_atlas.store import Store

N = 1000
SIDE = 32


def encoded(plane: np.ndarray, kind: str) -> bytes:
    buffer = io.BytesIO()
    if kind == "tif":
        tifffile.imwrite(buffer, plane)
    elif kind == "npy":
        np.save(buffer, plane)
    else:
        Image.fromarray(plane).save(buffer, {"png": "PNG", "jpg": "JPEG"}[kind])
    return buffer.getvalue()


def chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def png(width: int, height: int, *, depth: int = 8, color: int = 0, content: bytes = b"") -> bytes:
    """A PNG with a header that says what it likes."""
    header = struct.pack(">IIBBBBB", width, height, depth, color, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(content)) + chunk(b"IEND", b"")


def truncated(rng, plane) -> tuple[str, bytes]:
    kind = rng.choice(["png", "tif", "npy"])  # of a JPEG whose end is lost Pillow says so too
    content = encoded(plane, kind)
    return kind, content[: rng.integers(1, int(len(content) * 0.9))]


def truncated_jpeg(rng, plane) -> tuple[str, bytes]:
    content = encoded(plane, "jpg")
    return "jpg", content[: rng.integers(1, int(len(content) * 0.9))]


def empty(rng, plane) -> tuple[str, bytes]:
    return rng.choice(["png", "tif", "npy", "jpg"]), b""


def of_another_type(rng, plane) -> tuple[str, bytes]:
    other = [
        b"MZ\x90\x00" + rng.bytes(500),
        b"<html>404</html>",
        b"PK\x03\x04" + rng.bytes(200),
        b"\x7fELF" + rng.bytes(99),
    ]
    return rng.choice(["png", "tif", "npy", "jpg"]), other[rng.integers(len(other))]


def of_another_size(rng, plane) -> tuple[str, bytes]:
    kind = rng.choice(["png", "tif", "npy"])
    return kind, encoded(np.pad(plane, ((0, rng.integers(1, 9)), (0, 0))), kind)


def one_pixel(rng, plane) -> tuple[str, bytes]:
    return "png", encoded(plane[:1, :1], "png")


def bomb(rng, plane) -> tuple[str, bytes]:
    side = int(rng.integers(20_000, 60_000))
    return "png", png(side, side, content=b"\0" * 10_000)


def not_a_number(rng, plane) -> tuple[str, bytes]:
    spoiled = plane.astype(np.float32)
    spoiled[tuple(rng.integers(0, SIDE, 2))] = rng.choice([np.nan, np.inf, -np.inf, -1.0])
    kind = rng.choice(["npy", "tif"])
    return kind, encoded(spoiled, kind)


def all_black(rng, plane) -> tuple[str, bytes]:
    kind = rng.choice(["png", "tif", "npy", "jpg"])
    return kind, encoded(np.zeros_like(plane), kind)


def of_odd_depth(rng, plane) -> tuple[str, bytes]:
    odd = rng.choice([np.int64, np.uint32, np.complex64, np.float64])
    if odd is np.complex64:
        return "npy", encoded(plane.astype(np.complex64), "npy")
    large = plane.astype(odd) + (2**20 if odd != np.float64 else 0)  # float64 differs in depth from the other channels
    return "npy", encoded(large, "npy")


def spoiled_bytes(rng, plane) -> tuple[str, bytes]:
    content = bytearray(encoded(plane, "png"))
    for _ in range(20):
        content[rng.integers(8, len(content))] ^= int(rng.integers(1, 255))
    return "png", bytes(content)


def objects(rng, plane) -> tuple[str, bytes]:
    buffer = io.BytesIO()
    np.save(buffer, np.array([[{}, []]], object), allow_pickle=True)
    return "npy", buffer.getvalue()


OF_A_CHANNEL: list[Callable[[np.random.Generator, np.ndarray], tuple[str, bytes]]] = [
    truncated, truncated_jpeg, empty, of_another_type, of_another_size, one_pixel, bomb, not_a_number, all_black,
    of_odd_depth, spoiled_bytes, objects,
]  # fmt: skip


def labels_of_another_size(rng) -> tuple[str, bytes]:
    return "png", encoded(np.ones((SIDE + int(rng.integers(1, 9)), SIDE), np.uint8), "png")


def empty_labels(rng) -> tuple[str, bytes]:
    return "png", encoded(np.zeros((SIDE, SIDE), np.uint8), "png")


def labels_as_jpeg(rng) -> tuple[str, bytes]:
    return "jpg", encoded(np.ones((SIDE, SIDE), np.uint8), "jpg")


def truncated_labels(rng) -> tuple[str, bytes]:
    return "png", encoded(np.ones((SIDE, SIDE), np.uint8), "png")[: rng.integers(1, 60)]


OF_A_MASK = [labels_of_another_size, empty_labels, labels_as_jpeg, truncated_labels]


def write_damaged(folder: Path, n: int, seed: int) -> tuple[list[dict[str, str]], dict[str, str]]:
    """Write `n` cells of which one file is damaged; return their rows, and the damage of each."""
    rng = np.random.default_rng(seed)
    rows, damage = [], {}
    kinds = [*OF_A_CHANNEL, *OF_A_MASK]
    for number in range(n):
        damaging = kinds[number % len(kinds)]
        row = write_cell(folder, f"d{number}", number + 1000)
        if damaging in OF_A_MASK:
            column, (kind, content) = "mask", damaging(rng)
        else:
            column = str(rng.choice(CHANNELS))
            kind, content = damaging(rng, draw_cell(number + 1000)[column])
        row[column] = f"d{number}_damaged.{kind}"
        (folder / row[column]).write_bytes(content)
        rows.append(row)
        damage[row["image_id"]] = damaging.__name__
    return rows, damage


@pytest.mark.parametrize("crops", [True, False])
def test_a_thousand_damaged_pictures_are_a_thousand_rejects_and_the_good_ones_are_stored(tmp_path, crops):
    rows, damage = write_damaged(tmp_path, N if crops else N // 10, seed=int(crops))
    good = [write_cell(tmp_path, f"good{i}", i) for i in range(20)]
    mask = np.zeros((SIDE, SIDE), np.uint8)
    mask[4:28, 4:28] = 1
    Image.fromarray(mask).save(tmp_path / "mask.png")
    mixed = [row | {"mask": row.get("mask", "mask.png"), "gene_symbol": "G"} for row in [*rows, *good]]
    order = np.random.default_rng(5).permutation(len(mixed))
    manifest = write_manifest(tmp_path / "m.csv", [mixed[i] for i in order])
    store = Store.create(str(tmp_path / "atlas"))
    source = read_manifest(manifest, channels=CHANNELS, encoder="fake", crops=crops)
    options = Options(workers=0, progress=False, pixel_size_um=PIXEL_UM)
    counts = ingest_pictures(store, source, FakeEncoder(), options)
    stored = store.read("cells", ["image_id"])["image_id"].to_pylist()
    rejects = {row["image"]: row["reason"] for row in store.read("rejects").to_pylist()}
    escaped = Counter(damage[name] for name in damage if name not in rejects)
    assert not escaped
    assert sorted(stored) == sorted(row["image_id"] for row in good)
    assert set(rejects) == set(damage)
    assert counts.rejected == len(damage)
    assert all(3 < len(reason) < 300 and "Traceback" not in reason for reason in rejects.values())
