"""Every method's rate and number of steps for the embedded base, found with the same effort for each.

    CDTOOL_HOME=~/tuning python -m tests.benchmarks.tune_methods

Each method gets the same number of tries (--rates times --lengths) on two concepts that stand in no table: 10 prompts x
4 samples of 25 steps. Kept is the best image alignment among tries that keep nine tenths of the base's text alignment.
What was tried is printed and kept in CDTOOL_HOME/methods.json, with the lines for the base's cdtool.toml, so that it
can be stopped and started.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from cdtool import files, methods, settings, sources
from cdtool.cli.output import quiet_libraries
from cdtool.evaluation import alignment, samples
from cdtool.images import photos
from cdtool.models import encoders, pipelines
from cdtool.models.encoders import Encoder
from cdtool.models.pipelines import Base
from cdtool.sampling import sample
from cdtool.settings import SampleSettings
from cdtool.store import bases, registry
from cdtool.tokens import Token, bind
from cdtool.training import job as jobs
from cdtool.training import plan, run
from tests.benchmarks import shapes

FOLDER = bases.MINI.parent
TUNED_ON = ("bird", "cup")
# Around which rate a method is tried on mini, by a first scan of orders of magnitude (80 steps on one concept): the
# paper's rates for all weights and for a word alone are ten times too small and ten times too large there.
CENTRES = {"textual-inversion": 4e-3, "full": 1e-4, "dreambooth": 1e-4, "lora": 1e-3, "crossattn": 5e-5, "kv": 1.5e-4}
ENOUGH = 0.9  # of the base's text alignment, which a tuned try must keep


@dataclass(frozen=True)
class RunContext:
    """What every cell needs, and the file in which finished cells are kept."""

    base: Base
    encoder: Encoder
    drawing: SampleSettings
    prompts: tuple[str, ...]
    kept: Path

    def cell(self, about: Mapping[str, Any], make: Any) -> dict[str, Any]:
        """A finished cell from the file, or made now."""
        common = [self.base.fingerprint, asdict(self.drawing), self.prompts, self.encoder.spec.name]
        key = hashlib.sha256(json.dumps([about, *common], sort_keys=True, default=str).encode()).hexdigest()[:16]
        done = json.loads(self.kept.read_text()) if self.kept.is_file() else {}
        if key not in done:
            begun = time.perf_counter()
            done[key] = {"about": dict(about), **make()}
            temporary = self.kept.with_suffix(".partial")
            temporary.write_text(json.dumps(done, indent=1))
            temporary.replace(self.kept)
            told = " ".join(f"{name} {value:.3f}" for name, value in done[key]["scores"].items())
            print(f"{about}: {told}, {time.perf_counter() - begun:.0f} s", file=sys.stderr, flush=True)
        found: dict[str, Any] = done[key]
        return found

    def scores(self, concept: str, entry: registry.Concept | None, tokens: Sequence[Token]) -> dict[str, float]:
        """Every metric's mean over the samples of a concept, or of the bare base for the same prompts."""
        prompts = [samples.fill(prompt, tokens) for prompt in self.prompts]
        asked = prompts if entry else [bind(prompt, tokens).plain() for prompt in prompts]
        drawn = sample.generate(self.base, [entry] if entry else [], asked, self.drawing)
        seen = [alignment.Sample(one.image, bind(one.prompt, tokens).plain()) for one in drawn]
        pictures = {concept: [photos.read(photo) for photo in photos.find([FOLDER / "photos" / concept])[0]]}
        return alignment.score(seen, pictures, self.encoder).concept

    def measured(self, label: str, concept: str, flags: Mapping[str, Any]) -> dict[str, Any]:
        """Train a concept by flags, draw it, and tell scores and cost."""
        spec = token_of(concept)
        work = job(self.base, concept, spec, f"{registry.slug(label)}-{concept}", flags)

        def make() -> dict[str, Any]:
            entry, cost = train(self.base, work)
            assert entry.manifest is not None
            return {"scores": self.scores(concept, entry, entry.manifest.tokens), **cost}

        return self.cell({"concept": concept, "settings": asdict(work.settings)}, make)

    def untrained(self, concept: str) -> dict[str, Any]:
        """The base's own samples of the class noun."""
        tokens = jobs.parse_specs([token_of(concept)])
        return self.cell({"concept": concept, "base": True}, lambda: {"scores": self.scores(concept, None, tokens)})


def token_of(concept: str) -> str:
    """How mini's sample photos are called."""
    return next(e["token"] for e in json.loads((FOLDER / "photos/concepts.json").read_text()) if e["name"] == concept)


def job(base: Base, concept: str, spec: str, name: str, flags: Mapping[str, Any]) -> jobs.Job:
    """What `cdtool train` would do with these flags."""
    return jobs.job([FOLDER / "photos" / concept], [spec], name=name, base=base.name, flags=flags)


def train(base: Base, work: jobs.Job) -> tuple[registry.Concept, dict[str, float]]:
    """Train and save, over what had the name before; the entry, and seconds of the steps, numbers and bytes."""
    ended, banked = 0.0, 0.0
    for step in run.train_job(work, base, force=True):
        banked = step.seconds if step.kind == "latents" else banked
        ended = step.seconds if step.kind == "step" else ended
    entry = registry.find(work.name)
    cost = plan.plan(work, str(base.device)).cost
    seconds = {"seconds": ended, "bank_seconds": banked}
    return entry, {**seconds, "numbers": cost.numbers, "rows": cost.embeddings, "bytes": entry.bytes}


def about(context: RunContext) -> str:
    """What was drawn, with what and where."""
    drawn = f"{len(context.prompts)} prompts x {context.drawing.count} samples, {context.drawing.steps} steps"
    dtype = str(context.base.dtype).removeprefix("torch.")
    return f"{drawn}, measured with {context.encoder.spec.name} on {context.base.name}; {shapes.machine(dtype)}"


def mean(values: Iterator[float] | Sequence[float]) -> float:
    """The arithmetic mean."""
    found = list(values)
    return sum(found) / len(found)


def tune(context: RunContext, names: Sequence[str], concepts: Sequence[str], rates: Sequence[float],
         lengths: Sequence[int]) -> None:  # fmt: skip
    """Try every rate (times the method's centre) with every number of steps, and print all tries and the best."""
    rows, best = [], []
    floor = ENOUGH * mean([context.untrained(concept)["scores"]["text"] for concept in concepts])
    for name in names:
        own = CENTRES[name]
        tries = []
        for steps in lengths:
            for rate in rates:
                flags = {"method": name, "steps": steps, "lr": own * rate}
                cells = [context.measured(f"try-{name}", concept, flags) for concept in concepts]
                text, image = (mean([cell["scores"][column] for cell in cells]) for column in ("text", "image"))
                tries.append((text, image, steps, own * rate))
                rows.append([name, steps, f"{own * rate:g}", text, image, mean([cell["seconds"] for cell in cells])])
        good = [one for one in tries if one[0] >= floor]
        text, image, steps, lr = max(good, key=lambda one: one[1]) if good else max(tries)
        best.append(f"[train.{name}]\nsteps = {steps}\nlr = {lr:g} # text {text:.2f}, image {image:.2f}\n")
    head = ["method", "steps", "rate", "text", "image", "training s"]
    shapes.report(f"What was tried, mean over {', '.join(concepts)}", rows, head, about(context))
    print(f"\nBest image alignment among those that keep {ENOUGH:.0%} of the base's text alignment:\n")
    print("\n".join(best))


def main() -> None:
    """Train, sample, measure and print."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--base", default="mini")
    options.add_argument("--prompts", type=int, default=10)
    options.add_argument("-n", "--count", type=int, default=4, help="samples of each prompt")
    options.add_argument("--steps", type=int, default=25, help="of sampling")
    options.add_argument("--methods", nargs="+", default=list(methods.METHODS), choices=list(methods.METHODS))
    options.add_argument("--rates", nargs="+", type=float, default=[0.3, 1.0, 3.0], help="times each method's centre")
    options.add_argument("--lengths", nargs="+", type=int, default=[125, 250], help="steps of training")
    options.add_argument("--tune-on", nargs="+", default=list(TUNED_ON))
    chosen = options.parse_args()
    quiet_libraries()
    base = pipelines.load(chosen.base)
    drawing, _ = sources.resolve(SampleSettings, {"count": chosen.count, "steps": chosen.steps}, base.folder)
    prompts = files.read_prompts(FOLDER / "prompts" / "object.txt")[: chosen.prompts]
    settings.data_dir().mkdir(parents=True, exist_ok=True)
    encoder = encoders.load(encoders.encoder_for(base.folder), str(base.device))
    context = RunContext(
        base, encoder, replace(drawing, batch=16), tuple(prompts), settings.data_dir() / "methods.json"
    )
    tune(context, chosen.methods, chosen.tune_on, chosen.rates, chosen.lengths)


if __name__ == "__main__":
    main()
