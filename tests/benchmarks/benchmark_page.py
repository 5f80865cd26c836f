"""The page of mini's benchmark, its tables taken anew from the suites' own files.

    cdtool suite run mini --out suites/mini && cdtool suite run mini-sets --out suites/mini-sets
    python -m tests.benchmarks.benchmark_page [--suites suites] [--page cdtool/mini/card/benchmark.md] [--check]

What stands between `<!-- suite: NAME -->` and `<!-- end -->` becomes SUITES/NAME/tables.md without its heading, every
other heading one level deeper. Text outside stays as it is written. With --check nothing is written, and a page that
differs from its suites ends with 1.
"""

from __future__ import annotations

import argparse
import re
import sys
from pathlib import Path

from cdtool import files
from cdtool.store import bases

PAGE = bases.MINI.parent / "card" / "benchmark.md"
_REGION = re.compile(r"(<!-- suite: ([\w-]+) -->\n).*?(<!-- end -->)", re.DOTALL)


def rebuilt(page: str, suites: Path) -> str:
    """The page with every region filled from its suite's tables. Raises FileNotFoundError for one never run."""

    def put(found: re.Match[str]) -> str:
        tables = (suites / found[2] / "tables.md").read_text(encoding="utf-8")
        _, _, body = tables.partition("\n")
        return found[1] + re.sub(r"^#", "##", body.strip(), flags=re.MULTILINE) + "\n" + found[3]

    return _REGION.sub(put, page)


def main() -> int:
    """Rebuild the page, or tell whether it is up to date."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--suites", type=Path, default=Path("suites"))
    options.add_argument("--page", type=Path, default=PAGE)
    options.add_argument("--check", action="store_true")
    chosen = options.parse_args()
    old = chosen.page.read_text(encoding="utf-8")
    new = rebuilt(old, chosen.suites)
    if chosen.check:
        return int(new != old)
    with files.replacing(chosen.page) as path:
        path.write_text(new, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
