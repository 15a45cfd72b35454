"""An encoder: raw crops in, embeddings out, with the recipe that says how."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from .._version import __version__
from ..devices import choose_device, fastest_precision
from ..errors import AtlasError, BadInput, BadWeights, RecipeMismatch, UnknownName
from ..hashing import sha256_of_file
from ..recipe import Recipe
from .fetch import NoConnection, cached_path, fetch, how_to_get
from .guards import check_crops
from .localizations import LOCALIZATIONS
from .network import Network
from .openphenom import OpenPhenomNetwork
from .readout import CLS, OWN, PATCHES, Readout
from .specs import (
    ENCODERS,
    TIMM,
    EncoderSpec,
    NetworkConfig,
    OpenPhenomConfig,
    Published,
    find_spec,
)
from .vit import LocalizationHead, SubCellNetwork
from .weights import load_head, load_weights, seed_weights, sha256_of_state

__all__ = [
    "FASTEST",
    "PRECISIONS",
    "RANDOM",
    "AttentionMaps",
    "Encoder",
    "load_encoder",
    "load_encoder_of",
]

PRECISIONS = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
FASTEST = "fastest"
RANDOM = "random"  # in place of a weights file: seeded, untrained, to compare with
RANDOM_SEED = 0
PUBLISHED, BUILT_IN = "published", "built in"  # other origins of weights
LEAST_COSINE = 0.999  # of an embedding in half precision to the same in float32
CPU_BATCH_BYTES = 2**28  # activations at once; more is not faster on a processor, whose caches are small
GPU_SHARE = 0.7  # of the memory that is free
LARGEST_BATCH = 256  # more is not faster on a GPU


@dataclass(frozen=True)
class AttentionMaps:
    """Where an encoder looks, over its patches. block: (N, heads, rows, columns); pooler: (N, 2, rows, columns)."""

    block: np.ndarray
    pooler: np.ndarray


@dataclass(frozen=True)
class Origin:
    """What weights an encoder has: where from, the sha256 of the network's, and of the heads' together."""

    weights: str  # published, random, built in, or the file's name
    sha256: str
    heads_sha256: str | None = None


class Encoder:
    """A network with its weights, its preprocessing and its recipe. Made by `load_encoder`."""

    def __init__(
        self,
        spec: EncoderSpec,
        network: Network,
        *,
        heads: Sequence[LocalizationHead] = (),
        origin: Origin,
        device: str,
        precision: str,
        readout: Readout,
        batch_size: int | None,
        in_float32: Callable[[], Encoder],
    ) -> None:
        self.spec = spec
        self.device = torch.device(device)
        self.precision = precision
        self.readout = replace(readout, block=readout.block or len(network.blocks))
        self.dim = network.poolings[readout.pooling]
        self._network = network.to(self.device).eval()
        self._heads = [head.to(self.device).eval() for head in heads]
        self._origin = origin
        self._in_float32 = in_float32  # makes the same encoder in full precision
        self._chosen_batch = batch_size
        self._batch_sizes: dict[tuple[int, ...], int] = {}  # (height, width) -> crops at once
        self._compiled: Callable[..., Tensor] | None = None
        self._copying: torch.cuda.Stream | None = None

    def __repr__(self) -> str:
        return f"Encoder({self.spec.name!r}, dim={self.dim}, device={str(self.device)!r}, precision={self.precision!r})"

    def recipe(self, *, masking: str, readout: Readout | None = None) -> Recipe:
        """Return how embeddings of this encoder come to be; `masking` says what the crops show (cell or none).

        readout: another one of its network's, whose embeddings no head reads.
        """
        config = self.spec.network
        read = readout or self.readout
        return Recipe(
            encoder=self.spec.name,
            dim=self._network.poolings[read.pooling],
            weights=self._origin.weights,
            weights_sha256=self._origin.sha256,
            heads_sha256=self._origin.heads_sha256 if read == self.readout else None,
            attention_heads=config.n_heads if isinstance(config, NetworkConfig) else None,
            block=read.block,
            pooling=describe_pooling(self._network, read),
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
        return self._embed_own(crops)

    @property
    def n_blocks(self) -> int:
        """How many blocks it has; the embedding is taken after the last."""
        return len(self._network.blocks)

    def embed_blocks(self, crops: np.ndarray, *, pooling: str = OWN, final_norm: bool = True) -> np.ndarray:
        """Embed crops, as `embed` takes them, by every block in one pass: (N, blocks, dim) float32.

        pooling: `own` (the one the network was trained with), `cls` or `patches` (mean); `final_norm`: whether the
        latter read tokens that went through the network's last normalization.
        """
        check_pooling(self._network, pooling)
        return self._embed(crops, blocks=tuple(range(1, self.n_blocks + 1)), ways=((pooling, final_norm),))

    def embed_readouts(self, crops: np.ndarray) -> dict[Readout, np.ndarray]:
        """Embed crops, as `embed` takes them, in every way to read this encoder, in one pass: (N, dim) float32 each.

        All blocks by each pooling; `cls` and `patches` with and without the final normalization, the others as the
        network's authors end them.
        """
        poolings = self._network.poolings
        ways = [(name, True) for name in poolings] + [(name, False) for name in poolings if name in (CLS, PATCHES)]
        blocks = tuple(range(1, self.n_blocks + 1))
        found = self._embed(crops, blocks=blocks, ways=ways)
        ends = np.cumsum([poolings[name] for name, _ in ways])
        by_way = dict(zip(ways, np.split(found, ends[:-1], axis=2), strict=True))
        return {
            Readout(block=block, pooling=name, final_norm=norm): by_way[name, norm][:, block - 1]
            for block in blocks
            for name, norm in ways
        }

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
        rows, columns = (side // self.spec.network.patch_size for side in crops.shape[2:])
        block = np.empty((len(crops), network.config.n_heads, rows, columns), np.float32)
        pooler = np.empty((len(crops), network.config.pooler_heads, rows, columns), np.float32)
        start = 0
        with torch.inference_mode():
            for pixels in self._batches(crops, self.batch_size(*crops.shape[2:])):
                stop = start + len(pixels)
                of_class, of_pooler = network.attention_maps(network.normalize(pixels))
                block[start:stop], pooler[start:stop] = of_class.cpu(), of_pooler.cpu()
                start = stop
        return AttentionMaps(block, pooler)

    def check_precision(self, crops: np.ndarray) -> float:
        """Return the least cosine between the embeddings of `crops` in this precision and in float32.

        Raise AtlasError when it is below 0.999: the precision does not suit these weights and pictures.
        """
        if self.precision == "float32":
            return 1.0
        uncompiled = self._embed_own(crops, compiled=False)
        here = torch.from_numpy(uncompiled)
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
        if not any(shutil.which(name) for name in ("cc", "gcc", "g++", "c++", "clang", "clang++")):
            raise BadInput("torch.compile needs a C++ compiler (g++ or clang++); install one, or leave --compile out.")
        self._compiled = torch.compile(self._network.__call__, dynamic=False)

    def batch_size(self, height: int | None = None, width: int | None = None) -> int:
        """Return how many crops of a size (the spec's, when None) are embedded at once; settled when first asked."""
        size = height or self.spec.crop_px, width or self.spec.crop_px
        if size not in self._batch_sizes:
            if self.device.type == "cuda":
                free = torch.cuda.mem_get_info(self.device)[0] + torch.cuda.memory_reserved(self.device)
                budget = int(GPU_SHARE * (free - torch.cuda.memory_allocated(self.device)))
            else:
                budget = CPU_BATCH_BYTES
            fitting = max(1, budget // self._network.bytes_per_crop(*size))
            self._batch_sizes[size] = self._chosen_batch or min(fitting, LARGEST_BATCH)
        return self._batch_sizes[size]

    def _embed_own(self, crops: np.ndarray, *, compiled: bool = True) -> np.ndarray:
        """Embed crops by this encoder's own readout, (N, dim) float32."""
        way = (self.readout.pooling, self.readout.final_norm)
        return self._embed(crops, blocks=(self.n_blocks,), ways=(way,), compiled=compiled)[:, 0]

    def _embed(
        self, crops: np.ndarray, *, blocks: Sequence[int], ways: Sequence[tuple[str, bool]], compiled: bool = True
    ) -> np.ndarray:
        """Embed crops by `blocks`, each in several ways, side by side, in batches that fit into memory.

        Returns (N, len(blocks), dims of all ways) float32.
        """
        crops = np.asarray(crops)
        self._check(crops)
        network = self._compiled if compiled and self._compiled is not None else self._network.__call__
        run = partial(network, blocks=blocks, ways=ways)
        dim = sum(self._network.poolings[pooling] for pooling, _ in ways)
        found = np.empty((len(crops), len(blocks), dim), np.float32)
        size, start = crops.shape[2:], 0
        while start < len(crops):
            n, failed = self.batch_size(*size), False
            try:
                for pooled in self._pooled(crops[start:], n, run, fill=network is self._compiled):
                    rows = found[start : start + len(pooled)]  # fewer than pooled where a batch was filled up
                    rows[:] = pooled[: len(rows)].float().cpu().numpy()
                    start += len(rows)
            except torch.OutOfMemoryError:
                failed = True
            if failed:  # outside of the handler, which would hold on to the memory of what failed
                self._halve(size, tried=min(n, len(crops) - start))
        if not np.isfinite(found).all():
            hint = "" if self.precision == "float32" else "; use --precision bfloat16 or float32"
            raise AtlasError(f"Embeddings are not finite in {self.precision}{hint}.")
        return found

    @torch.inference_mode()
    def _pooled(self, crops: np.ndarray, n: int, run: Callable[[Tensor], Tensor], *, fill: bool) -> Iterator[Tensor]:
        """Yield the embeddings of batches, each after the next was begun: a GPU goes on while one is fetched."""
        waiting: Tensor | None = None
        for pixels in self._batches(crops, n, fill=fill):
            pooled = run(self._network.normalize(pixels))
            if waiting is not None:
                yield waiting
            waiting = pooled
        if waiting is not None:
            yield waiting

    def _halve(self, size: tuple[int, ...], *, tried: int) -> None:
        if tried == 1:
            raise AtlasError(f"The memory of {self.device} is too small for a single crop.")
        self._batch_sizes[size] = tried // 2
        if self.device.type == "cuda":
            torch.cuda.empty_cache()

    def _batches(self, crops: np.ndarray, n: int, *, fill: bool = False) -> Iterator[Tensor]:
        """Yield batches of `n` crops on the device, in the dtype given; a GPU copies one while it computes another.

        `fill`: repeat the last crop until the batch has `n`: a compiled network has one length.
        """
        for first in range(0, len(crops), n):
            part = crops[first : first + n]
            if fill and len(part) < n:
                part = np.concatenate([part, np.repeat(part[-1:], n - len(part), axis=0)])
            native = part.astype(part.dtype.newbyteorder("="), copy=False)
            pixels = torch.from_numpy(np.require(native, requirements=["C", "W"]))
            if self.device.type != "cuda":
                yield pixels.to(self.device)
                continue
            if self._copying is None:
                self._copying = torch.cuda.Stream(self.device)  # type: ignore[no-untyped-call]
            with torch.cuda.stream(self._copying):
                copied = pixels.pin_memory().to(self.device, non_blocking=True)
            computing = torch.cuda.current_stream(self.device)
            computing.wait_stream(self._copying)
            copied.record_stream(computing)
            yield copied

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


def describe_pooling(network: Network, readout: Readout) -> str:
    """Return the pooling as the recipe says it."""
    return network.own_pooling if readout.pooling == OWN else readout.way


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
    block: int | None = None,
    pooling: str = OWN,
    final_norm: bool = True,
    with_heads: bool = True,
    batch_size: int | None = None,
    compiled: bool = False,
) -> Encoder:
    """Return the encoder `name` (see `specs.find_spec`) or one of a given spec, for inference.

    weights: local files, the network's first, localization heads after; `random` for seeded untrained weights; what
    the authors published when none is given, fetched into the cache.
    device: of torch; CUDA where there is one when None.
    precision: of the blocks, float32, bfloat16 or float16, or the `fastest` of them that keeps the embedding to a
    cosine of 0.999 (see `fastest_precision`); when None, float32 on a processor, the fastest on a GPU. Embeddings are
    float32 in any case.
    block, counted from 1, and pooling (own, cls, patches): another output than the published one; blocks beyond are not
    kept. final_norm: whether cls and patches read tokens that went through the network's last normalization.
    with_heads: whether to fetch the published heads.
    batch_size: crops at once; as memory allows when None.
    compiled: let torch.compile make it faster; the first batch takes minutes.
    Raise UnknownName, BadWeights, BadInput or MissingExtra.
    """
    spec = name if isinstance(name, EncoderSpec) else find_spec(name)
    if precision is not None and precision not in (*PRECISIONS, FASTEST):
        raise UnknownName("precision", precision, [*PRECISIONS, FASTEST])
    readout = Readout(block=block, pooling=pooling, final_norm=final_norm)
    device = choose_device(device)
    if precision == FASTEST or (precision is None and device.startswith("cuda")):
        precision = fastest_precision(device)
    precision = precision or "float32"
    files = [weights] if isinstance(weights, str | Path) else list(weights)
    network, origin = load_network(spec, files)
    check_pooling(network, pooling)
    if block is not None and not 1 <= block <= len(network.blocks):
        raise BadInput(f"{spec.name!r} has blocks 1 to {len(network.blocks)}; got {block}.")
    published = block in (None, len(network.blocks)) and pooling == OWN
    if files[1:] and not published:
        raise BadInput("Localization heads read the last block by its own pooling; leave --block and --pooling out.")
    if files[1:] and origin.weights == RANDOM:
        raise BadInput("Localization heads tell nothing of a network with random weights; leave them out.")
    wanted = spec.heads if published and with_heads else ()
    head_files = [Path(file) for file in files[1:]] if files else published_files(spec, wanted)
    heads = [read_head(spec, path) for path in head_files]
    heads_sha256 = "+".join(sha256_of_file(path) for path in head_files) or None
    network.trim(readout.block or len(network.blocks))
    if precision != "float32":
        network.use_precision(PRECISIONS[precision])
    encoder = Encoder(
        spec,
        network,
        heads=heads,
        origin=replace(origin, heads_sha256=heads_sha256),
        device=device,
        precision=precision,
        readout=readout,
        batch_size=batch_size,
        in_float32=lambda: load_encoder(
            spec,
            weights=files,
            device=device,
            precision="float32",
            block=block,
            pooling=pooling,
            final_norm=final_norm,
            with_heads=False,
        ),
    )
    if compiled:
        encoder.compile()
    return encoder


def load_encoder_of(recipe: Recipe, *, name: str | None = None, weights: Sequence[str | Path] = ()) -> Encoder:
    """Return the encoder that made embeddings of `recipe`, to embed more; `name`: the file of its spec, if it has one.

    Raise RecipeMismatch when it is another's, BadWeights when its weights were a file and are not given.
    """
    if name is None and recipe.encoder not in ENCODERS and not recipe.encoder.startswith(TIMM):
        raise BadInput(f"The atlas was made by {recipe.encoder!r}: give --encoder FILE.toml, which describes it.")
    spec = find_spec(name or recipe.encoder)
    if spec.name != recipe.encoder:
        raise RecipeMismatch(f"The atlas was made by {recipe.encoder!r}, not {spec.name!r}.")
    if not weights and recipe.weights == RANDOM:
        weights = [RANDOM]
    elif not weights and recipe.weights not in (None, PUBLISHED, BUILT_IN):
        known = f"{recipe.weights!r} (sha256 {(recipe.weights_sha256 or '')[:12]}…)"
        raise BadWeights(f"The atlas was made with the weights {known}: give the file with --weights.")
    if recipe.channels is not None:
        spec = spec.with_channels(recipe.channels)
    if recipe.crop_px != spec.crop_px:
        spec = spec.at_scale("training")
    network = make_network(spec)
    for pooling in network.poolings:
        for final_norm in (True, False):
            if describe_pooling(network, Readout(pooling=pooling, final_norm=final_norm)) == recipe.pooling:
                return load_encoder(
                    spec,
                    weights=weights,
                    precision=recipe.precision,
                    block=recipe.block,
                    pooling=pooling,
                    final_norm=final_norm,
                    with_heads=False,
                )
    raise UnknownName("pooling", str(recipe.pooling), network.poolings)


def load_network(spec: EncoderSpec, files: Sequence[str | Path]) -> tuple[Network, Origin]:
    """Return the network with its weights, and where they are from."""
    if files and str(files[0]).lower() == RANDOM:
        network = make_network(spec, on="cpu")
        seed_weights(network, RANDOM_SEED)
        return network, Origin(RANDOM, sha256_of_state(network))
    if files:
        path, origin = Path(files[0]), Path(files[0]).name
    elif spec.own_weights is not None:
        path, origin = spec.own_weights, BUILT_IN
    elif spec.weights is not None:
        path, origin = published_files(spec, [spec.weights])[0], PUBLISHED
    else:
        raise BadWeights(f"{spec.name!r} needs your own weights: give the file with --weights. ({spec.note})")
    network = make_network(spec)
    load_weights(network, path, encoder=spec.name)
    sha256 = sha256_of_file(path)
    if origin == PUBLISHED and spec.weights and spec.weights.sha256 not in (None, sha256):
        msg = f"{str(path)!r} is not the published file (its sha256 is {sha256[:12]}…).\nDelete it; it is fetched anew."
        raise BadWeights(msg)
    return network, Origin(origin, sha256)


def published_files(spec: EncoderSpec, files: Sequence[Published]) -> list[Path]:
    """Return published files of an encoder, from the cache or from the authors' address."""
    notice = f"{spec.name!r}, licence: {spec.licence}; {spec.origin}."
    try:
        return [fetch(file.url, sha256=file.sha256, notice=notice) for file in files]
    except BadWeights as exc:
        wanted = [file.url for file in (spec.weights, *spec.heads) if file is not None]
        absent = [url for url in wanted if not cached_path(url).is_file()]
        if len(absent) == 1 or not isinstance(exc, NoConnection):
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
