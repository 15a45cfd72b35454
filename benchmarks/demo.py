"""Time and memory of the demo, of a first answer, and of the import, each beside what one would do instead.

Run: .venv/bin/python benchmarks/demo.py [--proteins N] [--cells N] [--repeats N]. Medians over repeats.
Memory is the sum over all processes of the job, sampled four times a second.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

PARQUET_COSINE = """
import sys, numpy as np, pyarrow.parquet as pq
table = pq.read_table(sys.argv[1], columns=["gene_symbol", "image"])
vectors = np.stack(table["image"].to_numpy())
units = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
row = table["gene_symbol"].to_pylist().index("DEMO001")
print([table["gene_symbol"][int(i)].as_py() for i in np.argsort(-units @ units[row])[1:11]])
"""


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--proteins", type=int, default=240)
    parser.add_argument("--cells", type=int, default=12)
    parser.add_argument("--repeats", type=int, default=5)
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        uri, table = f"{folder}/atlas", f"{folder}/proteins.parquet"
        atlas = [sys.executable, "-m", "subcell_atlas"]
        demo = [*atlas, "demo", "--atlas", uri, "--proteins", str(chosen.proteins), "--cells", str(chosen.cells)]
        seconds, peak = measure(demo)
        size = f"{chosen.proteins} proteins x {chosen.cells} cells"
        print(f"demo, {size}: {seconds:.0f} s, {peak:.2f} GB in all processes")
        seconds, peak = measure(demo)
        print(f"demo, once more (nothing to do but answer): {seconds:.0f} s, {peak:.2f} GB")
        measure([*atlas, "export", "--atlas", uri, "--format", "parquet", "-o", table])
        compare(
            "similar DEMO001, whole process",
            [*atlas, "similar", "DEMO001", "--json", "--atlas", uri],
            "the same from a Parquet file with NumPy",
            [sys.executable, "-c", PARQUET_COSINE, table],
            chosen.repeats,
        )
        compare(
            "import subcell_atlas",
            [sys.executable, "-c", "import subcell_atlas"],
            "import numpy",
            [sys.executable, "-c", "import numpy"],
            chosen.repeats,
        )


def compare(name: str, command: list[str], other_name: str, other: list[str], repeats: int) -> None:
    """Time two commands in turn and print their medians and the ratio, pair by pair."""
    pairs = [(measure(command)[0], measure(other)[0]) for _ in range(repeats)]
    ours, theirs = (statistics.median(times) for times in zip(*pairs, strict=True))
    ratio = statistics.median(a / b for a, b in pairs)
    print(f"{name}: {ours:.2f} s; {other_name}: {theirs:.2f} s; ratio {ratio:.2f} (median of {repeats})")


def measure(command: list[str]) -> tuple[float, float]:
    """Run a command; return its wall time in seconds and the peak memory of it and all it started, in GB."""
    started = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, start_new_session=True)
    peak, next_look = 0, 0.0
    while process.poll() is None:
        if time.perf_counter() > next_look:
            peak = max(peak, session_memory(process.pid))
            next_look = time.perf_counter() + 0.25
        time.sleep(0.005)
    seconds = time.perf_counter() - started
    if process.returncode:
        sys.exit(process.stderr.read().decode() if process.stderr else "failed")
    return seconds, peak / 1e9


def session_memory(session: int) -> int:
    """Return the proportional set size in bytes of all processes of a session (Linux; 0 elsewhere)."""
    total = 0
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            fields = (folder / "stat").read_text().rpartition(")")[2].split()
            if int(fields[3]) == session:
                total += int((folder / "smaps_rollup").read_text().split("Pss:")[1].split()[0]) * 1024
        except (OSError, IndexError):
            continue
    return total


if __name__ == "__main__":
    main()
