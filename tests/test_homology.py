"""Homologous sequences come into one group; chance, composition and repeats bring nothing together."""

from __future__ import annotations

import shutil
import tempfile

import numpy as np
import pytest

from subcell_atlas.errors import AtlasError, BadInput
from subcell_atlas.sequences.homology import homology_groups
from subcell_atlas.sequences.residues import AMINO_ACIDS

# Of AMINO_ACIDS in human proteins, per cent.
NATURAL = np.array([7.0, 2.3, 4.7, 7.1, 3.7, 6.6, 2.6, 4.4, 5.7, 10, 2.1, 3.6, 6.3, 4.8, 5.6, 8.3, 5.4, 6.0, 1.2, 2.7])
N_RANDOM = 500
N_COPIES = 4
FAMILIES = {  # by UniProt accession
    "actins": ["P60709", "P63261"],
    "tubulins": ["P68363", "P07437", "P68371", "P23258"],
    "small GTPases": ["P20339", "P61020", "P51149", "P62820", "Q9H0U4", "P61006", "P61026", "P62491", "P61106"],
    "kinases": ["P06493", "P24941", "P28482", "P27361", "P11802", "Q00534", "P45983", "Q16539"],
    "heat shock proteins 90": ["P07900", "P08238"],
}


def draw(rng, length):
    return "".join(rng.choice(list(AMINO_ACIDS), size=length, p=NATURAL / NATURAL.sum()))


def mutate(rng, sequence, identity):
    """Return `sequence` with exactly `identity` of its residues kept, none of the others by chance."""
    residues = np.array(list(sequence))
    for at in rng.permutation(len(residues))[round(identity * len(residues)) :]:
        residues[at] = rng.choice([a for a in draw(rng, 40) if a != residues[at]])
    return "".join(residues)


def families(rng, identity, n=5, length=300):
    """Return `n` lists, each of a sequence and its N_COPIES mutated copies."""
    ancestors = [draw(rng, length) for _ in range(n)]
    return [[a, *(mutate(rng, a, identity) for _ in range(N_COPIES))] for a in ancestors]


def with_inserted(rng, insert, n=20, flank=(30, 120)):
    return ["".join((draw(rng, rng.integers(*flank)), insert, draw(rng, rng.integers(*flank)))) for _ in range(n)]


@pytest.fixture(scope="module")
def pool():
    """Kind -> lists of sequences, those of a list made alike, of kinds that must and that must not come together."""
    rng = np.random.default_rng(3)
    domain, one, other = draw(rng, 100), draw(rng, 150), draw(rng, 150)
    return {
        "60 %": families(rng, 0.6),
        "40 %": families(rng, 0.4),
        "two domains": [[one, one + other, other]],
        "domain of the shorter": [[draw(rng, 25) + domain + draw(rng, 25), draw(rng, 250) + domain + draw(rng, 250)]],
        "random": [[draw(rng, rng.integers(80, 700))] for _ in range(N_RANDOM)],
        "poly-Q": [[s] for s in with_inserted(rng, "Q" * 80)],
        "RS repeat": [[s] for s in with_inserted(rng, "RS" * 40)],
        "membrane span": [[s] for s in with_inserted(rng, "LLIVAFLLVGMIALLVFILAL")],
        "small domain": [[draw(rng, 120) + one[:60] + draw(rng, 120)]],
        "short": [["M"], ["MK"], ["ACGT"], ["MKVLAAGIVGLL"]],
        "unknown": [["X" * 50], ["X" * 60]],
    }


@pytest.fixture(scope="module")
def sequences(pool):
    return [s for lists in pool.values() for one in lists for s in one]


@pytest.fixture(scope="module")
def groups(pool, sequences):
    """Kind -> the groups of each list, of one search over the whole pool."""
    found = iter(homology_groups(sequences, threads=1).tolist())
    return {kind: [[next(found) for _ in one] for one in lists] for kind, lists in pool.items()}


def partition(groups, labels):
    return {frozenset(labels[groups == g].tolist()) for g in np.unique(groups)}


@pytest.mark.parametrize("kind", ["60 %", "40 %", "two domains", "domain of the shorter"])
def test_relatives_come_into_one_group_of_their_own(groups, kind):
    assert all(len(set(one)) == 1 for one in groups[kind])
    assert len({one[0] for one in groups[kind]}) == len(groups[kind])


@pytest.mark.parametrize("kind", ["random", "poly-Q", "RS repeat", "membrane span", "small domain", "short", "unknown"])
def test_chance_repeats_and_small_parts_bring_nothing_together(groups, kind):
    everything = [g for lists in groups.values() for one in lists for g in one]
    assert all(everything.count(g) == 1 for one in groups[kind] for g in one)


def test_groups_are_numbered_as_they_appear_and_do_not_depend_on_the_order(rng, groups, sequences):
    before = np.array([g for lists in groups.values() for one in lists for g in one])
    _, first = np.unique(before, return_index=True)
    assert np.array_equal(first, np.sort(first))
    assert np.array_equal(np.unique(before), np.arange(before.max() + 1))
    shuffled = rng.permutation(len(sequences))
    after = homology_groups([sequences[i] for i in shuffled], threads=2)
    assert partition(after, shuffled) == partition(before, np.arange(len(sequences)))


def test_the_same_sequence_is_one_group_in_any_case_and_each_empty_one_its_own(rng):
    one, other = draw(rng, 80), draw(rng, 90)
    assert homology_groups([one, "", other, one.lower(), "", "MK", "MK"]).tolist() == [0, 1, 2, 0, 3, 4, 4]


def test_identity_and_coverage_are_those_that_are_asked_for(rng):
    [family] = families(rng, 0.6, n=1)
    domain = draw(rng, 100)
    parts = [draw(rng, 150) + domain + draw(rng, 150) for _ in range(2)]
    assert homology_groups([*family, *parts], min_identity=0.8).tolist() == list(range(len(family) + 2))
    assert homology_groups([*family, *parts], min_coverage=0.2).tolist() == [0] * len(family) + [1, 1]


def test_there_may_be_none_or_one():
    assert homology_groups([]).shape == (0,)
    assert homology_groups([]).dtype == np.int64
    assert homology_groups(["MKV"]).tolist() == [0]
    assert homology_groups(["MKV", "MKV"]).tolist() == [0, 0]
    assert homology_groups(["", ""]).tolist() == [0, 1]


@pytest.mark.parametrize(("name", "share"), [("min_identity", 30), ("min_coverage", -0.1)])
def test_a_share_that_is_none_is_refused(name, share):
    with pytest.raises(BadInput, match=f"{name} is a share from 0 to 1; got {share}"):
        homology_groups(["MKV"], **{name: share})


@pytest.mark.parametrize(
    ("binary", "message"),
    [
        (shutil.which("false"), "'mmseqs createdb' ended with code 1: it said nothing"),
        ("/nowhere/mmseqs", "MMseqs2, by which homologues are found, is not there: .*/nowhere/mmseqs"),
    ],
)
def test_a_search_that_fails_says_so_and_leaves_no_files(tmp_path, monkeypatch, binary, message):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setenv("MMSEQS2_PATH", binary)
    with pytest.raises(AtlasError, match=message):
        homology_groups(["MKV", "MKA"])
    assert not list(tmp_path.iterdir())


def test_known_families_are_found_among_real_proteins(real_data):
    lines = (real_data / "sequences" / "hou.fasta").read_text().splitlines()
    proteins = dict(zip((line[1:] for line in lines[::2]), lines[1::2], strict=True))
    members = [accession for family in FAMILIES.values() for accession in family]
    accessions = [*members, *(a for a in sorted(proteins)[::20] if a not in members)]
    group = dict(zip(accessions, homology_groups([proteins[a] for a in accessions]), strict=True))
    found = {name: {group[a] for a in family} for name, family in FAMILIES.items()}
    assert {name: len(numbers) for name, numbers in found.items()} == dict.fromkeys(FAMILIES, 1)
    assert len(set.union(*found.values())) == len(FAMILIES)
    assert np.bincount(list(group.values())).max() < 0.2 * len(accessions)
