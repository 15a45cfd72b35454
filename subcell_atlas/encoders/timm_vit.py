"""Vision transformers of timm, such as DINOv2 and MAE, which see each channel as a gray picture.

timm (https://github.com/huggingface/pytorch-image-models, Apache-2.0) is an optional package; the networks' weights
come under licences of their own.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn

from ..box_operators import make_torchvision_importable
from ..errors import AtlasError, BadInput, MissingExtra, UnknownName
from .network import Network, min_max
from .readout import OWN
from .specs import CHANNELS, SUBCELL_CROP_UM, TIMM, EncoderSpec, Published, TimmConfig

__all__ = ["TimmNetwork", "import_timm", "timm_spec"]

FAMILIES = ("vision_transformer", "deit")  # the modules of timm whose networks are taken
HUB = "https://huggingface.co/"
POOLINGS = {
    "token": "class token",
    "avg": "mean of patches",
    "map": "attention",
}  # timm's name -> as the recipe says it


class TimmNetwork(Network):
    """Crops in, the embeddings of their channels out, joined in order.

    The tokens are (B * C, T, width). Poolings: `own`, what timm pools before its classifier; `cls`, for networks with a
    class token; `patches`, the mean of all tokens but the class token and registers. With `final_norm` the latter two
    go through the network's last normalization, which in some networks comes before pooling and in others after it.
    """

    normalization = "joint min-max over channels, then the network's mean and deviation"
    unused_prefixes = ("head.", "head_dist.")  # classifiers

    def __init__(self, config: TimmConfig) -> None:
        super().__init__()
        model = make_model(config.timm_name)
        self.config = config
        self.mean: tuple[float, ...] = model.pretrained_cfg["mean"]
        self.deviation: tuple[float, ...] = model.pretrained_cfg["std"]
        self.own_pooling = f"{POOLINGS.get(model.global_pool, model.global_pool)} of each channel"
        self.blocks = nn.ModuleList(model.blocks)
        model.blocks = nn.Sequential()  # so that each parameter has one name
        self.model = model

    @staticmethod
    def published_names(name: str) -> tuple[str, ...]:
        """Return timm's name of one of our parameters, such as `blocks.3.attn.qkv.weight` or `model.cls_token`."""
        return (name.removeprefix("model."),)

    @property
    def poolings(self) -> Mapping[str, int]:
        """See Network."""
        names = (OWN, "cls", "patches") if self.model.has_class_token else (OWN, "patches")
        return dict.fromkeys(names, self.config.dim)

    def normalize(self, crops: Tensor) -> Tensor:
        """Return (B, C, 3, H, W): scaled by the minimum and maximum over all channels together, then as timm does it.

        Each channel is repeated to the colours of the network, less their mean and over their standard deviation.
        """
        gray = min_max(crops).unsqueeze(2)  # (B, C, 1, H, W)
        mean, deviation = (gray.new_tensor(values)[:, None, None] for values in (self.mean, self.deviation))
        return (gray - mean) / deviation

    def embed_patches(self, pixels: Tensor) -> Tensor:
        """Map (B, C, 3, H, W), H and W the network's picture size, to tokens (B * C, T, width)."""
        model = self.model
        tokens = model.norm_pre(model.patch_drop(model._pos_embed(model.patch_embed(pixels.flatten(0, 1)))))
        return tokens.to(next(self.blocks.parameters()).dtype)

    def pool(self, tokens: Tensor, pooling: str, *, final_norm: bool) -> Tensor:
        """Pool the tokens (B * C, T, width) of a block into (B, C * width)."""
        model = self.model
        if pooling == OWN:
            pooled = model.forward_head(model.norm(tokens), pre_logits=True)
        else:
            tokens = model.norm(tokens) if final_norm else tokens
            pooled = tokens[:, 0] if pooling == "cls" else tokens[:, model.num_prefix_tokens :].mean(dim=1)
            pooled = model.fc_norm(pooled) if final_norm else pooled
        return pooled.reshape(-1, self.config.dim)  # (B * C, width) -> (B, C * width)

    def bytes_per_crop(self, height: int, width: int) -> int:
        """See Network. The MLP is the peak: the tokens, and their hidden layer before and after its activation."""
        config = self.config
        tokens = self.model.num_prefix_tokens + (height // config.patch_size) * (width // config.patch_size)
        units = 12 * config.width
        pixels = height * width * (8 + 8 * len(self.mean))  # gray, and in colours twice, float32
        per_unit = next(self.blocks.parameters()).element_size()
        return config.n_channels * (tokens * units * per_unit + pixels)

    def use_precision(self, dtype: torch.dtype) -> None:
        """Compute all but the patches, whose pixels need more than 8 bits, in `dtype`."""
        model = self.model
        for module in (self.blocks, model.norm, model.fc_norm, model.attn_pool):
            if module is not None:
                module.to(dtype)


def timm_spec(name: str) -> EncoderSpec:
    """Return the spec of one of timm's vision transformers, without making its weights.

    name: as timm has it, `vit_small_patch14_dinov2.lvd142m`; without what follows the point, timm's first choice. Raise
    UnknownName, BadInput when it is another kind of network, or MissingExtra.
    """
    timm = import_timm()
    known = timm.list_models(module=FAMILIES, pretrained=True)
    if name not in {*timm.list_models(), *timm.list_models(include_tags=True)}:
        raise UnknownName("network of timm", name, known)
    cfg = timm.models.get_pretrained_cfg(name, allow_unregistered=False)
    full_name = f"{cfg.architecture}.{cfg.tag}" if cfg.tag else name
    with torch.device("meta"):
        model = make_model(full_name)
    image_size = model.patch_embed.img_size[0]
    weights = published_weights(cfg)
    return EncoderSpec(
        name=f"{TIMM}{full_name}",
        channels=CHANNELS,
        crop_px=image_size,
        pixel_size_um=SUBCELL_CROP_UM / image_size,  # the same field as SubCell's crop
        network=TimmConfig(
            timm_name=full_name,
            n_channels=len(CHANNELS),
            image_size=image_size,
            patch_size=model.patch_embed.patch_size[0],
            width=model.num_features,
            n_blocks=len(model.blocks),
            n_parameters=sum(parameter.numel() for parameter in model.parameters()),
        ),
        licence=cfg.license or "unknown, see the origin",
        origin=f"huggingface.co/{cfg.hf_hub_id}" if cfg.hf_hub_id else cfg.origin_url or cfg.url or "timm",
        weights=weights,
        note="trained on other pictures; each channel as a gray picture, the embeddings of the channels joined"
        + ("" if weights else "; timm has no weights for it in its own format, bring your own"),
    )


def published_weights(cfg: Any) -> Published | None:
    """Return timm's own file on the hub; None where there is none, or one in a format that timm would convert."""
    repository = cfg.hf_hub_id or ""
    if not repository.startswith("timm/") or cfg.hf_hub_filename:
        return None
    return Published(url=f"{HUB}{repository}/resolve/main/model.safetensors")


def make_model(name: str) -> Any:
    """Return timm's network without classifier, on the current device; raise BadInput for a kind that is not taken."""
    timm = import_timm()
    transformer = timm.models.vision_transformer.VisionTransformer
    model = timm.create_model(name, pretrained=False, num_classes=0)
    if not isinstance(model, transformer) or not isinstance(model.patch_embed, timm.layers.PatchEmbed):
        msg = (
            f"{name!r} is a {type(model).__name__} of timm; only its plain vision transformers can be used, those of "
            f"timm.models.{' and timm.models.'.join(FAMILIES)},\nsuch as vit_small_patch14_dinov2.lvd142m, "
            "vit_large_patch16_224.mae or vit_base_patch16_224.augreg_in21k."
        )
        raise BadInput(msg)
    return model


def import_timm() -> ModuleType:
    """Return timm; raise MissingExtra when it is not installed, AtlasError when it does not go with torch."""
    make_torchvision_importable()
    try:
        import timm
    except ModuleNotFoundError as exc:
        raise MissingExtra("timm", "timm", f"An encoder {TIMM}NAME") from exc
    except (ImportError, RuntimeError) as exc:
        msg = f"timm cannot be loaded: {exc}.\nAs a rule torchvision and torch do not match; install a pair."
        raise AtlasError(msg) from exc
    return timm
