"""Files by address: a server that stalls, breaks off, is busy, lies and sends damage; S3; and being polite to both."""

from __future__ import annotations

import io
import threading
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
from fake_encoder import CHANNELS, PIXEL_UM, FakeEncoder, draw_cell, write_cell, write_manifest
from PIL import Image

from ingest import addresses
from ingest.addresses import Unreachable, join, name_of, read_address
from ingest.job import Options, ingest_pictures
from ingest.manifest import read_manifest
from subcell_atlas.encoders import fetch
from subcell_atlas.errors import AtlasError, BadImage, BadInput
from subcell_atlas.store import Store

QUIET = Options(workers=0, progress=False, pixel_size_um=PIXEL_UM)


def png(seed: int = 0) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(np.random.default_rng(seed).integers(0, 255, (64, 64), np.uint8)).save(buffer, "PNG")
    return buffer.getvalue()


@dataclass
class Server:
    """What a server has, how it misbehaves by path and time of asking, and what it saw."""

    port: int = 0
    files: dict[str, bytes] = field(default_factory=dict)
    moods: dict[str, list[str]] = field(default_factory=dict)  # path -> what happens at each request, then it is well
    asked: Counter = field(default_factory=Counter)
    at_once: int = 0
    most_at_once: int = 0
    pause_s: float = 0.0
    lock: threading.Lock = field(default_factory=threading.Lock)
    agents: set[str] = field(default_factory=set)

    def url(self, path: str) -> str:
        return f"http://127.0.0.1:{self.port}/{path}"


@pytest.fixture
def server(tmp_path, monkeypatch) -> Iterator[Server]:
    monkeypatch.setenv("SUBCELL_ATLAS_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(fetch, "TIMEOUTS_S", (1.0, 0.5))
    monkeypatch.setattr(fetch, "PAUSES_S", (0.01, 0.01, 0.01))
    state = Server()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *_):
            pass

        def do_GET(self):
            with state.lock:
                state.at_once += 1
                state.most_at_once = max(state.most_at_once, state.at_once)
                state.agents.add(self.headers.get("User-Agent", ""))
            try:
                time.sleep(state.pause_s)
                self.answer(self.path.lstrip("/"))
            finally:
                with state.lock:
                    state.at_once -= 1

        def answer(self, path):
            with state.lock:
                state.asked[path] += 1
                mood = state.moods[path].pop(0) if state.moods.get(path) else "well"
            content = state.files.get(path)
            if content is None or mood in ("404", "503", "429"):
                self.send_response(int(mood) if mood.isdecimal() else 404)
                if mood == "429":
                    self.send_header("Retry-After", "0")
                self.send_header("Content-Length", "0")
                self.end_headers()
                return
            start = 0
            if (wanted := self.headers.get("Range")) and self.headers.get("If-Range") == '"v1"':
                start = int(wanted.removeprefix("bytes=").rstrip("-"))
                self.send_response(206)
                self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
            else:
                self.send_response(200)
            self.send_header("ETag", '"v1"')
            self.send_header("Content-Length", str(len(content) - start + (50 if mood == "lies" else 0)))
            self.end_headers()
            if mood == "breaks":
                self.wfile.write(content[start : start + (len(content) - start) // 2])
                self.close_connection = True
                self.connection.close()
            elif mood == "stalls":
                self.wfile.write(content[start : start + 10])
                self.wfile.flush()
                time.sleep(1.0)
                self.close_connection = True
            else:
                self.wfile.write(content[start:])
                self.close_connection = mood == "lies"

        def handle(self):
            with suppress(OSError):
                super().handle()

    class Quiet(ThreadingHTTPServer):
        daemon_threads = True

        def handle_error(self, *_):
            pass

    made = Quiet(("127.0.0.1", 0), Handler)
    state.port = made.server_address[1]
    thread = threading.Thread(target=made.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    yield state
    made.shutdown()
    made.server_close()


@pytest.mark.parametrize(
    "moods", [[], ["503"], ["429", "503"], ["breaks"], ["stalls", "breaks"], ["breaks"] * 2 + ["503"]]
)
def test_a_file_comes_whole_however_the_server_behaves_for_a_while(server, moods):
    server.files["a/b.png"], server.moods["a/b.png"] = png(), list(moods)
    assert read_address(server.url("a/b.png")) == server.files["a/b.png"]
    assert server.asked["a/b.png"] == len(moods) + 1
    assert all(agent.startswith("subcell-atlas/") for agent in server.agents)


@pytest.mark.parametrize(
    ("mood", "content", "said"),
    [
        ("404", b"x", "404"),
        ("503", b"x", "503"),
        ("breaks", png(), "broke off|bytes came"),
        ("lies", png(), "bytes came|broke off"),
        ("stalls", png(), "sent nothing|broke off|bytes came"),
        ("well", b"<html>gone</html>", "web page"),
        ("well", b"", "empty"),
    ],
)
def test_what_cannot_be_had_is_a_bad_picture_with_the_reason(server, mood, content, said):
    server.files["b.png"], server.moods["b.png"] = content, [mood] * 9
    if mood == "breaks":
        server.files["b.png"] = b""  # nothing new comes, however often it is asked
        said = "empty"
    with pytest.raises(BadImage, match=said) as caught:
        read_address(server.url("b.png"))
    assert "\n" not in str(caught.value)


def test_a_server_that_is_not_there_ends_the_run_and_rejects_nothing(server, tmp_path):
    rows = [{"image_id": f"c{i}", **dict.fromkeys(CHANNELS, "http://127.0.0.1:9/x.png")} for i in range(3)]
    store = Store.create(str(tmp_path / "atlas"))
    source = read_manifest(write_manifest(tmp_path / "m.csv", rows), channels=CHANNELS, encoder="fake", crops=True)
    with pytest.raises(Unreachable, match=r"127.0.0.1:9 could not be reached.*\nRun the same command again"):
        ingest_pictures(store, source, FakeEncoder(), QUIET)
    assert store.count("rejects") == 0
    assert store.read("runs")["finished"].null_count == 0


def test_only_what_was_asked_to_be_kept_is_kept(server, tmp_path):
    server.files["a.png"] = png()
    for _ in range(2):
        read_address(server.url("a.png"))
    assert server.asked["a.png"] == 2
    for _ in range(3):
        read_address(server.url("a.png"), cache=True)
    assert server.asked["a.png"] == 3
    kept = list((tmp_path / "cache").rglob("*.png"))
    assert [path.read_bytes() for path in kept] == [png()]


def test_a_broken_download_that_is_kept_goes_on_in_the_next_run(server):
    server.files["a.png"] = png()
    server.moods["a.png"] = ["breaks", *["503"] * 6]
    with pytest.raises(BadImage):
        read_address(server.url("a.png"), cache=True)
    assert read_address(server.url("a.png"), cache=True) == png()


def test_no_more_than_four_downloads_at_once(server):
    server.pause_s = 0.05
    server.files |= {f"{i}.png": png(i) for i in range(16)}
    with ThreadPoolExecutor(12) as pool:
        contents = list(pool.map(lambda i: read_address(server.url(f"{i}.png")), range(16)))
    assert contents == [png(i) for i in range(16)]
    assert 2 <= server.most_at_once <= addresses.AT_ONCE


def test_worker_processes_are_polite_together(server, tmp_path):
    server.pause_s = 0.02
    rows = []
    for number in range(24):
        row = write_cell(tmp_path, f"c{number}", number)
        for name in CHANNELS:
            server.files[row[name]] = (tmp_path / row[name]).read_bytes()
            row[name] = server.url(row[name])
        rows.append(row)
    server.moods[rows[3]["er"].rpartition("/")[2]] = ["404"]
    store = Store.create(str(tmp_path / "atlas"))
    source = read_manifest(write_manifest(tmp_path / "m.csv", rows), channels=CHANNELS, encoder="fake", crops=True)
    options = Options(workers=6, progress=False, pixel_size_um=PIXEL_UM)
    counts = ingest_pictures(store, source, FakeEncoder(), options)
    assert (counts.cells, counts.rejected) == (23, 1)
    assert "404" in store.read("rejects")["reason"][0].as_py()
    assert server.most_at_once <= addresses.AT_ONCE
    asked = server.asked.total()
    again = ingest_pictures(store, source, FakeEncoder(), options)
    assert (again.done_before, again.cells) == (23, 1)
    assert server.asked.total() == asked + 4  # what is done is not fetched again
    direct = draw_cell(5)["er"].mean()
    (cell,) = store.read("cells", ["embedding"], where="image_id = 'c5'").to_pylist()
    assert cell["embedding"][1] == pytest.approx(direct, abs=1e-4)


def test_a_manifest_on_a_server_names_files_beside_it(server, tmp_path):
    row = write_cell(tmp_path, "a", 5)
    server.files["set/m.csv"] = write_manifest(tmp_path / "m.csv", [row]).read_bytes()
    server.files |= {f"set/{row[name]}": (tmp_path / row[name]).read_bytes() for name in CHANNELS}
    store = Store.create(str(tmp_path / "atlas"))
    source = read_manifest(server.url("set/m.csv"), channels=CHANNELS, encoder="fake", crops=True)
    assert ingest_pictures(store, source, FakeEncoder(), QUIET).cells == 1
    with pytest.raises(BadInput, match="404"):
        read_manifest(server.url("no.csv"), channels=CHANNELS, encoder="fake", crops=True)


@pytest.mark.parametrize(
    ("folder", "name", "address"),
    [
        ("/data", "a.png", "/data/a.png"),
        ("/data", "/x/a.png", "/x/a.png"),
        ("/data", "https://h/a.png", "https://h/a.png"),
        ("https://h/set", "p/a.png", "https://h/set/p/a.png"),
        ("https://h/set", "../a.png", "https://h/a.png"),
        ("s3://b/set", "p/a.png", "s3://b/set/p/a.png"),
    ],
)
def test_names_are_relative_to_the_manifest(folder, name, address):
    assert join(folder, name) == address
    assert name_of(address) == "a.png"
    assert name_of("https://h/x%20y.png?version=2") == "x y.png"


@pytest.mark.parametrize(
    "address", ["ftp://h/a.png", "http:///a.png", "s3://bucket", "https://h/a.exe", "http://[::/a.png"]
)
def test_addresses_that_are_none_are_bad_pictures(address):
    with pytest.raises(BadImage):
        read_address(address)


# S3


@pytest.fixture
def bucket(monkeypatch) -> Iterator[str]:
    moto = pytest.importorskip("moto.server")
    boto3 = pytest.importorskip("boto3")
    made = moto.ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    made.start()
    endpoint = "http://{}:{}".format(*made.get_host_and_port())
    for name, value in {
        "AWS_ENDPOINT_URL": endpoint, "AWS_ACCESS_KEY_ID": "key", "AWS_SECRET_ACCESS_KEY": "secret",
        "AWS_REGION": "us-east-1",
    }.items():  # fmt: skip
        monkeypatch.setenv(name, value)
    addresses.s3_of.cache_clear()
    client = boto3.client("s3", endpoint_url=endpoint, region_name="us-east-1")
    client.create_bucket(Bucket="pictures")
    client.put_object(Bucket="pictures", Key="set/a.png", Body=png())
    yield "s3://pictures/set"
    made.stop()
    addresses.s3_of.cache_clear()


def test_objects_of_s3_are_read_and_missing_ones_are_bad_pictures(bucket):
    assert read_address(f"{bucket}/a.png") == png()
    with pytest.raises(BadImage, match="the file is missing"):
        read_address(f"{bucket}/b.png")
    with pytest.raises(BadImage, match=r"missing|could not be fetched"):
        read_address("s3://no-such-bucket/b.png")


def test_an_s3_that_is_not_there_is_told_from_a_missing_object(monkeypatch):
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("AWS_REGION", "us-east-1")
    addresses.s3_of.cache_clear()
    with pytest.raises(AtlasError, match="S3 could not be reached"):
        read_address("s3://pictures/a.png")
    addresses.s3_of.cache_clear()


def test_slots_are_free_again_after_an_error(server):
    server.files["a.png"] = b""
    for _ in range(6):
        with pytest.raises(BadImage):
            read_address(server.url("a.png"))
    server.files["b.png"] = png()
    assert read_address(server.url("b.png")) == png()


def test_local_files_are_read_as_ever(tmp_path):
    (tmp_path / "a.png").write_bytes(png())
    assert read_address(str(tmp_path / "a.png")) == png()
    with pytest.raises(BadImage, match="the file is missing"):
        read_address(str(Path(tmp_path) / "b.png"))
