"""How fast commands without a model answer, against `import torch`; bar 0.4x, and torch stays out of sys.modules.

    python -m tests.benchmarks.bench_start

Processes take turns; the disk cache is warm.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence

from tests.benchmarks import shapes

CONCEPTS = 20
COMMANDS: dict[str, tuple[Sequence[str], Mapping[str, str]]] = {
    "cdtool --help": (["--help"], {}),
    "cdtool list": (["list"], {}),
    "cdtool show": (["show", "concept-7"], {}),
    "completion": ([], {"COMP_WORDS": "cdtool show c", "COMP_CWORD": "2", "_CDTOOL_COMPLETE": "complete_bash"}),
}
_RUN = "import sys\nfrom cdtool.cli import main\ntry: code = main()\nexcept SystemExit as end: code = end.code\n"
_CHECK = "print('torch' in sys.modules, file=sys.stderr)\n"


def main() -> None:
    """Measure and print."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--rounds", type=int, default=7)
    chosen = options.parse_args()
    with tempfile.TemporaryDirectory() as home:
        os.environ["CDTOOL_HOME"] = home
        fill()
        for name, (arguments, variables) in COMMANDS.items():
            check_light(name, arguments, variables)
        works = [lambda: python("import torch")]
        works += [lambda a=arguments, v=variables: python(_RUN, a, v) for arguments, variables in COMMANDS.values()]
        works[0]()  # warms the disk cache
        times = [shapes.median(found) for found in shapes.alternate(works, chosen.rounds)]
    rows = [["import torch", times[0], 1.0]]
    rows += [[name, taken, taken / times[0]] for name, taken in zip(COMMANDS, times[1:], strict=True)]
    about = f"median of {chosen.rounds} processes each, {CONCEPTS} concepts; {shapes.machine()}"
    shapes.report("Commands without a model", rows, ["what", "seconds", "ratio"], about)


def python(code: str, arguments: Sequence[str] = (), variables: Mapping[str, str] | None = None) -> str:
    """Run a Python program; what it wrote to stderr."""
    command = [sys.executable, "-c", code, *arguments]
    done = subprocess.run(command, env=os.environ | (variables or {}), capture_output=True, text=True, check=True)
    return done.stderr


def check_light(name: str, arguments: Sequence[str], variables: Mapping[str, str]) -> None:
    """The command runs and leaves torch alone."""
    said = python(_RUN + _CHECK + "sys.exit(code)", arguments, variables).split()
    assert said[-1:] == ["False"], f"{name} imported torch"


def fill() -> None:
    """A registry of concepts with as many tensors as one of SD 1.x has, of small sizes."""
    import torch

    from cdtool.store import registry
    from cdtool.store.concept import BaseRef, Manifest
    from cdtool.tokens import Token

    for number in range(CONCEPTS):
        token = Token("dog", initializer="ktn", ids=(7,))
        names = [f"unet.block.{block}.attn2.{kind}.weight" for block in range(16) for kind in ("to_k", "to_v")]
        tensors = {name: torch.full((4, 3), float(number), dtype=torch.float16) for name in names}
        tensors["token.1.text_encoder"] = torch.zeros(3)
        manifest = Manifest(f"concept-{number}", BaseRef("mini", "sd", "f00d" * 8), (token,))
        registry.save(manifest, tensors)


if __name__ == "__main__":
    main()
