"""How an encoder is trained: what a configuration may say, with the published values as defaults.

Read from TOML, one table for each class here. A key that does not exist is refused by name.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import UnionType
from typing import Any, get_args, get_type_hints

from ..encoders.specs import find_spec, read_toml
from ..errors import BadInput, UnknownName
from .augment import Augmentations

__all__ = [
    "CONFIGS",
    "BatchConfig",
    "ObjectiveConfig",
    "OptimizerConfig",
    "PretrainConfig",
    "SimulatedConfig",
    "read_config",
]

CONFIG_FOLDER = Path(__file__).with_name("configs")
CONFIGS = ("demo", "subcell-mae", "subcell-vit")
PHOTOMETRIC = ("second", "both")
PRECISIONS = ("float32", "bfloat16")


@dataclass(frozen=True, kw_only=True)
class ObjectiveConfig:
    """The losses. reconstruction, cell, protein: their weights; one of weight 0 is left out.

    projection_layers: hidden ones of the head through which the cell and the protein loss see the embedding.
    photometric: the views whose intensities are changed, `second` or `both`. fixed_positions: sines that are not
    trained, as in masked autoencoders.
    """

    reconstruction: float = 1.0
    cell: float = 1.0
    protein: float = 0.1
    mask_ratio: float = 0.25
    cell_temperature: float = 0.1
    protein_temperature: float = 0.1
    photometric: str = "second"
    fixed_positions: bool = True
    pooler_dropout: float = 0.2
    projection_layers: int = 2
    projection_hidden: int = 8192
    projection_dim: int = 512
    decoder_width: int = 512
    decoder_blocks: int = 8
    decoder_heads: int = 16
    decoder_mlp_width: int = 2048


@dataclass(frozen=True, kw_only=True)
class BatchConfig:
    """A batch: this many antibodies, and cells of each. fewest_cells: antibodies with fewer are left out."""

    antibodies: int = 112
    cells: int = 8
    fewest_cells: int = 2


@dataclass(frozen=True, kw_only=True)
class OptimizerConfig:
    """AdamW. learning_rate: for 256 crops, it grows with the batch; it rises over the warm-up and falls linearly.

    An epoch is as many batches as it takes to meet every antibody once. final_share: of the learning rate, at the end.
    head_weight_decay: of pooler and projection heads. clip: the longest gradient.
    """

    learning_rate: float = 1e-4
    weight_decay: float = 0.05
    head_weight_decay: float = 0.01
    beta1: float = 0.9
    beta2: float = 0.95
    epochs: int = 300
    warmup_epochs: int = 5
    final_share: float = 0.001
    clip: float = 1.0
    precision: str = "float32"


@dataclass(frozen=True, kw_only=True)
class SimulatedConfig:
    """A simulated proteome to train on, in place of a manifest."""

    proteins: int
    cells: int
    seed: int


@dataclass(frozen=True, kw_only=True)
class PretrainConfig:
    """All of it. encoder: the network that is trained, a name or a FILE.toml; seed: of everything random."""

    encoder: str
    seed: int = 42
    objective: ObjectiveConfig = field(default_factory=ObjectiveConfig)
    batches: BatchConfig = field(default_factory=BatchConfig)
    augmentations: Augmentations = field(default_factory=Augmentations)
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    simulated: SimulatedConfig | None = None

    def as_dict(self) -> dict[str, Any]:
        """Return all of it in plain values."""
        return dataclasses.asdict(self)


def read_config(name: str) -> PretrainConfig:
    """Return the configuration that `name` means: one of `CONFIGS`, or a TOML file. Raise BadInput or UnknownName."""
    if not name.endswith(".toml"):
        if name not in CONFIGS:
            raise UnknownName("configuration", name, [*CONFIGS, "FILE.toml"])
        path = CONFIG_FOLDER / f"{name}.toml"
    else:
        path = Path(name)
    config: PretrainConfig = read_table(PretrainConfig, read_toml(path, "The configuration"), str(path))
    check(config, str(path))
    return config


def read_table(kind: type[Any], found: Mapping[str, Any], where: str) -> Any:
    """Make a `kind` of a table; raise BadInput or UnknownName naming the key that is wrong."""
    hints = get_type_hints(kind)
    values: dict[str, Any] = {}
    for key, value in found.items():
        if key not in hints:
            raise UnknownName(f"key of {where}", key, hints)
        wanted = hints[key]
        wanted = get_args(wanted)[0] if isinstance(wanted, UnionType) else wanted
        if isinstance(wanted, type) and dataclasses.is_dataclass(wanted):
            if not isinstance(value, dict):
                raise BadInput(f"In {where} {key!r} is {value!r}; it must be a table, [{key}].")
            values[key] = read_table(wanted, value, f"{where}, [{key}]")
        else:
            values[key] = read_value(value, wanted, f"In {where} {key!r}")
    for name, part in kind.__dataclass_fields__.items():
        required = part.default is dataclasses.MISSING and part.default_factory is dataclasses.MISSING
        if required and name not in values:
            raise BadInput(f"{where} lacks {name!r}.")
    try:
        return kind(**values)
    except ValueError as exc:
        raise BadInput(f"In {where}: {exc}") from None


def read_value(value: Any, wanted: Any, what: str) -> Any:
    """Return `value` as a `wanted` (str, bool, int, float, or a tuple of floats); raise BadInput otherwise."""
    if wanted in (str, bool) and isinstance(value, wanted):
        return value
    if wanted in (int, float) and isinstance(value, int | wanted) and not isinstance(value, bool) and value >= 0:
        return wanted(value)
    parts = get_args(wanted)
    if parts and isinstance(value, list) and len(value) == len(parts):
        return tuple(read_value(one, part, what) for one, part in zip(value, parts, strict=True))
    kinds = {str: "a text", bool: "true or false", int: "a whole number, 0 or more", float: "a number, 0 or more"}
    raise BadInput(f"{what} is {value!r}; it must be {kinds.get(wanted, f'a list of {len(parts)} numbers')}.")


def check(config: PretrainConfig, where: str) -> None:
    """Raise BadInput for values that cannot be."""
    objective, batches, optimizer = config.objective, config.batches, config.optimizer
    find_spec(config.encoder)
    rules = {
        "one of reconstruction, cell and protein must be above 0": (
            objective.reconstruction + objective.cell + objective.protein > 0
        ),
        "mask_ratio must lie between 0 and 1": (
            0 < objective.mask_ratio < 1 or (objective.mask_ratio == 0 and not objective.reconstruction)
        ),
        "temperatures must be above 0": min(objective.cell_temperature, objective.protein_temperature) > 0,
        f"photometric must be one of {', '.join(PHOTOMETRIC)}": objective.photometric in PHOTOMETRIC,
        "pooler_dropout must be below 1": objective.pooler_dropout < 1,
        "decoder_width must be a multiple of decoder_heads and of 4": (
            objective.decoder_heads > 0
            and objective.decoder_width % objective.decoder_heads == 0
            and objective.decoder_width % 4 == 0
        ),
        "sizes of heads and decoder must be above 0": (
            min(objective.projection_hidden, objective.projection_dim, objective.decoder_mlp_width) > 0
            and min(objective.decoder_width, objective.decoder_blocks) > 0
        ),
        "a batch needs at least 2 antibodies and 2 cells of each": min(batches.antibodies, batches.cells) >= 2,
        "fewest_cells must be at least 2: a cell alone has none to agree with": batches.fewest_cells >= 2,
        "epochs must be above 0, and warmup_epochs below it": optimizer.epochs > optimizer.warmup_epochs,
        "learning_rate and clip must be above 0": min(optimizer.learning_rate, optimizer.clip) > 0,
        "beta1 and beta2 must be below 1": max(optimizer.beta1, optimizer.beta2) < 1,
        f"precision must be one of {', '.join(PRECISIONS)}": optimizer.precision in PRECISIONS,
    }
    for rule, held in rules.items():
        if not held:
            raise BadInput(f"In {where}: {rule}.")
