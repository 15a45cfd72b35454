"""What this machine has, what it lacks, and the fix."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import sys
from dataclasses import dataclass
from pathlib import Path

__all__ = ["Check", "check_atlas", "check_machine"]

ENCODER = "subcell-rybg-mae"  # the one that is timed
PROTEOME_CELLS = 1_200_000  # about as many as the Human Protein Atlas shows
OVERNIGHT = PROTEOME_CELLS / (12 * 3600)  # crops a second
NEEDED = ("lancedb", "pylance", "torch", "pyarrow", "duckdb", "streamlit", "umap-learn", "networkx")
OPTIONAL = {  # package -> its extra, and what it is for
    "anndata": ("anndata", "h5ad files"),
    "mcp": ("mcp", "a server for LLM clients"),
    "timm": ("timm", "the encoders timm:NAME"),
    "transformers": ("esm", "the sequence encoders esm2-…"),
}


@dataclass(frozen=True)
class Check:
    """One thing that was looked at. status: ok, missing or note; fix: what to do, empty when ok."""

    name: str
    status: str
    found: str
    fix: str = ""


def check_machine() -> list[Check]:
    """Look at Python, packages, processor and GPU, and time a block of SubCell."""
    checks = [Check("python", "ok", f"{platform.python_version()} ({sys.executable})")]
    checks += [check_package(name, f"pip install {name}", "missing") for name in NEEDED]
    checks += [
        check_package(name, f"for {purpose}: pip install 'subcell-atlas[{extra}]'", "note")
        for name, (extra, purpose) in OPTIONAL.items()
    ]
    checks.append(check_javascript())
    checks.append(Check("processor", "ok", f"{os.cpu_count()} cores, {platform.machine()}"))
    checks.append(check_gpu())
    checks.append(check_encoder())
    return checks


def check_package(name: str, fix: str, otherwise: str) -> Check:
    """Say which version of a package is installed."""
    try:
        return Check(name, "ok", importlib.metadata.version(name))
    except importlib.metadata.PackageNotFoundError:
        return Check(name, otherwise, "not installed", fix)


def check_javascript() -> Check:
    """Say whether the app can draw its overview with what was fetched when the package was built."""
    if any((Path(__file__).parent / "pages" / "javascript").glob("regl-scatterplot-*.js")):
        return Check("overview", "ok", "drawn by regl-scatterplot")
    fix = "install the package anew where registry.npmjs.org is reached, to draw many points smoothly"
    return Check("overview", "note", "drawn by Plotly: the package was built without a network", fix)


def check_gpu() -> Check:
    """Say whether torch sees a GPU."""
    try:
        import torch
    except ImportError:
        return Check("gpu", "note", "unknown: torch is not installed", "pip install torch")
    if torch.cuda.is_available():
        memory = torch.cuda.get_device_properties(0).total_memory / 2**30
        return Check("gpu", "ok", f"{torch.cuda.get_device_name(0)}, {memory:.0f} GiB")
    return Check("gpu", "note", "none: encoders run on the processor", "a CUDA build of torch, where there is a GPU")


def check_encoder() -> Check:
    """Say how fast SubCell can be expected to run here, and whether its weights are here."""
    try:
        from .devices import choose_device, fastest_precision
        from .encoders.fetch import cached_path
        from .encoders.specs import ENCODERS
        from .encoders.speed import expected_speed
    except ImportError as exc:
        return Check(ENCODER, "missing", f"cannot be run: {exc}", f"pip install {exc.name}")
    spec, device = ENCODERS[ENCODER], choose_device(None)
    precision = fastest_precision(device)
    try:
        rate = expected_speed(spec, device, precision)
    except (RuntimeError, MemoryError) as exc:
        return Check(ENCODER, "missing", f"a trial failed: {str(exc).splitlines()[0]}", "more memory")
    assert spec.weights is not None
    here = "here" if cached_path(spec.weights.url).is_file() else "not here yet (fetched when first used)"
    found = (
        f"about {rate:.3g} crops/s of {spec.crop_px} px on {device} in {precision}, "
        f"a proteome of {PROTEOME_CELLS:,} cells in {in_words(PROTEOME_CELLS / rate)}; weights {here}"
    )
    fix = "" if rate >= OVERNIGHT else "a GPU embeds a proteome overnight"
    return Check(ENCODER, "ok" if rate >= OVERNIGHT else "note", found, fix)


def check_atlas(uri: str) -> Check:
    """Say whether there is an atlas at `uri` and whether it can be read."""
    from .errors import AtlasError, AtlasNotFound
    from .store import Store

    try:
        store = Store.open(uri)
        found = f"{uri}: {store.count('proteins')} proteins, {store.count('cells')} cells"
    except AtlasNotFound:
        return Check("atlas", "note", f"none at {uri}", "subcell-atlas demo, or ingest; or name another with --atlas")
    except AtlasError as exc:
        return Check("atlas", "missing", f"{uri}: {exc}", "another atlas (--atlas)")
    return Check("atlas", "ok", found)


def in_words(seconds: float) -> str:
    """Return a long time in hours or days."""
    hours = seconds / 3600
    return f"{hours:.0f} hours" if hours < 48 else f"{hours / 24:.0f} days"
