"""Weights: strict loading of published files, and seeded random ones.

A checkpoint is a flat dictionary of tensors, or one under the key `state_dict`. Loading accounts for every key: the
first that is of another shape, missing or extra is named and nothing is loaded.
"""

from __future__ import annotations

import hashlib
import json
import pickle
from collections.abc import Mapping
from pathlib import Path

import safetensors
import safetensors.torch
import torch
from torch import Tensor, nn

from ..errors import BadWeights
from ..writing import written_whole
from .network import Network

__all__ = ["load_head", "load_weights", "save_weights", "seed_weights", "sha256_of_state"]

HEAD_NAMES = {"layers.0": "0", "layers.1": "3", "layers.2": "6"}  # of a published head; the numbers between: dropout


def load_weights(network: Network, path: Path, *, encoder: str) -> None:
    """Load a published checkpoint into `network`; `encoder` names it in errors. Only tensors are unpickled."""
    names = {name: network.published_names(name) for name in network.state_dict()}
    load_strictly(network, path, names, unused=network.unused_prefixes, what=f"the weights of {encoder!r}")


def save_weights(network: Network, path: Path, *, half: bool = False) -> None:
    """Write the weights of `network` as `load_weights` reads them: safetensors under the published names.

    half: in float16, half as large; they are read as float32 again.
    """
    state: dict[str, Tensor] = {}
    for name, tensor in network.state_dict().items():
        keys = network.published_names(name)
        parts = tensor.detach().cpu().to(torch.float16 if half else torch.float32).chunk(len(keys))
        state |= {key: part.contiguous() for key, part in zip(keys, parts, strict=True)}
    with written_whole(path) as part:
        part.touch()
        mode = part.stat().st_mode  # as of any new file; safetensors makes one that nobody else may read
        safetensors.torch.save_file(state, part)
        part.chmod(mode)


def load_head(head: nn.Module, path: Path, *, encoder: str) -> None:
    """Load a published localization head."""
    names = {}
    for name in head.state_dict():
        layer, _, leaf = name.rpartition(".")
        names[name] = (f"{HEAD_NAMES[layer]}.{leaf}",)
    load_strictly(head, path, names, unused=(), what=f"a localization head of {encoder!r}")


def load_strictly(
    module: nn.Module, path: Path, names: Mapping[str, tuple[str, ...]], *, unused: tuple[str, ...], what: str
) -> None:
    """Fill `module` from a file. `names`: the keys that make each parameter, joined along the first dimension."""
    stored = read_checkpoint(path)
    wanted: dict[str, tuple[int, ...]] = {}
    for name, tensor in module.state_dict().items():
        rows = tensor.shape[0] // len(names[name]) if tensor.ndim else 0
        wanted |= dict.fromkeys(names[name], tensor.shape if len(names[name]) == 1 else (rows, *tensor.shape[1:]))
    problem = first_problem(stored, wanted, unused)
    if problem:
        is_head = set(stored) == {f"{number}.{leaf}" for number in HEAD_NAMES.values() for leaf in ("weight", "bias")}
        if is_head and "head" not in what:
            problem = "it is a localization head; the network's file comes first"
        raise BadWeights(f"{str(path)!r} does not hold {what}: {problem}.")
    state = {name: torch.cat([stored[key] for key in keys]).float() for name, keys in names.items()}
    module.load_state_dict(state, strict=True, assign=True)


def first_problem(
    stored: Mapping[str, Tensor], wanted: Mapping[str, tuple[int, ...]], unused: tuple[str, ...]
) -> str | None:
    """Name the first key that is of another shape, missing or extra; None when every key is accounted for."""
    for key, shape in wanted.items():
        if key in stored and tuple(stored[key].shape) != tuple(shape):
            return f"{key} has shape {tuple(stored[key].shape)}, not {tuple(shape)}"
    missing = [key for key in wanted if key not in stored]
    if missing:
        return f"{missing[0]} is missing" + (f" (and {len(missing) - 1} more)" if missing[1:] else "")
    extra = [key for key in stored if key not in wanted and not key.startswith(unused)]
    if extra:
        return f"{extra[0]} is not part of the network" + (f" (nor {len(extra) - 1} more)" if extra[1:] else "")
    for key in wanted:
        if not stored[key].is_floating_point() or not torch.isfinite(stored[key]).all():
            return f"{key} holds values that are no finite numbers"
    return None


def read_checkpoint(path: Path) -> Mapping[str, Tensor]:
    """Read a flat dictionary of tensors, PyTorch's or safetensors'; anything else raises BadWeights."""
    if not path.is_file():
        raise BadWeights(f"There is no weights file {str(path)!r}." + (" It is a folder." if path.is_dir() else ""))
    if not path.stat().st_size:
        raise BadWeights(f"The weights file {str(path)!r} is empty. Fetch it anew.")
    try:
        if is_safetensors(path):
            return safetensors.torch.load_file(path)
        with path.open("rb") as file:  # given a path, torch would go by the name
            stored = torch.load(file, map_location="cpu", weights_only=True)
    except (
        pickle.UnpicklingError, safetensors.SafetensorError, RuntimeError, EOFError, ValueError, KeyError, OSError,
    ) as exc:  # fmt: skip
        msg = (
            f"{str(path)!r} is not a readable weights file of plain tensors: it is damaged, of another format, or "
            "holds code, which is never run."
        )
        raise BadWeights(msg) from exc
    if isinstance(stored, dict) and isinstance(stored.get("state_dict"), dict):
        stored = stored["state_dict"]
    if not isinstance(stored, dict) or not all(isinstance(value, Tensor) for value in stored.values()):
        raise BadWeights(f"{str(path)!r} is not a flat dictionary of tensors, as a SubCell checkpoint is.")
    return stored


def is_safetensors(path: Path) -> bool:
    """Tell by the header; files named so have been pickles."""
    with path.open("rb") as file:
        n = int.from_bytes(file.read(8), "little")
        if not 2 <= n <= path.stat().st_size - 8:
            return False
        try:
            return isinstance(json.loads(file.read(min(n, 100_000_000))), dict)
        except ValueError:
            return False


def seed_weights(network: nn.Module, seed: int) -> None:
    """Fill `network` with seeded random weights: N(0, 1 / fan-in) for matrices, 0 for biases, 0.02 for positions."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            if name in ("class_token", "positions"):
                parameter.normal_(0, 0.02, generator=generator)
            elif parameter.ndim > 1:
                fan_in = parameter[0].numel()
                parameter.normal_(0, fan_in**-0.5, generator=generator)
            elif name.endswith("bias"):
                parameter.zero_()


def sha256_of_state(network: nn.Module) -> str:
    """Return a sha256 over names and values of all parameters, for weights that are in no file."""
    digest = hashlib.sha256()
    for name, tensor in sorted(network.state_dict().items()):
        digest.update(name.encode())
        digest.update(tensor.contiguous().numpy().tobytes())
    return digest.hexdigest()
