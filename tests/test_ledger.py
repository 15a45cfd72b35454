"""What an atlas has of pictures: by content, by the looks of files, and which picture was seen before."""

from __future__ import annotations

import pickle

import pytest

from ingest.ledger import Digests, Ledger
from ingest.sources import digest
from subcell_atlas.store import Store


def test_digests_have_what_was_put_in_and_nothing_else():
    put = [digest(str(i)) for i in range(500)]
    digests = Digests([*put, *put[:3]])
    assert len(digests) == 500
    assert all(each in digests for each in put)
    assert not any(digest(f"other {i}") in digests for i in range(500))
    assert digest("1") not in Digests()


@pytest.mark.parametrize("edge", ["00" * 16, "ff" * 16, "ab" * 15 + "00", "00" * 15 + "01"])
def test_digests_at_the_edges_are_found(edge):
    digests = Digests([digest("a"), edge, digest("b")])
    assert edge in digests
    assert edge not in Digests([digest("a"), digest("b")])


def test_a_million_digests_travel_in_sixteen_bytes_each():
    digests = Digests(f"{i:032x}" for i in range(100_000))
    assert len(pickle.dumps(digests)) < 17 * 100_000
    assert f"{77:032x}" in pickle.loads(pickle.dumps(digests))


def test_the_first_image_of_a_picture_is_told_to_the_others(tmp_path):
    ledger = Ledger(Store.create(str(tmp_path / "atlas")))
    assert ledger.twin(digest("p"), "a") is None
    assert ledger.twin(digest("p"), "a") is None
    assert ledger.twin(digest("p"), "b") == "a"
    assert ledger.skip(None) is False
    assert ledger.skip(digest("p")) is False
