"""cdtool analyze change and attention: what a concept changed, and where its words are looked for."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cdtool.cli import options, output
from cdtool.errors import ConceptError, ResourceError
from cdtool.sampling import run as sampling
from cdtool.store import bases, registry

if TYPE_CHECKING:
    from PIL import Image

    from cdtool.cli.output import Output
    from cdtool.research.attention import Attended

File = Annotated[
    Path | None,
    typer.Option("--out", "-o", metavar="FILE", help="The image file; a PNG in this folder."),
]
Prompt = Annotated[str, typer.Argument(metavar="PROMPT", help='Like "V1 dog next to V2 cat".')]

ARTICLES = ("a", "an", "the")  # words that say nothing of what is shown


def change(
    concept: options.Concept,
    out: File = None,
    base: options.Base = None,
    force: options.OtherBase = False,
    json: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """Plot how much each kind of layer changed.

    Bars for the base's cross-attention, self-attention and the rest: the paper's figure 3. The figure compares layers
    that were all free to change: train with --method full. Of a concept that changes keys and values only, the other
    bars are zero.

    Examples:
      cdtool train ./photos --token "V* dog" --method full -o dog-full
      cdtool analyze change dog-full -o change.png
    """
    voice = output.sink(json, quiet)
    entry = registry.find(concept)
    name = base or registry.base_of(entry)
    bases.locate(name)
    target = out or Path(f"{entry.name}-change.png")
    options.check_picture(target, "--out")
    output.quiet_libraries()
    from cdtool.models import pipelines
    from cdtool.reports import charts
    from cdtool.research import attention as analysis
    from cdtool.store import concept as concepts

    loaded = pipelines.load(name, device="cpu", parts=())
    pipelines.check_base(entry, loaded, force=force)
    found = analysis.changes(loaded, concepts.read_tensors(entry.path))
    summary = found.summary()
    if not any(kind["changed"] for kind in summary.values()):
        raise ConceptError(f'"{entry.name}" changes no weight of the denoiser.', "It is its learned word alone.")
    kinds = {kind: found.of(kind) for kind in (analysis.CROSS, analysis.SELF, analysis.REST)}
    title = f"{entry.name}: mean change of each kind of layer"
    _save(voice, charts.bars(title, kinds, "|change| / |weights|"), target)
    if summary[analysis.SELF]["changed"] + summary[analysis.REST]["changed"] == 0:
        method = entry.manifest.method if entry.manifest else "kv"
        voice.talk(f'"{entry.name}" ({method}) was free to change {_kinds(found)} only; see --method full.')
    lines = [f"{kind}  {_told(summary[kind])}" for kind in kinds]
    data = {"name": entry.name, "base": name, "picture": str(target), "kinds": summary}
    voice.results([*lines, str(target)], data | {"layers": [asdict(layer) for layer in found.layers]})


def attention(
    concept: options.Subject,
    prompt: Prompt,
    out: File = None,
    seed: options.Seed = None,
    steps: options.Steps = None,
    guidance: options.Guidance = None,
    scheduler: options.SchedulerFlag = None,
    base: options.Base = None,
    precision: options.Precision = None,
    device: options.Device = "auto",
    force: options.OtherBase = False,
    json: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """Plot where each word of a prompt is attended to.

    One map per word, as in the paper's figure 19. A map is the share of the cross-attention a word gets at each latent
    cell, averaged over steps, heads and layers; its brightest cell is its own largest share.

    Examples:
      cdtool analyze attention dog+cat "V1 dog next to V2 cat" -o attention.png
      cdtool analyze attention mini "a dog and a cat on the beach" --seed 7
    """
    voice = output.sink(json, quiet)
    plan = sampling.plan(concept, prompt, n=1, seed=seed, steps=steps, guidance=guidance,
                         scheduler=scheduler, precision=precision, base=base, device=device, force=force)  # fmt: skip
    subject, chosen = plan.subject, plan.settings
    target = out or Path(f"{subject.label}-attention.png")
    options.check_picture(target, "--out")
    output.quiet_libraries()
    from cdtool.models import pipelines
    from cdtool.research import attention as analysis

    loaded = pipelines.for_sampling(subject.base, chosen, device)
    for warning in plan.warnings():
        voice.warn(warning)
    found = analysis.attend(loaded, subject.concepts, prompt, chosen, weights=subject.weights, force=force)
    _save(voice, _maps(found), target)
    lines = [f"{word.text}  {word.share:.3f}" for word in found.words]
    data = {"subject": subject.text, "base": subject.base, "prompt": prompt, "seed": chosen.seed,
            "picture": str(target), "start": found.start, "end": found.end,
            "words": [{"word": word.text, "positions": word.positions, "share": word.share,
                       "map": word.map.round(6).tolist()} for word in found.words]}  # fmt: skip
    voice.results([*lines, str(target)], data)


def _kinds(found: Any) -> str:
    changed = [layer.name.rpartition(".")[2] for layer in found.layers if layer.change]
    return "keys and values" if {*changed} <= {"to_k", "to_v"} else "the cross-attention"


def _told(kind: dict[str, float]) -> str:
    return (
        f"{kind['mean']:.4f}  ({kind['changed']:.0f} of {kind['layers']:.0f} layers changed, "
        f"{kind['share']:.1%} of the numbers)"
    )


def _maps(found: Attended) -> Image.Image:
    """The image, and over it the map of each word that means something, all on one scale."""
    from cdtool.images.sheets import labelled
    from cdtool.reports.charts import heat

    cells = [("the image", found.image)]
    words = [word for word in found.words if word.text.lower() not in ARTICLES] or list(found.words)
    top = max(float(word.map.max()) for word in words)
    cells += [(f"{word.text}  {word.share:.3f}", heat(found.image, word.map, top=top)) for word in words]
    return labelled(cells, side=224, columns=5, font=18)


def _save(voice: Output, image: Image.Image, path: Path) -> None:
    try:
        image.save(path)
    except OSError as error:
        raise ResourceError(f"{path} could not be written: {error.strerror or error}.", "Free some disk.") from None
    voice.talk(f"Image: {path}")
