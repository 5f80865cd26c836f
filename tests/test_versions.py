"""The lowest versions that pyproject allows, installed in an environment of their own, pass the fast tests."""

from __future__ import annotations

import os
import re
import subprocess
import venv
from pathlib import Path

import pytest
import tomli

ROOT = Path(__file__).parents[1]
# What cannot be brought to its lowest here: for torch there is one wheel without CUDA at hand, that of the tests.
AS_THEY_ARE = ("torch", "ruff", "mypy", "setuptools")


def lowest():
    """`name==version` for the lower bound of every dependency, those of the tests included."""
    project = tomli.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    named = project["dependencies"] + project["optional-dependencies"]["test"]
    bounds = [re.fullmatch(r"([\w-]+)>=([\d.]+)(,.*)?", text.replace(" ", "")).groups()[:2] for text in named]
    return [f"{name}=={version}" for name, version in bounds if name not in AS_THEY_ARE]


def test_every_dependency_has_one_lower_bound():
    assert len(lowest()) > 15
    assert "transformers==4.57.0" not in lowest()  # withdrawn


@pytest.mark.slow
def test_the_lowest_versions_pass_the_fast_tests(tmp_path):
    import torch

    venv.create(tmp_path / "env", with_pip=True)
    python = tmp_path / "env" / ("Scripts" if os.name == "nt" else "bin") / "python"
    pinned = [f"torch=={torch.__version__}", *lowest()]
    made = subprocess.run([python, "-m", "pip", "install", "-q", *pinned], capture_output=True, text=True, check=False)
    if made.returncode and "Could not find a version" not in made.stderr:
        pytest.skip(f"no registry: {made.stderr[-300:]}")
    assert made.returncode == 0, made.stderr[-2000:]  # a bound that names no release
    words = [python, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--ignore=tests/test_versions.py"]
    done = subprocess.run(words, cwd=ROOT, env=os.environ | {"PYTHONPATH": str(ROOT)}, capture_output=True, text=True,
                          check=False)  # fmt: skip
    assert done.returncode == 0, done.stdout[-5000:]
