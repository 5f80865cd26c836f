"""The layer rule, read off the imports; and what must stay light at run time."""

from __future__ import annotations

import ast
import json
import os
import subprocess
import sys
from graphlib import TopologicalSorter
from pathlib import Path

import pytest
from house import ORDER

from cdtool import cli

PACKAGE = Path(__file__).parent.parent / "cdtool"
SLOW = {"torch", "diffusers", "transformers", "accelerate", "torchmetrics", "matplotlib"}
LIGHT_PACKAGES = ("errors", "methods", "schema", "files", "paths", "settings", "sources", "tokens", "store")
HEAVY = {name: SLOW | {"numpy", "PIL"} for name in LIGHT_PACKAGES} | {"images": SLOW}  # not imported at a package's top
FILES = [path for path in sorted(PACKAGE.rglob("*.py")) if "docs" not in path.relative_to(PACKAGE).parts]
CORE = [path for path in FILES
        if not {"cli", "mini"} & set(path.relative_to(PACKAGE).parts) and not path.stem.startswith("__")]  # fmt: skip
TALKERS = {"typer", "rich", "argparse", "click"}


def imports(path, inside):
    """Names of modules a file imports: everywhere, or outside functions and TYPE_CHECKING only."""
    found = set()

    def visit(node):
        if not inside and isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            return
        if isinstance(node, ast.If) and getattr(node.test, "id", "") == "TYPE_CHECKING":
            return
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        if isinstance(node, ast.ImportFrom) and node.module:
            below = (PACKAGE.parent / node.module.replace(".", "/")).is_dir()
            found.update(f"{node.module}.{alias.name}" if below else node.module for alias in node.names)
        for child in ast.iter_child_nodes(node):
            visit(child)

    visit(ast.parse(path.read_text()))
    return found


def own(names):
    return {name.split(".")[1] for name in names if name.startswith("cdtool.") and name.split(".")[1] != "__version__"}


def package(path):
    """The package, or the single module at the top, that a file belongs to."""
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def relative(path):
    return path.relative_to(PACKAGE).as_posix()


def reached(path):
    """Every module that importing a file imports, through the package's own modules too."""
    found, todo = set(), imports(path, inside=False)
    while todo:
        name = todo.pop()
        found.add(name)
        file = PACKAGE.parent / f"{name.replace('.', '/')}.py"
        todo |= (imports(file, inside=False) if file.is_file() else set()) - found
    return found


def test_every_package_has_its_place():
    found = {package(path) for path in FILES if not path.stem.startswith("__")}
    assert found - {"mini"} == set(ORDER)


@pytest.mark.parametrize("path", CORE, ids=relative)
def test_a_package_imports_only_what_stands_before_it(path):
    allowed = ORDER[: ORDER.index(package(path)) + 1]
    assert own(imports(path, inside=True)) <= set(allowed)


def module(path):
    return ".".join(["cdtool", *path.relative_to(PACKAGE).with_suffix("").parts])


def test_nothing_goes_in_a_circle():
    graph = {module(path): imports(path, inside=True) for path in CORE}
    assert set(TopologicalSorter(graph).static_order()) >= graph.keys()


@pytest.mark.parametrize("path", [path for path in CORE if package(path) in HEAVY], ids=relative)
def test_the_light_packages_import_nothing_heavy(path):
    assert not {name.split(".")[0] for name in reached(path)} & HEAVY[package(path)]


@pytest.mark.parametrize("path", CORE, ids=relative)
def test_the_core_neither_prints_nor_parses_nor_exits(path):
    assert not {name.split(".")[0] for name in imports(path, inside=True)} & TALKERS
    called = [node.func for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Call)]
    names = {ast.unparse(function) for function in called}
    assert not names & {"print", "input", "sys.exit", "exit", "quit", "os._exit"}


@pytest.mark.parametrize("path", sorted((PACKAGE / "cli").glob("*.py")), ids=lambda path: path.stem)
def test_the_command_line_imports_the_heavy_inside_its_functions(path):
    assert not {name.split(".")[0] for name in reached(path)} & SLOW
    assert not any(name.split(".")[0] == "click" for name in imports(path, inside=True))


@pytest.mark.parametrize(
    "path", [path for path in sorted(PACKAGE.rglob("*.py")) if package(path) != "docs"], ids=relative
)
def test_only_mini_knows_mini(path):
    tree = ast.parse(path.read_text())
    if package(path) == "mini":
        assert own(imports(path, inside=True)) <= {"mini", "images", "models"}
    else:
        assert "mini" not in own(imports(path, inside=True))
    if tree.body:
        assert ast.get_docstring(tree), "a file begins with a sentence"
        assert path.stem == "__init__" or "from __future__ import annotations" in path.read_text()


def run(*commands, **environment):
    """Run command lines one after the other in one process: what each printed, its exit code, what heavy is loaded."""
    code = (
        "import contextlib, io, json, sys\n"
        "from cdtool.cli import main\n"
        "for command in json.loads(sys.argv[1]):\n"
        "    sys.argv, said = ['cdtool', *command], io.StringIO()\n"
        "    with contextlib.redirect_stdout(said):\n"
        "        try: code = main()\n"
        "        except SystemExit as end: code = end.code\n"
        f"    print(json.dumps([said.getvalue(), code, sorted({SLOW} & sys.modules.keys())]))\n"
    )
    done = subprocess.run([sys.executable, "-c", code, json.dumps(commands)], env=os.environ | environment,
                          capture_output=True, text=True, check=True)  # fmt: skip
    return [json.loads(line) for line in done.stdout.splitlines()]


LIGHT = [["--help"], ["--version"], ["list"], ["list", "--json"], ["show", "dog"], ["config"],
         ["prior", "list", "--json"], *([name, "--help"] for name in (*cli._COMMANDS, *cli._GROUPS))]  # fmt: skip


def test_light_commands_leave_torch_alone(saved):
    saved("dog")
    for command, (said, code, heavy) in zip(LIGHT, run(*LIGHT), strict=True):
        assert (code, heavy) == (0, []), command
        assert said, command


def test_completion_leaves_torch_alone_and_knows_concepts(saved):
    saved("dog")
    saved("dragon")
    words = {"COMP_WORDS": "cdtool show d", "COMP_CWORD": "2", "_CDTOOL_COMPLETE": "complete_bash"}
    ((said, _, heavy),) = run([], **words)
    assert said.split() == ["dog", "dragon"]
    assert heavy == []
