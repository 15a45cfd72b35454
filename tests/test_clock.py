"""Where the time of a run goes, and how it is said."""

from __future__ import annotations

import threading
import time

import pytest

from ingest import clock as module
from ingest.clock import Clock
from ingest.counts import Counts
from ingest.progress import Progress, duration


def test_two_encoders_at_once_are_busy_once():
    clock = Clock()

    def encode():
        with clock.encoding():
            time.sleep(0.2)

    threads = [threading.Thread(target=encode) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    with clock.waiting("pictures"):
        time.sleep(0.05)
    seconds = clock.seconds()
    assert 0.2 <= seconds["encoder"] < 0.39
    assert seconds["waited for pictures"] >= 0.05
    assert seconds["waited for writing"] == 0
    assert seconds["all"] >= seconds["encoder"]


@pytest.mark.parametrize(("what", "said"), [("pictures", "more --workers"), ("writing", "disk for the atlas")])
def test_what_was_waited_for_longest_is_what_limits(monkeypatch, what, said):
    clock = Clock()
    assert clock.limit() == ""  # of a short run
    monkeypatch.setattr(module, "SHORT_S", 0.0)
    clock.waited[what] += 10
    time.sleep(0.01)
    assert said in clock.limit()
    assert "0% of the time" in clock.limit()


@pytest.mark.parametrize(
    ("seconds", "said"), [(0.4, "0 s"), (89, "89 s"), (600, "10 min"), (3 * 3600 + 5 * 60, "3 h 05 min")]
)
def test_a_length_of_time_is_said_as_a_person_does(seconds, said):
    assert duration(seconds) == said


def test_where_there_is_no_terminal_a_line_tells_how_far_it_is(capsys, monkeypatch):
    monkeypatch.setattr("ingest.progress.LINE_EVERY_S", 0.0)
    with Progress(1000, shown=True) as progress:
        time.sleep(0.01)
        progress.show(Counts(pictures=100, rejected=3, done_before=50), cells=120)
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("100 of 1,000 pictures, 3 rejected; ")
    assert line.endswith("left")
    with Progress(10, shown=False) as progress:
        progress.show(Counts(pictures=1), cells=1)
    assert capsys.readouterr().err == ""
