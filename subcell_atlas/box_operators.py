"""torchvision beside a torch that was built for processors: importable, though its operators for boxes are absent.

The wheel of torchvision on PyPI is built for CUDA. Beside a build of torch for processors importing it fails, and with
it what imports it in passing, such as timm and transformers. Nothing here calls the operators, so they are declared.
"""

from __future__ import annotations

import importlib
import sys

__all__ = ["make_torchvision_importable"]


def make_torchvision_importable() -> None:
    """Declare the operators, without implementations, when torchvision is installed and cannot be imported for them."""
    try:
        importlib.import_module("torchvision")
    except ImportError:
        return
    except RuntimeError as exc:
        if "torchvision::nms" not in str(exc):
            return  # whoever needs it will say so
    else:
        return
    import torch

    for name in ("nms", "qnms"):
        torch.library.define(f"torchvision::{name}", "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    for module in [module for module in sys.modules if module.partition(".")[0] == "torchvision"]:
        del sys.modules[module]  # begun without them
