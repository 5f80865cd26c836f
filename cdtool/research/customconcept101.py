"""CustomConcept101 as its authors ship it, read as a suite; whoever uses it brings the pictures."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cdtool.errors import InputError, NotFoundError
from cdtool.files import parse_json
from cdtool.research.suite import ConceptSpec, MethodSpec, PairSpec, Suite, TableSpec

NAME = "customconcept101"
MCPP = "mcpp"  # three and four of its concepts in one picture
SINGLE, PAIRS, MORE = "dataset.json", "dataset_multiconcept.json", "dataset_mcpp.json"
_GET = "It is in github.com/adobe-research/custom-diffusion; unpack benchmark_dataset.zip in it and give --data DIR."
# Both prior-using methods were trained with drawn class images there.
METHODS = (
    MethodSpec("Base, the class noun", "base"),
    MethodSpec("Textual Inversion", "train", {"method": "textual-inversion"}),
    MethodSpec("DreamBooth", "train", {"method": "dreambooth", "lr": 5e-6}),
    MethodSpec("Ours", "train", {"prior": "generated"}),
)
WAYS = (
    MethodSpec("Base, the class nouns", "base"),
    MethodSpec("DreamBooth", "joint", {"method": "dreambooth", "lr": 5e-6}),
    MethodSpec("Optimization", "merge", {"prior": "generated"}),
    MethodSpec("Joint", "joint", {"prior": "generated"}),
)
MORE_WAYS = (
    MethodSpec("Base, the class nouns", "base"),
    MethodSpec("Routed", "routed", {"prior": "generated"}),
    MethodSpec("Optimization", "merge", {"prior": "generated"}),
    MethodSpec("Joint", "joint", {"prior": "generated"}),
)


def read(folder: Path) -> Suite:
    """The suite of a folder with dataset.json, dataset_multiconcept.json, prompts/ and benchmark_dataset/.

    Raises NotFoundError where a list is missing, InputError for one of another form.
    """
    concepts: dict[str, ConceptSpec] = {}
    for entry in _list(folder / SINGLE):
        _add(concepts, entry, folder, folder / SINGLE)
    known = tuple(concepts.values())
    pairs = _together(folder / PAIRS, concepts, (2,))
    tables = (
        TableSpec("CustomConcept101", published="4"),
        TableSpec("CustomConcept101, by concept", "concepts"),
        TableSpec("CustomConcept101, by pair", "pairs"),
    )
    return Suite(NAME, "101 concepts and 101 pairs", "sd14", known, pairs, METHODS, WAYS, tables,
                 {"count": 5, "steps": 200}, ("text", "image", "dino"))  # fmt: skip


def read_mcpp(folder: Path) -> Suite:
    """Triples and quadruples of the same concepts: a list of the pairs' form, with three or four before the prompts.

    It is measured by what sees a lost subject, `rank` and `scr`, with the dataset's other concepts as look-alikes.
    Raises NotFoundError where the list is missing, InputError for one of another form.
    """
    concepts: dict[str, ConceptSpec] = {}
    groups = _together(folder / MORE, concepts, (3, 4))
    tables = (TableSpec("Several concepts"), TableSpec("Several concepts, by group", "pairs"))
    return Suite(MCPP, "three and four concepts in one picture", "sd14", tuple(concepts.values()), groups, (),
                 MORE_WAYS, tables, {"count": 5, "steps": 200}, ("text", "image", "rank", "scr"))  # fmt: skip


def _together(path: Path, concepts: dict[str, ConceptSpec], sizes: tuple[int, ...]) -> tuple[PairSpec, ...]:
    """The groups of a list: each of so many concepts, and the prompts for them together."""
    found = []
    for entry in _list(path):
        try:
            *parts, prompts = entry
            if len(parts) not in sizes:
                raise ValueError(len(parts))
            members = tuple(_add(concepts, part, path.parent, path) for part in parts)
            found.append(PairSpec(members, path.parent / prompts["prompt_filename_compose"]))
        except (ValueError, KeyError, TypeError):
            kind = "pair" if sizes == (2,) else "group of three or four"
            raise InputError(f"{path} has an entry that is no {kind}: {entry}.", _GET) from None
    return tuple(found)


def _list(path: Path) -> list[Any]:
    try:
        found = parse_json(path)
    except FileNotFoundError:
        raise NotFoundError(f"CustomConcept101 needs its list {path}, which is not there.", _GET) from None
    except (ValueError, OSError) as error:
        raise InputError(f"{path} cannot be read ({error}).", _GET) from None
    if not isinstance(found, list):
        raise InputError(f"{path} holds no list.", _GET)
    return found


def _add(concepts: dict[str, ConceptSpec], entry: Mapping[str, str], folder: Path, source: Path) -> ConceptSpec:
    """The concept of an entry, added unless it is there; the same photos under another noun are another concept."""
    try:
        words = re.split(r"<new\d+>", entry["instance_prompt"])
        noun = " ".join(words[1].split())
        photos = folder / entry["instance_data_dir"]
        concept = ConceptSpec(photos.name.lower(), f"V* {noun}", photos, folder / entry["prompt_filename"])
    except (KeyError, IndexError, TypeError):
        raise InputError(f"{source} has an entry that is no concept: {entry}.", _GET) from None
    if concept.name in concepts and concepts[concept.name].token != concept.token:
        concept = ConceptSpec(
            f"{concept.name}-{'-'.join(noun.lower().split())}", concept.token, concept.photos, concept.prompts
        )
    return concepts.setdefault(concept.name, concept)


READERS = {NAME: read, MCPP: read_mcpp}
ABOUT = {
    NAME: "101 concepts and 101 pairs; bring the pictures",
    MCPP: "triples and quadruples of them; bring their list",
}
