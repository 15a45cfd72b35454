"""The ingest job: pictures through an encoder into the atlas, resumable, one writer.

Each commit holds whole pictures, so a picture whose stamp or fingerprint is in the atlas is done; a run that was killed
goes on by being started again.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator
from concurrent.futures.process import BrokenProcessPool
from contextlib import closing, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING

from subcell_atlas.encoders.specs import HPA_PIXEL_SIZE_UM
from subcell_atlas.errors import AtlasError, RecipeMismatch
from subcell_atlas.interrupts import interrupts_noted
from subcell_atlas.recipe import Recipe
from subcell_atlas.runs import Run
from subcell_atlas.store import Store, one_of

from .clock import Clock
from .counts import Counts
from .distributed import Cluster
from .ledger import Digests, Ledger
from .loader import prepared_pictures
from .prepare import Plan, Prepared
from .progress import Progress
from .sources import Item, Source
from .writer import Writer

if TYPE_CHECKING:
    from subcell_atlas.encoders.encoder import Encoder

__all__ = ["Counts", "Options", "ingest_pictures", "make_plan"]

BATCHES = 2  # handed to the encoder together, so that a GPU computes one while it is given the other


@dataclass(frozen=True, kw_only=True)
class Options:
    """How to run.

    `workers` 0 prepares pictures in this process, None takes one a core. `batch_size`: how many crops are handed to the
    encoder, which embeds as many at once as fit; None leaves it to the encoder.
    """

    batch_size: int | None = None
    workers: int | None = None
    masking: str = "cell"
    pixel_size_um: float = HPA_PIXEL_SIZE_UM
    segmenter: str = "watershed"
    progress: bool = True


def ingest_pictures(store: Store, source: Source, encoder: Encoder | Cluster, options: Options) -> Counts:
    """Embed the cells of every picture of `source` into `cells`; refused pictures go into `rejects`.

    A cluster reads and embeds the pictures elsewhere, with as many workers as it has.

    Raise RecipeMismatch when the atlas holds embeddings of another recipe. A request to end (Ctrl-C, SIGTERM) commits
    what the encoder is at and raises AtlasError, saying how to go on; a second Ctrl-C does not wait for the encoder.
    """
    recipe = check_recipe(store, encoder, options)
    ledger = Ledger(store)
    plan = make_plan(source, encoder, options, done=ledger.fingerprints)
    with interrupts_noted() as asked_to_end:
        run = Run.start(store, kind="ingest", recipe=recipe)
        store.ensure("rejects")
        here = None if isinstance(encoder, Cluster) else encoder
        group_size = options.batch_size or (BATCHES * here.batch_size() if here else 1)
        clock = Clock()
        with Writer(store, here, recipe, run.run_id, source.name, group_size, ledger, clock) as writer:
            counts = writer.counts
            pictures = pictures_from(encoder, plan, to_do(source, plan, ledger, counts), options)
            try:
                with Progress(len(source), shown=options.progress) as progress, closing(pictures):
                    while not asked_to_end():
                        with clock.waiting("pictures"):
                            prepared = next(pictures, None)
                        if prepared is None:
                            break
                        writer.take(prepared)
                        progress.show(counts, cells=writer.n_embedded)
                if asked_to_end():
                    writer.save(wait=True)
                    raise KeyboardInterrupt
                writer.finish()
            except (KeyboardInterrupt, BrokenProcessPool, AtlasError) as exc:
                with suppress(AtlasError):  # when the atlas cannot be written to, that was the reason
                    writer.save(wait=False)
                run.finish(counts.__dict__ | {"interrupted": True})
                raise how_to_go_on(exc, counts) from None
        counts.seconds, counts.limit = clock.seconds(), clock.limit() if here else ""
        run.finish(counts.__dict__)
    store.drop_doubles()  # also those of a job that was killed before it came to this
    if counts.cells:
        store.compact("cells", "rejects")
    return counts


def pictures_from(
    encoder: Encoder | Cluster, plan: Plan, items: Iterator[Item], options: Options
) -> Generator[Prepared]:
    """Yield pictures prepared by processes of this machine, or prepared and embedded by a cluster."""
    if isinstance(encoder, Cluster):
        return encoder.pictures(plan, items)
    return prepared_pictures(plan, items, options.workers)


def check_recipe(store: Store, encoder: Encoder | Cluster, options: Options) -> Recipe:
    """Return the recipe of a run; raise RecipeMismatch when the atlas holds embeddings of another."""
    recipe = encoder.recipe(masking=options.masking)
    stored = store.recipe("cells", "embedding")
    if stored is not None:
        stored.check_same(recipe, here="the cells of this atlas", there="These cells")
    check_heads(store, recipe)
    return recipe


def make_plan(source: Source, encoder: Encoder | Cluster, options: Options, *, done: Digests) -> Plan:
    """Return how the pictures of `source` are prepared for an encoder; `done`: fingerprints of those that are."""
    return Plan(
        source=source.name,
        channels=encoder.spec.channels,
        crop_um=encoder.spec.crop_um,
        crop_px=encoder.spec.crop_px,
        masking=options.masking,
        default_pixel_size_um=options.pixel_size_um,
        recipe=encoder.recipe(masking=options.masking).comparable(),
        done=done,
        segmenter=options.segmenter,
    )


def to_do(source: Source, plan: Plan, ledger: Ledger, counts: Counts) -> Iterator[Item]:
    """Yield the pictures that are not done by their stamps; count the others."""
    for index in range(len(source)):
        item = source.item(index)
        if ledger.skip(plan.stamp(item)):
            counts.pictures += 1
            counts.done_before += 1
        else:
            yield item


def how_to_go_on(exc: BaseException, counts: Counts) -> AtlasError:
    """Return the error that ends a run which was broken off, and says how to go on."""
    if isinstance(exc, AtlasError):
        return exc
    if isinstance(exc, KeyboardInterrupt):
        return AtlasError(f"Interrupted; {counts.cells} cells are stored. Run the same command again to go on.")
    msg = (
        f"A process that reads pictures was ended, maybe for want of memory; {counts.cells} cells are stored.\n"
        "Run the same command again to go on, with fewer --workers."
    )
    return AtlasError(msg)


def check_heads(store: Store, recipe: Recipe) -> None:
    """Raise RecipeMismatch when localizations of this atlas were predicted by other heads than those of `recipe`."""
    if recipe.heads_sha256 is None or not store.has("cells"):
        return
    predicted = store.read("cells", ["run_id"], where="predicted_localization IS NOT NULL")["run_id"].unique()
    if not len(predicted):
        return
    runs = store.read("runs", ["recipe"], where=one_of("run_id", predicted.to_pylist()))["recipe"].to_pylist()
    if any(Recipe.from_json(text).heads_sha256 != recipe.heads_sha256 for text in runs):
        msg = "The localizations of this atlas were predicted by other heads.\nGive those, or another atlas (--atlas)."
        raise RecipeMismatch(msg)
