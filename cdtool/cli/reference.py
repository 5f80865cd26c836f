"""Write the command-line reference: `python -m cdtool.cli.reference [FILE]`, by default cdtool/docs/cli.md."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from cdtool import cli

PAGE = Path(__file__).parent.parent / "docs" / "cli.md"
WIDTH = 98
HEAD = """# Command-line reference

Every command's `--help`, written by `python -m cdtool.cli.reference`. `cdtool COMMAND --help` fits it to your
terminal. Results go to standard output, one per line; progress and messages go to standard error.

| exit code | meaning |
|---|---|
| 0 | done |
| 1 | a bug; the traceback is shown |
| 2 | usage: an option, an argument or a setting is wrong |
| 3 | not found: a concept, a base, a set of class images, a file |
| 4 | bad or incompatible input |
| 5 | out of memory or disk |
| 6 | a quality gate failed: a merge lost a concept, a score is below `--min` or above `--max` |
| 130 | interrupted; the message says how to go on |
"""


def page() -> str:
    """The whole reference as Markdown."""
    root = cli.tree()
    context = root.make_context("cdtool", [], resilient_parsing=True, terminal_width=WIDTH)
    parts = [HEAD, _block(root.get_help(context))]
    parts += [f"## {name}\n\n{_block(text)}" for name, text in _helps(root, context)]
    return "\n".join(parts)


def _helps(group: Any, context: Any) -> Iterator[tuple[str, str]]:
    """Names and help texts of the commands, those of groups too."""
    for name, command in group.commands.items():
        own = command.make_context(name, [], parent=context, resilient_parsing=True)
        yield own.command_path, command.get_help(own)
        if hasattr(command, "commands"):
            yield from _helps(command, own)


def _block(text: str) -> str:
    return f"```text\n{text.replace(chr(8), '').rstrip()}\n```\n"


if __name__ == "__main__":
    Path(sys.argv[1] if len(sys.argv) > 1 else PAGE).write_text(page(), encoding="utf-8")
