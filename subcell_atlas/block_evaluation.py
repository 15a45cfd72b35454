"""Which block of an encoder, read in which way, tells a label of cells best: on pictures, before any are embedded.

The answer is a shorter encoder, for `ingest --block`. Beside it the last block as its authors read it, and the same
network before it learned anything.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np

from .encoders.readout import Readout
from .errors import BadInput, NotBuilt
from .evaluated import EvaluationOptions, Measured, Subject
from .evaluation.blocks import FEWEST_GROUPS, Chosen, Figure, Readings, choose_readout, read_labels

__all__ = ["block_rows", "block_words", "is_last", "is_shown", "left_out_words", "measure_blocks", "way_of"]

MOST_NAMED = 6  # values of a label


def measure_blocks(subject: Subject, options: EvaluationOptions) -> Measured:
    """Measure how well `options.pictures.label` is read off each block, each pooling, with and without the last norm.

    `best`: the readout that is chosen, and the balanced accuracy of choosing so, by cells which had no part in it;
    `final`: the last block as published, by the same cells; `difference`: of the two; `untrained`: the best of a
    network of this shape that learned nothing, measured likewise. `curve`: of each way to pool tokens the balanced
    accuracy by block, with the ends of its interval over groups; `untrained_curve`. `recipe`: of the encoder that ends
    at the best.

    What was not asked: `n_unlabelled`, `n_ungrouped` and `n_rejected` pictures; `left_out`, classes with the number of
    their pictures; `n_dropped` cells of classes of which cells were found in one group alone.
    """
    del subject  # nothing of an atlas is read
    asked = options.pictures
    if asked is None:
        msg = "Blocks are searched on labelled pictures, not on an atlas."
        raise NotBuilt(f"{msg}\nGive them: subcell-atlas evaluate blocks --manifest FILE.csv --label localization")
    from ingest.job import Options
    from ingest.labelled_cells import read_cells
    from ingest.loader import n_cores

    picked = asked.picked
    to_read, to_fold, to_draw = np.random.SeedSequence(options.seed).generate_state(3).tolist()
    encoders = [asked.encoder] + ([asked.untrained] if asked.untrained else [])
    how = Options(masking=asked.masking, pixel_size_um=asked.pixel_size_um, progress=asked.progress)
    cells = read_cells(asked.source, picked, encoders, n_cells=asked.n_cells, options=how, seed=to_read)
    rows = of_classes_in_two_groups(cells.labels, cells.groups)
    labels, groups = [cells.labels[row] for row in rows], [cells.groups[row] for row in rows]
    if len(set(labels)) < 2:
        msg = f"The {len(cells.labels)} cells are of fewer than two {picked.label!r} in two {picked.group!r} each."
        raise BadInput(f"{msg}\nGive more pictures, or more --n-cells.")
    found = [
        read_labels(
            {readout: vectors[rows] for readout, vectors in of_encoder.items()},
            labels,
            groups,
            seed=to_fold,
            workers=n_cores(),
            progress=called if asked.progress else None,
        )
        for of_encoder, called in zip(cells.vectors, ("probes", "probes, untrained"), strict=False)
    ]
    final = Readout(block=asked.encoder.n_blocks)
    chosen, *untrained = (choose_readout(own, against=final, seed=to_draw) for own in found)
    classes = Counter(labels)
    metrics: dict[str, Any] = {
        "encoder": asked.encoder.spec.name,
        "label": picked.label,
        "group": picked.group,
        "n_cells": len(rows),
        "n_groups": len(set(groups)),
        "n_classes": len(classes),
        "chance": 1 / len(classes),
        "best": chosen_record(chosen),
        "final": as_record(final, chosen.figure_against()),
        "difference": chosen.difference(),
        "curve": as_curve(found[0], seed=to_draw),
        "classes": dict(classes),
        "left_out": dict(picked.left_out),
        "n_unlabelled": picked.n_unlabelled,
        "n_ungrouped": picked.n_ungrouped,
        "n_rejected": cells.n_rejected,
        "n_dropped": len(cells.labels) - len(rows),
        "recipe": asked.encoder.recipe(masking=how.masking, readout=chosen.readout).as_object(),
    }
    for of_untrained, readings in zip(untrained, found[1:], strict=True):
        metrics["untrained"] = chosen_record(of_untrained)
        metrics["untrained_curve"] = as_curve(readings, seed=to_draw)
    return Measured(metrics)


def of_classes_in_two_groups(labels: Sequence[str], groups: Sequence[str]) -> np.ndarray:
    """Return the rows of those classes which can be learned in one group and asked about in another."""
    groups_of: dict[str, set[str]] = {}
    for label, group in zip(labels, groups, strict=True):
        groups_of.setdefault(label, set()).add(group)
    return np.flatnonzero([len(groups_of[label]) > 1 for label in labels])


def chosen_record(chosen: Chosen) -> dict[str, Any]:
    """Return what was chosen, the figure of choosing so, and in what share of draws the same was."""
    return as_record(chosen.readout, chosen.figure()) | {"share_of_draws": chosen.share()}


def as_record(read: Readout, figure: Figure) -> dict[str, Any]:
    """Return a way to read an encoder, and its figure with the ends of its interval."""
    value, low, high = figure
    ends = {"balanced_accuracy_low": low, "balanced_accuracy_high": high}
    return {**asdict(read), "balanced_accuracy": value, **ends}


def as_curve(readings: Readings, *, seed: int) -> dict[str, dict[str, list[float]]]:
    """Return of each way the figures of the blocks, the first of the first block."""
    curves: dict[str, dict[str, list[float]]] = {}
    for read, figure in readings.curve(seed=seed).items():
        own = curves.setdefault(read.way, {"balanced_accuracy": [], "low": [], "high": []})
        for key, value in zip(own, figure, strict=True):
            own[key].append(value)
    return curves


def block_rows(found: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return, a row for each block, the balanced accuracy of each way to read it, and the untrained network's best."""
    curves, untrained = found["curve"], found.get("untrained_curve", {})
    rows = []
    for at in range(len(next(iter(curves.values()))["balanced_accuracy"])):
        row: dict[str, Any] = {"block": at + 1}
        row |= {name: own["balanced_accuracy"][at] for name, own in curves.items()}
        if untrained:
            row["untrained, best"] = max(own["balanced_accuracy"][at] for own in untrained.values())
        rows.append(row)
    return rows


def block_words(found: Mapping[str, Any]) -> Iterator[str]:
    """Yield sentences: what is read off best, the last block and the untrained network, and how sure the gain is."""
    best, final, more = found["best"], found["final"], found["difference"]
    chosen = f"of cells that had no part in choosing it; chosen in {best['share_of_draws']:.0%} of draws"
    yield f"Best: {in_words(best)} {chosen}."
    yield f"Last block as published: {in_words(final)}; guessing: {found['chance']:.3f}."
    if "untrained" in found:
        yield f"The same network untrained, at its best: {in_words(found['untrained'])}."
    gain = f"{more['value']:+.3f} ({more['low']:+.3f} to {more['high']:+.3f})"
    if is_last(found):
        yield "The last block as published is the best: nothing is gained by another."
    elif not math.isfinite(more["low"]):
        yield f"Fewer than {FEWEST_GROUPS} groups ({found['group']}) are held out: how sure the gain is cannot be told."
    elif is_shown(found):
        yield f"Taking the best in place of the last block gains {gain}."
    else:
        yield f"That the best gains anything over the last block is not shown: {gain}."


def left_out_words(found: Mapping[str, Any]) -> Iterator[str]:
    """Yield a sentence about the pictures and cells that were not asked; none when all were."""
    pictures = [
        (found["n_unlabelled"], f"without a single {found['label']}"),
        (found["n_ungrouped"], f"without {found['group']}"),
        (found["n_rejected"], "that could not be read or show no cell"),
    ]
    told = [f"{n:,} {why}" for n, why in pictures if n]
    if told:
        yield f"Pictures left out: {', '.join(told)}."
    if classes := found["left_out"]:
        some = ", ".join(sorted(classes)[:MOST_NAMED]) + (", …" if len(classes) > MOST_NAMED else "")
        why = f"in one {found['group']} alone or beyond the {found['n_classes']} asked"
        yield f"Values of {found['label']} left out, {why}: {len(classes):,} ({some})."
    if found["n_dropped"]:
        yield f"Cells left out, of values that were found in one {found['group']} alone: {found['n_dropped']:,}."


def is_shown(found: Mapping[str, Any]) -> bool:
    """Tell whether the best is shown to gain anything over the last block as published."""
    return bool(found["difference"]["low"] > 0)


def is_last(found: Mapping[str, Any]) -> bool:
    """Tell whether the best is the last block as published."""
    return all(found["best"][name] == found["final"][name] for name in ("block", "pooling"))


def way_of(record: Mapping[str, Any]) -> str:
    """Return the way in which the tokens of a record's block were pooled, as curves name it."""
    return Readout(pooling=record["pooling"], final_norm=record["final_norm"]).way


def in_words(record: Mapping[str, Any]) -> str:
    """Return a way to read a block, its figure and the ends of its interval."""
    ends = f"{record['balanced_accuracy_low']:.3f} to {record['balanced_accuracy_high']:.3f}"
    return f"block {record['block']} ({way_of(record)}): {record['balanced_accuracy']:.3f} ({ends})"
