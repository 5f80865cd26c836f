"""Option types that more than one command uses, and the completion of names.

A flag that belongs to a setting defaults to None, which means "not given", so that the layers below it count:

    Steps = Annotated[int | None, setting(TrainSettings, "steps", "--steps", help="Optimizer steps.", metavar="N")]

    def train(..., steps: Steps = None, lr: LearningRate = None) -> None:
        chosen, origins = sources.resolve(TrainSettings, {"steps": steps, "lr": lr}, base_folder)

Options that several commands share, or that are many, are the fields of a dataclass; a parameter of that type stands
for them all:

    @dataclass(frozen=True)
    class Sampling:
        steps: Steps = None
        seed: Seed = None

    def eval_(concept: Subject, how: Sampling = Sampling()) -> None:
        evaluate.plan(concept, **vars(how))

The function's docstring is its help; what follows a line "Examples:" in it ends the help as it stands.
"""

from __future__ import annotations

import functools
import inspect
import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Annotated, Any, get_args

import typer

from cdtool.cli import parsing
from cdtool.errors import NotFoundError, UsageError
from cdtool.settings import Precision as _Precision
from cdtool.settings import SampleSettings, Scheduler
from cdtool.store import bases, registry


def setting(
    cls: type[Any],
    name: str,
    *flags: str,
    help: str,
    metavar: str | None = None,
    shown: str | None = None,
    panel: str | None = None,
    autocompletion: Callable[[str], list[str]] | None = None,
) -> Any:
    """An option for a setting: `--help` shows the dataclass's default, the value None means it was not given.

    cls: the settings' dataclass, and `name` its field.
    shown: what stands for the default where its value alone says little (0 for "the base's own").
    panel: the section of the --help it stands in.
    autocompletion: what completes its value in a shell.
    """
    default = next(field.default for field in fields(cls) if field.name == name)
    text = ("on" if default else "off") if isinstance(default, bool) else str(default)
    described = help + default_of(shown or text)
    return typer.Option(*flags, help=described, metavar=metavar, rich_help_panel=panel, autocompletion=autocompletion)


def default_of(text: str) -> str:
    """The end of a help text that names a default."""
    return f"  [default: {text}]"


def add_command(app: typer.Typer, name: str, function: Callable[..., None]) -> None:
    """Make `function` the command `name`: its docstring is the help, the lines after "Examples:" end it."""
    text, _, examples = inspect.getdoc(function).partition("\nExamples:\n")  # type: ignore[union-attr]
    ending = epilog(*examples.strip().splitlines())
    app.command(name, cls=parsing.Command, help=text.strip(), epilog=ending)(_ungrouped(function))


def _ungrouped(function: Callable[..., None]) -> Callable[..., None]:
    """The same function for typer: in place of a parameter that is a dataclass of options, its fields."""
    parameters = inspect.signature(function, eval_str=True).parameters
    groups: dict[str, type[Any]] = {name: one.annotation for name, one in parameters.items() if _is_group(one)}
    if not groups:
        return function

    @functools.wraps(function)
    def command(**given: Any) -> None:
        for name, group in groups.items():
            given[name] = group(**{field.name: given.pop(field.name) for field in fields(group)})
        function(**given)

    flat = list(_expanded(parameters))
    command.__signature__ = inspect.Signature(flat)  # type: ignore[attr-defined]
    command.__annotations__ = {one.name: one.annotation for one in flat}
    return command


def _expanded(parameters: Mapping[str, inspect.Parameter]) -> Iterator[inspect.Parameter]:
    for one in parameters.values():
        parts = inspect.signature(one.annotation, eval_str=True).parameters.values() if _is_group(one) else [one]
        yield from (part.replace(kind=part.KEYWORD_ONLY) for part in parts)


def _is_group(parameter: inspect.Parameter) -> bool:
    return is_dataclass(parameter.annotation)


def epilog(*lines: str) -> str:
    """Examples as they end a --help, one command per line."""
    return "\n".join(["\b", "Examples:", *(f"  {line.strip()}" for line in lines)])


def complete_concepts(incomplete: str) -> list[str]:
    """Concepts that begin with what was typed."""
    return [name for name in registry.names() if name.startswith(incomplete)]


def complete_subjects(incomplete: str) -> list[str]:
    """Concepts and bases, also behind the "+" of a joined subject."""
    head, plus, last = incomplete.rpartition("+")
    known = registry.names() + ([] if plus else list(bases.NAMES))
    return [head + plus + name for name in known if name.startswith(last)]


def complete_list(known: Sequence[str], incomplete: str) -> list[str]:
    """Members of a list with commas; those given are not offered again."""
    head, comma, last = incomplete.rpartition(",")
    given = head.split(",")
    return [head + comma + name for name in known if name.startswith(last) and name not in given]


def complete_priors(incomplete: str) -> list[str]:
    """What --prior takes by name: the words for a way, and prior sets."""
    from cdtool.priors import sets

    return [name for name in (*sets.RESERVED, *sets.names()) if name.startswith(incomplete)]


def complete_bases(incomplete: str) -> list[str]:
    """Names of bases."""
    return [name for name in bases.NAMES if name.startswith(incomplete)]


def check_picture(path: Path | None, flag: str) -> None:
    """Whether a picture can be written at `path`, told before the work. Raises UsageError or NotFoundError."""
    from PIL import Image

    if path is None:
        return
    if Image.registered_extensions().get(path.suffix.lower()) not in Image.SAVE:
        raise UsageError(f'No picture format ends in "{path.suffix}".', f"Like {flag} sheet.png.")
    if not path.absolute().parent.is_dir():
        raise NotFoundError(f"There is no folder {path.parent} for the picture.", "Make it, or choose another.")


def free_path(path: Path) -> Path:
    """`path`, with a number behind its name where a file of that name is there: nothing is replaced unasked."""
    numbered = (path.with_stem(f"{path.stem}-{number}") for number in itertools.count(2))
    return next(free for free in itertools.chain([path], numbered) if not free.exists())


def _flag(*flags: str, panel: str, help: str) -> Any:
    return typer.Option(*flags, rich_help_panel=panel, help=help)


Json = Annotated[bool, _flag("--json", panel=parsing.OUTPUT, help="Print one JSON object instead of text.")]
JsonLines = Annotated[bool, _flag("--json", panel=parsing.OUTPUT, help="Print one JSON object per result.")]
Quiet = Annotated[bool, _flag("--quiet", "-q", panel=parsing.OUTPUT, help="Print the bare results, nothing else.")]
Yes = Annotated[bool, _flag("--yes", "-y", panel=parsing.SAFETY, help="Do not ask.")]
Force = Annotated[bool, _flag("--force", panel=parsing.SAFETY, help="Replace what has this name.")]
OtherBase = Annotated[bool, _flag("--force", panel=parsing.SAFETY, help="Allow another base of equal shapes.")]
IfMissing = Annotated[
    bool, _flag("--if-missing", panel=parsing.SAFETY, help="Do nothing, successfully, if the concept exists.")
]

Concept = Annotated[
    str, typer.Argument(metavar="CONCEPT", help="A concept's name or file.", autocompletion=complete_concepts)
]
Concepts = Annotated[
    list[str], typer.Argument(metavar="CONCEPT...", help="Names of concepts.", autocompletion=complete_concepts)
]
Subject = Annotated[
    str,
    typer.Argument(
        metavar="CONCEPT",
        help="A concept, several (dog+moongate, dog:0.8+cat), or a base.",
        autocompletion=complete_subjects,
    ),
]
Name = Annotated[
    str | None,
    typer.Option("--name", "-o", metavar="NAME", rich_help_panel=parsing.BASICS, help="The name of the concept made."),
]
Base = Annotated[
    str | None,
    typer.Option(
        "--base",
        metavar="BASE",
        rich_help_panel=parsing.BASICS,
        help="The base: a name, hub id or folder.",
        autocompletion=complete_bases,
    ),
]
Precision = Annotated[
    _Precision | None,
    setting(
        SampleSettings,
        "precision",
        "--precision",
        metavar="P",
        panel=parsing.SPEED,
        help="fp32, bf16, fp16, or auto: bf16 where the hardware has it.",
    ),
]
Vae = Annotated[
    str | None,
    setting(
        SampleSettings,
        "vae",
        "--vae",
        metavar="PATH",
        panel=parsing.BASICS,
        shown="the base's own",
        help="Another autoencoder: a folder or a .safetensors file.",
    ),
]
Device = Annotated[
    str, typer.Option("--device", metavar="D", rich_help_panel=parsing.SPEED, help="auto, cpu, cuda, cuda:1 or mps.")
]
Seed = Annotated[
    int | None,
    setting(SampleSettings, "seed", "--seed", metavar="N", panel=parsing.BASICS, help="Seed of everything random."),
]
Steps = Annotated[
    int | None,
    setting(SampleSettings, "steps", "--steps", metavar="N", panel=parsing.METHOD, help="Denoising steps."),
]
Guidance = Annotated[
    float | None,
    setting(
        SampleSettings,
        "guidance",
        "--guidance",
        metavar="F",
        panel=parsing.METHOD,
        help="Guidance scale; 1 or less: the prompt alone.",
    ),
]
SchedulerFlag = Annotated[
    Scheduler | None,
    setting(
        SampleSettings,
        "scheduler",
        "--scheduler",
        metavar="S",
        panel=parsing.METHOD,
        help=f"The sampler: {', '.join(get_args(Scheduler))}.",
    ),
]
PromptFile = Annotated[
    Path | None,
    typer.Option(
        "--prompts", metavar="FILE", rich_help_panel=parsing.BASICS, help="Prompts, one a line; - is standard input."
    ),
]
