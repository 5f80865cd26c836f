"""The command-line reference is what the commands' --help say."""

from __future__ import annotations

import re

from cdtool.cli import reference


def test_the_reference_is_up_to_date():
    hint = "run: python -m cdtool.cli.reference"
    assert reference.PAGE.read_text(encoding="utf-8") == reference.page(), hint


def test_the_index_of_the_docs_has_every_page():
    folder = reference.PAGE.parent
    index = (folder / "README.md").read_text(encoding="utf-8")
    linked = set(re.findall(r"\]\((\w[\w-]*\.md)\)", index))
    assert {path.name for path in folder.glob("*.md")} - {"README.md"} == linked
