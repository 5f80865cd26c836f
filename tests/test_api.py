"""The public API: exactly what is documented, nothing heavy on import, the settings' defaults."""

from __future__ import annotations

import ast
import inspect
import json
import re
import subprocess
import sys
from dataclasses import fields
from pathlib import Path

import pytest

import cdtool
from cdtool.compression.run import CompressOptions
from cdtool.sampling.run import SampleOptions
from cdtool.settings import CompressSettings, SampleSettings

DOCS = Path(cdtool.__file__).parent / "docs"
HEAVY = {"torch", "diffusers", "transformers", "numpy", "PIL", "typer", "rich"}


def documented():
    text = (DOCS / "python-api.md").read_text(encoding="utf-8")
    return set(re.findall(r"^\| `(\w+)", text, re.MULTILINE)) | {"Concept"}


def test_all_is_what_is_documented_and_what_is_there():
    assert set(cdtool.__all__) == documented()
    assert cdtool.__all__ == sorted(cdtool.__all__)
    assert set(cdtool._PUBLIC) == set(cdtool.__all__)
    assert set(cdtool.__all__) <= set(dir(cdtool))
    with pytest.raises(AttributeError, match="no attribute 'tarin'"):
        cdtool.tarin  # noqa: B018


def test_every_name_is_there_and_says_what_it_is():
    for name in cdtool.__all__:
        value = getattr(cdtool, name)
        assert value.__name__ == name
        if inspect.isfunction(value):
            assert inspect.getdoc(value)


def test_importing_it_loads_nothing_heavy_and_light_uses_neither():
    code = (
        "import sys, json, cdtool\n"
        f"heavy = {HEAVY}\n"
        "first = sorted(heavy & sys.modules.keys())\n"
        "cdtool.concepts(), cdtool.sample, cdtool.merge, cdtool.compress, cdtool.Concept\n"
        "try: cdtool.load('nothing')\n"
        "except cdtool.NotFoundError: pass\n"
        "print(json.dumps([first, sorted(heavy & sys.modules.keys())]))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert json.loads(done.stdout) == [[], []]


@pytest.mark.parametrize(
    ("function", "options", "settings", "renamed"),
    [
        (cdtool.sample, SampleOptions, SampleSettings, {"count"}),
        (cdtool.compress, CompressOptions, CompressSettings, set()),
    ],
)
def test_every_setting_is_an_option_with_its_default_in_the_docstring(function, options, settings, renamed):
    doc = inspect.getdoc(function)
    for field in fields(settings):
        if field.name in renamed:
            continue
        assert field.name in options.__annotations__
        line = re.search(rf"^ +{field.name}: (.*)$", doc, re.MULTILINE)[1]
        if field.default not in ("", "auto"):
            assert str(field.default) in line, field.name
    for name in options.__annotations__:
        assert re.search(rf"^ +{name}: ", doc, re.MULTILINE), name


def test_an_option_that_does_not_exist_is_refused(saved):
    saved("dog")
    with pytest.raises(TypeError, match="guidance"):
        cdtool.sample("dog", "V* dog", guidence=3)
    with pytest.raises(TypeError):
        cdtool.merge("dog", "cat", nmae="pair")


def test_the_examples_call_what_there_is():
    """Every call in the document and the script binds to its function's parameters."""
    script = (DOCS / "examples" / "quickstart.py").read_text(encoding="utf-8")
    text = (DOCS / "python-api.md").read_text(encoding="utf-8")
    sources = [script, *re.findall(r"^```python\n(.*?)^```", text, re.MULTILINE | re.DOTALL)]
    calls = [node for source in sources for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Call)]
    ours = [call for call in calls if ast.unparse(call.func).startswith("cdtool.")]
    assert {ast.unparse(call.func) for call in ours} >= {"cdtool.train", "cdtool.sample", "cdtool.merge"}
    for call in ours:
        function = getattr(cdtool, call.func.attr)
        named = {word.arg: None for word in call.keywords if word.arg}
        token = {"token": None} if call.func.attr == "train" else {}
        inspect.signature(function).bind(*call.args, **(token | named))


@pytest.mark.slow
def test_the_quickstart_runs_as_it_stands(home, tmp_path):
    done = subprocess.run([sys.executable, DOCS / "examples" / "quickstart.py"], cwd=tmp_path, capture_output=True,
                          text=True)  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stderr == "", "no library says a word"
    assert len(list(tmp_path.glob("quickstart-*.png"))) == 4
    assert {concept.name for concept in cdtool.concepts()} == {"my-dog", "my-gate", "my-pair"}


def test_a_concept_is_found_and_shows_itself(saved):
    saved("dog")
    (found,) = cdtool.concepts()
    assert found == cdtool.load("dog") == cdtool.load(found.path)
    assert "<b>dog</b>" in found._repr_html_()
    assert "V* dog" in found._repr_html_()
    with pytest.raises(cdtool.NotFoundError) as caught:
        cdtool.load("dgo")
    assert "dog" in caught.value.hint
