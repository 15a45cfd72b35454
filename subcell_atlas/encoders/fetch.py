"""Weights files over HTTPS, kept in a cache.

A file lies in the cache under its host and path. While it comes it is `<name>.part`, with the server's ETag (or date)
in `<name>.part.etag` so that a broken download goes on where it ended if the file is still the same, and with
`<name>.lock` so that one process fetches and the others wait. What has its own name is whole.
"""

from __future__ import annotations

import errno
import hashlib
import os
import re
import shutil
import sys
import time
import zipfile
from collections.abc import Generator, Iterable, Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from urllib.parse import quote, urlsplit

import requests
from filelock import FileLock, Timeout
from platformdirs import user_cache_path
from tqdm import tqdm
from urllib3.exceptions import MaxRetryError, ReadTimeoutError

from .._version import __version__
from ..errors import AtlasError, BadWeights

__all__ = ["NoConnection", "cache_folder", "cached_path", "fetch", "how_to_get"]

TIMEOUTS_S = (10.0, 30.0)  # to connect, and between two pieces of the answer
PAUSES_S = (0.5, 1.0, 2.0, 4.0, 8.0)  # before each further attempt; a piece that arrives starts the row again
LONGEST_PAUSE_S = 120.0  # that a server may ask for
LINE_EVERY_S = 10.0  # how often a log, not a terminal, is told how far a download is
CHUNK_BYTES = 1 << 14  # so much, at most, is lost when a connection breaks off
HEAD_BYTES = 9  # enough to tell the formats of weights apart
MAX_SAFETENSORS_HEADER = 100_000_000  # bytes; as in the safetensors library
BUSY = (408, 425, 429)  # answers worth another attempt, beside 5xx
MAYBE_BETTER_NEXT_TIME = (requests.ConnectionError, requests.Timeout, requests.exceptions.ChunkedEncodingError)


class Broken(Exception):
    """An attempt failed in a way that another may not, after the pause that the server asked for."""

    def __init__(self, reason: str, *, retry_after_s: float = 0.0) -> None:
        super().__init__(reason)
        self.retry_after_s = retry_after_s


class NoConnection(BadWeights):
    """The server was not reached."""


class Refused(Exception):
    """What came is not what was asked for."""


def cache_folder() -> Path:
    """Return the folder of the cache: `$SUBCELL_ATLAS_CACHE`, else the user's cache folder on this system."""
    chosen = os.environ.get("SUBCELL_ATLAS_CACHE")
    if not chosen:
        return user_cache_path("subcell-atlas", appauthor=False)
    folder = Path(chosen)
    with suppress(RuntimeError):  # '~' of nobody is taken as it stands, as a shell does
        folder = folder.expanduser()
    return folder.absolute()


def cached_path(url: str) -> Path:
    """Return where the file of an address lies in the cache, there or not: `weights/<host>/<path of the address>`.

    A port other than 443 is added to the host, a digest of the query to the name; user names are left out.
    """
    try:
        parts = urlsplit(url)
        host, port = parts.hostname or "", parts.port or {"https": 443, "http": 80}.get(parts.scheme)
        *folders, name = (quote(step, safe="%") for step in parts.path.removeprefix("/").split("/"))
        place = quote(host, safe="%") + (f"+{port}" if port != 443 else "")
        digest = hashlib.sha256(parts.query.encode()).hexdigest()[:12]
    except ValueError as exc:
        raise BadWeights(f"{url!r} is not a web address: {exc}.") from exc
    if parts.scheme not in ("https", "http"):
        raise BadWeights(f"{url!r} is not an address of http or https; a file is given with --weights FILE.")
    if not host.strip(".") or not name.strip("."):
        raise BadWeights(f"{url!r} names no file; an address looks like https://host/folder/name.pth.")
    if parts.query:
        name = f"{Path(name).stem}-{digest}{Path(name).suffix}"
    steps = [step.replace(".", "%2E") if not step.strip(".") else step for step in folders]  # '..' would climb out
    return cache_folder().joinpath("weights", place, *(step or "%" for step in steps), name)


def fetch(url: str, *, sha256: str | None = None, progress: bool = True, notice: str = "") -> Path:
    """Return the local file of `url`, downloaded if the cache lacks it.

    `sha256`, where known, is compared after a download, not at each call. `progress` is shown on stderr; `notice` is
    said there before a download begins. A download that was interrupted goes on with the next call. Raise BadWeights.
    """
    path = cached_path(url)
    try:
        if path.is_file():
            return path
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.is_dir():  # of another address that goes on where this one ends
            raise IsADirectoryError(errno.EISDIR, f"{path.name} is a folder")
        with only_one(path, progress=progress):
            if not path.is_file():
                say(notice)
                Transfer(url, path, progress=progress).run(sha256)
    except OSError as exc:
        msg = (
            f"The weights {url}\ncannot be kept in {path.parent}: {exc.strerror or exc}.\nSet SUBCELL_ATLAS_CACHE to a "
            "folder with room that you may write to, or give the file with --weights FILE."
        )
        raise BadWeights(msg) from exc
    return path


def how_to_get(urls: Sequence[str]) -> str:
    """Return how to get the files of `urls` by other means: each address and where in the cache its file goes."""
    places = "".join(f"\n  {url}\n    put at {cached_path(url)}" for url in dict.fromkeys(urls))
    return f"Without a connection: get each file elsewhere and put it in its place, or give --weights FILE.{places}"


@contextmanager
def only_one(path: Path, *, progress: bool) -> Iterator[None]:
    """Hold the lock of `path`, when need be after the process that is fetching it."""
    lock = FileLock(beside(path, ".lock"))
    try:
        lock.acquire(timeout=0)
    except Timeout:
        say(f"Another process is fetching {path.name}; waiting for it." if progress else "")
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


class Transfer:
    """The download of one file, in as many requests as it takes.

    What it is of shows in `check`, `check_head` and `failed`; of weights here.
    """

    waits_for_server = False  # whether a server that was never reached is asked again

    def __init__(self, url: str, path: Path, *, progress: bool) -> None:
        self.url = url
        self.path = path
        self.progress = progress
        self.part = beside(path, ".part")
        self.validator_file = beside(path, ".part.etag")
        self.answered = False  # whether the server has ever been reached

    def run(self, sha256: str | None) -> None:
        """Bring the file to its place, whole, or raise BadWeights. OSError is of the disk only."""
        self.say(f"Fetching {self.url}")
        failures, furthest = 0, self.size()
        try:
            while problem := self.try_once():
                if self.size() > furthest:
                    failures, furthest = 0, self.size()
                if failures == len(PAUSES_S) or not (self.answered or self.waits_for_server):
                    kept = self.size() if self.validator() else 0
                    hint = f" ({size_text(kept)} are kept for the next call)" if kept else ""
                    raise self.failed(f"{why(problem)}{hint}") from problem
                pause = max(PAUSES_S[failures], getattr(problem, "retry_after_s", 0.0))
                self.say(f"Trying again in {pause:g} s: {why(problem)}.")
                time.sleep(pause)
                failures += 1
            self.check(sha256)
        except requests.RequestException as exc:
            raise self.failed(why(exc)) from exc
        except Refused as exc:
            self.discard()
            raise self.failed(str(exc)) from exc
        self.part.replace(self.path)
        self.validator_file.unlink(missing_ok=True)
        self.say(f"It is at {self.path}")

    def try_once(self) -> Broken | requests.RequestException | None:
        """Make one request; return the problem if it ended early and another may do better."""
        try:
            self.request()
        except (Broken, *MAYBE_BETTER_NEXT_TIME) as exc:
            self.answered |= not could_not_connect(exc)
            return exc
        return None

    def request(self) -> None:
        """Ask for what the part lacks and add it to the part."""
        validator = self.validator()
        offset = self.size() if validator else 0
        headers = {"User-Agent": f"subcell-atlas/{__version__}", "Accept-Encoding": "identity"}
        if offset:
            headers |= {"Range": f"bytes={offset}-", "If-Range": validator}
        with requests.Session() as session, self.ask(session, headers) as answer:
            self.answered = True
            hops = [self.url, *(hop.url for hop in [*answer.history, answer])]
            if self.url.lower().startswith("https:") and not all(hop.lower().startswith("https:") for hop in hops):
                raise self.failed(f"the server sends on to an address without https, {hops[-1]}")
            if answer.status_code in BUSY or answer.status_code >= 500:
                raise Broken(f"the server answered {status_text(answer)}", retry_after_s=retry_after(answer))
            if answer.status_code == 416 and offset:
                if length_in_range(answer) == offset and validator_of(answer) in ("", validator):
                    return
                self.discard()
                raise Broken("the server has another file than the one begun")
            if answer.status_code not in (200, 206):
                raise self.failed(f"the server answered {status_text(answer)}")
            if answer.status_code == 206:
                if start_of_range(answer) != offset or (offset and validator_of(answer) not in ("", validator)):
                    self.discard()
                    raise Broken("the server sent another piece than the one asked for")
                total = length_in_range(answer)
            else:
                offset, total = 0, content_length(answer)
            self.receive(answer, offset, total)

    def ask(self, session: requests.Session, headers: dict[str, str]) -> requests.Response:
        """Send the request; the body is still to be read."""
        try:
            return session.get(self.url, headers=headers, stream=True, timeout=TIMEOUTS_S)
        except requests.RequestException:
            raise
        except (OSError, ValueError) as exc:  # not of the disk of the cache: a REQUESTS_CA_BUNDLE that is not there
            raise self.failed(str(exc).rstrip(".")) from exc

    def receive(self, answer: requests.Response, offset: int, total: int | None) -> None:
        """Write the body into the part from `offset` on, which is its end; 0 begins it anew."""
        with self.part.open("ab" if offset else "wb") as file:
            if not offset:
                self.validator_file.write_text(validator_of(answer), "latin-1")  # as headers are
            check_room(self.part.parent, (total or 0) - offset)
            body = answer.iter_content(CHUNK_BYTES)
            head_known = False
            with closing(counted(body, self.path.name, offset, total, shown=self.progress)) as chunks:
                for chunk in chunks:
                    file.write(chunk)
                    if not head_known and file.tell() >= HEAD_BYTES:
                        file.flush()
                        self.check_head()
                        head_known = True
            file.flush()
            os.fsync(file.fileno())
            size = file.tell()
        if total is None and is_cut_zip(self.part):
            raise Broken(f"the file ended early, after {size_text(size)}")
        if total is not None and size != total:
            if size > total:
                self.discard()
            raise Broken(f"{size:,} bytes came, not {total:,}")

    def check(self, sha256: str | None) -> None:
        """Raise Refused unless the part, which has come whole, is what was asked for."""
        check(self.part, sha256)

    def check_head(self) -> None:
        """Raise Refused unless the file begins as it should."""
        check_head(self.part)

    def size(self) -> int:
        """Return how many bytes of the file are here."""
        return self.part.stat().st_size if self.part.is_file() else 0

    def validator(self) -> str:
        """Return the ETag or date of the file that the part is of; empty when it cannot be gone on with."""
        if not self.validator_file.is_file():
            return ""
        text = self.validator_file.read_text("latin-1")
        return text if text.isprintable() else ""

    def discard(self) -> None:
        """Remove the part."""
        self.part.unlink(missing_ok=True)
        self.validator_file.unlink(missing_ok=True)

    def failed(self, reason: str) -> AtlasError:
        """Return the error that says `reason` and what to do."""
        msg = (
            f"The weights {self.url}\ncould not be fetched: {reason}.\nIf you get the file elsewhere, put it at "
            f"{self.path}\nor give it with --weights FILE."
        )
        return BadWeights(msg) if self.answered else NoConnection(msg)

    def say(self, text: str) -> None:
        """Say `text` on stderr if progress is wanted."""
        say(text if self.progress else "")


def counted(
    chunks: Iterable[bytes], name: str, offset: int, total: int | None, *, shown: bool
) -> Generator[bytes, None, None]:
    """Pass `chunks` on and show on stderr how far they are: as a bar on a terminal, else as a line now and then."""
    if not shown:
        yield from chunks
        return
    if sys.stderr.isatty():
        with tqdm(desc=name, initial=offset, total=total, unit="B", unit_scale=True, dynamic_ncols=True) as bar:
            for chunk in chunks:
                yield chunk
                bar.update(len(chunk))
        return
    began = said = time.monotonic()
    n = offset
    for chunk in chunks:
        yield chunk
        n += len(chunk)
        now = time.monotonic()
        if now - said >= LINE_EVERY_S:
            said = now
            say(tqdm.format_meter(n, total, now - began, 0, name, unit="B", unit_scale=True, initial=offset))


def check(part: Path, sha256: str | None) -> None:
    """Raise Refused unless `part`, which has come whole, is a weights file and the one with `sha256`."""
    if part.stat().st_size == 0:
        raise Refused("the server sent an empty file")
    check_head(part)
    if sha256:
        with part.open("rb") as file:
            found = hashlib.file_digest(file, "sha256").hexdigest()
        if found != sha256.lower():
            raise Refused(f"the file that came is another one or damaged (sha256 {found},\nexpected {sha256.lower()})")
    if is_cut_zip(part):
        raise Refused("the file that came lacks its end")


def check_head(part: Path) -> None:
    """Raise Refused unless the file begins as weights do: a zip or a pickle of torch, or safetensors."""
    with part.open("rb") as file:
        head = file.read(64)
    if head.startswith((b"PK\x03\x04", b"\x80")):
        return
    if head[8:9] == b"{" and int.from_bytes(head[:8], "little") <= MAX_SAFETENSORS_HEADER:
        return
    text = head.removeprefix(b"\xef\xbb\xbf").lstrip()
    page = "a web page or message" if text.startswith((b"<", b"{", b"[")) else "something"
    raise Refused(f"the server sent {page} that is no weights file; it begins with {head[:24]!r}")


def is_cut_zip(part: Path) -> bool:
    """Tell whether the file begins as a zip but lacks the table at its end."""
    with part.open("rb") as file:
        return file.read(4) == b"PK\x03\x04" and not zipfile.is_zipfile(file)


def check_room(folder: Path, needed: int) -> None:
    """Raise OSError if the disk of `folder` has less than `needed` bytes left."""
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise OSError(errno.ENOSPC, f"{size_text(needed)} are needed and {size_text(free)} are free")


def why(exc: Exception) -> str:
    """Return in a few words why a request failed."""
    cause = exc.args[0] if exc.args else None
    if isinstance(exc, requests.exceptions.SSLError):
        return (
            "the server's certificate was not accepted\n"
            "(where a proxy reads along, REQUESTS_CA_BUNDLE names the file of its certificate)"
        )
    if isinstance(exc, requests.exceptions.ProxyError):
        return "the proxy did not let it through (see HTTPS_PROXY and HTTP_PROXY)"
    if isinstance(exc, requests.ConnectTimeout):
        return f"there was no connection within {TIMEOUTS_S[0]:g} s"
    if isinstance(exc, requests.Timeout) or isinstance(cause, ReadTimeoutError):
        return f"the server sent nothing for {TIMEOUTS_S[1]:g} s"
    if isinstance(cause, MaxRetryError):
        deeper = cause.reason.__cause__ if cause.reason else None
        detail = deeper.strerror if isinstance(deeper, OSError) else None
        return f"there is no connection ({detail or cause.reason})"
    if isinstance(exc, MAYBE_BETTER_NEXT_TIME):
        return "the connection broke off"
    return str(exc).rstrip(".")


def could_not_connect(exc: Exception) -> bool:
    """Tell whether `exc` is of a request that reached no server: no network, wrong host, proxy or certificate."""
    return bool(exc.args) and isinstance(exc.args[0], MaxRetryError)


def validator_of(answer: requests.Response) -> str:
    """Return what tells this version of the file from others: a strong ETag, else its date, else nothing."""
    if is_encoded(answer):
        return ""
    etag = answer.headers.get("ETag", "")
    return etag if etag.startswith('"') else answer.headers.get("Last-Modified", "")


def is_encoded(answer: requests.Response) -> bool:
    """Tell whether the body is compressed on its way, so that its bytes are not those of the file."""
    return answer.headers.get("Content-Encoding", "identity").lower() != "identity"


def content_length(answer: requests.Response) -> int | None:
    """Return the length of the file in bytes where the answer tells it."""
    text = answer.headers.get("Content-Length", "")
    return int(text) if text.isdecimal() and not is_encoded(answer) else None


def start_of_range(answer: requests.Response) -> int | None:
    """Return at which byte of the file the body begins."""
    found = re.match(r"bytes (\d+)-", answer.headers.get("Content-Range", ""))
    return int(found[1]) if found and not is_encoded(answer) else None


def length_in_range(answer: requests.Response) -> int | None:
    """Return the length of the whole file in bytes as an answer of a part of it tells it."""
    found = re.search(r"/(\d+)$", answer.headers.get("Content-Range", ""))
    return int(found[1]) if found else None


def retry_after(answer: requests.Response) -> float:
    """Return the seconds after which a busy server wants to be asked again, 0 when it says none."""
    text = answer.headers.get("Retry-After", "")
    return min(float(text), LONGEST_PAUSE_S) if text.isdecimal() else 0.0


def status_text(answer: requests.Response) -> str:
    """Return the status as in '404 Not Found'."""
    return f"{answer.status_code} {answer.reason or ''}".rstrip()


def size_text(n_bytes: int) -> str:
    """Return a size as in '353MB'."""
    return str(tqdm.format_sizeof(n_bytes, "B"))


def beside(path: Path, ending: str) -> Path:
    """Return `path` with `ending` added to its name."""
    return path.with_name(path.name + ending)


def say(text: str) -> None:
    """Write a line on stderr, or nothing if it is empty; a stderr that is gone is no reason to stop."""
    if text:
        with suppress(OSError, ValueError):
            sys.stderr.write(f"{text}\n")
            sys.stderr.flush()
