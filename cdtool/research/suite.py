"""What a benchmark consists of, read from a suite file: concepts, pairs, methods, compositions, and its tables."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Literal, cast

from cdtool.errors import InputError, NotFoundError, nearest
from cdtool.files import read_text
from cdtool.methods import METHODS, words_only
from cdtool.paths import exists
from cdtool.schema import loads_toml
from cdtool.settings import SampleSettings, TrainSettings
from cdtool.store import bases, registry
from cdtool.tokens import Token, parse_specs

DATA = Path(__file__).parent.parent / "assets"
_MINI = bases.MINI.parent / "suites"
SHIPPED = {
    "paper": DATA / "suites" / "paper.toml",
    "mini": _MINI / "mini.toml",
    "mini-small": _MINI / "mini-small.toml",
    "mini-sets": _MINI / "mini-sets.toml",
}
CompositionMode = Literal["base", "train", "merge", "routed", "joint", "sequential"]
SINGLE: tuple[CompositionMode, ...] = ("base", "train")
TOGETHER: tuple[CompositionMode, ...] = ("base", "merge", "routed", "joint", "sequential")
FORMS = ("means", "concepts", "pairs", "costs")
_PLACE = re.compile(r"\{\d*\}")


@dataclass(frozen=True)
class ConceptSpec:
    """A concept of a suite: its name and token, and the paths of its photos and prompts."""

    name: str
    token: str
    photos: Path
    prompts: Path
    style: bool = False
    proxy: str = ""  # the token for methods that need a modifier token, where `token` has none


@dataclass(frozen=True)
class PairSpec:
    """Two or more concepts that are sampled together in one image."""

    members: tuple[ConceptSpec, ...]
    prompts: Path
    compositions: tuple[str, ...] = ()  # names of its methods; empty means all
    count: int = 0  # pictures of each prompt; 0 is as many as elsewhere


@dataclass(frozen=True)
class MethodSpec:
    """A row of the tables: the training settings and, for several concepts, how they are composed."""

    name: str
    mode: CompositionMode = "train"
    settings: Mapping[str, Any] = field(default_factory=dict)

    @property
    def is_words_only(self) -> bool:
        """Whether it learns nothing but a modifier token."""
        return words_only(str(self.settings.get("method", TrainSettings.method)))


@dataclass(frozen=True)
class TableSpec:
    """A table to write: its form, its methods (`rows`; empty means all), and the paper's table it is compared with."""

    title: str
    form: str = "means"
    rows: tuple[str, ...] = ()
    published: str = ""


@dataclass(frozen=True)
class Cell:
    """The smallest unit of a run: one method on one concept or one pair."""

    method: MethodSpec
    concepts: tuple[ConceptSpec, ...]
    prompts: Path
    count: int = 0  # pictures of each prompt; 0 is as many as elsewhere

    @property
    def id(self) -> str:
        """Its name, for example ours.dog or joint.dog+cat."""
        return f"{registry.slug(self.method.name)}.{'+'.join(concept.name for concept in self.concepts)}"


@dataclass(frozen=True)
class Suite:
    """A whole benchmark."""

    name: str
    about: str = ""
    base: str = "mini"
    concepts: tuple[ConceptSpec, ...] = ()
    pairs: tuple[PairSpec, ...] = ()
    methods: tuple[MethodSpec, ...] = ()
    compositions: tuple[MethodSpec, ...] = ()
    tables: tuple[TableSpec, ...] = ()
    drawing: Mapping[str, Any] = field(default_factory=dict)
    metrics: tuple[str, ...] = ("text", "image")
    most: int = 0  # prompts that are read of each file; 0 is all

    @property
    def cells(self) -> tuple[Cell, ...]:
        """All cells in the order of a run, those of one concept beside each other."""
        single = [Cell(method, (concept,), concept.prompts) for concept in self.concepts for method in self.methods]
        joined = [Cell(method, pair.members, pair.prompts, pair.count)
                  for pair in self.pairs for method in self.compositions
                  if not pair.compositions or method.name in pair.compositions]  # fmt: skip
        return tuple(cell for cell in single + joined if applies(cell))


def applies(cell: Cell) -> bool:
    """Whether a cell is defined: settings of a modifier token do not apply to a concept without one."""
    about_word = {"token_init", "freeze_token"} & cell.method.settings.keys()
    for concept in cell.concepts:
        has_word = parse_specs([concept.token])[0].modifier
        if not has_word and (about_word or (cell.method.is_words_only and not concept.proxy)):
            return False
    return True


def spec(concept: ConceptSpec, method: MethodSpec) -> str:
    """The `--token` a method trains a concept by."""
    return concept.proxy if concept.proxy and method.is_words_only else concept.token


# ---------------------------------------------------------------- reading


def read(path: Path, data: Path | None = None) -> Suite:
    """A suite file; what it names lies below `data`, else below the folder it names itself.

    Raises NotFoundError where there is no file, InputError for one that is no suite.
    """
    try:
        table = loads_toml(read_text(path))
    except FileNotFoundError:
        raise NotFoundError(f'There is no suite "{path}".', nearest(str(path), SHIPPED) or _known()) from None
    except (ValueError, OSError) as error:
        raise InputError(f"The suite {path} cannot be read ({error}).", "Correct the line it names.") from None
    try:
        return _suite(path, table, data or path.parent / str(table.get("data", ".")))
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        reason = f"{error.args[0]} is missing" if isinstance(error, KeyError) else str(error)
        raise InputError(
            f"{path} is not a complete suite: {reason}.", "cdtool/assets/suites/paper.toml is one."
        ) from None


def _known() -> str:
    return f"There are {', '.join(SHIPPED)}, customconcept101 and mcpp, or give a file."


def _suite(path: Path, table: dict[str, Any], data: Path) -> Suite:
    table = _upgraded(table)
    _check(path, table, _KEYS)
    _check(path, table.get("sample", {}), {entry.name for entry in fields(SampleSettings)})
    common = table.get("train", {})
    concepts = {entry["name"]: _concept(path, entry, data) for entry in table["concept"]}
    compositions = tuple(_method(path, entry, common, TOGETHER) for entry in table.get("composition", []))
    return Suite(
        name=registry.slug(str(table.get("name", path.stem))),
        about=str(table.get("about", "")),
        base=str(table.get("base", "mini")),
        concepts=tuple(concepts.values()),
        pairs=tuple(_pair(path, entry, data, concepts, compositions) for entry in table.get("pair", [])),
        methods=tuple(_method(path, entry, common, SINGLE) for entry in table.get("method", [])),
        compositions=compositions,
        tables=tuple(_table(path, entry) for entry in table.get("table", [])),
        drawing=table.get("sample", {}),
        metrics=tuple(table.get("metrics", Suite.metrics)),
        most=int(table.get("most", 0)),
    )


_KEYS = {"name", "about", "base", "data", "metrics", "most", "sample", "train", "concept", "pair", "method",
         "composition", "table"}  # fmt: skip
_OLD_KEYS = {"way": "composition", "ways": "compositions"}  # of suite files written before version 1


def _upgraded(table: dict[str, Any]) -> dict[str, Any]:
    """A suite file's table with the keys of older files renamed: [[way]], way = and ways =."""
    renamed = {_OLD_KEYS.get(name, name): value for name, value in table.items()}
    for kind in ("method", "composition"):
        renamed[kind] = [{"mode" if name == "way" else name: value for name, value in entry.items()}
                         for entry in renamed.get(kind, [])]  # fmt: skip
    pairs = renamed.get("pair", [])
    renamed["pair"] = [{_OLD_KEYS.get(name, name): value for name, value in entry.items()} for entry in pairs]
    return renamed


def _check(path: Path, table: Mapping[str, Any], known: set[str]) -> None:
    for name in table:
        if name not in known:
            raise InputError(f'{path} has the unknown key "{name}".', nearest(name, known))


def _concept(path: Path, entry: Mapping[str, Any], data: Path) -> ConceptSpec:
    _check(path, entry, {"name", "token", "photos", "prompts", "style", "proxy"})
    parse_specs([entry["token"]])
    return ConceptSpec(str(entry["name"]), str(entry["token"]), data / entry["photos"], data / entry["prompts"],
                       bool(entry.get("style", False)), str(entry.get("proxy", "")))  # fmt: skip


def _method(
    path: Path, entry: Mapping[str, Any], common: Mapping[str, Any], modes: Sequence[CompositionMode]
) -> MethodSpec:
    settings = {**common, **{name: value for name, value in entry.items() if name not in ("name", "mode")}}
    _check(path, settings, {known.name for known in fields(TrainSettings)})
    mode, method = str(entry.get("mode", "train")), settings.get("method", TrainSettings.method)
    if mode not in modes:
        raise InputError(f'{path}: "{entry["name"]}" has the mode "{mode}".', f"It is one of {', '.join(modes)}.")
    if method not in METHODS:
        raise InputError(f'{path}: "{entry["name"]}" has the method "{method}".', nearest(method, METHODS))
    return MethodSpec(str(entry["name"]), cast("CompositionMode", mode), {} if mode == "base" else settings)


def _pair(
    path: Path,
    entry: Mapping[str, Any],
    data: Path,
    concepts: Mapping[str, ConceptSpec],
    compositions: Sequence[MethodSpec],
) -> PairSpec:
    _check(path, entry, {"members", "prompts", "compositions", "count"})
    members, wanted = tuple(concepts[name] for name in entry["members"]), tuple(entry.get("compositions", ()))
    if unknown := [name for name in wanted if name not in {method.name for method in compositions}]:
        names = " and ".join(concept.name for concept in members)
        raise InputError(
            f'{path}: the pair {names} names the composition "{unknown[0]}", which does not exist.',
            "Add a [[composition]] of that name.",
        )
    return PairSpec(members, data / entry["prompts"], wanted, int(entry.get("count", 0)))


def _table(path: Path, entry: Mapping[str, Any]) -> TableSpec:
    _check(path, entry, {"title", "form", "rows", "published"})
    table = TableSpec(
        entry["title"], entry.get("form", "means"), tuple(entry.get("rows", ())), entry.get("published", "")
    )
    if table.form not in FORMS:
        raise InputError(
            f'{path}: the table "{table.title}" has the form "{table.form}".', f"One of {', '.join(FORMS)}."
        )
    return table


# ---------------------------------------------------------------- the files it names


def missing(suite: Suite, cells: Sequence[Cell]) -> list[Path]:
    """The photo folders and prompt files that cells need and that do not exist."""
    wanted = [concept.photos for cell in cells for concept in cell.concepts] + [cell.prompts for cell in cells]
    return [path for path in dict.fromkeys(wanted) if not exists(path)]


def template(prompt: str, tokens: Sequence[Token]) -> str:
    """A prompt with {0}, {1} where it names the tokens: as <new1> with the noun behind it, or by the noun alone.

    The prompts of the paper's authors are written in all three forms; those with {} stay as they are.
    """
    if _PLACE.search(prompt):
        return prompt
    nouns = [r"\s+".join(map(re.escape, token.noun.split())) for token in tokens]
    for number, noun in enumerate(nouns, 1):
        prompt = re.sub(rf"<new{number}>(\s+{noun}(?!\w))?", f"{{{number - 1}}}", prompt, flags=re.IGNORECASE)
    if _PLACE.search(prompt):
        return prompt
    for index in sorted(range(len(nouns)), key=lambda index: -len(nouns[index])):
        prompt = re.sub(rf"(?<!\w){nouns[index]}(?!\w)", f"{{{index}}}", prompt, flags=re.IGNORECASE)
    return prompt
