"""An encoder: raw crops in, embeddings out, with the recipe that says how."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from .._version import __version__
from ..errors import AtlasError, BadInput, BadWeights, UnknownName
from ..recipe import Recipe
from .aiming import aim_pooler
from .fetch import cached_path, fetch, how_to_get
from .guards import check_crops
from .localizations import LOCALIZATIONS
from .network import OWN, Network
from .openphenom import OpenPhenomNetwork
from .specs import EncoderSpec, NetworkConfig, OpenPhenomConfig, Published, find_spec
from .vit import LocalizationHead, SubCellNetwork
from .weights import load_head, load_weights, seed_weights, sha256_of_file, sha256_of_state

__all__ = ["PRECISIONS", "RANDOM", "AttentionMaps", "Encoder", "Readout", "load_encoder", "load_encoder_of"]

PRECISIONS = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
RANDOM = "random"  # in place of a weights file: seeded, untrained, to compare with
RANDOM_SEED = 0
LEAST_COSINE = 0.999  # of an embedding in half precision to the same in float32
CPU_BATCH_BYTES = 2**28  # activations at once; more is not faster on a processor, whose caches are small
LARGEST_BATCH = 256  # more is not faster on a GPU


@dataclass(frozen=True, kw_only=True)
class Readout:
    """Which block's output is the embedding, counted from 1, and how its tokens are pooled (see `network.Network`)."""

    block: int | None = None  # None: the last
    pooling: str = OWN
    final_norm: bool = True


@dataclass(frozen=True)
class AttentionMaps:
    """Where an encoder looks, over its patches. block: (N, heads, rows, columns); pooler: (N, 2, rows, columns)."""

    block: np.ndarray
    pooler: np.ndarray


class Encoder:
    """A network with its weights, its preprocessing and its recipe. Made by `load_encoder`."""

    def __init__(
        self,
        spec: EncoderSpec,
        network: Network,
        *,
        heads: Sequence[LocalizationHead] = (),
        weights_sha256: str,
        device: str,
        precision: str,
        readout: Readout,
        in_float32: Callable[[], Encoder],
    ) -> None:
        self.spec = spec
        self.device = torch.device(device)
        self.precision = precision
        self.block = readout.block or len(network.blocks)
        self.pooling = readout.pooling
        self.final_norm = readout.final_norm
        self.dim = network.poolings[readout.pooling]
        self._network = network.to(self.device).eval()
        self._heads = [head.to(self.device).eval() for head in heads]
        self._weights_sha256 = weights_sha256
        self._run = network.__call__
        self._in_float32 = in_float32  # makes the same encoder in full precision
        self._compiled = False
        self._longest = 0
        self._batch_limit = LARGEST_BATCH

    def recipe(self, *, masking: str) -> Recipe:
        """Return how embeddings of this encoder come to be; `masking` says what the crops show (cell or none)."""
        return Recipe(
            encoder=self.spec.name,
            dim=self.dim,
            weights_sha256=self._weights_sha256,
            block=self.block,
            pooling=describe_pooling(self._network, self.pooling, final_norm=self.final_norm),
            channels=self.spec.channels,
            crop_px=self.spec.crop_px,
            crop_um=round(self.spec.crop_um, 4),
            masking=masking,
            normalization=self._network.normalization,
            precision=self.precision,
            code_version=__version__,
        )

    def embed(self, crops: np.ndarray) -> np.ndarray:
        """Embed raw crops, normalization included.

        crops: (N, C, H, W) uint8, uint16 or float intensities, channels in the order of `spec.channels`, H and W
        multiples of the patch. Returns (N, dim) float32, not scaled to unit length.
        """
        return self._embed(crops, blocks=(self.block,), pooling=self.pooling, final_norm=self.final_norm)[:, 0]

    def embed_blocks(self, crops: np.ndarray, *, pooling: str = OWN, final_norm: bool = True) -> np.ndarray:
        """Embed crops, as `embed` takes them, by every block in one pass: (N, blocks, dim) float32.

        pooling: `own` (the one the network was trained with), `cls` or `patches` (mean); `final_norm`: whether the
        latter read tokens that went through the network's last normalization.
        """
        check_pooling(self._network, pooling)
        return self._embed(crops, blocks=tuple(range(1, self.block + 1)), pooling=pooling, final_norm=final_norm)

    def localize(self, crops: np.ndarray) -> np.ndarray:
        """Return the probability of each of `LOCALIZATIONS` for crops as `embed` takes them: (N, 31) float32."""
        self._check_heads()
        return self.localize_embeddings(self.embed(crops))

    def localize_embeddings(self, embeddings: np.ndarray) -> np.ndarray:
        """Return the same for embeddings (N, dim) of this encoder: the mean over the heads of each one's sigmoids."""
        self._check_heads()
        with torch.inference_mode():
            vectors = torch.from_numpy(np.ascontiguousarray(embeddings, np.float32)).to(self.device)
            return torch.stack([head(vectors) for head in self._heads]).mean(dim=0).cpu().numpy()

    @property
    def has_heads(self) -> bool:
        """Whether it can localize."""
        return bool(self._heads)

    def attention(self, crops: np.ndarray) -> AttentionMaps:
        """Return where the encoder looks in crops as `embed` takes them (see `SubCellNetwork.attention_maps`)."""
        network = self._network
        if not isinstance(network, SubCellNetwork):
            raise BadInput(f"{self.spec.name!r} has no pooler whose attention could be shown; SubCell encoders have.")
        self._check(crops)
        block, pooler = [], []
        with torch.inference_mode():
            for pixels in self._batches(crops):
                of_class, of_pooler = network.attention_maps(network.normalize(pixels))
                block.append(of_class.cpu().numpy())
                pooler.append(of_pooler.cpu().numpy())
        return AttentionMaps(np.concatenate(block), np.concatenate(pooler))

    def check_precision(self, crops: np.ndarray) -> float:
        """Return the least cosine between the embeddings of `crops` in this precision and in float32.

        Raise AtlasError when it is below 0.999: the precision does not suit these weights and pictures.
        """
        if self.precision == "float32":
            return 1.0
        here = torch.from_numpy(self.embed(crops))
        exact = torch.from_numpy(self._in_float32().embed(crops))
        cosine = float(functional.cosine_similarity(here, exact).min())
        if not cosine >= LEAST_COSINE:
            msg = (
                f"In {self.precision} the embeddings of {self.spec.name!r} stray from float32 (cosine {cosine:.4f}, "
                f"below {LEAST_COSINE}).\nUse --precision float32."
            )
            raise AtlasError(msg)
        return cosine

    def compile(self) -> None:
        """Let torch.compile make the network faster; the first batch of each size takes minutes."""
        if self.device.type == "cpu" and not any(shutil.which(name) for name in ("c++", "g++", "clang++")):
            raise BadInput("Compiling for the CPU needs a C++ compiler (g++ or clang++); install one, or leave it out.")
        self._run = torch.compile(self._network.__call__, dynamic=False)
        self._compiled = True

    def batch_size(self, height: int | None = None, width: int | None = None) -> int:
        """Return how many crops of a size (the spec's, when None) fit into memory at once."""
        height, width = height or self.spec.crop_px, width or self.spec.crop_px
        if self.device.type == "cuda":
            free = torch.cuda.mem_get_info(self.device)[0] + torch.cuda.memory_reserved(self.device)
            budget = int(0.7 * (free - torch.cuda.memory_allocated(self.device)))
        else:
            budget = CPU_BATCH_BYTES
        return min(max(1, budget // self._network.bytes_per_crop(height, width)), self._batch_limit)

    def _embed(self, crops: np.ndarray, *, blocks: tuple[int, ...], pooling: str, final_norm: bool) -> np.ndarray:
        """Embed crops by `blocks`, (N, len(blocks), dim) float32, in batches that fit into memory."""
        self._check(crops)
        found = np.empty((len(crops), len(blocks), self._network.poolings[pooling]), np.float32)
        start = 0
        while start < len(crops):
            try:
                with torch.inference_mode():
                    for pixels in self._batches(crops[start:]):
                        pooled = self._run(
                            self._network.normalize(pixels), blocks=blocks, pooling=pooling, final_norm=final_norm
                        )
                        rows = found[start : start + len(pooled)]  # fewer than computed where a batch was filled up
                        rows[:] = pooled[: len(rows)].float().cpu().numpy()
                        start += len(rows)
            except torch.OutOfMemoryError:
                tried = min(self.batch_size(*crops.shape[2:]), len(crops) - start)
                if tried == 1:
                    raise AtlasError(f"The memory of {self.device} is too small for a single crop.") from None
                self._batch_limit = tried // 2
                torch.cuda.empty_cache()
        if not np.isfinite(found).all():
            raise AtlasError(f"Embeddings overflow in {self.precision}; use --precision bfloat16 or float32.")
        return found

    def _batches(self, crops: np.ndarray) -> Iterator[Tensor]:
        """Yield batches of crops on the device, in the dtype given; a GPU copies the next while it computes one."""
        n = self.batch_size(*crops.shape[2:])
        parts = (self._filled_up(crops[start : start + n]) for start in range(0, len(crops), n))
        if self.device.type != "cuda":
            yield from (torch.from_numpy(part) for part in parts)
            return
        copying, computing = torch.cuda.Stream(self.device), torch.cuda.current_stream(self.device)  # type: ignore[no-untyped-call]
        ahead: tuple[Tensor, torch.cuda.Event] | None = None
        for part in [*parts, None]:
            following = None
            if part is not None:
                with torch.cuda.stream(copying):
                    copied = torch.from_numpy(part).pin_memory().to(self.device, non_blocking=True)
                    following = copied, copying.record_event()
            if ahead is not None:
                computing.wait_event(ahead[1])
                ahead[0].record_stream(computing)
                yield ahead[0]
            ahead = following

    def _filled_up(self, part: np.ndarray) -> np.ndarray:
        """Repeat the last crop until the batch is as long as the longest so far: a compiled network has one length."""
        if self._compiled:
            self._longest = max(self._longest, len(part))
            part = np.concatenate([part, np.repeat(part[-1:], self._longest - len(part), axis=0)])
        return np.ascontiguousarray(part)

    def _check(self, crops: np.ndarray) -> None:
        config = self.spec.network
        check_crops(crops, self.spec.channels, patch=config.patch_size, encoder=self.spec.name)
        if not config.any_size and crops.shape[2:] != (config.image_size, config.image_size):
            size = config.image_size
            raise BadInput(f"{self.spec.name!r} takes crops of {size} x {size} px; got {crops.shape[2:]}.")

    def _check_heads(self) -> None:
        if not self._heads:
            files = "\n".join(head.url for head in self.spec.heads)
            hint = f"Give its file after the encoder's, --weights ENCODER --weights HEAD:\n{files}" if files else ""
            raise BadWeights(f"No localization head of {self.spec.name!r} is loaded. {hint}".rstrip())


def describe_pooling(network: Network, pooling: str, *, final_norm: bool) -> str:
    """Return the pooling as the recipe says it."""
    if pooling == OWN:
        return network.own_pooling
    return pooling if final_norm else f"{pooling}, no final norm"


def check_pooling(network: Network, pooling: str) -> None:
    """Raise UnknownName when the network does not have this pooling."""
    if pooling not in network.poolings:
        raise UnknownName("pooling", pooling, network.poolings)


def load_encoder(
    name: str | EncoderSpec,
    *,
    weights: str | Path | Sequence[str | Path] = (),
    device: str | None = None,
    precision: str | None = None,
    readout: Readout | None = None,
    compiled: bool = False,
) -> Encoder:
    """Return the encoder `name` (see `specs.find_spec`) or one of a given spec, for inference.

    weights: local files, the network's first, localization heads after; `random` for seeded untrained weights; what the
    authors published when none is given, fetched into the cache. device: of torch; CUDA where there is one when None.
    precision: of the blocks, float32, bfloat16 or float16; the fastest that keeps the embedding when None (see
    `default_precision`); embeddings are float32 in any case. readout: another block or pooling than the published;
    blocks beyond it are not kept. compiled: let torch.compile make it faster; the first batch takes minutes.
    Raise UnknownName, BadWeights, BadInput or MissingExtra.
    """
    spec = name if isinstance(name, EncoderSpec) else find_spec(name)
    if precision is not None and precision not in PRECISIONS:
        raise UnknownName("precision", precision, PRECISIONS)
    readout = readout or Readout()
    device = choose_device(device)
    precision = precision or default_precision(device)
    files = [weights] if isinstance(weights, str | Path) else list(weights)
    network, sha256, head_files = load_network(spec, files)
    check_pooling(network, readout.pooling)
    if readout.block is not None and not 1 <= readout.block <= len(network.blocks):
        raise BadInput(f"{spec.name!r} has blocks 1 to {len(network.blocks)}; got {readout.block}.")
    if readout.block in (None, len(network.blocks)) and readout.pooling == OWN:
        heads = [read_head(spec, path) for path in head_files]
    elif files[1:]:
        raise BadInput("Localization heads read the last block by its own pooling; leave --block and --pooling out.")
    else:
        heads = []
    network.trim(readout.block or len(network.blocks))
    if precision != "float32":
        network.use_precision(PRECISIONS[precision])
    encoder = Encoder(
        spec,
        network,
        heads=heads,
        weights_sha256=sha256,
        device=device,
        precision=precision,
        readout=readout,
        in_float32=lambda: load_encoder(spec, weights=files, device=device, precision="float32", readout=readout),
    )
    if compiled:
        encoder.compile()
    return encoder


def load_encoder_of(recipe: Recipe, *, name: str | None = None, weights: Sequence[str | Path] = ()) -> Encoder:
    """Return the encoder that made embeddings of `recipe`, to embed more; `name` when its spec is a file."""
    spec = find_spec(name or recipe.encoder)
    if recipe.channels is not None:
        spec = spec.with_channels(recipe.channels)
    if recipe.crop_px != spec.crop_px:
        spec = spec.at_scale("training")
    network = make_network(spec)
    for pooling in network.poolings:
        for final_norm in (True, False):
            if describe_pooling(network, pooling, final_norm=final_norm) == recipe.pooling:
                readout = Readout(block=recipe.block, pooling=pooling, final_norm=final_norm)
                return load_encoder(spec, weights=weights, precision=recipe.precision, readout=readout)
    raise UnknownName("pooling", str(recipe.pooling), network.poolings)


def load_network(spec: EncoderSpec, files: Sequence[str | Path]) -> tuple[Network, str, list[Path]]:
    """Return the network with its weights, their sha256, and the files of the heads."""
    if files and str(files[0]) == RANDOM:
        with torch.device("cpu"):
            network = make_network(spec, on="cpu")
        seed_weights(network, RANDOM_SEED)
        return network, sha256_of_state(network), [Path(file) for file in files[1:]]
    if not files and spec.seed is not None:
        network = make_network(spec, on="cpu")
        assert isinstance(network, SubCellNetwork)
        seed_weights(network, spec.seed)
        aim_pooler(network, channel=spec.channels.index("protein"))
        return network, sha256_of_state(network), []
    paths = [Path(file) for file in files] or fetch_published(spec)
    network = make_network(spec)
    load_weights(network, paths[0], encoder=spec.name)
    return network, sha256_of_file(paths[0]), paths[1:]


def fetch_published(spec: EncoderSpec) -> list[Path]:
    """Return the published files of an encoder, its heads after it, from the cache or from the authors' address."""
    if spec.weights is None:
        raise BadWeights(f"{spec.name!r} needs your own weights: give the file with --weights. ({spec.note})")
    published: list[Published] = [spec.weights, *spec.heads]
    notice = f"{spec.name!r}, licence: {spec.licence}; {spec.origin}."
    try:
        return [fetch(file.url, sha256=file.sha256, notice=notice) for file in published]
    except BadWeights as exc:
        absent = [file.url for file in published if not cached_path(file.url).is_file()]
        if len(absent) == 1:
            raise
        what_happened = "\n".join(str(exc).splitlines()[:2])
        raise BadWeights(f"{what_happened}\n{how_to_get(absent)}") from exc


def make_network(spec: EncoderSpec, *, on: str = "meta") -> Network:
    """Return the network of a spec; on the meta device it has no memory, until weights are loaded."""
    config = spec.network
    with torch.device(on):
        if isinstance(config, NetworkConfig):
            return SubCellNetwork(config)
        if isinstance(config, OpenPhenomConfig):
            return OpenPhenomNetwork(config)
        from .timm_vit import TimmNetwork

        return TimmNetwork(config)


def read_head(spec: EncoderSpec, path: Path) -> LocalizationHead:
    """Return a localization head of a published file."""
    with torch.device("meta"):
        head = LocalizationHead(spec.dim, len(LOCALIZATIONS))
    load_head(head, path, encoder=spec.name)
    return head


def choose_device(device: str | None) -> str:
    """Return `device` if it can be used, CUDA or the CPU when None; raise BadInput when this machine lacks it."""
    if device is None:
        return "cuda" if torch.cuda.is_available() else "cpu"
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as exc:
        raise BadInput(f"The device {device!r} cannot be used on this machine; 'cpu' can.") from exc
    return device


def default_precision(device: str) -> str:
    """Return bfloat16 where matrix products are faster in it: on GPUs, and on processors that multiply it."""
    if device.startswith("cuda"):
        return "bfloat16" if torch.cuda.is_bf16_supported(including_emulation=False) else "float16"
    if device == "cpu":
        able: dict[str, bool] = getattr(torch.cpu, "get_capabilities", dict)()  # absent from older versions of torch
        return "bfloat16" if able.get("avx512_bf16") or able.get("amx_bf16") else "float32"
    return "float32"
