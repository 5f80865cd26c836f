"""LoRA files of other tools that pictures are sampled with: which, how strongly, and what the files are."""

from __future__ import annotations

import hashlib
import math
from pathlib import Path
from typing import NamedTuple

from cdtool.errors import InputError, NotFoundError, SettingsError
from cdtool.files import open_regular
from cdtool.paths import user_path
from cdtool.schema import printable, shortened


class LoraFile(NamedTuple):
    """A file, and what its changes are multiplied by."""

    path: Path
    weight: float = 1.0


def parse(text: str) -> list[LoraFile]:
    """The files of "style.safetensors:0.7,lines.safetensors". Raises SettingsError, NotFoundError, InputError."""
    found = []
    for part in filter(None, (one.strip() for one in text.split(","))):
        name, colon, number = part.rpartition(":")
        try:
            weight = float(number) if colon else 1.0
        except ValueError:
            name, weight = part, 1.0  # the colon is a name's own
        path = user_path(name if colon and name else part)
        told = shortened(printable(part), 80)
        if not math.isfinite(weight):
            raise SettingsError(f"The weight of {told} is no number.", "Like --lora style.safetensors:0.7")
        if not path.exists():
            raise NotFoundError(f"There is no LoRA {told}.", "Check the path given with --lora.")
        if path.suffix != ".safetensors" or not path.is_file():
            raise InputError(f"{told} is no .safetensors file.", "Give the LoRA as such a file.")
        found.append(LoraFile(path, weight))
    return found


def digest(text: str) -> str:
    """A hash of the content of the files that `text` names, "" where it names none. Raises what `parse` raises."""
    hashed = hashlib.sha256()
    files = parse(text)
    for path, _ in files:
        with open_regular(path) as file:
            while block := file.read(1 << 20):
                hashed.update(block)
    return hashed.hexdigest() if files else ""
