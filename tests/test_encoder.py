"""Crops through an encoder: normalization, precision, blocks, localization; and what is refused."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest
import torch
from tiny_network import TINY_SPEC, load_tiny, published_head, write_tiny

from subcell_atlas.encoders import load_encoder
from subcell_atlas.encoders.encoder import load_encoder_of
from subcell_atlas.encoders.network import min_max
from subcell_atlas.encoders.specs import ENCODERS, Published
from subcell_atlas.errors import AtlasError, BadInput, BadWeights, RecipeMismatch, UnknownName


def tiny_crops(n: int = 3, *, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 60_000, (n, 2, 32, 32)).astype(np.uint16)


def demo_crops(n: int, *, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (n, 4, 128, 128), dtype=np.uint8)


def cosines(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return (a * b).sum(-1) / np.linalg.norm(a, axis=-1) / np.linalg.norm(b, axis=-1)


def test_normalization_is_joint_over_the_channels_of_a_crop():
    crops = torch.tensor([[[[0, 10]], [[20, 5]]], [[[7, 7]], [[7, 7]]]], dtype=torch.uint8)
    normal = min_max(crops)
    assert torch.allclose(normal[0], torch.tensor([[[0.0, 0.5]], [[1.0, 0.25]]]), atol=1e-6)
    assert torch.equal(normal[1], torch.zeros(2, 1, 2))
    assert torch.equal(crops, torch.tensor([[[[0, 10]], [[20, 5]]], [[[7, 7]], [[7, 7]]]], dtype=torch.uint8))


def test_embeddings_do_not_depend_on_bit_depth_or_batch():
    encoder = load_encoder("demo", precision="float32", device="cpu")
    crops = demo_crops(5)
    once = encoder.embed(crops)
    assert once.shape == (5, ENCODERS["demo"].dim)
    assert once.dtype == np.float32
    assert np.allclose(encoder.embed(crops.astype(np.uint16) * 257), once, atol=1e-4)
    assert np.allclose(encoder.embed(crops.astype(np.float32) / 255), once, atol=1e-4)
    assert np.allclose(encoder.embed(crops[3:4]), once[3:4], atol=1e-4)
    assert encoder.embed(crops[:0]).shape == (0, ENCODERS["demo"].dim)


@pytest.mark.parametrize("precision", ["bfloat16", "float16"])
def test_half_precision_stays_close_and_is_in_the_recipe(precision):
    crops = demo_crops(2)
    half = load_encoder("demo", precision=precision)
    rough = half.embed(crops)
    assert rough.dtype == np.float32
    assert (cosines(load_encoder("demo", precision="float32").embed(crops), rough) > 0.999).all()
    assert half.check_precision(crops) > 0.999
    assert half.recipe(masking="cell").precision == precision
    assert load_encoder("demo", precision="float32").check_precision(crops) == 1.0


def test_a_precision_that_strays_is_refused(tmp_path):
    encoder = load_tiny(tmp_path, precision="bfloat16")
    with torch.no_grad():
        encoder._network.norm.weight.add_(torch.randn(12, generator=torch.Generator().manual_seed(0)).bfloat16())
    with pytest.raises(AtlasError, match="--precision float32"):
        encoder.check_precision(tiny_crops())


def test_overflow_is_an_error_not_a_vector(tmp_path):
    encoder = load_tiny(tmp_path, precision="float16")
    with torch.no_grad():
        encoder._network.blocks[1].mlp_out.weight.mul_(60_000)
    with pytest.raises(AtlasError, match="not finite in float16; use"):
        encoder.embed(tiny_crops())


def test_all_blocks_in_one_pass_equal_the_encoders_of_each_block(tmp_path):
    whole, crops = load_tiny(tmp_path, precision="float32"), tiny_crops()
    for pooling, dim in (("own", 24), ("cls", 12), ("patches", 12)):
        blocks = whole.embed_blocks(crops, pooling=pooling)
        assert blocks.shape == (3, 3, dim)
        for block in (1, 2, 3):
            single = load_tiny(tmp_path, precision="float32", block=block, pooling=pooling)
            assert np.allclose(single.embed(crops), blocks[:, block - 1], atol=1e-5)
            assert len(single._network.blocks) == block
            assert single.recipe(masking="none").block == block
            assert single.recipe(masking="none").dim == dim
    assert np.array_equal(whole.embed_blocks(crops)[:, -1], whole.embed(crops))


def test_every_readout_in_one_pass_equals_the_encoder_of_it(tmp_path):
    whole, crops = load_tiny(tmp_path, precision="float32"), tiny_crops()
    found = whole.embed_readouts(crops)
    assert len(found) == 3 * 5
    for readout, vectors in found.items():
        single = load_tiny(tmp_path, precision="float32", **dataclasses.asdict(readout))
        assert np.allclose(single.embed(crops), vectors, atol=1e-5)
        assert whole.recipe(masking="none", readout=readout) == single.recipe(masking="none")
        assert single.readout == readout


def test_an_encoder_can_be_loaded_again_from_its_recipe(monkeypatch, tmp_path):
    monkeypatch.setitem(ENCODERS, "tiny", TINY_SPEC)
    encoder = load_tiny(tmp_path, precision="bfloat16", block=2, pooling="patches", final_norm=False)
    recipe = encoder.recipe(masking="cell")
    again = load_encoder_of(recipe, weights=[tmp_path / "encoder.pth"])
    assert again.recipe(masking="cell") == recipe
    assert np.array_equal(again.embed(tiny_crops()), encoder.embed(tiny_crops()))


def test_a_crop_at_the_training_scale_is_kept_in_the_recipe():
    spec = ENCODERS["subcell-bg-vit"].at_scale("training")
    assert (spec.crop_px, round(spec.crop_um, 2)) == (448, 71.76)
    recipe = load_encoder(spec, weights="random").recipe(masking="cell")
    assert load_encoder_of(recipe, weights=["random"]).spec == spec


def test_localization_is_the_mean_of_the_heads_sigmoids(tmp_path):
    encoder = load_tiny(tmp_path, n_heads=2, precision="float32")
    crops = tiny_crops()
    embeddings = torch.from_numpy(encoder.embed(crops))
    wanted = torch.zeros(3, 31)
    for seed in (0, 1):
        state, hidden = published_head(seed), embeddings
        for key in ("0", "3"):
            hidden = (hidden @ state[f"{key}.weight"].T + state[f"{key}.bias"]).clamp(min=0)
        wanted += torch.sigmoid(hidden @ state["6.weight"].T + state["6.bias"]) / 2
    assert np.allclose(encoder.localize(crops), wanted, atol=1e-5)
    assert encoder.has_heads


def test_without_a_head_localization_says_where_to_get_one():
    encoder = load_encoder("subcell-bg-vit", weights="random")
    with pytest.raises(BadWeights, match=r"DNA-Protein_ViT_MLP_classifier_seed_0\.pth"):
        encoder.localize_embeddings(np.zeros((1, 1536), np.float32))


def test_attention_maps_lie_on_the_grid_of_patches(tmp_path):
    maps = load_tiny(tmp_path).attention(tiny_crops())
    assert maps.block.shape == (3, 3, 4, 4)
    assert maps.pooler.shape == (3, 2, 4, 4)
    assert (maps.pooler.sum((2, 3)) < 1).all()  # the class token has its share, too
    with pytest.raises(BadInput, match="has no pooler"):
        load_encoder("openphenom", weights="random").attention(np.ones((1, 4, 256, 256), np.uint8))


def test_batches_that_do_not_fit_are_halved(tmp_path, monkeypatch):
    encoder, sizes = load_tiny(tmp_path, precision="float32"), []
    forward = encoder._network.forward

    def small_memory(pixels, **options):
        sizes.append(len(pixels))
        if len(pixels) > 3:
            raise torch.OutOfMemoryError("too little")
        return forward(pixels, **options)

    wanted = encoder.embed(tiny_crops(11))
    monkeypatch.setattr(encoder._network, "forward", small_memory)
    assert np.allclose(encoder.embed(tiny_crops(11)), wanted, atol=1e-5)
    assert sizes == [11, 5, 2, 2, 2, 2, 2, 1]
    assert encoder.batch_size() == 2


def test_a_single_crop_that_does_not_fit_is_an_error(tmp_path, monkeypatch):
    encoder = load_tiny(tmp_path)

    def no_memory(pixels, **options):
        raise torch.OutOfMemoryError("too little")

    monkeypatch.setattr(encoder._network, "forward", no_memory)
    with pytest.raises(AtlasError, match="too small for a single crop"):
        encoder.embed(tiny_crops(2))


def test_a_compiled_network_sees_one_length_and_gives_the_same(tmp_path, monkeypatch):
    seen = []

    def compiling(call, *, dynamic):
        assert not dynamic

        def compiled(pixels, **options):
            seen.append(len(pixels))
            return call(pixels, **options)

        return compiled

    monkeypatch.setattr(torch, "compile", compiling)
    monkeypatch.setattr("shutil.which", lambda name: f"/usr/bin/{name}")
    plain = load_tiny(tmp_path, precision="float32")
    encoder = load_tiny(tmp_path, precision="float32", compiled=True, batch_size=4)
    assert np.allclose(encoder.embed(tiny_crops(6)), plain.embed(tiny_crops(6)), atol=1e-5)
    assert np.allclose(encoder.embed(tiny_crops(1)), plain.embed(tiny_crops(1)), atol=1e-5)
    assert seen == [4, 4, 4]
    assert encoder.attention(tiny_crops(3)).block.shape[0] == 3
    monkeypatch.setattr("shutil.which", lambda name: None)
    with pytest.raises(BadInput, match="needs a C"):
        load_tiny(tmp_path, compiled=True)


def test_arrays_that_cannot_be_written_or_of_the_other_byte_order_are_taken(tmp_path):
    encoder, crops = load_tiny(tmp_path, precision="float32"), tiny_crops()
    wanted = encoder.embed(crops)
    frozen = crops.copy()
    frozen.flags.writeable = False
    assert np.array_equal(encoder.embed(frozen), wanted)
    assert np.array_equal(encoder.embed(crops.astype(">f4")), encoder.embed(crops.astype("<f4")))
    assert encoder.attention(crops[:0]).pooler.shape == (0, 2, 4, 4)


def test_networks_whose_heads_differ_have_other_recipes(tmp_path):
    six = dataclasses.replace(TINY_SPEC, network=dataclasses.replace(TINY_SPEC.network, n_heads=6))
    files = write_tiny(tmp_path)
    recipes = [load_encoder(spec, weights=files).recipe(masking="cell") for spec in (TINY_SPEC, six)]
    assert recipes[0].weights_sha256 == recipes[1].weights_sha256
    assert "attention_heads" in recipes[0].difference(recipes[1])


def test_an_encoder_of_files_is_not_loaded_again_without_them(monkeypatch, tmp_path):
    monkeypatch.setitem(ENCODERS, "tiny", TINY_SPEC)
    recipe = load_tiny(tmp_path).recipe(masking="cell")
    assert recipe.weights == "encoder.pth"
    with pytest.raises(BadWeights, match=r"made with the weights 'encoder\.pth' \(sha256 [0-9a-f]{12}…\): give"):
        load_encoder_of(recipe)
    with pytest.raises(RecipeMismatch, match="made by 'tiny', not 'demo'"):
        load_encoder_of(recipe, name="demo")
    with pytest.raises(BadInput, match=r"made by 'mine': give --encoder FILE\.toml"):
        load_encoder_of(dataclasses.replace(recipe, encoder="mine"))
    untrained = load_encoder(TINY_SPEC, weights="random").recipe(masking="cell")
    assert load_encoder_of(untrained).recipe(masking="cell") == untrained


def test_a_cached_file_that_is_not_the_published_one_is_refused(tmp_path, monkeypatch):
    monkeypatch.setenv("SUBCELL_ATLAS_CACHE", str(tmp_path))
    spec = dataclasses.replace(TINY_SPEC, weights=Published(url="https://example.org/encoder.pth", sha256="0" * 64))
    place = tmp_path / "weights" / "example.org"
    place.mkdir(parents=True)
    write_tiny(place)
    with pytest.raises(BadWeights, match=r"is not the published file .*\nDelete it"):
        load_encoder(spec)


def peak_over_one_block(encoder, crops, folder) -> float:
    """Return the most memory held in tensors at once while embedding, over one block's activations."""
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile:
        encoder.embed(crops)
    profile.export_chrome_trace(str(folder / "trace.json"))
    events = json.loads((folder / "trace.json").read_text())["traceEvents"]
    held = [event["args"] for event in events if event["name"] == "[memory]"]
    peak = max(args["Total Allocated"] for args in held) - held[0]["Total Allocated"] + held[0]["Bytes"]
    config = encoder.spec.network
    tokens = len(crops) * (1 + (crops.shape[2] // config.patch_size) * (crops.shape[3] // config.patch_size))
    return peak / (4 * tokens * (10 * config.width + 2 * config.mlp_width))


def test_memory_is_that_of_one_block_whatever_the_depth(tmp_path):
    peaks = []
    for n_blocks in (2, 12):
        network = dataclasses.replace(ENCODERS["demo"].network, n_blocks=n_blocks, patch_size=8, stem=())
        spec = dataclasses.replace(ENCODERS["demo"], network=network)
        encoder = load_encoder(spec, weights="random", precision="float32", device="cpu")
        peaks.append(peak_over_one_block(encoder, demo_crops(4), tmp_path))
    assert peaks[1] < 1.3
    assert peaks[1] < 1.02 * peaks[0]


def test_the_demo_encoder_is_the_same_every_time():
    assert load_encoder("demo").recipe(masking="cell") == load_encoder("demo").recipe(masking="cell")


def test_untrained_weights_are_the_same_every_time_and_say_so_in_the_recipe():
    first, second = (load_encoder("subcell-bg-mae", weights="random").recipe(masking="cell") for _ in range(2))
    assert first == second
    assert first.weights_sha256 != load_encoder("subcell-rbg-mae", weights="random").recipe(masking="c").weights_sha256


def test_an_absent_file_and_an_unknown_encoder_say_what_to_do(tmp_path):
    with pytest.raises(BadWeights, match="There is no weights file"):
        load_encoder("subcell-bg-vit", weights=[tmp_path / "none.pth"])
    with pytest.raises(BadWeights, match="your own weights"):
        load_encoder("vit-giant-8")
    with pytest.raises(UnknownName, match="nearest: subcell-rybg-mae"):
        load_encoder("subcell-rybgg-mae")
    with pytest.raises(UnknownName, match="precision"):
        load_encoder("demo", precision="float8")


def test_published_weights_are_fetched_once(tmp_path, monkeypatch):
    asked = []

    def fetch(url, *, sha256=None, notice=""):
        asked.append(url)
        return tmp_path / url.rpartition("/")[2]

    write_tiny(tmp_path, n_heads=1)
    base = "https://example.org/"
    spec = dataclasses.replace(
        TINY_SPEC, weights=Published(url=f"{base}encoder.pth"), heads=(Published(url=f"{base}head_0.pth"),)
    )
    monkeypatch.setattr("subcell_atlas.encoders.encoder.fetch", fetch)
    assert load_encoder(spec).has_heads
    assert asked == [f"{base}encoder.pth", f"{base}head_0.pth"]


def test_without_a_network_the_addresses_and_the_places_are_named(tmp_path, monkeypatch):
    monkeypatch.setenv("SUBCELL_ATLAS_CACHE", str(tmp_path))
    nowhere = "http://127.0.0.1:9/models/"
    spec = dataclasses.replace(
        TINY_SPEC, weights=Published(url=f"{nowhere}encoder.pth"), heads=(Published(url=f"{nowhere}head.pth"),)
    )
    with pytest.raises(BadWeights) as caught:
        load_encoder(spec)
    assert f"{nowhere}encoder.pth" in str(caught.value)
    assert f"{nowhere}head.pth" in str(caught.value)
    assert str(tmp_path) in str(caught.value)


@pytest.mark.parametrize(
    ("readout", "error", "message"),
    [
        ({"block": 4}, BadInput, "blocks 1 to 3; got 4"),
        ({"block": 0}, BadInput, "blocks 1 to 3; got 0"),
        ({"pooling": "mean"}, UnknownName, "Unknown pooling 'mean'"),
    ],
)
def test_blocks_and_poolings_that_are_not_there_are_refused(tmp_path, readout, error, message):
    with pytest.raises(error, match=message):
        load_tiny(tmp_path, **readout)


def test_a_head_is_not_read_by_another_block(tmp_path):
    with pytest.raises(BadInput, match="last block"):
        load_tiny(tmp_path, n_heads=1, block=2)


@pytest.mark.parametrize(
    ("crops", "message"),
    [
        (np.zeros((1, 3, 128, 128), np.uint8), "channels"),
        (np.zeros((1, 4, 100, 128), np.uint8), "multiples of 16"),
        (np.zeros((1, 4, 128, 128), np.int64), "int64"),
        (np.full((1, 4, 128, 128), np.nan, np.float32), "NaN"),
    ],
)
def test_crops_that_are_none_are_refused(crops, message):
    with pytest.raises(BadInput, match=message):
        load_encoder("demo").embed(crops)


def test_an_encoder_of_one_size_refuses_others():
    encoder = load_encoder("openphenom", weights="random")
    with pytest.raises(BadInput, match="256 x 256"):
        encoder.embed(np.random.default_rng(0).integers(0, 255, (1, 4, 224, 224)).astype(np.uint8))


def test_a_device_that_is_not_here_is_refused():
    with pytest.raises(BadInput, match="'cpu' can"):
        load_encoder("demo", device="cuda:99")


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
def test_on_a_gpu_the_default_precision_keeps_the_embedding():
    encoder = load_encoder("subcell-rybg-mae", weights="random")
    crops = np.random.default_rng(0).integers(0, 60_000, (300, 4, 448, 448)).astype(np.uint16)
    exact = load_encoder("subcell-rybg-mae", weights="random", device="cpu", precision="float32")
    assert encoder.device.type == "cuda"
    assert cosines(encoder.embed(crops)[[0, 299]], exact.embed(crops[[0, 299]])).min() > 0.999


def test_the_default_is_exact_on_a_processor_and_the_fastest_on_request(tmp_path, monkeypatch):
    assert load_tiny(tmp_path).precision == "float32"
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx512_bf16": True}, raising=False)
    assert load_tiny(tmp_path, precision="fastest").precision == "bfloat16"
    monkeypatch.setattr(torch.cpu, "get_capabilities", dict, raising=False)
    assert load_tiny(tmp_path, precision="fastest").precision == "float32"
