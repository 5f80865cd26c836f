"""Option types that more than one command uses, and the completion of names.

A flag that belongs to a setting defaults to None, which means "not given", so that the layers below it count:

    Steps = Annotated[int | None, setting(TrainSettings, "steps", "--steps", help="Optimizer steps.", metavar="N")]

    def train(..., steps: Steps = None, lr: LearningRate = None) -> None:
        chosen, origins = settings.resolve(TrainSettings, {"steps": steps, "lr": lr}, base_folder)

The function's docstring is its help; what follows a line "Examples:" in it ends the help as it stands.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import Annotated, Any

import typer

from cdtool.errors import NotFoundError, UsageError
from cdtool.settings import Precision as _Precision
from cdtool.settings import SampleSettings
from cdtool.store import bases, registry


def setting(cls: type[Any], name: str, *flags: str, help: str, metavar: str | None = None) -> Any:
    """An option for a setting: `--help` shows the dataclass's default, the value None means it was not given."""
    default = next(field.default for field in fields(cls) if field.name == name)
    shown = "" if default in ("", False, True) else f"  [default: {default}]"
    return typer.Option(*flags, help=help + shown, metavar=metavar)


def add_command(app: typer.Typer, name: str, function: Callable[..., None]) -> None:
    """Make `function` the command `name`: its docstring is the help, the lines after "Examples:" end it."""
    text, _, examples = inspect.getdoc(function).partition("\nExamples:\n")  # type: ignore[union-attr]
    app.command(name, help=text.strip(), epilog=epilog(*examples.strip().splitlines()))(function)


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


Json = Annotated[bool, typer.Option("--json", help="Print one JSON object instead of text.")]
JsonLines = Annotated[bool, typer.Option("--json", help="Print one JSON object per result instead of text.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Print the bare results, no talk and no progress.")]
Yes = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")]
Force = Annotated[bool, typer.Option("--force", help="Replace what has this name.")]
IfMissing = Annotated[bool, typer.Option("--if-missing", help="Do nothing, successfully, if the concept exists.")]

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
Name = Annotated[str | None, typer.Option("--name", "-o", metavar="NAME", help="The name of the concept made.")]
Base = Annotated[
    str | None,
    typer.Option("--base", metavar="BASE", help="The base: a name, hub id or folder.", autocompletion=complete_bases),
]
Precision = Annotated[_Precision | None, setting(SampleSettings, "precision", "--precision", help="Compute precision.")]
Device = Annotated[str, typer.Option("--device", metavar="D", help="auto, cpu, cuda, cuda:1, mps.")]
Seed = Annotated[int | None, setting(SampleSettings, "seed", "--seed", help="Seed of everything random.", metavar="N")]
PromptFile = Annotated[
    Path | None, typer.Option("--prompts", metavar="FILE", help="Prompts, one a line; - is standard input.")
]
