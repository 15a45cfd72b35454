"""Whether compounds look like the knock-outs of the genes whose products they hit, where an atlas has both."""

from __future__ import annotations

import csv
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from .errors import BadInput, NotBuilt
from .evaluated import EvaluationOptions, Measured
from .evaluation.compounds import ANY_CONCENTRATION, Compounds, match_compounds
from .evaluation.intervals import Observed
from .wells import Wells

__all__ = ["measure_compounds", "read_truth"]

TRUTH_COLUMNS = ("gene_symbol", "treatment", "nM_value")


def measure_compounds(
    wells: Wells,
    facts: Mapping[str, Mapping[str, str]],
    truth: Mapping[tuple[str, str], float],
    options: EvaluationOptions,
) -> Measured:
    """Measure whether compounds are like the knock-outs of the genes they hit; over all cell lines together."""
    rows = wells.treated.means("condition")
    named_compounds, named_genes = ({pair[side] for pair in truth} for side in (0, 1))
    compounds, concentrations, at = [], [], []
    genes: dict[str, list[np.ndarray]] = {}
    for row, condition in enumerate(rows.columns["condition"]):
        own = facts.get(condition or "", {})
        compound, gene = own.get("treatment", condition or ""), own.get("gene", condition or "")
        if compound in named_compounds:
            compounds.append(compound)
            concentrations.append(as_number(own.get("concentration"), condition))
            at.append(row)
        elif gene in named_genes:
            genes.setdefault(gene, []).append(rows.vectors[row])
    means = {name: np.mean(own, axis=0) for name, own in genes.items()}
    given = Compounds(compounds, np.array(concentrations), rows.vectors[at])
    found = match_compounds(given, means, truth, seed=options.seed)
    if not found.by_compound:
        raise NotBuilt(
            f"No compound can be matched: {len(set(compounds))} compounds and {len(genes)} genes of the truth are "
            "conditions of this atlas.\nEach compound needs a hit gene and 20 others among the conditions, named there "
            "or in the columns `treatment` and `gene` of the manifest."
        )
    names, values = list(found.by_compound), np.array(list(found.by_compound.values()))
    record: dict[str, Any] = {name: asdict(of) for name, of in found.by_concentration.items()}
    record |= {"n_genes": found.n_genes, "n_skipped": found.n_skipped}
    observed = Observed(names, values, np.array(names))
    return Measured({"compound_gene": record}, {f"compound_gene/{ANY_CONCENTRATION}/ap": observed})


def as_number(text: str | None, condition: str | None) -> float:
    """Return a concentration as a number, nan where there is none; raise BadInput for what is no number."""
    try:
        return float(text) if text is not None else float("nan")
    except ValueError:
        raise BadInput(f"The concentration {text!r} of {condition!r} is no number.") from None


def read_truth(path: Path) -> dict[tuple[str, str], float]:
    """Return (compound, gene) -> the least concentration in nM at which the one was measured to hit the other.

    A CSV with the columns treatment, gene_symbol and nM_value, as RxRx3-core's compound_gene_interactions.csv; a pair
    without a number is one that was asked for and has none: NaN.
    """
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file)
            there = list(reader.fieldnames or ())
            if missing := [name for name in TRUTH_COLUMNS if name not in there]:
                raise BadInput(f"{path} lacks the columns {', '.join(missing)}; it has {', '.join(there)}.")
            rows = list(reader)
    except (OSError, UnicodeDecodeError) as exc:
        raise BadInput(f"{path} cannot be read as a CSV file: {exc}") from exc
    truth: dict[tuple[str, str], float] = {}
    for number, row in enumerate(rows, start=2):
        value = nanomolar(row["nM_value"], path, number)
        pair = (row["treatment"], row["gene_symbol"])
        truth[pair] = np.fmin(truth.get(pair, np.nan), value)
    return truth


def nanomolar(text: str | None, path: Path, line: int) -> float:
    """Return a concentration; nan where there is none."""
    try:
        return float(text) if text else float("nan")
    except ValueError:
        raise BadInput(f"{path}, line {line}: nM_value {text!r} is no number.") from None
