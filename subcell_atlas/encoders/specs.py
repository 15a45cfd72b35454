"""Which encoders there are. One frozen spec each: what it eats, what it gives, where it comes from.

Facts about SubCell: the configuration files and model list of CellProfiling/SubCellPortable (MIT).
"""

from __future__ import annotations

import dataclasses
import json
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, ClassVar

from ..errors import BadInput, UnknownName
from ..writing import written_whole

__all__ = [
    "CHANNELS",
    "ENCODERS",
    "EncoderSpec",
    "NetworkConfig",
    "Published",
    "find_spec",
    "read_spec",
    "write_spec",
]

HPA_PIXEL_SIZE_UM = 0.0800885  # the pixel size of SubCell's training pictures
SUBCELL_CROP_PX = 640  # what the authors embed: 640 px at the native pixel size, without resizing
TRAINING_CROP_PX = 448  # what they trained with: 896 px, brought to half the size
SUBCELL_CROP_UM = SUBCELL_CROP_PX * HPA_PIXEL_SIZE_UM
SUBCELL_BUCKET = "https://czi-subcell-public.s3.us-west-2.amazonaws.com/models/"
CHANNELS = ("microtubules", "er", "nucleus", "protein")
TIMM = "timm:"  # prefix of the names of timm's networks


@dataclass(frozen=True, kw_only=True)
class NetworkConfig:
    """The shape of a SubCell network. Lengths in pixels; `image_size` is what the stored positions are for.

    stem: channels of the convolutions that make the tokens of a small network, the first of small patches, each of the
    others halving both sides; none: each patch is projected on its own, as in all published networks.
    neck: widths of the fully connected layers after the pooler, the last the embedding's; none in published networks.
    """

    n_channels: int
    image_size: int
    patch_size: int
    width: int
    n_blocks: int
    n_heads: int
    mlp_width: int
    pooler_width: int
    pooler_heads: int = 2
    stem: tuple[int, ...] = ()
    neck: tuple[int, ...] = ()

    @property
    def pooled(self) -> int:
        """Length of what the pooler's heads give together."""
        return self.width * self.pooler_heads

    @property
    def dim(self) -> int:
        """Length of the embedding."""
        return self.neck[-1] if self.neck else self.pooled

    @property
    def grid(self) -> int:
        """Patches along one side of a picture of `image_size`."""
        return self.image_size // self.patch_size

    @property
    def neck_layers(self) -> list[tuple[int, int]]:
        """Widths before and after each layer of the neck."""
        return list(pairwise((self.pooled, *self.neck)))

    @property
    def stem_layers(self) -> list[tuple[int, int, int, int]]:
        """Channels in and out, kernel and stride of each convolution of the stem."""
        first = self.patch_size // 2 ** max(0, len(self.stem) - 1)
        steps = [(first, first)] + (len(self.stem) - 1) * [(3, 2)]
        return [(*pair, *step) for pair, step in zip(pairwise((self.n_channels, *self.stem)), steps, strict=False)]

    @property
    def n_parameters(self) -> int:
        """How many numbers the weights are, without localization heads."""
        side = self.width
        if self.stem:
            projection = sum(kernel**2 * a * b + 2 * b for a, b, kernel, _ in self.stem_layers)
        else:
            projection = side * (self.n_channels * self.patch_size**2 + 1)
        embedding = projection + side * (self.grid**2 + 2)
        block = 4 * side**2 + 2 * side * self.mlp_width + 9 * side + self.mlp_width
        pooler = 2 * self.pooler_width * (side + 1) + self.pooler_heads * (self.pooler_width + 1)
        neck = sum((a + 3) * b for a, b in self.neck_layers)
        return embedding + self.n_blocks * block + 2 * side + pooler + neck

    any_size: ClassVar[bool] = True  # positions are interpolated for other sizes
    any_channels: ClassVar[bool] = False


@dataclass(frozen=True, kw_only=True)
class OpenPhenomConfig:
    """The shape of OpenPhenom, a channel-agnostic ViT-S/16 (arXiv:2404.10242)."""

    n_channels: int
    image_size: int = 256
    patch_size: int = 16
    width: int = 384
    n_blocks: int = 12
    n_heads: int = 6
    mlp_width: int = 1536
    max_channels: int = 11
    n_parameters: int = 22_459_776  # of the encoder; the file holds a decoder as well

    @property
    def dim(self) -> int:
        """Length of the embedding."""
        return self.width

    any_size: ClassVar[bool] = False
    any_channels: ClassVar[bool] = True


@dataclass(frozen=True, kw_only=True)
class TimmConfig:
    """The shape of a vision transformer of timm that sees each channel as a gray picture."""

    timm_name: str
    n_channels: int
    image_size: int
    patch_size: int
    width: int
    n_blocks: int
    n_parameters: int

    @property
    def dim(self) -> int:
        """Length of the embedding: those of the channels, joined."""
        return self.n_channels * self.width

    any_size: ClassVar[bool] = False
    any_channels: ClassVar[bool] = True


AnyConfig = NetworkConfig | OpenPhenomConfig | TimmConfig


@dataclass(frozen=True, kw_only=True)
class Published:
    """A weights file that its authors offer. `sha256` is None where it is not known."""

    url: str
    sha256: str | None = None


@dataclass(frozen=True, kw_only=True)
class EncoderSpec:
    """Everything about an encoder but its weights."""

    name: str
    channels: tuple[str, ...]  # in the order the network was trained with
    crop_px: int
    pixel_size_um: float
    network: AnyConfig
    licence: str
    origin: str
    weights: Published | None = None
    heads: tuple[Published, ...] = ()  # classifiers of localization
    own_weights: Path | None = None  # a file that comes with the description; there are none to fetch
    note: str = ""

    @property
    def dim(self) -> int:
        """Length of the embedding."""
        return self.network.dim

    @property
    def crop_um(self) -> float:
        """Side of the crop in µm."""
        return self.crop_px * self.pixel_size_um

    def at_scale(self, scale: str) -> EncoderSpec:
        """Return the spec for crops at another scale.

        native: as the authors embed, 640 px of 0.08 µm; training: as they trained, 448 px of 0.16 µm.
        """
        if scale == "native":
            return self
        if scale != "training":
            raise UnknownName("scale", scale, ("native", "training"))
        if not self.heads:
            raise BadInput(f"{self.name!r} has no training scale; the published SubCell encoders have.")
        return dataclasses.replace(self, crop_px=TRAINING_CROP_PX, pixel_size_um=2 * HPA_PIXEL_SIZE_UM)

    def with_channels(self, channels: Sequence[str]) -> EncoderSpec:
        """Return the spec for other channels, for encoders that take any."""
        if tuple(channels) == self.channels:
            return self
        if not self.network.any_channels:
            raise BadInput(f"{self.name!r} takes the channels {', '.join(self.channels)}, not {', '.join(channels)}.")
        check_channels(channels)
        network = dataclasses.replace(self.network, n_channels=len(channels))
        return dataclasses.replace(self, channels=tuple(channels), network=network)


def check_channels(names: Sequence[Any]) -> None:
    """Raise UnknownName or BadInput unless `names` are some of `CHANNELS`, each once."""
    for name in names:
        if name not in CHANNELS:
            raise UnknownName("channel", str(name), CHANNELS)
    if not names or len(set(names)) < len(names):
        raise BadInput("Name at least one channel, and each once.")


def subcell(channels: str, variant: str) -> EncoderSpec:
    """Return the spec of a published SubCell encoder: `channels` by letter, `variant` mae or vit."""
    names = {"r": "microtubules", "y": "er", "b": "nucleus", "g": "protein"}
    files = {"rybg": "all_channels", "rbg": "MT-DNA-Protein", "ybg": "ER-DNA-Protein", "bg": "DNA-Protein"}
    suffix = {"mae": "MAE-CellS-ProtS-Pool", "vit": "ViT-ProtS-Pool"}[variant]
    heads = f"{files[channels]}_{variant.upper() if variant == 'mae' else 'ViT'}_MLP_classifier"
    name = f"subcell-{channels}-{variant}"
    return EncoderSpec(
        name=name,
        channels=tuple(names[letter] for letter in channels),
        crop_px=SUBCELL_CROP_PX,
        pixel_size_um=HPA_PIXEL_SIZE_UM,
        network=NetworkConfig(
            n_channels=len(channels),
            image_size=448,
            patch_size=16,
            width=768,
            n_blocks=12,
            n_heads=12,
            mlp_width=3072,
            pooler_width=512,
        ),
        licence="MIT",
        origin="Gupta et al., bioRxiv 10.1101/2024.12.06.627299",
        weights=Published(url=f"{SUBCELL_BUCKET}{files[channels]}_{suffix}.pth", sha256=KNOWN_SHA256.get(name)),
        heads=(Published(url=f"{SUBCELL_BUCKET}{heads}/{heads}_seed_0.pth"),),  # the one that the authors' tool uses
    )


def larger(name: str, *, width: int, n_blocks: int, mlp_width: int) -> EncoderSpec:
    """Return the spec of a network of SubCell's design in a size of "ViTally Consistent", with patches of 8 px."""
    return EncoderSpec(
        name=name,
        channels=CHANNELS,
        crop_px=TRAINING_CROP_PX,
        pixel_size_um=2 * HPA_PIXEL_SIZE_UM,
        network=NetworkConfig(
            n_channels=4,
            image_size=448,
            patch_size=8,
            width=width,
            n_blocks=n_blocks,
            n_heads=16,
            mlp_width=mlp_width,
            pooler_width=512,
        ),
        licence="that of the weights",
        origin="sizes of Kenyon-Dean et al., arXiv:2411.02572",
        note="SubCell's design, larger: nobody has published weights, bring your own",
    )


KNOWN_SHA256 = {"subcell-ybg-mae": "ed8c22b42e1b0665b2363e7a1ae56b42a8a93ac93203bb89a13b6be7ad878e51"}

DEMO_CROP_UM = 32  # most cells, in as many pixels as the speed of a laptop allows
DEMO = EncoderSpec(
    name="demo",
    channels=CHANNELS,
    crop_px=192,
    pixel_size_um=DEMO_CROP_UM / 192,
    network=NetworkConfig(
        n_channels=4,
        image_size=192,
        patch_size=16,
        width=128,
        n_blocks=2,
        n_heads=2,
        mlp_width=512,
        pooler_width=128,
        pooler_heads=4,
        stem=(48, 96, 128),
        neck=(512, 256),
    ),
    licence="MIT",
    origin="this package",
    own_weights=Path(__file__).with_name("demo.safetensors"),
    note="a demonstration encoder, not SubCell: a small network that has seen simulated cells only",
)

OPENPHENOM = EncoderSpec(
    name="openphenom",
    channels=CHANNELS,
    crop_px=256,
    pixel_size_um=SUBCELL_CROP_UM / 256,  # the same field as SubCell's crop
    network=OpenPhenomConfig(n_channels=4),
    licence="Recursion Non-Commercial EULA",
    origin="Kraus et al., arXiv:2404.10242; huggingface.co/recursionpharma/OpenPhenom",
    weights=Published(url="https://huggingface.co/recursionpharma/OpenPhenom/resolve/main/model.safetensors"),
    note="weights for non-commercial use only; made for Cell Painting, takes any 1 to 11 channels",
)

ENCODERS: dict[str, EncoderSpec] = {
    spec.name: spec
    for spec in (
        DEMO,
        *(subcell(channels, variant) for channels in ("rybg", "rbg", "ybg", "bg") for variant in ("mae", "vit")),
        OPENPHENOM,
        larger("vit-large-8", width=1024, n_blocks=24, mlp_width=4096),
        larger("vit-giant-8", width=1664, n_blocks=48, mlp_width=8192),
    )
}


def find_spec(name: str) -> EncoderSpec:
    """Return the spec that `name` means: one of `ENCODERS`, `timm:NAME`, or a TOML file (see `read_spec`)."""
    if name in ENCODERS:
        return ENCODERS[name]
    if name.startswith(TIMM):
        from .timm_vit import timm_spec

        return timm_spec(name.removeprefix(TIMM))
    if name.endswith(".toml"):
        return read_spec(Path(name))
    raise UnknownName("encoder", name, [*ENCODERS, f"{TIMM}NAME", "FILE.toml"], hint="See 'subcell-atlas encoders'.")


def read_spec(path: Path) -> EncoderSpec:
    """Read the spec of an encoder of SubCell's design, with other sizes or channels, from a TOML file.

    Keys: name, channels, crop_px, pixel_size_um, licence, origin; a table `network` with the fields of `NetworkConfig`
    (n_channels follows from the channels, `stem` and `neck` may be left out); and maybe `weights`, a file beside this
    one. Raise BadInput naming the key that is wrong.
    """
    found = read_toml(path, "The encoder's description")
    network = found.pop("network", None)
    if not isinstance(network, dict):
        raise BadInput(f"{str(path)!r} lacks the table [network] with {', '.join(SHAPE_KEYS)}.")
    check_keys(found, SPEC_KEYS, path, optional={"weights": str})
    check_keys(network, SHAPE_KEYS, path, optional={"stem": list, "neck": list})
    check_name(found["name"])
    check_channels(found["channels"])
    if found["pixel_size_um"] > 10:
        raise BadInput(f"In {str(path)!r} pixel_size_um is {found['pixel_size_um']} µm, more than a cell allows.")
    stem, neck = tuple(network.pop("stem", ())), tuple(network.pop("neck", ()))
    shape = NetworkConfig(n_channels=len(found["channels"]), stem=stem, neck=neck, **network)
    if any(not isinstance(width, int) or width < 1 for width in neck):
        raise BadInput(f"In {str(path)!r} neck is {list(neck)}; it must be a list of whole numbers above 0.")
    if any(not isinstance(width, int) or width < 1 for width in stem) or (
        stem and (stem[-1] != shape.width or shape.patch_size % 2 ** (len(stem) - 1))
    ):
        halvings = f"its {len(stem) - 1} halvings must divide patch_size"
        raise BadInput(f"In {str(path)!r} stem must end with width, and {halvings}.")
    if shape.width % shape.n_heads or shape.image_size % shape.patch_size or found["crop_px"] % shape.patch_size:
        msg = f"In {str(path)!r} width must be a multiple of n_heads, image_size and crop_px of patch_size."
        raise BadInput(msg)
    weights = found.pop("weights", None)
    return EncoderSpec(
        **{**found, "channels": tuple(found["channels"])},
        network=shape,
        own_weights=path.parent / weights if weights else None,
        note=f"described in {path}",
    )


def check_name(name: str) -> None:
    """Raise BadInput when an encoder of one's own may not be called so."""
    if not name or name in ENCODERS or name.startswith(TIMM):
        raise BadInput(f"An encoder of your own cannot be called {name!r}, which is another's; give it a name.")


def read_toml(path: Path, what: str) -> dict[str, Any]:
    """Return what a TOML file says; raise BadInput when it cannot be read, calling it `what`."""
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as exc:
        raise BadInput(f"{what} {str(path)!r} cannot be read: {exc}") from None


def write_spec(spec: EncoderSpec, path: Path, *, weights: str) -> None:
    """Write the description of an encoder of SubCell's design that `read_spec` reads; `weights`: a file beside it."""
    assert isinstance(spec.network, NetworkConfig)
    top = {key: getattr(spec, key) for key in SPEC_KEYS} | {"weights": weights}
    shape = {key: getattr(spec.network, key) for key in SHAPE_KEYS}
    shape |= {key: value for key in ("stem", "neck") if (value := getattr(spec.network, key))}
    lines = [f"{key} = {as_toml(value)}" for key, value in top.items()]
    lines += ["", "[network]", *(f"{key} = {as_toml(value)}" for key, value in shape.items())]
    with written_whole(path) as part:
        part.write_text("\n".join(lines) + "\n", encoding="utf-8")


def as_toml(value: Any) -> str:
    """Return a text, number or list as TOML, whose strings and lists are JSON's."""
    return json.dumps(list(value) if isinstance(value, tuple) else value, ensure_ascii=False)


SPEC_KEYS: dict[str, type] = {
    "name": str, "channels": list, "crop_px": int, "pixel_size_um": float, "licence": str, "origin": str,
}  # fmt: skip
SHAPE_KEYS: dict[str, type] = {
    "image_size": int, "patch_size": int, "width": int, "n_blocks": int, "n_heads": int, "mlp_width": int,
    "pooler_width": int, "pooler_heads": int,
}  # fmt: skip

KINDS = {str: "a text", list: "a list", int: "a whole number above 0", float: "a number above 0"}


def check_keys(
    found: Mapping[str, Any], wanted: Mapping[str, type], path: Path, *, optional: Mapping[str, type]
) -> None:
    """Raise BadInput naming the first key that is missing, unknown or of another type; numbers must be positive."""
    for key, kind in {**wanted, **optional}.items():
        if key in optional and key not in found:
            continue
        if key not in found:
            raise BadInput(f"{str(path)!r} lacks {key!r}.")
        value = found[key]
        fits = value != "" and isinstance(value, int | float if kind is float else kind) and not isinstance(value, bool)
        if not fits or (isinstance(value, int | float) and value <= 0):
            raise BadInput(f"In {str(path)!r} {key!r} is {value!r}; it must be {KINDS[kind]}.")
    for key in found:
        if key not in wanted and key not in optional:
            raise UnknownName(f"key of {str(path)!r}", key, [*wanted, *optional])
