"""A manifest as others may read it: without the folders of this machine."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from cdtool.store.concept import Manifest

_PLACE = re.compile(r"(?:[/~\\]|\.{1,2}[/\\]|[A-Za-z]:[/\\])\S")  # how the path of a file or folder begins


def manifest(found: Manifest) -> Manifest:
    """The manifest with the last part alone of every path in it."""
    return replace(
        found,
        base=replace(found.base, name=_shared(found.base.name)),
        settings=_shared(found.settings),
        parents=tuple(_shared(parent) for parent in found.parents),
        report=_shared(found.report),
    )


def _shared(value: Any) -> Any:
    if isinstance(value, str):
        return re.split(r"[/\\]", value.rstrip("/\\"))[-1] if _PLACE.match(value) else value
    if isinstance(value, Mapping):
        return {name: _shared(each) for name, each in value.items()}
    return [_shared(each) for each in value] if isinstance(value, list | tuple) else value
