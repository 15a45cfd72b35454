"""Labelled cells of a source, read by every block of an encoder, and of another beside it, in one pass over them."""

from __future__ import annotations

import json
import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from itertools import chain, islice, zip_longest
from typing import TYPE_CHECKING, Any

import numpy as np

from subcell_atlas.errors import BadInput
from subcell_atlas.identifiers import protein_id

from .job import Options, make_plan
from .ledger import Digests
from .loader import prepared_pictures
from .prepare import Prepared
from .sources import Source

if TYPE_CHECKING:
    from subcell_atlas.encoders.encoder import Encoder
    from subcell_atlas.encoders.readout import Readout

__all__ = ["LabelledCells", "Picked", "pick_pictures", "read_cells"]

MOST_CLASSES = 30  # those of the most groups: of more, hardly a cell each would be looked at
AT_ONCE = 64  # crops that wait for an encoder
PROTEIN = "protein_id"
GROUPS = {"localization": (PROTEIN, "image_id")}  # by label: what is held out whole, the first that can be
USUAL_GROUPS = ("plate", "image_id")


@dataclass(frozen=True, kw_only=True)
class Picked:
    """Pictures to look at: numbers in the source, in the order to take them, and the label and group of each by name.

    label, group: the columns these are of. n_unlabelled: pictures without a label, or with several; n_ungrouped: of the
    others those without a group. left_out: classes that are in one group alone, or beyond the most that are asked, and
    the pictures of each.
    """

    indices: Sequence[int]
    label: str
    group: str
    label_of: Mapping[str, str]
    group_of: Mapping[str, str]
    n_unlabelled: int
    n_ungrouped: int
    left_out: Mapping[str, int]


@dataclass(frozen=True)
class LabelledCells:
    """Cells with a label and a group each, (n,), and what each encoder makes of them: (n, dim) float32 a readout."""

    labels: list[str]
    groups: list[str]
    vectors: list[dict[Readout, np.ndarray]]
    n_rejected: int


def pick_pictures(source: Source, *, label: str, group: str | None, seed: int) -> Picked:
    """Choose pictures whose `label` is known, a column of theirs, so that classes and groups come evenly.

    group: the column of what is held out whole; for localizations the protein unless told otherwise, else the plate,
    where most pictures have one, else the picture. Raise BadInput when there are not two classes in two groups each.
    """
    if group == label:
        raise BadInput(f"{label!r} is what is to be told; it cannot be held out too. Give another --group.")
    rows = [values_of(source.item(index)) for index in range(len(source))]
    check_column(rows, label)
    known = [index for index, row in enumerate(rows) if label in row]
    if group is not None:
        check_column(rows, group)
    if len({rows[index][label] for index in known}) == 1:
        raise BadInput(f"All pictures have the same {label!r}: {rows[known[0]][label]}. Give pictures of others too.")
    for by in [group] if group else GROUPS.get(label, USUAL_GROUPS):
        of_class: dict[str, dict[str, list[int]]] = defaultdict(lambda: defaultdict(list))
        grouped = [index for index in known if by in rows[index]]
        for index in grouped:
            of_class[rows[index][label]][rows[index][by]].append(index)
        able = [name for name, groups in of_class.items() if len(groups) > 1]
        is_usual = by in (group, "image_id") or 2 * len(grouped) > len(known)
        if len(able) > 1 and is_usual:
            break
    else:
        msg = f"No two values of {label!r} are in two values of {by!r} each, one to learn from and one to ask about."
        others = "" if by == "image_id" else ", or another --group, such as image_id"
        raise BadInput(f"{msg}\nGive more pictures or another --label{others}.")
    rng = np.random.default_rng(seed)
    shuffled = [able[at] for at in rng.permutation(len(able))]
    kept = sorted(shuffled, key=lambda name: -len(of_class[name]))[:MOST_CLASSES]
    indices = list(
        in_turn([in_turn([mixed(own, rng) for own in mixed(of_class[name].values(), rng)]) for name in kept])
    )
    names = {index: rows[index]["image_id"] for index in indices}
    return Picked(
        indices=indices,
        label=label,
        group=by,
        label_of={names[index]: rows[index][label] for index in indices},
        group_of={names[index]: rows[index][by] for index in indices},
        n_unlabelled=len(rows) - len(known),
        n_ungrouped=len(known) - len(grouped),
        left_out={name: sum(map(len, groups.values())) for name, groups in of_class.items() if name not in kept},
    )


def values_of(item: Any) -> dict[str, str]:
    """Return what is known of a picture, one value a column; a localization is known where there is one alone."""
    metadata = dict(item.metadata)
    places, others = metadata.pop("localization"), json.loads(metadata.pop("extra", None) or "{}")
    found = {**others, **metadata, "image_id": item.image_id, PROTEIN: protein_id(metadata)}
    found |= {"localization": places[0]} if len(places) == 1 else {}
    return {name: str(value) for name, value in found.items() if value not in (None, "")}


def check_column(rows: Sequence[Mapping[str, str]], name: str) -> None:
    """Raise BadInput when no picture has a value of this column."""
    if not any(name in row for row in rows):
        there = ", ".join(sorted({column for row in rows for column in row}))
        raise BadInput(f"No picture says its {name!r}; known of them: {there}.")


def mixed(items: Iterable[Any], rng: np.random.Generator) -> list[Any]:
    """Return items in another order."""
    given = list(items)
    return [given[at] for at in rng.permutation(len(given))]


def in_turn(lists: Iterable[Iterable[int]]) -> Iterator[int]:
    """Yield the first of each list, then the second of each, and so on."""
    absent = -1
    return (number for number in chain.from_iterable(zip_longest(*lists, fillvalue=absent)) if number != absent)


def read_cells(
    source: Source, picked: Picked, encoders: Sequence[Encoder], *, n_cells: int, options: Options, seed: int
) -> LabelledCells:
    """Read at most `n_cells` cells of the pictures that were picked, in every way by encoders of one spec.

    Raise BadInput when there is no cell.
    """
    from tqdm import tqdm

    plan = make_plan(source, encoders[0], options, done=Digests())
    names: list[str] = []
    parts: list[list[dict[Readout, np.ndarray]]] = [[] for _ in encoders]
    rejected: dict[str, str] = {}
    items = (source.item(index) for index in picked.indices)
    pictures = prepared_pictures(plan, items, options.workers)
    bar = tqdm(total=n_cells, unit="cell", desc="cells", disable=not options.progress)
    cells = some_of_each(pictures, picked, rejected, n_cells=n_cells, rng=np.random.default_rng(seed))
    with closing(pictures), bar:
        while chunk := list(islice(cells, AT_ONCE)):
            crops = np.stack([crop for _, crop in chunk])
            for own, encoder in zip(parts, encoders, strict=True):
                own.append(encoder.embed_readouts(crops))
            names += [name for name, _ in chunk]
            bar.update(len(chunk))
    if not names:
        first = "; ".join(f"{name}: {reason}" for name, reason in list(rejected.items())[:3])
        hint = "" if source.item(0).is_crop else "\nIf each row is one cell already cut out, say so with --crops."
        raise BadInput(f"No cell was found in {len(rejected)} pictures. {first}{hint}")
    vectors = [{read: np.concatenate([part[read] for part in own]) for read in own[0]} for own in parts]
    labels, groups = ([of[name] for name in names] for of in (picked.label_of, picked.group_of))
    return LabelledCells(labels, groups, vectors, len(rejected))


def some_of_each(
    pictures: Iterable[Prepared],
    picked: Picked,
    rejected: dict[str, str],
    *,
    n_cells: int,
    rng: np.random.Generator,
) -> Iterator[tuple[str, np.ndarray]]:
    """Yield in all `n_cells` cells, drawn at random, or as many as there are: the name of the picture, and the crop.

    Each class has its share, and of this each of its pictures, cells of one being much alike; what one picture lacks
    the next make up for. Pictures without cells go into `rejected`, with the reason.
    """
    to_come, taken, wanted = Counter(picked.label_of.values()), Counter[str](), n_cells
    for picture in pictures:
        label = picked.label_of[picture.image_id]
        of_each_class = (wanted + sum(taken[name] for name in to_come)) / len(to_come)
        share = math.ceil(max(of_each_class - taken[label], 0) / to_come[label])
        to_come -= Counter([label])
        if picture.reject is not None or picture.crops is None:
            rejected[picture.image_id] = picture.reject or ""
            continue
        chosen = rng.permutation(len(picture.crops))[: min(share, wanted)]
        for number in chosen:
            yield picture.image_id, picture.crops[number]
        taken[label] += len(chosen)
        wanted -= len(chosen)
        if not wanted:
            return
