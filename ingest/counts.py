"""What became of the pictures of a run."""

from __future__ import annotations

from dataclasses import dataclass, field

__all__ = ["Counts"]


@dataclass
class Counts:
    """The pictures of a run, and its cells. left_out: cells that a rule left out, by reason."""

    pictures: int = 0
    cells: int = 0
    done_before: int = 0
    rejected: int = 0
    left_out: dict[str, int] = field(default_factory=dict)
    remark: str = ""  # on the pictures as a whole: that their channels look swapped
    seconds: dict[str, float] = field(default_factory=dict)  # see `Clock.seconds`
    limit: str = ""  # what kept the run from being faster
