"""The tables of a suite, in the form of the paper's, with the published numbers beside its own."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from statistics import fmean
from typing import Any

from cdtool.evaluation import alignment
from cdtool.files import replacing
from cdtool.research.suite import DATA, Cell, Suite, TableSpec

Result = Mapping[str, Any]
_MEAN = "mean"
_ORDER = ("text", "image", "dino", "dinov2", "cutout", "rank", "scr", "kid", "fid", "seconds", "numbers", "megabytes")
_DIGITS = {"kid": 2, "fid": 2, "seconds": 0, "numbers": 0, "megabytes": 2}  # behind the point; 3 elsewhere


@dataclass(frozen=True)
class TableEntry:
    """A number of a table: of a method, a column and one concept, pair or "mean"; None is not known."""

    setting: str  # single, pairs
    method: str
    column: str
    item: str
    value: float | None
    published: float | None
    cells: int  # the value is a mean of
    against: alignment.Interval | None = None  # the base's, of means


@dataclass(frozen=True)
class Table:
    """A table with its numbers."""

    title: str
    form: str
    like: str  # what the published one is called, or ""
    lines: tuple[TableEntry, ...]


@cache
def published() -> dict[str, Any]:
    """The paper's tables 1 and 3 to 8 (4 also from the dataset's page): "single", "pairs" and "each" by table."""
    found: dict[str, Any] = json.loads((DATA / "published.json").read_text(encoding="utf-8"))
    return found


def fill(suite: Suite, cells: Sequence[Cell], results: Mapping[str, Result]) -> list[Table]:
    """Every table of a suite from the results of its cells, by id; what is not there yet is left out of means."""
    return [_fill(table, [cell for cell in cells if not table.rows or cell.method.name in table.rows], cells, results)
            for table in suite.tables]  # fmt: skip


def _fill(table: TableSpec, cells: Sequence[Cell], every: Sequence[Cell], results: Mapping[str, Result]) -> Table:
    known = published().get(table.published, {})
    lines: list[TableEntry] = []
    settings = {"concepts": ("single",), "pairs": ("pairs",)}.get(table.form, ("single", "pairs"))
    for setting in settings:
        own = [cell for cell in cells if (len(cell.concepts) > 1) == (setting == "pairs")]
        rows = dict.fromkeys(cell.method.name for cell in own)
        for method in rows:
            mine = [(cell, _scores(cell, every, results)) for cell in own if cell.method.name == method]
            if table.form == "costs":
                costs = [(cell, dict(results.get(cell.id, {}).get("cost", {}))) for cell, _ in mine]
                lines += _means(setting, method, costs, {}, every, {})
            elif table.form == "means":
                lines += _means(setting, method, mine, known.get(setting, {}).get(method, {}), every, results)
            else:
                lines += _each(setting, method, mine, known.get("each", {}))
    return Table(table.title, table.form, str(known.get("title", "")), tuple(lines))


def _scores(cell: Cell, every: Sequence[Cell], results: Mapping[str, Result]) -> dict[str, float]:
    """A cell's scores; what only other rows measured of the base stands in its own."""
    own = dict(results.get(cell.id, {}).get("scores", {}))
    if cell.method.mode == "base" and own:
        for other in every:
            if other.concepts == cell.concepts and other.method.mode != "base":
                own = {**results.get(other.id, {}).get("base", {}), **own}
    return own


_Mine = Sequence[tuple[Cell, dict[str, float]]]


def _means(
    setting: str,
    method: str,
    mine: _Mine,
    known: Mapping[str, float],
    every: Sequence[Cell],
    results: Mapping[str, Result],
) -> list[TableEntry]:
    """A method's means over concepts or pairs; image alignment of several targets is their mean, as in table 1."""
    made = []
    joined = [(cell, {column: fmean(values) for column, values in _joined(scores).items()}) for cell, scores in mine]
    for column in _ordered([*(name for _, scores in joined for name in scores), *known]):
        values = [scores[column] for _, scores in joined if column in scores]
        made.append(TableEntry(setting, method, column, _MEAN, fmean(values) if values else None, known.get(column),
                         len(values), _against([cell for cell, _ in mine], column, every, results)))  # fmt: skip
    return made


def _ordered(columns: Sequence[str]) -> list[str]:
    """Each column once, in the paper's order."""
    return sorted(dict.fromkeys(columns), key=lambda name: (_ORDER.index(name.split()[0]), name))


def _joined(scores: Mapping[str, float]) -> dict[str, list[float]]:
    found: dict[str, list[float]] = {}
    for name, value in scores.items():
        found.setdefault(name.split()[0], []).append(value)
    return found


def _against(
    cells: Sequence[Cell], column: str, every: Sequence[Cell], results: Mapping[str, Result]
) -> alignment.Interval | None:
    """The difference from the base over all cells, picture by picture; prompts are resampled."""
    import numpy as np

    differences: list[Any] = []
    groups: list[object] = []
    for cell in cells:
        base = next((one for one in every if one.method.mode == "base" and one.concepts == cell.concepts), cell)
        found, bare = results.get(cell.id, {}).get("each", {}), results.get(base.id, {}).get("each", {})
        names = [name for name in found if name.split()[0] == column and len(found[name]) == len(bare.get(name, ()))]
        if base.id == cell.id or not names:
            continue
        differences.append(np.mean([np.subtract(found[name], bare[name]) for name in names], axis=0))
        groups += [(cell.id, prompt) for prompt in results[cell.id]["prompts"]]
    return alignment.bootstrap(np.concatenate(differences), groups) if differences else None


def _each(
    setting: str, method: str, mine: _Mine, known: Mapping[str, Mapping[str, Mapping[str, float]]]
) -> list[TableEntry]:
    """A method's scores by concept or pair, and their means; of pairs, each target has a column of its own."""
    made = []
    for column in _ordered([*(name for _, scores in mine for name in scores), *known]):
        theirs = known.get(column, {}).get(method, {})
        values = {"+".join(concept.name for concept in cell.concepts): scores.get(column) for cell, scores in mine}
        there = [value for value in values.values() if value is not None]
        for item, value in values.items():
            made.append(TableEntry(setting, method, column, item, value, theirs.get(item), int(value is not None)))
        mean = fmean(there) if there else None
        made.append(TableEntry(setting, method, column, _MEAN, mean, theirs.get(_MEAN), len(there)))
    return made


# ---------------------------------------------------------------- writing


def markdown(suite: Suite, tables: Sequence[Table], about: str) -> str:
    """All tables as a page; "(paper)" columns and rows hold the published numbers."""
    text = [f"# {suite.name}: {suite.about}" if suite.about else f"# {suite.name}", "", about]
    for table in tables:
        text += [
            "",
            f"## {table.title}"
            + (f" (beside the paper's {table.like[0].lower()}{table.like[1:]})" if table.like else ""),
            "",
        ]
        head, rows = _mean_rows(table) if table.form in ("means", "costs") else _item_rows(table)
        text += ["| " + " | ".join(line) + " |" for line in [head, ["---"] * len(head), *rows]]
    return "\n".join(text) + "\n"


def _mean_rows(table: Table) -> tuple[list[str], list[list[str]]]:
    columns = _measured(table)
    head = ["", "method"]
    for column in columns:
        head.append(column)
        head += [f"{column} (paper)"] if table.like else []
        head += [f"{column}, against base [95%]"] if _has_against(table, column) else []
    rows = []
    for setting, method in dict.fromkeys((line.setting, line.method) for line in table.lines):
        cells = [setting, method]
        for column in columns:
            line = next(
                (one for one in table.lines if (one.setting, one.method, one.column) == (setting, method, column)), None
            )
            cells.append(_number(column, line.value if line else None))
            cells += [_number(column, line.published if line else None)] if table.like else []
            if _has_against(table, column):
                cells.append(_interval(line.against if line else None))
        rows.append(cells)
    return [*head, "cells"], [[*cells, _cells(table, *cells[:2])] for cells in rows]


def _item_rows(table: Table) -> tuple[list[str], list[list[str]]]:
    items = [item for item in dict.fromkeys(line.item for line in table.lines) if item != _MEAN] + [_MEAN]
    rows = []
    for column in _measured(table):
        for method in dict.fromkeys(line.method for line in table.lines):
            own = {line.item: line for line in table.lines if (line.method, line.column) == (method, column)}
            for name, field in ((method, "value"), (f"{method} (paper)", "published")):
                numbers = [_number(column, getattr(own[item], field) if item in own else None) for item in items]
                if any(numbers):
                    rows.append([column, name, *numbers])
    return ["", "method", *items], rows


def _measured(table: Table) -> list[str]:
    """The columns that some method has a number of its own in; before anything is measured, all."""
    own = [line.column for line in table.lines if line.value is not None]
    return _ordered(own or [line.column for line in table.lines])


def _has_against(table: Table, column: str) -> bool:
    return any(line.against for line in table.lines if line.column == column)


def _cells(table: Table, setting: str, method: str) -> str:
    return str(max(line.cells for line in table.lines if (line.setting, line.method) == (setting, method)))


def _number(column: str, value: float | None) -> str:
    return "" if value is None else f"{value:,.{_DIGITS.get(column.split()[0], 3)}f}"


def _interval(found: alignment.Interval | None) -> str:
    return f"{found.mean:+.3f} [{found.low:+.3f}, {found.high:+.3f}]" if found else ""


def comma_separated(tables: Sequence[Table]) -> str:
    """All numbers, one a line."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["table", "like", "setting", "method", "column", "item", "value", "published", "cells"])
    for table in tables:
        for line in table.lines:
            writer.writerow([table.title, table.like, line.setting, line.method, line.column, line.item, line.value,
                             line.published, line.cells])  # fmt: skip
    return text.getvalue()


def write(folder: Path, page: str, tables: Sequence[Table], data: Mapping[str, Any]) -> list[Path]:
    """tables.md, tables.csv and tables.json in a folder, each whole or not at all."""
    contents = {"md": page, "csv": comma_separated(tables), "json": json.dumps(data, indent=1, default=str) + "\n"}
    for ending, text in contents.items():
        with replacing(folder / f"tables.{ending}", durable=False) as temporary:
            temporary.write_text(text, encoding="utf-8", newline="\n")
    return [folder / f"tables.{ending}" for ending in contents]
