"""The losses against slow twins, values computed by hand, and the rules they state."""

from __future__ import annotations

import math

import pytest
import torch

from subcell_atlas.encoders.network import project_patches
from subcell_atlas.pretraining.losses import cut_patches, nt_xent, reconstruction_loss, sup_con


@pytest.fixture
def generator() -> torch.Generator:
    return torch.Generator().manual_seed(3)


def normal(*shape, generator, dtype=torch.float32):
    return torch.randn(*shape, generator=generator, dtype=dtype)


def slow_sup_con(features, labels, temperature):
    """Equation 2 of arXiv:2004.11362, a row at a time, and the rules on rows that are left out."""
    unit = [[float(v) / math.hypot(*map(float, row)) for v in row] for row in features]
    similar = [[sum(a * b for a, b in zip(one, two, strict=True)) / temperature for two in unit] for one in unit]
    losses = []
    for row, label in enumerate(labels.tolist()):
        others = [other for other in range(len(unit)) if other != row]
        positives = [other for other in others if labels[other] == label]
        if not positives or len(positives) == len(others):
            continue
        total = sum(math.exp(similar[row][other]) for other in others)
        losses.append(-sum(similar[row][other] - math.log(total) for other in positives) / len(positives))
    return sum(losses) / len(losses) if losses else 0.0


def slow_reconstruction(predicted, pictures, masked, patch_size):
    losses = []
    for picture, rows, hidden in zip(pictures.double(), predicted.double(), masked, strict=True):
        patches = [
            picture[:, y : y + patch_size, x : x + patch_size].flatten()
            for y in range(0, picture.shape[1], patch_size)
            for x in range(0, picture.shape[2], patch_size)
        ]
        for patch, row, is_hidden in zip(patches, rows, hidden, strict=True):
            if is_hidden:
                target = (patch - patch.mean()) / (patch.var() + 1e-6) ** 0.5
                losses.append(float(((row - target) ** 2).mean()))
    return sum(losses) / len(losses)


def test_patches_are_those_that_the_network_projects(generator):
    pictures = normal(2, 3, 8, 12, generator=generator)
    convolution = torch.nn.Conv2d(3, 5, 4, stride=4)
    patches = cut_patches(pictures, 4)
    assert patches.shape == (2, 6, 48)
    assert torch.equal(patches[1, 4].reshape(3, 4, 4), pictures[1, :, 4:8, 4:8])
    projected = torch.nn.functional.linear(patches, convolution.weight.flatten(1), convolution.bias)
    assert torch.equal(projected, project_patches(pictures, convolution, in_half=False))


@pytest.mark.parametrize("shape", [(2, 3, 8, 10), (3, 8, 8)])
def test_pictures_that_cannot_be_cut_are_refused(shape):
    with pytest.raises(ValueError, match="multiples of the patch of 4, not"):
        cut_patches(torch.zeros(shape), 4)


def test_reconstruction_is_as_its_slow_twin_says(generator):
    pictures, predicted = normal(3, 2, 8, 8, generator=generator), normal(3, 4, 32, generator=generator)
    masked = torch.rand(3, 4, generator=generator) < 0.5
    loss = reconstruction_loss(predicted, pictures, masked, patch_size=4)
    assert float(loss) == pytest.approx(slow_reconstruction(predicted, pictures, masked, 4), rel=1e-5)


def test_reconstruction_by_hand():
    pictures = torch.tensor([[[[0.0, 2.0], [0.0, 2.0]]]])  # mean 1, unbiased variance 4 / 3
    masked = torch.tensor([[True]])
    assert float(reconstruction_loss(torch.zeros(1, 1, 4), pictures, masked, patch_size=2)) == pytest.approx(0.75)
    perfect = (pictures.flatten(1) - 1)[:, None] / math.sqrt(4 / 3 + 1e-6)
    assert float(reconstruction_loss(perfect, pictures, masked, patch_size=2)) < 1e-12


def test_reconstruction_does_not_depend_on_brightness_or_on_patches_that_are_seen(generator):
    pictures, predicted = normal(2, 2, 8, 8, generator=generator), normal(2, 4, 32, generator=generator)
    masked = torch.tensor([[True, False, False, True], [False, True, False, False]])
    loss = reconstruction_loss(predicted, pictures, masked, patch_size=4)
    torch.testing.assert_close(reconstruction_loss(predicted, 5 * pictures + 3, masked, patch_size=4), loss)
    elsewhere = torch.where(masked[..., None], predicted, 9)
    assert torch.equal(reconstruction_loss(elsewhere, pictures, masked, patch_size=4), loss)


def test_reconstruction_of_nothing_is_zero_with_a_gradient():
    predicted = torch.ones(1, 4, 16, requires_grad=True)
    loss = reconstruction_loss(predicted, torch.rand(1, 1, 8, 8), torch.zeros(1, 4, dtype=torch.bool), patch_size=4)
    loss.backward()
    assert loss == 0
    assert torch.equal(predicted.grad, torch.zeros_like(predicted))


def test_reconstruction_of_constant_patches_is_finite():
    predicted = torch.zeros(1, 4, 16, requires_grad=True)
    masked = torch.ones(1, 4, dtype=torch.bool)
    loss = reconstruction_loss(predicted, torch.full((1, 1, 8, 8), 0.1), masked, patch_size=4)
    loss.backward()
    assert loss < 1e-6
    assert predicted.grad.isfinite().all()


def test_reconstruction_refuses_other_shapes():
    pictures, masked = torch.zeros(1, 1, 8, 8), torch.ones(1, 4, dtype=torch.bool)
    with pytest.raises(ValueError, match=r"predicted must be \(1, 4, 16\) and masked \(1, 4\), not \(1, 4, 15\)"):
        reconstruction_loss(torch.zeros(1, 4, 15), pictures, masked, patch_size=4)
    with pytest.raises(ValueError, match=r"not \(1, 4, 16\) and \(1, 16\)"):
        reconstruction_loss(torch.zeros(1, 4, 16), pictures, torch.ones(1, 16, dtype=torch.bool), patch_size=4)
    with pytest.raises(ValueError, match="one value"):
        reconstruction_loss(torch.zeros(1, 64, 1), pictures, torch.ones(1, 64, dtype=torch.bool), patch_size=1)


@pytest.mark.parametrize("temperature", [0.07, 0.1, 1.0])
def test_sup_con_is_as_its_slow_twin_says(generator, temperature):
    features = 3 * normal(12, 5, generator=generator)
    labels = torch.tensor([0, 1, 2, 0, 1, 0, 4, 1, 0, 5, 2, 2])  # 4 and 5 are alone
    loss = float(sup_con(features, labels, temperature=temperature))
    assert loss == pytest.approx(slow_sup_con(features, labels, temperature), rel=1e-5)


def test_two_orthogonal_cells_by_hand():
    """Both views of a cell are the same unit vector: its logits are 1 / t for its other view, 0 for two others."""
    views = torch.eye(2)
    expected = math.log(math.exp(10) + 2) - 10
    assert float(nt_xent(views, views, temperature=0.1)) == pytest.approx(expected, rel=1e-3)
    assert float(nt_xent(7 * views, 0.1 * views, temperature=0.5)) == pytest.approx(math.log(math.exp(2) + 2) - 2)


def test_views_that_tell_nothing_leave_chance():
    same = torch.ones(4, 3)
    assert float(nt_xent(same, same, temperature=0.1)) == pytest.approx(math.log(7))
    assert float(sup_con(same, torch.tensor([0, 0, 1, 1]), temperature=0.1)) == pytest.approx(math.log(3))


def test_positives_outside_the_logarithm_by_hand():
    """Row 0: similarity 1 to row 1, 0 to rows 2 and 3, of which 1 and 2 are of its label."""
    features = torch.tensor([[1.0, 0, 0], [1, 0, 0], [0, 1, 0], [0, 0, 1]])
    labels = torch.tensor([0, 0, 0, 1])
    near, far = math.log(math.e + 2), math.log(3)
    expected = ((near - 0.5) + (near - 0.5) + far) / 3  # row 3 has no positive
    assert float(sup_con(features, labels, temperature=1.0)) == pytest.approx(expected, rel=1e-6)


def test_nt_xent_is_the_cross_entropy_of_the_other_view(generator):
    first, second = normal(6, 4, generator=generator), normal(6, 4, generator=generator)
    unit = torch.nn.functional.normalize(torch.cat([first, second]), dim=1)
    logits = (unit @ unit.T / 0.1).fill_diagonal_(-torch.inf)
    expected = torch.nn.functional.cross_entropy(logits, torch.arange(12).roll(6))
    torch.testing.assert_close(nt_xent(first, second, temperature=0.1), expected)


def test_two_views_of_labeled_cells_are_as_in_the_published_formulation(generator):
    """Views stacked (N, 2, D), masks of label and self tiled: what the authors' loss computes."""
    labels = torch.tensor([0, 0, 1, 1, 2])
    views = torch.nn.functional.normalize(normal(5, 2, 6, generator=generator), dim=-1)
    joined = torch.cat([views[:, 0], views[:, 1]])
    logits = joined @ joined.T / 0.1
    others = 1 - torch.eye(10)
    positive = (labels[:, None] == labels).float().repeat(2, 2) * others
    log_shares = logits - (logits.exp() * others).sum(1, keepdim=True).log()
    expected = (-(positive * log_shares).sum(1) / positive.sum(1)).mean()
    torch.testing.assert_close(sup_con(joined, labels.repeat(2), temperature=0.1), expected)


def test_rows_without_positive_or_negative_are_left_out(generator):
    features = normal(5, 4, generator=generator).requires_grad_()
    none = {
        "no positive": (features, torch.arange(5)),
        "no negative": (features, torch.zeros(5, dtype=torch.int64)),
        "one row": (features[:1], torch.tensor([3])),
        "no row": (features[:0], torch.zeros(0, dtype=torch.int64)),
    }
    for rows, labels in none.values():
        features.grad = None
        loss = sup_con(rows, labels, temperature=0.1)
        loss.backward()
        assert loss == 0
        assert torch.equal(features.grad, torch.zeros_like(features))


def test_one_cell_has_nothing_to_be_told_from():
    first = torch.randn(1, 4, requires_grad=True)
    loss = nt_xent(first, torch.randn(1, 4), temperature=0.1)
    loss.backward()
    assert loss == 0
    assert torch.equal(first.grad, torch.zeros_like(first))


@pytest.mark.parametrize("scale", [0.0, 1e-30, 1e-6, 1.0, 1e4, 1e30])
def test_values_and_gradients_are_finite_at_every_scale(generator, scale):
    base = normal(8, 16, generator=generator)
    features = (scale * base).requires_grad_()
    labels = torch.arange(4).repeat(2)
    loss = sup_con(features, labels, temperature=0.01)
    loss.backward()
    assert loss.isfinite()
    assert features.grad.isfinite().all()
    if scale >= 1e-6:
        torch.testing.assert_close(loss, sup_con(base, labels, temperature=0.01))


def test_a_row_of_zeros_among_others_has_a_finite_gradient(generator):
    features = normal(6, 4, generator=generator)
    features[2] = 0
    features.requires_grad_()
    sup_con(features, torch.tensor([0, 0, 1, 1, 2, 2]), temperature=0.1).backward()
    assert features.grad.isfinite().all()
    assert features.grad.abs().max() < 100


def test_autocast_does_not_round_the_losses(generator):
    first, second = normal(32, 64, generator=generator), normal(32, 64, generator=generator)
    pictures, predicted = normal(2, 2, 8, 8, generator=generator), normal(2, 4, 32, generator=generator)
    masked = torch.ones(2, 4, dtype=torch.bool)
    exact = nt_xent(first, second, temperature=0.1), reconstruction_loss(predicted, pictures, masked, patch_size=4)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        rounded = (
            nt_xent(first, second, temperature=0.1),
            reconstruction_loss(predicted, pictures, masked, patch_size=4),
        )
    assert all(torch.equal(*pair) for pair in zip(exact, rounded, strict=True))


def test_half_precision_is_widened_and_gradients_come_back_in_it(generator):
    features = normal(8, 16, generator=generator).bfloat16().requires_grad_()
    predicted = normal(1, 4, 16, generator=generator).bfloat16().requires_grad_()
    pictures = normal(1, 1, 8, 8, generator=generator)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = sup_con(features, torch.arange(4).repeat(2), temperature=0.1)
        rebuilt = reconstruction_loss(predicted, pictures, torch.ones(1, 4, dtype=torch.bool), patch_size=4)
        assert loss.dtype == rebuilt.dtype == torch.float32
    (loss + rebuilt).backward()
    for tensor in (features, predicted):
        assert tensor.grad.dtype == torch.bfloat16
        assert tensor.grad.isfinite().all()


def test_gradients_are_those_of_small_differences(generator):
    features = normal(6, 3, generator=generator, dtype=torch.float64).requires_grad_()
    labels = torch.tensor([0, 1, 0, 1, 2, 0])
    assert torch.autograd.gradcheck(lambda rows: sup_con(rows, labels, temperature=0.5), features)
    assert torch.autograd.gradcheck(lambda rows: nt_xent(rows[:3], rows[3:], temperature=0.5), features)
    predicted = normal(1, 4, 8, generator=generator, dtype=torch.float64).requires_grad_()
    pictures = normal(1, 2, 4, 4, generator=generator, dtype=torch.float64)
    masked = torch.tensor([[True, False, True, True]])
    assert torch.autograd.gradcheck(lambda rows: reconstruction_loss(rows, pictures, masked, patch_size=2), predicted)


def test_wrong_shapes_and_temperatures_are_refused():
    with pytest.raises(ValueError, match=r"two views must be \(N, D\) each, not \(3, 4\) and \(2, 4\)"):
        nt_xent(torch.zeros(3, 4), torch.zeros(2, 4), temperature=0.1)
    with pytest.raises(ValueError, match="two views"):
        nt_xent(torch.zeros(3), torch.zeros(3), temperature=0.1)
    with pytest.raises(ValueError, match=r"labels \(M,\), not \(3, 4\) and \(4,\)"):
        sup_con(torch.zeros(3, 4), torch.zeros(4), temperature=0.1)
    for temperature in (0, -1, math.nan):
        with pytest.raises(ValueError, match="temperature must be above 0"):
            sup_con(torch.zeros(3, 4), torch.zeros(3), temperature=temperature)


def test_a_cell_that_comes_twice_is_not_its_own_negative():
    generator = torch.Generator().manual_seed(0)
    first, second = (torch.randn(4, 6, generator=generator) for _ in range(2))
    cells = torch.tensor([7, 7, 3, 5])
    found = nt_xent(first, second, temperature=0.1, cells=cells)
    assert torch.equal(found, sup_con(torch.cat([first, second]), cells.repeat(2), temperature=0.1))
    assert not torch.allclose(found, nt_xent(first, second, temperature=0.1))
