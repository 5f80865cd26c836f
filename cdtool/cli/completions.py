"""Write the shell completion files: `python -m cdtool.cli.completions [FOLDER]`, by default completions/."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

FILES = {"bash": "cdtool.bash", "zsh": "_cdtool", "fish": "cdtool.fish"}

# typer's own script for bash loses words with a colon, such as dog:0.8+cat, which bash hands over in pieces.
BASH = """_cdtool_completion() {
    local IFS=$'\\n' words=() word last n
    for word in "${COMP_WORDS[@]:0:COMP_CWORD+1}"; do
        n=$(( ${#words[@]} - 1 ))
        if (( n >= 0 )) && [[ $word == :* || ${words[n]} == *: ]]; then
            words[n]+=$word
        else
            words+=("$word")
        fi
    done
    n=$(( ${#words[@]} - 1 ))
    last=${words[n]}
    COMPREPLY=( $( env COMP_WORDS="${words[*]}" COMP_CWORD=$n _CDTOOL_COMPLETE=complete_bash $1 ) )
    COMPREPLY=( "${COMPREPLY[@]#"${last%"${last##*:}"}"}" )
    return 0
}

complete -o default -F _cdtool_completion cdtool
"""


def script(shell: str) -> str:
    """The completion script of a shell: as the command line itself gives it, for bash with words joined at colons."""
    if shell == "bash":
        return BASH
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
