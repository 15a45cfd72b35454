"""An encoder: raw crops in, embeddings out, with the recipe that says how."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from .._version import __version__
from ..errors import AtlasError, BadInput, BadWeights, UnknownName
from ..recipe import Recipe
from .specs import ENCODERS, EncoderSpec
from .vit import SubCellNetwork
from .weights import aim_pooler, load_weights, seed_weights, sha256_of_file, sha256_of_state

__all__ = ["Encoder", "load_encoder"]

MIN_MAX_EPS = 1e-6  # as in SubCell's training code
RAW_DTYPES = (np.uint8, np.uint16)
PRECISIONS = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


class Encoder:
    """A SubCell network with its weights, its preprocessing and its recipe."""

    def __init__(
        self, spec: EncoderSpec, network: SubCellNetwork, *, weights_sha256: str, device: str, precision: str
    ) -> None:
        self.spec = spec
        self.device = torch.device(device)
        self.precision = precision
        self._network = network.to(self.device).eval()
        self._weights_sha256 = weights_sha256

    def recipe(self, *, masking: str) -> Recipe:
        """Return how embeddings of this encoder come to be; `masking` says what the crops show (cell or none)."""
        return Recipe(
            encoder=self.spec.name,
            dim=self.spec.dim,
            weights_sha256=self._weights_sha256,
            block=self.spec.network.n_blocks,
            pooling="gated attention",
            channels=self.spec.channels,
            crop_px=self.spec.crop_px,
            crop_um=round(self.spec.crop_um, 4),
            masking=masking,
            normalization="joint min-max over channels, after masking",
            precision=self.precision,
            code_version=__version__,
        )

    def embed(self, crops: np.ndarray) -> np.ndarray:
        """Embed raw crops, normalization included.

        crops: (N, C, H, W) uint8, uint16 or float intensities, channels in the order of `spec.channels`, H and W
        multiples of the patch. Returns (N, dim) float32, not scaled to unit length.
        """
        self._check(crops)
        if len(crops) == 0:
            return np.empty((0, self.spec.dim), np.float32)
        dtype = PRECISIONS[self.precision]
        with torch.inference_mode(), torch.autocast(self.device.type, dtype, enabled=dtype != torch.float32):
            pixels = torch.from_numpy(np.ascontiguousarray(crops)).to(self.device).float()
            try:
                return self._network(normalize(pixels)).float().cpu().numpy()
            except torch.OutOfMemoryError:
                msg = f"The GPU has too little memory for {len(crops)} crops at once; choose a smaller --batch-size."
                raise AtlasError(msg) from None

    def _check(self, crops: np.ndarray) -> None:
        n_channels, patch = len(self.spec.channels), self.spec.network.patch_size
        if crops.ndim != 4 or crops.shape[1] != n_channels:
            msg = (
                f"{self.spec.name!r} takes crops (N, {n_channels}, H, W) with channels "
                f"{', '.join(self.spec.channels)}; got shape {crops.shape}."
            )
            raise BadInput(msg)
        if crops.shape[2] % patch or crops.shape[3] % patch:
            msg = f"{self.spec.name!r} takes sides that are multiples of {patch} px; got {crops.shape[2:]}."
            raise BadInput(msg)
        if crops.dtype not in RAW_DTYPES and not np.issubdtype(crops.dtype, np.floating):
            raise BadInput(f"Crops are uint8, uint16 or float intensities; got {crops.dtype}.")
        if np.issubdtype(crops.dtype, np.floating) and not np.isfinite(crops).all():
            raise BadInput("Crops hold NaN or infinite values.")


def normalize(pixels: Tensor) -> Tensor:
    """Scale each crop of (N, C, H, W) to [0, 1] by the minimum and maximum over all its channels together."""
    low = pixels.amin(dim=(1, 2, 3), keepdim=True)
    high = pixels.amax(dim=(1, 2, 3), keepdim=True)
    return (pixels - low) / (high - low + MIN_MAX_EPS)


def load_encoder(
    name: str, *, weights: str | Path | Sequence[str | Path] = (), device: str | None = None, precision: str = "float32"
) -> Encoder:
    """Return the encoder `name` (see `ENCODERS`) with `weights`, local files, the network's first.

    `device` is a torch device; CUDA where there is one when None. `precision` is what matrix products are computed in:
    float32, bfloat16 or float16; embeddings are float32 in any case. Raise UnknownName or BadWeights.
    """
    if precision not in PRECISIONS:
        raise UnknownName("precision", precision, PRECISIONS)
    if name not in ENCODERS:
        raise UnknownName("encoder", name, ENCODERS, hint="See 'subcell-atlas encoders'.")
    spec = ENCODERS[name]
    network = SubCellNetwork(spec.network)
    weights = [weights] if isinstance(weights, str | Path) else weights
    if weights:
        if len(weights) > 1:
            raise BadWeights(f"One weights file is used, the encoder's; got {len(weights)}.")
        load_weights(network, Path(weights[0]), encoder=name)
        sha256 = sha256_of_file(Path(weights[0]))
    elif spec.seed is not None:
        seed_weights(network, spec.seed)
        aim_pooler(network, channel=spec.channels.index("protein"))
        sha256 = sha256_of_state(network)
    else:
        msg = f"The weights of {name!r} are needed: download {spec.weights_url}\nand give the file with --weights."
        raise BadWeights(msg)
    return Encoder(spec, network, weights_sha256=sha256, device=choose_device(device), precision=precision)


def choose_device(device: str | None) -> str:
    """Return `device` if it can be used, CUDA or the CPU when None; raise BadInput when this machine lacks it."""
    if device is None:
        return "cuda" if torch.cuda.is_available() else "cpu"
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as exc:
        raise BadInput(f"The device {device!r} cannot be used on this machine; 'cpu' can.") from exc
    return device
