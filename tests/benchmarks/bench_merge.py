"""The `cdtool merge` command on two dense concepts of SD 1.x shape, cold from a shell, on a CPU.

    python -m tests.benchmarks.bench_merge
    python -m tests.benchmarks.bench_merge --base tiny

Bars: the first merge on a base 30 s, later ones 8 s, 1.5 GB of memory, 1.6 MB, constraint error 1e-8 and 1e-3.
The concepts are random, so the doctor may find them lost; --force saves the merge all the same. The random bases'
tokenizer has few words and would spell the shipped captions letter by letter, so there are as many others in its own
words, as long as CLIP finds the shipped ones. CPU seconds tell what a busy machine hides.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch

from cdtool.models import initializers, pipelines
from cdtool.priors import captions as reg_captions
from cdtool.store import registry
from cdtool.store.concept import BaseRef, Manifest
from cdtool.tokens import Token
from tests import tiny_pipelines
from tests.benchmarks import shapes

NOUNS = ("dog", "cat", "beach", "photo")


def main() -> None:
    """Measure and print."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--base", default="sd15-random")
    options.add_argument("--concepts", type=int, default=2, choices=range(2, len(NOUNS) + 1))
    options.add_argument("--rounds", type=int, default=3, help="later merges")
    chosen = options.parse_args()
    name = str(Path(shapes.base(chosen.base)).absolute())
    with tempfile.TemporaryDirectory() as home:
        os.environ["CDTOOL_HOME"] = home
        captions = write(Path(home) / "captions.txt") if chosen.base in shapes.MAKERS else reg_captions.SHIPPED
        save(name, NOUNS[: chosen.concepts])
        runs = [run(NOUNS[: chosen.concepts], f"merged-{number}", captions) for number in range(chosen.rounds + 1)]
    rows = [["first" if number == 0 else "later", *found] for number, found in enumerate(runs)]
    head = [
        "merge",
        "seconds",
        "CPU seconds",
        "peak memory, MB",
        "file, MB",
        "rows",
        "error, float64",
        "error, as saved",
    ]
    about = f"{chosen.concepts} dense fp16 concepts on {chosen.base}, each run a process; {shapes.machine()}"
    shapes.report("Merging", rows, head, about)


def save(name: str, nouns: tuple[str, ...]) -> None:
    """Random dense concepts of a base in the registry."""
    base = pipelines.load(name, precision="fp32", device="cpu", parts=("text",))
    for seed, noun in enumerate(nouns):
        generator = torch.Generator().manual_seed(seed)
        tokens = initializers.assign(base.tokenizers, [Token(noun)])
        tensors = {f"unet.{module}.weight": (1e-3 * torch.randn(weight.shape, generator=generator)).half()
                   for module, weight in base.kv.items()}  # fmt: skip
        for part, encoder in zip(base.family.encoders, base.text_encoders, strict=True):
            tensors[f"token.1.{part}"] = 0.02 * torch.randn(encoder.config.hidden_size, generator=generator)
        registry.save(Manifest(noun, BaseRef(name, base.family.name, base.fingerprint), tokens), tensors)


def write(path: Path) -> Path:
    """Captions of the tokenizer's words: 1.15 tokens, as CLIP has, for each word of the shipped ones."""
    draw = random.Random(0)
    lengths = [
        round(1.15 * len(line.split())) for line in reg_captions.SHIPPED.read_text(encoding="utf-8").splitlines()
    ]
    lines = [" ".join(draw.choices(tiny_pipelines.WORDS, k=length)) for length in lengths]
    path.write_text("\n".join(lines), encoding="utf-8")
    return path


def run(nouns: tuple[str, ...], target: str, captions: Path) -> list[Any]:
    """One merge in a process of its own: seconds, CPU seconds, peak memory and file in MB, rows, errors."""
    command = [sys.executable, "-c", _PROGRAM, "merge", *nouns, "-o", target, "--captions", str(captions)]
    command += ["--force", "--json"]
    begun = time.perf_counter()
    done = subprocess.run(command, capture_output=True, text=True)
    taken = time.perf_counter() - begun
    assert done.returncode == 0, done.stderr
    *_, told, used, peak = done.stdout.splitlines()
    found = json.loads(told)
    report = found["report"]
    told_of = [report["rows"], report["error"], report["saved_error"]]
    return [taken, float(used), round(int(peak) / _UNIT), found["bytes"] / 1e6, *told_of]


_UNIT = 1e6 if sys.platform == "darwin" else 1e3  # ru_maxrss is in bytes there, in kB elsewhere
_PROGRAM = """import sys, resource
from cdtool.cli import main
code = main()
used = resource.getrusage(resource.RUSAGE_SELF)
print(used.ru_utime + used.ru_stime)
print(used.ru_maxrss)
sys.exit(code)
"""

if __name__ == "__main__":
    main()
