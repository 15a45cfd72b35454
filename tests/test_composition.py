"""Features of sequences against values worked out by hand, and slow twins of the counts."""

from __future__ import annotations

import re
from itertools import pairwise

import numpy as np
import pytest

from subcell_atlas.errors import BadInput, UnknownName
from subcell_atlas.sequences import load_sequence_encoder
from subcell_atlas.sequences.composition import (
    BACKGROUND,
    FEATURES,
    GROUPS,
    LARGEST,
    composition,
    composition_vectors,
    pairs,
)
from subcell_atlas.sequences.packed import pack
from subcell_atlas.sequences.residues import AMINO_ACIDS
from subcell_atlas.sequences.signals import SIGNALS, charged, hydrophobic, moments, motifs, signals, whole

BODY = "MSDNGTSEQNPTHSGDTQESNGTPHSQDNETSGQ" * 3  # nothing hydrophobic, nothing basic


def signal(residues, name):
    """The value of a signal as it is, or NaN where the sequence is too short."""
    (packed,) = pack([residues])
    found = whole(packed) | hydrophobic(packed) | charged(packed) | moments(packed) | motifs([residues])
    return found[name][0]


def test_every_feature_has_a_name_of_its_own():
    assert len(set(FEATURES)) == len(FEATURES) == 4 * 20 + 100 + len(SIGNALS)
    (packed,) = pack([BODY])
    found = whole(packed) | hydrophobic(packed) | charged(packed) | moments(packed) | motifs([BODY])
    assert set(found) == set(SIGNALS)


def test_shares_are_differences_of_roots_to_the_mean_human_protein():
    assert BACKGROUND.sum() == pytest.approx(1, abs=1e-3)
    background = dict(zip(AMINO_ACIDS, BACKGROUND, strict=True))
    (packed,) = pack(["MKKKXB", "W"])
    shares = composition(packed)
    assert shares[0, AMINO_ACIDS.index("M")] == pytest.approx(0.25**0.5 - background["M"] ** 0.5)
    assert shares[0, AMINO_ACIDS.index("K")] == pytest.approx(0.75**0.5 - background["K"] ** 0.5)
    assert shares[1, AMINO_ACIDS.index("W")] == pytest.approx(1 - background["W"] ** 0.5)
    assert shares[1, AMINO_ACIDS.index("K")] == pytest.approx(-(background["K"] ** 0.5))


def test_each_region_has_shares_of_its_own():
    vectors = composition_vectors(["W" * 25 + "F" * 25 + "G" * 50 + "H" * 30])
    large = {name for name, value in zip(FEATURES, vectors[0], strict=True) if " of " in name and value > 3}
    parts = {"W of first 25", "W of first 50", "F of first 50", "H of last 30"}
    assert large == parts | {f"{letter} of all" for letter in "WFGH"}


def test_selenocysteine_and_pyrrolysine_count_as_cysteine_and_lysine():
    np.testing.assert_array_equal(composition_vectors(["MUAO"])[:, :180], composition_vectors(["MCAK"])[:, :180])


def test_pairs_are_counted_as_by_hand(rng):
    residues = "".join(rng.choice([*AMINO_ACIDS, "X"], size=300))
    group = {letter: i for i, letters in enumerate(GROUPS) for letter in letters}
    counts = np.zeros((10, 10))
    for first, second in pairwise(residues):
        if "X" not in first + second:
            counts[group[first], group[second]] += 1
    share = [sum(BACKGROUND[AMINO_ACIDS.index(letter)] for letter in letters) for letters in GROUPS]
    slow = np.sqrt(counts / counts.sum()) - np.sqrt(np.outer(share, share))
    (packed,) = pack(["MKV", residues, "LLLL"])
    np.testing.assert_allclose(pairs(packed)[1], slow.ravel())


def test_each_vector_is_its_sequence_s_alone(rng):
    sequences = ["".join(rng.choice(list(AMINO_ACIDS), size=n)) for n in (5, 70, 1, 400, 33, 2000, 19, 18)]
    together = composition_vectors(sequences)
    alone = np.concatenate([composition_vectors([residues]) for residues in sequences])
    np.testing.assert_allclose(together, alone, atol=1e-5)
    np.testing.assert_array_equal(together, composition_vectors(sequences))


def test_batches_hold_every_sequence_once(rng, monkeypatch):
    monkeypatch.setattr("subcell_atlas.sequences.packed.MOST_RESIDUES", 100)
    sequences = ["".join(rng.choice(list(AMINO_ACIDS), size=n)) for n in (30, 60, 20, 150, 1, 99, 2)]
    encoder = load_sequence_encoder("composition")
    batches = list(encoder.batches(sequences))
    assert [list(places) for places, _ in batches] == [[0, 1], [2], [3], [4, 5], [6]]
    np.testing.assert_allclose(
        np.concatenate([vectors for _, vectors in batches]),
        np.concatenate([composition_vectors([residues]) for residues in sequences]),
        atol=1e-5,
    )


@pytest.mark.parametrize("residues", ["M", "G", "MX", "KR", "W" * 17, "L" * 40_000, "XBZUO" * 9, "C" * 300])
def test_features_are_finite_and_bounded_whatever_the_length(residues):
    vectors = composition_vectors([residues])
    assert vectors.dtype == np.float32
    assert np.isfinite(vectors).all()
    assert np.abs(vectors).max() <= LARGEST


def test_a_sequence_too_short_for_a_window_is_like_the_mean():
    place = list(SIGNALS).index("most positive 50")
    assert np.isnan(signal("MKV", "most positive 50"))
    (packed,) = pack(["MKV"])
    assert signals(packed, ["MKV"])[0, place] == 0


def test_no_sequences_have_no_vectors():
    assert composition_vectors([]).shape == (0, len(FEATURES))


@pytest.mark.parametrize("residues", ["", "mkv", "MK V", "M*K", "XX", "MÄ"])
def test_what_is_no_sequence_is_refused(residues):
    with pytest.raises(BadInput, match="Sequence 1"):
        composition_vectors(["MKV", residues])


def test_properties_of_whole_sequences_are_as_by_hand():
    assert signal("A" * 100, "log10 length") == 2
    assert signal("IIAK", "hydropathy") == pytest.approx((45 + 45 + 18 - 39) / 4)
    assert signal("IR", "spread of hydropathy") == 45
    assert signal("FWYA", "aromatic") == 0.75
    assert signal("WAWA", "entropy") == pytest.approx(np.log(2) / np.log(20))
    assert signal("A" * 50, "charge of a residue") == pytest.approx(0, abs=1e-3)
    assert signal("AK" * 50, "charge of a residue") == pytest.approx(0.5, abs=1e-2)
    assert signal("A" * 50, "isoelectric point") == pytest.approx((8.6 + 3.6) / 2, abs=1e-3)
    assert signal("K" * 9, "isoelectric point") > 11
    assert signal("D" * 9, "isoelectric point") < 3.5


def test_membrane_spans_are_told_by_hydropathy_of_19_residues():
    span = "LIVALLVLIALVVILLAGLIV"
    assert signal(BODY, "membrane spans") == 0
    assert signal(BODY + span + BODY, "membrane spans") == pytest.approx(1 / 3)
    assert signal((BODY + span) * 6 + BODY, "membrane spans") == pytest.approx(6 / 8)
    assert signal((BODY + span) * 6 + BODY, "many membrane spans") == 1
    assert signal("M" * 19, "most hydrophobic 19") == 19
    assert signal("MA" * 9 + "M", "any membrane span") == 1  # (10 * 1.9 + 9 * 1.8) / 19
    assert signal("A" * 18, "any membrane span") == 0  # too short
    border = "I" * 6 + "A" * 2 + "T" * 10 + "V"  # 27 + 3.6 - 7 + 4.2 = 27.8 of 30.4
    assert signal(border, "any membrane span") == 0
    assert signal("I" * 10 + "A" * 1 + "K" * 4 + "G" * 3 + "S", "any membrane span") == 0


def test_two_spans_end_to_end_in_two_proteins_are_one_in_each():
    (packed,) = pack(["L" * 30, "L" * 30, BODY])
    np.testing.assert_allclose(hydrophobic(packed)["membrane spans"], [1 / 3, 1 / 3, 0])


def test_windows_do_not_reach_into_the_next_protein():
    (packed,) = pack(["KKKK" + "A" * 16, "A" * 20, "KKKK" + "A" * 16])
    np.testing.assert_allclose(charged(packed)["most positive 20"], [0.2, 0, 0.2])


def test_charges_of_the_ends_are_counted():
    residues = "MRRR" + "A" * 60 + "DEK"
    assert signal(residues, "charge of the first 20") == 3
    assert signal(residues, "R of the first 25") == 3
    assert signal(residues, "acids of the first 25") == 0
    assert signal(residues, "charge of the last 30") == -1


def test_the_moment_is_large_where_hydrophobic_residues_are_on_one_side():
    helix = "LKKLLKKLLKLLKKLLKK"  # 3.6 a turn
    assert signal(helix, "moment of a helix in the first 32") > 3 * signal(
        "L" * 18, "moment of a helix in the first 32"
    )
    strand = "VKVKVKVKVKVKVKVKVK"
    assert signal(strand, "moment of a strand") > 3 * signal(strand, "moment of a helix in the first 32")
    (packed,) = pack([strand])
    plain = [{"V": 1.08, "K": -1.50}[letter] * np.exp(1j * np.radians(170) * i) for i, letter in enumerate(strand)]
    assert moments(packed)["moment of a strand"][0] == pytest.approx(abs(np.mean(plain)))


MOTIF_EXAMPLES = {
    "nuclear localization": "PKKKRKV",  # of SV40's large T
    "bipartite nuclear localization": "KRPAATKKAGQAKKKKLD",  # of nucleoplasmin
    "nuclear export": "LALKLAGLDI",  # of PKI
    "zinc finger": "CPECGKSFSQSSNLQKHQRTH",
    "CxxC": "CGHC",
    "Walker A": "GAGGVGKS",
    "kinase": "HRDLKPEN",
    "leucine zipper": "LEDKVEELLSKNYHLENEVARL",  # of GCN4
    "dileucine": "DKQTLL",
    "tyrosine sorting": "YTRF",  # of the transferrin receptor
    "14-3-3": "RSHSYP",
    "QQQ": "QQQ",
    "N-glycosylation": "NAT",
    "heptads": "LEELKKKLEEL",
}
END_EXAMPLES = {"KDEL": "KDEL", "KKxx": "KKTN", "SKL": "SKL", "CaaX": "CVLS", "PDZ ligand": "ESDV"}
BEGINNING_EXAMPLES = {
    "myristoylation": "MGSSKS",  # of SRC
    "ML, no acid": "MLS",
    "signal peptide": "MKTLLLAVAVVAFVCLGSAD",
    "cleaved signal peptide": "MGTLLLAVAVVAFVCLGSAD",
    "presequence": "MLSLRQSIRFFKPATRTL",  # of COX4
    "presequence cleavage": "MLSLRQSIRFFKPATRYLSS",
}


@pytest.mark.parametrize("name", MOTIF_EXAMPLES)
def test_motifs_are_found_wherever_they_are(name):
    assert signal(BODY + MOTIF_EXAMPLES[name] + BODY, name) > signal(BODY + BODY, name)


@pytest.mark.parametrize("name", END_EXAMPLES)
def test_ends_are_found_at_the_end_only(name):
    assert signal(BODY + END_EXAMPLES[name], name) == 1
    assert signal(BODY + END_EXAMPLES[name] + BODY, name) == 0


@pytest.mark.parametrize("name", BEGINNING_EXAMPLES)
def test_beginnings_are_found_at_the_beginning_only(name):
    assert signal(BEGINNING_EXAMPLES[name] + BODY, name) == 1
    assert signal(BODY + BEGINNING_EXAMPLES[name], name) == 0


def test_motifs_that_lie_over_each_other_count_each():
    assert signal("KKKRKV", "nuclear localization") == pytest.approx(2 / 3)
    assert signal("NATNAT" + "A" * 94, "N-glycosylation") == 2
    assert len(re.findall(r"(?=K[KR].[KR])", "KKKRKV")) == 2


def test_the_encoder_says_what_it_is():
    encoder = load_sequence_encoder("composition", device="cuda", precision="bfloat16")
    assert (encoder.name, encoder.dim) == ("composition", len(FEATURES))
    assert "stand-in for a protein language model" in encoder.note
    recipe = encoder.recipe()
    assert (recipe.encoder, recipe.dim, recipe.weights_sha256) == ("composition", len(FEATURES), None)
    with pytest.raises(BadInput, match="has no weights"):
        load_sequence_encoder("composition", weights="folder")
    with pytest.raises(UnknownName, match="nearest: composition"):
        load_sequence_encoder("compositions")


def test_a_change_of_the_features_needs_another_version():
    vectors = composition_vectors([BODY + "PKKKRKVLIVALLVLIALVVILLAGLIVCPECGKSFSQSSNLQKHQRTH" + BODY])
    recipe = load_sequence_encoder("composition").recipe()
    assert recipe.pooling == "shares of residues and signals, version 1"
    assert (vectors.shape, float(np.abs(vectors).sum())) == ((1, 252), pytest.approx(380.2946, rel=1e-4))
