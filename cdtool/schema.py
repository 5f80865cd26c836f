"""Tables from outside (JSON, TOML) checked against the type hints of a dataclass, in one place."""

from __future__ import annotations

import dataclasses
import json
import math
import types
import unicodedata
from collections.abc import Mapping
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

T = TypeVar("T")
_DEEPEST = 20  # levels of tables within tables
_CONTROL = {"Cc", "Cf", "Zl", "Zp"}  # categories of characters that steer a terminal or reorder what it shows
_KEPT = "\N{ZERO WIDTH JOINER}\N{ZERO WIDTH NON-JOINER}"  # parts of words and of emoji


class SchemaError(ValueError):
    """A value is not what the type hints say; the message names where."""


def loads(text: str | bytes) -> Any:
    """Parsed JSON without NaN and infinities. Raises SchemaError for anything else, however deep it nests."""
    try:
        return json.loads(text, parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as error:
        reason = "nested too deeply" if isinstance(error, RecursionError) else str(error)
        raise SchemaError(f"not readable as JSON: {reason}") from None


def loads_toml(text: str) -> dict[str, Any]:
    """Parsed TOML. Raises SchemaError for anything else, however deep it nests."""
    import tomli

    try:
        return tomli.loads(text)
    except (ValueError, RecursionError) as error:
        reason = "it nests too deeply" if isinstance(error, RecursionError) else shortened(printable(str(error)))
        raise SchemaError(reason) from None


def build(cls: type[T], table: Any, where: str = "") -> T:
    """An instance of the dataclass `cls` from a table, every value checked against the hint of its field.

    Keys that `cls` does not have are left out (a newer version may know them); strings lose control characters.
    Raises SchemaError, with the path of the first value that is missing or of the wrong type.
    """
    if not isinstance(table, Mapping):
        raise SchemaError(f"{where or 'it'} is {_kind(table)}, not a table")
    hints = get_type_hints(cls)
    values = {}
    for field in dataclasses.fields(cls):  # type: ignore[arg-type]  # T is a dataclass
        path = f"{where}.{field.name}" if where else field.name
        if field.name in table:
            values[field.name] = _checked(hints[field.name], table[field.name], path)
        elif field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING:
            raise SchemaError(f"{path} is missing")
    return cls(**values)


def printable(text: str, keep: str = "") -> str:
    """Text without characters that steer a terminal: white space becomes a space, others U+FFFD; `keep` stays."""
    if text.isascii() and text.isprintable():
        return text
    return "".join(_shown(letter, keep) for letter in text)


def whole_number(text: str) -> int | None:
    """The number that up to 18 decimal digits stand for, None for any other text."""
    return int(text) if text.isascii() and text.isdecimal() and len(text) <= 18 else None


def shortened(text: str, most: int = 300) -> str:
    """Text of at most `most` characters, the middle left out."""
    half = (most - 3) // 2
    return text if len(text) <= most else f"{text[:half]}...{text[-half:]}"


def _shown(letter: str, keep: str) -> str:
    if letter in keep or letter in _KEPT or unicodedata.category(letter) not in _CONTROL:
        return letter
    return " " if letter.isspace() else "\N{REPLACEMENT CHARACTER}"


def _refuse_constant(name: str) -> Any:
    raise SchemaError(f"{name} is no number")


def _checked(hint: Any, value: Any, path: str) -> Any:
    origin, arguments = get_origin(hint), get_args(hint)
    if hint is Any:
        return plain(value, path)
    if origin in (Union, types.UnionType):
        return _any_of(arguments, value, path)
    if origin is Literal:
        if value not in arguments:
            raise SchemaError(f"{path} is none of {', '.join(map(str, arguments))}")
        return value
    if origin is tuple:
        if not isinstance(value, list | tuple):
            raise SchemaError(f"{path} is {_kind(value)}, not a list")
        return tuple(_checked(arguments[0], each, f"{path}[{index}]") for index, each in enumerate(value))
    if isinstance(origin, type) and issubclass(origin, Mapping):
        if not isinstance(value, Mapping):
            raise SchemaError(f"{path} is {_kind(value)}, not a table")
        return {_text(name, path): _checked(arguments[1], each, f"{path}.{shortened(str(name), 60)}")
                for name, each in value.items()}  # fmt: skip
    if dataclasses.is_dataclass(hint):
        return build(hint, value, path)  # type: ignore[arg-type]  # a class, not an instance
    return _scalar(hint, value, path)


def _any_of(hints: tuple[Any, ...], value: Any, path: str) -> Any:
    if value is None and type(None) in hints:
        return None
    errors = []
    for hint in hints:
        if hint is not type(None):
            try:
                return _checked(hint, value, path)
            except SchemaError as error:
                errors.append(error)
    raise errors[0]


def _scalar(hint: type, value: Any, path: str) -> Any:
    if hint is str and isinstance(value, str):
        return _text(value, path)
    if hint is bool and isinstance(value, bool):
        return value
    if hint is int and isinstance(value, int) and not isinstance(value, bool) and abs(value) < 2**63:
        return value
    if hint is float and isinstance(value, int | float) and not isinstance(value, bool):
        return _finite(value, path)
    names = {str: "text", bool: "true or false", int: "a whole number", float: "a number"}
    raise SchemaError(f"{path} is {_kind(value)}, not {names.get(hint, hint.__name__)}")


def plain(value: Any, path: str, depth: int = 0) -> Any:
    """A value without a schema: tables, lists, text, finite numbers, truth values and null, not too deep."""
    if depth > _DEEPEST:
        raise SchemaError(f"{path} nests too deeply")
    if isinstance(value, Mapping):
        return {_text(name, path): plain(each, path, depth + 1) for name, each in value.items()}
    if isinstance(value, list | tuple):
        return [plain(each, path, depth + 1) for each in value]
    if isinstance(value, str):
        return _text(value, path)
    if isinstance(value, int | float) and not isinstance(value, bool):
        return _finite(value, path)
    if value is None or isinstance(value, bool):
        return value
    raise SchemaError(f"{path} is {_kind(value)}")


def _text(value: Any, path: str) -> str:
    if not isinstance(value, str):
        raise SchemaError(f"{path} has a key that is {_kind(value)}")
    try:
        value.encode()
    except UnicodeEncodeError:
        raise SchemaError(f"{path} is not valid Unicode text") from None
    return printable(value)


def _finite(value: float, path: str) -> float:
    if (isinstance(value, int) and abs(value) >= 2**63) or not math.isfinite(value):
        raise SchemaError(f"{path} is out of range")
    return value


def _kind(value: Any) -> str:
    if isinstance(value, bool):
        return "a truth value"
    kinds = {str: "text", int: "a number", float: "a number", list: "a list", tuple: "a list", dict: "a table"}
    return "empty" if value is None else kinds.get(type(value), type(value).__name__)
