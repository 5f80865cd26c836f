"""cdtool prior make: a set of images of a class, retrieved from a captioned corpus or drawn by the base."""

from __future__ import annotations

import itertools
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cdtool import files, settings
from cdtool.cli import options, output
from cdtool.cli.options import setting
from cdtool.cli.prior import IfMissing, Name, Style, class_of, told
from cdtool.cli.stopping import asked_to_stop
from cdtool.errors import SettingsError, UsageError
from cdtool.priors import sets
from cdtool.priors.sets import Generation, PendingSet, PriorSet
from cdtool.settings import Precision
from cdtool.store import bases, registry
from cdtool.tokens import Token

if TYPE_CHECKING:
    from collections.abc import Iterator

    from cdtool.cli.output import Output
    from cdtool.priors.make import Progress

ClassNoun = Annotated[str, typer.Argument(metavar="CLASS", help='The class noun: "dog".')]
Corpus = Annotated[
    str | None,
    typer.Option("--from", metavar="CORPUS", help="A captioned folder, COCO JSON or webdataset tars; or mini."),
]
Images = Annotated[Path | None, typer.Option("--images", metavar="DIR", help="Where a COCO JSON's images lie.")]
Generate = Annotated[int | None, typer.Option("--generate", metavar="N", help="Let the base draw N instead.", min=1)]
Count = Annotated[int | None, setting(Generation, "count", "--count", help="Retrieve at most so many.", metavar="N")]
Floor = Annotated[
    float | None,
    typer.Option("--floor", metavar="F", help="Least text similarity of a caption; the encoder's own, 0.85 for CLIP."),
]
Steps = Annotated[int | None, setting(Generation, "steps", "--steps", help="Denoising steps.", metavar="N")]
Guidance = Annotated[
    float | None,
    setting(Generation, "guidance", "--guidance", help="Guidance scale; 1 or less: the prompt alone.", metavar="F"),
]
Seed = Annotated[
    int | None, setting(Generation, "seed", "--seed", help="Of the first; the next count up.", metavar="N")
]
Batch = Annotated[int | None, setting(Generation, "batch", "--batch", help="Images drawn at once.", metavar="N")]


def make(
    noun: ClassNoun,
    corpus: Corpus = None,
    images: Images = None,
    generate: Generate = None,
    count: Count = None,
    floor: Floor = None,
    name: Name = None,
    style: Style = False,
    base: options.Base = None,
    steps: Steps = None,
    guidance: Guidance = None,
    seed: Seed = None,
    batch: Batch = None,
    precision: options.Precision = None,
    device: options.Device = "auto",
    force: options.Force = False,
    if_missing: IfMissing = False,
    json: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """Make a set of class images.

    They are retrieved from a captioned corpus by the text similarity of captions, or drawn by the base.

    Examples:
      cdtool prior make dog --from ./coco/annotations/captions_val2017.json
      cdtool prior make "teddy bear" --from ./shards --count 100 --floor 0.8 --name teddies
      cdtool prior make cat --generate 200 --base sd15
    """
    out = output.sink(json, quiet)
    if (corpus is None) == (generate is None):
        raise UsageError("Where shall the images come from?", "Give --from CORPUS, or --generate N.")
    given = {"steps": steps, "guidance": guidance, "seed": seed, "batch": batch}
    how = replace(Generation(), **_given(given | {"count": count if generate is None else generate}))
    _check(how, corpus, given | {"count": count, "floor": floor, "images": images})
    token, chosen = class_of(noun), settings.base_name(base).value
    own = name or registry.slug(token.noun)
    if if_missing and own in sets.names():
        told(out, sets.find(own), "There is a prior set of this name already; nothing to do.")
        return
    sets.check_free(own, force=force)
    folder = bases.locate(chosen)
    output.quiet_libraries()
    if corpus is None:
        made = _draw(out, own, token, style, how, chosen, precision or "auto", device, force)
    else:
        steps_ = _retrieve(own, corpus, images, token, style, how.count, floor, folder, force)
        made = _followed(out, steps_, how.count)
    told(out, made, f'Try: cdtool train ./photos --token "V* {token.noun}" --prior {made.name}')


def _given(values: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in values.items() if value is not None}


def _check(how: Generation, corpus: str | None, given: dict[str, Any]) -> None:
    """Raises UsageError for options of the other way to make a set, SettingsError for numbers out of range."""
    foreign = ("steps", "guidance", "seed", "batch") if corpus is not None else ("count", "floor", "images")
    for name in foreign:
        if given[name] is not None:
            way = "--from" if corpus is not None else "--generate"
            raise UsageError(f"--{name} has no meaning with {way}.", "Leave one of them out.")
    for name in ("count", "steps", "batch"):
        if getattr(how, name) < 1:
            raise SettingsError(f"{name} must be above zero, not {getattr(how, name)}.")
    if given["floor"] is not None and not -1 <= given["floor"] <= 1:
        raise SettingsError(f"floor is a cosine from -1 to 1, not {given['floor']:g}.")


def _retrieve(
    name: str, corpus: str, images: Path | None, token: Token, style: bool, count: int, floor: float | None,
    base_folder: Path, force: bool,
) -> Iterator[Progress]:  # fmt: skip
    from cdtool.images import photos
    from cdtool.models import encoders
    from cdtool.priors import choose
    from cdtool.priors import make as collecting

    path, spec = files.user_path(corpus), encoders.encoder_for(base_folder)
    if (not files.exists(path) and bases.is_name(corpus)) or files.is_file(path / "model_index.json"):
        path = choose.corpus_of(bases.locate(corpus))
    encoder = encoders.load(spec)
    return collecting.retrieve(
        name, path, token.noun, photos.template(token, style), encoder,
        images=images, count=count, floor=floor, style=style, force=force,
    )  # fmt: skip


def _draw(
    out: Output, name: str, token: Token, style: bool, how: Generation, base: str, precision: Precision, device: str,
    force: bool,
) -> PriorSet:  # fmt: skip
    from cdtool.images import photos
    from cdtool.models import pipelines
    from cdtool.priors import make as collecting

    loaded = pipelines.load(base, precision=precision, device=device)
    wanted = PendingSet(name, token.noun, photos.template(token, style), style, how, requested=True)
    with asked_to_stop() as stop:
        return _followed(out, collecting.generate(loaded, wanted, force=force, stop=stop), how.count)


def _followed(out: Output, steps: Iterator[Progress], count: int) -> PriorSet:
    """The set that `steps` end with; what happens before is told."""
    made: list[PriorSet] = []
    first = next(steps)

    def images() -> Iterator[Progress]:
        for step in itertools.chain([first], steps):
            if step.kind == "image":
                yield step
            elif step.kind == "skipped":
                out.talk(f"Skipped {step.reason}.")
            elif step.entry is not None:
                made.append(step.entry)

    if first.kind == "caption":
        parts = -(-first.of // first.done)
        encoded = itertools.chain([first], itertools.islice(steps, parts - 1))
        for _ in out.progress(encoded, parts, label="captions", describe=lambda step: f"{step.done} of {step.of}"):
            pass
    for _ in out.progress(images(), count, label="image"):
        pass
    return made[0]
