"""The job on a Ray cluster: the table of the local engine, whatever becomes of the processes."""

from __future__ import annotations

import dataclasses
import os
import signal
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from fake_encoder import CHANNELS, PIXEL_UM, SIDE, write_cell, write_manifest
from tiny_network import TINY, TINY_SPEC, published_head, published_state

from ingest.distributed import AHEAD, Cluster, Embedder, check_alike, number_of_workers, wants_gpu
from ingest.job import Options, ingest_pictures, make_plan
from ingest.ledger import Digests
from ingest.manifest import Manifest, ManifestItem, read_manifest
from ingest.prepare import prepare
from subcell_atlas.cli import main
from subcell_atlas.encoders import find_spec, load_encoder
from subcell_atlas.encoders.localizations import name_localizations
from subcell_atlas.encoders.vit import SubCellNetwork
from subcell_atlas.encoders.weights import seed_weights
from subcell_atlas.errors import AtlasError, BadInput, RecipeMismatch
from subcell_atlas.recipe import Recipe
from subcell_atlas.store import Store

N = 60
OPTIONS = {"precision": "float32", "device": "cpu"}
HERE = Options(workers=0, progress=False, pixel_size_um=PIXEL_UM)


@pytest.fixture(scope="module")
def ray():
    """Two cores as a cluster."""
    pytest.importorskip("ray")
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    os.environ["RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO"] = "0"
    import ray

    ray.init(num_cpus=2, num_gpus=0, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
    ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])
    yield ray
    ray.shutdown()


@pytest.fixture(scope="module")
def cluster(ray):
    with Cluster(find_spec("demo"), OPTIONS, workers=2) as cluster:
        yield cluster


@pytest.fixture(scope="module")
def source(tmp_path_factory) -> Manifest:
    """Pictures of which one is empty and one is there twice."""
    folder = tmp_path_factory.mktemp("pictures")
    rows = [write_cell(folder, f"c{i}", i) | {"gene_symbol": f"G{i}"} for i in range(N)]
    (folder / "c7_er.png").write_bytes(b"")
    rows[33] = rows[12] | {"image_id": "twin"}
    return read_manifest(write_manifest(folder / "m.csv", rows), channels=CHANNELS, encoder="demo", crops=True)


@pytest.fixture(scope="module")
def local(source, tmp_path_factory) -> Store:
    """What the local engine makes of them."""
    store = Store.create(str(tmp_path_factory.mktemp("local") / "atlas"))
    ingest_pictures(store, source, load_encoder("demo", **OPTIONS), HERE)
    return store


@pytest.fixture
def store(tmp_path) -> Store:
    return Store.create(str(tmp_path / "atlas"))


def check_same(store: Store, other: Store) -> None:
    one, two = (each.read("cells").drop_columns(["run_id"]).sort_by("cell_id") for each in (store, other))
    assert one.num_rows == N - 2
    assert one.drop_columns(["embedding"]).equals(two.drop_columns(["embedding"]))
    vectors = [np.array(each["embedding"].to_pylist()) for each in (one, two)]
    np.testing.assert_allclose(vectors[0], vectors[1], atol=1e-3)
    rejects = [each.read("rejects", ["source", "image", "reason"]).sort_by("image") for each in (store, other)]
    assert rejects[0].equals(rejects[1])
    assert rejects[0]["image"].to_pylist() == ["c7", "twin"]


def test_two_workers_make_the_table_of_the_local_engine_and_nothing_the_second_time(cluster, source, local, store):
    counts = ingest_pictures(store, source, cluster, HERE)
    assert (counts.pictures, counts.cells, counts.rejected) == (N, N - 2, 2)
    check_same(store, local)
    assert store.recipe("cells", "embedding") == local.recipe("cells", "embedding")
    version = store.version("cells")
    counts = ingest_pictures(store, source, cluster, HERE)
    assert (counts.cells, counts.done_before, counts.rejected) == (0, N - 2, 2)
    assert store.version("cells") == version


@dataclass(frozen=True)
class Disturbed(Manifest):
    """A source that does something when a picture is given out."""

    at: int = 0
    do: Callable[[], None] = lambda: None

    def item(self, index: int) -> ManifestItem:
        if index == self.at:
            self.do()
        return super().item(index)


def disturbed(source: Manifest, at: int, do: Callable[[], None]) -> Disturbed:
    return Disturbed(**vars(source), at=at, do=do)


def test_no_more_is_given_out_ahead_than_the_bound(cluster, source):
    taken = []

    def items():
        for index in range(N):
            taken.append(index)
            yield source.item(index)

    plan = make_plan(source, cluster, HERE, done=Digests())
    pictures = cluster.pictures(plan, items())
    next(pictures)
    assert len(taken) <= AHEAD * 2  # a chunk begins with one picture
    assert len(list(pictures)) == N - 1


def test_a_worker_that_is_killed_is_replaced_and_nothing_is_lost(cluster, source, local, store):
    victim = cluster.pids[0]
    counts = ingest_pictures(store, disturbed(source, 25, lambda: os.kill(victim, signal.SIGKILL)), cluster, HERE)
    assert counts.cells == N - 2
    check_same(store, local)
    assert victim not in cluster.pids


def test_all_workers_killed_at_once_are_replaced(cluster, source, local, store):
    def kill():
        for pid in cluster.pids:
            os.kill(pid, signal.SIGKILL)

    ingest_pictures(store, disturbed(source, 25, kill), cluster, HERE)
    check_same(store, local)


def test_ctrl_c_keeps_what_came_back_and_the_next_run_goes_on(cluster, source, local, store):
    interrupted = disturbed(source, 40, lambda: os.kill(os.getpid(), signal.SIGINT))
    with pytest.raises(AtlasError, match="Run the same command again to go on"):
        ingest_pictures(store, interrupted, cluster, HERE)
    kept = store.count("cells")
    assert 0 < kept < N - 2
    counts = ingest_pictures(store, source, cluster, HERE)
    assert (counts.done_before, counts.cells) == (kept, N - 2 - kept)
    check_same(store, local)


@dataclass
class Deadly(ManifestItem):
    """A picture that ends whoever reads it."""

    def picture_id(self) -> str:
        os.kill(os.getpid(), signal.SIGKILL)
        return super().picture_id()


@dataclass(frozen=True)
class WithDeadly(Manifest):
    def item(self, index: int) -> ManifestItem:
        item = super().item(index)
        return Deadly(**vars(item)) if index == 30 else item


def test_a_picture_that_ends_every_process_ends_the_run_in_a_sentence(cluster, source, store):
    with pytest.raises(AtlasError, match="was ended, maybe for want of memory") as caught:
        ingest_pictures(store, WithDeadly(**vars(source)), cluster, HERE)
    assert len(str(caught.value).splitlines()) == 2
    assert len(cluster.pids) == 2


def test_an_encoder_that_a_node_cannot_load_is_said_with_the_name_of_the_node(ray, cluster, tmp_path):
    with pytest.raises(AtlasError, match=r"On \S+: .*none\.pth"):
        Cluster(find_spec("demo"), OPTIONS | {"weights": [tmp_path / "none.pth"]}, workers=1)
    assert ray.is_initialized()


# without a cluster


def test_a_worker_predicts_the_localizations_that_the_local_engine_does(tmp_path, store):
    network = dataclasses.replace(TINY, n_channels=4, image_size=SIDE)
    spec = dataclasses.replace(TINY_SPEC, channels=CHANNELS, crop_px=SIDE, pixel_size_um=PIXEL_UM, network=network)
    made = SubCellNetwork(network)
    seed_weights(made, 0)
    torch.save(published_state(made), tmp_path / "network.pth")
    torch.save(published_head(3), tmp_path / "head.pth")
    options = OPTIONS | {"weights": [tmp_path / "network.pth", tmp_path / "head.pth"]}
    encoder = load_encoder(spec, **options)
    rows = [write_cell(tmp_path, f"c{i}", i) for i in range(3)]
    (tmp_path / "c1_er.png").write_bytes(b"")
    source = read_manifest(write_manifest(tmp_path / "m.csv", rows), channels=CHANNELS, encoder="x", crops=True)
    plan = make_plan(source, encoder, HERE, done=Digests())
    prepared = [prepare(plan, source.item(index)) for index in range(3)]

    worker = Embedder(spec, options)
    recipe, pid = worker.load()
    assert (recipe, pid) == (encoder.recipe(masking="cell"), os.getpid())
    found = worker.embed(prepared[:1], prepared[1:]).pictures
    assert [each.reject is None for each in found] == [True, False, True]
    for before, after in zip(prepared, found, strict=True):
        assert after.crops is None
        if before.crops is not None:
            np.testing.assert_allclose(after.vectors, encoder.embed(before.crops), atol=1e-5)
            (probabilities,) = encoder.localize_embeddings(after.vectors)
            assert after.rows[0]["predicted_localization"] == name_localizations(probabilities.tolist())


def test_a_worker_remarks_once_that_channels_look_swapped(tmp_path, monkeypatch):
    monkeypatch.setattr("ingest.distributed.swapped_channels", lambda crops, channels: f"{len(crops)} look swapped.")
    rows = [write_cell(tmp_path, f"c{i}", i) for i in range(20)]
    source = read_manifest(write_manifest(tmp_path / "m.csv", rows), channels=CHANNELS, encoder="x", crops=True)
    plan = make_plan(source, load_encoder("demo", **OPTIONS), HERE, done=Digests())
    prepared = [prepare(plan, source.item(index)) for index in range(20)]
    worker = Embedder(find_spec("demo"), OPTIONS)
    worker.load()
    remarks = [worker.embed(prepared[at : at + 5]).pictures[0].remark for at in (0, 5, 10, 15, 15)]
    assert remarks == ["", "", "", "16 look swapped.", ""]


def test_nodes_that_embed_otherwise_are_refused_by_what_differs():
    one = Recipe(encoder="x", dim=2, precision="bfloat16", heads_sha256="a")
    check_alike(one, dataclasses.replace(one))
    with pytest.raises(RecipeMismatch, match=r"precision is 'float16', not 'bfloat16'"):
        check_alike(one, dataclasses.replace(one, precision="float16"))
    with pytest.raises(RecipeMismatch, match="other localization heads"):
        check_alike(one, dataclasses.replace(one, heads_sha256="b"))


def test_gpus_are_used_where_there_are_any_unless_it_is_said_otherwise():
    assert wants_gpu(None, {"CPU": 4.0, "GPU": 2.0})
    assert not wants_gpu("cpu", {"CPU": 4.0, "GPU": 2.0})
    assert not wants_gpu(None, {"CPU": 4.0})
    with pytest.raises(BadInput, match="has no GPU"):
        wants_gpu("cuda", {"CPU": 4.0})
    with pytest.raises(BadInput, match="Ray chooses"):
        wants_gpu("cuda:1", {"GPU": 2.0})


@pytest.mark.parametrize("wanted", [0, 3])
def test_more_workers_than_would_start_are_refused(wanted):
    with pytest.raises(BadInput, match=f"--workers {wanted}: the Ray cluster has 2 GPUs; 1 to 2 go"):
        number_of_workers(wanted, 2, on_gpu=True)
    assert number_of_workers(None, 2, on_gpu=False) == 2


@pytest.fixture
def command(tmp_path):
    manifest = write_manifest(tmp_path / "m.csv", [write_cell(tmp_path, "c")])
    arguments = ["ingest", "images", str(manifest), "--crops", "--atlas", str(tmp_path / "atlas"), "--engine", "ray"]
    return lambda *more: CliRunner().invoke(main, [*arguments, "--encoder", "demo", *more])


def test_without_ray_the_command_says_what_to_install(command, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    result = command()
    assert result.exit_code == 1
    assert "pip install 'subcell-atlas[ray]'" in result.stderr


def test_a_dry_run_of_a_cluster_is_refused(command):
    assert "leave out --engine ray" in command("--dry-run").stderr


def test_a_cluster_that_does_not_answer_is_said_soon(command, monkeypatch, free_port):
    ray = pytest.importorskip("ray")
    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.setenv("RAY_ADDRESS", f"127.0.0.1:{free_port}")
    began = time.monotonic()
    result = command()
    assert result.exit_code == 1
    assert f"RAY_ADDRESS='127.0.0.1:{free_port}' is not reached" in result.stderr
    assert time.monotonic() - began < 10
