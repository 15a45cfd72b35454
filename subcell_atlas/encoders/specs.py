"""Which encoders there are. One frozen spec each: what it eats, what it gives, where it comes from.

Facts about SubCell: the configuration files and model list of CellProfiling/SubCellPortable (MIT).
"""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["ENCODERS", "EncoderSpec", "NetworkConfig"]

HPA_PIXEL_SIZE_UM = 0.0800885  # the pixel size of SubCell's training pictures
SUBCELL_CROP_PX = 640  # what the authors embed: 640 px at the native pixel size, without resizing
SUBCELL_BUCKET = "https://czi-subcell-public.s3.us-west-2.amazonaws.com/models/"


@dataclass(frozen=True, kw_only=True)
class NetworkConfig:
    """The shape of a SubCell network. Lengths in pixels; `image_size` is what the stored positions are for."""

    n_channels: int
    image_size: int
    patch_size: int
    width: int
    n_blocks: int
    n_heads: int
    mlp_width: int
    pooler_width: int
    pooler_heads: int = 2

    @property
    def dim(self) -> int:
        """Length of the embedding."""
        return self.width * self.pooler_heads

    @property
    def grid(self) -> int:
        """Patches along one side of a picture of `image_size`."""
        return self.image_size // self.patch_size


@dataclass(frozen=True, kw_only=True)
class EncoderSpec:
    """Everything about an encoder but its weights."""

    name: str
    channels: tuple[str, ...]  # in the order the network was trained with
    crop_px: int
    pixel_size_um: float
    network: NetworkConfig
    licence: str
    origin: str
    weights_url: str | None  # None: no weights to fetch; they are made from `seed`
    seed: int | None = None
    note: str = ""

    @property
    def dim(self) -> int:
        """Length of the embedding."""
        return self.network.dim

    @property
    def crop_um(self) -> float:
        """Side of the crop in µm."""
        return self.crop_px * self.pixel_size_um


def subcell(channels: str, variant: str) -> EncoderSpec:
    """Return the spec of a published SubCell encoder: `channels` by letter, `variant` mae or vit."""
    names = {"r": "microtubules", "y": "er", "b": "nucleus", "g": "protein"}
    files = {"rybg": "all_channels", "rbg": "MT-DNA-Protein", "ybg": "ER-DNA-Protein", "bg": "DNA-Protein"}
    suffix = {"mae": "MAE-CellS-ProtS-Pool", "vit": "ViT-ProtS-Pool"}[variant]
    return EncoderSpec(
        name=f"subcell-{channels}-{variant}",
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
        weights_url=f"{SUBCELL_BUCKET}{files[channels]}_{suffix}.pth",
    )


DEMO = EncoderSpec(
    name="demo",
    channels=("microtubules", "er", "nucleus", "protein"),
    crop_px=128,
    pixel_size_um=SUBCELL_CROP_PX * HPA_PIXEL_SIZE_UM / 128,  # the same field as SubCell's crop, coarser
    network=NetworkConfig(
        n_channels=4, image_size=128, patch_size=8, width=192, n_blocks=4, n_heads=6, mlp_width=768, pooler_width=128
    ),
    licence="MIT",
    origin="this package",
    weights_url=None,
    seed=20241206,
    note="a small network for demonstration, not SubCell: random weights, aimed by hand, that have learned nothing",
)

ENCODERS: dict[str, EncoderSpec] = {
    spec.name: spec
    for spec in (
        DEMO,
        *(subcell(channels, variant) for channels in ("rybg", "rbg", "ybg", "bg") for variant in ("mae", "vit")),
    )
}
