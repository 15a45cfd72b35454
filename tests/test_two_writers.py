"""Two jobs that write one atlas at once: nothing is lost, each cell is there once, and nobody sees a conflict."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from fake_encoder import FakeEncoder

from ingest.clock import Clock
from ingest.ledger import Ledger
from ingest.prepare import Prepared
from ingest.simulated import SimulatedSource, write_files
from ingest.writer import Writer
from subcell_atlas import store as module
from subcell_atlas.errors import AtlasError
from subcell_atlas.images.simulated import make_proteome
from subcell_atlas.profiles import vector_array
from subcell_atlas.recipe import Recipe
from subcell_atlas.store import Store

ROOT = Path(__file__).parents[1]
OFTEN = "from ingest import writer; writer.COMMIT_CELLS = 12; from subcell_atlas.cli import main; main()"
RECIPE = Recipe(encoder="x", dim=2)


def run_at_once(manifests, uri: str, environment=os.environ) -> list[str]:
    """Ingest manifests in processes of their own at the same time; return what each said last."""
    common = ["--crops", "--encoder", "demo", "--batch-size", "4", "--workers", "0", "--atlas", uri]
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", OFTEN, "ingest", "images", str(manifest), *common],
            stderr=subprocess.PIPE, text=True, env={**environment, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        )
        for manifest in manifests
    ]  # fmt: skip
    said = [process.communicate(timeout=120)[1] for process in processes]
    assert [process.returncode for process in processes] == [0] * len(processes), "\n".join(said)
    assert not any("Traceback" in each for each in said)
    return [each.strip().splitlines()[-1] for each in said]


def check(uri: str, n_cells: int, n_runs: int) -> None:
    store = Store.open(uri)
    ids = store.read("cells", ["cell_id"])["cell_id"].to_pylist()
    assert len(ids) == len(set(ids)) == n_cells
    runs = store.read("runs")
    assert runs.num_rows == n_runs
    assert runs["finished"].null_count == 0


@pytest.fixture(scope="module")
def manifests(tmp_path_factory) -> list[Path]:
    folder = tmp_path_factory.mktemp("two")
    return [write_files(SimulatedSource(make_proteome(8, seed=i), 6), folder / str(i)) for i in (1, 2)]


def test_two_jobs_over_different_pictures_and_one_twice_give_each_cell_once(manifests, tmp_path):
    uri = str(tmp_path / "atlas")
    run_at_once([*manifests, manifests[0]], uri)
    check(uri, 96, 3)


def test_two_jobs_write_one_atlas_in_s3(manifests, monkeypatch):
    moto = pytest.importorskip("moto.server")
    boto3 = pytest.importorskip("boto3")
    server = moto.ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    endpoint = "http://{}:{}".format(*server.get_host_and_port())
    try:
        known = {"ENDPOINT_URL": endpoint, "ACCESS_KEY_ID": "k", "SECRET_ACCESS_KEY": "s", "REGION": "us-east-1"}
        for name, value in known.items():
            monkeypatch.setenv(f"AWS_{name}", value)
        boto3.client("s3", endpoint_url=endpoint, region_name="us-east-1").create_bucket(Bucket="bucket")
        run_at_once([manifests[0], manifests[0], manifests[1]], "s3://bucket/atlas", os.environ)
        check("s3://bucket/atlas", 96, 3)
        for command in (
            ["build"],
            ["similar", "DEMO001"],
            ["sql", "SELECT count(*) AS n FROM cells"],
            ["info"],
            ["compact"],
        ):
            done = subprocess.run(
                [sys.executable, "-m", "subcell_atlas", *command, "--atlas", "s3://bucket/atlas"],
                env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True, timeout=120,
            )  # fmt: skip
            assert done.returncode == 0, (command, done.stderr)
    finally:
        server.stop()


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"AWS_ENDPOINT_URL": "http://127.0.0.1:9"}, "the server is not reached"),
        ({"AWS_ENDPOINT_URL": "127.0.0.1:9"}, "AWS_ENDPOINT_URL='127.0.0.1:9' is no address"),
        ({"AWS_ACCESS_KEY_ID": "", "AWS_SECRET_ACCESS_KEY": "", "AWS_EC2_METADATA_DISABLED": "true"}, "no credentials"),
    ],
)
def test_an_atlas_in_s3_that_cannot_be_reached_is_said_in_a_line(changed, said):
    known = {"AWS_ENDPOINT_URL": "http://127.0.0.1:9", "AWS_ACCESS_KEY_ID": "k", "AWS_SECRET_ACCESS_KEY": "s"}
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "AWS_REGION": "us-east-1", **known, **changed}
    environment = {name: value for name, value in environment.items() if value}
    command = [sys.executable, "-m", "subcell_atlas", "info", "--atlas", "s3://bucket/atlas"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == 1
    assert said in done.stderr
    assert len(done.stderr.strip().splitlines()) <= 2


def test_a_table_that_is_created_at_once_keeps_what_is_written_meanwhile(tmp_path):
    all_there = threading.Barrier(4, timeout=60)

    def begin(who: int) -> None:
        for i in range(10):
            store = Store.create(str(tmp_path / f"atlas{i}"))
            all_there.wait()
            store.upsert("runs", pa.table({"run_id": [f"r{who}"]}))

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(begin, range(4)))
    for i in range(10):
        ids = Store.open(str(tmp_path / f"atlas{i}")).read("runs", ["run_id"])["run_id"].to_pylist()
        assert sorted(ids) == ["r0", "r1", "r2", "r3"]


def test_rows_of_the_same_new_key_that_are_upserted_at_once_are_one(tmp_path):
    uri, all_there = str(tmp_path / "atlas"), threading.Barrier(3, timeout=60)

    def upsert(who: str) -> None:
        store = Store.create(uri)
        for i in range(8):
            row = {"source": "s", "image": f"c{i}", "reason": who, "run_id": who}
            all_there.wait()
            store.upsert("rejects", pa.table({name: [value] for name, value in row.items()}))

    with ThreadPoolExecutor(3) as pool:
        list(pool.map(upsert, ["one", "two", "three"]))
    assert sorted(Store.open(uri).read("rejects")["image"].to_pylist()) == [f"c{i}" for i in range(8)]


def writer_of(store: Store, run_id: str) -> Writer:
    recipe = FakeEncoder().recipe(masking="cell")
    return Writer(store, None, recipe, run_id, "pictures", 1, Ledger(store), Clock())


def test_a_reject_that_two_jobs_find_stays_and_one_that_is_mended_goes(tmp_path):
    store = Store.create(str(tmp_path / "atlas"))
    with writer_of(store, "before") as before:
        for name in ("bad", "mended"):
            before.take(Prepared(image_id=name, reject="the file is empty"))
        before.finish()
    with writer_of(store, "one") as one, writer_of(store, "two") as two:
        for writer in (one, two):
            writer.take(Prepared(image_id="bad", reject="the file is empty"))
            writer.take(Prepared(image_id="new", reject="the file is missing"))
            writer.save(wait=True)
        two.finish()
        one.finish()
    assert {row["image"]: row["run_id"] for row in store.read("rejects").to_pylist()} == {"bad": "two", "new": "two"}


def cells(ids: list[str]) -> pa.Table:
    return pa.table({"cell_id": ids, "picture_id": ids, "embedding": vector_array(np.ones((len(ids), 2)))})


def test_of_cells_that_were_appended_twice_one_stays(tmp_path):
    store = Store.create(str(tmp_path / "atlas"))
    store.drop_doubles()
    for ids in (["a", "b"], ["b", "c"], ["b"]):
        store.append_cells(cells(ids), recipe=RECIPE)
    store.drop_doubles()
    assert sorted(store.read("cells")["cell_id"].to_pylist()) == ["a", "b", "c"]
    version = store.version("cells")
    store.drop_doubles()
    assert store.version("cells") == version


def test_a_write_that_meets_another_is_tried_again_and_at_last_given_up(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "PAUSES_S", (0.001,) * 3)
    store = Store.create(str(tmp_path / "atlas"))
    store.append_cells(cells(["a"]), recipe=RECIPE)
    tries = []

    def write(opened, *, until):
        tries.append(opened.version)
        if len(tries) < until:
            raise RuntimeError("lance error: Retryable commit conflict for version 20: preempted by concurrent")

    store._commit("cells", lambda opened: write(opened, until=3))
    assert len(tries) == 3
    with pytest.raises(AtlasError, match="what was stored before is whole"):
        store._commit("cells", lambda opened: write(opened, until=99))
    assert len(tries) == 3 + 4
