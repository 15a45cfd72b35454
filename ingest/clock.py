"""Where the time of a run goes: how long the encoder computes, and what it waits for."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

__all__ = ["Clock"]

WAITS = {  # what the job waits for: what makes it shorter
    "pictures": "reading and cutting pictures limits it: more --workers, more cores, or a faster disk",
    "encoder": "the encoder limits it",
    "writing": "writing limits it: a faster disk for the atlas",
}
SHORT_S = 20.0  # of a run that ends sooner nothing is said
NEARLY_ALL = 0.9  # of the time: the encoder is as busy as can be


class Clock:
    """Counts seconds: of the encoder computing, in any thread, and of the job waiting for something."""

    def __init__(self) -> None:
        self.began = time.monotonic()
        self.waited = dict.fromkeys(WAITS, 0.0)
        self._busy, self._n_encoding, self._since = 0.0, 0, 0.0
        self._lock = threading.Lock()

    @contextmanager
    def waiting(self, what: str) -> Iterator[None]:
        """Count what goes on inside as waiting for one of `WAITS`."""
        began = time.monotonic()
        try:
            yield
        finally:
            self.waited[what] += time.monotonic() - began

    @contextmanager
    def encoding(self) -> Iterator[None]:
        """Count what goes on inside as the encoder computing; two threads at once count once."""
        with self._lock:
            if not self._n_encoding:
                self._since = time.monotonic()
            self._n_encoding += 1
        try:
            yield
        finally:
            with self._lock:
                self._n_encoding -= 1
                if not self._n_encoding:
                    self._busy += time.monotonic() - self._since

    def seconds(self) -> dict[str, float]:
        """Return the seconds so far: `all`, `encoder` (computing), and how long each of `WAITS` was waited for."""
        waited = {f"waited for {what}": round(seconds, 2) for what, seconds in self.waited.items()}
        return {"all": round(time.monotonic() - self.began, 2), "encoder": round(self._busy, 2), **waited}

    def limit(self) -> str:
        """Say how busy the encoder was and what limits the run; nothing of a short run."""
        elapsed = time.monotonic() - self.began
        if elapsed < SHORT_S:
            return ""
        share = self._busy / elapsed
        longest = max(self.waited, key=self.waited.__getitem__)
        why = WAITS["encoder" if share > NEARLY_ALL else longest]
        return f"The encoder computed {share:.0%} of the time; {why}."
