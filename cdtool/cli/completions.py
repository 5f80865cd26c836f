"""Write the shell completion files: `python -m cdtool.cli.completions [FOLDER]`, by default completions/."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

FILES = {"bash": "cdtool.bash", "zsh": "_cdtool", "fish": "cdtool.fish"}


def script(shell: str) -> str:
    """The completion script of a shell, as the command line itself gives it."""
    environment = os.environ | {"_CDTOOL_COMPLETE": f"source_{shell}"}
    code = "import sys; from cdtool.cli import main; sys.exit(main([]))"
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    return done.stdout.strip() + "\n"


def write(folder: Path) -> None:
    """Write all completion files into `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    for shell, name in FILES.items():
        (folder / name).write_text(script(shell), encoding="utf-8")


if __name__ == "__main__":
    write(Path(sys.argv[1] if len(sys.argv) > 1 else "completions"))
