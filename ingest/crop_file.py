"""The cells of a source, cut out once into a file from which any of them is read at once: what training reads.

It is a folder of two files. `crops.bin` holds a block a cell, compressed by itself: the bytes of its crop (C, S, S),
then the bits of its mask (S, S). `cells.parquet` holds a row a cell: what is known of it, and where its block is; its
metadata say what the whole was made from.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import mmap
import operator
import shutil
import sys
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from filelock import FileLock, Timeout
from tqdm import tqdm

from subcell_atlas.errors import AtlasError, BadImage, BadInput
from subcell_atlas.schema import TABLES
from subcell_atlas.writing import writing

from .counts import Counts
from .ledger import Digests
from .loader import prepared_pictures
from .prepare import Plan, Prepared
from .progress import Progress
from .sources import Item, Source

__all__ = ["CropFile", "open_crops", "write_crops"]

VERSION = 1  # raise it when the layout changes or cells are cut differently: files of other versions are made anew
BLOCKS, CELLS = "crops.bin", "cells.parquet"
METADATA_KEY = b"subcell_atlas_crops"
COLUMNS = (
    "cell_id",
    "image_id",
    "antibody",
    "protein_id",
    "gene_symbol",
    "cell_line",
    "condition",
    "plate",
    "well",
    "fov",
    "localization",
)
# dtype: of the block's crop, as numpy writes it
INDEX = {"offset": pa.int64(), "length": pa.int64(), "dtype": pa.string()}
SCHEMA = pa.schema({**{name: TABLES["cells"][name] for name in COLUMNS}, **INDEX})
# zstd 1 halves crops (2.0 times smaller for simulated ones of 128 px, 2.3 to 2.4 for HPA's and CM4AI's of 448 px); lz4
# makes them only 1.4 and 1.6 to 2.1 times smaller. A core decompresses 13,000 and 1,600 to 2,200 of them a second, more
# than a network can train on, while a proteome fills disks. Higher levels gain 3 % and take twice the time and more.
CODEC, LEVEL = "zstd", 1
N_REASONS = 10  # of refused pictures, that are kept
ROWS_AT_ONCE = 4096  # rows of cells that wait as Python objects
CUT_ANEW = "Remove the folder and cut its cells anew with write_crops."


@dataclass(frozen=True, kw_only=True)
class About:
    """What a file of crops says of itself. dtype: of what is read; n_bytes: of `crops.bin`."""

    version: int
    digest: str
    channels: tuple[str, ...]
    crop_um: float
    crop_px: int
    dtype: str
    n_cells: int
    n_bytes: int
    n_rejected: int
    rejects: Mapping[str, str]


class CropFile:
    """The cells of a source by number; `write_crops` and `open_crops` return it.

    It travels to worker processes, which open the files when they first read, and many threads may read at once.

    channels, crop_um, crop_px: of each crop. dtype: of what `read` returns. digest: of what the cells were made from.
    n_rejected: pictures that were refused; rejects: image_id -> reason of the first of them.
    """

    def __init__(self, path: Path, about: About) -> None:
        self.path = path
        self.channels = about.channels
        self.crop_um = about.crop_um
        self.crop_px = about.crop_px
        self.dtype = np.dtype(about.dtype)
        self.digest = about.digest
        self.n_rejected = about.n_rejected
        self.rejects = about.rejects
        self._about = about

    def __getstate__(self) -> dict[str, Any]:
        opened = ("cells", "_index", "_blocks")
        return {name: value for name, value in self.__dict__.items() if name not in opened}

    def __len__(self) -> int:
        return self._about.n_cells

    def __repr__(self) -> str:
        return f"<CropFile {self.path}: {len(self)} cells of {self.crop_px} px, {', '.join(self.channels)}>"

    @cached_property
    def cells(self) -> pa.Table:
        """A row a cell, in the order of their numbers: what is known of it."""
        return read_rows(self.path, self._about, [*COLUMNS, *INDEX])

    def read(self, indices: Sequence[int] | np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return the crops (n, C, S, S) of these cells, and where the cell is in each, (n, S, S) bool.

        Crops are as they were cut: neighbors and all. Where cells were cut from pictures of several depths, all are
        read at `dtype`, the narrowest that holds each of them; values stay what they were.
        """
        rows = [operator.index(index) for index in indices]
        for row in rows:
            if not 0 <= row < len(self):
                raise IndexError(f"cell {row} of {len(self)}")
        side = self.crop_px
        crops = np.empty((len(rows), len(self.channels), side, side), self.dtype)
        masks = np.empty((len(rows), side, side), bool)
        for at, row in enumerate(rows):
            crops[at], masks[at] = self._read_one(row)
        return crops, masks

    def _read_one(self, row: int) -> tuple[np.ndarray, np.ndarray]:
        offsets, lengths, dtypes = self._index
        shape = (len(self.channels), self.crop_px, self.crop_px)
        dtype = np.dtype(dtypes[row])
        n_crop, n_mask = dtype.itemsize * int(np.prod(shape)), n_mask_bytes(self.crop_px)
        block = pa.py_buffer(self._blocks[offsets[row] : offsets[row] + lengths[row]])
        try:
            content = pa.decompress(block, n_crop + n_mask, codec=CODEC)
        except (OSError, pa.ArrowException) as exc:
            raise BadInput(f"{self.path / BLOCKS} is damaged: cell {row} cannot be read.\n{CUT_ANEW}") from exc
        crop = np.frombuffer(content, dtype, n_crop // dtype.itemsize).reshape(shape)
        bits = np.frombuffer(content, np.uint8, n_mask, n_crop)
        return crop, np.unpackbits(bits, count=self.crop_px**2).reshape(shape[1:])

    @cached_property
    def _index(self) -> tuple[np.ndarray, np.ndarray, list[str]]:
        rows = read_rows(self.path, self._about, list(INDEX))
        return rows["offset"].to_numpy(), rows["length"].to_numpy(), rows["dtype"].to_pylist()

    @cached_property
    def _blocks(self) -> memoryview:
        check_size(self.path, self._about)  # reading a map beyond its file's end kills the process
        with (self.path / BLOCKS).open("rb") as file:
            return memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))


def open_crops(path: Path) -> CropFile:
    """Open what `write_crops` wrote. Raise BadInput when it is missing, incomplete, damaged, or of another version."""
    path = Path(path).absolute()
    about = read_about(path)
    check_size(path, about)
    opened = CropFile(path, about)
    if len(opened.cells) != len(opened):
        raise BadInput(f"{path / CELLS} is damaged: it has {len(opened.cells)} rows, not {len(opened)}.\n{CUT_ANEW}")
    return opened


def read_about(path: Path) -> About:
    """Return what a file of crops says of itself."""
    absent = [name for name in (CELLS, BLOCKS) if not (path / name).is_file()]
    if absent:
        found = f"{path} is incomplete: it lacks {absent[0]}" if path.is_dir() else f"There are no crops at {path}"
        raise BadInput(f"{found}.\nCut the cells of a source into it with write_crops.")
    try:
        metadata = pq.read_schema(path / CELLS).metadata or {}
    except (OSError, pa.ArrowException) as exc:
        raise BadInput(f"{path / CELLS} is damaged.\n{CUT_ANEW}") from exc
    if METADATA_KEY not in metadata:
        raise BadInput(f"{path / CELLS} is not of a file of crops.\nGive a folder that write_crops wrote.")
    about = json.loads(metadata[METADATA_KEY])
    if about["version"] != VERSION:
        msg = f"{path} holds crops of version {about['version']}; this package reads version {VERSION}.\n{CUT_ANEW}"
        raise BadInput(msg)
    return About(**{**about, "channels": tuple(about["channels"])})


def read_rows(path: Path, about: About, columns: Sequence[str]) -> pa.Table:
    """Read columns of `cells.parquet`, which must be the one that `about` was read from."""
    if read_about(path).digest != about.digest:
        raise BadInput(f"{path} was made anew, from something else, since it was opened.\nOpen it again.")
    try:
        return pq.read_table(path / CELLS, columns=list(columns))
    except (OSError, pa.ArrowException) as exc:
        raise BadInput(f"{path / CELLS} is damaged.\n{CUT_ANEW}") from exc


def check_size(path: Path, about: About) -> None:
    """Raise BadInput when `crops.bin` is not as long as it was written."""
    if (n_bytes := (path / BLOCKS).stat().st_size) != about.n_bytes:
        raise BadInput(f"{path / BLOCKS} is damaged: it has {n_bytes} bytes, not {about.n_bytes}.\n{CUT_ANEW}")


def n_mask_bytes(side: int) -> int:
    """Return the bytes of a mask's bits."""
    return -(-side * side // 8)


def write_crops(
    source: Source,
    path: Path,
    *,
    channels: Sequence[str],
    crop_um: float,
    crop_px: int,
    pixel_size_um: float,
    workers: int | None = None,
    replacing: bool = True,
    progress: bool = True,
) -> CropFile:
    """Cut the cells of every picture of `source` into the folder `path`, or take what is there when nothing changed.

    pixel_size_um: of pictures that do not tell theirs. workers: 0 cuts in this process, None takes one a core.
    replacing: whether cells of other pictures, or cut in another way, make place for these; they are refused otherwise.

    The folder appears when it is whole; of processes that start together one cuts and the others wait for it. A refused
    picture stops nothing, see `CropFile.rejects`. Raise BadInput when there is no cell at all or `path` cannot be
    used, and AtlasError on an interrupt.
    """
    plan = Plan(
        source=source.name,
        channels=tuple(channels),
        crop_um=crop_um,
        crop_px=crop_px,
        masking="none",
        default_pixel_size_um=pixel_size_um,
        recipe="",
        done=Digests(),
        keep_masks=True,
    )
    digest = digest_of(plan, source)
    path = Path(path).absolute()
    with only_one(path, progress=progress):
        check_place(path)
        there = None
        with suppress(BadInput):
            there = open_crops(path)
        if there is not None and there.digest == digest:
            return there
        if there is not None and not replacing:
            msg = f"{str(path)!r} holds cells of other pictures, or cut for another encoder."
            raise BadInput(f"{msg}\nGive another folder, or delete this one when no training needs it.")
        part = path.with_name(f".{path.name}.part")  # of a run that was killed, when it is there
        writer = Writer(source, plan, digest)
        try:
            with writing(part):
                shutil.rmtree(part, ignore_errors=True)
                part.mkdir()
            writer.run(part, workers=workers, progress=progress)
            with writing(path):
                replace(part, path)
        except KeyboardInterrupt:
            msg = f"Interrupted after {writer.counts.pictures} of {len(source)} pictures; no cells are kept."
            raise AtlasError(f"{msg}\nRun the same command again to cut them from the start.") from None
        except BrokenProcessPool:
            msg = "A process that reads pictures was ended, maybe for want of memory; no cells are kept."
            raise AtlasError(f"{msg}\nRun the same command again, with fewer --workers.") from None
        finally:
            shutil.rmtree(part, ignore_errors=True)
        return open_crops(path)


def digest_of(plan: Plan, source: Source) -> str:
    """Hash what the cells are made from: the settings and the source's pictures.

    Files are told by their names, sizes and times of change: reading them all would take as long as cutting them.
    """
    settings = (VERSION, plan.channels, plan.crop_um, plan.crop_px, plan.default_pixel_size_um)
    hashed = hashlib.blake2b(repr(settings).encode(), digest_size=16)
    for index in range(len(source)):
        item = source.item(index)
        hashed.update(b"\0" + (plan.stamp(item) or content_of(item)).encode())
    return hashed.hexdigest()


def content_of(item: Item) -> str:
    """Return what tells a picture by its content: its own hash, how it is read, what is known."""
    try:
        return json.dumps([item.image_id, item.picture_id(), item.reading(), item.metadata], sort_keys=True)
    except BadImage as exc:
        return f"{item.image_id} {exc}"


def check_place(path: Path) -> None:
    """Raise BadInput when there is something at `path` that is no crops."""
    if path.exists() and not path.is_dir():
        raise BadInput(f"{path} is a file; crops are written into a folder. Give another name.")
    with writing(path):
        others = sorted({child.name for child in path.iterdir()} - {BLOCKS, CELLS}) if path.exists() else []
    if others:
        raise BadInput(f"{path} holds other files, such as {others[0]!r}.\nGive an empty folder, or one to be made.")


def replace(part: Path, path: Path) -> None:
    """Move a whole folder of crops to its place, in which an older one may be."""
    if path.exists():
        for name in (CELLS, BLOCKS):
            (path / name).unlink(missing_ok=True)
        path.rmdir()
    part.rename(path)


@contextmanager
def only_one(path: Path, *, progress: bool) -> Iterator[None]:
    """Hold the lock of `path`, when need be after the process that is writing it."""
    lock = FileLock(path.with_name(f".{path.name}.lock"))  # it stays: two could hold it if one that waits saw it go
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            lock.acquire(timeout=0)
        except Timeout:
            if progress:
                tqdm.write(f"Another process is cutting cells into {path}; waiting for it.", file=sys.stderr)
            lock.acquire()
    try:
        yield
    finally:
        lock.release()


@dataclass
class Writer:
    """Writes cells picture by picture."""

    source: Source
    plan: Plan
    digest: str
    counts: Counts = field(default_factory=Counts)
    _rows: list[dict[str, Any]] = field(default_factory=list)
    _tables: list[pa.Table] = field(default_factory=list)
    _rejects: dict[str, str] = field(default_factory=dict)
    _image_of: dict[str, str] = field(default_factory=dict)  # picture_id -> image_id
    _dtypes: set[np.dtype] = field(default_factory=set)
    _n_bytes: int = 0

    def run(self, folder: Path, *, workers: int | None, progress: bool) -> None:
        """Write both files. Raise BadInput when there is no cell."""
        with (
            writing(folder),
            (folder / BLOCKS).open("wb") as file,
            Progress(len(self.source), shown=progress) as shown,
        ):
            items = (self.source.item(index) for index in range(len(self.source)))
            for prepared in prepared_pictures(self.plan, items, workers):
                self._take(prepared, file)
                shown.show(self.counts, cells=self.counts.cells)
        if not self.counts.cells:
            raise BadInput(self._nothing_found())
        self._flush()
        about = json.dumps(dataclasses.asdict(self._about()))
        table = pa.concat_tables(self._tables).replace_schema_metadata({METADATA_KEY: about})
        with writing(folder):
            pq.write_table(table, folder / CELLS)

    def _take(self, prepared: Prepared, file: BinaryIO) -> None:
        self.counts.pictures += 1
        if prepared.reject is not None:
            self._reject(prepared.image_id, prepared.reject)
            return
        # of a picture that is there twice the cells would pass for different ones of the same antibody
        twin = self._image_of.setdefault(prepared.picture_id or "", prepared.image_id)
        if twin != prepared.image_id:
            self._reject(prepared.image_id, f"the same picture as {twin}")
            return
        assert prepared.crops is not None
        assert prepared.masks is not None  # the plan says so
        for crop, mask, row in zip(prepared.crops, prepared.masks, prepared.rows, strict=True):
            self._write_one(crop, mask, row, file)
        if len(self._rows) >= ROWS_AT_ONCE:
            self._flush()

    def _reject(self, image_id: str, reason: str) -> None:
        self.counts.rejected += 1
        if len(self._rejects) < N_REASONS:
            self._rejects[image_id] = reason

    def _write_one(self, crop: np.ndarray, mask: np.ndarray, row: Mapping[str, Any], file: BinaryIO) -> None:
        content = crop.tobytes() + np.packbits(mask).tobytes()
        block = pa.Codec(CODEC, LEVEL).compress(content, asbytes=True)
        file.write(block)
        where = {"offset": self._n_bytes, "length": len(block), "dtype": crop.dtype.str}
        self._rows.append({**{name: row.get(name) for name in COLUMNS}, **where})
        self._dtypes.add(crop.dtype)
        self._n_bytes += len(block)
        self.counts.cells += 1

    def _flush(self) -> None:
        self._tables.append(pa.Table.from_pylist(self._rows, schema=SCHEMA))
        self._rows = []

    def _about(self) -> About:
        return About(
            version=VERSION,
            digest=self.digest,
            channels=self.plan.channels,
            crop_um=self.plan.crop_um,
            crop_px=self.plan.crop_px,
            dtype=np.result_type(*self._dtypes).name,
            n_cells=self.counts.cells,
            n_bytes=self._n_bytes,
            n_rejected=self.counts.rejected,
            rejects=self._rejects,
        )

    def _nothing_found(self) -> str:
        reasons = "; ".join(f"{image_id}: {reason}" for image_id, reason in list(self._rejects.items())[:3])
        msg = f"No cell was found in the {self.counts.pictures} pictures of {self.source.name!r}."
        return f"{msg}\n{reasons}".rstrip()
