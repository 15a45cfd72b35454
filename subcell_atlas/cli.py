"""The command line: one short function per command, which asks, and prints."""

from __future__ import annotations

import contextlib
import shlex
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ._version import __version__
from .corrections import CORRECTIONS
from .encoders.specs import HPA_PIXEL_SIZE_UM
from .errors import AtlasError, BadInput
from .images.segmentation import SEGMENTERS
from .printing import (
    describe,
    json_text,
    print_json,
    reply,
    show,
    show_differences,
    show_evaluations,
    show_functions,
    show_map,
    system_record,
)
from .schema import VECTORS

if TYPE_CHECKING:
    from ingest.job import Options
    from ingest.manifest import Manifest
    from ingest.sources import Source

    from .atlas import Atlas
    from .build import CorrectionSettings, FunctionSettings, MapSettings
    from .encoders import EncoderSpec
    from .encoders.encoder import Encoder
    from .recipe import Recipe
    from .sequences import Record
    from .store import Store

__all__ = ["ingest_command", "main"]

ESM2 = "esm2-650m"
SUBCELL = "subcell-rybg-mae"  # the published encoder that sees all four channels


class KnownProblems(click.Group):
    """Turns every known problem into a message on stderr and exit code 1."""

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command."""
        try:
            return super().invoke(ctx)
        except AtlasError as exc:
            raise click.ClickException(str(exc)) from exc
        except BrokenPipeError:
            sys.stderr.close()
            raise SystemExit(1) from None


atlas_option = click.option(
    "--atlas", "uri", metavar="URI", help="The atlas: a folder or s3://… [default: $SUBCELL_ATLAS, else ./atlas]"
)
json_option = click.option("--json", "as_json", is_flag=True, help="One JSON document on stdout, nothing else there.")
crops_option = click.option("--crops", is_flag=True, help="Each row is one cell already cut out.")
correction_option = click.option(
    "--correction",
    type=click.Choice(list(CORRECTIONS)),
    help="Of batches (cell line and plate) [default: as stored].",
)
controls_option = click.option(
    "--controls", metavar="WHERE", help="Cells that nothing was done to, as \"condition = 'DMSO'\"."
)
pixel_size_option = partial(
    click.option,
    "--pixel-size",
    type=click.FloatRange(0.001, 10),
    default=HPA_PIXEL_SIZE_UM,
    show_default=True,
    metavar="UM",
)
channels_option = partial(click.option, "--channels", metavar="NAME,…")
scale_option = partial(
    click.option, "--scale", type=click.Choice(["native", "training"]), default="native", show_default=True
)
masking_option = partial(
    click.option, "--masking", type=click.Choice(["cell", "none"]), default="cell", show_default=True
)


def picture_options(command: Any) -> Any:
    """Add the options by which a picture is given that is not in the atlas."""
    files = "a file with all channels, or --image once a channel, in the encoder's order (see info)"
    file = click.Path(path_type=Path)
    for add in reversed(
        [
            click.option("--image", "images", multiple=True, type=file, help=f"Ask for a picture: {files}."),
            pixel_size_option(help="Of the picture."),
            click.option("--field", is_flag=True, help="It is a field of view, not one cell: its cells are found."),
            click.option("--mask", type=file, help="Of the picture: a number for each cell, 0 outside."),
            click.option("--encoder", metavar="FILE", help="For --image: the file that describes the atlas's encoder."),
            click.option(
                "--weights", multiple=True, metavar="PATH", help="The atlas's encoder's, of --image or of --sequence."
            ),
        ]
    ):
        command = add(command)
    return command


OF_PICTURE = ("pixel_size", "field", "mask", "encoder", "weights")
OF_ROWS = "For rows without pixel_size_um; the default is the Human Protein Atlas's."


@click.group(cls=KnownProblems, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__)
def main() -> None:
    """SubCell Atlas: where a protein sits in the cell, what sits with it, and what it might do."""


@main.command()
@atlas_option
@click.option("--proteins", "n_proteins", type=click.IntRange(1, 2000), default=240, show_default=True)
@click.option("--cells", "n_cells", type=click.IntRange(1, 200), default=12, show_default=True, help="Per protein.")
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True)
def demo(uri: str | None, n_proteins: int, n_cells: int, seed: int) -> None:
    """Do the whole job on a simulated proteome, offline: ingest, build, and a few answers."""
    from .demo import run_demo

    run_demo(resolve(uri), n_proteins=n_proteins, n_cells=n_cells, seed=seed)


@main.group("ingest", cls=KnownProblems)
def ingest_command() -> None:
    """Put pictures or ready-made vectors into an atlas; running again goes on where it stopped."""


def job_options(command: Any) -> Any:
    """Add the options of a run over pictures: by which encoder, cut how, where."""
    for add in reversed(
        [
            atlas_option,
            click.option(
                "--encoder",
                "encoder_name",
                help="See: subcell-atlas encoders [default: the atlas's; for a new one subcell-rybg-mae if its weights "
                "are here, else demo, which is not SubCell].",
            ),
            click.option(
                "--weights",
                multiple=True,
                metavar="FILE",
                help="A local weights file, the network's first, localization heads after; 'random' for untrained "
                "weights [default: the published ones, fetched].",
            ),
            channels_option(help="For encoders that take any: which, in this order."),
            scale_option(
                help="Of SubCell's crops: 640 px as its authors embed, or 448 px of half the resolution as they "
                "trained."
            ),
            click.option(
                "--block", type=click.IntRange(1), help="Take the embedding after this block [default: the last]."
            ),
            click.option(
                "--pooling",
                default="own",
                show_default=True,
                help="Of the tokens: own (as published), cls, patches (mean); channels for openphenom.",
            ),
            click.option(
                "--final-norm/--no-final-norm",
                default=True,
                show_default=True,
                help="Whether cls and patches read tokens that went through the network's last normalization.",
            ),
            masking_option(help="Whether crops show the one cell alone."),
            pixel_size_option(help=OF_ROWS),
            click.option(
                "--segmentation",
                type=click.Choice(list(SEGMENTERS)),
                default="watershed",
                show_default=True,
                help="How cells of fields without masks are found.",
            ),
            click.option("--source", help="What to call it in the atlas [default: its folder and name]."),
            click.option("--device", help="cpu, cuda, cuda:1, … [default: a GPU when there is one]."),
            click.option(
                "--precision",
                type=click.Choice(["float32", "bfloat16", "float16"]),
                help="Of the network [default: the atlas's, else the fastest here that keeps the embedding].",
            ),
            click.option(
                "--compile", "compiled", is_flag=True, help="Let torch.compile make it faster, for long runs on a GPU."
            ),
            click.option(
                "--batch-size",
                type=click.IntRange(1),
                help="Crops the network takes at once [default: as memory allows].",
            ),
            click.option(
                "--engine",
                type=click.Choice(["local", "ray"]),
                default="local",
                show_default=True,
                help="This machine, or a Ray cluster ($RAY_ADDRESS, else one begun here), whose nodes have this "
                "package, and pictures and weights at the same paths.",
            ),
            click.option(
                "--workers",
                type=click.IntRange(0),
                help="Processes that read pictures [default: one a core]; with ray, that embed [default: one a GPU, "
                "or a core].",
            ),
            click.option("--cache", is_flag=True, help="Keep files that come from the web (in $SUBCELL_ATLAS_CACHE)."),
            click.option("--dry-run", is_flag=True, help="Only tell how many cells, hours and gigabytes it will take."),
        ]
    ):
        command = add(command)
    return command


@ingest_command.command("images")
@click.argument("manifest", metavar="MANIFEST")
@crops_option
@job_options
def ingest_images(
    manifest: str, uri: str | None, crops: bool, source: str | None, cache: bool, encoder_name: str | None,
    **options: Any,
) -> None:  # fmt: skip
    """Embed the fields of view or crops that a CSV lists.

    Files, and the CSV, may be at http://, https:// or s3:// too.
    """
    from ingest.manifest import read_manifest

    spec = chosen_spec(encoder_name or default_encoder(resolve(uri)), options)
    rows = read_manifest(manifest, channels=spec.channels, encoder=spec.name, crops=crops, name=source, cache=cache)
    if not any(row.get(name) for row in rows.rows for name in ("gene_symbol", "ensembl_id", "uniprot_accession")):
        click.echo(f"No row of {manifest} names a gene: its cells will be in no profile and not on the map.", err=True)
    run_job(rows, spec, options, uri=resolve(uri))


@ingest_command.command("hpa")
@click.argument("place", metavar="SOURCE")
@click.option("--images", metavar="PLACE", help="Where the fields of a table are [default: images.proteinatlas.org].")
@click.option(
    "--locations",
    type=click.Path(path_type=Path),
    metavar="TSV",
    help="HPA's subcellular_location.tsv, joined by gene.",
)
@job_options
def ingest_hpa(
    place: str, images: str | None, locations: Path | None, uri: str | None, source: str | None, cache: bool,
    encoder_name: str | None, **options: Any,
) -> None:  # fmt: skip
    """Embed pictures of the Human Protein Atlas and its kin as they come.

    SOURCE: a folder of fields of view PLATE_WELL_SAMPLE_COLOR.jpg, or a table of them (if_plate_id, position, sample,
    antibody, …) whose pictures are fetched, at most four at once, or lie in --images; SubCell's published crops (the
    folder or address of their metadata.csv); SubCellPortable's path_list.csv; a folder of OpenCell's projections.
    """
    from ingest.hpa import read_hpa

    spec = chosen_spec(encoder_name or default_encoder(resolve(uri)), options)
    found = read_hpa(place, channels=spec.channels, images=images, locations=locations, name=source, cache=cache)
    click.echo(f"{len(found.manifest):,} pictures of the layout {found.layout!r}.", err=True)
    for note in found.notes:
        click.echo(note, err=True)
    run_job(found.manifest, spec, options, uri=resolve(uri))


def run_job(rows: Manifest, spec: EncoderSpec, options: dict[str, Any], *, uri: str) -> None:
    """Embed the pictures of a manifest, or only tell what that will take."""
    from ingest.job import Options, ingest_pictures
    from ingest.outlook import look_ahead

    from .store import Store

    names = {"workers": "workers", "masking": "masking", "pixel_size": "pixel_size_um", "segmentation": "segmenter"}
    how = Options(**{name: options.pop(option) for option, name in names.items()})
    dry_run, engine = options.pop("dry_run"), options.pop("engine")
    if engine == "ray":
        if dry_run:
            raise BadInput("--dry-run tells of this machine; leave out --engine ray.")
        run_on_cluster(rows, spec, options, how, uri=uri)
        return
    encoder = chosen_encoder(spec, options, uri=uri)
    if dry_run:
        click.echo("\n".join(look_ahead(uri, rows, encoder, how).lines()))
        return
    report_ingest(ingest_pictures(Store.create(uri), rows, encoder, how), uri)


def run_on_cluster(rows: Manifest, spec: EncoderSpec, options: dict[str, Any], how: Options, *, uri: str) -> None:
    """Embed the pictures of a manifest on a Ray cluster."""
    from ingest.distributed import Cluster
    from ingest.job import ingest_pictures

    from .store import Store

    choose_encoder(spec, options, uri=uri)
    if "://" not in rows.folder:
        rows = replace(rows, folder=str(Path(rows.folder).absolute()))
    store = Store.create(uri)
    with Cluster(spec, options, workers=how.workers) as cluster:
        counts = ingest_pictures(store, rows, cluster, how)
    report_ingest(counts, uri)


def recipe_of_cells(uri: str) -> Recipe | None:
    """Return how the cells of an atlas were embedded; None when there is no such atlas, or no cell."""
    from .errors import AtlasNotFound
    from .store import Store

    if "://" not in uri and not Path(uri).exists():
        return None
    with contextlib.suppress(AtlasNotFound):
        return Store.open(uri).recipe("cells", "embedding")
    return None


def default_encoder(uri: str) -> str:
    """Return the encoder of the atlas, else SubCell's when its weights are at hand, else the demonstration encoder."""
    from .encoders.fetch import cached_path
    from .encoders.specs import ENCODERS, TIMM

    recipe = recipe_of_cells(uri)
    made_by = recipe.encoder if recipe else None
    if made_by in ENCODERS or (made_by or "").startswith(TIMM):
        return str(made_by)
    if made_by:
        msg = f"The atlas was made by {made_by!r}, which is no encoder of this package."
        raise BadInput(f"{msg}\nName the FILE.toml that describes it, with --encoder.")
    weights = ENCODERS[SUBCELL].weights
    assert weights is not None
    return SUBCELL if cached_path(weights.url).is_file() else "demo"


def chosen_spec(name: str, options: dict[str, Any]) -> EncoderSpec:
    """Return the spec that was asked for; takes its options (channels, scale) out of `options`."""
    from .encoders import find_spec

    spec = find_spec(name).at_scale(options.pop("scale"))
    channels = options.pop("channels")
    return spec.with_channels([part.strip() for part in channels.split(",")]) if channels else spec


def chosen_encoder(spec: EncoderSpec, options: dict[str, Any], *, uri: str) -> Encoder:
    """Load the encoder that was asked for, in the precision of the atlas at `uri` unless another is asked for."""
    from .encoders import load_encoder

    choose_encoder(spec, options, uri=uri)
    return load_encoder(spec, **options)


def choose_encoder(spec: EncoderSpec, options: dict[str, Any], *, uri: str) -> None:
    """Put the precision into `options` of `load_encoder`, and say what is to be said of the encoder."""
    from .encoders.encoder import FASTEST

    stored = recipe_of_cells(uri)
    if stored is not None and stored.encoder == spec.name:
        options["precision"] = options["precision"] or stored.precision
    options["precision"] = options["precision"] or FASTEST
    if spec.note and (spec.own_weights is None or not options["weights"]):
        click.echo(f"Encoder {spec.name!r}: {spec.note}.", err=True)
    if "random" in options["weights"]:
        click.echo(f"Encoder {spec.name!r}: random weights, which have learned nothing.", err=True)


@ingest_command.command("embeddings")
@click.argument("file", type=click.Path(path_type=Path))
@atlas_option
@click.option("--modality", type=click.Choice(["image", "sequence"]), default="image", show_default=True)
@click.option("--level", type=click.Choice(["cell", "protein"]), required=True)
@click.option("--encoder", default="ready-made", show_default=True, help="A name for what made the vectors.")
@click.option(
    "--map", "renamed", multiple=True, metavar="COLUMN=NAME", help="A column of the file, and its name in the atlas."
)
@click.option("--vectors", metavar="KEY", help="Of h5ad and npz: the matrix, such as obsm/X_subcell [default: X].")
@click.option(
    "--metadata",
    type=click.Path(path_type=Path),
    help="A table of what is known of the cells; its first column holds their ids.",
)
def ingest_embeddings_command(
    file: Path, uri: str | None, modality: str, level: str, encoder: str, renamed: Sequence[str], **reading: Any
) -> None:
    """Take ready-made vectors, of cells or of proteins, such as those of ESM-2 and ProtT5.

    Tables (Parquet, CSV, NPZ, AnnData's h5ad, SubCellPortable's output): the vector is a list column `embedding` or
    numbered columns; the protein is named by gene_symbol, ensembl_id or uniprot_accession. HPA's own names of columns
    are known; --map names others. A run that was broken off goes on when it is started again.

    An array a protein (--level protein): HDF5 as of UniProt or bio_embeddings, a folder or a file of .pt as of
    esm-extract, NPZ. Its label names the protein: P12345, sp|P12345|NAME, an Ensembl id, a symbol. Of a matrix of
    residues the mean is taken.
    """
    from ingest.embeddings import Reading, ingest_embeddings

    from .store import Store

    wrong = [pair for pair in renamed if not all(pair.partition("="))]
    if wrong:
        raise BadInput(f"--map {wrong[0]!r}: a column of the file and its name in the atlas, as atlas_name=cell_line.")
    how = Reading(names={name: target for name, _, target in (pair.rpartition("=") for pair in renamed)}, **reading)
    store = Store.create(resolve(uri))
    counts = ingest_embeddings(store, file, modality=modality, level=level, encoder=encoder, reading=how)
    report_ingest(counts, resolve(uri), unit="vectors")
    for note in counts.notes():
        click.echo(note, err=True)


@ingest_command.command("sequences")
@click.argument("file", type=click.Path(path_type=Path), metavar="FASTA")
@atlas_option
@json_option
@click.option(
    "--encoder",
    metavar="NAME",
    help="esm2-8m, -35m, -150m, -650m, -3b, -15b, or composition, which needs no weights and is no language model "
    "[default: the atlas's; for a new one esm2-650m if its weights are here, else composition].",
)
@click.option("--weights", metavar="FOLDER", help="Of ESM-2, as the Hub has them [default: the Hub's cache, fetched].")
@click.option("--device", help="cpu, cuda, cuda:1, … [default: a GPU when there is one].")
@click.option("--precision", type=click.Choice(["float32", "bfloat16", "float16"]), help="[default: half on a GPU].")
@click.option("--known-only", is_flag=True, help="Leave out proteins that are not in the atlas yet.")
@click.option("--replace", is_flag=True, help="Put the vectors in place of those of another encoder.")
def ingest_sequences_command(
    file: Path, uri: str | None, as_json: bool, encoder: str | None, known_only: bool, replace: bool, **options: Any
) -> None:
    """Embed the sequences of a FASTA file, human proteins by UniProt's, Ensembl's or any other names.

    Run again it goes on where it stopped. A gene that has no picture here becomes a protein that is known by its
    sequence alone.
    """
    from ingest.sequences import ingest_sequences

    from .sequences import load_sequence_encoder
    from .store import Store

    name = encoder or default_sequence_encoder(resolve(uri))
    loaded = load_sequence_encoder(name, **options)
    if loaded.note:
        click.echo(f"Encoder {name!r}: {loaded.note}.", err=True)
    report = ingest_sequences(Store.create(resolve(uri)), file, loaded, known_only=known_only, replace=replace)
    if as_json:
        print_json(report.as_object())
    else:
        click.echo("\n".join(report.lines()))


def default_sequence_encoder(uri: str) -> str:
    """Return what made the atlas's sequence vectors, else ESM-2 when its weights are at hand, else the stand-in."""
    from .errors import AtlasNotFound
    from .sequence_vectors import stored_encoder
    from .sequences import SEQUENCE_ENCODERS
    from .sequences.esm_weights import ESM, is_cached
    from .store import Store

    made_by = None
    if "://" in uri or Path(uri).exists():
        with contextlib.suppress(AtlasNotFound):
            store = Store.open(uri)
            made_by = stored_encoder(store) if store.has("proteins") else None
    if made_by and made_by not in SEQUENCE_ENCODERS:
        msg = f"The sequence vectors of this atlas were made by {made_by!r}, which is no encoder of this package."
        raise BadInput(f"{msg}\nTake theirs (ingest embeddings), or name an --encoder with --replace.")
    return made_by or (ESM2 if is_cached(ESM[ESM2]) else "composition")


def report_ingest(counts: Any, uri: str, *, unit: str = "cells") -> None:
    """Say what became of a run's pictures."""
    from .store import default_uri

    things = "pictures" if unit == "cells" else unit
    before = f"; {counts.done_before} {things} were done before" if counts.done_before else ""
    click.echo(f"{counts.cells} {unit if counts.cells != 1 else unit[:-1]} stored in {uri}{before}.", err=True)
    if counts.left_out:
        listed = ", ".join(f"{n:,} {reason}" for reason, n in sorted(counts.left_out.items()))
        click.echo(f"Cells left out: {listed}.", err=True)
    if counts.limit:
        click.echo(counts.limit, err=True)
    if counts.rejected:
        where = "" if uri == default_uri() else f" --atlas {shlex.quote(uri)}"
        why = f"subcell-atlas sql 'SELECT image, reason FROM rejects'{where}"
        click.echo(f"{counts.rejected} rejected. Why: {why}", err=True)
        if not counts.cells and not counts.done_before:
            raise AtlasError("Nothing could be used.")


@main.command("curate")
@click.argument("manifest", type=click.Path(path_type=Path))
@click.option("-o", "--output", type=click.Path(path_type=Path), required=True, help="The manifest to write.")
@atlas_option
@click.option("--or-atlas", "or_uris", multiple=True, metavar="URI", help="Of the same pictures by another encoder.")
@click.option(
    "--alpha",
    type=click.FloatRange(0, 1, min_open=True, max_open=True),
    default=0.01,
    show_default=True,
    help="Keep antibodies with a p-value below this.",
)
@click.option("--permutations", "n_permutations", type=click.IntRange(1), default=10_000, show_default=True)
@click.option(
    "--min-replicates", type=click.IntRange(2), default=3, show_default=True, help="Antibodies with fewer are left out."
)
@click.option("--replicate", type=click.Choice(["fov", "cell"]), default="fov", show_default=True)
@click.option("--source", metavar="NAME", help="Only the cells that the atlas says came from there.")
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True)
@click.option("--table", type=click.Path(path_type=Path), help="A CSV to write the antibodies' p-values into.")
@json_option
def curate_command(
    manifest: Path, output: Path, uri: str | None, or_uris: Sequence[str], table: Path | None, as_json: bool,
    **options: Any,
) -> None:  # fmt: skip
    """Keep the rows of a manifest whose antibody looks alike in its fields of view, for training."""
    from ingest.curate import curate, write_table

    from .store import Store
    from .writing import check_file_place

    if table:
        check_file_place(table, manifest, output)
    stores = [Store.open(each) for each in (resolve(uri), *or_uris)]
    found = curate(stores, manifest, output, **options)
    if table:
        write_table(found.table, table)
    for note in found.notes():
        click.echo(note, err=True)
    antibodies, rows = found.reasons(), found.rows()
    if as_json:
        print_json({"output": str(output), "antibodies": antibodies, "rows": rows, "settings": options})
    else:
        click.echo(f"Antibodies: {', '.join(f'{n} {reason}' for reason, n in antibodies.items())}.")
        click.echo(f"Wrote {rows['written']} of {rows['all']} rows to {output}.")


@main.command("annotate")
@click.argument("file", type=click.Path(path_type=Path))
@atlas_option
@click.option("--source", metavar="NAME", help="What to call it; replaces what is so called [default: its name].")
@click.option("--ontology", type=click.Path(path_type=Path), help="Terms of a GAF: an OBO file such as go-basic.obo.")
@json_option
def annotate_command(file: Path, uri: str | None, source: str | None, ontology: Path | None, as_json: bool) -> None:
    """Add what is known of genes: GO (gaf, obo), gene sets (gmt), localizations, complexes, or a table of your own.

    HGNC's table of symbols (hgnc_complete_set.txt) gives proteins synonyms, by which they are found from then on in
    files and questions that use older names, and the Ensembl ids and UniProt accessions that they lack.
    """
    from ingest.annotate import annotate

    from .store import Store

    report = annotate(Store.open(resolve(uri)), file, source=source, ontology=ontology)
    if as_json:
        print_json(report.as_object())
    else:
        click.echo("\n".join(report.lines()))
    for note in report.notes():
        click.echo(note, err=True)


@main.command()
@click.argument("stages", nargs=-1, metavar="[STAGE]…")
@atlas_option
@click.option("--force", is_flag=True, help="Make the stages anew even when they are up to date.")
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True)
@click.option("--name", "map_name", metavar="NAME", help="Of the map: another one beside the atlas's own, 'main'.")
@click.option("--vectors", type=click.Choice(VECTORS), help="Of the map [default: image].")
@click.option("--cell-line", help="Of the map: only what was seen in this one.")
@click.option(
    "--method",
    type=click.Choice(["multiresolution", "subcell", "average"]),
    help="Of the map: communities at many resolutions [default], SubCell's recursion, or average linkage.",
)
@click.option("--weights", type=click.Choice(["cosine", "shared"]), help="Of the edges of the map's graph.")
@click.option("--untested", is_flag=True, default=None, help="Keep systems that do not come back, and save the time.")
@click.option(
    "--layout",
    type=click.Choice(["default", "subcell", "keep"]),
    help="Of the overview: UMAP, SubCell's settings of it, or the places of before with new proteins among them.",
)
@click.option(
    "--fusion",
    type=click.Choice(["concatenation", "shared"]),
    help="Of pictures and sequences: side by side [default], or in a space that both share.",
)
@correction_option
@controls_option
@click.option(
    "--predictor",
    type=click.Choice(["linear", "neighbors"]),
    help="Of functions: ridge regression [default], or votes.",
)
@click.option(
    "--without", metavar="CODE,…", help="Evidence that functions are not learned from, as HPA,IEA [default: HPA]."
)
@click.option("--min-members", type=int, help="Proteins that a function must have to be predicted [default: 10].")
def build(
    stages: Sequence[str], uri: str | None, force: bool, seed: int, fusion: str | None, correction: str | None,
    controls: str | None, predictor: str | None, without: str | None, min_members: int | None, **map_options: Any,
) -> None:  # fmt: skip
    """Bring what is derived up to date: profiles, sequence, fusion, map, functions.

    Options are kept with what is made, and used again when it is next brought up to date.
    """
    from .build import build as build_stages
    from .store import Store

    store = Store.open(resolve(uri))
    settings = chosen_map(stages, {key: value for key, value in map_options.items() if value is not None})
    of_functions = chosen_functions(store, predictor, without, min_members)
    of_profiles = chosen_correction(store, stages, correction, controls)
    made = build_stages(
        store, stages, force=force, seed=seed, map_settings=settings, function_settings=of_functions,
        way_to_fuse=fusion, correction=of_profiles,
    )  # fmt: skip
    click.echo(f"Built: {', '.join(made)}." if made else "Everything is up to date.", err=True)
    built = [name.removeprefix("map").strip() or "main" for name in made if name.split()[0] == "map"]
    report_maps(store, built)


def chosen_correction(
    store: Store, stages: Sequence[str], name: str | None, controls: str | None
) -> CorrectionSettings | None:
    """Return how batches are to be corrected; None when nothing was said of it."""
    from .build import CorrectionSettings
    from .corrected_profiles import settings_of_correction

    if name is None and controls is None:
        return None
    if stages and "profiles" not in stages:
        raise click.UsageError("A correction is of the profiles: subcell-atlas build profiles --correction …")
    return CorrectionSettings(name=name or settings_of_correction(store).name, controls=controls)


def chosen_functions(
    store: Store, predictor: str | None, without: str | None, min_members: int | None
) -> FunctionSettings | None:
    """Return how functions are to be predicted, from the options of `build` and what is stored; None without any."""
    import dataclasses

    from .gene_functions import settings_of_functions

    stored = settings_of_functions(store)
    words = tuple(word.strip() for word in (without or "").split(",") if word.strip())
    chosen = dataclasses.replace(
        stored,
        predictor=predictor or stored.predictor,
        without=stored.without if without is None else words,
        fewest=min_members or stored.fewest,
    )
    return None if chosen == stored else chosen


def chosen_map(stages: Sequence[str], options: dict[str, Any]) -> MapSettings | None:
    """Return how a map is to be made; None when nothing was said of it."""
    from .build import MapSettings

    if not options:
        return None
    if tuple(stages) != ("map",):
        raise click.UsageError("These options are of the map: subcell-atlas build map …")
    if options.pop("untested", False):
        options["tested"] = False
    if "map_name" in options:
        options["name"] = options.pop("map_name")
    return MapSettings(**options)


def report_maps(store: Store, names: Sequence[str]) -> None:
    """Say what became of the maps of these names."""
    from .map_query import map_summary

    for found in map_summary(store):
        if found["map"] not in names:
            continue
        counts, tested = found["counts"], found["settings"]["tested"]
        said = f"Map {found['map']}: {counts['systems'] - 1} systems of {counts['proteins']} proteins"
        said += f", {counts['named']} of them named."
        if tested and counts["not_trusted"]:
            said += f" {counts['not_trusted']} more were found and left out: they do not come back more than chance."
        click.echo(said, err=True)
        if counts.get("named_by_id"):
            click.echo(
                f"{counts['named_by_id']} are named by the bare id of a term. An ontology gives terms names: "
                "subcell-atlas annotate go-basic.obo",
                err=True,
            )
        if found["left_out"]:
            some = ", ".join(found["left_out"][:5]) + (", …" if len(found["left_out"]) > 5 else "")
            click.echo(
                f"{len(found['left_out'])} proteins are not in it; their vectors cannot be used: {some}", err=True
            )


@main.command("compact")
@atlas_option
@json_option
@click.option(
    "--keep", type=click.FloatRange(0), default=1.0, show_default=True, metavar="HOURS", help="Versions as young stay."
)
def compact_command(uri: str | None, as_json: bool, keep: float) -> None:
    """Join the files that many commits leave, and forget old versions of the tables.

    Whoever reads the atlas meanwhile reads on; a version that is forgotten cannot be read any more.
    """
    from datetime import timedelta

    from .store import Store

    store = Store.open(resolve(uri))
    before = {name: store.disk_use(name) for name in store.names()}
    store.compact(*before, keep=timedelta(hours=keep))
    after = {name: store.disk_use(name) for name in before}
    if as_json:
        print_json({"before": before, "after": after})
        return
    rows = [
        {"table": name, "rows": use["rows"], "files": f"{before[name]['fragments']} to {use['fragments']}",
         "versions": f"{before[name]['versions']} to {use['versions']}"}
        for name, use in after.items()
    ]  # fmt: skip
    show(rows, ["table", "rows", "files", "versions"])


@main.command()
@click.argument("genes", nargs=-1, metavar="[GENE]…")
@atlas_option
@json_option
@click.option("-k", type=click.IntRange(1, 1_000_000), default=10, show_default=True, help="How many neighbors.")
@click.option("--modality", type=click.Choice(VECTORS), help="[default: image; of a sequence sequence]")
@click.option("--where", metavar="SQL", help="A condition over the columns of proteins, such as 'n_cells >= 20'.")
@click.option("--cell-line", help="Compare what was seen in this cell line.")
@picture_options
@click.option("--sequence", type=click.Path(path_type=Path), metavar="FASTA", help="Ask for a sequence.")
@click.option("--cells", is_flag=True, help="Find single cells; instead of a gene, name a cell by its cell_id.")
@click.option("--exact", is_flag=True, help="With --cells: compare all cells, without their index.")
def similar(
    genes: Sequence[str], uri: str | None, as_json: bool, images: Sequence[Path], sequence: Path | None, cells: bool,
    exact: bool, **options: Any,
) -> None:  # fmt: skip
    """Find the proteins that look most like the named ones, or like a picture, or like a sequence.

    A sequence is compared with sequences; with --modality image it is told first what picture it would give. With
    --cells a picture, or a cell, is compared with every cell; --where is a condition over the columns of cells then.
    """
    from .atlas import open_atlas
    from .fusion_vectors import say_error, stored_fusion
    from .sequence_vectors import note_on_sequences

    picture = {name: options.pop(name) for name in OF_PICTURE}
    modality = options.pop("modality")
    if cells:
        if len(genes) + bool(images) != 1 or sequence or modality not in (None, "image") or options.pop("cell_line"):
            raise click.UsageError("--cells: one cell_id, or a picture with --image; filter with --where.")
        reply_cells(resolve(uri), genes, images, picture, exact=exact, as_json=as_json, **options)
        return
    if exact:
        raise click.UsageError("--exact is for --cells; proteins are always compared exactly.")
    if sum(map(bool, (genes, images, sequence))) != 1:
        raise click.UsageError("Name genes, or give a picture with --image or a sequence with --sequence.")
    asked: dict[str, Any] = {"genes": list(genes)} if genes else {"image": [str(path) for path in images]}
    with open_atlas(resolve(uri)) as atlas:
        if images:
            if modality not in (None, "image"):
                raise click.UsageError("A picture is compared with pictures: --modality image.")
            hits = atlas.similar_to_image(**picture_given(atlas, images, **picture), **options)
        elif sequence:
            if options.pop("cell_line"):
                raise click.UsageError("A sequence is of no cell line: leave --cell-line out.")
            record = one_record(sequence)
            asked = {"sequence": record.gene.written}
            weights = one_path(picture["weights"])
            hits = atlas.similar_to_sequence(
                record.residues, modality=modality or "sequence", weights=weights, **options
            )
            if modality == "image":
                click.echo(say_error(stored_fusion(atlas.store)["error"]), err=True)
        else:
            hits = atlas.similar(*genes, modality=modality or "image", **options)
        if (sequence or modality in ("sequence", "fused")) and (note := note_on_sequences(atlas.store)):
            click.echo(note, err=True)
    asked["modality"] = modality or ("sequence" if sequence else "image")
    asked |= {key: value for key, value in options.items() if value is not None}
    rows = hits.to_pylist()
    columns = ["rank", "gene_symbol", "similarity", "localization", "n_cells"]
    reply({"query": asked, "hits": rows}, rows, columns, as_json=as_json)


def reply_cells(
    uri: str, named: Sequence[str], images: Sequence[Path], picture: dict[str, Any], *, as_json: bool, **options: Any
) -> None:
    """Print the cells most like a cell or a picture."""
    from .atlas import open_atlas

    with open_atlas(uri) as atlas:
        if named:
            hits = atlas.similar_cells(named[0], **options)
        else:
            hits = atlas.cells_like_image(**picture_given(atlas, images, **picture), **options)
    asked = {"cell_id": named[0]} if named else {"image": [str(path) for path in images]}
    asked |= {key: value for key, value in options.items() if value not in (None, False)}
    rows = hits.to_pylist()
    columns = ["rank", "cell_id", "gene_symbol", "similarity", "localization", "cell_line"]
    reply({"query": asked, "hits": rows}, rows, columns, as_json=as_json)


def one_record(path: Path) -> Record:
    """Return the protein of a FASTA file; of several the first, and say so."""
    from .sequences import read_fasta

    records = read_fasta(path).records
    if len(records) > 1:
        which = f"the first is asked for, {records[0].gene.written}"
        click.echo(f"{path} holds {len(records)} sequences; {which}.", err=True)
    return records[0]


def one_path(weights: Sequence[str]) -> str | None:
    """Return the folder of a protein language model that a person gave."""
    if len(weights) > 1:
        raise click.UsageError("A sequence's encoder is in one folder: one --weights.")
    return weights[0] if weights else None


def picture_given(
    atlas: Atlas, images: Sequence[Path], *, pixel_size: float, field: bool, mask: Path | None, **of_encoder: Any
) -> dict[str, Any]:
    """Return the picture that a person gave, and what they said of it, as `Atlas` is asked."""
    from .query import recipe_of_cells

    order = ", ".join(recipe_of_cells(atlas.store).get("channels") or [])
    click.echo(f"The picture's channels are taken to be {order}, in this order.", err=True)
    shape = {"pixel_size_um": pixel_size, "is_crop": not field, "mask": read_mask(mask) if mask else None}
    return {"picture": read_picture(images), **shape, **of_encoder}


def read_picture(paths: Sequence[Path]) -> Any:
    """Read the channels of one picture, (C, H, W), from a file or from a file a channel."""
    import numpy as np

    from .images.crops import check_channels
    from .images.files import decode_channel, decode_channels, read_bytes

    if len(paths) == 1:
        return decode_channels(read_bytes(paths[0]), paths[0].name)
    channels = {path.name: decode_channel(read_bytes(path), path.name) for path in paths}
    if len(channels) < len(paths):
        raise BadInput("Two of the pictures have the same name; give one file a channel.")
    check_channels(channels)
    return np.stack(list(channels.values()))


def read_mask(path: Path) -> Any:
    """Read the labels of a picture's cells, (H, W)."""
    from .images.files import decode_labels, read_bytes

    return decode_labels(read_bytes(path), path.name)


@main.command()
@click.argument("gene")
@atlas_option
@json_option
@click.option("--by", type=click.Choice(["cell_line", "condition", "antibody"]), default="cell_line", show_default=True)
def compare(gene: str, uri: str | None, as_json: bool, by: str) -> None:
    """Tell whether a protein looks different in other cell lines, conditions, or with another antibody.

    The percentile says how many percent of such pairs, over all proteins, are less alike: low means it differs.
    """
    from .atlas import open_atlas

    with open_atlas(resolve(uri)) as atlas:
        rows = atlas.compare(gene, by=by).to_pylist()
    reply({"query": {"gene": gene, "by": by}, "pairs": rows}, rows, list(rows[0]), as_json=as_json)


@main.command("functions")
@click.argument("genes", nargs=-1, metavar="[GENE]…")
@atlas_option
@json_option
@click.option("--term", metavar="ID|NAME", help="Which genes may have this term?")
@click.option("--text", metavar="WORDS", help="The same, of the term that fits some words best.")
@click.option("--sequence", type=click.Path(path_type=Path), metavar="FASTA", help="Ask for a sequence.")
@picture_options
@click.option("-k", type=click.IntRange(1, 100_000), default=20, show_default=True, help="How many predictions.")
@click.option("--aspect", help="Only terms of this aspect, such as molecular_function.")
def functions_command(
    genes: Sequence[str], uri: str | None, as_json: bool, term: str | None, text: str | None, sequence: Path | None,
    images: Sequence[Path], k: int, aspect: str | None, **picture: Any,
) -> None:  # fmt: skip
    """Tell what a gene may do, which genes may do something, or what several genes share; with what speaks for it.

    Ask for genes, or with --term, --text, --sequence or --image.
    """
    from .atlas import open_atlas
    from .function_query import notes_on_functions

    if sum(map(bool, (genes, term, text, sequence, images))) != 1:
        raise click.UsageError("One question at a time: GENE…, --term, --text, --sequence or --image.")
    with open_atlas(resolve(uri)) as atlas:
        asked: dict[str, Any] = {}
        if genes:
            asked, found = {"genes": list(genes)}, atlas.functions(*genes, k=k, aspect=aspect)
        elif term or text:
            meant = atlas.find_terms(text, k=5).to_pylist() if text else []
            asked = {"text": text, "terms": meant} if text else {"term": term}
            found = atlas.functions(term=term or text, k=k, aspect=aspect)
        elif sequence:
            record = one_record(sequence)
            asked = {"sequence": record.gene.written}
            weights = one_path(picture["weights"])
            found = atlas.functions(sequence=record.residues, k=k, aspect=aspect, weights=weights)
        else:
            asked = {"image": [str(path) for path in images]}
            found = atlas.functions_of_image(**picture_given(atlas, images, **picture), k=k, aspect=aspect)
        notes = notes_on_functions(atlas.store)
    show_functions(asked, found.to_pylist(), notes, k=k, as_json=as_json)


@main.command("map")
@click.argument("name", required=False, metavar="[GENE|SYSTEM]")
@atlas_option
@json_option
@click.option("--map", "map_name", default="main", show_default=True, help="Which of the atlas's maps.")
@click.option("--news", "as_news", is_flag=True, help="Proteins where nothing known of them puts them.")
@click.option(
    "--against", metavar="MAP|ATLAS|FILE", help="Compare with another map of this atlas, another atlas's, or a file's."
)
@click.option("--figure", type=click.Path(path_type=Path), metavar="FILE", help="Draw it: .svg, .pdf or .png.")
@click.option("--style", type=click.Choice(["circles", "icicle"]), default="circles", show_default=True)
def map_command(
    name: str | None, uri: str | None, as_json: bool, map_name: str, as_news: bool, against: str | None,
    figure: Path | None, style: str,
) -> None:  # fmt: skip
    """Show the protein map, one system of it with its members, or where a gene sits in it."""
    from . import query
    from .map_query import map_meant
    from .store import Store

    store = Store.open(resolve(uri))
    map_name = map_meant(store, name, map_name)
    if sum(map(bool, (as_news, against, figure))) > 1 or (name and (against or figure)):
        raise click.UsageError("One question at a time: --news [SYSTEM], --against, --figure, or a GENE or SYSTEM.")
    if figure:
        draw(store, figure, map_name=map_name, style=style)
    elif against:
        show_comparison(store, against, map_name=map_name, as_json=as_json)
    elif as_news:
        show_news(store, name, map_name=map_name, as_json=as_json)
    elif name is None:
        show_map(query.map_graph(store, map_name), summary_of(store, map_name), as_json=as_json)
    else:
        show_place(store, name, map_name=map_name, as_json=as_json)


def summary_of(store: Store, map_name: str) -> dict[str, Any]:
    """Return what is stored of a map; empty when it was built by an older version."""
    from .map_query import map_summary

    return next((found for found in map_summary(store) if found["map"] == map_name), {})


def draw(store: Store, path: Path, *, map_name: str, style: str) -> None:
    """Draw a map into a file."""
    from .cellmap.figures import write_figure
    from .map_query import draw_map

    write_figure(path, draw_map(store, name=map_name, style=style))
    click.echo(f"Wrote {path}.", err=True)


def show_news(store: Store, system: str | None, *, map_name: str, as_json: bool) -> None:
    """Print the discoveries of a map, or of one system."""
    from .map_query import news

    rows = news(store, name=map_name, system=system).to_pylist()
    columns = ["gene_symbol", "kind", "system_id", "term_name", "score", "localization"]
    reply({"query": {"map": map_name, "system": system}, "discoveries": rows}, rows, columns, as_json=as_json)


def show_comparison(store: Store, other: str, *, map_name: str, as_json: bool) -> None:
    """Print how two maps compare."""
    from .map_query import compare_with, comparison_record

    record = comparison_record(*compare_with(store, other, name=map_name))
    if as_json:
        print_json({"query": {"map": map_name, "against": other}, **record})
        return
    alone = f"{record['n_only_here']} only here, {record['n_only_there']} only there"
    click.echo(f"{record['n_common']} proteins in both; {alone}.")
    for side, where in (("here", f"the other ({other})"), ("there", f"this map ({map_name})")):
        found = record[side]
        verdicts = [each["verdict"] for each in found["systems"]]
        counts = ", ".join(f"{verdicts.count(verdict)} {verdict}" for verdict in ("shared", "partly", "new"))
        click.echo(
            f"Systems {side} that are in {where}: {counts}; {found['n_set_aside']} not compared. Median Jaccard index "
            f"{found['median_jaccard']:.2f}, by chance {found['expected_jaccard']:.2f}."
        )
    columns = ["system", "name", "n_system", "match", "match_name", "jaccard", "p_adjusted", "verdict"]
    show(record["here"]["systems"], columns)


def show_place(store: Store, name: str, *, map_name: str, as_json: bool) -> None:
    """Print one system with its members and terms, or where a gene sits."""
    from . import query
    from .errors import UnknownName
    from .map_query import news, system_meant, terms_of

    graph = query.map_graph(store, map_name)
    if chosen := system_meant(graph, name):
        members = query.system_members(store, chosen).to_pylist()
        system, terms = system_record(graph, chosen), terms_of(store, chosen).to_pylist()
        found = news(store, name=map_name, system=chosen).to_pylist()
        if as_json:
            print_json({"systems": [system], "members": members, "terms": terms, "discoveries": found})
            return
        show(members, ["gene_symbol", "localization", "n_cells"], title=describe(system))
        if terms:
            show(terms[:10], ["term_name", "source", "n_shared", "n_system", "n_term", "p_adjusted", "jaccard"])
        if found:
            show(found, ["gene_symbol", "kind", "localization", "score"], title="Nothing known of them puts them here")
        return
    try:
        symbol, paths = query.paths_of(store, name, map_name)
    except UnknownName as exc:
        raise UnknownName("gene or system", name, [*exc.known, *graph]) from None
    if as_json:
        print_json({"gene_symbol": symbol, "paths": paths})
    else:
        for path in paths:
            click.echo(" > ".join(describe(system_record(graph, system)) for system in path))


@main.command()
@click.argument("statement")
@atlas_option
@json_option
@click.option("--time-limit", type=click.FloatRange(0.1, 3600), default=30.0, show_default=True, metavar="SECONDS")
@click.option("--row-limit", type=click.IntRange(1), default=10_000, show_default=True)
def sql(statement: str, uri: str | None, as_json: bool, time_limit: float, row_limit: int) -> None:
    """Answer one SELECT (DuckDB) over the tables: cells, profiles, proteins, systems, annotations, … Read-only."""
    from .sql import SqlSession
    from .store import Store

    with SqlSession(Store.open(resolve(uri)).uri, time_limit_s=time_limit, row_limit=row_limit) as session:
        answer = session.query(statement)
    if (answer.schema.metadata or {}).get(b"truncated") == b"true":
        click.echo(f"Only the first {row_limit} rows are shown; see --row-limit.", err=True)
    rows = answer.to_pylist()
    reply(rows, rows, answer.column_names, as_json=as_json)


@main.command("export")
@atlas_option
@click.option(
    "--format",
    "kind",
    type=click.Choice(["csv", "cx2", "graphml", "h5ad", "hcx", "hidef", "newick", "parquet"]),
    required=True,
)
@click.option("-o", "--output", "path", type=click.Path(path_type=Path), required=True)
@click.option("--table", default="proteins", show_default=True, help="For csv and parquet.")
@click.option("--map", "map_name", default="main", show_default=True, help="For the formats of maps.")
@click.option(
    "--interactome",
    metavar="UUID|FILE",
    help="For hcx: the network of the proteins (cx2), its UUID in NDEx or its file.",
)
@click.option("--host", default="www.ndexbio.org", show_default=True, help="For hcx: the server of the UUID.")
def export_command(uri: str | None, kind: str, path: Path, **options: Any) -> None:
    """Take the atlas elsewhere: a table (csv, parquet), the proteins (h5ad), the map (hcx, graphml, newick, hidef).

    hcx is what NDEx and Cytoscape Web show as a hierarchy; cx2 is the network of the proteins that it lies in.
    """
    from .cellmap.exchange import hidef_pair
    from .errors import UnknownName
    from .export import ExportOptions, export
    from .store import Store

    store = Store.open(resolve(uri))
    if options["table"] not in store.names():
        raise UnknownName("table", options["table"], store.names())
    export(store, path, kind=kind, options=ExportOptions(**options))
    written = hidef_pair(path) if kind == "hidef" else [path]
    click.echo(f"Wrote {' and '.join(map(str, written))}.", err=True)


def two_ranks(context: click.Context, option: click.Parameter, text: str) -> tuple[float, float]:
    """Return two numbers with a comma between."""
    del context, option
    try:
        low, high = map(float, text.split(","))
    except ValueError as exc:
        raise click.BadParameter(f"{text!r} is not two numbers such as 0.05,0.95.") from exc
    return low, high


@main.command("evaluate")
@click.argument("names", nargs=-1, metavar="[NAME]…")
@atlas_option
@json_option
@click.option(
    "--vectors",
    type=click.Choice(VECTORS),
    multiple=True,
    default=["image"],
    show_default=True,
    help="Of the proteins; given again, the others are compared with the first.",
)
@click.option(
    "--correction",
    "corrections",
    type=click.Choice(list(CORRECTIONS)),
    multiple=True,
    help="Of batches, without storing it [default: as stored]; given again, the others are compared with the first.",
)
@controls_option
@click.option("--against", multiple=True, metavar="URI", help="Another atlas, to be compared with this one.")
@click.option(
    "--replicates",
    type=click.Choice(["antibody", "cell_line", "plate", "fov"]),
    help="consistency: in what two of a protein differ [default: the first of these that the atlas has two of].",
)
@click.option(
    "--truth",
    type=click.Path(path_type=Path),
    metavar="CSV",
    help="retrieval: which compound hits which gene (treatment, gene_symbol, nM_value).",
)
@click.option(
    "--split",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="localization: the antibodies to test on, one a line.",
)
@click.option("--manifest", metavar="CSV", help="blocks: labelled pictures, as `ingest images` takes them.")
@click.option("--crops", is_flag=True, help="blocks: each row is one cell already cut out.")
@click.option("--encoder", "encoder_name", help="blocks: the encoder [default: as `ingest images` has it].")
@click.option("--weights", multiple=True, metavar="FILE", help="blocks: of the encoder [default: the published ones].")
@channels_option(help="blocks: for encoders that take any.")
@scale_option(help="blocks: of SubCell's crops, as `ingest images` has it.")
@masking_option(help="blocks: whether crops show the one cell alone.")
@click.option(
    "--label",
    default="localization",
    show_default=True,
    metavar="COLUMN",
    help="blocks: what is to be told of a cell, such as gene_symbol or a column of your own.",
)
@click.option(
    "--group",
    metavar="COLUMN",
    help="blocks: what is held out whole [default: protein_id for localization, else plate; else image_id].",
)
@click.option(
    "--n-cells",
    type=click.IntRange(10),
    default=2000,
    show_default=True,
    help="blocks: at most so many, classes and groups in turn.",
)
@pixel_size_option(help="blocks: for rows without pixel_size_um.")
@click.option(
    "--out", type=click.Path(path_type=Path), metavar="JSON", help="blocks: where to write the recipe of the best."
)
@click.option(
    "--figure", type=click.Path(path_type=Path), metavar="FILE", help="Draw the figures into a PNG, SVG or PDF."
)
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True)
@click.option(
    "--tails",
    callback=two_ranks,
    default="0.05,0.95",
    show_default=True,
    help="Relationships: pairs that rank below the first or above the second of all are recalled.",
)
@click.option(
    "--permutations",
    "n_permutations",
    type=click.IntRange(0),
    default=100,
    show_default=True,
    help="Relationships: of the proteins' names, for what chance recalls.",
)
def evaluate_command(
    names: Sequence[str], uri: str | None, as_json: bool, vectors: Sequence[str], corrections: Sequence[str],
    against: Sequence[str], figure: Path | None, **options: Any,
) -> None:  # fmt: skip
    """Measure how well neighbors (retrieval), map and predicted functions recover what is known.

    Localizations are read off the vectors by a linear probe and by nearest neighbors, genes or antibodies held out.
    Neighbors and map beside the same with shuffled labels; functions by picture, by sequence and by both; relationships
    (pairs of genes, members of a complex or a pathway) beside permuted names; consistency of replicates; perturbations.
    Several vectors, corrections or atlases are held against the first, paired.

    blocks, which must be named, asks an encoder: after which block, and by which pooling, a label of cells is read off
    best, beside the last block and an untrained network.
    """
    from .evaluate import evaluate
    from .evaluated import EvaluationOptions
    from .evaluation.figure import check_figure, draw_metrics
    from .evaluation_comparison import compare_evaluations, figure_rows, name_subjects

    if figure is not None:
        check_figure(figure)
    of_blocks = {name: options.pop(name) for name in OF_BLOCKS}
    check_options(click.get_current_context(), is_of_blocks="blocks" in names)
    if "blocks" in names:
        if set(names) != {"blocks"}:
            raise click.UsageError("blocks asks an encoder, not an atlas: name it alone.")
        search_blocks(resolve(uri), of_blocks, figure=figure, seed=options["seed"], as_json=as_json)
        return
    subjects = name_subjects([resolve(uri), *against], vectors, corrections or [None], controls=options["controls"])
    asked = EvaluationOptions(**options)
    if len(subjects) > 1:
        compared = compare_evaluations(subjects, names, asked)
        measured = compared.measured
        print_json(compared.as_object()) if as_json else show_differences(compared)
    else:
        name, subject = next(iter(subjects.items()))
        measured = {name: evaluate(subject, names, asked)}
        results = {key: found.metrics for key, found in measured[name].items()}
        print_json(results) if as_json else show_evaluations(results)
    if figure is not None:
        draw_metrics(figure_rows(measured), figure)
        click.echo(f"Drawn: {figure}", err=True)


OF_BLOCKS = (
    "manifest", "crops", "encoder_name", "weights", "channels", "scale", "masking", "label", "group", "n_cells",
    "pixel_size", "out",
)  # fmt: skip
OF_ALL = ("names", "uri", "as_json", "figure", "seed")


def check_options(context: click.Context, *, is_of_blocks: bool) -> None:
    """Raise UsageError when an option of `evaluate` was given that what is evaluated does not read."""
    for option in context.command.params:
        name = str(option.name)
        is_given = context.get_parameter_source(name) is click.core.ParameterSource.COMMANDLINE
        if is_given and name not in OF_ALL and (name in OF_BLOCKS) is not is_of_blocks:
            if is_of_blocks:
                raise click.UsageError(f"{option.opts[0]} is not for blocks, which asks an encoder, not an atlas.")
            raise click.UsageError(f"{option.opts[0]} is for blocks: subcell-atlas evaluate blocks {option.opts[0]} …")


def search_blocks(uri: str, options: dict[str, Any], *, figure: Path | None, seed: int, as_json: bool) -> None:
    """Search the blocks of an encoder, keep what was measured in the atlas at `uri`, begun if need be, and print it."""
    from ingest.labelled_cells import pick_pictures
    from ingest.manifest import Manifest

    from .block_figure import draw_curve
    from .encoders.encoder import RANDOM, load_encoder
    from .evaluate import evaluate
    from .evaluated import EvaluationOptions, LabelledPictures, Subject
    from .printing import show_blocks
    from .store import Store
    from .writing import check_file_place, written_whole

    out, given = options["out"], options["encoder_name"] or default_encoder(uri)
    given_files = [Path(name) for name in (options["manifest"], *options["weights"]) if name and "://" not in name]
    how = {name: options[name] for name in ("weights", "scale", "channels")} | {"precision": None}
    spec = chosen_spec(given, how)
    source = labelled_source(uri, options, spec)
    for file, others in ((out, [figure] if figure else []), (figure, [])):
        if file is not None:
            pictures = source.files_called(file.name) if isinstance(source, Manifest) else []
            check_file_place(file, *given_files, *others, *pictures)
    picked = pick_pictures(source, label=options["label"], group=options["group"], seed=seed)
    encoder = chosen_encoder(spec, how, uri=uri)
    is_random = RANDOM in options["weights"]
    untrained = None if is_random else load_encoder(spec, weights=RANDOM, precision=encoder.precision, with_heads=False)
    labelled = LabelledPictures(
        source=source,
        picked=picked,
        encoder=encoder,
        untrained=untrained,
        n_cells=options["n_cells"],
        masking=options["masking"],
        pixel_size_um=options["pixel_size"],
        progress=sys.stderr.isatty(),
    )
    found = evaluate(Subject(Store.create(uri)), ["blocks"], EvaluationOptions(seed=seed, pictures=labelled))["blocks"]
    if as_json:
        print_json({"blocks": found.metrics})
    else:
        show_blocks(found.metrics)
        if options["manifest"]:
            click.echo("\n".join(how_to_ingest(found.metrics, options, encoder=given, uri=uri)))
    if out is not None:
        with written_whole(out) as part:
            part.write_text(json_text(found.metrics["recipe"], indent=2) + "\n", encoding="utf-8")
        click.echo(f"Written: {out}", err=True)
    if figure is not None:
        draw_curve(found.metrics, figure)
        click.echo(f"Drawn: {figure}", err=True)


def how_to_ingest(found: Mapping[str, Any], options: Mapping[str, Any], *, encoder: str, uri: str) -> Iterator[str]:
    """Yield when to use the best block, and the command that embeds the same manifest by it."""
    from .block_evaluation import is_last, is_shown

    best = found["best"]
    parts = ["subcell-atlas", "ingest", "images", options["manifest"], *(["--crops"] if options["crops"] else [])]
    parts += ["--encoder", encoder, *(part for file in options["weights"] for part in ("--weights", file))]
    for name, usual in (("channels", None), ("scale", "native"), ("masking", "cell")):
        parts += [f"--{name}", options[name]] if options[name] != usual else []
    if options["pixel_size"] != HPA_PIXEL_SIZE_UM:
        parts += ["--pixel-size", repr(options["pixel_size"])]
    if is_last(found):
        yield "To embed these pictures as published:"
    else:
        yield "To embed these pictures by it:" if is_shown(found) else "To embed these pictures by it all the same:"
        parts += ["--block", str(best["block"]), "--pooling", best["pooling"]]
        parts += [] if best["final_norm"] else ["--no-final-norm"]
    yield shlex.join([*parts, "--atlas", uri])


def labelled_source(uri: str, options: dict[str, Any], spec: EncoderSpec) -> Source:
    """Return the pictures of the manifest that was given; of a demo, without one, its own."""
    from ingest.manifest import read_manifest
    from ingest.simulated import source_of_demo

    from .store import Store

    if options["manifest"]:
        return read_manifest(
            options["manifest"], channels=spec.channels, encoder=spec.name, crops=options["crops"], cache=True
        )
    demo = source_of_demo(Store.open(uri)) if recipe_of_cells(uri) else None
    if demo is None:
        msg = "Blocks are searched on labelled pictures, which no atlas holds."
        raise BadInput(f"{msg}\nGive them: subcell-atlas evaluate blocks --manifest FILE.csv --label localization")
    return demo


@main.command()
@click.argument("manifest", type=click.Path(path_type=Path), required=False)
@click.option(
    "--config",
    "config_name",
    default="subcell-mae",
    show_default=True,
    metavar="NAME|FILE.toml",
    help="How to train: subcell-mae or subcell-vit as published, demo (needs no manifest), or your own.",
)
@click.option("-o", "--out", type=click.Path(path_type=Path), required=True, help="A folder for all that is made.")
@click.option("--encoder", help="The network to train, a name or FILE.toml [default: the configuration's].")
@click.option("--init", metavar="FILE|published", help="Weights to begin with, to fine-tune [default: random].")
@click.option(
    "--cells",
    type=click.Path(path_type=Path),
    help="Where the cells are cut to, for several trainings [default: OUT/cells].",
)
@click.option("--name", help="What to call the new encoder [default: the name of the folder].")
@click.option("--half", is_flag=True, help="Write the weights in float16, in half the size.")
@crops_option
@pixel_size_option(help=OF_ROWS)
@click.option("--device", help="cpu, cuda, … [default: a GPU when there is one].")
@click.option("--workers", type=click.IntRange(0), help="Processes that read pictures and crops.")
@click.option("--atlas", metavar="URI", expose_value=False, help="As for every command; training reads no atlas.")
@json_option
def pretrain(
    manifest: Path | None, config_name: str, encoder: str | None, as_json: bool, **options: Any
) -> None:  # fmt: skip
    """Train an encoder with SubCell's objective, or fine-tune one; running again goes on where it stopped.

    On several GPUs: torchrun --nproc-per-node 8 -m subcell_atlas pretrain …
    """
    import dataclasses

    from ingest.pretrain import pretrain as train

    from .pretraining.config import read_config

    config = read_config(config_name)
    if encoder:
        config = dataclasses.replace(config, encoder=encoder)
    options["pixel_size_um"] = options.pop("pixel_size")
    trained = train(manifest, config, **options)
    if trained is None:  # the first of the processes tells
        return
    record = {"encoder": str(trained.spec), "cells": trained.n_cells, "antibodies": trained.n_antibodies}
    if as_json:
        print_json(record)
    else:
        click.echo(f"Trained on {trained.n_cells} cells of {trained.n_antibodies} antibodies.")
        click.echo(f"Use it: subcell-atlas ingest images MANIFEST.csv --encoder {shlex.quote(str(trained.spec))}")


@main.command("encoders")
@atlas_option
@json_option
def encoders_command(uri: str | None, as_json: bool) -> None:
    """List the encoders: channels, size, length of the embedding, licence, and whether the weights are here.

    The one that made the atlas is named, where there is one.
    """
    from .encoders.fetch import cache_folder, cached_path
    from .encoders.specs import ENCODERS

    rows: list[dict[str, Any]] = []
    for spec in ENCODERS.values():
        files = [file.url for file in (spec.weights, *spec.heads) if file is not None]
        if spec.own_weights is not None:
            weights = "built in"
        elif not files:
            weights = "your own"
        else:
            weights = "here" if all(cached_path(url).is_file() for url in files) else "fetched when first used"
        rows.append(
            {
                "name": spec.name,
                "channels": list(spec.channels),
                "million_parameters": round(spec.network.n_parameters / 1e6, 1),
                "dim": spec.dim,
                "crop": f"{spec.crop_px} px, {spec.crop_um:.0f} µm",
                "licence": spec.licence,
                "weights": weights,
                "files": files,
                "origin": spec.origin,
                "note": spec.note,
            }
        )
    columns = ["name", "channels", "million_parameters", "dim", "crop", "licence", "weights"]
    recipe = recipe_of_cells(resolve(uri))
    made_by = recipe.encoder if recipe else None
    reply({"encoders": rows, "atlas": made_by}, rows, columns, as_json=as_json)
    if not as_json:
        if made_by:
            click.echo(f"The atlas {resolve(uri)} was made by {made_by}.")
        for row in rows:
            if row["note"]:
                click.echo(f"{row['name']}: {row['note']}.")
        click.echo("timm:NAME is any vision transformer of timm; FILE.toml describes a network of your own.")
        click.echo(f"Fetched weights are kept in {cache_folder()} ($SUBCELL_ATLAS_CACHE).")


@main.command()
@atlas_option
@json_option
def info(uri: str | None, as_json: bool) -> None:
    """Say what is in the atlas: rows of each table, the recipe of its embeddings, what is missing; JSON has more."""
    from .about import correction_in_words
    from .atlas import open_atlas

    with open_atlas(resolve(uri)) as atlas:
        found = atlas.info()
    rows = [{"table": name, "rows": n} for name, n in found["tables"].items()]
    reply(found, rows, ["table", "rows"], as_json=as_json)
    if not as_json and found["recipe"]:
        show([{"recipe": k, "value": v} for k, v in found["recipe"].items()], ["recipe", "value"])
    if not as_json and found["correction"]:
        click.echo(correction_in_words(found["correction"]))
    if not as_json and (index := found["index"]):
        recall = ", ".join(f"{kept} {share:.3f}" for kept, share in index["recall"].items())
        click.echo(
            f"{index['indexed']:,} cells are indexed. Recall of the ten nearest, by what a filter keeps: {recall}."
        )
    if not as_json and (lacking := [check for check in found["checks"] if check["status"] != "ok"]):
        show(lacking, ["name", "found", "fix"])


@main.command()
@atlas_option
@json_option
def doctor(uri: str | None, as_json: bool) -> None:
    """Check this machine: packages, processor, GPU, speed, and the atlas; with the fix for what is missing."""
    from .doctor import check_atlas, check_machine

    checks = [check.__dict__ for check in [*check_machine(), check_atlas(resolve(uri))]]
    reply({"checks": checks}, checks, ["name", "status", "found", "fix"], as_json=as_json)


@main.command()
@atlas_option
@click.option("--port", type=click.IntRange(1, 65535), default=8501, show_default=True)
@click.option("--host", default="localhost", show_default=True, help="0.0.0.0 lets other machines in.")
def app(uri: str | None, port: int, host: str) -> None:
    """Open the app in the browser."""
    from .serve import run_app

    run_app(resolve(uri), port=port, host=host)


@main.command("mcp")
@atlas_option
def mcp_command(uri: str | None) -> None:
    """Answer the questions of an LLM client, such as Claude Desktop, over stdin and stdout (MCP).

    The client starts this command itself; it only reads the atlas. Needs the extra: pip install 'subcell-atlas[mcp]'.
    """
    from .mcp_server import serve

    serve(resolve(uri))


def resolve(uri: str | None) -> str:
    """Return the atlas that is meant."""
    from .store import default_uri

    return uri or default_uri()
