"""The pages of mini's figures, their tables taken anew from the files that the measurements wrote.

    cdtool suite run mini --out suites/mini && cdtool suite run mini-sets --out suites/mini-sets
    python -m tests.benchmarks.learnability --json cdtool/mini/card/learnability.json
    python -m tests.benchmarks.learn_pairs --json cdtool/mini/card/pairs.json
    python -m tests.benchmarks.benchmark_page [--suites suites] [--check]

In card/benchmark.md, what stands between `<!-- suite: NAME -->` and `<!-- end -->` becomes SUITES/NAME/tables.md less
its heading, other headings one level deeper; without a folder of suites that page stays. In docs/mini.md
`<!-- learnability -->` and `<!-- pairs -->` are filled. Text outside stays as it is written. With --check nothing is
written, and pages that differ end with 1.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from cdtool import files
from cdtool.store import bases

CARD = bases.MINI.parent / "card"
PAGE = CARD / "benchmark.md"
MINI_PAGE = bases.MINI.parent.parent / "docs" / "mini.md"
METHODS = {"itself": "itself", "kv": "K/V", "full": "all weights"}  # of learnability, as the page calls them
HOW = {"merged": "merged", "joined": "joined", "base": "the base's nouns", "themselves": "themselves"}
_REGION = re.compile(r"(<!-- suite: ([\w-]+) -->\n).*?(<!-- end -->)", re.DOTALL)


def rebuilt(page: str, suites: Path) -> str:
    """The page with every region filled from its suite's tables. Raises FileNotFoundError for one never run."""

    def put(found: re.Match[str]) -> str:
        tables = (suites / found[2] / "tables.md").read_text(encoding="utf-8")
        _, _, body = tables.partition("\n")
        return found[1] + re.sub(r"^#", "##", body.strip(), flags=re.MULTILINE) + "\n" + found[3]

    return _REGION.sub(put, page)


def learnability_table(rows: Sequence[Mapping[str, Any]]) -> str:
    """One line for each concept, and means over near, far and all: share, text and rank by every method."""
    head = ["concept", "", *(f"{score}, {name}" for score in ("share", "text", "rank") for name in METHODS.values())]
    lines = []
    for concept in dict.fromkeys(row["concept"] for row in rows):
        own = [row for row in rows if row["concept"] == concept]
        lines.append([concept, own[0]["kind"], *_scores(own)])
    for kind in ("near", "far", "all"):
        some = [row for row in rows if kind in (row["kind"], "all")]
        lines.append(["**mean**", kind, *_scores(some)])
    return _markdown(head, lines)


def _scores(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    by_method = {method: [row for row in rows if row["method"] == method] for method in METHODS}
    return [_decimal(sum(row[score] for row in some) / len(some))
            for score in ("share", "text", "rank") for some in by_method.values()]  # fmt: skip


def pairs_table(rows: Sequence[Mapping[str, Any]]) -> str:
    """One line for each pair and the mean: how often the first, the second and both things are found."""
    found = {(row["pair"], row["how"]): row for row in rows}
    lines = [
        ["**mean**" if pair == "mean" else pair, *(", ".join(
            _decimal(found[pair, how][f"{which} found"]) for which in ("first", "second", "both")) for how in HOW)]
        for pair in dict.fromkeys(row["pair"] for row in rows)
    ]  # fmt: skip
    head = ["pair", *(f"{name}: first, second, both" if how == "merged" else name for how, name in HOW.items())]
    return _markdown(head, lines)


def _markdown(head: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    rows = [head, ["---"] * len(head), *lines]
    return "\n".join(f"| {' | '.join(row)} |".replace("|  |", "| |") for row in rows)


def _decimal(value: float) -> str:
    return f"{value:.2f}".replace("0.", ".", 1) if abs(value) < 0.995 else f"{value:.2f}"


def mini_page(page: str, card: Path = CARD) -> str:
    """The page of the embedded base with its tables filled from the card's files."""
    tables = {
        "learnability": learnability_table(json.loads((card / "learnability.json").read_text())["rows"]),
        "pairs": pairs_table(json.loads((card / "pairs.json").read_text())),
    }
    for name, table in tables.items():
        region = re.compile(rf"(<!-- {name} -->\n).*?(<!-- end -->)", re.DOTALL)
        page = region.sub(lambda found, table=table: f"{found[1]}{table}\n{found[2]}", page)  # type: ignore[misc]
    return page


def main() -> int:
    """Rebuild the pages, or tell whether they are up to date."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--suites", type=Path, default=Path("suites"))
    options.add_argument("--check", action="store_true")
    chosen = options.parse_args()
    made = {MINI_PAGE: mini_page(MINI_PAGE.read_text(encoding="utf-8"))}
    if chosen.suites.is_dir():
        made[PAGE] = rebuilt(PAGE.read_text(encoding="utf-8"), chosen.suites)
    if chosen.check:
        return int(any(path.read_text(encoding="utf-8") != new for path, new in made.items()))
    for path, new in made.items():
        with files.replacing(path) as temporary:
            temporary.write_text(new, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
