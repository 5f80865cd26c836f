"""What the ranks of a compressed concept are chosen by."""

from __future__ import annotations

import re
from dataclasses import dataclass

from cdtool import sources
from cdtool.errors import UsageError
from cdtool.settings import CompressSettings

_UNITS = {"": 1, "k": 1000, "m": 1000**2, "g": 1000**3, "ki": 1024, "mi": 1024**2, "gi": 1024**3}
_SIZE = re.compile(r"\s*(\d+(?:\.\d+)?)\s*(k|m|g|ki|mi|gi|)b?\s*")


@dataclass(frozen=True)
class Goal:
    """What the ranks are chosen by: a share of each matrix's singular-value sum, one rank, or the file's bytes."""

    energy: float = 0.0
    rank: int = 0
    bytes: int = 0

    def __str__(self) -> str:
        chosen = {"energy": self.energy, "rank": self.rank, "bytes": self.bytes}
        return ", ".join(f"{name} {value}" for name, value in chosen.items() if value)


def goal_of(energy: float | None, rank: int | None, max_size: int | str | None) -> Goal:
    """The one thing the ranks are chosen by. Raises UsageError for two, SettingsError for an impossible share."""
    given = {"--energy": energy, "--rank": rank, "--max-size": max_size}
    flags = [flag for flag, value in given.items() if value is not None]
    if len(flags) > 1:
        raise UsageError(f"{' and '.join(flags)} exclude each other.", "Give one of them.")
    if max_size is not None:
        return Goal(bytes=max_size if isinstance(max_size, int) else parse_bytes(max_size))
    if rank is not None:
        if rank < 1:
            raise UsageError(f"A rank is a number from 1, not {rank}.", "Like --rank 8.")
        return Goal(rank=rank)
    return Goal(energy=sources.resolve(CompressSettings, {"energy": energy})[0].energy)


def parse_bytes(text: str) -> int:
    """Bytes of a size such as 2MB, 500KB or 1.5MiB. Raises UsageError for anything else."""
    found = _SIZE.fullmatch(text.lower())
    count = float(found[1]) * _UNITS[found[2]] if found else 0.0
    if not 1 <= count < 2**63:
        raise UsageError(f'"{text}" is not a size.', "Write it like --max-size 2MB, 500KB or 1.5MiB.")
    return int(count)
