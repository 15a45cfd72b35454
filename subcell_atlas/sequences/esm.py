"""ESM-2, protein language models of six sizes (Lin et al., Science 379, 1123, 2023), by way of transformers.

A sequence's vector is the mean over its residues of the last hidden state, after the final layer norm and without the
tokens for beginning and end. A protein longer than a window is read in windows; a residue in two has the mean of both.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from .._version import __version__
from ..errors import AtlasError, UnknownName
from ..recipe import Recipe
from .esm_weights import ESM, EsmSpec, Weights, find_folder, import_transformers, load_weights
from .residues import check_sequences

__all__ = ["ESM", "OVERLAP", "PRECISIONS", "WINDOW", "EsmEncoder", "EsmSpec", "load_esm"]

WINDOW = 1022  # residues; with the tokens for beginning and end the 1,024 that ESM-2 was trained on
OVERLAP = 256  # residues; a quarter of a window: what is near the edge of one has neighbors in another
PRECISIONS = ("float32", "bfloat16", "float16")
CPU_TOKENS = 1024  # at once: one window; more is slower on a processor, whose caches are small
GPU_TOKENS = 65_536  # at once, at most, on a GPU
GPU_SHARE = 0.7  # of the memory that is free
VALUES_PER_TOKEN = 32  # at once, for each of `dim`: the widest layer has 4, in some copies
SMALLER = "Take a smaller size, or --device cpu."
LEAST_FULL = 0.8  # the shortest of a batch to the longest: the rest would be padding


class Piece(NamedTuple):
    """What is embedded at once: the residues of a sequence from `start` to `stop`."""

    sequence: int
    start: int
    stop: int

    @property
    def length(self) -> int:
        """How many residues it has."""
        return self.stop - self.start


class EsmEncoder:
    """An ESM-2 with its weights and its recipe. Made by `load_esm`."""

    note: str | None = None

    def __init__(
        self,
        spec: EsmSpec,
        weights: Weights,
        *,
        device: str,
        precision: str,
        window: int = WINDOW,
        overlap: int = OVERLAP,
    ) -> None:
        self.spec = spec
        self.name = spec.name
        self.dim = spec.dim
        self.device = device
        self.precision = precision
        self.window = window
        self.overlap = overlap
        self._model = weights.model.to(device).eval()
        self._vocabulary = weights.vocabulary
        self._weights = weights
        self._n_tokens: int | None = None  # at once

    def __repr__(self) -> str:
        return f"EsmEncoder({self.name!r}, dim={self.dim}, device={self.device!r}, precision={self.precision!r})"

    def recipe(self) -> Recipe:
        """Return how vectors of this encoder come to be."""
        return Recipe(
            encoder=self.name,
            dim=self.dim,
            weights=self._weights.origin,
            weights_sha256=self._weights.sha256,
            block=self.spec.layers,
            pooling="mean over residues",
            normalization=f"windows of {self.window} residues, {self.overlap} of them shared",
            precision=self.precision,
            code_version=__version__,
        )

    def embed(self, sequences: Sequence[str], *, progress: Callable[[int], None] | None = None) -> np.ndarray:
        """Return the vectors of sequences: (N, dim) float32.

        `progress` is called with the number of sequences that are done, after each batch. Raise BadInput for what is no
        sequence.
        """
        found = np.empty((len(sequences), self.dim), np.float32)
        n_done = 0
        for places, vectors in self.batches(sequences):
            found[places] = vectors
            n_done += len(places)
            if progress is not None:
                progress(n_done)
        return found

    def batches(self, sequences: Sequence[str]) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Yield places in `sequences` and the vectors of those, until all were given: (n,) int, (n, dim) float32.

        Longest first: what does not fit into memory shows at once.
        """
        check_sequences(sequences)
        pieces = [
            Piece(i, *limits)
            for i, residues in enumerate(sequences)
            for limits in cut(len(residues), window=self.window, overlap=self.overlap)
        ]
        pieces.sort(key=lambda piece: -piece.length)
        n_left = np.bincount([piece.sequence for piece in pieces], minlength=len(sequences))
        sums: dict[int, np.ndarray] = {}  # of sequences of which a piece is done
        for batch, pooled in self._pooled(pieces, sequences):
            done = []
            for piece, vector in zip(batch, pooled, strict=True):
                sums[piece.sequence] = sums.get(piece.sequence, 0) + vector
                n_left[piece.sequence] -= 1
                if not n_left[piece.sequence]:
                    done.append(piece.sequence)
            if done:
                yield np.array(done), np.stack([sums.pop(i) for i in done])

    def _pooled(
        self, pieces: Sequence[Piece], sequences: Sequence[str]
    ) -> Iterator[tuple[Sequence[Piece], np.ndarray]]:
        """Yield the pieces, in order, by as many as fit into memory, and what each adds to its sequence's vector."""
        import torch

        first = 0
        while first < len(pieces):
            n, failed = fitting(pieces, first, self.n_tokens()), False
            batch = pieces[first : first + n]
            try:
                pooled = self._run(batch, sequences)
            except torch.OutOfMemoryError:
                failed = True
            if failed:  # outside of the handler, which would hold on to the memory of what failed
                self._halve(batch)
                continue
            if not np.isfinite(pooled).all():
                hint = "" if self.precision == "float32" else "; use --precision bfloat16 or float32"
                raise AtlasError(f"Vectors of {self.name!r} are not finite in {self.precision}{hint}.")
            yield batch, pooled
            first += n

    def _run(self, batch: Sequence[Piece], sequences: Sequence[str]) -> np.ndarray:
        """Return the sum over residues of hidden states, each weighted by its part of the mean: (n, dim) float32."""
        import torch

        longest = batch[0].length + 2
        tokens = np.full((len(batch), longest), self._vocabulary.pad, np.int64)
        weights = np.zeros((len(batch), longest), np.float32)
        for row, piece in enumerate(batch):
            residues = sequences[piece.sequence]
            end = piece.length + 1
            tokens[row, 0], tokens[row, end] = self._vocabulary.cls, self._vocabulary.eos
            letters = np.frombuffer(residues[piece.start : piece.stop].encode("ascii"), np.uint8)
            tokens[row, 1:end] = self._vocabulary.codes[letters]
            weights[row, 1:end] = parts_of_mean(piece, len(residues), window=self.window, overlap=self.overlap)
        padded = bool(batch[-1].length < batch[0].length)
        with torch.inference_mode():
            inputs = torch.from_numpy(tokens).to(self.device)
            mask = inputs.ne(self._vocabulary.pad).long() if padded else None
            hidden = self._model(input_ids=inputs, attention_mask=mask).last_hidden_state  # (n, tokens, dim)
            pooling = torch.from_numpy(weights).to(self.device).unsqueeze(1)  # (n, 1, tokens)
            return torch.bmm(pooling, hidden.float()).squeeze(1).cpu().numpy()

    def n_tokens(self) -> int:
        """Return how many tokens are embedded at once; settled when first asked."""
        if self._n_tokens is None:
            self._n_tokens = CPU_TOKENS
            if self.device.startswith("cuda"):
                import torch

                free = torch.cuda.mem_get_info(self.device)[0]
                bytes_per_token = VALUES_PER_TOKEN * self.dim * (4 if self.precision == "float32" else 2)
                self._n_tokens = min(GPU_TOKENS, int(GPU_SHARE * free / bytes_per_token))
        return self._n_tokens

    def _halve(self, batch: Sequence[Piece]) -> None:
        if len(batch) == 1:
            raise AtlasError(f"{too_small(self.device, self.spec)} and {batch[0].length} residues. {SMALLER}")
        self._n_tokens = len(batch) // 2 * (batch[0].length + 2)
        if self.device.startswith("cuda"):
            import torch

            torch.cuda.empty_cache()


def cut(length: int, *, window: int, overlap: int) -> list[tuple[int, int]]:
    """Return where the windows over a sequence begin and end; one, if it is not longer than a window."""
    starts = range(0, max(length - overlap, 1), window - overlap)
    return [(start, min(start + window, length)) for start in starts]


def parts_of_mean(piece: Piece, length: int, *, window: int, overlap: int) -> np.ndarray:
    """Return the part that each residue of a piece has in the mean of its sequence: (piece.length,), in all 1."""
    n_windows = np.zeros(length)
    for start, stop in cut(length, window=window, overlap=overlap):
        n_windows[start:stop] += 1
    return 1 / (n_windows[piece.start : piece.stop] * length)


def fitting(pieces: Sequence[Piece], first: int, n_tokens: int) -> int:
    """Return how many pieces, longest first, make a batch from the `first` on: at least one."""
    longest = pieces[first].length + 2
    most = max(1, n_tokens // longest)
    return sum(piece.length + 2 >= LEAST_FULL * longest for piece in pieces[first : first + most])


def load_esm(
    name: str | EsmSpec,
    *,
    weights: str | Path | None = None,
    device: str | None = None,
    precision: str | None = None,
) -> EsmEncoder:
    """Return the ESM-2 of a name in `ESM`, or of a given spec, for inference.

    weights: a folder with config.json, vocab.txt and the weights, as on the Hub; what is published when None, from the
    Hub's cache, fetched if it is not there.
    device: of torch; CUDA where there is one when None.
    precision: float32, bfloat16 or float16; when None, float32 on a processor, one of the others on a GPU. Vectors are
    float32 in any case.
    Raise UnknownName, BadWeights, BadInput or MissingExtra.
    """
    if not isinstance(name, EsmSpec) and name not in ESM:
        raise UnknownName("protein language model", name, ESM)
    spec = name if isinstance(name, EsmSpec) else ESM[name]
    if precision is not None and precision not in PRECISIONS:
        raise UnknownName("precision", precision, PRECISIONS)
    transformers = import_transformers()
    import torch

    from ..devices import choose_device, fastest_precision  # torch comes with it

    device = choose_device(device)
    precision = precision or (fastest_precision(device) if device.startswith("cuda") else "float32")
    folder = find_folder(spec) if weights is None else Path(weights)
    loaded = load_weights(transformers, spec, folder, precision=precision, published=weights is None)
    try:
        return EsmEncoder(spec, loaded, device=device, precision=precision)
    except torch.OutOfMemoryError as exc:
        raise AtlasError(f"{too_small(device, spec)}. {SMALLER}") from exc


def too_small(device: str, spec: EsmSpec) -> str:
    """Return the beginning of a sentence about memory that does not suffice."""
    return f"The memory of {device} is too small for {spec.name!r}"
