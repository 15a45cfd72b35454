"""Weights over HTTP into the cache, against a server that does what servers do to people."""

from __future__ import annotations

import errno
import gzip
import hashlib
import io
import json
import os
import random
import re
import signal
import socket
import subprocess
import sys
import threading
import time
import zipfile
from collections.abc import Callable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import requests
from urllib3.util import connection

from subcell_atlas.encoders import fetch as fetching
from subcell_atlas.encoders.fetch import cache_folder, cached_path, fetch, how_to_get
from subcell_atlas.errors import BadWeights

BROKEN_AT = 9 * fetching.CHUNK_BYTES  # what comes after a whole number of pieces may be lost


def weights(seed: int = 1, size: int = 300_000) -> bytes:
    """A zip, as torch writes: a member that does not compress and the table at the end."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("archive/data/0", random.Random(seed).randbytes(size))
    return file.getvalue()


WEIGHTS = weights()


def sha256_of(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


@dataclass(kw_only=True)
class Reply:
    """What the server does with one request."""

    content: bytes = WEIGHTS
    status: int = 200  # others come with `content` as their text
    etag: str | None = '"one"'
    headers: dict[str, str] = field(default_factory=dict)
    ranges: bool = True
    shift: int = 0  # how far from the byte that was asked for the piece begins
    length: bool = True  # without: the end of the connection is the end of the body
    chunked: bool = False
    broken_at: int | None = None  # closes the connection after this many bytes of the body
    then: Callable[[], None] = lambda: None  # before the connection is closed


@dataclass
class Server:
    """Files at `url`; each request takes the next of `replies`, or `usual` when there is none left."""

    url: str
    replies: list[Reply] = field(default_factory=list)
    usual: Reply = field(default_factory=Reply)
    asked: list[tuple[str | None, str | None]] = field(default_factory=list)  # Range and If-Range of each request
    released: threading.Event = field(default_factory=threading.Event)  # for replies that wait


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    site: Server

    def log_message(self, *args):
        pass

    def do_GET(self):
        wanted, if_range = self.headers["Range"], self.headers["If-Range"]
        self.site.asked.append((wanted, if_range))
        reply = self.site.replies.pop(0) if self.site.replies else self.site.usual
        body, headers = reply.content, dict(reply.headers)
        status = reply.status
        if reply.etag:
            headers.setdefault("ETag", reply.etag)
        if status == 200 and reply.ranges and wanted and if_range == headers.get("ETag"):
            start = int(re.fullmatch(r"bytes=(\d+)-", wanted)[1]) + reply.shift
            status = 206 if start < len(body) else 416
            last = f"{start}-{len(body) - 1}" if status == 206 else "*"
            headers["Content-Range"] = f"bytes {last}/{len(body)}"
            body = body[start:]
        elif "gzip" in self.headers["Accept-Encoding"]:
            headers["Content-Encoding"] = "gzip"  # what could not be gone on with
            body = gzip.compress(body, 1)
        if reply.chunked:
            headers["Transfer-Encoding"] = "chunked"
        elif reply.length:
            headers.setdefault("Content-Length", str(len(body)))
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        sent = body[: reply.broken_at]
        self.wfile.write(b"%x\r\n%s\r\n" % (len(sent), sent) if reply.chunked else sent)
        if reply.chunked and reply.broken_at is None:
            self.wfile.write(b"0\r\n\r\n")
        reply.then()
        self.close_connection = True


class QuietServer(ThreadingHTTPServer):
    daemon_threads = False  # so that closing waits for them

    def handle_error(self, request, client_address):
        pass  # who asked has gone


@pytest.fixture
def server(tmp_path, monkeypatch):
    monkeypatch.setenv("SUBCELL_ATLAS_CACHE", str(tmp_path / "cache"))
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.lower(), raising=False)
    monkeypatch.setattr(fetching, "PAUSES_S", (0.01, 0.01, 0.01))
    monkeypatch.setattr(fetching, "TIMEOUTS_S", (5.0, 5.0))
    with QuietServer(("127.0.0.1", 0), Handler) as http:
        site = Server(f"http://127.0.0.1:{http.server_port}/models/rybg_mae.pth")
        http.RequestHandlerClass = type("SiteHandler", (Handler,), {"site": site})
        thread = threading.Thread(target=http.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield site
        finally:
            site.released.set()
            http.shutdown()
            thread.join()


def part_of(server: Server) -> Path:
    path = cached_path(server.url)
    return path.with_name(f"{path.name}.part")


def left_in_cache(server: Server) -> set[str]:
    return {file.name.removeprefix("rybg_mae.pth") for file in cached_path(server.url).parent.iterdir()} - {".lock"}


def test_a_file_is_fetched_once_and_then_taken_from_the_cache(server):
    path = fetch(server.url, sha256=sha256_of(WEIGHTS).upper())
    assert path == cached_path(server.url)
    assert path.read_bytes() == WEIGHTS
    assert left_in_cache(server) == {""}
    assert fetch(server.url) == path
    assert fetch(server.url, sha256="0" * 64) == path  # what is there is not hashed again
    assert server.asked == [(None, None)]


def test_what_is_in_the_cache_needs_no_network_nor_a_right_to_write(tmp_path, monkeypatch):
    monkeypatch.setenv("SUBCELL_ATLAS_CACHE", str(tmp_path))
    path = cached_path("https://nowhere.invalid/a.pth")
    path.parent.mkdir(parents=True)
    path.write_bytes(b"put here by hand")
    assert fetch("https://nowhere.invalid/a.pth") == path
    assert [file.name for file in path.parent.iterdir()] == ["a.pth"]


@pytest.mark.parametrize(
    "content",
    [
        b"\x80\x02\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19.",
        (16).to_bytes(8, "little") + b'{"a":[]}' * 2,
        WEIGHTS,
    ],
    ids=["pickle", "safetensors", "zip"],
)
def test_all_formats_of_weights_are_taken_with_a_length_and_without(server, content):
    for n, reply in enumerate((Reply(), Reply(chunked=True), Reply(length=False))):
        reply.content = content
        server.replies = [reply]
        assert fetch(f"{server.url}?{n}").read_bytes() == content
    assert len(server.asked) == 3


def test_a_broken_download_goes_on_where_it_broke_off(server):
    server.replies = [Reply(broken_at=BROKEN_AT), Reply(broken_at=fetching.CHUNK_BYTES)]
    assert fetch(server.url).read_bytes() == WEIGHTS
    starts = [BROKEN_AT, BROKEN_AT + fetching.CHUNK_BYTES]
    assert server.asked == [(None, None), *((f"bytes={start}-", '"one"') for start in starts)]


def test_a_broken_chunked_download_goes_on(server):
    server.replies = [Reply(chunked=True, broken_at=BROKEN_AT)]
    assert fetch(server.url).read_bytes() == WEIGHTS
    assert server.asked[1] == (f"bytes={BROKEN_AT}-", '"one"')


def test_a_body_that_ends_early_without_a_length_is_noticed(server):
    server.replies = [Reply(length=False, broken_at=BROKEN_AT)]
    assert fetch(server.url).read_bytes() == WEIGHTS
    assert server.asked[1] == (f"bytes={BROKEN_AT}-", '"one"')


def test_any_number_of_breaks_is_borne_while_bytes_come(server):
    server.usual = Reply(broken_at=2 * fetching.CHUNK_BYTES)
    assert fetch(server.url).read_bytes() == WEIGHTS
    assert len(server.asked) == 10 > len(fetching.PAUSES_S) + 1


def test_a_server_that_breaks_off_at_the_same_place_is_given_up(server):
    server.usual = Reply(broken_at=BROKEN_AT, ranges=False)
    with pytest.raises(BadWeights, match=r"the connection broke off \(147kB are kept") as raised:
        fetch(server.url)
    assert server.url in str(raised.value)
    assert str(cached_path(server.url)) in str(raised.value)
    assert "--weights FILE" in str(raised.value)
    assert len(server.asked) == 1 + len(fetching.PAUSES_S)
    assert not cached_path(server.url).exists()


def test_the_next_call_goes_on_with_what_the_last_left(server):
    server.replies = [Reply(broken_at=BROKEN_AT)]
    server.usual = Reply(status=404)
    with pytest.raises(BadWeights, match="404 Not Found"):
        fetch(server.url)
    assert part_of(server).read_bytes() == WEIGHTS[:BROKEN_AT]
    server.usual = Reply()
    assert fetch(server.url, sha256=sha256_of(WEIGHTS)).read_bytes() == WEIGHTS
    assert server.asked[2:] == [(f"bytes={BROKEN_AT}-", '"one"')]
    assert left_in_cache(server) == {""}


def test_a_server_without_ranges_begins_anew(server):
    server.replies = [Reply(broken_at=BROKEN_AT)]
    server.usual = Reply(ranges=False)
    assert fetch(server.url).read_bytes() == WEIGHTS
    assert len(server.asked) == 2


@pytest.mark.parametrize("etag", [None, 'W/"one"'])
def test_without_a_strong_mark_of_the_version_it_begins_anew(server, etag):
    server.usual = Reply(etag=etag)
    server.replies = [Reply(etag=etag, broken_at=BROKEN_AT)]
    assert fetch(server.url).read_bytes() == WEIGHTS
    assert server.asked == [(None, None)] * 2


def test_the_date_serves_where_there_is_no_etag(server):
    date = "Fri, 06 Dec 2024 12:00:00 GMT"
    server.replies = [Reply(etag=None, headers={"Last-Modified": date}, broken_at=BROKEN_AT)]
    assert fetch(server.url).read_bytes() == WEIGHTS
    assert server.asked[1] == (f"bytes={BROKEN_AT}-", date)


def test_a_file_that_changed_meanwhile_begins_anew(server):
    changed = weights(seed=2)
    server.replies = [Reply(broken_at=BROKEN_AT)]
    server.usual = Reply(content=changed, etag='"two"')
    assert fetch(server.url).read_bytes() == changed
    assert server.asked[1] == (f"bytes={BROKEN_AT}-", '"one"')


def test_a_changed_file_is_noticed_from_a_server_that_ignores_if_range(server):
    changed = weights(seed=2)
    piece = Reply(content=changed[BROKEN_AT:], status=206, etag='"two"')
    piece.headers["Content-Range"] = f"bytes {BROKEN_AT}-{len(changed) - 1}/{len(changed)}"
    server.replies = [Reply(broken_at=BROKEN_AT), piece]
    server.usual = Reply(content=changed, etag='"two"')
    assert fetch(server.url).read_bytes() == changed
    assert server.asked[2] == (None, None)


@pytest.mark.parametrize("shift", [-1, 1])
def test_another_piece_than_the_one_asked_for_is_not_joined(server, shift):
    server.replies = [Reply(broken_at=BROKEN_AT), Reply(shift=shift)]
    assert fetch(server.url).read_bytes() == WEIGHTS
    assert server.asked[2] == (None, None)


def test_pieces_shorter_or_longer_than_they_say_are_not_the_file(server):
    short = Reply(content=WEIGHTS[:40_000], status=206, headers={"Content-Range": f"bytes 0-39999/{len(WEIGHTS)}"})
    long = Reply(content=WEIGHTS[40_000:], status=206, headers={"Content-Range": "bytes 40000-40009/40010"})
    server.replies = [short, long]
    assert fetch(server.url).read_bytes() == WEIGHTS
    assert server.asked == [(None, None), ("bytes=40000-", '"one"'), (None, None)]


@pytest.mark.parametrize("mark", ["\x00\x80", "", "two\nlines"])
def test_a_part_of_unknown_version_is_begun_anew(server, mark):
    part = part_of(server)
    part.parent.mkdir(parents=True)
    part.write_bytes(b"PK\x03\x04 of something else")
    part.with_name(f"{part.name}.etag").write_text(mark)
    assert fetch(server.url).read_bytes() == WEIGHTS
    assert server.asked == [(None, None)]


@pytest.mark.parametrize(("content", "n_asked"), [(WEIGHTS, 1), (WEIGHTS + b"more", 2)], ids=["whole", "too long"])
def test_a_part_with_nothing_left_to_ask_for(server, content, n_asked):
    part = part_of(server)
    part.parent.mkdir(parents=True)
    part.write_bytes(content)
    part.with_name(f"{part.name}.etag").write_text('"one"')
    assert fetch(server.url).read_bytes() == WEIGHTS
    assert server.asked == [(f"bytes={len(content)}-", '"one"'), (None, None)][:n_asked]


@pytest.mark.parametrize("status", [403, 404, 410])
def test_a_refusal_is_final(server, status):
    server.usual = Reply(status=status, content=b"<Error>no</Error>")
    with pytest.raises(BadWeights, match=f"the server answered {status}") as raised:
        fetch(server.url)
    assert len(server.asked) == 1
    assert len(str(raised.value).splitlines()) <= 4
    assert left_in_cache(server) == set()


@pytest.mark.parametrize("status", [500, 503, 429])
def test_trouble_of_the_server_is_waited_out(server, status):
    server.replies = [Reply(status=status)] * 2
    assert fetch(server.url).read_bytes() == WEIGHTS
    assert len(server.asked) == 3
    server.usual = Reply(status=status)
    with pytest.raises(BadWeights, match=f"the server answered {status}"):
        fetch(f"{server.url}?other")
    assert len(server.asked) == 3 + 1 + len(fetching.PAUSES_S)


@pytest.mark.parametrize(
    ("page", "found"),
    [
        (b"<!DOCTYPE html>" + b"please sign in " * 50_000, "a web page or message"),
        (b'<?xml version="1.0"?><Error/>', "a web page or message"),
        (b'{"error": "gone"}', "a web page or message"),
        (b"version https://git-lfs.github.com/spec/v1", "something that is no weights"),
        (b"PK", "something that is no weights"),
        (b"", "an empty file"),
    ],
)
@pytest.mark.parametrize("chunked", [False, True])
def test_a_page_instead_of_weights_is_refused_and_removed(server, page, found, chunked):
    server.usual = Reply(content=page, chunked=chunked)
    with pytest.raises(BadWeights, match=found):
        fetch(server.url)
    assert len(server.asked) == 1
    assert left_in_cache(server) == set()


def test_a_page_is_refused_before_all_of_it_has_come(server):
    server.usual = Reply(content=b"<html>" * 200_000, broken_at=200_000, then=lambda: server.released.wait(5))
    began = time.monotonic()
    with pytest.raises(BadWeights, match="web page"):
        fetch(server.url)
    assert time.monotonic() - began < 2
    server.released.set()


def test_another_file_is_refused_by_its_hash_and_removed(server):
    server.usual = Reply(content=weights(seed=2))
    with pytest.raises(BadWeights) as raised:
        fetch(server.url, sha256=sha256_of(WEIGHTS))
    assert sha256_of(WEIGHTS) in str(raised.value)
    assert sha256_of(weights(seed=2)) in str(raised.value)
    assert len(server.asked) == 1
    assert left_in_cache(server) == set()


def test_a_zip_that_lacks_its_end_on_the_server_is_refused(server):
    server.usual = Reply(content=WEIGHTS[:-100])
    with pytest.raises(BadWeights, match="lacks its end"):
        fetch(server.url)
    assert len(server.asked) == 1
    assert left_in_cache(server) == set()


def test_a_stalled_server_is_left_and_asked_again(server, monkeypatch):
    monkeypatch.setattr(fetching, "TIMEOUTS_S", (5.0, 0.1))
    server.replies = [Reply(broken_at=BROKEN_AT, then=lambda: server.released.wait(5))]
    began = time.monotonic()
    assert fetch(server.url).read_bytes() == WEIGHTS
    assert time.monotonic() - began < 2
    server.released.set()
    start = int(re.fullmatch(r"bytes=(\d+)-", server.asked[1][0])[1])
    assert 0 < start <= BROKEN_AT


def test_a_server_that_only_stalls_is_given_up(server, monkeypatch):
    monkeypatch.setattr(fetching, "TIMEOUTS_S", (5.0, 0.05))
    server.usual = Reply(broken_at=0, then=lambda: server.released.wait(5))
    with pytest.raises(BadWeights, match=r"the server sent nothing for 0\.05 s"):
        fetch(server.url)
    server.released.set()
    assert len(server.asked) == 1 + len(fetching.PAUSES_S)


def test_without_a_connection_it_fails_at_once_and_says_where_the_file_goes(server, monkeypatch):
    monkeypatch.setattr(fetching, "PAUSES_S", (5.0,))
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # bound, but not listening
        url = f"http://127.0.0.1:{taken.getsockname()[1]}/models/rybg_mae.pth"
        began = time.monotonic()
        with pytest.raises(BadWeights) as raised:
            fetch(url)
    assert time.monotonic() - began < 2
    assert str(raised.value).splitlines() == [
        f"The weights {url}",
        "could not be fetched: there is no connection (Connection refused).",
        f"If you get the file elsewhere, put it at {cached_path(url)}",
        "or give it with --weights FILE.",
    ]


def test_a_connection_that_is_gone_for_a_while_is_waited_for(server, monkeypatch):
    gone = iter([True, False])
    real = connection.create_connection

    def connect(address, *args, **kwargs):
        if server.asked and next(gone):
            raise OSError(errno.ENETUNREACH, "Network is unreachable")
        return real(address, *args, **kwargs)

    server.replies = [Reply(broken_at=BROKEN_AT)]
    monkeypatch.setattr(connection, "create_connection", connect)
    assert fetch(server.url).read_bytes() == WEIGHTS
    assert server.asked[1:] == [(f"bytes={BROKEN_AT}-", '"one"')]
    assert next(gone, None) is None


def test_redirects_are_followed_but_not_for_ever(server):
    server.replies = [Reply(status=302, content=b"", headers={"Location": "/elsewhere"})]
    assert fetch(server.url).read_bytes() == WEIGHTS
    server.usual = Reply(status=302, content=b"", headers={"Location": "/elsewhere"})
    with pytest.raises(BadWeights, match="redirects"):
        fetch(f"{server.url}?again")


def test_https_is_not_left_on_the_way(server, monkeypatch):
    real = requests.Session.get
    monkeypatch.setattr(requests.Session, "get", lambda session, url, **options: real(session, server.url, **options))
    with pytest.raises(BadWeights, match="sends on to an address without https"):
        fetch("https://host.org/a.pth")


def test_a_compressed_body_is_unpacked(server):
    server.usual = Reply(content=gzip.compress(WEIGHTS), headers={"Content-Encoding": "gzip"})
    assert fetch(server.url, sha256=sha256_of(WEIGHTS)).read_bytes() == WEIGHTS


def test_a_proxy_that_is_not_there_and_certificates_that_are_not_are_named(server, monkeypatch):
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
    monkeypatch.setenv("NO_PROXY", "")
    with pytest.raises(BadWeights, match="proxy"):
        fetch(server.url)
    monkeypatch.delenv("HTTP_PROXY")
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", "/no/such/bundle.pem")
    with pytest.raises(BadWeights, match=r"could not be fetched: .*bundle\.pem"):
        fetch(server.url.replace("http:", "https:"))


def test_a_certificate_that_is_none_is_named(server):
    with pytest.raises(BadWeights, match="certificate was not accepted"):
        fetch(server.url.replace("http:", "https:"))  # the server speaks plain http


def test_interrupting_leaves_the_part_for_the_next_call(server):
    def interrupt():
        for _ in range(1000):
            if part_of(server).is_file() and part_of(server).stat().st_size:
                break
            time.sleep(0.005)
        signal.pthread_kill(threading.main_thread().ident, signal.SIGINT)
        server.released.wait(5)

    server.replies = [Reply(broken_at=BROKEN_AT, then=interrupt)]
    with pytest.raises(KeyboardInterrupt):
        fetch(server.url)
    server.released.set()
    size = part_of(server).stat().st_size
    assert part_of(server).read_bytes() == WEIGHTS[:size]
    assert fetch(server.url).read_bytes() == WEIGHTS
    assert server.asked[1:] == [(f"bytes={size}-", '"one"')]


def test_threads_that_ask_at_once_download_once(server, capsys):
    server.replies = [Reply(broken_at=BROKEN_AT, then=lambda: server.released.wait(5))]
    found = []
    threads = [threading.Thread(target=lambda: found.append(fetch(server.url))) for _ in range(4)]
    for thread in threads:
        thread.start()
    said, began = "", time.monotonic()
    while said.count("Another process is fetching") < 3 and time.monotonic() - began < 5:
        said += capsys.readouterr().err
        time.sleep(0.005)
    server.released.set()
    for thread in threads:
        thread.join()
    assert [path.read_bytes() for path in found] == [WEIGHTS] * 4
    assert server.asked == [(None, None), (f"bytes={BROKEN_AT}-", '"one"')]  # one download, that broke off once


def test_a_second_process_waits_and_finds_the_file(server):
    code = f"from subcell_atlas.encoders.fetch import fetch; print(fetch({server.url!r}))"
    server.usual = Reply(then=lambda: time.sleep(0.1))
    processes = [
        subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    outputs = [process.communicate(timeout=30) for process in processes]
    assert [out for out, _ in outputs] == [f"{cached_path(server.url)}\n"] * 2, outputs
    assert cached_path(server.url).read_bytes() == WEIGHTS
    assert len(server.asked) == 1


def test_a_cache_that_cannot_be_written_says_what_to_do(server, tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    monkeypatch.setenv("SUBCELL_ATLAS_CACHE", str(tmp_path / "file"))
    with pytest.raises(BadWeights, match=r"cannot be kept in .*: (Not a directory|File exists)") as raised:
        fetch(server.url)
    assert "Set SUBCELL_ATLAS_CACHE" in str(raised.value)
    assert server.asked == []


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may write everywhere")
def test_a_cache_of_someone_else_says_what_to_do(server, tmp_path):
    tmp_path.chmod(0o500)
    with pytest.raises(BadWeights, match="Permission denied"):
        fetch(server.url)
    tmp_path.chmod(0o700)


def test_a_disk_that_will_not_do_is_noticed_before_the_download(server, monkeypatch):
    monkeypatch.setattr(fetching.shutil, "disk_usage", lambda folder: type("Usage", (), {"free": 1000}))
    with pytest.raises(BadWeights, match="300kB are needed and 1"):
        fetch(server.url)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no device that is always full")
def test_a_disk_that_fills_up_says_what_to_do(server):
    part = part_of(server)
    part.parent.mkdir(parents=True)
    part.symlink_to("/dev/full")
    with pytest.raises(BadWeights, match=r"cannot be kept in .*: No space left on device"):
        fetch(server.url)
    assert len(server.asked) == 1


def test_a_folder_in_the_place_of_the_file_is_noticed_before_the_download(server):
    cached_path(f"{server.url}/content").parent.mkdir(parents=True)
    with pytest.raises(BadWeights, match=r"rybg_mae\.pth is a folder"):
        fetch(server.url)
    assert server.asked == []


def test_the_cache_is_where_the_environment_says(tmp_path, monkeypatch):
    monkeypatch.setenv("SUBCELL_ATLAS_CACHE", str(tmp_path / "here"))
    assert cached_path("https://host.org/a/b.pth") == tmp_path / "here" / "weights" / "host.org" / "a" / "b.pth"
    monkeypatch.setenv("SUBCELL_ATLAS_CACHE", "relative")
    assert cache_folder() == Path.cwd() / "relative"
    monkeypatch.setenv("SUBCELL_ATLAS_CACHE", "~/cache")
    assert cache_folder() == Path.home() / "cache"
    monkeypatch.setenv("SUBCELL_ATLAS_CACHE", "")
    assert cache_folder().name == "subcell-atlas"


def test_different_addresses_have_different_places_within_the_cache():
    addresses = [
        "https://host.org/a/b.pth",
        "http://host.org/a/b.pth",
        "https://host.org:8443/a/b.pth",
        "https://other.org/a/b.pth",
        "https://host.org/a/c/b.pth",
        "https://host.org/a//b.pth",
        "https://host.org//a/b.pth",
        "https://host.org/a/../b.pth",
        "https://host.org/a/%2e%2e/b.pth",
        "https://host.org/a\\..\\b.pth",
        "https://host.org/a/b.pth?version=1",
        "https://host.org/a/b.pth?version=2",
        "https://[::1]/a/b.pth",
        "https://[::1]:80/a/b.pth",
        "https://host.org/a/b:c|d.pth",
        "https://host.org/a/b%20c.pth",
        "https://host.org/../../../../b.pth",
        "https://host.org/a/\N{GREEK SMALL LETTER BETA}.pth",
    ]
    paths = [cached_path(address) for address in addresses]
    assert len(set(paths)) == len(addresses)
    for path in paths:
        assert path.resolve() == path
        assert path.is_relative_to(cache_folder() / "weights")
        assert not set(path.relative_to(cache_folder()).as_posix()) & set('<>:"|?*\\ ')
    assert cached_path("https://user:secret@HOST.org:443/a/b.pth#part") == paths[0]


@pytest.mark.parametrize(
    ("address", "problem"),
    [
        ("ftp://host.org:21/a.pth", "not an address of http or https"),
        ("file:///a.pth", "not an address of http or https"),
        ("a.pth", "not an address of http or https"),
        ("", "not an address of http or https"),
        ("https:///a.pth", "names no file"),
        ("https://../a.pth", "names no file"),
        ("https://host.org", "names no file"),
        ("https://host.org/folder/", "names no file"),
        ("https://host.org/folder/..", "names no file"),
        ("https://host.org:port/a.pth", "not a web address"),
        ("https://[::1/a.pth", "not a web address"),
        ("https://host.org/\udc80.pth", "not a web address"),
        ("https://host.org/a.pth?\udc80", "not a web address"),
    ],
)
def test_only_web_addresses_of_files_are_taken(address, problem):
    with pytest.raises(BadWeights, match=problem):
        fetch(address)


@pytest.mark.parametrize("address", ["http://no host/a.pth", "http://a..b/a.pth", "http://*/a.pth"])
def test_a_host_that_cannot_be_is_an_error_of_the_address(server, address):
    with pytest.raises(BadWeights, match="could not be fetched"):
        fetch(address)


def test_how_to_get_files_by_other_means(tmp_path, monkeypatch):
    monkeypatch.setenv("SUBCELL_ATLAS_CACHE", str(tmp_path))
    urls = ["https://host.org/a.pth", "https://host.org/b.pth", "https://host.org/a.pth"]
    assert how_to_get(urls).splitlines()[1:] == [
        "  https://host.org/a.pth",
        f"    put at {tmp_path / 'weights' / 'host.org' / 'a.pth'}",
        "  https://host.org/b.pth",
        f"    put at {tmp_path / 'weights' / 'host.org' / 'b.pth'}",
    ]


def test_a_log_gets_lines_and_the_notice_is_said_once(server, capsys, monkeypatch):
    monkeypatch.setattr(fetching, "LINE_EVERY_S", 0.0)
    server.replies = [Reply(broken_at=BROKEN_AT)]
    path = fetch(server.url, notice="SubCell is under the MIT licence.")
    out, err = capsys.readouterr()
    lines = err.splitlines()
    assert lines[:2] == ["SubCell is under the MIT licence.", f"Fetching {server.url}"]
    assert any(line.startswith("rybg_mae.pth:  11% 32.8k/300k [") and "B/s]" in line for line in lines)
    assert "Trying again in 0.01 s: the connection broke off." in lines
    assert lines[-1] == f"It is at {path}"
    assert out == ""
    assert "\r" not in err
    fetch(server.url, notice="SubCell is under the MIT licence.")
    assert capsys.readouterr().err == ""


def test_without_progress_only_the_notice_is_said(server, capsys):
    server.replies = [Reply(broken_at=BROKEN_AT)]
    fetch(server.url, progress=False, notice="MIT")
    assert capsys.readouterr().err == "MIT\n"


def test_a_terminal_gets_a_bar(server, monkeypatch):
    class Terminal(io.StringIO):
        def isatty(self):
            return True

    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    server.replies = [Reply(broken_at=BROKEN_AT)]
    fetch(server.url)
    assert "rybg_mae.pth: 100%" in terminal.getvalue()
    assert "300k/300k" in terminal.getvalue()
    assert "B/s]" in terminal.getvalue()


def test_importing_it_does_not_import_torch():
    code = "import sys, json, subcell_atlas.encoders.fetch; print(json.dumps('torch' in sys.modules))"
    assert json.loads(subprocess.check_output([sys.executable, "-c", code])) is False
