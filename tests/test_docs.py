"""The documents tell the truth: the README, the changelog, what .ci/run runs and what the wheel holds."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
import tomli
from house import ORDER

from cdtool import __version__, cli

ROOT = Path(__file__).parent.parent
TEST_COMMAND = re.compile(r"^\.venv/bin/pip install -e .*pytest.*$", re.MULTILINE)


@pytest.fixture
def readme():
    return (ROOT / "README.md").read_text(encoding="utf-8")


def blocks(readme):
    return re.findall(r"^```\w*\n(.*?)^```", readme, re.MULTILINE | re.DOTALL)


def test_the_first_command_installs_and_shows_it_all(readme):
    (first,) = re.findall(r"^python3 -m venv \.venv && .*$", readme, re.MULTILINE)
    assert first.endswith("cdtool demo")
    assert ".venv/bin/pip install ." in first
    assert "torch" in first
    assert readme.index(first) < TEST_COMMAND.search(readme).start()


def test_the_second_command_passes_the_tests_and_is_what_ci_runs(readme):
    assert len(TEST_COMMAND.findall(readme)) == 1
    script = (ROOT / ".ci" / "run").read_text()
    pattern = re.search(r"grep -m 1 -E '(.*)' README\.md", script)[1]
    found = subprocess.run(["grep", "-m", "1", "-E", pattern, ROOT / "README.md"], capture_output=True, text=True)
    assert found.stdout.strip() == TEST_COMMAND.search(readme)[0]
    assert (ROOT / ".ci" / "run").stat().st_mode & 0o111
    subprocess.run(["bash", "-n", ROOT / ".ci" / "run"], check=True)


def test_the_tree_has_every_package_in_the_order_of_the_import_rule(readme):
    (tree,) = [block for block in blocks(readme) if "errors.py" in block and "store/" in block]
    lines = [line.split() for line in tree.splitlines() if line.startswith("  ")]
    assert all(len(words) > 1 for words in lines), "each line says what it is for"
    names = [words[0].removesuffix("/").removesuffix(".py") for words in lines]
    assert [name for name in names if name not in ("assets", "docs", "mini")] == ORDER
    assert {"assets", "docs", "mini"} <= set(names)


def commands(readme):
    """Commands the README names: in backticks, several of a group as `base list|use|show`."""
    for words in re.findall(r"(?<!`)`(?:cdtool )?([a-z|]+(?: [a-z|]+)?)`", readme):
        *group, last = words.split()
        yield from (" ".join([*group, name]) for name in last.split("|"))


@pytest.mark.parametrize(
    "command", [*cli._COMMANDS, *(f"{group} {name}" for group, (_, found) in cli._GROUPS.items() for name in found)]
)
def test_every_command_is_in_the_readme(readme, command):
    assert command in commands(readme)


PAGES = [ROOT / "README.md", ROOT / "CHANGELOG.md", *sorted((ROOT / ".github").glob("*.md")),
         *sorted((ROOT / "cdtool" / "docs").glob("*.md"))]  # fmt: skip


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_to_files_that_exist(page):
    links = [link for link in re.findall(r"\]\(([^)#]+)\)", page.read_text(encoding="utf-8")) if "://" not in link]
    assert not [link for link in links if not (page.parent / link).exists()]


def shell_lines(text):
    """The commands of cdtool in a text, without variables before them; those with a shell's variables are left out."""
    for line in text.replace("\\\n", " ").splitlines():
        found = re.match(r"\s*(?:\$ )?(?:[A-Z_]+=\S+ )*(?:\.venv/bin/)?(cdtool [a-z].*)", line)
        if found and not re.search(r"\$\w|\.\.\.", found[1]):
            yield found[1]


def examples():
    """Every command of cdtool that a --help or a page shows."""
    for page in PAGES:
        for block in blocks(page.read_text(encoding="utf-8")):
            yield from shell_lines(block)


@pytest.mark.parametrize("line", sorted(set(examples())))
def test_examples_of_pages_and_help_are_understood(line):
    words = shlex.split(line, comments=True)[1:]
    words = words[: next((number for number, word in enumerate(words) if word in ("|", ">", ">>", "&&")), None)]
    command = cli.tree()
    context = command.make_context("cdtool", [], resilient_parsing=True)
    while hasattr(command, "commands"):
        name, *words = words
        command = command.commands[name]
    command.make_context(name, words, parent=context)


def test_the_changelog_is_kept():
    changelog = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    versions = re.findall(r"^## \[(.+?)\]", changelog, re.MULTILINE)
    assert versions[0] == "Unreleased"
    assert versions[1] == __version__


def test_every_dependency_says_why_it_is_there():
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    project = tomli.loads(text)["project"]
    extras = [need for needs in project["optional-dependencies"].values() for need in needs]
    for need in project["dependencies"]:
        assert re.search(rf'^  "{re.escape(need)}", *# \w', text, re.MULTILINE), need
        assert ">=" in need
    assert all(">=" in need for need in extras)


def test_nothing_names_a_place_of_the_machine_it_was_made_on():
    names = subprocess.run(["git", "ls-files", "-co", "--exclude-standard"], cwd=ROOT, capture_output=True, text=True)
    endings = {".py", ".md", ".toml", ".bash", ".fish", ".json", ""}
    places = re.compile("|".join(["/" + "work/", "/" + "root/", "/opt/" + "pypi", "/opt/" + "wheels"]))
    for name in names.stdout.splitlines():
        path = ROOT / name
        if path.suffix in endings and path.is_file() and path.stat().st_size < 1_000_000:
            assert not places.search(path.read_text(encoding="utf-8", errors="ignore")), name


@pytest.mark.slow
def test_the_wheel_holds_the_base_but_not_its_card(tmp_path):
    pip = [sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation", "-q", "-w", tmp_path, ROOT]
    subprocess.run(pip, check=True)
    (wheel,) = tmp_path.glob("*.whl")
    names = zipfile.ZipFile(wheel).namelist()
    mini = ROOT / "cdtool" / "mini"
    for part in ("base", "photos", "prompts"):
        kept = {str(path.relative_to(ROOT)) for path in (mini / part).rglob("*") if path.is_file()}
        assert kept
        assert kept <= set(names)
    assert not [name for name in names if "/mini/card/" in name or "/docs/" in name or name.startswith("tests")]
    assert "cdtool/py.typed" in names
