"""Ctrl-C, and a cluster's request to end, in jobs that finish what they have begun."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

__all__ = ["REQUESTS", "interrupts_blocked", "interrupts_noted"]

REQUESTS = (signal.SIGINT, signal.SIGTERM)


@contextmanager
def interrupts_noted() -> Iterator[Callable[[], bool]]:
    """Note the first request to end, of which the yielded function tells; the second Ctrl-C breaks off at once."""
    noted: list[int] = []
    if threading.current_thread() is not threading.main_thread():
        yield lambda: False
        return

    def note(number: int, _: object) -> None:
        if noted and number == signal.SIGINT:
            raise KeyboardInterrupt
        noted.append(number)

    before = [signal.signal(number, note) for number in REQUESTS]
    try:
        yield lambda: bool(noted)
    finally:
        for number, handler in zip(REQUESTS, before, strict=True):
            signal.signal(number, handler)


@contextmanager
def interrupts_blocked() -> Iterator[None]:
    """Let processes start to whom a request to end is nothing: it goes to all, and the parent finishes its work."""
    if not hasattr(signal, "pthread_sigmask"):  # Windows
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, REQUESTS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
