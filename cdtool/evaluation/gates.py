"""Quality gates: what a score has to reach, or may not go beyond."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from cdtool.errors import UsageError, nearest

# Scores that are better the lower they are; all others are better the higher.
LOW = ("kid", "fid", "scr", "class", "leak", "neighbours", "unrelated", "named")


@dataclass(frozen=True)
class Gate:
    """A bound of every column of one score: "image" counts for "image V1 dog" too."""

    score: str
    bound: float

    @property
    def is_most(self) -> bool:
        """Whether the bound is the highest value that passes, not the lowest."""
        return self.score in LOW


def parse(least: str, most: str, known: Sequence[str]) -> list[Gate]:
    """The gates of --min and --max, each like "text=0.7,image=0.6", over the scores that will be known.

    Raises UsageError for what is no such list, for a score that is not measured, and for one on the wrong side.
    """
    found = []
    for flag, text in (("--min", least), ("--max", most)):
        for part in filter(None, (part.strip() for part in text.split(","))):
            gate = _gate(flag, part, known)
            if gate.is_most != (flag == "--max"):
                right, better = ("--max", "lower") if gate.is_most else ("--min", "higher")
                raise UsageError(f"{gate.score} is better the {better} it is.", f"Write {right} {part}.")
            found.append(gate)
    return found


def _gate(flag: str, part: str, known: Sequence[str]) -> Gate:
    score, _, number = (word.strip() for word in part.partition("="))
    try:
        bound = float(number)
    except ValueError:
        bound = math.nan
    if not math.isfinite(bound):
        raise UsageError(f'{flag}: "{part}" is not a score and a number.', f"Like {flag} {score or 'text'}=0.7.")
    if score not in known:
        hint = nearest(score, known) or f"SampleFeatures here are {', '.join(known)}; see --metrics and --forgetting."
        raise UsageError(f'{flag}: no score "{score}" is measured here.', hint)
    return Gate(score, bound)


def failed(gates: Iterable[Gate], scores: Mapping[str, float]) -> list[str]:
    """What did not pass, each in words: "text is 0.612, below 0.7"."""
    told = []
    for gate in gates:
        for name, value in scores.items():
            if name.split()[0] == gate.score and not (value <= gate.bound if gate.is_most else value >= gate.bound):
                told.append(f"{name} is {value:.3f}, {'above' if gate.is_most else 'below'} {gate.bound:g}")
    return told
