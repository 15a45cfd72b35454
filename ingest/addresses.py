"""Files by their address: a path, http(s)://… or s3://bucket/key.

Web servers are asked politely: at most `AT_ONCE` downloads from one host, over all processes of this machine, each
going on where it broke off and pausing when the server is busy. What cannot be had is a bad picture; a server that
cannot be reached at all ends the run, which goes on when it is started again.
"""

from __future__ import annotations

import os
import random
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import unquote, urljoin, urlsplit

from filelock import FileLock, Timeout

from subcell_atlas.encoders.fetch import Refused, Transfer, cache_folder, cached_path
from subcell_atlas.errors import AtlasError, BadImage, BadWeights
from subcell_atlas.images.files import PICTURE_SUFFIXES, read_bytes

__all__ = ["is_remote", "join", "name_of", "read_address", "read_remote"]

AT_ONCE = 4  # downloads from one host; the Human Protein Atlas's server is overloaded by more
LOOK_S = 0.05  # how often a free slot is looked for, about
S3_KEYS = ("AWS_ACCESS_KEY_ID", "AWS_PROFILE", "AWS_WEB_IDENTITY_TOKEN_FILE", "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI")
UNREACHED = ("NETWORK_CONNECTION", "curlCode", "resolve host", "Timeout", "timed out")  # in errors of S3


class Unreachable(AtlasError):
    """A server was not reached."""


def is_remote(address: str) -> bool:
    """Tell whether `address` is not a path."""
    return "://" in address


def join(folder: str, name: str) -> str:
    """Return the address of the file that a manifest in `folder` calls `name`."""
    if is_remote(name) or not folder:
        return name
    if is_remote(folder):
        return urljoin(f"{folder.rstrip('/')}/", name) if folder.startswith("http") else f"{folder.rstrip('/')}/{name}"
    return str(Path(folder) / name)


def name_of(address: str) -> str:
    """Return the name of a file, without folders and what follows a `?`."""
    if not is_remote(address):
        return Path(address).name
    path = address.partition("://")[2].partition("?")[0].partition("/")[2]
    return PurePosixPath(unquote(path)).name


def read_address(address: str, *, cache: bool = False) -> bytes:
    """Return the content of a picture's file. cache: keep what comes from the web, so that it is fetched once.

    Raise BadImage when there is no such file or it cannot be had, Unreachable when its server cannot be reached.
    """
    if not is_remote(address):
        return read_bytes(Path(address))
    name, suffix = name_of(address), Path(name_of(address)).suffix.lower()
    if suffix not in PICTURE_SUFFIXES:
        msg = f"{name}: pictures are {', '.join(PICTURE_SUFFIXES)}, not {suffix or 'without a suffix'!r}"
        raise BadImage(msg)
    content = read_remote(address, cache=cache)
    if not content:
        raise BadImage(f"{name}: the file is empty")
    return content


def read_remote(address: str, *, cache: bool = False) -> bytes:
    """Return the content of any file that is not on a disk; raise as `read_address` does."""
    scheme = address.partition("://")[0].lower()
    if scheme in ("http", "https"):
        return read_web(address, cache=cache)
    if scheme == "s3":
        return read_s3(address)
    raise BadImage(f"{address}: files are paths, or at http://, https:// or s3://")


def read_web(address: str, *, cache: bool) -> bytes:
    """Return the content of a file on a web server."""
    try:
        kept = cached_path(address)
    except BadWeights as exc:  # how it calls an address that is none
        raise BadImage(str(exc)) from exc
    kept = cache_folder() / "pictures" / kept.relative_to(cache_folder() / "weights")
    if kept.is_file():
        return kept.read_bytes()
    if cache:
        kept.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(f"{kept}.lock"):
            if not kept.is_file():
                download(address, kept)
            return kept.read_bytes()
    with tempfile.TemporaryDirectory(prefix="subcell-atlas-") as folder:
        place = Path(folder) / kept.name
        download(address, place)
        return place.read_bytes()


def download(address: str, place: Path) -> None:
    """Bring a file to its place."""
    try:
        with one_of_few(urlsplit(address).netloc):
            PictureTransfer(address, place, progress=False).run(None)
    except OSError as exc:
        raise AtlasError(f"{address}\ncannot be kept in {place.parent}: {exc.strerror or exc}.") from exc


class PictureTransfer(Transfer):
    """The download of a picture."""

    waits_for_server = True

    def check(self, sha256: str | None) -> None:
        """Raise Refused unless something came that may be a picture."""
        del sha256
        self.check_head()

    def check_head(self) -> None:
        """Raise Refused when a web page came."""
        with self.part.open("rb") as file:
            head = file.read(64)
        if head.lstrip().startswith((b"<", b"{")):
            raise Refused("the server sent a web page or message, no picture")

    def failed(self, reason: str) -> AtlasError:
        """Return the error that says `reason`: of this picture, or of the server when it was never reached."""
        first = reason.splitlines()[0]
        if self.answered:
            return BadImage(f"{name_of(self.url)} could not be fetched: {first}")
        host = urlsplit(self.url).netloc
        return Unreachable(f"{host} could not be reached: {first}.\nRun the same command again to go on.")


@contextmanager
def one_of_few(host: str) -> Iterator[None]:
    """Hold one of the slots for downloads from `host`, of which this machine has `AT_ONCE`."""
    folder = cache_folder() / "slots"
    folder.mkdir(parents=True, exist_ok=True)
    locks = [FileLock(folder / f"{host.replace(':', '+').replace('/', '+')}-{i}.lock") for i in range(AT_ONCE)]
    while True:
        for lock in random.sample(locks, len(locks)):
            try:
                lock.acquire(timeout=0)
            except Timeout:
                continue
            try:
                yield
            finally:
                lock.release()
            return
        time.sleep(random.uniform(0.5, 1.5) * LOOK_S)


def read_s3(address: str) -> bytes:
    """Return the content of an object in S3, at `$AWS_ENDPOINT_URL` if that is set; unsigned without credentials."""
    bucket, _, key = address.removeprefix("s3://").partition("/")
    if not bucket or not key:
        raise BadImage(f"{address} is no address of a file; one looks like s3://bucket/folder/name.png")
    try:
        with s3_of(bucket).open_input_stream(f"{bucket}/{key}") as stream:
            return stream.read()
    except FileNotFoundError:
        raise BadImage(f"{address}: the file is missing") from None
    except OSError as exc:
        reason = str(exc).splitlines()[0][:200]
        if any(sign in str(exc) for sign in UNREACHED):
            raise Unreachable(f"S3 could not be reached: {reason}\nRun the same command again to go on.") from exc
        raise BadImage(f"{name_of(address)} could not be fetched: {reason}") from exc


@lru_cache(maxsize=16)
def s3_of(bucket: str) -> Any:
    """Return the file system that has a bucket."""
    from pyarrow import fs

    endpoint = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL")
    region = os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION")
    if not endpoint and not region:
        try:
            region = fs.resolve_s3_region(bucket)
        except OSError as exc:
            raise Unreachable(f"The bucket {bucket!r} could not be found: {str(exc).splitlines()[0][:200]}") from exc
    is_known = any(os.environ.get(name) for name in S3_KEYS) or (Path.home() / ".aws" / "credentials").is_file()
    scheme, _, host = (endpoint or "").rpartition("://")
    where = {"endpoint_override": host, "scheme": scheme or "https"} if endpoint else {}
    retries = fs.AwsStandardS3RetryStrategy(max_attempts=5)
    return fs.S3FileSystem(anonymous=not is_known, region=region or "us-east-1", retry_strategy=retries, **where)
