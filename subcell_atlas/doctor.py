"""What this machine has, what it lacks, and the fix."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import sys
from dataclasses import dataclass

__all__ = ["Check", "check_machine"]

NEEDED = ("lancedb", "pylance", "torch", "pyarrow", "duckdb", "streamlit", "umap-learn", "networkx")
OPTIONAL = {"anndata": "h5ad files"}


@dataclass(frozen=True)
class Check:
    """One thing that was looked at. status: ok, missing or note; fix: what to do, empty when ok."""

    name: str
    status: str
    found: str
    fix: str = ""


def check_machine() -> list[Check]:
    """Look at Python, packages, processor and GPU."""
    checks = [Check("python", "ok", f"{platform.python_version()} ({sys.executable})")]
    checks += [check_package(name, f"pip install {name}", "missing") for name in NEEDED]
    checks += [
        check_package(name, f"for {purpose}: pip install 'subcell-atlas[{name}]'", "note")
        for name, purpose in OPTIONAL.items()
    ]
    checks.append(Check("processor", "ok", f"{os.cpu_count()} cores, {platform.machine()}"))
    checks.append(check_gpu())
    return checks


def check_package(name: str, fix: str, otherwise: str) -> Check:
    """Say which version of a package is installed."""
    try:
        return Check(name, "ok", importlib.metadata.version(name))
    except importlib.metadata.PackageNotFoundError:
        return Check(name, otherwise, "not installed", fix)


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
