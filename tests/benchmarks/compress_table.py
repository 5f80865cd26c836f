"""Compressed concepts of mini: text and image alignment and file size by share of the spectrum (the paper's figure 15).

    python -m tests.benchmarks.compress_table dog cat castle --json build/compress.json --sheet build/compress.png

Concepts that CDTOOL_HOME lacks are trained first with the base's defaults; each share draws 5 prompts x 8 samples with
the same seeds. The second table says what the shares would weigh on Stable Diffusion 1.x and XL if the singular values
of their matrices fell over their ranks as mini's do: each matrix keeps the mean measured fraction of its ranks.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import math
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from PIL import Image

from cdtool import cli
from cdtool.compression import truncation
from cdtool.compression.goals import Goal
from cdtool.evaluation import evaluate
from cdtool.images import sheets
from cdtool.models import deltas, spectra
from cdtool.store import bases, registry
from tests.benchmarks import shapes

NAMES = ("dog", "cat", "house", "castle", "flower")
PHOTOS = bases.MINI.parent / "photos"
SHARES = (1.0, 0.8, 0.6, 0.4, 0.2, 0.1)
# Widths of the K/V matrices (a pair for each) and the text width: docs/differences.md 1.1.
FULL = {"SD 1.x": ([320] * 5 + [640] * 5 + [1280] * 6, 768), "SDXL": ([640] * 10 + [1280] * 60, 2048)}


def main() -> None:
    """Train what is missing, compress, measure and print."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("names", nargs="*", default=NAMES)
    options.add_argument("--count", type=int, default=8, help="samples of each prompt")
    options.add_argument("--shares", type=float, nargs="+", default=SHARES)
    options.add_argument("--train", default="", help="more arguments of cdtool train, in one string")
    options.add_argument("--sample", default="", help="more arguments of cdtool sample, in one string")
    options.add_argument("--json", type=Path, help="where all figures go")
    options.add_argument("--sheet", type=Path, help="where a sheet of samples goes: a row per share")
    chosen = options.parse_args()
    begun = time.perf_counter()
    found: list[dict[str, Any]] = []
    fractions: dict[float, list[float]] = {share: [] for share in chosen.shares}
    for name in chosen.names:
        found += measured(name, chosen, fractions)
    rows = [row(share, [one for one in found if one["share"] == share]) for share in chosen.shares]
    about = f"{len(chosen.names)} concepts, {found[0]['prompts']} prompts x {chosen.count} samples; {shapes.machine()}"
    shapes.report("Compressed concepts", rows, ("share", "file", "error", "text", "image"), about)
    sizes = {family: [full_size(family, fractions[share]) for share in chosen.shares] for family in FULL}
    shapes.report(
        "Sizes on full-size bases, at mini's fractions of the ranks",
        [(f"{share:.0%}", *(megabytes(sizes[family][place]) for family in FULL))
         for place, share in enumerate(chosen.shares)],
        ("share", *FULL), "fp16 factors, no matrix larger than dense; an extrapolation from mini",
    )  # fmt: skip
    if chosen.sheet:
        sheet(found).save(chosen.sheet)
    if chosen.json:
        kept = [{key: value for key, value in one.items() if key != "pictures"} for one in found]
        about_run = {"seconds": time.perf_counter() - begun, "machine": shapes.machine(), "count": chosen.count}
        chosen.json.write_text(json.dumps({"concepts": kept, "full_size_bytes": sizes, **about_run}, indent=1))


def measured(name: str, chosen: argparse.Namespace, fractions: dict[float, list[float]]) -> list[dict[str, Any]]:
    """The figures of one concept at each share."""
    if name not in registry.names():
        known = json.loads((PHOTOS / "concepts.json").read_text())
        spec = next(entry["token"] for entry in known if entry["name"] == name)
        cdtool("train", PHOTOS / name, "--token", spec, "-o", name, "--base", "mini", "-q", *chosen.train.split())
    source = truncation.read(registry.find(name))
    parts = list(spectra.decompose(source.tensors))
    found = []
    for share in chosen.shares:
        fractions[share] += [deltas.rank_for(part.values, share) / len(part.values) for part in parts]
        small = truncation.truncate(source, parts, Goal(energy=share), f"{name}-{share * 100:.0f}-percent")
        entry = truncation.save(source, small, force=True)
        try:
            scores, pictures = drawn(entry.name, chosen)
        finally:
            registry.remove(entry.name)
        about = {"name": name, "share": share, "bytes": small.bytes, "whole": source.entry.bytes, "error": small.error}
        found.append(about | scores["concept"] | {"prompts": scores["prompts"], "pictures": pictures})
        print(f"{name} {share:.0%}: {small.bytes} bytes, {scores['concept']}", file=sys.stderr, flush=True)
    return found


def drawn(name: str, chosen: argparse.Namespace) -> tuple[dict[str, Any], list[Image.Image]]:
    """What `cdtool eval` says of a concept's samples, and the first of each prompt."""
    prompts = evaluate.plan(name).prompts
    with tempfile.TemporaryDirectory() as folder:
        paths = cdtool("sample", name, *prompts, "-n", chosen.count, "--out", folder, "-q", *chosen.sample.split())
        told = cdtool("eval", name, "--images", folder, "--json")
        firsts = [Image.open(path).copy() for path in paths.split("\n")[: len(prompts) * chosen.count : chosen.count]]
    return json.loads(told), firsts


def cdtool(*arguments: object) -> str:
    """Run a command in this process: what it printed."""
    with contextlib.redirect_stdout(io.StringIO()) as said:
        code = cli.main([str(argument) for argument in arguments])
    assert code == 0, f"cdtool {arguments} ended with {code}"
    return said.getvalue().strip()


def row(share: float, found: list[dict[str, Any]]) -> list[object]:
    """A line of the table: means over the concepts."""
    means = {key: statistics.mean(one[key] for one in found) for key in ("bytes", "whole", "error", "text", "image")}
    file = f"{means['bytes'] / 1000:.0f} kB ({means['bytes'] / means['whole']:.0%})"
    return [f"{share:.0%}", file, means["error"], means["text"], means["image"]]


def full_size(family: str, fractions: list[float]) -> int:
    """Bytes of the matrices of a full-size concept that keeps this fraction of the ranks of each."""
    widths, d = FULL[family]
    ranks = [max(1, math.ceil(statistics.mean(fractions) * min(o, d))) for o in widths]
    return sum(2 * 2 * min(rank * (o + d), o * d) for rank, o in zip(ranks, widths, strict=True))


def megabytes(count: int) -> str:
    """Bytes as the table shows them."""
    return f"{count / 1e6:.1f} MB"


def sheet(found: list[dict[str, Any]]) -> Image.Image:
    """A row per concept and share: the first sample of each prompt."""
    return sheets.contact_sheet(
        [sheets.Row(f"{one['name']}, {one['share']:.0%} of the spectrum, {one['bytes'] / 1000:.0f} kB", one["pictures"])
         for one in found]
    )  # fmt: skip


if __name__ == "__main__":
    main()
