"""CustomConcept101 as its authors ship it, read as a suite; whoever uses it brings the pictures."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cdtool.errors import InputError, NotFoundError
from cdtool.research.suite import Pair, Row, Suite, Table, Thing

NAME = "customconcept101"
SINGLE, PAIRS = "dataset.json", "dataset_multiconcept.json"
_GET = "It is in github.com/adobe-research/custom-diffusion; unpack benchmark_dataset.zip in it and give --data DIR."
# Both prior-using methods were trained with drawn prior pictures there.
METHODS = (
    Row("Base, the class noun", "base"),
    Row("Textual Inversion", "train", {"method": "textual-inversion"}),
    Row("DreamBooth", "train", {"method": "dreambooth", "lr": 5e-6}),
    Row("Ours", "train", {"prior": "generated"}),
)
WAYS = (
    Row("Base, the class nouns", "base"),
    Row("DreamBooth", "joint", {"method": "dreambooth", "lr": 5e-6}),
    Row("Optimization", "merge", {"prior": "generated"}),
    Row("Joint", "joint", {"prior": "generated"}),
)


def read(folder: Path) -> Suite:
    """The suite of a folder with dataset.json, dataset_multiconcept.json, prompts/ and benchmark_dataset/.

    Raises NotFoundError where a list is missing, InputError for one of another form.
    """
    things: dict[str, Thing] = {}
    for entry in _list(folder / SINGLE):
        _add(things, entry, folder, folder / SINGLE)
    known, pairs = tuple(things.values()), []
    for entry in _list(folder / PAIRS):
        try:
            first, second, prompts = entry
            members = tuple(_add(things, part, folder, folder / PAIRS) for part in (first, second))
            pairs.append(Pair(members, folder / prompts["prompt_filename_compose"]))
        except (ValueError, KeyError, TypeError):
            raise InputError(f"{folder / PAIRS} has an entry that is no pair: {entry}.", _GET) from None
    tables = (
        Table("CustomConcept101", published="4"),
        Table("CustomConcept101, by concept", "concepts"),
        Table("CustomConcept101, by pair", "pairs"),
    )
    return Suite(NAME, "101 concepts and 101 pairs", "sd14", known, tuple(pairs), METHODS, WAYS, tables,
                 {"count": 5, "steps": 200}, ("text", "image", "dino"))  # fmt: skip


def _list(path: Path) -> list[Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise NotFoundError(f"CustomConcept101 needs its list {path}, which is not there.", _GET) from None
    except (ValueError, OSError) as error:
        raise InputError(f"{path} cannot be read ({error}).", _GET) from None
    if not isinstance(found, list):
        raise InputError(f"{path} holds no list.", _GET)
    return found


def _add(things: dict[str, Thing], entry: Mapping[str, str], folder: Path, source: Path) -> Thing:
    """The thing of an entry, added unless it is there; the same photos under another noun are another thing."""
    try:
        words = re.split(r"<new\d+>", entry["instance_prompt"])
        noun = " ".join(words[1].split())
        photos = folder / entry["instance_data_dir"]
        thing = Thing(photos.name.lower(), f"V* {noun}", photos, folder / entry["prompt_filename"])
    except (KeyError, IndexError, TypeError):
        raise InputError(f"{source} has an entry that is no concept: {entry}.", _GET) from None
    if thing.name in things and things[thing.name].token != thing.token:
        thing = Thing(f"{thing.name}-{'-'.join(noun.lower().split())}", thing.token, thing.photos, thing.prompts)
    return things.setdefault(thing.name, thing)
