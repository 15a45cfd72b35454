"""Crops that would be embedded wrongly in silence are refused or told of; good ones pass."""

from __future__ import annotations

from itertools import product
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from subcell_atlas.encoders.guards import check_crops, swapped_channels
from subcell_atlas.encoders.specs import CHANNELS, ENCODERS
from subcell_atlas.errors import BadInput


def cells(n: int, *, side: int = 128, dtype: type = np.uint8, seed: int = 0) -> np.ndarray:
    """Return cells (n, 4, side, side): fibres and a net outside the nucleus, a filled nucleus, a protein in patches."""
    random = np.random.default_rng(seed)
    rows, columns = (np.mgrid[:side, :side] + 0.5) / side - 0.5
    made = []
    for _ in range(n):
        shift_y, shift_x = random.uniform(-0.05, 0.05, 2)
        radius = np.hypot(rows, columns * random.uniform(0.9, 1.1))
        body = radius < 0.42
        nucleus = np.hypot(rows - shift_y, columns - shift_x) < random.uniform(0.15, 0.2)
        outside = np.where(nucleus, 0.4, 1.0) * body
        fibres = outside * (0.5 + 0.5 * np.sin(columns * 90 + 6 * rows)) * random.uniform(0.7, 1, (side, side))
        net = outside * random.uniform(0.3, 1, (side, side))
        dna = nucleus * random.uniform(0.85, 1, (side, side))
        protein = body * random.uniform(0.1, 1, (side, side)) * (0.5 + 0.5 * np.sin(rows * 40))
        made.append(np.stack([fibres, net, dna, protein]))
    scaled = np.stack(made)
    return scaled.astype(dtype) if dtype == np.float32 else (scaled * np.iinfo(dtype).max).astype(dtype)


def places(letters: str) -> list[int]:
    return ["rybg".index(letter) for letter in letters]


def names(letters: str) -> tuple[str, ...]:
    return tuple(CHANNELS[place] for place in places(letters))


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32])
def test_raw_crops_pass(dtype):
    check_crops(cells(3, dtype=dtype), CHANNELS, patch=16, encoder="subcell-rybg-mae")
    check_crops(cells(3)[:0], CHANNELS, patch=16, encoder="subcell-rybg-mae")


def z_scored(crops: np.ndarray) -> np.ndarray:
    return (crops.astype(np.float32) - crops.mean()) / crops.std()


def constant(crops: np.ndarray, *which: int) -> np.ndarray:
    crops[list(which)] = 7
    return crops


@pytest.mark.parametrize(
    ("crops", "message"),
    [
        (z_scored(cells(3)), r"negative values: crop 0, 1, 2 of 3\..*z-scored"),
        (cells(2, dtype=np.float32) * 2 - 1, r"scaled to \[-1, 1\]\?\nGive the raw picture"),
        (np.full((2, 4, 64, 64), np.nan, np.float32), "NaN or infinite values: crop 0, 1 of 2"),
        (np.full((2, 4, 64, 64), np.inf, np.float32), "NaN or infinite"),
        (cells(2, dtype=np.float32) * 1e-4, "range over less than 0.001"),
        (constant(cells(9), *range(1, 8)), "constant, they show nothing: crop 1, 2, 3, 4, 5 and 2 more of 9"),
        (np.zeros((1, 4, 64, 64), np.uint8), "constant"),
        (cells(2)[:, :3], r"shape \(2, 3, 128, 128\)\.\nEncoders of 3 channels: subcell-rbg-… \(microtubules, nucl"),
        (cells(2)[:, :1], r"got shape \(2, 1, 128, 128\)\.$"),
        (cells(2).transpose(0, 2, 3, 1), r"crops\.transpose\(0, 3, 1, 2\)"),
        (cells(2)[0], r"For a single crop: crops\[None\]"),
        (cells(2)[..., :100, :120], r"multiples of 16 px; got 100 x 120\. Near: 96 x 128"),
        (cells(2)[..., :0, :], "multiples of 16 px; got 0 x 128"),
        (cells(2).astype(np.int32), "uint8, uint16 or float intensities; got int32"),
        (cells(2) > 3, "got bool"),
    ],
)
def test_crops_that_are_no_raw_intensities_are_refused_with_what_would_be_right(crops, message):
    with pytest.raises(BadInput, match=message):
        check_crops(crops, CHANNELS, patch=16, encoder="subcell-rybg-mae")


@pytest.mark.parametrize(
    ("letters", "dtype"), list(product(["rybg", "rbg", "ybg", "bg"], [np.uint8, np.uint16, np.float32]))
)
def test_channels_in_their_order_are_not_remarked(letters, dtype):
    crops = cells(8, dtype=dtype)[:, places(letters)]
    assert swapped_channels(crops, names(letters)) is None


@pytest.mark.parametrize(
    ("letters", "given", "suspect"),
    [
        ("rybg", "rbyg", "er"),
        ("rybg", "byrg", "microtubules"),  # what PIL makes of a picture that cv2 wrote
        ("rybg", "rygb", "protein"),
        ("rbg", "brg", "microtubules"),
        ("rbg", "rgb", "protein"),
        ("ybg", "byg", "er"),
        ("bg", "gb", "protein"),
    ],
)
def test_a_nucleus_in_another_channels_place_is_noticed(letters, given, suspect):
    said = swapped_channels(cells(8, side=256)[:, places(given)], names(letters))
    assert said is not None
    assert f"the {suspect} channel looks like DNA" in said
    assert ", ".join(names(letters)) in said


def test_a_nuclear_protein_is_no_reason_for_suspicion():
    crops = cells(8)
    crops[:, 3] = crops[:, 2] // 2
    assert swapped_channels(crops, CHANNELS) is None
    assert swapped_channels(crops[:, 2:], CHANNELS[2:]) is None


def test_a_few_cells_and_black_channels_are_not_judged():
    assert swapped_channels(cells(3)[:, places("rbyg")], CHANNELS) is None
    black = cells(8)
    black[:, 1] = 0
    assert swapped_channels(black, CHANNELS) is None
    assert swapped_channels(np.zeros((8, 4, 64, 64), np.uint8), CHANNELS) is None


def test_real_cells_are_not_remarked_but_their_swaps_are(real_data: Path):
    crops = []
    for red in sorted((real_data / "hpa_cells" / "images").glob("*_red.jpg"))[:4]:
        planes = [
            np.asarray(Image.open(red.with_name(red.name.replace("_red", color))).convert("L"))
            for color in ("_red", "_yellow", "_blue", "_green")
        ]
        stack = np.stack(planes)
        crops += [stack[:, y : y + 512, x : x + 512] for y in (0, 512, 1024) for x in (0, 512, 1024)]
    real = np.stack([crop for crop in crops if crop.max() > 0])
    for letters in ("rybg", "rbg", "ybg", "bg"):
        for start in range(0, len(real) - 8, 8):
            assert swapped_channels(real[start : start + 8][:, places(letters)], names(letters)) is None
    assert swapped_channels(real[:8][:, places("byrg")], CHANNELS) is not None
    assert swapped_channels(real[:8][:, places("rbyg")], CHANNELS) is not None


def test_every_published_encoder_is_named_to_those_who_have_its_channels():
    for spec in ENCODERS.values():
        if spec.name.startswith("subcell-") and len(spec.channels) != 4:
            with pytest.raises(BadInput, match=spec.name.rpartition("-")[0]):
                check_crops(np.ones((1, len(spec.channels), 64, 64), np.uint8), CHANNELS, patch=16, encoder="demo")
