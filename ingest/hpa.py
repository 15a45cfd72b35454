"""The layouts in which pictures of the Human Protein Atlas and its kin come, as manifests.

| layout | what it is | each row |
|---|---|---|
| fields | files PLATE_WELL_SAMPLE_COLOR in a folder, or a table of them and where they are | field of view |
| crops | SubCell's published crops: metadata.csv, and an image and a mask for each cell | cell |
| portable | SubCellPortable's path_list.csv | cell |
| opencell | OpenCell's projections OC-FOV_GENE_ENSG…_proj.tif: nucleus and protein in one file | field of view |
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from subcell_atlas.encoders.specs import HPA_PIXEL_SIZE_UM
from subcell_atlas.errors import BadInput
from subcell_atlas.identifiers import SEVERAL_NAMES
from subcell_atlas.images.files import PICTURE_SUFFIXES

from .addresses import is_remote, join, name_of
from .columns import ALIASES
from .manifest import Manifest, read_rows
from .sources import source_name

__all__ = ["Found", "read_hpa"]

WEBSITE = "https://images.proteinatlas.org"
COLORS = {"red": "microtubules", "yellow": "er", "blue": "nucleus", "green": "protein"}
OPENCELL_PIXEL_UM = 0.206349
CROP_CHANNELS = "nucleus;er;microtubules;protein"  # R G B A of the PNG; OpenCV turns R and B, and has SubCell's order
PORTABLE = {"r_image": "microtubules", "y_image": "er", "b_image": "nucleus", "g_image": "protein"}
OF_COLOR = re.compile(r"(?P<fov>.+)_(?P<color>red|yellow|blue|green)", re.IGNORECASE)
OF_HPA = re.compile(r"(?P<plate>\d+)_(?P<well>[A-P]\d{1,2})_(?P<fov>\d+)(_cr\w+)?")
OF_CM4AI = re.compile(r"(?P<plate>[A-Z0-9]+_\d+)_(?P<condition>[A-Za-z]+)_(?P<well>[A-P]\d{1,2})_(?P<fov>R\d+(_z\d+)?)")
OF_OPENCELL = re.compile(
    r"OC-FOV_(?P<gene_symbol>[^_]+)_(?P<ensembl_id>ENSG\d+)_(?P<antibody>[^_]+)_(?P<fov>[^_]+)_proj"
)
ANTIBODY = re.compile(r"(HPA|CAB)?\d+")
PREFIX = re.compile(r"^(HPA|CAB)0*")  # the website's folders are named by the number alone
EXPECTED = (
    "Expected: a folder of PLATE_WELL_SAMPLE_COLOR files (red, green, blue, yellow) or of OC-FOV_…_proj.tif;\n"
    "SubCell's metadata.csv; SubCellPortable's path_list.csv; or a table with if_plate_id, position, sample, antibody."
)


@dataclass(frozen=True)
class Found:
    """A manifest, and what is to be said of it."""

    layout: str
    manifest: Manifest
    notes: Sequence[str] = ()


def read_hpa(
    source: str,
    *,
    channels: Sequence[str],
    images: str | None = None,
    locations: Path | None = None,
    name: str | None = None,
    cache: bool = False,
) -> Found:
    """Read a folder or table in one of the layouts above for an encoder that uses `channels`.

    source: a path or an address. images: where the fields of a table are, the website when None. locations: HPA's
    subcellular_location.tsv: what it knows of a gene is added, unless a row knows it itself. cache: keep what comes
    from the web. Raise BadInput when it is none of the layouts.
    """
    layout, folder, rows, is_crops = read_layout(source, images)
    if not rows:
        raise BadInput(f"{source} has no picture of the layout {layout!r}.\n{EXPECTED}")
    if locations is not None:
        add_locations(rows, locations)
    manifest = Manifest(name or name_for(source), folder, rows, tuple(channels), is_crops, cache=cache)
    return Found(layout, manifest, list(notes_on(rows)))


def name_for(source: str) -> str:
    """Return what the atlas calls a source that nobody named."""
    return source.rstrip("/") if is_remote(source) else source_name(Path(source))


def read_layout(source: str, images: str | None) -> tuple[str, str, list[dict[str, str]], bool]:
    """Return the layout of a source, the folder its files are named from, its rows, and whether these are crops."""
    if not is_remote(source) and Path(source).is_dir():
        table = Path(source) / "metadata.csv"
        if not table.is_file():
            found = list(fields_in(Path(source)))
            return (
                ("fields", source, found, False)
                if found
                else ("opencell", source, list(opencell_in(Path(source))), False)
            )
        source = str(table)
    elif is_remote(source) and not name_of(source).lower().endswith((".csv", ".tsv")):
        source = join(source, "metadata.csv")
    rows, columns = read_rows(source)
    names = {column.lstrip("#").strip() for column in columns}
    folder = source.rpartition("/")[0] if is_remote(source) else str(Path(source).parent)
    if {"b_image", "g_image"} <= names:
        return "portable", folder, list(portable_rows(rows)), True
    known = [renamed(row) for row in rows]
    if not {"plate", "well", "fov"} <= set(known[0] if known else ()):
        raise BadInput(f"{source} is of no layout that is known; its columns: {', '.join(columns[:20])}.\n{EXPECTED}")
    if "x1" in names and "cell_id" in known[0]:
        return "crops", folder, list(crop_rows(known)), True
    place = images or WEBSITE
    return "fields", place, list(field_rows(known, place)), False


def renamed(row: Mapping[str, str]) -> dict[str, str]:
    """Return a row of a table with the atlas's names; an id such as 921_B9_1 tells plate, well and field of view."""
    known = {ALIASES.get(key.lower(), key): value for key, value in row.items() if key}
    return {**known, **parts_of(known["cell_id"])} if "plate" not in known and "cell_id" in known else known


def fields_in(folder: Path) -> Iterator[dict[str, str]]:
    """Yield the fields of view whose files, one a color, lie in a folder or below it."""
    files: dict[str, dict[str, str]] = {}
    for path in sorted(folder.rglob("*")):
        match = OF_COLOR.fullmatch(path.stem)
        if match and path.suffix.lower() in PICTURE_SUFFIXES:
            relative = path.relative_to(folder)
            channel = COLORS[match["color"].lower()]
            files.setdefault((relative.parent / match["fov"]).as_posix(), {})[channel] = relative.as_posix()
    for fov, found in files.items():
        parent = Path(fov).parent.name
        antibody = {"antibody": parent} if ANTIBODY.fullmatch(parent) else {}
        yield {"image_id": fov, **dict.fromkeys(COLORS.values(), ""), **found, **antibody, **parts_of(Path(fov).name)}


def parts_of(fov: str) -> dict[str, str]:
    """Return what the name of a field of view tells: plate, well, fov, and of CM4AI's the condition."""
    match = OF_HPA.fullmatch(fov) or OF_CM4AI.fullmatch(fov)
    return {key: value for key, value in match.groupdict().items() if value} if match else {"fov": fov}


def opencell_in(folder: Path) -> Iterator[dict[str, str]]:
    """Yield the fields of view of OpenCell in a folder or below it."""
    for path in sorted(folder.rglob("OC-FOV_*_proj.tif")):
        if match := OF_OPENCELL.fullmatch(path.stem):
            yield {
                "image_id": path.stem,
                "image": path.relative_to(folder).as_posix(),
                "channels": "nucleus;protein",
                "cell_line": "HEK293T",
                "pixel_size_um": str(OPENCELL_PIXEL_UM),
                **match.groupdict(),
            }


def portable_rows(rows: Sequence[Mapping[str, str]]) -> Iterator[dict[str, str]]:
    """Yield the cells of SubCellPortable's list; a row that begins with # is left out, as it does."""
    for row in rows:
        named = {key.lstrip("#").strip(): value for key, value in row.items()}
        if any(value.startswith("#") for value in named.values()):
            continue
        files = {channel: named.get(column, "") for column, channel in PORTABLE.items()}
        image_id = "/".join(filter(None, (named.get("output_folder", ""), named.get("output_prefix", ""))))
        others = {key: value for key, value in named.items() if key not in PORTABLE and not key.startswith("output_")}
        yield {"image_id": image_id or files["protein"], **files, **others}


def crop_rows(rows: Sequence[Mapping[str, str]]) -> Iterator[dict[str, str]]:
    """Yield the cells of SubCell's published crops."""
    for row in rows:
        cell = row["cell_id"].removesuffix(".0")  # pandas wrote whole numbers as fractions
        fov = f"{row['plate']}_{row['well']}_{row['fov']}"
        stem = f"{row['plate']}/{fov}_{cell}"
        others = {
            key: value for key, value in row.items() if key not in ("cell_id", "x1", "y1", "x2", "y2", "Unnamed: 0")
        }
        yield {
            **with_places(others),
            "image_id": f"{fov}_{cell}",
            "image": f"{stem}_cell_image.png",
            "channels": CROP_CHANNELS,
            "mask": f"{stem}_cell_mask.png",
            "pixel_size_um": str(HPA_PIXEL_SIZE_UM),
        }


def field_rows(rows: Sequence[Mapping[str, str]], place: str) -> Iterator[dict[str, str]]:
    """Yield the fields of view of a table; those of a folder are looked for in it and below it."""
    there = None if is_remote(place) else {Path(row["image_id"]).name: row for row in fields_in(Path(place))}
    for row in rows:
        fov = f"{row['plate']}_{row['well']}_{row['fov']}"
        if there is None:
            folder = PREFIX.sub("", row.get("antibody", ""))
            files = {channel: f"{folder}/{fov}_{color}.jpg" for color, channel in COLORS.items()}
        else:
            files = {channel: there.get(fov, {}).get(channel, "") for channel in COLORS.values()}
        others = {key: value for key, value in row.items() if key not in ("filename", "status")}
        yield {**with_places(others), "image_id": fov, **files}


def with_places(row: Mapping[str, str]) -> dict[str, str]:
    """Return a row whose localizations are parted by ; as in manifests, not by , as in HPA's tables."""
    return {key: value.replace(",", ";") if key == "localization" else value for key, value in row.items()}


def add_locations(rows: Sequence[dict[str, str]], path: Path) -> None:
    """Add what HPA's subcellular_location.tsv knows of the genes: reliability, and what rows lack."""
    table, columns = read_rows(path)
    if not {"Gene", "Reliability", "Main location"} <= set(columns):
        raise BadInput(f"{path} is not HPA's subcellular_location.tsv; its columns: {', '.join(columns[:12])}.")
    known = {row["Gene"]: row for row in table}
    for row in rows:
        about = known.get(row.get("ensembl_id", ""))
        if about is None:
            continue
        row["reliability"] = about["Reliability"]
        if not row.get("gene_symbol"):
            row["gene_symbol"] = about.get("Gene name", "")
        if not row.get("localization"):
            places = (about["Main location"], about.get("Additional location", ""))
            row["localization"] = ";".join(filter(None, places))


def notes_on(rows: Sequence[Mapping[str, str]]) -> Iterator[str]:
    """Say what a person should know of the rows."""
    several = sum(bool(SEVERAL_NAMES.search(row.get("ensembl_id") or row.get("gene_symbol") or "")) for row in rows)
    if several:
        yield f"{several:,} of {len(rows):,} pictures are of antibodies of several genes: they are in no profile."
    nameless = sum(not (row.get("ensembl_id") or row.get("gene_symbol")) for row in rows)
    if nameless:
        yield f"{nameless:,} of {len(rows):,} pictures name no gene: their cells are in no profile and not on the map."
