"""Make `relationships.json`: what EFAAR_benchmarking 1.0 (PyPI, Apache-2.0) says of made-up vectors and pairs.

    python tests/golden/make_relationships.py FOLDER_OF_THE_UNPACKED_WHEEL

needs NumPy, pandas, scikit-learn and torch; geomloss, which its recall does not use, is left empty. Vectors and pairs
are of `made_up`. Each vector has sixteen numbers of -1 or 1 among zeros, or none: cosines are sixteenths, the same bits
on every machine and with many ties. Written is what its `known_relationship_benchmark` returns.
"""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path
from unittest.mock import MagicMock

import numpy as np

N, DIM = 120, 24
TAILS = [(0.05, 0.95), (0.1, 0.9), (0.2, 0.8), (0.01, 0.7)]


def made_up() -> tuple[list[str], np.ndarray, dict[str, list[tuple[str, str]]]]:
    """Return names, vectors (N, DIM) float32, and lists of pairs as databases write them."""
    vectors = np.zeros((N, DIM), np.float32)
    for row in range(1, N):
        at = (np.arange(16) * (5 if row % 2 else 7) + row) % DIM  # 5 and 7 share no divisor with 24
        vectors[row, at] = [1 if (row * k + k * k * (row // 10)) % 7 < 4 else -1 for k in range(16)]
    vectors[::40] = 0  # no direction
    names = [f"G{(37 * i) % 1000:03d}" for i in range(N)]
    near = [(names[i], names[j]) for i in range(N) for j in range(N) if i != j and (i * 31 + j * 17) % 23 == 0]
    alike = [(names[i], names[i + 5]) for i in range(N - 5)]
    return (
        names,
        vectors,
        {
            "near": near,  # many pairs in both directions
            "alike": [*alike, *alike[:9], *((b, a) for a, b in alike[:30])],  # said twice, and turned round
            "strange": [("NOBODY", names[0]), (names[1], names[1]), (names[2], names[3])],  # missing, with itself
            "none": [("NOBODY", "NOONE")],
        },
    )


def main(folder: str) -> None:
    """Ask the package and write what it says."""
    sys.modules["geomloss"] = MagicMock()
    sys.path.insert(0, folder)
    import pandas as pd
    from efaar_benchmarking.benchmarking import known_relationship_benchmark
    from sklearn.utils import Bunch

    names, vectors, pairs = made_up()
    atlas = Bunch(features=pd.DataFrame(vectors), metadata=pd.DataFrame({"gene": names}))
    with tempfile.TemporaryDirectory() as sources:
        for source, own in pairs.items():
            pd.DataFrame(own, columns=["entity1", "entity2"]).to_csv(Path(sources, f"{source}.txt"), index=False)
        found = known_relationship_benchmark(
            atlas, "gene", list(pairs), TAILS, min_req_entity_cnt=1, benchmark_data_dir=sources
        )
    written = json.dumps(found.to_dict("records"), indent=1)
    Path(__file__).with_name("relationships.json").write_text(f"{written}\n", encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1])
