"""The published weights of ESM-2: which there are, where they lie, and whether a folder holds them."""

from __future__ import annotations

import contextlib
import json
import pickle
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from ..box_operators import make_torchvision_importable
from ..errors import AtlasError, BadWeights, MissingExtra
from ..hashing import sha256_of_file
from .residues import LETTERS

__all__ = ["ESM", "EsmSpec", "Vocabulary", "Weights", "find_folder", "import_transformers", "is_cached", "load_weights"]

CONFIGURATION, VOCABULARY = "config.json", "vocab.txt"
WEIGHTS = ("model.safetensors", "pytorch_model.bin")  # the first that is there, whole or in parts with an index
INDEX = ".index.json"
N_TOKENS = 33  # of the published vocabulary
CLS, PAD, EOS = "<cls>", "<pad>", "<eos>"
NOT_ASKED = ("contact_head.", "rotary_embeddings.")  # weights without use here, and those the configuration gives
PUBLISHED = "published"


@dataclass(frozen=True, kw_only=True)
class EsmSpec:
    """One size of ESM-2. repository: on the Hub."""

    name: str
    repository: str
    dim: int
    layers: int
    license: str = "MIT"

    @property
    def origin(self) -> str:
        """Where its weights are published."""
        return f"https://huggingface.co/{self.repository}"

    @property
    def n_parameters(self) -> int:
        """How many numbers the weights are, without the heads for masked residues and contacts."""
        return self.layers * (12 * self.dim**2 + 13 * self.dim) + (N_TOKENS + 2) * self.dim


ESM: dict[str, EsmSpec] = {
    "esm2-8m": EsmSpec(name="esm2-8m", repository="facebook/esm2_t6_8M_UR50D", dim=320, layers=6),
    "esm2-35m": EsmSpec(name="esm2-35m", repository="facebook/esm2_t12_35M_UR50D", dim=480, layers=12),
    "esm2-150m": EsmSpec(name="esm2-150m", repository="facebook/esm2_t30_150M_UR50D", dim=640, layers=30),
    "esm2-650m": EsmSpec(name="esm2-650m", repository="facebook/esm2_t33_650M_UR50D", dim=1280, layers=33),
    "esm2-3b": EsmSpec(name="esm2-3b", repository="facebook/esm2_t36_3B_UR50D", dim=2560, layers=36),
    "esm2-15b": EsmSpec(name="esm2-15b", repository="facebook/esm2_t48_15B_UR50D", dim=5120, layers=48),
}


@dataclass(frozen=True)
class Vocabulary:
    """The tokens of a model. codes: (256,) those of ASCII letters; the others are of special tokens."""

    codes: np.ndarray
    cls: int
    pad: int
    eos: int


@dataclass(frozen=True)
class Weights:
    """A model of transformers and its vocabulary. origin: published, or the folder's name; sha256: of its files."""

    model: Any
    vocabulary: Vocabulary
    origin: str
    sha256: str


def import_transformers() -> Any:
    """Return transformers; raise MissingExtra when it is not installed, AtlasError when it does not go with torch."""
    make_torchvision_importable()
    try:
        import transformers
    except ModuleNotFoundError as exc:
        raise MissingExtra("transformers", "esm", "A protein language model (esm2-…)") from exc
    try:
        transformers.EsmModel  # noqa: B018  (imported when asked for)
    except (ImportError, RuntimeError) as exc:
        msg = f"transformers cannot be loaded: {first_line(exc)}\nInstall a version that goes with torch."
        raise AtlasError(msg) from exc
    return transformers


def is_cached(spec: EsmSpec) -> bool:
    """Tell whether the published weights are in the Hub's cache, and what runs them is installed."""
    if not all(find_spec(package) for package in ("transformers", "huggingface_hub")):
        return False
    from huggingface_hub import errors, snapshot_download

    try:
        return not missing_files(Path(snapshot_download(spec.repository, local_files_only=True)))
    except errors.LocalEntryNotFoundError:
        return False


def find_folder(spec: EsmSpec) -> Path:
    """Return the folder of the published weights in the Hub's cache, fetched if it is not there whole."""
    from huggingface_hub import errors, snapshot_download

    failures = (OSError, RuntimeError, ValueError, errors.HTTPError)  # type: ignore[attr-defined]
    reason = "the Hub cannot be reached"  # when it answers with what is in the cache
    try:
        folder = Path(snapshot_download(spec.repository, local_files_only=True))
        missing = missing_files(folder)
    except errors.LocalEntryNotFoundError:
        missing = [CONFIGURATION, VOCABULARY, WEIGHTS[0]]
    if not missing:
        return folder
    try:
        for weights in ("*.safetensors*", "pytorch_model*.bin*"):
            patterns = [CONFIGURATION, VOCABULARY, weights]
            folder = Path(snapshot_download(spec.repository, allow_patterns=patterns))
            if not missing_files(folder):
                return folder
    except failures as exc:
        reason = first_line(exc)
    msg = f"The weights of {spec.name!r} are not on this machine and cannot be fetched: {reason}"
    do = f"Run once with a connection, or get {', '.join(missing)} of {spec.origin} elsewhere and give their folder"
    raise BadWeights(f"{msg}\n{do} with --weights FOLDER.")


def load_weights(transformers: Any, spec: EsmSpec, folder: Path, *, precision: str, published: bool) -> Weights:
    """Load the model of a folder; raise BadWeights when it is not that of the spec."""
    if not folder.is_dir():
        what = "is a file; name the folder that it is in" if folder.is_file() else "is no folder"
        raise BadWeights(f"{str(folder)!r} {what}. {spec.name!r} is a folder with the files of {spec.origin}.")
    missing = missing_files(folder)
    if missing:
        raise BadWeights(f"{str(folder)!r} has no {missing[0]}. Get it from {spec.origin}.")
    check_configuration(spec, folder)
    vocabulary = read_vocabulary(folder)
    model = load_model(transformers, folder, precision)
    n_known = model.get_input_embeddings().num_embeddings
    if n_known <= max(vocabulary.codes.max(), vocabulary.cls, vocabulary.pad, vocabulary.eos):
        raise BadWeights(f"{VOCABULARY} in {str(folder)!r} is not of this model, which knows {n_known} tokens.")
    sha256 = "+".join(sha256_of_file(file) for file in weight_files(folder))
    return Weights(model, vocabulary, PUBLISHED if published else folder.resolve().name, sha256)


def missing_files(folder: Path) -> list[str]:
    """Return the names of the files that a model needs and a folder lacks."""
    needed = [folder / CONFIGURATION, folder / VOCABULARY, *weight_files(folder)]
    return [file.name for file in needed if not file.is_file()]


def weight_files(folder: Path) -> list[Path]:
    """Return the files that hold the weights in a folder, there or not."""
    for name in WEIGHTS:
        if (folder / name).is_file():
            return [folder / name]
        index = folder / f"{name}{INDEX}"
        if index.is_file():
            parts = read_json(index).get("weight_map")
            if not isinstance(parts, dict) or not parts:
                raise BadWeights(f"{str(index)!r} lists no files of weights. Fetch it anew.")
            return [folder / Path(part).name for part in sorted(set(map(str, parts.values())))]
    return [folder / WEIGHTS[0]]


def check_configuration(spec: EsmSpec, folder: Path) -> None:
    """Raise BadWeights, naming found and expected, when a folder's configuration is not that of the spec."""
    found = read_json(folder / CONFIGURATION)
    expected = {
        "model_type": "esm",
        "position_embedding_type": "rotary",  # absolute: ESM-1b
        "hidden_size": spec.dim,
        "num_hidden_layers": spec.layers,
    }
    for key, value in expected.items():
        if found.get(key) != value:
            msg = f"{str(folder)!r} does not hold {spec.name!r}: {key} is {found.get(key)!r}, not {value!r}."
            same = [
                name for name, other in ESM.items() if found.get("hidden_size") == other.dim and key == "hidden_size"
            ]
            raise BadWeights(f"{msg} It may be {same[0]!r}." if same else msg)
    if found.get("is_folding_model"):
        raise BadWeights(f"{str(folder)!r} does not hold {spec.name!r}: it is an ESMFold.")


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON object; raise BadWeights when it is none."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as exc:
        raise BadWeights(f"{str(path)!r} is no readable JSON: {first_line(exc)}") from exc
    if not isinstance(found, dict):
        raise BadWeights(f"{str(path)!r} holds no JSON object.")
    return found


def read_vocabulary(folder: Path) -> Vocabulary:
    """Read the tokens of a model, one a line in the order of their codes."""
    path = folder / VOCABULARY
    try:
        code_of = {line.strip(): code for code, line in enumerate(path.read_text(encoding="utf-8").splitlines())}
    except (OSError, ValueError) as exc:
        raise BadWeights(f"{str(path)!r} is not readable: {first_line(exc)}") from exc
    missing = [token for token in (CLS, PAD, EOS, *LETTERS) if token not in code_of]
    if missing:
        raise BadWeights(f"{str(path)!r} is no vocabulary of ESM-2: it lacks {missing[0]!r}.")
    codes = np.zeros(256, np.int64)
    for letter in LETTERS:
        codes[ord(letter)] = code_of[letter]
    return Vocabulary(codes, code_of[CLS], code_of[PAD], code_of[EOS])


def load_model(transformers: Any, folder: Path, precision: str) -> Any:
    """Load the model; raise BadWeights when its files are damaged or lack some of it."""
    import safetensors
    import torch

    try:
        with quiet(transformers):
            model, report = transformers.EsmModel.from_pretrained(
                folder,
                local_files_only=True,
                add_pooling_layer=False,
                attn_implementation="sdpa",
                dtype=getattr(torch, precision),
                output_loading_info=True,
            )
    except (
        OSError, RuntimeError, ValueError, TypeError, KeyError, EOFError, pickle.UnpicklingError,
        safetensors.SafetensorError,
    ) as exc:  # fmt: skip
        raise BadWeights(f"The weights in {str(folder)!r} cannot be loaded: {first_line(exc)}") from exc
    missing = sorted(key for key in report["missing_keys"] if not key.startswith(NOT_ASKED))
    if missing:
        more = f" (and {len(missing) - 1} more)" if missing[1:] else ""
        raise BadWeights(f"The weights in {str(folder)!r} are not whole: {missing[0]} is missing{more}.")
    angles = [buffer for name, buffer in model.named_buffers() if name.endswith("inv_freq")]
    if any(buffer.dtype != torch.float32 for buffer in angles):  # rounded, they are off by radians at a window's end
        msg = f"This version of transformers rounds the angles of positions to {precision}."
        raise AtlasError(f"{msg} Take a newer one, or --precision float32.")
    return model


@contextlib.contextmanager
def quiet(transformers: Any) -> Iterator[None]:
    """Keep transformers from telling of the weights that are not asked for, and from showing progress."""
    logging = transformers.utils.logging
    verbosity, progress = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        if progress:
            logging.enable_progress_bar()


def first_line(exc: BaseException) -> str:
    """Return the first line of an error's message, not too long."""
    return (str(exc).strip().splitlines() or [type(exc).__name__])[0][:200]
