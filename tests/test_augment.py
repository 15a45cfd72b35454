"""Each operation against torchvision or a slow twin, and what a plan promises about seeds, slices and chances."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from subcell_atlas.encoders.network import min_max
from subcell_atlas.encoders.timm_vit import import_timm
from subcell_atlas.errors import MissingExtra
from subcell_atlas.pretraining import augment
from subcell_atlas.pretraining.augment import (
    CORNERS,
    Augmentations,
    affine_backwards,
    as_float,
    draw_view,
    make_view,
    perspective_backwards,
)

SIZE = 24
NEVER = dict.fromkeys(augment.CHANCES, 0)
STILL = Augmentations(**NEVER, rotation_degrees=0, translate=0, scale=(1, 1), jitter=0)


@pytest.fixture(scope="module")
def tv():
    """torchvision's functions."""
    try:
        import_timm()  # which knows how to import torchvision beside any torch
    except MissingExtra:
        pytest.skip("without timm, torchvision is not at hand")
    return pytest.importorskip("torchvision.transforms.v2.functional")


@pytest.fixture
def crops() -> torch.Tensor:
    """6 crops of 4 channels, smooth enough to be places and rough enough to be noise."""
    rough = torch.rand(6, 4, SIZE // 2, SIZE // 2, generator=torch.Generator().manual_seed(5))
    smooth = torch.nn.functional.interpolate(rough, scale_factor=2, mode="bilinear")
    return (smooth * 255).round().to(torch.uint8)


@pytest.fixture
def masks() -> torch.Tensor:
    return torch.rand(6, SIZE, SIZE, generator=torch.Generator().manual_seed(6)) < 0.7


def still_plan(n=6, *, n_channels=4, **changes):
    """A plan of nothing, but for the given tensors."""
    plan = draw_view(n, SIZE, STILL, n_channels=n_channels, protein=n_channels - 1, photometric=False, seed=(0,))
    return replace(plan, **changes)


def drawn_plan(n=6, *, n_channels=4, photometric=True, seed=(1, 2, 0), size=SIZE, **strengths):
    strengths = Augmentations(**strengths)
    return draw_view(
        n, size, strengths, n_channels=n_channels, protein=n_channels - 1, photometric=photometric, seed=seed
    )


def uniform(low, high, *shape, seed=0):
    return as_float(np.random.default_rng(seed).uniform(low, high, shape))


def test_a_plan_of_nothing_leaves_normalized_crops_exactly(crops, masks):
    for plan in (
        still_plan(),
        drawn_plan(**NEVER, rotation_degrees=0, translate=0, scale=(1, 1), jitter=0),
    ):
        assert torch.equal(make_view(crops, masks, plan), min_max(crops))


def test_crops_are_not_written_to(crops, masks):
    before = crops.float()
    given = before.clone()
    make_view(given, masks, drawn_plan(masked=1))
    assert torch.equal(given, before)


def test_turning_moving_and_scaling_are_those_of_torchvision(tv, crops):
    angle, moved, scale = [-80, -30, 0, 10, 45, 90], [[3, -2], [0, 4], [1, 0], [0, 0], [-4, -4], [2, 2]], 0.8
    inverse = affine_backwards(np.deg2rad(angle), 2 * np.array(moved) / SIZE, scale=np.full(6, scale))
    view = make_view(crops, None, still_plan(homography=as_float(inverse)))
    for crop, degrees, pixels, seen in zip(min_max(crops), angle, moved, view, strict=True):
        bilinear = tv._geometry.InterpolationMode.BILINEAR
        expected = tv.affine(crop, angle=degrees, translate=pixels, scale=scale, shear=[0, 0], interpolation=bilinear)
        torch.testing.assert_close(seen, expected, atol=2e-5, rtol=0)


def test_perspective_is_that_of_torchvision(tv, crops):
    corners = CORNERS * np.random.default_rng(4).uniform(0.6, 1, (6, 4, 2))
    view = make_view(crops, None, still_plan(homography=as_float(perspective_backwards(corners))))
    for crop, ends, seen in zip(min_max(crops), corners, view, strict=True):
        start, end = (((places + 1) * SIZE / 2).tolist() for places in (CORNERS, ends))
        torch.testing.assert_close(seen, tv.perspective(crop, start, end), atol=5e-5, rtol=0)


def test_flips_come_before_turning(crops):
    for seed in range(3):  # of which some are bent
        flipped, plain = (drawn_plan(photometric=False, seed=(seed,), flip=flip) for flip in (1, 0))
        expected = make_view(crops.flip(2, 3), None, plain)
        torch.testing.assert_close(make_view(crops, None, flipped), expected, atol=2e-5, rtol=0)


def test_brightness_and_contrast_are_those_of_torchvision_in_either_order(tv, crops):
    brightness, contrast = uniform(0.5, 1.5, 6, 4, seed=1), uniform(0.5, 1.5, 6, 4, seed=2)
    first = torch.rand(6, 4, generator=torch.Generator().manual_seed(1)) < 0.5
    view = make_view(crops, None, still_plan(brightness=brightness, contrast=contrast, contrast_first=first))
    for crop, channel in np.ndindex(6, 4):
        expected = min_max(crops)[crop, channel][None]
        steps = [(tv.adjust_brightness, brightness), (tv.adjust_contrast, contrast)]
        for step, factor in reversed(steps) if first[crop, channel] else steps:
            expected = step(expected, float(factor[crop, channel]))
        torch.testing.assert_close(view[crop, channel], expected[0])


def test_blur_is_that_of_torchvision(tv, crops):
    sigma = uniform(0.1, 2, 6, 4)
    sigma[2], sigma[3, 1], sigma[4, 0] = 0, 0, 0.1
    view = make_view(crops, None, still_plan(blur_sigma=sigma))
    for crop, channel in np.ndindex(6, 4):
        expected, own = min_max(crops)[crop, channel][None], float(sigma[crop, channel])
        expected = tv.gaussian_blur(expected, [7, 7], [own, own]) if own else expected
        torch.testing.assert_close(view[crop, channel], expected[0])
    assert torch.equal(view[2], min_max(crops)[2])


def test_sharpening_is_that_of_torchvision(tv, crops):
    sharpness = torch.ones(6, 4)
    sharpness[1], sharpness[2, 3], sharpness[4] = 2, 2, 0
    view = make_view(crops, None, still_plan(sharpness=sharpness))
    for crop, channel in np.ndindex(6, 4):
        expected = min_max(crops)[crop, channel][None]
        expected = tv.adjust_sharpness(expected, float(sharpness[crop, channel]))
        torch.testing.assert_close(view[crop, channel], expected[0])
    assert torch.equal(view[0], min_max(crops)[0])


def test_removed_channels_are_black_and_others_as_they_were(crops):
    removed = torch.tensor([-1, 0, 1, 2, -1, 0])
    expected = min_max(crops)
    for crop, channel in enumerate(removed.tolist()):
        if channel >= 0:
            expected[crop, channel] = 0
    assert torch.equal(make_view(crops, None, still_plan(removed=removed)), expected)


def test_a_rescaled_protein_is_relative_to_the_brightest_channel_that_is_left(crops):
    crops[0, 0], crops[0, 1:] = 200, crops[0, 1:] // 4
    plan = still_plan(rescaled=torch.tensor([1.5, -1, 0, 2, 0.3, -1]), removed=torch.tensor([0, -1, -1, -1, -1, -1]))
    expected = min_max(crops)
    expected[0, 0] = 0
    for crop, factor in enumerate(plan.rescaled.tolist()):
        if factor >= 0:
            expected[crop, 3] *= factor / (expected[crop].max() + 1e-6)
    torch.testing.assert_close(make_view(crops, None, plan), expected)


def test_noise_is_drawn_from_the_seed_of_its_crop(crops):
    deviations = torch.zeros(6, 4)
    deviations[2], deviations[4, :2] = torch.tensor([0.01, 0.02, 0.03, 0.05]), 0.04
    seeds = torch.arange(6) + 2**62
    view = make_view(crops, None, still_plan(noise=deviations, noise_seed=seeds))
    for crop in range(6):
        noise = torch.randn(4, SIZE, SIZE, generator=torch.Generator().manual_seed(int(seeds[crop])))
        expected = min_max(crops)[crop] + noise * deviations[crop, :, None, None]
        torch.testing.assert_close(view[crop], expected)
    assert torch.equal(view[0], min_max(crops)[0])
    assert torch.equal(view[4, 2:], min_max(crops)[4, 2:])


def test_noise_has_its_deviation_and_no_mean():
    noisy = still_plan(noise=torch.full((6, 4), 0.05), noise_seed=torch.arange(6))
    view = make_view(torch.zeros(6, 4, SIZE, SIZE), None, noisy)
    assert float(view.mean()) == pytest.approx(0, abs=0.002)
    assert float(view.std()) == pytest.approx(0.05, rel=0.03)
    assert abs(np.corrcoef(view.flatten(1).numpy())[np.triu_indices(6, 1)]).max() < 0.1


def test_rectangles_are_erased_from_their_channel(crops):
    rectangles = torch.zeros(6, 4, 4, dtype=torch.int64)
    rectangles[1, 2], rectangles[1, 3] = torch.tensor([2, 3, 7, 20]), torch.tensor([0, 0, SIZE, 1])
    expected = min_max(crops)
    expected[1, 2, 2:7, 3:20] = 0
    expected[1, 3, :, 0] = 0
    assert torch.equal(make_view(crops, None, still_plan(erased=rectangles)), expected)


def test_operations_follow_each_other_as_published(tv, crops, masks):
    """A drawn plan, done one crop, one channel and one operation at a time."""
    plan = drawn_plan(remove_channel=0.5, rescale_protein=0.5)
    view = make_view(crops, masks, plan)
    geometry = still_plan(homography=plan.homography, masked=plan.masked)
    for crop, pixels in enumerate(make_view(crops, masks, geometry)):
        if plan.removed[crop] >= 0:
            pixels[plan.removed[crop]] = 0
        if plan.rescaled[crop] >= 0:
            pixels[3] *= plan.rescaled[crop] / (pixels.max() + 1e-6)
        noise = torch.randn(4, SIZE, SIZE, generator=torch.Generator().manual_seed(int(plan.noise_seed[crop])))
        for channel in range(4):
            plane = pixels[channel][None]
            steps = [(tv.adjust_brightness, plan.brightness), (tv.adjust_contrast, plan.contrast)]
            for step, factor in reversed(steps) if plan.contrast_first[crop, channel] else steps:
                plane = step(plane, float(factor[crop, channel]))
            if sigma := float(plan.blur_sigma[crop, channel]):
                plane = tv.gaussian_blur(plane, [7, 7], [sigma, sigma])
            if plan.sharpness[crop, channel] != 1:
                plane = tv.adjust_sharpness(plane, float(plan.sharpness[crop, channel]))
            plane = plane + noise[channel] * plan.noise[crop, channel]
            top, left, bottom, right = plan.erased[crop, channel].tolist()
            plane = tv.erase(plane, top, left, bottom - top, right - left, torch.zeros(()))
            torch.testing.assert_close(view[crop, channel], plane[0], atol=1e-5, rtol=1e-4)


def test_what_lies_outside_the_cell_is_black_where_the_plan_says(crops, masks):
    crops = crops // 2 + 100  # a background that is not black by itself
    never, always = (drawn_plan(photometric=False, **{**NEVER, "masked": chance}) for chance in (0, 1))
    for plan in (never, always):
        assert torch.equal(make_view(crops, None, plan), make_view(crops, None, never))
    assert torch.equal(make_view(crops, masks, never), make_view(crops, None, never))
    black = torch.where(masks[:, None], crops, 0)
    assert torch.equal(make_view(crops, masks, always), make_view(black, None, never))
    some = replace(never, masked=torch.arange(6) % 2 == 0)
    assert torch.equal(make_view(crops, masks, some)[::2], make_view(crops, masks, always)[::2])
    assert torch.equal(make_view(crops, masks, some)[1::2], make_view(crops, masks, never)[1::2])


@pytest.mark.parametrize("photometric", [True, False])
def test_parts_of_a_batch_have_the_views_of_the_whole(crops, masks, photometric, monkeypatch):
    plan = drawn_plan(photometric=photometric)
    whole = make_view(crops, masks, plan)
    for cuts in ([0, 3, 6], [0, 1, 6], [0, 2, 4, 6], range(7)):
        parts = [slice(cuts[part], cuts[part + 1]) for part in range(len(cuts) - 1)]
        views = [make_view(crops[part], masks[part], plan.rows(part)) for part in parts]
        assert torch.equal(torch.cat(views), whole)
    monkeypatch.setitem(augment.VALUES_AT_ONCE, "cpu", 2 * 4 * SIZE**2)
    assert torch.equal(make_view(crops, masks, plan), whole)
    assert len(plan.rows(slice(1, 3))) == 2
    assert make_view(crops[:0], masks[:0], plan.rows(slice(0, 0))).shape == (0, 4, SIZE, SIZE)


def test_a_seed_has_one_view_and_another_seed_another(crops, masks):
    one, same, other = (make_view(crops, masks, drawn_plan(seed=seed)) for seed in ((1, 2, 0), [1, 2, 0], (1, 2, 1)))
    assert torch.equal(one, same)
    assert not torch.isclose(one, other).flatten(1).all(dim=1).any()


def test_stains_and_focus_do_not_change_the_geometry():
    plans = [drawn_plan(photometric=photometric) for photometric in (True, False)]
    assert torch.equal(plans[0].homography, plans[1].homography)
    assert torch.equal(plans[0].masked, plans[1].masked)
    assert not torch.equal(plans[0].brightness, plans[1].brightness)


def test_uint8_and_uint16_pictures_of_the_same_have_the_same_view(crops, masks):
    plan = drawn_plan()
    wide = torch.from_numpy(crops.numpy().astype(np.uint16) * 257)
    expected = make_view(crops, masks, plan)
    assert expected.dtype == torch.float32
    torch.testing.assert_close(make_view(wide, masks, plan), expected, atol=1e-5, rtol=0)
    torch.testing.assert_close(make_view(crops.double(), masks, plan), expected, atol=1e-5, rtol=0)


def test_pixels_stay_between_0_and_1_without_noise(crops, masks):
    view = make_view(crops, masks, drawn_plan(noise_chance=0))
    assert view.min() >= 0
    assert view.max() <= 1


@pytest.mark.parametrize("value", [0, 7])
def test_constant_crops_give_finite_views(value):
    crops = torch.full((6, 4, SIZE, SIZE), value, dtype=torch.uint8)
    view = make_view(crops, torch.zeros(6, SIZE, SIZE, dtype=torch.bool), drawn_plan(rescale_protein=1, masked=0.5))
    assert view.isfinite().all()


N = 20000


@pytest.fixture(scope="module")
def large():
    return drawn_plan(N, size=128)


def test_chances_are_met(large):
    def share(happened):
        return float(happened.float().mean())

    quarter = 0.5 * 0.5  # of the crops to be blurred, a channel
    assert share(large.masked) == pytest.approx(0.5, abs=0.02)
    assert share(large.removed >= 0) == pytest.approx(0.25, abs=0.02)
    assert share(large.rescaled >= 0) == pytest.approx(0.25, abs=0.02)
    assert share(large.contrast_first) == pytest.approx(0.5, abs=0.01)
    assert share(large.blur_sigma > 0) == pytest.approx(quarter, abs=0.02)
    assert share(large.sharpness != 1) == pytest.approx(quarter / 2, abs=0.02)
    assert not ((large.blur_sigma > 0).any(dim=1) & (large.sharpness != 1).any(dim=1)).any()
    assert share((large.noise > 0).all(dim=1)) == pytest.approx(0.5, abs=0.02)
    assert share((large.noise > 0).any(dim=1)) == share((large.noise > 0).all(dim=1))
    assert share((large.erased != 0).any(dim=2)) == pytest.approx(0.25, abs=0.01)
    is_affine = (large.homography[:, 2, :2] == 0).all(dim=1)
    is_plain = (large.homography.abs() == torch.eye(3)).flatten(1).all(dim=1)  # flipped or not
    assert share(~is_affine) == pytest.approx(0.25, abs=0.02)
    assert share(is_plain) == pytest.approx(0.25, abs=0.02)
    for axis in range(2):
        assert share(large.homography[is_plain, axis, axis] < 0) == pytest.approx(0.5, abs=0.03)


def test_strengths_stay_in_their_ranges_and_fill_them(large):
    def spans(values, low, high):
        slack = 0.02 * (high - low)
        assert low - 1e-6 <= float(values.min()) <= low + slack
        assert high - slack <= float(values.max()) <= high + 1e-6

    spans(large.brightness, 0.5, 1.5)
    spans(large.contrast, 0.5, 1.5)
    spans(large.rescaled[large.rescaled >= 0], 0, 2)
    spans(large.blur_sigma[large.blur_sigma > 0], 0.1, 2)
    spans(large.noise[large.noise > 0], 0.01, 0.05)
    affine = large.homography[(large.homography[:, 2, :2] == 0).all(dim=1) & (large.homography[:, 0, 1] != 0)].double()
    spans(torch.linalg.det(affine[:, :2, :2]).abs() ** -0.5, 0.8, 1.2)
    moved = torch.linalg.solve(affine[:, :2, :2], -affine[:, :2, 2:])
    spans(moved / 2, -0.2, 0.2)
    flips = torch.linalg.det(affine[:, :2, :2]).sign()
    # what is turned by a, then mirrored in x or in y, and what is turned by 180 degrees look alike: compare cosines
    cosines = affine[flips > 0, 0, 0] / torch.linalg.det(affine[flips > 0, :2, :2]).sqrt()
    spans(cosines.abs(), 0, 1)


def test_erased_rectangles_have_their_area_and_shape(large):
    top, left, bottom, right = large.erased[(large.erased != 0).any(dim=2)].double().unbind(dim=1)
    height, width = bottom - top, right - left
    assert 0 <= min(top.min(), left.min()) <= 1
    assert 127 <= max(bottom.max(), right.max()) <= 128
    area, ratio = height * width / 128**2, height / width
    assert 0.018 < area.min() < 0.025 < 0.095 < area.max() < 0.104
    assert 0.27 < ratio.min() < 0.32 < 3.2 < ratio.max() < 3.7
    assert float(ratio.log().mean()) == pytest.approx((math.log(0.3) + math.log(3.3)) / 2, abs=0.02)
    assert float(top.mean()) == pytest.approx(float((128 - bottom).mean()), abs=1)


def test_bent_views_look_into_the_crop_only_from_within_moved_corners(large):
    bent = large.homography[(large.homography[:, 2, :2] != 0).any(dim=1)].double()
    depth = (bent[:, 2, :2].abs().sum(dim=1), bent[:, 2, 2])
    assert (depth[0] < depth[1]).all()  # no horizon in any view
    inverse = torch.linalg.inv(bent)
    corners = inverse @ torch.from_numpy(np.concatenate([CORNERS, np.ones((4, 1))], axis=1).T)
    places = (corners[:, :2] / corners[:, 2:]).abs()
    assert 0.75 - 1e-5 < float(places.min()) < 0.76
    assert 0.99 < float(places.max()) < 1 + 1e-5


def test_the_protein_is_never_removed_and_reference_channels_are_alike():
    plan = draw_view(3000, SIZE, Augmentations(remove_channel=1), n_channels=4, protein=1, photometric=True, seed=(3,))
    shares = np.bincount(plan.removed, minlength=4) / 3000
    np.testing.assert_allclose(shares, [1 / 3, 0, 1 / 3, 1 / 3], atol=0.04)


def test_of_two_channels_none_is_removed():
    plan = drawn_plan(1000, n_channels=2, remove_channel=1)
    assert (plan.removed == -1).all()
    crops = torch.randint(0, 255, (4, 2, SIZE, SIZE), generator=torch.Generator().manual_seed(1))
    view = make_view(crops, None, plan.rows(slice(4)))
    assert (view.amax(dim=(2, 3)) > 0).all()


@pytest.mark.parametrize(
    ("strengths", "message"),
    [
        ({"flip": -0.1}, r"flip must be a number from 0.0 to 1.0, not -0.1"),
        ({"masked": 1.5}, "masked must be"),
        ({"noise_chance": math.nan}, "noise_chance must be"),
        ({"perspective": 0.9}, "perspective must be a number from 0 to 0.5, not 0.9"),
        ({"scale": (1.2, 0.8)}, r"scale must be two ascending numbers from 0.01 to 100, not \(1.2, 0.8\)"),
        ({"scale": (0, 1)}, "scale must be"),
        ({"noise": (-0.1, 0.1)}, "noise must be"),
        ({"erase_area": (0.1, 2)}, "erase_area must be"),
    ],
)
def test_silly_strengths_are_refused(strengths, message):
    with pytest.raises(ValueError, match=message):
        Augmentations(**strengths)


def test_every_strength_has_limits():
    assert set(augment.LIMITS) == set(Augmentations.__dataclass_fields__)


def test_a_plan_of_other_crops_is_refused(crops, masks):
    with pytest.raises(ValueError, match=r"the plan is for crops \(3, 4, 24, 24\), not \(6, 4, 24, 24\)"):
        make_view(crops, masks, still_plan(3))
    with pytest.raises(ValueError, match=r"masks must be \(6, 24, 24\) bool, not \(6, 24, 24\) torch.uint8"):
        make_view(crops, masks.to(torch.uint8), still_plan())
    with pytest.raises(ValueError, match="protein must be one of the 4 channels"):
        draw_view(2, SIZE, STILL, n_channels=4, protein=4, photometric=True, seed=(0,))
    with pytest.raises(ValueError, match="size must be above 3 px, not 3"):
        draw_view(2, 3, STILL, n_channels=4, protein=3, photometric=True, seed=(0,))


@pytest.mark.gpu
def test_views_are_the_same_on_a_gpu_but_for_noise(crops, masks):
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    plan = drawn_plan(noise_chance=0)
    view = make_view(crops.cuda(), masks.cuda(), plan)
    torch.testing.assert_close(view.cpu(), make_view(crops, masks, plan), atol=1e-4, rtol=0)
    noisy = drawn_plan(noise_chance=1)
    whole = make_view(crops.cuda(), masks.cuda(), noisy)
    part = slice(2, 5)
    view = make_view(crops[part].cuda(), masks[part].cuda(), noisy.rows(part))
    torch.testing.assert_close(view, whole[part], atol=1e-6, rtol=0)  # means may be summed in another order
