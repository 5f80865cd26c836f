"""The completion files are what the tool gives, and a shell can use them."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from cdtool.cli import completions


@pytest.mark.parametrize("shell", completions.FILES)
def test_the_files_are_up_to_date(shell, root):
    assert (root / "completions" / completions.FILES[shell]).read_text() == completions.script(shell)


def test_write(tmp_path, root):
    completions.write(tmp_path / "new")
    assert sorted(path.name for path in (tmp_path / "new").iterdir()) == sorted(completions.FILES.values())


@pytest.mark.skipif(not shutil.which("bash"), reason="needs bash")
@pytest.mark.parametrize(
    ("words", "completed"),
    [
        ("show d", "dog"),
        ("sample dog : 0.8+d", "0.8+dog"),  # as bash splits dog:0.8+d; it keeps "dog:" itself
        ("sample dog : 0.8+x", ""),
    ],
)
def test_bash_completes_a_concept(saved, root, tmp_path, words, completed):
    saved("dog")
    (tmp_path / "cdtool").write_text(f'#!/bin/sh\nexec {sys.executable} -m cdtool "$@"\n')
    (tmp_path / "cdtool").chmod(0o755)
    script = root / "completions" / "cdtool.bash"
    typed = f"COMP_WORDS=(cdtool {words}); COMP_CWORD={len(words.split())}; _cdtool_completion cdtool"
    lines = f'source {script}; {typed}; echo "${{COMPREPLY[@]}}"'
    path = f"{tmp_path}{os.pathsep}{os.environ['PATH']}"
    done = subprocess.run(["bash", "-c", lines], env=os.environ | {"PATH": path}, capture_output=True, text=True)
    assert done.stdout.strip() == completed, done.stderr
    assert Path(script).read_text().endswith("\n")
