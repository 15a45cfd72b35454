"""Handmade features: what each tells of pictures made for it, and of simulated cells."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import ndimage

from subcell_atlas.errors import BadInput
from subcell_atlas.evaluation.handmade import feature_names, handmade_features
from subcell_atlas.images.simulated import CHANNELS, make_cell, make_proteome

SIZE = 96
NUCLEUS, PROTEIN = CHANNELS.index("nucleus"), CHANNELS.index("protein")
NAMES = feature_names(CHANNELS)


def disk(center, radius):
    rows, columns = np.mgrid[:SIZE, :SIZE]
    return (rows - center[0]) ** 2 + (columns - center[1]) ** 2 <= radius**2


CELL = disk((47, 50), 34)
NUCLEAR = disk((44, 48), 13)


def picture(protein):
    """A round cell with smooth reference channels and `protein` in it, black outside."""
    rng = np.random.default_rng(0)
    noise = ndimage.gaussian_filter(rng.normal(0, 1, (2, SIZE, SIZE)), (0, 3, 3))
    noise = 1 + 0.3 * noise / noise.std()
    dna = 0.1 + 0.9 * ndimage.gaussian_filter(NUCLEAR.astype(float), 1.5)
    crop = np.stack([np.clip(noise[0], 0.1, None), np.clip(noise[1], 0.1, None), dna, protein])
    return np.where(CELL, crop, 0)[None].astype(np.float32)


def describe(crops, masks=None, *, channels=CHANNELS):
    return [
        dict(zip(feature_names(channels), row.tolist(), strict=True))
        for row in handmade_features(crops, masks, channels=channels)
    ]


def of_protein(protein):
    return describe(picture(protein))[0]


def flat():
    return np.full((SIZE, SIZE), 0.5)


@pytest.fixture(scope="module")
def simulated():
    """Crops and masks of six simulated cells, black outside of the cell."""
    proteome = make_proteome(40, seed=1)
    cells = [make_cell(proteome, index, 0, size=128) for index in range(6)]
    masks = np.stack([cell.mask for cell in cells]) > 0
    return np.stack([cell.channels for cell in cells]) * masks[:, None], masks


def test_every_feature_has_a_name_of_its_own_and_differs_between_cells(simulated):
    crops, masks = simulated
    features = handmade_features(crops, masks, channels=CHANNELS)
    assert features.shape == (6, len(NAMES))
    assert features.dtype == np.float32
    assert len(set(NAMES)) == len(NAMES)
    assert 20 <= len(NAMES) <= 40
    assert [name for name, of in zip(NAMES, features.T, strict=True) if np.ptp(of) < 1e-3] == []


@pytest.mark.parametrize("factor", [257.0, 1 / 255, 1e-6])
def test_brightness_changes_nothing(simulated, factor):
    crops, masks = simulated
    features = handmade_features(crops, masks, channels=CHANNELS)
    brighter = handmade_features(crops * factor, masks, channels=CHANNELS)
    np.testing.assert_allclose(brighter, features, atol=1e-4)


def test_each_type_of_number_gives_the_same(simulated):
    crops, masks = simulated
    crops = (crops / crops.max() * 255).astype(np.uint8)
    features = handmade_features(crops, masks, channels=CHANNELS)
    for dtype in (np.uint16, np.int32, np.float32, np.float64):
        np.testing.assert_array_equal(handmade_features(crops.astype(dtype), masks, channels=CHANNELS), features)


def test_turning_and_mirroring_change_nothing(simulated):
    crops, masks = simulated
    features = handmade_features(crops, masks, channels=CHANNELS)
    for turns in (1, 2, 3):
        turned = [np.rot90(given, turns, axes=(-2, -1)) for given in (crops, masks)]
        np.testing.assert_allclose(handmade_features(*turned, channels=CHANNELS), features, atol=1e-4)
    mirrored = handmade_features(crops[..., ::-1], masks[..., ::-1], channels=CHANNELS)
    np.testing.assert_allclose(mirrored, features, atol=1e-4)


def test_moving_the_cell_in_its_crop_changes_nothing(simulated):
    crops, masks = (np.pad(given, [(0, 0)] * (given.ndim - 2) + [(16, 16)] * 2) for given in simulated)
    at_center = handmade_features(crops, masks, channels=CHANNELS)
    moved = [np.roll(given, (9, -13), axis=(-2, -1)) for given in (crops, masks)]
    np.testing.assert_allclose(handmade_features(*moved, channels=CHANNELS), at_center, atol=1e-4)


def test_order_of_channels_follows_their_names(simulated):
    crops, masks = simulated
    order = ("protein", "er", "nucleus", "microtubules")
    features = describe(crops, masks)
    again = describe(crops[:, [CHANNELS.index(name) for name in order]], masks, channels=order)
    for one, other in zip(features, again, strict=True):
        assert one == pytest.approx(other, abs=1e-5)


def test_without_masks_the_cell_is_where_there_is_light():
    crop = picture(flat())
    given, found = describe(crop, CELL[None])[0], describe(crop)[0]
    assert given == found
    specked = crop.copy()
    specked[0, 0, 2, 2] = 0.01  # a speck of compression, away from the cell
    specked[0, :, 60, 50] = 0  # a dark pixel inside
    areas = describe(specked)[0]
    assert areas["cell_area"] == given["cell_area"]


def test_protein_of_the_nucleus_goes_along_with_it():
    dna = picture(flat())[0, NUCLEUS]
    same, even = of_protein(dna.astype(float)), of_protein(flat())
    assert same["correlation_nucleus"] == pytest.approx(1)
    assert same["fine_correlation_nucleus"] == pytest.approx(1)
    assert same["nucleus_correlation"] == pytest.approx(1)
    assert same["nucleus_to_cytoplasm"] > 2.5
    assert same["overlap_nucleus"] > 1
    assert same["ring_4_to_mean"] < -1
    assert even["nucleus_to_cytoplasm"] == pytest.approx(0, abs=1e-6)
    assert even["correlation_nucleus"] == 0


@pytest.mark.parametrize("channel", ["microtubules", "er"])
def test_protein_of_a_reference_channel_goes_along_with_it_alone(channel):
    found = of_protein(picture(flat())[0, CHANNELS.index(channel)].astype(float))
    others = {"microtubules", "er", "nucleus"} - {channel}
    assert found[f"correlation_{channel}"] == pytest.approx(1)
    assert found[f"fine_correlation_{channel}"] == pytest.approx(1)
    assert found[f"overlap_{channel}"] > 0.2
    assert max(abs(found[f"correlation_{other}"]) for other in others) < 0.5


def test_protein_of_the_membrane_lies_at_the_border():
    depth = ndimage.distance_transform_edt(CELL)
    rim, even = of_protein(np.where(depth <= 2, 1.0, 0.1)), of_protein(flat())
    assert even["rim_to_mean"] == pytest.approx(0, abs=1e-6)
    assert even["border_distance"] == pytest.approx(0, abs=1e-6)
    assert rim["rim_to_mean"] > 1.5
    assert rim["border_distance"] < -0.5
    assert rim["nucleus_distance"] > 0.2
    assert rim["ring_4_to_mean"] > 0.5 > 0 > rim["ring_1_to_mean"]


def test_protein_around_the_nucleus_lies_near_it():
    near = ndimage.distance_transform_edt(~NUCLEAR) <= 3
    found = of_protein(np.where(near & ~NUCLEAR, 1.0, 0.1))
    assert found["near_nucleus_to_cytoplasm"] > 1
    assert found["nucleus_distance"] < -0.5
    assert found["border_distance"] > 0.3


def dotted(spacing, sigma):
    """Dots on a grid, over the whole picture."""
    dots = np.zeros((SIZE, SIZE))
    dots[spacing // 2 :: spacing, spacing // 2 :: spacing] = 1
    blurred = ndimage.gaussian_filter(dots, sigma)
    return 0.2 + blurred / blurred.max()


def test_small_dots_are_fine_grain_and_large_ones_coarse():
    even, fine, coarse = of_protein(flat()), of_protein(dotted(6, 1.0)), of_protein(dotted(26, 5.0))
    assert fine["grain_0.8_um"] > coarse["grain_0.8_um"] + 1
    assert coarse["grain_3.2_um"] > fine["grain_3.2_um"] + 1
    assert fine["dots"] > 0.2 > coarse["dots"]
    assert even["dots"] == 0
    assert all(even[name] == -6 for name in NAMES if name.startswith("grain"))


def test_spots_in_the_nucleus_are_told_from_an_even_nucleus():
    nucleoli = disk((40, 44), 3) | disk((48, 52), 3)
    spots, even = of_protein(np.where(nucleoli, 1.0, 0.2)), of_protein(np.where(NUCLEAR, 1.0, 0.2))
    assert spots["nucleus_variation"] > even["nucleus_variation"] + 0.3
    assert spots["nucleus_top_to_median"] > even["nucleus_top_to_median"] + 1


def test_areas_are_in_um_whatever_the_size_of_a_pixel():
    crop = picture(flat())
    finer = np.kron(crop, np.ones((2, 2), np.float32))
    um2 = CELL.sum() * (51.2566 / SIZE) ** 2
    small, large = describe(crop)[0], describe(finer)[0]
    assert 2 ** small["cell_area"] - 1 == pytest.approx(um2, rel=1e-4)
    assert large["cell_area"] == pytest.approx(small["cell_area"], abs=1e-4)
    nucleus_um2 = NUCLEAR.sum() * (51.2566 / SIZE) ** 2
    assert 2 ** small["nucleus_area"] - 1 == pytest.approx(nucleus_um2, rel=0.1)
    half = handmade_features(crop, channels=CHANNELS, window_um=51.2566 / 2)[0, 0]
    assert half == pytest.approx(small["cell_area"] - 2, abs=0.01)


@pytest.mark.parametrize("absent", ["microtubules", "er", "nucleus"])
def test_features_of_an_absent_channel_are_left_out(absent):
    left = tuple(name for name in CHANNELS if name != absent)
    crop = picture(flat())[:, [CHANNELS.index(name) for name in left]]
    names = feature_names(left)
    assert handmade_features(crop, channels=left).shape == (1, len(names))
    assert set(names) < set(NAMES)
    assert not any(name.endswith(f"_{absent}") for name in names)


def hopeless():
    """Pictures and masks that have nothing to measure, by what is wrong with them."""
    rng = np.random.default_rng(0)
    crop = picture(flat())[0]
    pixel = disk((47, 50), 0)
    without_nucleus = crop.copy()
    without_nucleus[NUCLEUS] = 0
    without_protein = crop.copy()
    without_protein[PROTEIN] = 0
    return {
        "black": (crop * 0, None),
        "no cell": (crop, np.zeros_like(CELL)),
        "one pixel": (crop, pixel),
        "two pixels": (crop, pixel | np.roll(pixel, 1)),
        "one pixel lit": (crop * pixel, None),
        "constant": (np.full_like(crop, 3), None),
        "no nucleus": (without_nucleus, None),
        "no protein": (without_protein, None),
        "nothing but nucleus": (crop, NUCLEAR),
        "noise": (rng.random(crop.shape), None),
        "negative": (crop - 0.4, CELL),
        "all negative": (crop - 1e3, CELL),
        "huge": (crop.astype(np.float64) * 1e300, None),
        "tiny": (crop.astype(np.float64) * 1e-300, None),
    }


@pytest.mark.parametrize("name", hopeless())
def test_pictures_with_nothing_to_measure_give_finite_features(name):
    crop, mask = hopeless()[name]
    features = handmade_features(crop[None], None if mask is None else mask[None], channels=CHANNELS)
    assert np.isfinite(features).all()
    assert np.abs(features).max() < 100


def test_a_cell_without_nucleus_has_no_difference_to_it():
    crop, _ = hopeless()["no nucleus"]
    found = describe(crop[None])[0]
    for name in ("nucleus_area", "nucleus_to_cytoplasm", "nucleus_distance", "near_nucleus_to_cytoplasm"):
        assert found[name] == 0


def test_no_crops_have_no_features():
    assert handmade_features(np.zeros((0, 4, 8, 8)), channels=CHANNELS).shape == (0, len(NAMES))


@pytest.mark.parametrize(
    ("crops", "masks", "channels", "says"),
    [
        (np.zeros((1, 4, 8, 8)), None, ("microtubules", "er", "dna", "protein"), "Channels are"),
        (np.zeros((1, 1, 8, 8)), None, ("nucleus",), "protein at least"),
        (np.zeros((1, 2, 8, 8)), None, ("protein", "protein"), "each once"),
        (np.zeros((1, 3, 8, 8)), None, CHANNELS, r"got shape \(1, 3, 8, 8\)"),
        (np.zeros((4, 8, 8)), None, CHANNELS, r"got shape \(4, 8, 8\)"),
        (np.zeros((1, 4, 8, 8)), np.ones((1, 9, 8)), CHANNELS, r"got shape \(1, 9, 8\)"),
        (np.full((1, 4, 8, 8), np.nan), None, CHANNELS, "Crop 0 holds NaN"),
    ],
)
def test_what_is_no_crop_is_refused(crops, masks, channels, says):
    with pytest.raises(BadInput, match=says):
        handmade_features(crops, masks, channels=channels)
