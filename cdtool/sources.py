"""Where each setting comes from: options, the environment, settings files, the base, the method."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, TypeVar, cast, get_args, get_type_hints

from cdtool.errors import SettingsError, nearest
from cdtool.files import check_writable, read_regular, replacing
from cdtool.methods import METHODS
from cdtool.schema import loads_toml, printable, shortened
from cdtool.settings import SECTIONS, CompressSettings, SampleSettings, TrainSettings, check, config_file

# Names of settings in files of earlier versions, and what they are called now.
RENAMED = {"hold_empty": "preserve_uncond"}
S = TypeVar("S", TrainSettings, SampleSettings, CompressSettings)


@dataclass(frozen=True)
class Value:
    """A setting's value and the layer it came from."""

    value: Any
    origin: str


def read_toml(path: Path) -> dict[str, Any]:
    """The tables of a settings file, {} where there is none; checks every name.

    Raises SettingsError for bad TOML and unknown names.
    """
    try:
        table = loads_toml(read_regular(path, most=1_000_000).decode())
    except FileNotFoundError:
        return {}
    except ValueError as error:  # not UTF-8, or a SchemaError
        raise SettingsError(f"{path} is not valid TOML: {error}.", "Mend the line it names.") from None
    except OSError as error:
        raise SettingsError(f"{path} cannot be read: {error.strerror}.") from None
    table = {name: upgraded(content) for name, content in table.items()}
    known = {"base", "vae", "prior", "eval", "merge", *SECTIONS}  # [prior], [eval] and [merge] are what a base offers
    for name, content in table.items():
        if name not in known:
            raise SettingsError(f'{path} has the unknown setting "{name}".', nearest(name, known))
        if name in SECTIONS:
            _check_names(path, name, content)
        elif name not in ("base", "vae") and not isinstance(content, Mapping):
            raise SettingsError(f'{path}: "{name}" is a table.', f"Write [{name}] on a line of its own.")
    return table


def upgraded(table: Any) -> Any:
    """A table of settings, and the tables in it, with the names of today."""
    if not isinstance(table, Mapping):
        return table
    return {RENAMED.get(name, name): upgraded(value) for name, value in table.items()}


def _check_names(path: Path, section: str, content: Any) -> None:
    known = [field.name for field in fields(SECTIONS[section])]
    if not isinstance(content, Mapping):
        raise SettingsError(f'{path}: "{section}" is a table.', f"Write [{section}] on a line of its own.")
    tables = tuple(METHODS) if section == "train" else ()
    own = {f"{section}.{name}": content[name] for name in tables if name in content}
    for name in content:
        if name not in known and name not in tables:
            hint = nearest(name, [*known, *tables])
            raise SettingsError(f'{path} has the unknown setting "{section}.{name}".', hint)
    for name, table in own.items():
        if not isinstance(table, Mapping):
            raise SettingsError(f'{path}: "{name}" is a table of its own.', f"Write [{name}] on a line of its own.")
        for key in table:
            if key not in known or key == "method":
                raise SettingsError(f'{path} has the unknown setting "{name}.{key}".', nearest(key, known))


def layers(base_folder: Path | None = None) -> list[tuple[str, Mapping[str, Any]]]:
    """Settings files, the strongest first, each with the name of its origin."""
    files = [Path("cdtool.toml"), config_file()] + ([base_folder / "cdtool.toml"] if base_folder else [])
    return [(str(path), read_toml(path)) for path in files]


def resolve(
    cls: type[S],
    flags: Mapping[str, Any],
    base_folder: Path | None = None,
    *,
    like: tuple[str, Mapping[str, Any]] | None = None,
) -> tuple[S, dict[str, Value]]:
    """The settings in force and where each came from.

    flag > like (a concept's settings, with their origin) > CDTOOL_* > ./cdtool.toml > user > base's table for the
    method > method > base > default. A file's [train.METHOD] counts above its [train]. A flag that is None was not
    given. Raises SettingsError for a value of the wrong kind.
    """
    section = next(name for name, known in SECTIONS.items() if known is cls)
    _check_environment(section, [field.name for field in fields(cls)])
    files = [(origin, _section(table, section)) for origin, table in layers(base_folder)]
    given = [("flag", flags), *([like] if like else [])]
    found: dict[str, Value] = {}
    if cls is TrainSettings:
        found["method"] = _pick(cls, section, "method", given, files)
        files = _for_method(str(found["method"].value), files, with_base=base_folder is not None)
    for field in fields(cls):
        found[field.name] = _pick(cls, section, field.name, given, files)
    settings = cls(**{name: value.value for name, value in found.items()})
    check(settings)
    return settings, found


def _section(table: Mapping[str, Any], section: str) -> Mapping[str, Any]:
    """A file's table of settings; the `vae` beside its `base` counts for training and sampling."""
    both = {"vae": table["vae"]} if "vae" in table and section != "compress" else {}
    return {**both, **table.get(section, {})}


def check_flags(cls: type[Any], flags: Mapping[str, Any]) -> None:
    """Raises TypeError for a flag that is no setting, as Python does for an unknown argument."""
    known = [field.name for field in fields(cls)]
    for name in flags:
        if name not in known:
            raise TypeError(f'There is no option "{name}". {nearest(name, known)}'.strip())


_Layers = list[tuple[str, Mapping[str, Any]]]


def _pick(cls: type[Any], section: str, name: str, given: _Layers, files: _Layers) -> Value:
    """The strongest layer's value of a setting, converted."""
    variable = f"CDTOOL_{section}_{name}".upper()
    candidates = [(origin, table.get(name)) for origin, table in given]
    before = [f"CDTOOL_{section}_{old}".upper() for old, new in RENAMED.items() if new == name]
    candidates += [
        *((own, os.environ.get(own)) for own in (variable, *before)),
        *((origin, table.get(name)) for origin, table in files),
    ]
    default = next(field.default for field in fields(cls) if field.name == name)
    origin, raw = next(((o, v) for o, v in candidates if v is not None), ("default", default))
    return Value(_convert(raw, get_type_hints(cls)[name], f"{section}.{name}", origin), origin)


def _for_method(method: str, files: _Layers, *, with_base: bool) -> _Layers:
    """Layers of files with their tables for a method, and the method's own row, where they count."""
    own = [[(f"{origin} [train.{method}]", table.get(method, {})), (origin, table)] for origin, table in files]
    row = (f"method {method}", METHODS[method].defaults)
    if not with_base:
        return [layer for pair in own for layer in pair] + [row]
    special, general = own.pop()
    return [layer for pair in own for layer in pair] + [special, row, general]


def _check_environment(section: str, known: list[str]) -> None:
    prefix = f"CDTOOL_{section}_".upper()
    names = [prefix + name.upper() for name in (*known, *RENAMED)]
    for name in os.environ:
        if name.startswith(prefix) and name not in names:
            raise SettingsError(f"There is no setting {name}.", nearest(name, names) or "See: cdtool config")


def base_name(flag: str | None = None) -> Value:
    """The base in force: flag > CDTOOL_BASE > ./cdtool.toml > user > mini."""
    candidates = [("flag", flag), ("CDTOOL_BASE", os.environ.get("CDTOOL_BASE"))]
    candidates += [(origin, table.get("base")) for origin, table in layers()]
    return next((Value(str(value), origin) for origin, value in candidates if value), Value("mini", "default"))


def write_base(name: str, vae: str = "") -> Path:
    """Make `name` the user's base, with an autoencoder of their own: lines of config.toml, the rest of which stays.

    Returns the file.
    """
    path = config_file()
    read_toml(path)  # a file that is broken already is not touched
    text = path.read_text(encoding="utf-8") if path.is_file() else ""
    line, top = f"base = {json.dumps(name, ensure_ascii=False)}\n", re.split(r"(?m)^(?=\s*\[)", text, maxsplit=1)
    top[0] = re.sub(r"(?m)^\s*vae\s*=.*\n?", "", top[0])
    line += f"vae = {json.dumps(vae, ensure_ascii=False)}\n" if vae else ""
    old = re.compile(r"(?m)^\s*base\s*=.*\n?")
    top[0] = old.sub(lambda _: line, top[0], count=1) if old.search(top[0]) else line + top[0]
    check_writable(path.parent)
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as temporary:
        temporary.write_text("".join(top), encoding="utf-8")
    return path


def _convert(raw: Any, hint: Any, name: str, origin: str) -> Any:
    told = shortened(printable(str(raw)), 80)
    allowed = get_args(hint)
    if allowed:
        if raw not in allowed:
            close = nearest(told, allowed) or f"It is one of {', '.join(allowed)}."
            raise SettingsError(f'{name} (from {origin}) cannot be "{told}".', close)
        return raw
    try:
        if hint is bool:
            return raw if isinstance(raw, bool) else _BOOLS[str(raw).lower()]
        if (
            isinstance(raw, bool)
            or not isinstance(raw, str | int | float)
            or (hint is str and not isinstance(raw, str))
        ):
            raise TypeError
        value = cast("Any", hint)(raw)
        if hint is int and isinstance(raw, float) and value != raw:
            raise ValueError
        return value
    except (ValueError, TypeError, KeyError, OverflowError):
        raise SettingsError(f'{name} (from {origin}) must be {_KINDS[hint]}, not "{told}".') from None


_KINDS = {bool: "true or false", int: "a whole number", float: "a number", str: "text"}
_BOOLS = {"1": True, "true": True, "yes": True, "on": True, "0": False, "false": False, "no": False, "off": False}
