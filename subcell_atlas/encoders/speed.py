"""How fast an encoder can be expected to run here: its arithmetic, this machine's ceiling, and a timed block."""

from __future__ import annotations

import dataclasses
import statistics
import time
from collections.abc import Callable

import torch

from ..devices import fastest_precision
from .encoder import PRECISIONS
from .specs import EncoderSpec, NetworkConfig
from .vit import SubCellNetwork
from .weights import seed_weights

__all__ = ["expected_speed", "flops_per_crop", "median_seconds", "product_ceiling"]

REPEATS = 3


def flops_per_crop(config: NetworkConfig, height: int, width: int) -> float:
    """Return the floating point operations of one crop's matrix products, a multiply and an add counted as two."""
    patches = (height // config.patch_size) * (width // config.patch_size)
    tokens, side = patches + 1, config.width
    per_block = tokens * (4 * side**2 + 2 * side * config.mlp_width) + 2 * tokens**2 * side
    if config.stem:
        embedding, places = 0, height * width
        for n_in, n_out, kernel, stride in config.stem_layers:
            places //= stride**2
            embedding += kernel**2 * n_in * n_out * places
    else:
        embedding = patches * config.n_channels * config.patch_size**2 * side
    pooler = tokens * (2 * side * config.pooler_width + config.pooler_width * config.pooler_heads + side * 2)
    neck = sum(a * b for a, b in config.neck_layers)
    return 2.0 * (config.n_blocks * per_block + embedding + pooler + neck)


def product_ceiling(device: str, dtype: torch.dtype) -> float:
    """Return the operations a second of a plain large matrix product, the most that a network could reach."""
    side = 8192 if device.startswith("cuda") else 2048
    a, b = (torch.randn(side, side, device=device).to(dtype) for _ in range(2))
    return 2.0 * side**3 / median_seconds(lambda: a @ b, device, repeats=7)


def expected_speed(spec: EncoderSpec, device: str, precision: str | None = None) -> float:
    """Return about how many crops a second an encoder of SubCell's design embeds here, from timing one block."""
    config = spec.network
    assert isinstance(config, NetworkConfig)
    network = SubCellNetwork(dataclasses.replace(config, n_blocks=1)).to(device).eval()
    seed_weights(network, 0)
    precision = precision or fastest_precision(device)
    if precision != "float32":
        network.use_precision(PRECISIONS[precision])
    n = 64 if device.startswith("cuda") else 2
    crops = torch.zeros(n, config.n_channels, spec.crop_px, spec.crop_px, dtype=torch.uint8, device=device)
    crops[:, :, ::2] = 255
    with torch.inference_mode():
        tokens = network.embed_patches(network.normalize(crops))
        whole = median_seconds(lambda: network(network.normalize(crops), blocks=(1,)), device)
        block = median_seconds(lambda: network.blocks[0](tokens), device)
    return n / (whole + (config.n_blocks - 1) * block)


def median_seconds(call: Callable[[], object], device: str, *, repeats: int = REPEATS) -> float:
    """Return the median time of a call that was made once before; the device's work is waited for."""
    times = []
    for _ in range(repeats + 1):
        wait_for(device)
        start = time.perf_counter()
        call()
        wait_for(device)
        times.append(time.perf_counter() - start)
    return statistics.median(times[1:])


def wait_for(device: str) -> None:
    """Wait until the device has done what it was given."""
    if device.startswith("cuda"):
        torch.cuda.synchronize(device)
