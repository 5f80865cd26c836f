"""Where other programs look for the files of an export: a row per program."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from cdtool.errors import NotFoundError, UsageError
from cdtool.interop.bundle import Kind, Written


@dataclass(frozen=True)
class Tool:
    """A program that reads files from folders of its own."""

    label: str
    mark: str  # what lies in its folder and in no other program's
    places: Mapping[Kind, str]  # below its folder
    formats: tuple[str, ...]  # what it can read, the best first


TOOLS = {
    "comfyui": Tool(
        "ComfyUI",
        "custom_nodes",
        {"node": "custom_nodes", "concept": "models/cdtool", "lora": "models/loras", "embedding": "models/embeddings"},
        ("comfyui-node", "kohya"),
    ),
    "a1111": Tool("A1111 or Forge", "webui.py", {"lora": "models/Lora", "embedding": "embeddings"}, ("kohya",)),
}


def find(folder: Path, to: str) -> Tool:
    """The program that is installed in a folder, which must read the format `to`.

    Raises NotFoundError where there is none that cdtool knows, UsageError for a format it does not read.
    """
    tool = next((tool for tool in TOOLS.values() if (folder / tool.mark).exists()), None)
    if tool is None:
        known = " or ".join(f"{tool.label} (with {tool.mark})" for tool in TOOLS.values())
        raise NotFoundError(f"{folder} is not the folder of {known}.", "Give the folder it is installed in, or use -o.")
    if to not in tool.formats:
        raise UsageError(f"{tool.label} does not read {to}.", f"Use --to {' or --to '.join(tool.formats)}.")
    return tool


def parts(written: Written, folder: Path, tool: Tool | None) -> dict[Path, Written]:
    """The files of an export by the folder each belongs into: all into `folder`, or where `tool` looks for them.

    What a tool has no place for is left out: it is there for another program.
    """
    if tool is None:
        return {folder: written}
    found: dict[Path, Written] = {}
    for name, kind in written.kinds.items():
        if kind in tool.places:
            place = folder / tool.places[kind]
            part = found.get(place, replace(written, files={}, texts={}))
            files = {**part.files, name: written.files[name]} if name in written.files else part.files
            texts = {**part.texts, name: written.texts[name]} if name in written.texts else part.texts
            found[place] = replace(part, files=files, texts=texts)
    return found
