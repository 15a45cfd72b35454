"""What an atlas has of pictures: by this a run knows what is done, and which picture it has seen before.

Digests are kept packed, 16 bytes each: a million pictures take 16 MB, in the job and in each process that reads them.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np

from subcell_atlas.store import Store, quote

__all__ = ["Digests", "Ledger"]

PACKED = np.dtype("S16")  # drops zeros at a digest's end, alike in what is stored and in what is asked for


def packed(digests: Iterable[str]) -> np.ndarray:
    """Return digests in hexadecimal as an array (n,) of 16 bytes each."""
    return np.array([bytes.fromhex(each) for each in digests], PACKED)


class Digests:
    """A set of digests, given in hexadecimal, that takes little memory and travels to other processes."""

    def __init__(self, digests: Iterable[str] = ()) -> None:
        self._sorted = np.unique(packed(digests))

    def __len__(self) -> int:
        return len(self._sorted)

    def __contains__(self, digest: str) -> bool:
        return self.find(digest) is not None

    def which(self, digests: Sequence[str]) -> np.ndarray:
        """Tell of each of some digests whether it is there, (n,) bool."""
        wanted = packed(digests)
        at = np.searchsorted(self._sorted, wanted)
        return (
            (at < len(self._sorted)) & (self._sorted.take(at, mode="clip") == wanted) if len(self) else wanted != wanted
        )

    def find(self, digest: str) -> int | None:
        """Return the number of a digest among all, which are sorted; None when it is not there."""
        wanted = np.array(bytes.fromhex(digest), PACKED)
        at = int(np.searchsorted(self._sorted, wanted))
        return at if at < len(self._sorted) and self._sorted[at] == wanted else None


class Ledger:
    """The pictures whose cells an atlas has, and those that a run has seen.

    A fingerprint tells by content that a picture is done; a stamp by its files' names, sizes and times of change.
    """

    def __init__(self, store: Store) -> None:
        self._store = store
        self.fingerprints, self._stamps, self._pictures = Digests(), Digests(), Digests()
        if store.has("cells"):
            known = store.read("cells", ["fingerprint", "picture_id", "stamp"])
            self.fingerprints = Digests(known["fingerprint"].unique().to_pylist())
            self._pictures = Digests(known["picture_id"].unique().to_pylist())
            if "stamp" in known.column_names:  # an older atlas has none
                self._stamps = Digests(stamp for stamp in known["stamp"].unique().to_pylist() if stamp)
        self._skipped = np.zeros(len(self._stamps), bool)
        self._image_of: dict[bytes, str] = {}  # picture_id -> image_id, of this run

    def skip(self, stamp: str | None) -> bool:
        """Tell whether the picture with this stamp is done; it counts as seen in this run then."""
        at = self._stamps.find(stamp) if stamp else None
        if at is None:
            return False
        self._skipped[at] = True
        return True

    def twin(self, picture_id: str, image_id: str) -> str | None:
        """Return which other image of this run showed the picture before; note it when none did."""
        before = self._image_of.setdefault(bytes.fromhex(picture_id), image_id)
        if before == image_id and picture_id in self._pictures:
            where = f"picture_id = {quote(picture_id)}"
            for row in self._store.read("cells", ["image_id", "stamp"], where=where, limit=1).to_pylist():
                at = self._stamps.find(row["stamp"]) if row.get("stamp") else None
                if at is not None and self._skipped[at]:
                    before = row["image_id"]
        return None if before == image_id else before
