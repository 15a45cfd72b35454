"""How far a run is: a bar on a terminal, a line now and then elsewhere."""

from __future__ import annotations

import sys
import time

from tqdm import tqdm

from .counts import Counts

__all__ = ["Progress", "duration"]

LINE_EVERY_S = 30.0  # how often a log, not a terminal, is told


def duration(seconds: float) -> str:
    """Return a length of time as a person says it: 40 s, 12 min, 3 h 05 min."""
    minutes = round(seconds / 60)
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60:02d} min"


class Progress:
    """Pictures done, cells a second, time left, and rejects."""

    def __init__(self, total: int, *, shown: bool) -> None:
        self._bar = tqdm(total=total, unit="picture", disable=not shown or not sys.stderr.isatty(), dynamic_ncols=True)
        self._total = total
        self._lines = shown and not sys.stderr.isatty()
        self._began = self._said = time.monotonic()

    def __enter__(self) -> Progress:
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.close()

    def show(self, counts: Counts, *, cells: int) -> None:
        """Show how far it is; `cells` are those of this run so far."""
        self._bar.update(counts.pictures - self._bar.n)
        now = time.monotonic()
        rate = cells / max(now - self._began, 1e-9)
        self._bar.set_postfix_str(f"{rate:.0f} cells/s, {counts.rejected} rejected", refresh=False)
        if self._lines and now - self._said >= LINE_EVERY_S:
            self._said = now
            done = counts.pictures - counts.done_before
            left = (now - self._began) / done * (self._total - counts.pictures) if done else None
            counted = f"{counts.pictures:,} of {self._total:,} pictures, {counts.rejected:,} rejected; "
            ahead = f"; {duration(left)} left" if left is not None else ""
            print(f"{counted}{rate:.0f} cells/s{ahead}", file=sys.stderr, flush=True)  # noqa: T201
