"""Cells by Cellpose (Cellpose-SAM, github.com/MouseLand/cellpose), an optional library with weights of its own."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np

from ..errors import BadInput
from .watershed import shrink, stretch

__all__ = ["cellpose_cells"]

WORKING_PIXEL_UM = 0.4  # a cell is 50 to 100 px wide then; the network was trained on 7.5 to 120


def cellpose_cells(nucleus: np.ndarray, cytoplasm: np.ndarray, pixel_size_um: float) -> tuple[np.ndarray, float]:
    """Label the cells of a field, those at the border too; return labels (h, w) int32 and their pixels' size in µm.

    nucleus, cytoplasm: (H, W) intensities. The network takes both, in any order, and a third channel that is empty.
    Raise BadInput when Cellpose or its weights cannot be had.
    """
    scale = min(1.0, pixel_size_um / WORKING_PIXEL_UM)
    small = (max(8, round(nucleus.shape[0] * scale)), max(8, round(nucleus.shape[1] * scale)))
    planes = [stretch(shrink(channel, small)) for channel in (cytoplasm, nucleus)]
    picture = np.stack([*planes, np.zeros(small, np.float32)], axis=-1)
    labels = cellpose_model().eval(picture, channel_axis=-1)[0]
    return np.asarray(labels, np.int32), pixel_size_um * nucleus.shape[0] / small[0]


@lru_cache(maxsize=1)
def cellpose_model() -> Any:
    """Load the network, on a GPU where there is one."""
    try:
        import torch
        from cellpose.models import CellposeModel
    except ImportError as exc:
        raise BadInput("The segmentation 'cellpose' needs: pip install 'subcell-atlas[cellpose]'") from exc
    try:
        return CellposeModel(gpu=torch.cuda.is_available())
    except (OSError, ValueError) as exc:
        why = (str(exc).splitlines() or [type(exc).__name__])[0]
        raise BadInput(f"Cellpose's weights could not be loaded: {why}\nIt fetches them at its first use.") from exc
