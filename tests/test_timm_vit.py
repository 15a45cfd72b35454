"""Networks of timm against calling timm directly, with random weights."""

from __future__ import annotations

import sys

import pytest
import safetensors.torch
import torch
from torch.nn import functional

from subcell_atlas.encoders.network import min_max
from subcell_atlas.encoders.specs import SUBCELL_CROP_UM, TimmConfig
from subcell_atlas.encoders.timm_vit import TimmNetwork, import_timm, timm_spec
from subcell_atlas.encoders.weights import load_weights
from subcell_atlas.errors import AtlasError, BadInput, BadWeights, MissingExtra, UnknownName

MEAN, DEVIATION = (0.4, 0.5, 0.6), (0.2, 0.3, 0.4)
SHAPES = {
    "tiny_cls": {},
    "tiny_avg": {"global_pool": "avg"},
    "tiny_reg": {"reg_tokens": 3, "no_embed_class": True, "init_values": 0.5},
    "tiny_map": {"global_pool": "map", "class_token": False},
}


def entrypoint(name, shape):
    """Return what timm calls to make the network `name`."""

    def make(*, num_classes, **_):
        from timm.models.vision_transformer import VisionTransformer

        sizes = {"img_size": 32, "patch_size": 8, "embed_dim": 24, "depth": 3, "num_heads": 3}
        model = VisionTransformer(**sizes, **shape, num_classes=num_classes)
        model.pretrained_cfg = {"mean": MEAN, "std": DEVIATION}
        return model

    make.__name__ = make.__qualname__ = name
    return make


@pytest.fixture(scope="module")
def timm():
    """timm with a few networks more, small ones."""
    try:
        found = import_timm()
    except AtlasError as exc:
        pytest.skip(str(exc))
    for name, shape in SHAPES.items():
        if not found.is_model(name):
            found.models.register_model(entrypoint(name, shape))
    return found


def tiny(name="tiny_cls", n_channels=2):
    """Return a tiny network as we wrap it and the same as timm makes it."""
    config = TimmConfig(
        timm_name=name, n_channels=n_channels, image_size=32, patch_size=8, width=24, n_blocks=3, n_parameters=0
    )
    network = TimmNetwork(config).eval()
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.normal_(0.1, 0.3, generator=generator)
    model = entrypoint(name, SHAPES[name])(num_classes=0).eval()
    model.load_state_dict({network.published_names(key)[0]: value for key, value in network.state_dict().items()})
    return network, model


def as_timm_sees(crops, mean=MEAN, deviation=DEVIATION):
    """The pictures of each channel (B, 3, H, W)."""
    mean, deviation = (torch.tensor(values)[:, None, None] for values in (mean, deviation))
    return [(min_max(crops)[:, [channel] * 3] - mean) / deviation for channel in range(crops.shape[1])]


@pytest.fixture
def crops():
    return torch.rand(3, 2, 32, 32, generator=torch.Generator().manual_seed(3)) * 200


@torch.inference_mode()
@pytest.mark.parametrize("name", SHAPES)
def test_the_own_embedding_is_what_timm_pools_before_its_classifier(timm, crops, name):
    network, model = tiny(name)
    wanted = [model.forward_head(model.forward_features(gray), pre_logits=True) for gray in as_timm_sees(crops)]
    found = network(network.normalize(crops), blocks=(3,))[:, 0]
    assert found.shape == (3, network.poolings["own"]) == (3, 48)
    assert torch.allclose(found, torch.cat(wanted, dim=1), atol=1e-5)


@torch.inference_mode()
@pytest.mark.parametrize("name", SHAPES)
@pytest.mark.parametrize("final_norm", [False, True])
def test_every_block_equals_what_hooks_see_and_registers_are_left_out(timm, crops, name, final_norm):
    network, model = tiny(name)
    seen = []
    for block in model.blocks:
        block.register_forward_hook(lambda _module, _given, tokens: seen.append(tokens))
    for gray in as_timm_sees(crops):
        model.forward_features(gray)
    before, after = model.norm if final_norm else lambda x: x, model.fc_norm if final_norm else lambda x: x
    pixels = network.normalize(crops)
    for number, tokens in enumerate(network.tokens_after(pixels, (1, 2, 3))):
        by_channel = seen[number], seen[number + 3]
        assert torch.allclose(tokens, torch.stack(by_channel, dim=1).flatten(0, 1), atol=1e-5)
        n = {"tiny_cls": 1, "tiny_avg": 1, "tiny_reg": 4, "tiny_map": 0}[name]
        wanted = torch.cat([after(before(tokens)[:, n:].mean(1)) for tokens in by_channel], dim=1)
        found = network(pixels, blocks=(number + 1,), ways=(("patches", final_norm),))[:, 0]
        assert torch.allclose(found, wanted, atol=1e-5)
        if "cls" in network.poolings:
            wanted = torch.cat([after(before(tokens)[:, 0]) for tokens in by_channel], dim=1)
            found = network(pixels, blocks=(number + 1,), ways=(("cls", final_norm),))[:, 0]
            assert torch.allclose(found, wanted, atol=1e-5)
    assert ("cls" in network.poolings) == (name != "tiny_map")


@torch.inference_mode()
def test_a_trimmed_network_pools_its_last_block_through_the_final_norm(timm, crops):
    network, model = tiny()
    network.trim(2)
    del model.blocks[2:]
    wanted = [model.forward_head(model.forward_features(gray), pre_logits=True) for gray in as_timm_sees(crops)]
    found = network(network.normalize(crops), blocks=(2,))[:, 0]
    assert torch.allclose(found, torch.cat(wanted, dim=1), atol=1e-5)


@torch.inference_mode()
def test_half_precision_keeps_the_embedding_and_the_pixels_in_full(timm, crops):
    for name in SHAPES:
        network, _ = tiny(name)
        pixels = network.normalize(crops)
        wanted = network(pixels, blocks=(3,))
        network.use_precision(torch.bfloat16)
        found = network(pixels, blocks=(3,))
        assert found.dtype == torch.bfloat16
        assert network.model.patch_embed.proj.weight.dtype == torch.float32
        assert functional.cosine_similarity(found.float(), wanted, dim=-1).min() > 0.999


@torch.inference_mode()
def test_a_registered_network_gives_what_timm_gives(timm):
    spec = timm_spec("vit_tiny_patch16_224").with_channels(["nucleus", "protein"])
    network = TimmNetwork(spec.network).eval()
    model = timm.create_model("vit_tiny_patch16_224", pretrained=False, num_classes=0).eval()
    model.load_state_dict({network.published_names(key)[0]: value for key, value in network.state_dict().items()})
    crops = torch.randint(0, 256, (2, 2, 224, 224), generator=torch.Generator().manual_seed(0)).to(torch.uint8)
    grays = as_timm_sees(crops, model.pretrained_cfg["mean"], model.pretrained_cfg["std"])
    found = network(network.normalize(crops), blocks=(12,))[:, 0]
    assert torch.allclose(found, torch.cat([model(gray) for gray in grays], dim=1), atol=1e-5)
    assert found.shape[1] == spec.dim == 2 * 192


def test_a_spec_says_what_timm_knows_without_making_weights(timm):
    spec = timm_spec("vit_small_patch14_reg4_dinov2")
    assert spec.name == "timm:vit_small_patch14_reg4_dinov2.lvd142m"
    assert (spec.crop_px, spec.network.patch_size, spec.network.width, spec.network.n_blocks) == (518, 14, 384, 12)
    assert spec.crop_um == pytest.approx(SUBCELL_CROP_UM)
    assert spec.network.n_parameters == 22_057_344
    assert spec.dim == 4 * 384
    assert spec.licence == "apache-2.0"
    assert spec.origin == "huggingface.co/timm/vit_small_patch14_reg4_dinov2.lvd142m"
    assert spec.weights.url == f"https://{spec.origin}/resolve/main/model.safetensors"
    with torch.device("meta"):
        network = TimmNetwork(spec.network)
    assert sum(parameter.numel() for parameter in network.parameters()) == spec.network.n_parameters
    assert network.own_pooling == "class token of each channel"
    assert timm_spec("vit_large_patch16_224.mae").licence == "cc-by-nc-4.0"


def test_networks_without_weights_of_timm_need_ones_own(timm):
    spec = timm_spec("vit_huge_patch14_gap_224.in1k_ijepa")
    assert spec.weights is None
    assert "bring your own" in spec.note


def test_names_that_timm_does_not_know_are_refused_with_near_ones(timm):
    with pytest.raises(UnknownName, match=r"nearest: .*vit_small_patch14_dinov2\.lvd142m"):
        timm_spec("vit_small_patch14_dinov2.lvd142")
    with pytest.raises(UnknownName, match=r"network of timm 'vit_tiny_patch16_224\.none'"):
        timm_spec("vit_tiny_patch16_224.none")


@pytest.mark.parametrize("name", ["resnet18", "eva02_tiny_patch14_224", "vit_tiny_r_s16_p8_224"])
def test_other_kinds_of_networks_are_refused(timm, name):
    with pytest.raises(BadInput, match="only its plain vision transformers can be used"):
        timm_spec(name)


@torch.inference_mode()
def test_a_file_of_timm_loads_strictly_but_for_its_classifier(timm, crops, tmp_path):
    network, model = tiny("tiny_reg")
    path = tmp_path / "model.safetensors"
    state = model.state_dict() | {"head.weight": torch.ones(5, 24), "head.bias": torch.ones(5)}
    safetensors.torch.save_file(state, path)
    with torch.device("meta"):
        loaded = TimmNetwork(network.config).eval()
    load_weights(loaded, path, encoder="timm:tiny_reg")
    pixels = loaded.normalize(crops)
    assert torch.equal(loaded(pixels, blocks=(1, 3)), network(pixels, blocks=(1, 3)))
    for change, problem in [
        ({"blocks.1.attn.qkv.bias": None}, "blocks.1.attn.qkv.bias is missing"),
        ({"fc_norm.weight": torch.ones(24)}, "fc_norm.weight is not part"),
        ({"reg_token": torch.ones(1, 4, 24)}, r"reg_token has shape \(1, 4, 24\)"),
    ]:
        changed = {name: tensor for name, tensor in (state | change).items() if tensor is not None}
        safetensors.torch.save_file(changed, path)
        with pytest.raises(BadWeights, match=problem):
            load_weights(network, path, encoder="timm:tiny_reg")


def test_without_timm_the_error_says_how_to_get_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(MissingExtra, match=r"timm:NAME needs the package 'timm'.*subcell-atlas\[timm\]"):
        import_timm()


def test_a_torchvision_that_does_not_go_with_torch_is_said(monkeypatch, tmp_path):
    tmp_path.joinpath("timm.py").write_text("raise RuntimeError('torch and torchvision differ')")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "timm", raising=False)
    with pytest.raises(AtlasError, match=r"torch and torchvision differ\.\nAs a rule torchvision"):
        import_timm()
