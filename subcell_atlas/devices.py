"""What torch can compute on here, and in which precision it is fast."""

from __future__ import annotations

import torch

from .errors import BadInput

__all__ = ["choose_device", "fastest_precision"]


def choose_device(device: str | None) -> str:
    """Return `device` if it can be used, CUDA or the CPU when None; raise BadInput when this machine lacks it."""
    if device is None:
        return "cuda" if torch.cuda.is_available() else "cpu"
    msg = f"The device {device!r} cannot be used on this machine; 'cpu' can."
    try:
        found = torch.empty(1, device=device).device
    except (RuntimeError, AssertionError) as exc:
        raise BadInput(msg) from exc
    if found.type == "meta":
        raise BadInput(msg)
    return device


def fastest_precision(device: str) -> str:
    """Return bfloat16 where matrix products are faster in it: on GPUs, and on processors that multiply it."""
    if device.startswith("cuda"):
        return "bfloat16" if torch.cuda.is_bf16_supported(including_emulation=False) else "float16"
    if device == "cpu":
        able: dict[str, bool] = getattr(torch.cpu, "get_capabilities", dict)()  # absent from older versions of torch
        return "bfloat16" if able.get("avx512_bf16") or able.get("amx_bf16") else "float32"
    return "float32"
