"""cdtool sample: pictures of a concept, or of the bare base."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cdtool import files, settings
from cdtool.cli import options, output
from cdtool.cli.options import setting
from cdtool.cli.parsing import BASICS, METHOD, OUTPUT, SPEED
from cdtool.errors import InputError, NotFoundError, UsageError
from cdtool.settings import SampleSettings
from cdtool.store import bases
from cdtool.store import subject as composition
from cdtool.tokens import counted

if TYPE_CHECKING:
    from cdtool.cli.output import Output
    from cdtool.models.pipelines import Base
    from cdtool.sampling.sample import Generated
    from cdtool.store.subject import Composition

_Set = SampleSettings
Subject = Annotated[
    str | None,
    typer.Argument(
        metavar="CONCEPT",
        help="A concept, several (dog+moongate, dog:0.8+cat), or a base.",
        autocompletion=options.complete_subjects,
    ),
]
Prompts = Annotated[list[str] | None, typer.Argument(metavar="PROMPT...", help='Like "V* dog on the beach".')]
Count = Annotated[
    int | None, setting(_Set, "count", "-n", "--count", metavar="N", panel=BASICS, help="Images per prompt.")
]
Eta = Annotated[
    float | None, setting(_Set, "eta", "--eta", metavar="F", panel=METHOD, help="Noise of DDIM: 0 none, 1 as DDPM.")
]
Negative = Annotated[
    str | None,
    setting(_Set, "negative", "--negative", metavar="TEXT", panel=BASICS, shown="nothing", help="What not to draw."),
]
Size = Annotated[
    str | None,
    setting(_Set, "size", "--size", metavar="WxH", panel=BASICS, shown="the base's own", help="Width and height."),
]
Batch = Annotated[
    int | None, setting(_Set, "batch", "--batch", metavar="N", panel=SPEED, help="Images generated at once.")
]
Out = Annotated[
    Path | None,
    typer.Option("--out", metavar="DIR", rich_help_panel=OUTPUT,
                 help="Where images go." + options.default_of("samples/CONCEPT")),
]  # fmt: skip
Grid = Annotated[
    Path | None,
    typer.Option("--grid", metavar="FILE", rich_help_panel=OUTPUT, help="Also write a labelled contact sheet."),
]
Replay = Annotated[
    Path | None,
    typer.Option("--replay", metavar="IMG.png", rich_help_panel=OUTPUT, help="Draw that picture again."),
]


def sample(
    concept: Subject = None,
    prompt: Prompts = None,
    prompts: options.PromptFile = None,
    count: Count = None,
    seed: options.Seed = None,
    steps: options.Steps = None,
    guidance: options.Guidance = None,
    scheduler: options.SchedulerFlag = None,
    eta: Eta = None,
    negative: Negative = None,
    size: Size = None,
    batch: Batch = None,
    base: options.Base = None,
    precision: options.Precision = None,
    device: options.Device = "auto",
    out: Out = None,
    grid: Grid = None,
    replay: Replay = None,
    force: options.OtherBase = False,
    json: options.JsonLines = False,
    quiet: options.Quiet = False,
) -> None:
    """Draw pictures of a concept or of the bare base.

    Each has a seed of its own and holds all that makes it again.

    Concepts joined by + act word by word: V1, V2... are their tokens in order, and each one's own words (its modifier
    token with the class noun behind it, or its plain noun) take its keys and values, all other words the base's. A
    weight after a colon scales a concept's change.

    Examples:
    cdtool sample dog "V* dog on the beach" "V* dog in the snow" -n 8 --grid dogs.png
    cdtool sample dog --prompts prompts.txt --scheduler dpm++ --steps 25 --json
    cdtool sample dog+moongate "V1 dog in front of V2 moongate"
    cdtool sample dog:0.8+cat "V1 dog next to V2 cat"
    cdtool sample mini "a dog on the beach"
    cdtool sample --replay samples/dog/v-dog-on-the-beach-0.png
    """
    given = dict(locals())
    flags = {field: given[field] for field in SampleSettings.__dataclass_fields__ if field in given}
    voice = output.sink(json, quiet)
    if replay is not None:
        _again(voice, replay, concept, base, device, out, force)
        return
    if concept is None:
        raise UsageError("Whose pictures?", 'Like: cdtool sample dog "V* dog on the beach".')
    texts = [*(prompt or []), *(files.read_prompts(prompts) if prompts else [])]
    subject = composition.find(concept, base, force=force)
    chosen, _ = settings.resolve(SampleSettings, flags, bases.locate(subject.base))
    _check(texts, chosen.negative, subject)
    options.check_picture(grid, "--grid")
    loaded = _load(subject.base, chosen, device)
    paths = _draw(voice, loaded, subject, texts, chosen, out or Path("samples") / subject.label, grid, force)
    voice.talk(f"{counted(len(paths), 'picture')}.")


def _check(texts: Sequence[str], negative: str, subject: Composition) -> None:
    """Everything about prompts that can be told before torch is there."""
    from cdtool.tokens import bind_weighted, check_quotes

    if not texts:
        raise UsageError("There is no prompt.", 'Like: cdtool sample dog "V* dog on the beach".')
    check_quotes(texts)
    for text in [*texts, negative]:
        bind_weighted(text, subject.tokens)


def _load(name: str, chosen: SampleSettings, device: str) -> Base:
    output.quiet_libraries()
    from cdtool.models import pipelines

    return pipelines.load(name, precision=chosen.precision, device=device)


def _draw(
    voice: Output,
    loaded: Base,
    subject: Composition,
    texts: Sequence[str],
    chosen: SampleSettings,
    folder: Path,
    grid: Path | None,
    force: bool,
) -> list[Path]:
    from cdtool.models import pipelines
    from cdtool.sampling import records
    from cdtool.sampling import sample as sampling

    for entry in subject.concepts:
        pipelines.check_base(entry, loaded, force=force)
    for remark in sampling.check_prompts(texts, subject.tokens, loaded, joined=len(subject.parts) > 1):
        voice.warn(remark)
    drawn, paths = [], []
    events = sampling.generate(loaded, subject.concepts, texts, chosen, weights=subject.weights, force=force)
    for item in voice.progress(events, len(texts) * chosen.count, label="picture"):
        about = records.record(item, subject.text, loaded, chosen)
        path = records.save(item, about, folder)
        voice.result(str(path), {"path": str(path), **asdict(about)})
        paths.append(path)
        drawn.append(item)
    if grid is not None:
        _sheet(drawn, texts, chosen).save(grid)
        voice.talk(f"Contact sheet: {grid}")
    return paths


def _sheet(drawn: Sequence[Generated], texts: Sequence[str], chosen: SampleSettings) -> Any:
    from cdtool.images.sheets import Row, contact_sheet

    rows = []
    for place, text in enumerate(texts):
        part = drawn[place * chosen.count : (place + 1) * chosen.count]
        seeds = f"{part[0].seed}" if len(part) == 1 else f"{part[0].seed} to {part[-1].seed}"
        rows.append(Row(f"{text}   (seed {seeds})", [item.image for item in part]))
    return contact_sheet(rows)


def _again(
    voice: Output, path: Path, concept: str | None, base: str | None, device: str, out: Path | None, force: bool
) -> None:
    """Draw a picture from its own record and say how near the new one is."""
    from cdtool.sampling import records
    from cdtool.sampling import sample as sampling

    if not path.is_file():
        raise NotFoundError(f"There is no picture {path}.", "Check the path.")
    about, chosen = records.read(path)
    subject = composition.find(concept or about.subject, base or about.base, force=force)
    loaded = _load(base or about.base, chosen, device)
    if loaded.fingerprint != about.fingerprint and not force:
        raise InputError(
            f"{path} was drawn on {about.base}; {loaded.name} has other weights.", f"Use --base {about.base}."
        )
    events = sampling.generate(loaded, subject.concepts, [about.prompt], chosen, weights=subject.weights, force=force)
    drawn = next(events)
    made = records.save(drawn, records.record(drawn, subject.text, loaded, chosen), out or path.parent)
    voice.talk(f"Largest difference to {path.name}: {_difference(path, drawn)} of 255.")
    voice.result(str(made), {"path": str(made), "difference": _difference(path, drawn), **asdict(about)})


def _difference(path: Path, drawn: Generated) -> int:
    import numpy as np
    from PIL import Image

    with Image.open(path) as image:
        before = np.asarray(image.convert("RGB"), dtype=np.int16)
    return int(np.abs(before - np.asarray(drawn.image, dtype=np.int16)).max())
