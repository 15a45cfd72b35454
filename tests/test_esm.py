"""ESM-2 against transformers used plainly, by a tiny model with random weights in the published layout."""

from __future__ import annotations

import hashlib
import json
import re
import sys

import numpy as np
import pytest
import safetensors.torch
import torch

from subcell_atlas.errors import AtlasError, BadInput, BadWeights, MissingExtra, UnknownName
from subcell_atlas.sequences import SEQUENCE_ENCODERS, load_sequence_encoder
from subcell_atlas.sequences.esm import ESM, EsmEncoder, EsmSpec, Piece, cut, fitting, load_esm, parts_of_mean
from subcell_atlas.sequences.esm_weights import find_folder, import_transformers, load_weights

TOKENS = ["<cls>", "<pad>", "<eos>", "<unk>", *"LAGVSERTIDPKQNFYMHWCXBUZO.-", "<null_1>", "<mask>"]
TINY = EsmSpec(name="tiny", repository="nobody/tiny", dim=32, layers=2)
PUBLISHED = {  # what config.json of the published models says beside the sizes
    "architectures": ["EsmForMaskedLM"],
    "attention_probs_dropout_prob": 0.0,
    "emb_layer_norm_before": False,
    "hidden_act": "gelu",
    "hidden_dropout_prob": 0.0,
    "layer_norm_eps": 1e-05,
    "mask_token_id": 32,
    "max_position_embeddings": 1026,
    "model_type": "esm",
    "pad_token_id": 1,
    "position_embedding_type": "rotary",
    "token_dropout": True,
    "torch_dtype": "float32",
    "transformers_version": "4.25.0.dev0",
    "vocab_size": 33,
}
SIZES = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 128}


@pytest.fixture(scope="module")
def transformers():
    try:
        return import_transformers()
    except AtlasError as exc:
        pytest.skip(str(exc))


@pytest.fixture(scope="module")
def published(transformers, tmp_path_factory):
    """A folder as the Hub has it: keys of EsmForMaskedLM, and angles in each layer, rounded as in training."""
    folder = tmp_path_factory.mktemp("tiny-esm2")
    folder.joinpath("config.json").write_text(json.dumps(PUBLISHED | SIZES))
    folder.joinpath("vocab.txt").write_text("\n".join(TOKENS))
    torch.manual_seed(3)
    model = transformers.EsmModel(transformers.EsmConfig(**PUBLISHED | SIZES), add_pooling_layer=False)
    state = {f"esm.{key}": 4 * tensor.clone() for key, tensor in model.state_dict().items()}
    angles = state.pop("esm.rotary_embeddings.inv_freq") / 4
    for layer in range(2):
        state[f"esm.encoder.layer.{layer}.attention.self.rotary_embeddings.inv_freq"] = angles.half().float()
    state["lm_head.bias"] = torch.zeros(33)
    safetensors.torch.save_file(state, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


@pytest.fixture(scope="module")
def encoder(published):
    return load_esm(TINY, weights=published, device="cpu")


@pytest.fixture(scope="module")
def plain(transformers, published):
    """What transformers gives for one sequence, used as its documents say: (residues, 32), without special tokens."""
    tokenizer = transformers.EsmTokenizer.from_pretrained(published)
    model = transformers.EsmModel.from_pretrained(published, add_pooling_layer=False).eval()

    def hidden(residues):
        with torch.no_grad():
            return model(**tokenizer(residues, return_tensors="pt")).last_hidden_state[0, 1:-1].numpy()

    return hidden


def random_sequences(rng, lengths):
    return ["".join(rng.choice(list("ACDEFGHIKLMNPQRSTVWYX"), size=n)) for n in lengths]


def in_windows(hidden, residues, window, overlap):
    """The slow and obvious twin: every window in turn, each residue's mean over its windows, the mean of those."""
    of_residue = [[] for _ in residues]
    start = 0
    while True:
        piece = residues[start : start + window]
        for place, vector in enumerate(hidden(piece), start=start):
            of_residue[place].append(vector)
        if start + window >= len(residues):
            return np.mean([np.mean(vectors, axis=0) for vectors in of_residue], axis=0)
        start += window - overlap


def test_a_vector_is_the_mean_of_the_last_hidden_state_over_residues(encoder, plain, rng):
    sequences = random_sequences(rng, [1, 7, 30, 30, 2, 119, 64, 250, 33])
    vectors = encoder.embed(sequences)
    assert vectors.shape == (9, 32)
    assert vectors.dtype == np.float32
    np.testing.assert_allclose(vectors, [plain(residues).mean(axis=0) for residues in sequences], atol=2e-5)


def test_tokens_are_those_of_the_tokenizer_of_the_folder(transformers, published, encoder):
    tokenizer = transformers.EsmTokenizer.from_pretrained(published)
    letters = "ACDEFGHIKLMNPQRSTVWYBZXUO"
    vocabulary = encoder._vocabulary
    codes = [vocabulary.codes[ord(letter)] for letter in letters]
    assert [vocabulary.cls, *codes, vocabulary.eos] == tokenizer(letters)["input_ids"]
    assert vocabulary.pad == tokenizer.pad_token_id


def test_the_angles_of_positions_are_the_stored_ones(encoder):
    angles = encoder._model.rotary_embeddings.inv_freq
    exact = 1 / 10_000 ** (torch.arange(0, 8, 2) / 8)
    assert torch.equal(angles, exact.half().float())
    assert not torch.equal(angles, exact)


@pytest.mark.parametrize("precision", ["bfloat16", "float16"])
def test_in_half_precision_the_angles_stay_exact_and_vectors_close(published, encoder, rng, precision):
    half = load_esm(TINY, weights=published, device="cpu", precision=precision)
    assert half._model.get_input_embeddings().weight.dtype == getattr(torch, precision)
    assert torch.equal(half._model.rotary_embeddings.inv_freq, encoder._model.rotary_embeddings.inv_freq)
    sequences = random_sequences(rng, [600, 20])
    here, exact = half.embed(sequences), encoder.embed(sequences)
    assert here.dtype == np.float32
    cosine = (here * exact).sum(1) / np.linalg.norm(here, axis=1) / np.linalg.norm(exact, axis=1)
    assert cosine.min() > 0.999
    assert half.recipe().difference(encoder.recipe()) == f"precision is 'float32', not '{precision}'"


def test_long_proteins_are_read_in_windows(transformers, published, plain, rng):
    weights = load_weights(transformers, TINY, published, precision="float32", published=False)
    encoder = EsmEncoder(TINY, weights, device="cpu", precision="float32", window=20, overlap=6)
    sequences = random_sequences(rng, [20, 21, 34, 35, 100, 5, 48])
    slow = [in_windows(plain, residues, 20, 6) for residues in sequences]
    np.testing.assert_allclose(encoder.embed(sequences), slow, atol=2e-5)
    assert not np.allclose(slow[4], plain(sequences[4]).mean(axis=0), atol=1e-2)


def test_windows_cover_a_protein_and_share_residues():
    assert cut(1022, window=1022, overlap=256) == [(0, 1022)]
    assert cut(1023, window=1022, overlap=256) == [(0, 1022), (766, 1023)]
    assert cut(1788, window=1022, overlap=256) == [(0, 1022), (766, 1788)]
    assert cut(1, window=1022, overlap=256) == [(0, 1)]
    titin = cut(35_991, window=1022, overlap=256)
    assert titin[-1][1] == 35_991
    assert all(stop - start <= 1022 for start, stop in titin)
    parts = [parts_of_mean(Piece(0, *limits), 35_991, window=1022, overlap=256) for limits in titin]
    assert sum(part.sum() for part in parts) == pytest.approx(1)


def test_batches_begin_with_the_longest_and_hold_little_padding(encoder, rng):
    lengths = rng.permutation(np.arange(10, 400, 3))
    sequences = random_sequences(rng, lengths)
    seen = []
    for places, vectors in encoder.batches(sequences):
        assert vectors.shape == (len(places), 32)
        assert lengths[places].max() * len(places) <= encoder.n_tokens()
        assert lengths[places].min() + 2 >= 0.8 * (lengths[places].max() + 2)
        seen.extend(places)
    assert (np.diff(lengths[seen]) <= 0).all()
    assert sorted(seen) == list(range(len(sequences)))


def test_a_batch_has_one_sequence_at_least():
    pieces = [Piece(0, 0, 50), Piece(1, 0, 50), Piece(2, 0, 49), Piece(3, 0, 5)]
    assert fitting(pieces, 0, 10) == 1
    assert fitting(pieces, 0, 104) == 2
    assert fitting(pieces, 0, 1000) == 3
    assert fitting(pieces, 2, 1000) == 1


def test_when_memory_runs_out_batches_are_halved(published, transformers, rng):
    class Small(EsmEncoder):
        def _run(self, batch, sequences):
            self.tried.append(len(batch))
            if len(batch) > 2:
                raise torch.OutOfMemoryError
            return super()._run(batch, sequences)

    weights = load_weights(transformers, TINY, published, precision="float32", published=False)
    small = Small(TINY, weights, device="cpu", precision="float32")
    small.tried = []
    sequences = random_sequences(rng, [30] * 9)
    whole = EsmEncoder(TINY, weights, device="cpu", precision="float32").embed(sequences)
    np.testing.assert_allclose(small.embed(sequences), whole, atol=1e-5)
    assert small.tried == [9, 4, 2, 2, 2, 2, 1]


def test_memory_too_small_for_one_protein_is_said(published, transformers):
    class Tiny(EsmEncoder):
        def _run(self, batch, sequences):
            raise torch.OutOfMemoryError

    weights = load_weights(transformers, TINY, published, precision="float32", published=False)
    with pytest.raises(AtlasError, match="memory of cpu is too small for 'tiny' and 3 residues"):
        Tiny(TINY, weights, device="cpu", precision="float32").embed(["MKV"])


def test_progress_is_told_after_each_batch(encoder, rng):
    told = []
    encoder.embed(random_sequences(rng, [10, 100, 300]), progress=told.append)
    assert told == [1, 2, 3]


def test_no_sequences_have_no_vectors(encoder):
    assert encoder.embed([]).shape == (0, 32)


@pytest.mark.parametrize("residues", ["", "MK*V", "mkv", "MK V", "MKÄ", "XX"])
def test_what_is_no_sequence_is_refused_before_any_work(encoder, residues):
    with pytest.raises(BadInput, match="Sequence 1"):
        next(encoder.batches(["MKV", residues]))


def test_the_recipe_says_what_the_vectors_were_made_by(encoder, published):
    recipe = encoder.recipe()
    assert (recipe.encoder, recipe.dim, recipe.block) == ("tiny", 32, 2)
    assert recipe.weights == published.name
    assert recipe.weights_sha256 == hashlib.sha256((published / "model.safetensors").read_bytes()).hexdigest()
    assert recipe.pooling == "mean over residues"
    assert recipe.normalization == "windows of 1022 residues, 256 of them shared"
    assert recipe.precision == "float32"


@pytest.fixture
def folder(published, tmp_path):
    """A copy of the published folder, to be spoilt."""
    for file in published.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    return tmp_path


def test_weights_in_parts_are_read_by_their_index(folder, encoder):
    whole = safetensors.torch.load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    names = {key: f"model-0000{1 + i % 2}-of-00002.safetensors" for i, key in enumerate(sorted(whole))}
    for name in set(names.values()):
        part = {key: tensor for key, tensor in whole.items() if names[key] == name}
        safetensors.torch.save_file(part, folder / name, metadata={"format": "pt"})
    index = folder / "model.safetensors.index.json"
    index.write_text(json.dumps({"metadata": {}, "weight_map": names}))
    parts = load_esm(TINY, weights=folder, device="cpu")
    np.testing.assert_array_equal(parts.embed(["MKVL"]), encoder.embed(["MKVL"]))
    assert parts.recipe().weights_sha256.count("+") == 1
    (folder / "model-00002-of-00002.safetensors").unlink()
    with pytest.raises(BadWeights, match=r"has no model-00002-of-00002\.safetensors"):
        load_esm(TINY, weights=folder, device="cpu")


def test_weights_of_torch_are_read(folder, encoder):
    torch.save(safetensors.torch.load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    vectors = load_esm(TINY, weights=folder, device="cpu").embed(["MKVL"])
    np.testing.assert_array_equal(vectors, encoder.embed(["MKVL"]))


def change(folder, **values):
    configuration = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(configuration | values))


def lose(folder, key):
    state = safetensors.torch.load_file(folder / "model.safetensors")
    del state[key]
    safetensors.torch.save_file(state, folder / "model.safetensors", metadata={"format": "pt"})


SPOILT = {
    "other size": (lambda f: change(f, hidden_size=640), "hidden_size is 640, not 32. It may be 'esm2-150m'"),
    "other depth": (lambda f: change(f, num_hidden_layers=3), "num_hidden_layers is 3, not 2"),
    "ESM-1b": (lambda f: change(f, position_embedding_type="absolute"), "is 'absolute', not 'rotary'"),
    "other model": (lambda f: change(f, model_type="bert"), "model_type is 'bert', not 'esm'"),
    "ESMFold": (lambda f: change(f, is_folding_model=True), "is an ESMFold"),
    "other heads": (lambda f: change(f, intermediate_size=64), "cannot be loaded"),
    "no configuration": (lambda f: (f / "config.json").unlink(), "has no config.json"),
    "no JSON": (lambda f: (f / "config.json").write_text("<html>"), "no readable JSON"),
    "a list": (lambda f: (f / "config.json").write_text("[]"), "no JSON object"),
    "no vocabulary": (lambda f: (f / "vocab.txt").unlink(), "has no vocab.txt"),
    "other vocabulary": (
        lambda f: (f / "vocab.txt").write_text("the\nof\n"),
        "it lacks '<cls>'",
    ),
    "large vocabulary": (lambda f: (f / "vocab.txt").write_text("\n".join(["a"] * 9 + TOKENS)), "knows 33 tokens"),
    "no weights": (lambda f: (f / "model.safetensors").unlink(), "has no model.safetensors"),
    "empty weights": (lambda f: (f / "model.safetensors").write_bytes(b""), "cannot be loaded"),
    "cut weights": (
        lambda f: (f / "model.safetensors").write_bytes((f / "model.safetensors").read_bytes()[:-9]),
        "cannot be loaded",
    ),
    "weights lost": (
        lambda f: lose(f, "esm.encoder.layer.1.output.dense.weight"),
        "dense.weight is missing",
    ),
}


@pytest.mark.parametrize("how", SPOILT)
def test_a_folder_that_is_not_the_model_is_refused(folder, how):
    spoil, message = SPOILT[how]
    spoil(folder)
    with pytest.raises(BadWeights, match=re.escape(message)):
        load_esm(TINY, weights=folder, device="cpu")


def test_no_folder_is_refused(tmp_path, transformers):
    with pytest.raises(BadWeights, match="is no folder"):
        load_esm("esm2-8m", weights=tmp_path / "none", device="cpu")
    (tmp_path / "model.safetensors").touch()
    with pytest.raises(BadWeights, match="is a file; name the folder"):
        load_esm("esm2-8m", weights=tmp_path / "model.safetensors", device="cpu")


@pytest.fixture
def hub(tmp_path, monkeypatch, transformers):
    """An empty cache of the Hub, which is out of reach."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    return tmp_path


def test_weights_that_are_not_here_and_cannot_be_fetched_are_told_how_to_get(hub):
    with pytest.raises(BadWeights) as found:
        load_esm("esm2-8m", device="cpu")
    first, second = str(found.value).splitlines()
    assert first.startswith("The weights of 'esm2-8m' are not on this machine and cannot be fetched: ")
    assert "config.json, vocab.txt, model.safetensors of https://huggingface.co/facebook/esm2_t6_8M_UR50D" in second
    assert second.endswith("--weights FOLDER.")


def test_weights_in_the_cache_of_the_hub_are_found_without_a_connection(hub, published):
    snapshot = hub / "models--nobody--tiny" / "snapshots" / "abc"
    snapshot.mkdir(parents=True)
    (hub / "models--nobody--tiny" / "refs").mkdir()
    (hub / "models--nobody--tiny" / "refs" / "main").write_text("abc")
    for file in published.iterdir():
        (snapshot / file.name).symlink_to(file)
    assert find_folder(TINY) == snapshot
    assert load_esm(TINY, device="cpu").recipe().weights == "published"
    (snapshot / "vocab.txt").unlink()
    with pytest.raises(BadWeights, match=r"or get vocab\.txt of https://huggingface\.co/nobody/tiny"):
        load_esm(TINY, device="cpu")


def test_names_precisions_and_devices_that_do_not_exist_are_refused(published):
    with pytest.raises(UnknownName, match="esm2-650m"):
        load_esm("esm2-650")
    with pytest.raises(UnknownName, match="precision"):
        load_esm(TINY, weights=published, precision="float8")
    with pytest.raises(BadInput, match="device 'cuda:9' cannot be used"):
        load_esm(TINY, weights=published, device="cuda:9")
    with pytest.raises(BadInput, match="device 'nonsense'"):
        load_esm(TINY, weights=published, device="nonsense")


def test_without_transformers_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(MissingExtra, match=r"pip install 'subcell-atlas\[esm\]'"):
        load_sequence_encoder("esm2-8m")


def test_sizes_are_told_by_layers_and_dimension(encoder):
    head = {"contact_head.regression.weight", "contact_head.regression.bias"}
    weights = [tensor for name, tensor in encoder._model.named_parameters() if name not in head]
    assert TINY.n_parameters == sum(tensor.numel() for tensor in weights)
    assert [round(spec.n_parameters / 1e6) for spec in ESM.values()] == [7, 33, 148, 649, 2832, 15_103]
    assert list(SEQUENCE_ENCODERS) == ["composition", *ESM]
