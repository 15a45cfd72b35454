"""The ingest job: how near it comes to the encoder alone, whether its memory stays flat, and what kill -9 leaves.

Run: .venv/bin/python benchmarks/ingest_job.py speed   [--fields N] [--encoder NAME --weights random] [--workers N]
                                           memory  [--cells N]
                                           kill    [--times N]

speed: fields of view of 2048 px with 12 cells each, as JPEG (quality 90, gray, a file a channel) with a mask, the same
without one, and the same cells as crops. Beside the encoder alone, which is given the same crops from memory, stands
what one would write without this: a loop that opens a picture, cuts a cell and embeds it, one at a time.
"""

from __future__ import annotations

import argparse
import csv
import os
import random
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
from PIL import Image

from ingest.job import Options, ingest_pictures, make_plan
from ingest.ledger import Digests
from ingest.manifest import Manifest, read_manifest
from ingest.prepare import Plan, prepare
from ingest.simulated import SimulatedSource, write_files
from subcell_atlas.encoders import EncoderSpec, find_spec, load_encoder
from subcell_atlas.encoders.encoder import Encoder
from subcell_atlas.encoders.specs import HPA_PIXEL_SIZE_UM
from subcell_atlas.images.simulated import CHANNELS, make_cell, make_proteome
from subcell_atlas.store import Store

ACROSS, DOWN, TILE_PX, CELL_PX = 4, 3, 512, 640  # the cells of a field; each is drawn at HPA's pixel size
FIELD_PX = 2048
ROOT = Path(__file__).parents[1]


def main() -> None:
    """Measure what was asked for, and print it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["speed", "memory", "kill"])
    parser.add_argument("--fields", type=int, default=40)
    parser.add_argument("--encoder", default="demo")
    parser.add_argument("--weights", action="append", default=[])
    parser.add_argument("--workers", type=int)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--cells", type=int, default=100_000)
    parser.add_argument("--times", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        if chosen.what == "speed":
            measure_speed(Path(folder), chosen)
        elif chosen.what == "memory":
            measure_memory(Path(folder), chosen.cells)
        else:
            kill_often(Path(folder), chosen.times, chosen.seed)


def measure_speed(folder: Path, chosen: argparse.Namespace) -> None:
    """Print crops a second of the encoder alone, of the job, and of a loop."""
    encoder = load_encoder(chosen.encoder, weights=chosen.weights)
    fields, crops = write_fields(folder, chosen.fields)
    masked = read(fields, encoder, crops=False)
    unmasked = replace(masked, rows=[{**row, "mask": ""} for row in masked.rows])
    cut = read(crops, encoder, crops=True)
    plan = make_plan(masked, encoder, Options(), done=Digests())
    loaded = np.concatenate([prepare(plan, masked.item(i)).crops for i in range(len(masked))])
    print(f"{encoder!r}: {len(masked)} fields of {FIELD_PX} px, {len(loaded)} cells, on {os.cpu_count()} cores")
    for name, source in (("with masks", masked), ("segmented", unmasked)):
        here, subcell = (prepare_ms(source, spec) for spec in (encoder.spec, find_spec("subcell-rybg-mae")))
        print(f"  reading and cutting fields {name}: {here:.1f} CPU-ms a crop; {subcell:.1f} of SubCell's 640 px")
    encoder.embed(loaded[:8])
    sources = {"fields with masks": masked, "fields, segmented": unmasked, "crops": cut}
    shares: dict[str, list[float]] = {name: [] for name in (*sources, "loop over fields with masks")}
    alone: list[float] = []
    for repeat in range(chosen.repeats):
        began = time.perf_counter()
        encoder.embed(loaded)
        alone.append(len(loaded) / (time.perf_counter() - began))
        for name, source in sources.items():
            store = Store.create(str(folder / f"atlas {name} {repeat}"))
            began = time.perf_counter()
            counts = ingest_pictures(store, source, encoder, Options(workers=chosen.workers, progress=False))
            rate = counts.cells / (time.perf_counter() - began)
            shares[name].append(rate / alone[-1])
            print(f"  {name}: {rate:.0f} crops/s, {rate / alone[-1]:.0%} of alone; {counts.seconds}")
        began = time.perf_counter()
        n = loop(masked, encoder)
        shares["loop over fields with masks"].append(n / (time.perf_counter() - began) / alone[-1])
    print(f"encoder alone: {statistics.median(alone):.0f} crops/s (median of {chosen.repeats})")
    for name, found in shares.items():
        print(f"{name}: {statistics.median(found):.0%} of it")


def prepare_ms(source: Manifest, spec: EncoderSpec) -> float:
    """Return the processor milliseconds in which one process prepares a cell of some fields."""
    plan = Plan(
        source=source.name, channels=spec.channels, crop_um=spec.crop_um, crop_px=spec.crop_px, masking="cell",
        default_pixel_size_um=HPA_PIXEL_SIZE_UM, recipe="", done=Digests(),
    )  # fmt: skip
    items = [source.item(index) for index in range(min(len(source), 10))]
    prepare(plan, items[0])
    began = time.process_time()
    n = sum(len(prepare(plan, item).rows) for item in items)
    return 1000 * (time.process_time() - began) / n


def read(path: Path, encoder: Encoder, *, crops: bool) -> Manifest:
    """Return a manifest for an encoder."""
    return read_manifest(path, channels=encoder.spec.channels, encoder=encoder.spec.name, crops=crops)


def loop(source: Manifest, encoder: Encoder) -> int:
    """Do what one would write at first: open each picture for each of its cells, cut it, embed it; return how many."""
    n, spec = 0, encoder.spec
    for row in source.rows:
        labels = np.asarray(Image.open(Path(source.folder) / row["mask"]))
        for label in np.unique(labels)[1:]:
            planes = [np.asarray(Image.open(Path(source.folder) / row[name])) for name in spec.channels]
            rows, columns = np.nonzero(labels == label)
            side = round(spec.crop_um / float(row["pixel_size_um"]))
            top, left = round((rows.min() + rows.max() - side) / 2), round((columns.min() + columns.max() - side) / 2)
            window = [
                Image.fromarray(plane * (labels == label)).crop((left, top, left + side, top + side))
                for plane in planes
            ]
            crop = [
                np.asarray(plane.resize((spec.crop_px, spec.crop_px), Image.Resampling.BILINEAR)) for plane in window
            ]
            encoder.embed(np.stack(crop)[None])
            n += 1
    return n


def write_fields(folder: Path, n: int) -> tuple[Path, Path]:
    """Write `n` fields with masks, and their cells as crops of 640 px; return the two manifests."""
    proteome = make_proteome(n, seed=0)
    fields, crops = [], []
    margin = (CELL_PX - TILE_PX) // 2
    inner = np.s_[margin : margin + TILE_PX, margin : margin + TILE_PX]
    for protein in range(n):
        noise = np.random.default_rng(protein)
        planes = {name: noise.poisson(2, (FIELD_PX, FIELD_PX)).astype(np.uint8) for name in CHANNELS}
        labels = np.zeros((FIELD_PX, FIELD_PX), np.uint8)
        for number in range(ACROSS * DOWN):
            cell = make_cell(proteome, protein, number, size=CELL_PX)
            y, x = number // ACROSS * TILE_PX + (FIELD_PX - DOWN * TILE_PX) // 2, number % ACROSS * TILE_PX
            at = np.s_[y : y + TILE_PX, x : x + TILE_PX]
            for name, channel in zip(CHANNELS, cell.channels, strict=True):
                planes[name][at] = as_bytes(channel)[inner]
            labels[at][cell.mask[inner]] = number + 1
            files = {name: as_bytes(channel) for name, channel in zip(CHANNELS, cell.channels, strict=True)}
            crops.append(write_row(folder, f"c{protein}_{number}", files, cell.mask.astype(np.uint8)))
        fields.append(write_row(folder, f"f{protein}", planes, labels))
    return write_rows(folder / "fields.csv", fields), write_rows(folder / "crops.csv", crops)


def as_bytes(channel: np.ndarray) -> np.ndarray:
    """Return intensities as uint8."""
    if channel.dtype == np.uint8:
        return channel
    return (channel.astype(np.float32) * (255 / max(float(channel.max()), 1e-6))).astype(np.uint8)


def write_row(folder: Path, name: str, planes: Mapping[str, np.ndarray], labels: np.ndarray) -> dict[str, object]:
    """Write the files of a picture; return its row."""
    row: dict[str, object] = {"image_id": name, "gene_symbol": name, "pixel_size_um": HPA_PIXEL_SIZE_UM}
    for channel, plane in planes.items():
        row[channel] = f"{name}_{channel}.jpg"
        Image.fromarray(plane).save(folder / str(row[channel]), quality=90)
    row["mask"] = f"{name}_mask.png"
    Image.fromarray(labels).save(folder / str(row["mask"]))
    return row


def write_rows(path: Path, rows: list[dict[str, object]]) -> Path:
    """Write a manifest."""
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return path


MANY = """
import sys
from dataclasses import dataclass
import numpy as np
from ingest.job import Options, ingest_pictures
from ingest.sources import Picture, digest
from subcell_atlas.encoders import load_encoder
from subcell_atlas.images.simulated import CHANNELS, make_cell, make_proteome
from subcell_atlas.store import Store

@dataclass
class Item:
    cell: object
    number: int
    @property
    def image_id(self): return f"cell {self.number}"
    @property
    def metadata(self): return {"gene_symbol": f"G{self.number % 999}", "localization": [], "plate": str(self.number)}
    def looks(self): return None
    def picture_id(self): return digest(str(self.number))
    def reading(self): return ""
    def load(self):
        channels = np.roll(self.cell.channels, self.number % 251, axis=1)
        labels = np.roll(self.cell.mask, self.number % 251, axis=0).astype("int32")
        return Picture(channels=dict(zip(CHANNELS, channels)), labels=labels, pixel_size_um=0.2, is_crop=True)

@dataclass
class Many:
    cells: list
    n: int
    name = "many"
    def __len__(self): return self.n
    def item(self, index): return Item(self.cells[index % len(self.cells)], index)

if __name__ == "__main__":
    proteome = make_proteome(8, seed=0)
    source = Many([make_cell(proteome, i, 0, size=256) for i in range(8)], int(sys.argv[2]))
    ingest_pictures(Store.create(sys.argv[1]), source, load_encoder("demo"), Options(workers=2))
"""


def measure_memory(folder: Path, n_cells: int) -> None:
    """Ingest many cells in a process of its own; print its memory, workers included, in tenths of the run."""
    script = folder / "run.py"
    script.write_text(MANY)
    began = time.monotonic()
    process = subprocess.Popen(
        [sys.executable, str(script), str(folder / "atlas"), str(n_cells)],
        start_new_session=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    looks: list[tuple[float, float]] = []
    while process.poll() is None:
        looks.append((time.monotonic() - began, session_memory(process.pid) / 1e6))
        time.sleep(1)
    if process.returncode:
        sys.exit("it failed")
    tenths = np.array_split(np.array(looks), 10)
    stored = Store.open(str(folder / "atlas")).count("cells")
    print(
        f"{stored:,} cells in {looks[-1][0]:.0f} s. Memory of all processes in MB, by tenths of the time, median, most:"
    )
    for number, tenth in enumerate(tenths, 1):
        print(f"  {number}: {np.median(tenth[:, 1]):.0f} {tenth[:, 1].max():.0f}")


def session_memory(session: int) -> int:
    """Return the proportional set size in bytes of all processes of a session (Linux)."""
    total = 0
    for process in Path("/proc").glob("[0-9]*"):
        try:
            fields = (process / "stat").read_text().rpartition(")")[2].split()
            if int(fields[3]) == session:
                total += int((process / "smaps_rollup").read_text().split("Pss:")[1].split()[0]) * 1024
        except (OSError, IndexError):
            continue
    return total


def kill_often(folder: Path, times: int, seed: int) -> None:
    """Kill a run at random moments, look at the atlas each time, let it end, and compare with an undisturbed run."""
    source = SimulatedSource(make_proteome(60, seed=2), 40)
    manifest = write_files(source, folder / "pictures")
    random.seed(seed)
    often = "from ingest import writer; writer.COMMIT_CELLS = 48; from subcell_atlas.cli import main; main()"
    script = folder / "often.py"  # commits much more often, so that more of them are hit
    script.write_text(f"if __name__ == '__main__':\n    {often}\n")
    command = [sys.executable, str(script), "ingest", "images", str(manifest), "--crops", "--encoder", "demo"]
    command += ["--precision", "float32", "--batch-size", "16"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    atlas, undisturbed = folder / "atlas", folder / "undisturbed"
    began = time.monotonic()
    subprocess.run([*command, "--atlas", str(undisturbed)], check=True, env=environment, stderr=subprocess.DEVNULL)
    whole = time.monotonic() - began
    print(f"undisturbed: {Store.open(str(undisturbed)).count('cells')} cells in {whole:.1f} s")
    number, ended = 0, 0
    while number < times or not ended:
        process = subprocess.Popen([*command, "--atlas", str(atlas)], env=environment, stderr=subprocess.DEVNULL)
        after = random.uniform(0.1, 0.5) * whole if number < times else 60 * whole
        try:
            process.wait(after)
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGKILL)
            process.wait()
            number += 1
            n = Store.open(str(atlas)).count("cells") if atlas.exists() and any(atlas.glob("*.lance")) else 0
            twice = n - len(set(ids(atlas))) if n else 0
            print(f"kill {number} after {after:.1f} s: the atlas opens; {n} cells, {twice} of them twice", flush=True)
            continue
        one, other = (vectors_by_id(each) for each in (atlas, undisturbed))
        assert list(one) == list(other)
        assert len(ids(atlas)) == len(one)
        largest = max(np.abs(one[cell] - other[cell]).max() for cell in one)
        print(f"ended: the same {len(one)} cells, each once; the largest difference of a number: {largest:.2g}")
        ended += 1
        shutil.rmtree(atlas)


def ids(atlas: Path) -> list[str]:
    """Return the ids of all cells."""
    return Store.open(str(atlas)).read("cells", ["cell_id"])["cell_id"].to_pylist()


def vectors_by_id(atlas: Path) -> dict[str, np.ndarray]:
    """Return the embedding of each cell, by id."""
    cells = Store.open(str(atlas)).read("cells", ["cell_id", "embedding"]).sort_by("cell_id")
    return dict(zip(cells["cell_id"].to_pylist(), map(np.array, cells["embedding"].to_pylist()), strict=True))


if __name__ == "__main__":
    main()
