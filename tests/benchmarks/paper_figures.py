"""Figures 3, 18 and 19 of the paper remade from the concepts a suite has trained.

    CDTOOL_HOME=~/bench python -m tests.benchmarks.paper_figures --suite mini --out cdtool/mini/card/paper

Writes change.png (mean change of each kind of layer over concepts whose whole denoiser was tuned), init.png (what a
plain class word draws after training, by what V* began as) and attention.png (where each word of a pair's prompt is
looked for, in the merged and in the bare base).
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean

from PIL import Image

from cdtool import sources
from cdtool.cli.output import quiet_libraries
from cdtool.images import sheets
from cdtool.models import pipelines
from cdtool.models.pipelines import Base
from cdtool.reports import charts
from cdtool.research import attention as analysis
from cdtool.research import suite as suitefile
from cdtool.sampling import sample
from cdtool.settings import SampleSettings
from cdtool.store import bases, registry
from cdtool.store.concept import read_tensors
from cdtool.store.registry import Concept

INITS = ("Ours", "Ours, normal init", "Ours, frozen V*")
TUNED = "Fine-tune all"


def stored(suite: str, row: str, things: str) -> Concept:
    """The concept a suite trained or merged."""
    return registry.find(f"{suite}.{registry.slug(row)}.{things}")


def change(base: Base, entries: Sequence[Concept]) -> Image.Image:
    """Figure 3: every layer's relative change, its mean over the concepts."""
    loaded = pipelines.load(base.name, device="cpu", parts=())
    found = [analysis.changes(loaded, read_tensors(entry.path)) for entry in entries]
    kinds = {
        kind: [fmean(values) for values in zip(*(one.of(kind) for one in found), strict=True)]
        for kind in (analysis.CROSS, analysis.SELF, analysis.REST)
    }
    for kind, values in kinds.items():
        print(f"{kind}: mean change {fmean(values):.4f} of {len(values)} layers, {len(entries)} concepts")
    title = f"All of the denoiser tuned, mean of {len(entries)} concepts: change of each kind of layer"
    return charts.bars(title, kinds, "|change| / |weights|")


def init(base: Base, suite: str, names: Sequence[str], drawing: SampleSettings) -> Image.Image:
    """Figure 18: the plain class, the same seeds, before and after training by what V* began as."""
    rows = []
    for name in names:
        first = stored(suite, INITS[0], name)
        assert first.manifest is not None
        prompt = f"photo of a {first.manifest.tokens[0].noun}"
        rows.append(
            sheets.Row(f'"{prompt}": the base', [one.image for one in sample.generate(base, (), [prompt], drawing)])
        )
        for row in INITS:
            drawn = sample.generate(base, [stored(suite, row, name)], [prompt], drawing)
            rows.append(sheets.Row(f'"{prompt}": {row}', [one.image for one in drawn]))
    return sheets.contact_sheet(rows, side=96)


def attention(base: Base, entry: Concept, plain: str, prompt: str, drawing: SampleSettings) -> Image.Image:
    """Figure 19: a map per word, of the bare base and of a merged concept."""
    parts = []
    for entries, asked in (((), plain), ([entry], prompt)):
        found = analysis.attend(base, entries, asked, drawing)
        cells = [(asked, found.image)]
        cells += [(f"{word.text}  {word.share:.3f}", charts.heat(found.image, word.map)) for word in found.words]
        parts.append(sheets.labelled(cells, side=128, columns=12))
    return sheets.stacked(parts)


def main() -> None:
    """Draw and write the three."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--suite", default="mini")
    options.add_argument("--base", default="mini")
    options.add_argument("--concepts", nargs="+", default=["dog", "cat", "house", "castle", "flower"])
    options.add_argument("--inits", nargs="+", default=["dog", "castle"])
    options.add_argument("--pair", default="moongate-dog")
    options.add_argument("--prompt", default="photo of a V2 dog in front of a V1 moongate on the grass")
    options.add_argument("--plain", default="photo of a dog in front of a gate on the grass")
    options.add_argument("--out", type=Path, default=Path("paper"))
    chosen = options.parse_args()
    quiet_libraries()
    suite = suitefile.read(suitefile.SHIPPED[chosen.suite]).name
    base = pipelines.load(chosen.base)
    drawing, _ = sources.resolve(SampleSettings, {"count": 8, "steps": 25, "batch": 8}, bases.locate(chosen.base))
    chosen.out.mkdir(parents=True, exist_ok=True)
    change(base, [stored(suite, TUNED, name) for name in chosen.concepts]).save(chosen.out / "change.png")
    init(base, suite, chosen.inits, drawing).save(chosen.out / "init.png")
    pair = registry.find(f"{suite}.optimization.merge.{chosen.pair}")
    attention(base, pair, chosen.plain, chosen.prompt, drawing).save(chosen.out / "attention.png")


if __name__ == "__main__":
    main()
