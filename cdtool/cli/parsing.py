"""How the command line is read and explained: --help in sections, and errors of usage in the user's words."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import typer
from typer.core import TyperArgument, TyperCommand, TyperGroup, TyperOption

from cdtool.errors import UsageError, nearest
from cdtool.paths import check_path
from cdtool.schema import whole_number

WIDEST, NARROWEST = 100, 52  # columns of a --help
FEW = 7  # options that need no sections
ARGUMENTS, OPTIONS = "Arguments", "Options"
# The sections of options, in the order in which a --help shows them.
BASICS, CLASS_IMAGES, METHOD, SPEED, SAFETY, OUTPUT = SECTIONS = (
    "Basics", "Class images", "Method", "Speed and memory", "Safety", "Output"
)  # fmt: skip
# What people type for a command, beside its own name.
SYNONYMS = {
    "rm": "remove", "delete": "remove", "del": "remove", "ls": "list", "mv": "rename", "info": "show",
    "generate": "sample", "draw": "sample", "infer": "sample", "create": "sample", "txt2img": "sample",
    "finetune": "train", "fine-tune": "train", "learn": "train", "fit": "train", "dreambooth": "train",
    "combine": "merge", "compose": "merge", "join": "merge", "shrink": "compress", "svd": "compress",
    "evaluate": "eval", "score": "eval", "measure": "eval", "benchmark": "suite", "erase": "forget",
    "help": "--help", "version": "--version", "settings": "config", "models": "base list", "check": "doctor",
}  # fmt: skip
USUAL = {"train": ("photos", "token")}  # shown in the usage as if required: only a file of jobs stands for them
_KINDS = {"int": "a whole number", "float": "a number", "bool": "yes or no"}
_LIMITS = {"ge": "at least", "gt": "above", "le": "at most", "lt": "below"}


def columns() -> int:
    """How wide a --help is: COLUMNS, else the terminal's, through a pipe too, else 80."""
    wide = whole_number(os.environ.get("COLUMNS", "")) or 0
    for stream in (sys.__stdout__, sys.__stderr__, sys.__stdin__):
        with contextlib.suppress(OSError, ValueError, AttributeError):
            wide = wide or os.get_terminal_size(stream.fileno()).columns  # type: ignore[union-attr]
    return max(NARROWEST, min(wide or 80, WIDEST)) - 2


class Command(TyperCommand):
    """A command whose --help lists its options by section, in the order in which they are declared."""

    allow_extra_args = True  # they are refused in our words, below

    def collect_usage_pieces(self, ctx: Any) -> list[str]:
        """What must be given first, then the rest."""
        usual = USUAL.get(self.name or "", ())
        shown = [one for one in self.params if isinstance(one, TyperArgument) or one.required or one.name in usual]
        return [*(_in_usage(one, usual) for one in shown), "[OPTIONS]"]

    def format_options(self, ctx: Any, formatter: Any) -> None:
        """Arguments, then the options by section; few options are one section. --help itself is not listed."""
        rows: dict[str, list[tuple[str, str]]] = {name: [] for name in (ARGUMENTS, OPTIONS, *SECTIONS)}
        few = sum(isinstance(param, TyperOption) for param in self.params) <= FEW
        for param in self.params:
            name, text = param.get_help_record(ctx) or ("", "")
            if isinstance(param, TyperArgument):
                rows[ARGUMENTS].append((_argument(param), text))
            elif name:
                section = None if few else getattr(param, "rich_help_panel", None)
                rows[section or OPTIONS].append((name, text.replace("x>=", "at least ")))
        for section, found in rows.items():
            if found:
                _section(formatter, section, found)

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Raises UsageError for arguments that have no place, InputError for a path that cannot be one."""
        rest = super().parse_args(ctx, args)
        if rest and not ctx.resilient_parsing:
            raise UsageError(
                f'"{rest[0]}" is one argument too many for {ctx.command_path}.',
                f"Text of several words needs quotes. See: {ctx.command_path} --help",
            )
        for value in ctx.params.values():
            for one in value if isinstance(value, list | tuple) else [value]:
                if isinstance(one, Path):
                    check_path(one)
        return rest


class Group(TyperGroup):
    """Commands by section, whose unknown names get a suggestion."""

    sections: Mapping[str, Sequence[str]] = {}

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        """Each command with its summary, uncut."""
        listed = {name for names in self.sections.values() for name in names}
        rest = [name for name in self.commands if name not in listed]
        for section, names in [*self.sections.items(), ("Commands", rest)]:
            known = [self.commands[name] for name in names if name in self.commands]
            if known:
                _section(formatter, section, [(str(one.name), summary(one.help or "")) for one in known])

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """Raises UsageError for a command there is not, with the one that is meant."""
        if args[0] not in self.commands and not args[0].startswith("-") and not ctx.resilient_parsing:
            raise UsageError(f'There is no command "{args[0]}".', self._meant(ctx, args))
        return super().resolve_command(ctx, args)

    def _meant(self, ctx: Any, args: Sequence[str]) -> str:
        word, whole = args[0], ctx.command_path
        if word in SYNONYMS and ctx.parent is None:
            about = args[1] if word == "help" and args[1:2] and args[1] in self.commands else ""
            return f"Did you mean: {' '.join(filter(None, [whole, about, SYNONYMS[word]]))}"
        close = nearest(word, self.commands)
        return close or f"See: {whole} --help"


def summary(text: str) -> str:
    """The first sentence of a help text, on one line and without its stop."""
    first = " ".join(text.partition("\n\n")[0].split())
    return first.partition(". ")[0].removesuffix(".")


def in_words(error: typer.TyperException) -> UsageError:
    """What was wrong with the command line, as cdtool says it; typer's classes are told by what they carry."""
    ctx, param = getattr(error, "ctx", None), getattr(error, "param", None)
    if ctx is None:
        return UsageError(error.format_message())
    see = f"See: {ctx.command_path} --help"
    if hasattr(error, "possibilities"):
        close = sorted(error.possibilities or ())
        hint = f"Did you mean {' or '.join(close)}?" if close else see
        return UsageError(f"{ctx.command_path} has no option {getattr(error, 'option_name', '')}.", hint)
    if param is None:
        return UsageError(_sentence(error.format_message()), see)
    name = param.opts[0] if isinstance(param, TyperOption) else _argument(param).strip("[].")
    if hasattr(error, "param_type"):
        example = _example(ctx.command.epilog or "")
        missing = f"{name} {param.metavar}" if isinstance(param, TyperOption) else name
        return UsageError(f"{ctx.command_path} needs {missing}.", f"Like: {example}" if example else see)
    return _bad_value(error, name, see)


def _bad_value(error: Any, name: str, see: str) -> UsageError:
    """A value of the wrong kind; pydantic, which found it, says what it expected."""
    cause: Any = error.__cause__
    (problem, *_) = cause.errors() if hasattr(cause, "errors") else [{}]
    value, limits = problem.get("input"), problem.get("ctx", {})
    if allowed := error.param.type_descriptor.choices:
        hint = nearest(str(value), allowed) or f"It is one of {', '.join(allowed)}."
        return UsageError(f'{name} cannot be "{value}".', hint)
    if sign := next((sign for sign in _LIMITS if sign in limits), ""):
        return UsageError(f"{name} must be {_LIMITS[sign]} {limits[sign]}, not {value}.", see)
    if wanted := _KINDS.get(problem.get("type", "").partition("_")[0]):
        return UsageError(f'{name} takes {wanted}, not "{value}".', see)
    return UsageError(_sentence(error.format_message()), see)


def _sentence(text: str) -> str:
    return text if text.endswith((".", "?", "!")) else f"{text}."


def _example(epilog: str) -> str:
    """The first command among the examples that end a help."""
    return next((line.strip() for line in epilog.splitlines() if line.strip().startswith("cdtool ")), "")


def _in_usage(param: Any, usual: Sequence[str]) -> str:
    if isinstance(param, TyperOption):
        return f"{param.opts[0]} {param.metavar}"
    return _argument(param).strip("[]") if param.name in usual else _argument(param)


def _argument(param: Any) -> str:
    """An argument as a usage line has it: in brackets where it may be left out."""
    name = (param.metavar or param.name.upper()).strip("[]")
    return name if param.required else f"[{name}]"


def _section(formatter: Any, name: str, rows: Sequence[tuple[str, str]]) -> None:
    narrow = formatter.width < 72
    with formatter.section(name):
        formatter.write_dl(rows, col_max=16 if narrow else 24)
