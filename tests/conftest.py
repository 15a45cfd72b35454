"""Atlases and encoders that many tests share: real, small, and made once."""

from __future__ import annotations

import socket
from pathlib import Path

import numpy as np
import pytest
from planted_functions import planted, write_atlas

from ingest.job import Options, ingest_pictures
from ingest.simulated import SimulatedSource, write_truth
from subcell_atlas.build import build
from subcell_atlas.encoders import load_encoder
from subcell_atlas.images.simulated import make_proteome
from subcell_atlas.store import Store

REAL_DATA = Path(__file__).parents[2] / "shared" / "data"


@pytest.fixture(scope="session")
def demo_source() -> SimulatedSource:
    """40 proteins, 4 cells each."""
    return SimulatedSource(make_proteome(40, seed=5), 4)


@pytest.fixture(scope="session")
def demo_atlas(tmp_path_factory, demo_source) -> str:
    """The URI of a built atlas of the simulated proteome; not to be written to."""
    uri = str(tmp_path_factory.mktemp("demo") / "atlas")
    store = Store.create(uri)
    write_truth(store, demo_source)
    ingest_pictures(store, demo_source, load_encoder("demo"), Options(workers=0, progress=False))
    build(store, seed=0)
    return uri


@pytest.fixture(scope="session")
def function_atlas(tmp_path_factory) -> str:
    """The URI of an atlas of planted functions, which are predicted (see `planted_functions`); not to be written to."""
    store = write_atlas(str(tmp_path_factory.mktemp("functions") / "atlas"), planted())
    build(store, ["functions"], seed=0)
    return store.uri


@pytest.fixture
def real_data() -> Path:
    """Real pictures and tables, where they are at hand."""
    if not REAL_DATA.is_dir():
        pytest.skip("no real data beside the repository")
    return REAL_DATA


@pytest.fixture
def free_port() -> int:
    """A port of this machine on which nobody listens."""
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        return listening.getsockname()[1]


@pytest.fixture
def rng() -> np.random.Generator:
    """A seeded generator."""
    return np.random.default_rng(7)
