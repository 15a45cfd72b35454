"""What SubCell's training minimizes: patches reconstructed, views of a cell alike, cells of a protein alike.

The masked autoencoder's loss is arXiv:2111.06377's with normalized pixels, NT-Xent is SimCLR's (arXiv:2002.05709),
SupCon arXiv:2004.11362's L_out. Every loss is computed in float32 or wider, whatever autocast does: a temperature of
0.1 makes bfloat16's rounding of a similarity a tenth of the loss.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

__all__ = ["cut_patches", "nt_xent", "reconstruction_loss", "sup_con"]

VARIANCE_EPS = 1e-6  # as in the masked autoencoder's published code
TINY = 1e-12  # a vector with no larger value has no direction


def cut_patches(pictures: Tensor, patch_size: int) -> Tensor:
    """Cut (B, C, H, W) into patches, row by row, (B, patches, C * patch_size**2); values in the order (C, y, x)."""
    if pictures.ndim != 4 or any(side % patch_size for side in pictures.shape[-2:]):
        msg = f"pictures must be (B, C, H, W), H and W multiples of the patch of {patch_size}, not {shape_of(pictures)}"
        raise ValueError(msg)
    batch, channels, height, width = pictures.shape
    rows, columns = height // patch_size, width // patch_size
    cut = pictures.reshape(batch, channels, rows, patch_size, columns, patch_size).permute(0, 2, 4, 1, 3, 5)
    return cut.reshape(batch, rows * columns, channels * patch_size**2)


def reconstruction_loss(predicted: Tensor, pictures: Tensor, masked: Tensor, *, patch_size: int) -> Tensor:
    """Return how far the predicted patches are from the masked ones, each standardized by its own mean and variance.

    predicted: (B, patches, C * patch_size**2), in the order of `cut_patches`. masked: (B, patches) bool. The squared
    error is averaged over masked patches only; without any, the loss is 0.
    """
    patches = cut_patches(widen(pictures), patch_size)
    if predicted.shape != patches.shape or masked.shape != patches.shape[:2]:
        msg = (
            f"predicted must be {shape_of(patches)} and masked {shape_of(patches)[:2]}, "
            f"not {shape_of(predicted)} and {shape_of(masked)}"
        )
        raise ValueError(msg)
    if patches.shape[-1] < 2:
        raise ValueError("a patch of one value has no variance; take larger patches")
    variance, mean = torch.var_mean(patches, dim=-1, keepdim=True)
    target = (patches - mean) / (variance + VARIANCE_EPS).sqrt()
    errors = (widen(predicted) - target).square().mean(dim=-1)  # (B, patches)
    return (errors * masked).sum() / masked.sum().clamp(min=1)


def nt_xent(first: Tensor, second: Tensor, *, temperature: float, cells: Tensor | None = None) -> Tensor:
    """Return NT-Xent of two views of N cells, (N, D) each: a cell's other view is to be told from all other cells.

    cells: (N,) numbers of the cells, where one may come more than once; all its views are then alike. It is SupCon with
    each cell a label of its own, and has its rules: one cell alone has nothing to be told from, so its loss is 0.
    """
    if first.shape != second.shape or first.ndim != 2:
        raise ValueError(f"two views must be (N, D) each, not {shape_of(first)} and {shape_of(second)}")
    if cells is None:
        cells = torch.arange(len(first), device=first.device)
    return sup_con(torch.cat([first, second]), cells.repeat(2), temperature=temperature)


def sup_con(features: Tensor, labels: Tensor, *, temperature: float) -> Tensor:
    """Return SupCon of features (M, D), of any length, with labels (M,): rows of a label are alike, others are not.

    Each row's loss is the mean, over the other rows of its label, of minus their log-probability among all other rows;
    the loss is the mean over rows. A row with no other of its label, or whose label fills the batch, is left out; when
    none is left the loss is 0.
    """
    if features.ndim != 2 or labels.shape != features.shape[:1]:
        raise ValueError(f"features must be (M, D) and labels (M,), not {shape_of(features)} and {shape_of(labels)}")
    if not temperature > 0:
        raise ValueError(f"temperature must be above 0, not {temperature}")
    itself = torch.eye(len(labels), dtype=torch.bool, device=features.device)
    positive = (labels[:, None] == labels[None, :]) & ~itself  # (M, M)
    n_positive = positive.sum(dim=1)
    counted = (n_positive > 0) & (n_positive < len(labels) - 1)
    with torch.autocast(features.device.type, enabled=False):
        unit = scale_to_unit(widen(features))
        logits = unit @ unit.T / temperature
        # the lowest number and not -inf, whose softmax is NaN in a batch of one row
        logits = logits.masked_fill(itself, torch.finfo(logits.dtype).min)
        log_shares = functional.log_softmax(logits, dim=1).masked_fill(~positive, 0)
        per_row = -log_shares.sum(dim=1) / n_positive.clamp(min=1)
        return (per_row * counted).sum() / counted.sum().clamp(min=1)


def scale_to_unit(vectors: Tensor) -> Tensor:
    """Scale each row to length 1, a row of zeros to zeros; values and gradients are finite at every scale."""
    # dividing by the largest value first keeps squares from overflowing, and is constant to the gradient: a unit vector
    # does not change with the scale
    largest = vectors.detach().abs().amax(dim=1, keepdim=True)
    scaled = vectors / torch.where(largest > TINY, largest, 1)
    return functional.normalize(scaled, dim=1, eps=1)  # of length 1 or more by now, unless zero


def widen(tensor: Tensor) -> Tensor:
    """Return the tensor in float32, or float64 where it is."""
    return tensor.to(torch.promote_types(tensor.dtype, torch.float32))


def shape_of(tensor: Tensor) -> tuple[int, ...]:
    """Return the shape as error messages show it."""
    return tuple(tensor.shape)
