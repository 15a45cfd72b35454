"""Ready-made vectors into an atlas, beside writing the same rows to Parquet with pyarrow and to Lance with pylance.

Run: .venv/bin/python benchmarks/import_vectors.py [--rows N] [--dim D] [--repeats N] [--folder FOLDER]

Each runs in a process of its own and reads the same Parquet file; wall and processor seconds and the peak of its memory
are printed, and the ratio to Parquet. The last line is a second import of the same file, which has nothing to write.
"""

from __future__ import annotations

import argparse
import shutil
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

N_PROTEINS = 13_000
AT_A_TIME = 50_000
MEASURED = """
import resource, sys, time
began = time.perf_counter()
{code}
used = resource.getrusage(resource.RUSAGE_SELF)
print(time.perf_counter() - began, used.ru_utime + used.ru_stime, used.ru_maxrss / 1e6)
"""
IMPORT = """
from pathlib import Path
from ingest.embeddings import ingest_embeddings
from subcell_atlas.store import Store
counts = ingest_embeddings(Store.create(sys.argv[2]), Path(sys.argv[1]), modality="image", level="cell")
"""
PARQUET = """
import pyarrow.parquet as pq
source = pq.ParquetFile(sys.argv[1], pre_buffer=False)
with pq.ParquetWriter(sys.argv[2], source.schema_arrow) as writer:
    for batch in source.iter_batches(20_000):
        writer.write_batch(batch)
"""
LANCE = """
import lance, pyarrow as pa, pyarrow.parquet as pq
source = pq.ParquetFile(sys.argv[1], pre_buffer=False)
reader = pa.RecordBatchReader.from_batches(source.schema_arrow, source.iter_batches(20_000))
lance.write_dataset(reader, sys.argv[2])
"""


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--dim", type=int, default=1536)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--folder", type=Path, help="Where the files go, a few times their size [default: temporary].")
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=chosen.folder) as folder:
        source = Path(folder) / "vectors.parquet"
        write_vectors(source, chosen.rows, chosen.dim)
        print(f"{chosen.rows:,} x {chosen.dim}, float32: {source.stat().st_size / 1e9:.2f} GB of Parquet")
        ways = {"Parquet, pyarrow": (PARQUET, "p.parquet"), "Lance, pylance": (LANCE, "l"), "import": (IMPORT, "atlas")}
        found: dict[str, list[tuple[float, float, float]]] = {name: [] for name in (*ways, "import once more")}
        for _ in range(chosen.repeats):
            for name, (code, place) in ways.items():
                remove(Path(folder) / place)
                found[name].append(measure(code, source, Path(folder) / place))
            found["import once more"].append(measure(IMPORT, source, Path(folder) / "atlas"))
        reference = [wall for wall, _, _ in found["Parquet, pyarrow"]]
        for name, runs in found.items():
            wall, cpu, memory = (statistics.median(values) for values in zip(*runs, strict=True))
            ratio = statistics.median(run[0] / other for run, other in zip(runs, reference, strict=True))
            print(f"{name}: {wall:.1f} s ({ratio:.2f} of Parquet), {cpu:.1f} CPU-s, {memory:.2f} GB")


def measure(code: str, source: Path, place: Path) -> tuple[float, float, float]:
    """Run code in a process of its own; return wall and processor seconds, and the peak of its memory in GB."""
    command = [sys.executable, "-c", MEASURED.format(code=code), str(source), str(place)]
    output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    wall, cpu, memory = (float(value) for value in output.split()[-3:])
    return wall, cpu, memory


def remove(place: Path) -> None:
    """Remove a file or folder."""
    if place.is_dir():
        shutil.rmtree(place)
    else:
        place.unlink(missing_ok=True)


def write_vectors(path: Path, rows: int, dim: int) -> None:
    """Write cells around the centers of their proteins, with columns as HPA's tables have."""
    random = np.random.default_rng(0)
    centers = random.standard_normal((N_PROTEINS, dim), dtype=np.float32)
    writer = None
    for start in range(0, rows, AT_A_TIME):
        n = min(AT_A_TIME, rows - start)
        proteins = random.integers(0, N_PROTEINS, n)
        vectors = centers[proteins] + 0.7 * random.standard_normal((n, dim), dtype=np.float32)
        columns = {
            "cell_id": [f"c{i}" for i in range(start, start + n)],
            "gene_names": [f"GENE{i}" for i in proteins],
            "ensembl_ids": [f"ENSG{i:011d}" for i in proteins],
            "antibody": [f"HPA{i:06d}" for i in proteins],
            "atlas_name": ["U-2 OS"] * n,
            "locations": ["Cytosol,Nucleoplasm"] * n,
            "embedding": pa.FixedSizeListArray.from_arrays(pa.array(vectors.ravel()), dim),
        }
        table = pa.table(columns)
        writer = writer or pq.ParquetWriter(path, table.schema)
        writer.write_table(table)
    assert writer is not None
    writer.close()


if __name__ == "__main__":
    main()
