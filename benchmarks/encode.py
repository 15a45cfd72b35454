"""Speed, exactness and memory of an encoder, beside how it is done today, in one run.

Run: .venv/bin/python benchmarks/encode.py [--device D] [--size 448 640] [--batch N] [--compile] [--trials]
                                           [--cells FOLDER] [--weights FILE]

Today: crops one by one in float32, with plain attention whose maps are kept in every block (as the authors' tool does
since October 2025), here written out for the same weights; and the same in batches. The ceiling is this machine's own
rate of large matrix products. `--compile` adds torch.compile; `--trials` adds, on a GPU, each attention kernel and
8-bit products. `--cells` compares the default precision with float32 on pictures of cells: a folder of grids of
512 px tiles, `*_red`, `*_yellow`, `*_blue`, `*_green` (microtubules, ER, nucleus, protein), or the simulated proteome.
Weights are random unless given. Medians of repeated calls.
"""

from __future__ import annotations

import argparse
import gc
import json
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.attention import SDPBackend, sdpa_kernel

from subcell_atlas.devices import choose_device, fastest_precision
from subcell_atlas.encoders.encoder import PRECISIONS, RANDOM, Encoder, load_encoder
from subcell_atlas.encoders.speed import flops_per_crop, median_seconds, product_ceiling
from subcell_atlas.encoders.vit import Block, SubCellNetwork

TILE = 512  # px, of a cell in a grid
BATCHES = 4  # of one call on a GPU, so that copying and computing overlap


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--encoder", default="subcell-rybg-mae")
    parser.add_argument("--weights", default=RANDOM)
    parser.add_argument("--device")
    parser.add_argument("--size", type=int, nargs="+", default=[448, 640])
    parser.add_argument("--batch", type=int, help="crops at once [default: 8, on a GPU 128]")
    parser.add_argument("--compile", action="store_true")
    parser.add_argument("--trials", action="store_true")
    parser.add_argument("--cells", help="a folder, or 'simulated'")
    chosen = parser.parse_args()
    device = choose_device(chosen.device)
    batch = chosen.batch or (128 if device.startswith("cuda") else 8)
    best = fastest_precision(device)
    print(f"{machine(device)}; torch {torch.__version__}; {torch.get_num_threads()} threads; {chosen.encoder}")
    ceiling = {dtype: product_ceiling(device, dtype) for dtype in {torch.float32, PRECISIONS[best]}}
    for dtype, rate in ceiling.items():
        print(f"matrix products, {dtype}: {rate / 1e12:.2f} TFLOP/s")
    exact = load_encoder(chosen.encoder, weights=chosen.weights, device=device, precision="float32")
    for size in chosen.size:
        measure_size(exact, chosen, device, size, batch, best, ceiling[PRECISIONS[best]])
    if chosen.cells:
        half = load_encoder(chosen.encoder, weights=chosen.weights, device=device, precision=best)
        compare_precision(exact, half, chosen.cells)


def measure_size(
    exact: Encoder, chosen: argparse.Namespace, device: str, size: int, batch: int, best: str, ceiling: float
) -> None:
    """Print the rates at one size of crops."""
    network = exact._network
    assert isinstance(network, SubCellNetwork)
    work = flops_per_crop(network.config, size, size)
    print(f"\n{size} px, {work / 1e9:.1f} GFLOP a crop; the ceiling in {best} is {ceiling / work:.2f} crops/s")
    n_batches = BATCHES if device.startswith("cuda") else 1
    shape = (n_batches * batch, network.config.n_channels, size, size)
    crops = np.random.default_rng(0).integers(0, 65536, shape, dtype=np.uint16)
    pixels = torch.from_numpy(crops[:batch]).to(device).float() / 65535
    plain_one, _ = plain_rate(network, pixels[:1], device)
    plain_batch, n_plain = plain_rate(network, pixels, device)
    line = Line(work=work, ceiling=ceiling, plain_one=plain_one, plain_batch=plain_batch)
    line.show("plain float32, attention kept, one by one", plain_one)
    line.show(f"plain float32, attention kept, batches of {n_plain}", plain_batch)
    options = {"weights": chosen.weights, "device": device, "batch_size": batch}
    for precision in dict.fromkeys(["float32", best]):
        encoder = load_encoder(chosen.encoder, precision=precision, **options)
        rate = len(crops) / median_seconds(lambda e=encoder: e.embed(crops), device)
        peak = peak_bytes(lambda e=encoder: e.embed(crops), device)
        line.show(f"ours, {precision}, from memory to memory", rate, memory(encoder, size, batch, peak))
        line.show(f"ours, {precision}, on the device alone", network_rate(encoder._network, pixels, device))
    if chosen.trials:
        for kernel in attention_kernels(device):
            with sdpa_kernel(kernel):
                line.attempt(f"ours, {best}, attention by {kernel.name}", encoder._network, pixels, device)
    if chosen.compile:
        encoder.compile()
        rate = len(crops) / median_seconds(lambda: encoder.embed(crops), device)
        line.show(f"ours, {best}, compiled, from memory to memory", rate)
        assert encoder._compiled is not None
        line.show(f"ours, {best}, compiled, on the device alone", network_rate(encoder._compiled, pixels, device))
    if chosen.trials and device.startswith("cuda"):
        eight = load_encoder(chosen.encoder, precision="bfloat16", **options)
        to_eight_bit_products(eight)
        eight.compile()
        line.attempt("8-bit products, compiled", eight._compiled, pixels, device)
        if chosen.cells:
            crops = pictures(exact, chosen.cells)[:64]
            print(f"    least cosine to float32: {least_cosine(eight.embed(crops), exact.embed(crops)):.5f}")


@dataclass(frozen=True, kw_only=True)
class Line:
    """Prints a rate beside the others. work: operations a crop; ceiling: operations a second; rates in crops/s."""

    work: float
    ceiling: float
    plain_one: float
    plain_batch: float

    def show(self, name: str, rate: float, more: str = "") -> None:
        """Print one line."""
        print(
            f"  {name:52} {rate:9.2f} crops/s {rate * self.work / 1e12:8.2f} TFLOP/s "
            f"{rate * self.work / self.ceiling:5.0%} of the ceiling; {rate / self.plain_one:6.2f} x one by one, "
            f"{rate / self.plain_batch:6.2f} x batched{more}",
            flush=True,
        )

    def attempt(self, name: str, network: Callable[..., Tensor], pixels: Tensor, device: str) -> None:
        """Print one line for a variant that this machine or this torch may not have."""
        try:
            self.show(name, network_rate(network, pixels, device))
        except (RuntimeError, NotImplementedError) as exc:
            print(f"  {name:52} not here: {str(exc).splitlines()[0]}", flush=True)


def network_rate(network: Callable[..., Tensor], pixels: Tensor, device: str) -> float:
    """Return the crops a second of the network alone, for normalized pixels on the device."""
    with torch.inference_mode():
        return len(pixels) / median_seconds(lambda: network(pixels, blocks=(12,)), device)


def plain_rate(network: SubCellNetwork, pixels: Tensor, device: str) -> tuple[float, int]:
    """Return the crops a second of the plain loop, and how many at once: half as many where memory is short."""
    try:
        with torch.inference_mode():
            return len(pixels) / median_seconds(lambda: plain_embedding(network, pixels), device), len(pixels)
    except torch.OutOfMemoryError:
        if len(pixels) == 1:
            raise
    torch.cuda.empty_cache()
    return plain_rate(network, pixels[: len(pixels) // 2], device)


def plain_embedding(network: SubCellNetwork, pixels: Tensor) -> tuple[Tensor, list[Tensor]]:
    """Embed as transformers' eager attention does: three products for query, key and value, maps kept."""
    low, high = pixels.amin(dim=(1, 2, 3), keepdim=True), pixels.amax(dim=(1, 2, 3), keepdim=True)
    tokens = network.embed_patches((pixels - low) / (high - low + 1e-6))
    maps = []
    for block in network.blocks:
        assert isinstance(block, Block)
        normed, attention = block.norm_before(tokens), block.attention
        parts = zip(attention.qkv.weight.chunk(3), attention.qkv.bias.chunk(3), strict=True)
        query, key, value = (
            functional.linear(normed, weight, bias).unflatten(-1, (attention.n_heads, -1)).transpose(1, 2)
            for weight, bias in parts
        )
        shares = (query @ key.transpose(-1, -2) / query.shape[-1] ** 0.5).softmax(dim=-1)
        maps.append(shares)
        tokens = tokens + attention.output((shares @ value).transpose(1, 2).flatten(-2))
        tokens = tokens + block.mlp_out(functional.gelu(block.mlp_in(block.norm_after(tokens))))
    return network.pooler(network.norm(tokens)), maps


def attention_kernels(device: str) -> Iterator[SDPBackend]:
    """Yield the kernels that this machine has."""
    if device.startswith("cuda"):
        yield from (SDPBackend.FLASH_ATTENTION, SDPBackend.CUDNN_ATTENTION, SDPBackend.EFFICIENT_ATTENTION)


class EightBits(nn.Module):
    """A linear layer in 8-bit floats: a scale a row of the input and a row of the weight."""

    def __init__(self, layer: nn.Linear) -> None:
        super().__init__()
        weight, scale = to_eight_bits(layer.weight.detach())
        self.weight, self.scale = weight.t(), scale.t().contiguous()
        self.bias = layer.bias.detach()

    def forward(self, tokens: Tensor) -> Tensor:
        """Map (…, in) to (…, out)."""
        rows, scale = to_eight_bits(tokens.flatten(0, -2))
        product = torch._scaled_mm(
            rows,
            self.weight,
            scale_a=scale,
            scale_b=self.scale,
            bias=self.bias,
            out_dtype=tokens.dtype,
            use_fast_accum=True,
        )
        return product.unflatten(0, tokens.shape[:-1])


def to_eight_bits(rows: Tensor) -> tuple[Tensor, Tensor]:
    """Return (n, d) in 8 bits and the scale of each row, (n, 1) float32."""
    scale = rows.abs().amax(dim=-1, keepdim=True).float().clamp(min=1e-12) / torch.finfo(torch.float8_e4m3fn).max
    return (rows.float() / scale).to(torch.float8_e4m3fn), scale


def to_eight_bit_products(encoder: Encoder) -> None:
    """Let the blocks of a bfloat16 encoder multiply in 8 bits."""
    for block in encoder._network.blocks:
        assert isinstance(block, Block)
        block.attention.qkv, block.attention.output = EightBits(block.attention.qkv), EightBits(block.attention.output)
        block.mlp_in, block.mlp_out = EightBits(block.mlp_in), EightBits(block.mlp_out)


def compare_precision(exact: Encoder, encoder: Encoder, cells: str) -> None:
    """Print the least cosine between the encoder's embeddings and float32's over pictures of cells."""
    crops = pictures(exact, cells)
    cosine = least_cosine(encoder.embed(crops), exact.embed(crops))
    print(f"\n{len(crops)} cells, {encoder.precision} beside float32: least cosine {cosine:.6f}")


def pictures(encoder: Encoder, cells: str) -> np.ndarray:
    """Return crops (N, 4, 448, 448) of a folder or of the simulated proteome."""
    return simulated_crops(encoder) if cells == "simulated" else tiles(Path(cells))


def least_cosine(a: np.ndarray, b: np.ndarray) -> float:
    """Return the smallest cosine between the rows of two arrays."""
    return float(((a * b).sum(1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1)).min())


def tiles(folder: Path) -> np.ndarray:
    """Cut the 512 px tiles of grids of cells into crops (N, 4, 448, 448)."""
    found = []
    for path in sorted(folder.glob("*_red*")):
        names = [path.name.replace("_red", f"_{color}") for color in ("red", "yellow", "blue", "green")]
        stack = np.stack([np.asarray(Image.open(path.with_name(name)).convert("L")) for name in names])
        edge = (TILE - 448) // 2
        for top in range(edge, stack.shape[1], TILE):
            for left in range(edge, stack.shape[2], TILE):
                crop = stack[:, top : top + 448, left : left + 448]
                if crop.max() > crop.min():
                    found.append(crop)
    return np.stack(found)


def simulated_crops(encoder: Encoder) -> np.ndarray:
    """Return some simulated cells, brought to 448 px."""
    from ingest.simulated import SimulatedSource
    from subcell_atlas.images.simulated import make_proteome

    source = SimulatedSource(make_proteome(32, seed=0), 1)
    pictures = [source.item(i).load().channels for i in range(32)]
    return np.stack(
        [
            np.stack([np.asarray(Image.fromarray(p[name]).resize((448, 448))) for name in encoder.spec.channels])
            for p in pictures
        ]
    )


def peak_bytes(call: Callable[[], object], device: str) -> int:
    """Return the most memory in tensors at once during a call, beside what was there before."""
    gc.collect()
    if device.startswith("cuda"):
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        call()
        return torch.cuda.max_memory_allocated(device) - before
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile:
        call()
    with tempfile.TemporaryDirectory() as folder:
        profile.export_chrome_trace(f"{folder}/trace.json")
        events = json.loads(Path(f"{folder}/trace.json").read_text())["traceEvents"]
    held = [event["args"] for event in events if event["name"] == "[memory]"]
    before = held[0]["Total Allocated"] - held[0]["Bytes"]
    return max(args["Total Allocated"] for args in held) - before


def memory(encoder: Encoder, size: int, batch: int, peak: int) -> str:
    """Return the peak beside the activations of one block, in words."""
    config = encoder._network.config
    tokens = (size // config.patch_size) ** 2 + 1
    block = batch * tokens * (10 * config.width + 2 * config.mlp_width) * encoder._network.norm.weight.element_size()
    return f"; peak {peak / 2**30:.2f} GiB beside the weights, {peak / block:.2f} x one block's activations"


def machine(device: str) -> str:
    """Return the name of what computes."""
    if device.startswith("cuda"):
        return torch.cuda.get_device_name(device)
    return f"{device}, {torch.backends.cpu.get_cpu_capability()}"


if __name__ == "__main__":
    main()
