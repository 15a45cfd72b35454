"""Whether what was done to cells can be told from their pictures: conditions as what is to be retrieved.

What else is known of a condition stands in the manifest's other columns:

moa          mechanism of action, `;` between several
treatment    the compound, as the truth of compound-gene matching names it; the condition itself where it is so named
gene         the gene that was knocked out, likewise
concentration of the compound
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import pyarrow as pa

from .compound_matching import measure_compounds, read_truth
from .evaluated import EvaluationOptions, Measured
from .evaluation.matching import MeanPrecisions, Rules, match, match_labels, mean_precisions
from .store import Store
from .wells import Wells, read_wells

__all__ = ["as_measured", "measure_conditions"]

KNOWN = ("moa", "treatment", "gene", "concentration")  # of a condition, in the manifest's other columns


def measure_conditions(store: Store, options: EvaluationOptions) -> Iterator[Measured]:
    """Yield what was measured of conditions, nothing where there is none, or one and no controls.

    condition: whether wells of a condition are near, against those of other conditions. activity: whether they are
    nearer to each other than to the controls of their plate. moa: whether conditions of one mechanism are near.
    compound_gene: whether compounds are like the knock-outs of the genes they hit.
    """
    conditions = condition_facts(store) if store.has("cells") else {}
    if not conditions or (len(conditions) < 2 and options.controls is None and options.truth is None):
        return
    wells = read_wells(store, options.controls)
    for kind, found in (("condition", by_condition(wells, options)), ("activity", against_controls(wells, options))):
        if found is not None:
            counts = {f"{kind}_groups": len(found.names), f"{kind}_centred_on_controls": wells.centred}
            yield as_measured(kind, found, counts, drawn=[name.rsplit("|", 1)[0] for name in found.names])
    yield from by_mechanism(wells, conditions, options)
    if options.truth is not None:
        yield measure_compounds(wells, conditions, read_truth(options.truth), options)


def condition_facts(store: Store) -> dict[str, dict[str, str]]:
    """Return what the manifest says of each condition: of `KNOWN` what its first row with it has."""
    facts: dict[str, dict[str, str]] = {}
    for batch in store.batches("cells", ["condition", "extra"]):
        for row in pa.table(batch).group_by(batch.schema.names).aggregate([]).to_pylist():
            if not row["condition"]:
                continue
            own = facts.setdefault(row["condition"], {})
            extra = json.loads(row.get("extra") or "{}")
            for name, value in extra.items():
                if name.lower() in KNOWN and value not in (None, ""):
                    own.setdefault(name.lower(), str(value))
    return facts


def by_condition(wells: Wells, options: EvaluationOptions) -> MeanPrecisions | None:
    """Ask whether wells of a condition are near each other, on another plate where there are replicates on several.

    Right and wrong are of the cell line of the query; None without replicates. Controls are left out.
    """
    treated = wells.treated
    for differ in ("plate", "well"):
        rules = Rules(["condition", "cell_line"], [differ], ["cell_line"], ["condition"])
        found = match(treated.vectors, treated.columns, rules)
        told = mean_precisions(found, treated.keys("condition", "cell_line"), seed=options.seed)
        if told is not None:
            return told
    return None


def against_controls(wells: Wells, options: EvaluationOptions) -> MeanPrecisions | None:
    """Ask whether wells of a condition are nearer to each other than to the controls of their plate.

    That is phenotypic activity as Arevalo et al. (2024) ask for it; None without controls or replicates.
    """
    if not wells.control.any():
        return None
    columns = wells.columns | {"control": ["yes" if own else "no" for own in wells.control]}
    rules = Rules(["condition", "cell_line", "control"], ["well"], ["plate", "cell_line"], ["control", "condition"])
    found = match(wells.vectors, columns, rules, asked=~wells.control)
    return mean_precisions(found, wells.keys("condition", "cell_line"), seed=options.seed)


def by_mechanism(
    wells: Wells, facts: Mapping[str, Mapping[str, str]], options: EvaluationOptions
) -> Iterator[Measured]:
    """Yield whether conditions that share a mechanism of action are near, among means over the wells of a condition."""
    rows = wells.treated.means("condition", "cell_line")
    labels = [split_labels(facts.get(name or "", {}).get("moa")) for name in rows.columns["condition"]]
    if not any(labels):
        return
    found = match_labels(rows.vectors, labels, within=rows.columns["cell_line"])
    told = mean_precisions(found.of, found.labels, seed=options.seed)
    if told is not None:
        yield as_measured("moa", told, {"moa_labels": len(told.names)})


def split_labels(text: str | None) -> frozenset[str]:
    """Return the labels of a text with `;` between them."""
    return frozenset(part.strip() for part in (text or "").split(";") if part.strip())


def as_measured(
    kind: str, told: MeanPrecisions, counts: Mapping[str, Any], *, drawn: Sequence[str] | None = None
) -> Measured:
    """Return `kind_map`, `kind_map_chance` and `kind_retrieved`, means over the groups that were told, and counts.

    drawn: what each group is of, for intervals; itself if None.
    """
    observed = {f"{kind}_{name}": of for name, of in told.observed(drawn).items()}
    values = {name: of.value() for name, of in observed.items()}
    values[f"{kind}_map_chance"] = float(told.chance.mean())
    return Measured(
        {**values, f"{kind}_queries": told.n_queries, f"{kind}_null_size": told.null_size, **counts}, observed
    )
