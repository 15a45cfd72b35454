"""FASTA files of proteins: the gene of each sequence, its residues, and what was left out and why.

Headers that are understood, each after `>`; the last is for all others:

    sp|P12345-2|NAME_HUMAN Description OS=Homo sapiens OX=9606 GN=ABC PE=1 SV=2   (UniProt; `tr|` is unreviewed)
    ENSP00000000233.5 pep … gene:ENSG00000004059.11 … gene_symbol:ARF5 …          (Ensembl)
    A0A087X0K9 or any name                                                        (the first word, of unknown kind)
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from ..errors import BadInput
from ..identifiers import Gene
from ..text import read_lines
from .residues import LETTERS, refusal

__all__ = ["FastaFile", "Record", "read_fasta", "residues_of"]

HUMAN = "9606"
LONGEST = 100_000  # residues; titin, the longest human protein, has some 36,000
NUCLEOTIDES = "ACGTUN"
NUCLEOTIDE_SHARE = 0.9  # of letters: these six are a quarter of the letters of human proteins
SHORTEST_NUCLEIC = 20  # letters; below, a sequence of them may be a peptide, as GTGG of the T cell receptor is
OTHER_SPECIES = "is of another species than human"
CLEANED = str.maketrans("J", "X", "-.")

UNIPROT = re.compile(r"(?P<database>sp|tr)\|(?P<accession>\w+)(?:-(?P<isoform>\d+))?\|(?P<entry>\S*)(?P<rest>.*)")
UNIPROT_FIELD = re.compile(r"\s+(?=(?:OS|OX|GN|PE|SV)=)")
ENSEMBL_GENE = re.compile(r"\sgene:([^\s.]+)")
ENSEMBL_SYMBOL = re.compile(r"\sgene_symbol:(\S+)")
ENSEMBL_DESCRIPTION = re.compile(r"\sdescription:([^\[]*)")
ENSEMBL_HUMAN = re.compile(r"ENSG\d+$")
ENSEMBL_OTHER = re.compile(r"ENS[A-Z]{4,}\d{11}")  # ENSMUSP00000000001 is of mouse, ENSP00000000233 of human
ACCESSION = re.compile(  # https://www.uniprot.org/help/accession_numbers
    r"(?P<accession>[OPQ][0-9][A-Z0-9]{3}[0-9]|[A-NR-Z][0-9](?:[A-Z][A-Z0-9]{2}[0-9]){1,2})(?:-(?P<isoform>\d+))?$"
)


@dataclass(frozen=True)
class Record:
    """One protein of a file. name: what the file says it is, beyond its identifiers."""

    gene: Gene
    residues: str
    name: str


@dataclass(frozen=True)
class FastaFile:
    """The proteins of a file, in its order, and what was left out.

    skipped: for each reason the names of the sequences that were refused.
    n_repeated: sequences that are in the file once more; n_isoforms: those that gave way to another of the same gene.
    """

    records: Sequence[Record]
    skipped: Mapping[str, tuple[str, ...]]
    n_repeated: int
    n_isoforms: int

    @property
    def n_skipped(self) -> int:
        """How many sequences were refused."""
        return sum(map(len, self.skipped.values()))


class Header(NamedTuple):
    """What a header says. key: what sequences of one gene share, as far as a header alone tells."""

    gene: Gene
    name: str
    key: str
    reviewed: bool = False
    canonical: bool = True
    species: str | None = None  # its taxon, else its name, where the file says either


def read_fasta(path: Path) -> FastaFile:
    """Read a FASTA file of human proteins, plain or gzip.

    Letters are taken in capitals, without spaces, gaps (`-` and `.`) and a stop (`*`) at the end. B, Z, X, U and O stay
    as they are; J becomes X. Refused, and listed in `skipped`, is a sequence without a name, of another species, that
    is empty, holds a stop inside or any other character, has unknown residues only, or is of nucleotides.

    Of each gene one sequence is taken. The same sequence again is counted in `n_repeated`. Of several, a reviewed one
    goes before an unreviewed one, then the canonical one (without `-2` and the like after its accession), then the
    longest; `n_isoforms` counts the others. Reviewed entries are told apart by accession, even of one gene symbol (of
    CDKN2A there are two, P42771 and Q8N726, and both are taken), unreviewed ones by gene symbol, Ensembl's by gene.

    Raise BadInput when the file is no FASTA, is of DNA or RNA or of another species, or holds nothing that can be used.
    """
    found: list[tuple[Header, str]] = []
    skipped: dict[str, list[str]] = defaultdict(list)
    n_letters = n_nucleotides = 0
    for number, (header, letters) in enumerate(split(read_lines(path), path), start=1):
        residues = clean(letters)
        n_letters += len(residues)
        n_nucleotides += count_nucleotides(residues)
        about = parse_header(header)
        if about is None:
            skipped["has no name"].append(f"sequence {number}")
        elif why := other_kind(about, residues) or refusal(residues):
            skipped[why].append(about.gene.written)
        else:
            found.append((about, residues))
    if n_letters and n_nucleotides >= NUCLEOTIDE_SHARE * n_letters:
        raise BadInput(f"{path} is of DNA or RNA: nearly all letters are of {NUCLEOTIDES}. Take a file of proteins.")
    if not found:
        raise nothing_left(skipped, path)
    taken, n_repeated, n_isoforms = choose(found)
    return FastaFile(taken, {why: tuple(names) for why, names in skipped.items()}, n_repeated, n_isoforms)


def residues_of(text: str) -> str:
    """Return the residues of one protein, as they are or below a FASTA header, by the rules of `read_fasta`.

    Raise BadInput when there are several sequences, none, nucleotides, or characters that are no residues.
    """
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    headers = [number for number, line in enumerate(lines) if line.startswith(">")]
    if headers not in ([], [0]):
        raise BadInput("One sequence at a time: there is more than one here.")
    residues = clean("".join(lines[len(headers) :]))
    why = "is of nucleotides" if is_nucleic(residues) else refusal(residues)
    if len(residues) > LONGEST:
        why = "is too long for a protein"
    if why:
        raise BadInput(f"The sequence {why}: {residues[:30]!r}. Residues are of {LETTERS}.")
    return residues


def split(lines: Iterable[str], path: Path) -> Iterator[tuple[str, str]]:
    """Yield the header, without its `>`, and the letters of each sequence. Raise BadInput when it is no FASTA file."""
    header: str | None = None
    parts: list[str] = []
    length = 0
    for line in filter(None, map(str.strip, lines)):
        if line.startswith(">"):
            if header is not None:
                yield header, "".join(parts)
            header, parts, length = line[1:].strip(), [], 0
            continue
        if header is None:
            msg = f"{path} is no FASTA file: it begins {line[:60]!r}."
            raise BadInput(f"{msg}\nEach sequence follows a line that begins with '>' and names it, such as '>P04637'.")
        parts.append(line)
        length += len(line)
        if length > LONGEST:
            raise too_long(header, "".join(parts), path)
    if header is None:
        raise BadInput(f"{path} is empty; it should be a FASTA file of proteins.")
    yield header, "".join(parts)


def too_long(header: str, letters: str, path: Path) -> BadInput:
    """Return the error for a sequence that no protein has, most of the time a genome's."""
    letters = letters[:LONGEST].upper()
    what = "DNA or RNA" if count_nucleotides(letters) >= NUCLEOTIDE_SHARE * len(letters) else "no proteins"
    name = (header.split() or ["a sequence without a name"])[0][:60]
    return BadInput(f"{path} is of {what}: {name!r} has more than {LONGEST} letters. Take a FASTA file of proteins.")


def clean(letters: str) -> str:
    """Return the residues of a sequence; characters that are none are left for `refusal` to find."""
    letters = "".join(letters.split())
    if letters.isascii():  # beyond ASCII a capital may be another letter: that of a long s is S
        letters = letters.upper()
    return letters.translate(CLEANED).rstrip("*")


def count_nucleotides(letters: str) -> int:
    """Return how many letters may be nucleotides."""
    return sum(map(letters.count, NUCLEOTIDES))


def other_kind(about: Header, residues: str) -> str | None:
    """Return why a sequence is not of a human protein; None when it may be."""
    if about.species not in (None, HUMAN):
        return OTHER_SPECIES
    return "is of nucleotides" if is_nucleic(residues) else None


def is_nucleic(residues: str) -> bool:
    """Tell whether a sequence is of DNA or RNA."""
    return len(residues) >= SHORTEST_NUCLEIC and count_nucleotides(residues) >= NUCLEOTIDE_SHARE * len(residues)


def nothing_left(skipped: Mapping[str, Sequence[str]], path: Path) -> BadInput:
    """Return the error for a file of which every sequence was refused."""
    if max(skipped, key=lambda why: len(skipped[why])) == OTHER_SPECIES:
        example = skipped[OTHER_SPECIES][0][:60]
        return BadInput(f"{path} is of another species than human, such as {example!r}. Take the file of human.")
    reasons = "; ".join(f"{len(names)} {why}" for why, names in skipped.items())
    return BadInput(f"{path} holds no protein that can be used. Refused: {reasons}.\nResidues are of {LETTERS}.")


def parse_header(header: str) -> Header | None:
    """Return what a header says, without its `>`; None when it is empty."""
    if uniprot := UNIPROT.match(header):
        return parse_uniprot(uniprot)
    if ensembl := ENSEMBL_GENE.search(header):
        return parse_ensembl(ensembl[1], header)
    if not header:
        return None
    word, *rest = header.split(maxsplit=1)
    accession = ACCESSION.match(word)
    return Header(
        Gene.bare(word),
        "".join(rest),
        accession["accession"] if accession else word,
        canonical=not (accession and accession["isoform"]),
        species=word if ENSEMBL_OTHER.match(word) else None,
    )


def parse_uniprot(header: re.Match[str]) -> Header:
    """Return what a header of UniProt says. Without OX= the species is told by OS=, then by the entry's name."""
    accession, isoform, entry = header["accession"], header["isoform"], header["entry"]
    name, *fields = UNIPROT_FIELD.split(header["rest"])
    said = dict(field.strip().split("=", 1) for field in fields)
    species = said.get("OX") or said.get("OS") or entry.partition("_")[2] or None
    symbol = said.get("GN") or None
    reviewed = header["database"] == "sp"
    return Header(
        Gene(f"{accession}-{isoform}" if isoform else accession, accession, None, symbol),
        name.strip(),
        accession if reviewed or not symbol else symbol,
        reviewed=reviewed,
        canonical=isoform is None,
        species=HUMAN if species in ("Homo sapiens", "HUMAN") else species,
    )


def parse_ensembl(gene: str, header: str) -> Header:
    """Return what a header of Ensembl's peptides says, of the gene of this id (without its version)."""
    symbol = ENSEMBL_SYMBOL.search(header)
    description = ENSEMBL_DESCRIPTION.search(header)
    return Header(
        Gene(gene, None, gene, symbol[1] if symbol else None),
        description[1].strip() if description else "",
        gene,
        species=HUMAN if ENSEMBL_HUMAN.match(gene) else gene,
    )


def choose(found: Sequence[tuple[Header, str]]) -> tuple[list[Record], int, int]:
    """Return one record for each gene, how many sequences were repeated, and how many gave way to another."""
    reviewed: dict[str | None, str] = {}  # gene symbol -> key
    for about, _ in found:
        if about.reviewed and about.gene.gene_symbol:
            reviewed.setdefault(about.gene.gene_symbol, about.key)
    genes: dict[str, dict[str, Header]] = defaultdict(dict)  # key -> residues -> the best header of these
    for about, residues in found:
        key = about.key if about.reviewed else reviewed.get(about.gene.gene_symbol, about.key)
        known = genes[key].get(residues)
        genes[key][residues] = about if known is None else max(known, about, key=rank)
    taken = []
    for headers in genes.values():
        residues = max(headers, key=lambda one: (*rank(headers[one]), len(one)))
        taken.append(Record(headers[residues].gene, residues, headers[residues].name))
    n_different = sum(map(len, genes.values()))
    return taken, len(found) - n_different, n_different - len(taken)


def rank(about: Header) -> tuple[bool, bool]:
    """Return what goes before another of the same gene, as far as headers tell."""
    return about.reviewed, about.canonical
