"""Write `efaar.npz`: what EFAAR_benchmarking's own code makes of random wells of three batches.

    python tests/golden/make_efaar.py PATH_TO_efaar_benchmarking

The stored file was made with the module `efaar.py` of https://pypi.org/project/efaar-benchmarking/1.0 (Apache-2.0;
none of it is copied here), numpy 2.4.6, scipy 1.17.1 and scikit-learn 1.9.1. scvi-tools, which it imports and these
functions do not use, is replaced by an empty module. The data are of seed 20: 60 wells of 8 numbers, 8 of the 20 wells
of each batch controls. Arrays:

- `vectors` (60, 8), `batches` (60,), `controls` (60,) bool: the data
- `centerscale_on_controls`, `centerscale_by_batch`: each by batch
- `tvn_on_controls`, `tvn_without_batches`: with and without `batch_col`
- `embed_by_pca` (60, 5): by batch, of 5 components
- `pca_centerscale` (60, 5): `centerscale_by_batch` of the former
- `pca_centerscale_on_controls` (60, 5): `centerscale_on_controls`, the first 5 components of scikit-learn's PCA fitted
  on the controls, `centerscale_on_controls` again
"""

from __future__ import annotations

import argparse
import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pandas as pd
from sklearn.decomposition import PCA

OUTPUT = Path(__file__).with_name("efaar.npz")
N_COMPONENTS = 5
SEED = 20


def load_module(folder: Path) -> ModuleType:
    """Return the authors' module."""
    for name in ("scvi", "scvi.model"):
        sys.modules[name] = ModuleType(name)
    sys.modules["scvi.model"].SCVI = None
    spec = importlib.util.spec_from_file_location("efaar", folder / "efaar.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def make_data() -> dict[str, np.ndarray]:
    """Return correlated wells, of which each batch has a shift and a scale of its own."""
    rng = np.random.default_rng(SEED)
    vectors = rng.normal(size=(60, 8)) @ rng.normal(size=(8, 8)) + 10
    batches = np.repeat(["a", "b", "c"], 20)
    for batch in "abc":
        vectors[batches == batch] = vectors[batches == batch] * rng.uniform(0.5, 2, 8) + rng.normal(scale=3, size=8)
    controls = np.tile(np.arange(20) < 8, 3)
    return {"vectors": vectors, "batches": batches, "controls": controls}


def main() -> None:
    """Compute and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    efaar = load_module(parser.parse_args().folder)
    data = make_data()
    vectors, controls = data["vectors"], data["controls"]
    metadata = pd.DataFrame({"batch": data["batches"], "kind": np.where(controls, "control", "other")})
    of_controls = {"metadata": metadata, "pert_col": "kind", "control_key": "control"}
    by_batch = {"metadata": metadata, "batch_col": "batch"}
    scaled = efaar.centerscale_on_controls(vectors, **of_controls, batch_col="batch")
    components = PCA(N_COMPONENTS).fit(scaled[controls]).transform(scaled)
    embedded = efaar.embed_by_pca(vectors, **by_batch, variance_or_ncomp=N_COMPONENTS)
    np.savez(
        OUTPUT,
        **data,
        centerscale_on_controls=scaled,
        centerscale_by_batch=efaar.centerscale_by_batch(vectors, **by_batch),
        tvn_on_controls=efaar.tvn_on_controls(vectors, **of_controls, batch_col="batch"),
        tvn_without_batches=efaar.tvn_on_controls(vectors, **of_controls),
        embed_by_pca=embedded,
        pca_centerscale=efaar.centerscale_by_batch(embedded, **by_batch),
        pca_centerscale_on_controls=efaar.centerscale_on_controls(components, **of_controls, batch_col="batch"),
    )


if __name__ == "__main__":
    main()
