"""cdtool config: each setting, its value, and where that came from."""

from __future__ import annotations

import json as jsonlib
import textwrap
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Annotated, Any

import typer

from cdtool import files, settings, sources
from cdtool.cli import options, output
from cdtool.cli import trainflags as flag
from cdtool.cli.parsing import BASICS
from cdtool.errors import CdtoolError, NameTakenError
from cdtool.store import bases

Init = Annotated[
    bool, typer.Option("--init", rich_help_panel=BASICS, help="Write cdtool.toml here, every setting as a comment.")
]


def config(
    base: options.Base = None,
    method: flag.Method = None,
    init: Init = False,
    force: options.Force = False,
    json: options.Json = False,
) -> None:
    """Show each setting, its value and where it came from.

    The order is flag, --like, CDTOOL_* variable, ./cdtool.toml, the user's config.toml, the base's own cdtool.toml,
    default. In a file, [train.full] counts above [train] for --method full; a method's own settings count above
    the base's [train] and below its [train.full].

    Examples:
      cdtool config
      cdtool config --base sdxl
      cdtool config --method full
      cdtool config --init
      CDTOOL_TRAIN_STEPS=400 cdtool config --json
    """
    out = output.sink(json)
    if init:
        path = _write_template(force)
        out.result(str(path), {"path": str(path)})
        return
    chosen = sources.base_name(base)
    values = {"base": chosen}
    folder = _folder(str(chosen.value), out)
    for section, cls in settings.SECTIONS.items():
        _, found = sources.resolve(cls, {"method": method} if section == "train" else {}, folder)
        values |= {f"{section}.{name}": value for name, value in found.items()}
    places = {"data": settings.data_dir(), "cache": settings.cache_dir(), "config": settings.config_file()}
    short = {str(settings.config_file()): "config file"}
    short |= {str(folder / "cdtool.toml"): f"base {chosen.value}"} if folder else {}
    rows = [(name, str(value.value), _shortened(value.origin, short)) for name, value in values.items()]
    rows += [
        (f"{name} directory" if name != "config" else "config file", str(path), "") for name, path in places.items()
    ]
    data = {name: {"value": value.value, "origin": value.origin} for name, value in values.items()}
    out.table(("SETTING", "VALUE", "FROM"), rows, {"settings": data, "places": places})


def _shortened(origin: str, names: Mapping[str, str]) -> str:
    """An origin for a table: long paths by their names."""
    for path, name in names.items():
        origin = origin.replace(path, name)
    return origin


def _folder(base: str, out: output.Output) -> Path | None:
    try:
        return bases.locate(base)
    except CdtoolError as error:
        out.warn(f"{error} Its own settings are left out.")
        return None


def _write_template(force: bool) -> Path:
    """Write ./cdtool.toml. Raises NameTakenError where there is one, unless `force`."""
    path = Path("cdtool.toml")
    if path.exists() and not force:
        raise NameTakenError(f"There is a {path} here already.", "Edit it, or replace it with --force.")
    with files.replacing(path) as temporary:
        temporary.write_text(template(), encoding="utf-8")
    return path


def template() -> str:
    """A settings file that holds every setting with its default and its help, all of it commented out."""
    from cdtool import cli

    lines = ["# Settings of cdtool in this folder. Remove a # to set one; see `cdtool config`.", '# base = "mini"']
    for section, cls in settings.SECTIONS.items():
        lines += ["", f"[{section}]"]
        about = {param.name: str(getattr(param, "help", "")) for param in cli.tree().commands[section].params}
        for field in fields(cls):
            text = about.get(field.name, "").partition("  [default")[0]
            lines += [f"# {line}" for line in textwrap.wrap(text, 96)]
            lines.append(f"# {field.name} = {_toml(field.default)}")
    return "\n".join(lines) + "\n"


def _toml(value: Any) -> str:
    return jsonlib.dumps(value) if isinstance(value, str | bool) else str(value)
