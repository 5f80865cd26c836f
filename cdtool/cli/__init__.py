"""The command line: its commands, and main(), where an error becomes a sentence and an exit code."""

from __future__ import annotations

import errno
import functools
import io
import os
import sys
import traceback
from collections.abc import Callable, Sequence
from typing import Annotated, Any

import typer

from cdtool import __version__
from cdtool.cli import (
    analyze,
    base,
    cache,
    compress,
    concepts,
    config,
    demo,
    doctor,
    evalflags,
    exchange,
    forget,
    log,
    merge,
    options,
    output,
    parsing,
    prior,
    priormake,
    sample,
    share,
    stopping,
    study,
    suite,
    train,
)
from cdtool.cli import eval as eval_module
from cdtool.cli import open as open_module
from cdtool.errors import CdtoolError, InterruptedRun, UsageError, is_out_of_memory
from cdtool.schema import printable, shortened

_COMMANDS: dict[str, Callable[..., None]] = {
    "train": train.train,
    "sample": sample.sample,
    "eval": eval_module.eval_,
    "merge": merge.merge,
    "compress": compress.compress,
    "forget": forget.forget,
    "demo": demo.demo,
    "list": concepts.list_,
    "show": concepts.show,
    "open": open_module.open_,
    "rename": concepts.rename,
    "remove": concepts.remove,
    "export": exchange.export,
    "import": exchange.import_,
    "card": share.card,
    "gallery": share.gallery,
    "push": share.push,
    "pull": share.pull,
    "config": config.config,
    "doctor": doctor.doctor,
}
_GROUPS: dict[str, tuple[str, dict[str, Callable[..., None]]]] = {
    "base": (
        "The pretrained pipelines that concepts are trained on.",
        {"list": base.list_, "use": base.use, "show": base.show},
    ),
    "prior": (
        "Images of a class, which a base must not forget.",
        {"list": prior.list_, "make": priormake.make, "add": prior.add, "show": prior.show, "remove": prior.remove},
    ),
    "cache": ("What can be made again, kept to save time.", {"list": cache.list_, "prune": cache.prune}),
    "suite": (
        "Benchmarks, as tables beside the published ones.",
        {"run": suite.run, "list": suite.list_, "show": suite.show, "status": suite.status},
    ),
    "study": (
        "Preference studies: people choose between two.",
        {"make": study.make, "score": study.score},
    ),
    "analyze": (
        "What a concept changed, and what its words attend to.",
        {"change": analyze.change, "attention": analyze.attention},
    ),
}

# The sections of `cdtool --help`.
_SECTIONS: dict[str, tuple[str, ...]] = {
    "Make and use concepts": ("train", "sample", "merge", "compress", "forget"),
    "Keep them": ("list", "show", "open", "gallery", "rename", "remove", "export", "import", "card", "push", "pull"),
    "Measure and understand": ("eval", "suite", "study", "analyze"),
    "Bases, class images, settings": ("base", "prior", "cache", "config", "doctor", "demo"),
}

_STYLE: dict[str, Any] = {
    "cls": parsing.Group,
    "no_args_is_help": True,
    "rich_markup_mode": None,  # plain text: quick, and brackets in a help stay what they are
    "context_settings": {"help_option_names": ["-h", "--help"]},
}
app = typer.Typer(
    epilog=options.epilog(
        'cdtool train ./photos --token "V* dog"', 'cdtool sample dog "V* dog on the beach"', "cdtool demo"
    ),
    **_STYLE,
)


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"cdtool {__version__}")
        raise typer.Exit


@app.callback()
def _cdtool(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version.")
    ] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show where an error came from; works anywhere.")] = False,
    log_file: Annotated[
        str | None, typer.Option("--log", metavar="FILE", help="Add what a bug report needs to a file; works anywhere.")
    ] = None,
) -> None:
    """Teach a text-to-image model new concepts from a handful of photos, and compose them."""


for _name, _function in _COMMANDS.items():
    options.add_command(app, _name, _function)
for _group, (_help, _commands) in _GROUPS.items():
    _typer = typer.Typer(help=_help, **_STYLE)
    for _name, _function in _commands.items():
        options.add_command(_typer, _name, _function)
    app.add_typer(_typer, name=_group)


@functools.cache  # built once, however often a process calls main
def tree() -> parsing.Group:
    """All commands, as typer parses and explains them."""
    root = typer.main.get_command(app)
    assert isinstance(root, parsing.Group)
    root.sections = _SECTIONS
    return root


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code; the one place where an error is told to the user."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    for variable in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE"):
        os.environ.setdefault(variable, "1")
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="surrogateescape")  # a path is printed as it is, whatever its bytes
    try:
        arguments, path = log.taken(arguments)
        kept = log.Log(path) if path else None
    except CdtoolError as error:
        code, text = explain(error)
        output.sink().talk(text)
        return code
    if kept is None:
        return _ended(arguments, None)
    with output.heard_by(kept.add):
        kept.begin(arguments)
        code = _ended(arguments, kept)
        kept.end(code)
    return code


def _ended(arguments: list[str], kept: log.Log | None) -> int:
    """Run a command, say what is to be said of its end, and return its exit code."""
    words = arguments[: arguments.index("--")] if "--" in arguments else arguments
    debug = "--debug" in words
    with stopping.interruptible() as interrupted:
        code, text = _run([word for word in arguments if not (debug and word == "--debug")], debug, kept)
        if interrupted() and code in (1, 130):  # 1: a library made another error of it
            code, text = 130, text if code == 130 and text else "Interrupted."
    # Only now: leaving the handler let go of the frames that held a progress bar open.
    if text:
        output.sink().talk(text)
    return code


def _run(arguments: list[str], debug: bool, kept: log.Log | None) -> tuple[int, str]:
    try:
        if command := evalflags.moved(arguments):
            raise UsageError("This option of cdtool eval is a command of its own now.", f"Like: {command}")
        code = tree()(arguments, prog_name="cdtool", standalone_mode=False, terminal_width=parsing.columns())
        return code if isinstance(code, int) else 0, ""
    except (typer.Abort, KeyboardInterrupt):
        return 130, "Interrupted."
    except typer.TyperException as error:
        if type(error).__name__ == "NoArgsIsHelpError":
            return 2, error.format_message()
        return explain(parsing.in_words(error))
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else int(end.code is not None), ""
    except Exception as error:  # noqa: BLE001 - the last place that can turn an error into a sentence
        code, text = explain(error, arguments)
        if kept:
            kept.trace = traceback.format_exc()
        return code, f"{traceback.format_exc()}\n{text}" if debug and code != 1 else text


# What needs less memory and leaves the result what it is, up to rounding; a command without a row has no such option.
_LESS_MEMORY = {
    "train": "Try --accumulate 2 (or more) or --checkpointing.",
    "sample": "Try --batch 1, or --precision bf16.",
    "prior make": "Try --batch 1, or --precision bf16.",
    "eval": "Free some memory, or try --precision bf16.",
    "suite run": "Free some memory, or try --precision bf16.",
    "analyze attention": "Free some memory, or try --precision bf16.",
}


def _less_memory(arguments: Sequence[str]) -> str:
    words = [word for word in arguments if not word.startswith("-")]
    rows = (_LESS_MEMORY.get(" ".join(words[:count])) for count in (1, 2))
    return next(filter(None, rows), "Free some memory and run it again.")


# What the system says of paths that no check before the work can know: a name becomes too long with a number behind it.
_OF_PATHS = {errno.ENAMETOOLONG, errno.ELOOP, errno.ENOTDIR, errno.EISDIR}


def explain(error: Exception, arguments: Sequence[str] = ()) -> tuple[int, str]:
    """The exit code of an error and what is said about it; an error nobody foresaw keeps its traceback."""
    if isinstance(error, InterruptedRun):
        return error.exit_code, "\n".join(filter(None, [str(error), error.hint]))
    if isinstance(error, CdtoolError):
        return error.exit_code, "\n".join(filter(None, [f"Error: {error}", error.hint]))
    if is_out_of_memory(error):
        return 5, f"Error: There is not enough memory for this.\n{_less_memory(arguments)}"
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        return 5, f"Error: The disk is full ({error.filename or 'while writing'}).\nFree some space and run it again."
    if isinstance(error, OSError) and error.errno in (errno.EIO, errno.EROFS, errno.EMFILE, errno.ENFILE):
        return 5, f"Error: {error.filename or 'A file'} cannot be written or read: {error.strerror}.\nCheck the disk."
    if isinstance(error, PermissionError):
        return 4, f"Error: {error.filename or 'A file'} may not be read or written.\nMend its permissions."
    if isinstance(error, OSError) and error.errno in _OF_PATHS and error.filename:
        told = shortened(printable(str(error.filename)), 80)
        return 4, f"Error: {told} cannot be read or written: {error.strerror}.\nCheck the path."
    where = "".join(traceback.format_exception(error))
    return 1, f"{where}\nThis is a bug in cdtool {__version__}. Please report it with these lines and `cdtool doctor`."
