"""What a benchmark consists of, read from a suite file: concepts, pairs, methods, ways of joining, and its tables."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import tomli

from cdtool.errors import InputError, NotFoundError, nearest
from cdtool.methods import METHODS, words_only
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
SINGLE = ("base", "train")
TOGETHER = ("base", "merge", "routed", "joint", "sequential")
FORMS = ("means", "concepts", "pairs", "costs")
_PLACE = re.compile(r"\{\d*\}")


@dataclass(frozen=True)
class Thing:
    """A concept of a suite: how it is called, where its photos and prompts lie."""

    name: str
    token: str
    photos: Path
    prompts: Path
    style: bool = False
    proxy: str = ""  # what it is called by a method that needs a V-word, where `token` has none


@dataclass(frozen=True)
class Pair:
    """Two concepts, or more, that are asked for in one picture."""

    members: tuple[Thing, ...]
    prompts: Path
    ways: tuple[str, ...] = ()  # names of the rows it is drawn by; all unless named
    count: int = 0  # pictures of each prompt; 0 is as many as elsewhere


@dataclass(frozen=True)
class Row:
    """A line of the tables: what is trained with which settings and, of several concepts, how they are joined."""

    name: str
    way: str = "train"
    settings: Mapping[str, Any] = field(default_factory=dict)

    @property
    def is_words_only(self) -> bool:
        """Whether it learns nothing but a V-word."""
        return words_only(str(self.settings.get("method", TrainSettings.method)))


@dataclass(frozen=True)
class Table:
    """A table as it is wanted: its form, its rows (all unless named), and the published one that stands beside it."""

    title: str
    form: str = "means"
    rows: tuple[str, ...] = ()
    published: str = ""


@dataclass(frozen=True)
class Cell:
    """The smallest part of a run: a row of the tables for one concept, or for one pair."""

    row: Row
    things: tuple[Thing, ...]
    prompts: Path
    count: int = 0  # pictures of each prompt; 0 is as many as elsewhere

    @property
    def id(self) -> str:
        """Its name, like ours.dog or joint.dog+cat."""
        return f"{registry.slug(self.row.name)}.{'+'.join(thing.name for thing in self.things)}"


@dataclass(frozen=True)
class Suite:
    """A whole benchmark."""

    name: str
    about: str = ""
    base: str = "mini"
    things: tuple[Thing, ...] = ()
    pairs: tuple[Pair, ...] = ()
    methods: tuple[Row, ...] = ()
    ways: tuple[Row, ...] = ()
    tables: tuple[Table, ...] = ()
    drawing: Mapping[str, Any] = field(default_factory=dict)
    metrics: tuple[str, ...] = ("text", "image")
    most: int = 0  # prompts that are read of each file; 0 is all

    @property
    def cells(self) -> tuple[Cell, ...]:
        """All cells in the order of a run, those of one concept beside each other."""
        single = [Cell(row, (thing,), thing.prompts) for thing in self.things for row in self.methods]
        joined = [Cell(row, pair.members, pair.prompts, pair.count)
                  for pair in self.pairs for row in self.ways if not pair.ways or row.name in pair.ways]  # fmt: skip
        return tuple(cell for cell in single + joined if applies(cell))


def applies(cell: Cell) -> bool:
    """Whether a cell has something to show: what is about a V-word is not asked of a concept without one."""
    about_word = {"token_init", "freeze_token"} & cell.row.settings.keys()
    for thing in cell.things:
        has_word = parse_specs([thing.token])[0].modifier
        if not has_word and (about_word or (cell.row.is_words_only and not thing.proxy)):
            return False
    return True


def spec(thing: Thing, row: Row) -> str:
    """The `--token` a row trains a concept by."""
    return thing.proxy if thing.proxy and row.is_words_only else thing.token


# ---------------------------------------------------------------- reading


def read(path: Path, data: Path | None = None) -> Suite:
    """A suite file; what it names lies below `data`, else below the folder it names itself.

    Raises NotFoundError where there is no file, InputError for one that is no suite.
    """
    try:
        table = tomli.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise NotFoundError(f'There is no suite "{path}".', nearest(str(path), SHIPPED) or _known()) from None
    except (tomli.TOMLDecodeError, UnicodeDecodeError, OSError) as error:
        raise InputError(f"The suite {path} cannot be read ({error}).", "Mend the line it names.") from None
    try:
        return _suite(path, table, data or path.parent / str(table.get("data", ".")))
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        told = f"{error.args[0]} is missing" if isinstance(error, KeyError) else str(error)
        raise InputError(f"{path} is not a whole suite: {told}.", "cdtool/data/suites/paper.toml shows one.") from None


def _known() -> str:
    return f"There are {', '.join(SHIPPED)} and customconcept101, or give a file."


def _suite(path: Path, table: dict[str, Any], data: Path) -> Suite:
    known = {"name", "about", "base", "data", "metrics", "most", "sample", "train", "concept", "pair", "method", "way",
             "table"}  # fmt: skip
    _check(path, table, known)
    _check(path, table.get("sample", {}), {entry.name for entry in fields(SampleSettings)})
    common = table.get("train", {})
    things = {entry["name"]: _thing(path, entry, data) for entry in table["concept"]}
    ways = tuple(_row(path, entry, common, TOGETHER) for entry in table.get("way", []))
    return Suite(
        name=registry.slug(str(table.get("name", path.stem))),
        about=str(table.get("about", "")),
        base=str(table.get("base", "mini")),
        things=tuple(things.values()),
        pairs=tuple(_pair(path, entry, data, things, ways) for entry in table.get("pair", [])),
        methods=tuple(_row(path, entry, common, SINGLE) for entry in table.get("method", [])),
        ways=ways,
        tables=tuple(_table(path, entry) for entry in table.get("table", [])),
        drawing=table.get("sample", {}),
        metrics=tuple(table.get("metrics", Suite.metrics)),
        most=int(table.get("most", 0)),
    )


def _check(path: Path, table: Mapping[str, Any], known: set[str]) -> None:
    for name in table:
        if name not in known:
            raise InputError(f'{path} has the unknown key "{name}".', nearest(name, known))


def _thing(path: Path, entry: Mapping[str, Any], data: Path) -> Thing:
    _check(path, entry, {"name", "token", "photos", "prompts", "style", "proxy"})
    parse_specs([entry["token"]])
    return Thing(str(entry["name"]), str(entry["token"]), data / entry["photos"], data / entry["prompts"],
                 bool(entry.get("style", False)), str(entry.get("proxy", "")))  # fmt: skip


def _row(path: Path, entry: Mapping[str, Any], common: Mapping[str, Any], ways: Sequence[str]) -> Row:
    settings = {**common, **{name: value for name, value in entry.items() if name not in ("name", "way")}}
    _check(path, settings, {known.name for known in fields(TrainSettings)})
    way, method = str(entry.get("way", "train")), settings.get("method", TrainSettings.method)
    if way not in ways:
        raise InputError(f'{path}: "{entry["name"]}" has the way "{way}".', f"It is one of {', '.join(ways)}.")
    if method not in METHODS:
        raise InputError(f'{path}: "{entry["name"]}" has the method "{method}".', nearest(method, METHODS))
    return Row(str(entry["name"]), way, {} if way == "base" else settings)


def _pair(path: Path, entry: Mapping[str, Any], data: Path, things: Mapping[str, Thing], ways: Sequence[Row]) -> Pair:
    _check(path, entry, {"members", "prompts", "ways", "count"})
    members, wanted = tuple(things[name] for name in entry["members"]), tuple(entry.get("ways", ()))
    if gone := [name for name in wanted if name not in {row.name for row in ways}]:
        named = " and ".join(thing.name for thing in members)
        raise InputError(f'{path}: {named} name the way "{gone[0]}", which there is not.', "Give it a [[way]].")
    return Pair(members, data / entry["prompts"], wanted, int(entry.get("count", 0)))


def _table(path: Path, entry: Mapping[str, Any]) -> Table:
    _check(path, entry, {"title", "form", "rows", "published"})
    made = Table(entry["title"], entry.get("form", "means"), tuple(entry.get("rows", ())), entry.get("published", ""))
    if made.form not in FORMS:
        raise InputError(f'{path}: the table "{made.title}" has the form "{made.form}".', f"One of {', '.join(FORMS)}.")
    return made


# ---------------------------------------------------------------- what lies beside it


def missing(suite: Suite, cells: Sequence[Cell]) -> list[Path]:
    """The folders of photos and files of prompts that cells need and that are not there."""
    wanted = [thing.photos for cell in cells for thing in cell.things] + [cell.prompts for cell in cells]
    return [path for path in dict.fromkeys(wanted) if not path.exists()]


def template(prompt: str, tokens: Sequence[Token]) -> str:
    """A prompt with {0}, {1} where it names the tokens: as <new1> with the noun behind it, or by the noun alone.

    The prompts of the paper's authors are written in all three ways; those with {} stay as they are.
    """
    if _PLACE.search(prompt):
        return prompt
    nouns = [r"\s+".join(map(re.escape, token.noun.split())) for token in tokens]
    for place, noun in enumerate(nouns, 1):
        prompt = re.sub(rf"<new{place}>(\s+{noun}(?!\w))?", f"{{{place - 1}}}", prompt, flags=re.IGNORECASE)
    if _PLACE.search(prompt):
        return prompt
    for place in sorted(range(len(nouns)), key=lambda place: -len(nouns[place])):
        prompt = re.sub(rf"(?<!\w){nouns[place]}(?!\w)", f"{{{place}}}", prompt, flags=re.IGNORECASE)
    return prompt
