"""A manifest: a CSV with one row per field of view or crop, its files, and what is known of it."""

from __future__ import annotations

import csv
import hashlib
import io
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from subcell_atlas.errors import BadImage, BadInput
from subcell_atlas.images.files import decode_channel, decode_channels, decode_labels

from .addresses import is_remote, join, name_of, read_address, read_remote
from .sources import Picture, digest, source_name

__all__ = ["Manifest", "read_manifest"]

CHANNEL_COLUMNS = ("microtubules", "er", "nucleus", "protein")
METADATA_COLUMNS = (
    "gene_symbol",
    "ensembl_id",
    "uniprot_accession",
    "antibody",
    "cell_line",
    "plate",
    "well",
    "fov",
    "condition",
    "localization",
)
FILE_COLUMNS = (*CHANNEL_COLUMNS, "image", "channels", "mask", "pixel_size_um", "image_id")
EXAMPLE = "image_id,nucleus,microtubules,er,protein,gene_symbol,cell_line"


@dataclass
class ManifestItem:
    """One row. Its files are read once, when its content is asked for."""

    row: Mapping[str, str]
    folder: str  # that names of files are relative to; a path or an address
    is_crop: bool
    channels: Sequence[str]  # those the encoder uses
    cache: bool = False  # keep files that come from the web
    _contents: dict[str, bytes] = field(default_factory=dict, repr=False)

    @property
    def image_id(self) -> str:
        """The row's own name."""
        return self.row["image_id"]

    @property
    def metadata(self) -> dict[str, Any]:
        """The columns of `cells` that the row gives, and under `extra` the JSON of those it has besides."""
        known = {name: self.row.get(name) or None for name in METADATA_COLUMNS}
        extra = {k: v for k, v in self.row.items() if k not in METADATA_COLUMNS and k not in FILE_COLUMNS and v}
        localization = [place.strip() for place in (known["localization"] or "").split(";")]
        return {
            **known,
            "localization": [place for place in localization if place],
            "extra": json.dumps(extra, sort_keys=True) if extra else None,
        }

    def files(self) -> dict[str, str]:
        """Return what is read for this encoder: `image`, or a file a channel; and the mask."""
        if self.row.get("image"):
            names = {"image": self.row["image"]}
        else:
            names = {channel: self.row.get(channel, "") for channel in self.channels}
            absent = [channel for channel, name in names.items() if not name]
            if absent:
                raise BadImage(f"no file for the {absent[0]} channel, which the encoder uses")
        if self.row.get("mask"):
            names["mask"] = self.row["mask"]
        return names

    def looks(self) -> str | None:
        """Say what the row tells, and the sizes and times of change of its files."""
        states: dict[str, tuple[int, int] | None] = {}
        try:
            for column, name in self.files().items():
                address = join(self.folder, name)
                stat = None if is_remote(address) else Path(address).stat()  # what is on the web is taken to stay
                states[column] = (stat.st_size, stat.st_mtime_ns) if stat else None
        except (BadImage, OSError, ValueError):  # it is refused when it is read
            return None
        return json.dumps([dict(self.row), self.is_crop, states], sort_keys=True)

    def picture_id(self) -> str:
        """Hash the content of the channels' files, whichever channel each is: reading them anew replaces the cells."""
        for column, name in self.files().items():
            self._contents[column] = read_address(join(self.folder, name), cache=self.cache)
        return digest(*sorted(hash_of(content) for column, content in self._contents.items() if column != "mask"))

    def reading(self) -> str:
        """Say which file is which channel, what the mask is, and whether they show a field or a crop."""
        how = {column: hash_of(content) for column, content in self._contents.items()}
        how |= {"channels": self.row.get("channels", ""), "pixel_size_um": self.row.get("pixel_size_um", "")}
        return json.dumps({**how, "is_crop": self.is_crop}, sort_keys=True)

    def load(self) -> Picture:
        """Decode the files."""
        if "image" in self._contents:
            channels = self._split_image()
        else:
            channels = {name: decode_channel(self._contents[name], name_of(self.row[name])) for name in self.channels}
        labels = None
        if "mask" in self._contents:
            labels = decode_labels(self._contents["mask"], name_of(self.row["mask"]))
        self._contents.clear()
        return Picture(channels=channels, labels=labels, pixel_size_um=self._pixel_size(), is_crop=self.is_crop)

    def _split_image(self) -> dict[str, np.ndarray]:
        """Name the channels of a multi-channel file by the row's `channels`."""
        order = [name.strip() for name in self.row.get("channels", "").replace(",", ";").split(";") if name.strip()]
        if not order:
            raise BadImage("`image` needs `channels`, their order in the file, such as microtubules;er;nucleus;protein")
        stack = decode_channels(self._contents["image"], name_of(self.row["image"]))
        if len(stack) != len(order):
            raise BadImage(f"{self.row['image']} has {len(stack)} channels, `channels` names {len(order)}")
        absent = [name for name in self.channels if name not in order]
        if absent:
            raise BadImage(f"no {absent[0]} channel in {self.row['image']}, which the encoder uses")
        named = dict(zip(order, stack, strict=True))
        return {name: named[name] for name in self.channels}

    def _pixel_size(self) -> float | None:
        text = self.row.get("pixel_size_um", "")
        if not text:
            return None
        try:
            size = float(text)
        except ValueError:
            size = -1.0
        if not 0.001 <= size <= 10:
            raise BadImage(f"pixel_size_um is {text!r}; µm between 0.001 and 10 are allowed")
        return size


@dataclass(frozen=True)
class Manifest:
    """The rows of a manifest, as a source of pictures. Files are named from `folder`, a path or an address."""

    name: str
    folder: str
    rows: Sequence[Mapping[str, str]]
    channels: Sequence[str]
    is_crops: bool
    cache: bool = False  # keep files that come from the web, so that each is fetched once

    def __len__(self) -> int:
        return len(self.rows)

    def item(self, index: int) -> ManifestItem:
        """Return one row; nothing is read yet."""
        return ManifestItem(self.rows[index], self.folder, self.is_crops, self.channels, cache=self.cache)

    def files_called(self, name: str) -> list[Path]:
        """Return the files of this name, without its folder, that rows tell and that are not on the web."""
        told = (row.get(column, "") for row in self.rows for column in (*CHANNEL_COLUMNS, "image", "mask"))
        addresses = {join(self.folder, file) for file in told if name_of(file) == name}
        return [Path(address) for address in addresses if not is_remote(address)]


def read_manifest(
    path: Path | str,
    *,
    channels: Sequence[str],
    encoder: str,
    crops: bool,
    name: str | None = None,
    cache: bool = False,
) -> Manifest:
    """Read a manifest (CSV, or TSV by its suffix) for an encoder that uses `channels`.

    path: a path or an address. `crops`: each row is one cell already cut out. `name` is what the atlas calls this
    source: the file's folder and stem when None. Files are looked for beside the manifest; `cache` keeps those that
    come from the web. Raise BadInput when the manifest as a whole cannot be
    used.
    """
    rows, columns = read_rows(path)
    if "image_id" not in columns:
        hint = " Are its columns parted by commas?" if len(columns) == 1 and ";" in columns[0] else ""
        raise BadInput(f"{path} lacks the column 'image_id'; it has: {', '.join(columns)}.{hint}\nExpected: {EXAMPLE}")
    if "image" not in columns:
        absent = [channel for channel in channels if channel not in columns]
        if absent:
            msg = (
                f"{path} lacks the column {absent[0]!r}, a channel that {encoder!r} uses; it has: {', '.join(columns)}."
                f"\nExpected: {EXAMPLE}; or one file, as 'image' and 'channels'. Encoders: subcell-atlas encoders"
            )
            raise BadInput(msg)
    if not rows:
        raise BadInput(f"{path} has a header and no rows.")
    seen: dict[str, int] = {}
    for number, row in enumerate(rows, start=2):
        if not row["image_id"]:
            raise BadInput(f"{path}, line {number}: image_id is empty.")
        if row["image_id"] in seen:
            msg = f"{path}: image_id {row['image_id']!r} is in line {seen[row['image_id']]} and again in line {number}."
            raise BadInput(msg)
        seen[row["image_id"]] = number
    if is_remote(str(path)):
        folder, named = str(path).rpartition("/")[0], str(path)
    else:
        folder, named = str(Path(path).parent), source_name(Path(path))
    return Manifest(name or named, folder, rows, tuple(channels), crops, cache=cache)


def hash_of(content: bytes) -> str:
    """Return the SHA-256 of a file's content."""
    return hashlib.sha256(content).hexdigest()


def read_rows(path: Path | str) -> tuple[list[dict[str, str]], list[str]]:
    """Read the rows of a CSV or TSV, at a path or an address, as strings without outer blanks, and its columns."""
    address = str(path)
    delimiter = "\t" if name_of(address).lower().endswith((".tsv", ".tab")) else ","
    try:
        content = read_remote(address) if is_remote(address) else Path(path).read_bytes()
        reader = csv.reader(io.StringIO(content.decode("utf-8-sig"), newline=""), delimiter=delimiter, strict=True)
        columns = [name.strip() for name in next(reader, [])]
        lines = [(reader.line_num, [value.strip() for value in line]) for line in reader if line]
    except (UnicodeDecodeError, csv.Error) as exc:
        raise BadInput(f"{path} is not a readable CSV in UTF-8: {exc}") from exc
    except BadImage as exc:
        raise BadInput(f"{path} cannot be read: {exc}.") from exc
    except (FileNotFoundError, IsADirectoryError):
        raise BadInput(f"There is no manifest {address!r}. It is a CSV such as:\n{EXAMPLE}") from None
    except (OSError, ValueError) as exc:
        raise BadInput(f"{address[:80]!r} cannot be read: {getattr(exc, 'strerror', None) or exc}.") from exc
    if not columns:
        raise BadInput(f"{path} is empty. Expected: {EXAMPLE}")
    twice = [name for name, n in Counter(columns).items() if n > 1 and name]
    if twice:
        raise BadInput(f"{path} has the column {twice[0]!r} {columns.count(twice[0])} times; each may come once.")
    for number, line in lines:
        if len(line) > len(columns):
            msg = f"{path}, line {number}: {len(line)} values, {len(columns)} columns; quote values that hold a comma."
            raise BadInput(msg)
    blank = dict.fromkeys(columns, "")
    return [blank | dict(zip(columns, line, strict=False)) for _, line in lines], columns
