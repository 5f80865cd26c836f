"""cdtool sample: images of a concept, or of the bare base."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cdtool import files
from cdtool.cli import options, output
from cdtool.cli.options import setting
from cdtool.cli.parsing import BASICS, METHOD, OUTPUT, SAFETY, SPEED
from cdtool.errors import UsageError
from cdtool.sampling import run as sampling
from cdtool.settings import SampleSettings
from cdtool.tokens import check_quotes, counted

if TYPE_CHECKING:
    from PIL import Image

    from cdtool.cli.output import Output
    from cdtool.sampling.records import SampledImage
    from cdtool.sampling.run import Plan

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
    setting(_Set, "negative", "--negative", metavar="TEXT", panel=BASICS, shown="nothing", help="What not to show."),
]
Size = Annotated[
    str | None,
    setting(_Set, "size", "--size", metavar="WxH", panel=BASICS, shown="the base's own", help="Width and height."),
]
Batch = Annotated[
    int | None, setting(_Set, "batch", "--batch", metavar="N", panel=SPEED, help="Images generated at once.")
]
Memory = Annotated[
    str | None,
    setting(_Set, "memory", "--memory", metavar="SIZE", panel=SPEED,
            help="What may be used, like 8GB; --batch is lowered to fit. auto: what the device has free."),
]  # fmt: skip
Compile = Annotated[
    bool | None,
    setting(_Set, "compile", "--compile/--no-compile", panel=SPEED,
            help="Compile the denoiser's blocks: a minute or more at first, then faster; not to the bit."),
]  # fmt: skip
Lora = Annotated[
    str | None,
    setting(_Set, "lora", "--lora", metavar="FILE[:WEIGHT]", panel=METHOD, shown="none",
            help="Another tool's LoRA over the base, such as a style; several with commas."),
]  # fmt: skip
Out = Annotated[
    Path | None,
    typer.Option("--out", metavar="DIR", rich_help_panel=OUTPUT,
                 help="Where images go." + options.default_of("samples/CONCEPT")),
]  # fmt: skip
Grid = Annotated[
    Path | None,
    typer.Option("--grid", metavar="FILE", rich_help_panel=OUTPUT, help="Also write a labelled contact sheet."),
]
InitImage = Annotated[
    Path | None,
    typer.Option("--init-image", metavar="FILE", rich_help_panel=METHOD, help="Begin with this image, not with noise."),
]
Strength = Annotated[
    float | None,
    typer.Option("--strength", metavar="F", rich_help_panel=METHOD,
                 help="Share of the steps that change it." + options.default_of("0.6")),
]  # fmt: skip
SkipExisting = Annotated[
    bool,
    typer.Option("--skip-existing", rich_help_panel=SAFETY, help="Leave out what is there, made with these settings."),
]
Replay = Annotated[
    Path | None,
    typer.Option("--replay", metavar="IMG.png", rich_help_panel=OUTPUT, help="Generate that image again."),
]


@dataclass(frozen=True)
class Settings:
    """The options that are fields of SampleSettings."""

    count: Count = None
    seed: options.Seed = None
    steps: options.Steps = None
    guidance: options.Guidance = None
    scheduler: options.SchedulerFlag = None
    eta: Eta = None
    negative: Negative = None
    size: Size = None
    batch: Batch = None
    precision: options.Precision = None
    memory: Memory = None
    compile: Compile = None
    vae: options.Vae = None
    lora: Lora = None


def sample(
    concept: Subject = None,
    prompt: Prompts = None,
    prompts: options.PromptFile = None,
    chosen: Settings = Settings(),
    init_image: InitImage = None,
    strength: Strength = None,
    base: options.Base = None,
    device: options.Device = "auto",
    out: Out = None,
    grid: Grid = None,
    replay: Replay = None,
    skip_existing: SkipExisting = False,
    force: options.OtherBase = False,
    json: options.JsonLines = False,
    quiet: options.Quiet = False,
) -> None:
    """Generate images of a concept or of the bare base.

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
    cdtool sample dog "V* dog in the rain" --lora style.safetensors:0.7
    cdtool sample dog "a watercolour of V* dog" --init-image sketch.png --strength 0.7
    cdtool sample --replay samples/dog/v-dog-on-the-beach-0.png
    """
    talk = output.sink(json, quiet)
    if replay is not None:
        plan = sampling.replay(replay, concept, base=base, device=device, force=force)
    elif concept is None:
        raise UsageError("Of what?", 'Name a concept: cdtool sample dog "V* dog on the beach".')
    else:
        texts = [*(prompt or []), *(files.read_prompts(prompts) if prompts else [])]
        check_quotes(texts)
        plan = sampling.plan(concept, texts, base=base, device=device, force=force, init_image=init_image,
                             strength=strength, **vars(chosen))  # fmt: skip
    options.check_picture(grid, "--grid")
    folder = out or (replay.parent if replay else Path("samples") / plan.subject.label)
    there = _existing(plan, folder) if skip_existing else {}
    plan = replace(plan, skip=frozenset(there))
    images = []
    for image, path in _saved(talk, plan, folder) if plan.total else ():
        facts: dict[str, Any] = {"path": str(path)}
        if replay is not None:
            facts["difference"] = _difference(replay, image)
            talk.talk(f"Largest difference to {replay.name}: {facts['difference']} of 255.")
        talk.result(str(path), {**facts, **asdict(image.record)})
        images.append(image)
    if grid is not None:
        _save_sheet(talk, _sheet(images, there, plan), grid)
    talk.talk(_summary(len(images), plan))


def _summary(made: int, plan: Plan) -> str:
    skipped = len(plan.prompts) * plan.settings.count - plan.total
    return f"{counted(made, 'image')}." + (f" {skipped} more were there already." if skipped else "")


def _save_sheet(talk: Output, sheet: Image.Image, path: Path) -> None:
    path = options.free_path(path)
    sheet.save(path)
    talk.talk(f"Contact sheet: {path}")


def _existing(plan: Plan, folder: Path) -> dict[tuple[str, int], Path]:
    from cdtool.sampling import records

    return records.existing(folder, plan.subject, plan.settings, plan.init)


def _saved(talk: Output, plan: Plan, folder: Path) -> Iterator[tuple[SampledImage, Path]]:
    """Sample what a plan says, showing how far it is, and save every image as soon as it is there."""
    from cdtool.sampling import records

    for step in talk.follow(sampling.run(plan), label="denoising step"):
        for warning in step.warnings:
            talk.warn(warning)
        for image in step.images:
            yield image, records.save(image, folder)


def _sheet(images: Sequence[SampledImage], there: Mapping[tuple[str, int], Path], plan: Plan) -> Image.Image:
    """A row for each prompt; the images that were there already are read from their files."""
    from PIL import Image

    from cdtool.images.sheets import Row, contact_sheet

    made: dict[tuple[str, int], Image.Image] = {(image.prompt, image.seed): image for image in images}
    first, last = plan.settings.seed, plan.settings.seed + plan.settings.count - 1
    rows = []
    for prompt in plan.prompts:
        keys = [(prompt.text, seed) for seed in range(first, last + 1)]
        own = [made[key] if key in made else Image.open(there[key]) for key in keys]
        rows.append(Row(f"{prompt.text}   (seed {first if first == last else f'{first} to {last}'})", own))
    return contact_sheet(rows)


def _difference(path: Path, image: SampledImage) -> int:
    """The largest difference of two images in any channel, of 255."""
    from PIL import Image, ImageChops

    with Image.open(path) as before:
        extrema = ImageChops.difference(before.convert("RGB"), image).getextrema()
    return max(int(high) for _, high in extrema)  # type: ignore[misc]
