"""The record that makes an image again: in the PNG itself, and as a line of samples.jsonl beside it."""

from __future__ import annotations

import json
import re
import struct
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from PIL import Image, PngImagePlugin

from cdtool import __version__, schema, settings
from cdtool.errors import InputError, ResourceError, SettingsError
from cdtool.files import open_regular
from cdtool.settings import SampleSettings

if TYPE_CHECKING:
    from cdtool.models.pipelines import Base
    from cdtool.sampling.sample import Generated

_CHUNK = "cdtool"  # the PNG text chunk that holds the record


@dataclass(frozen=True)
class Record:
    """Everything that is needed to make an image again."""

    prompt: str
    seed: int
    subject: str  # the concept's name, or the base's
    base: str
    fingerprint: str
    settings: dict[str, Any]
    versions: dict[str, str]


def record(generated: Generated, subject: str, base: Base, chosen: SampleSettings) -> Record:
    """The record of an image; the precision is the one really used."""
    import diffusers

    dtype = str(base.dtype).removeprefix("torch.")
    used = replace(chosen, precision={"float32": "fp32", "bfloat16": "bf16", "float16": "fp16"}[dtype])  # type: ignore[arg-type]
    kept = {name: value for name, value in asdict(used).items() if name not in ("count", "seed", "batch")}
    versions = {"cdtool": __version__, "torch": torch.__version__, "diffusers": diffusers.__version__}
    return Record(generated.prompt, generated.seed, subject, base.name, base.fingerprint, kept, versions)


def save(generated: Generated, about: Record, folder: Path) -> Path:
    """Write an image as PNG with its record, add a line to samples.jsonl, and return the path; nothing is replaced.

    Raises ResourceError where the folder cannot be written.
    """
    info = PngImagePlugin.PngInfo()
    info.add_itxt("prompt", about.prompt)
    info.add_itxt(_CHUNK, json.dumps(asdict(about), ensure_ascii=False))
    try:
        folder.mkdir(parents=True, exist_ok=True)
        path = _publish(generated.image, info, folder, f"{_slug(about.prompt)}-{about.seed}")
        with (folder / "samples.jsonl").open("a", encoding="utf-8") as file:
            file.write(json.dumps({"file": path.name, **asdict(about)}, ensure_ascii=False) + "\n")
    except OSError as error:
        message = f"The picture could not be written to {folder}: {error.strerror or error}."
        raise ResourceError(message, "Free some disk, or choose another folder with --out.") from None
    return path


def _slug(prompt: str) -> str:
    return re.sub(r"[^\w*]+", "-", prompt.lower().replace("*", "")).strip("-")[:60] or "picture"


def _publish(image: Image.Image, info: PngImagePlugin.PngInfo, folder: Path, stem: str) -> Path:
    number = 1
    while True:
        path = folder / (f"{stem}.png" if number == 1 else f"{stem}-{number}.png")
        try:
            with path.open("xb") as file:
                try:
                    image.save(file, "PNG", pnginfo=info)
                except BaseException:
                    path.unlink(missing_ok=True)  # leave no half image, whatever stopped it
                    raise
            return path
        except FileExistsError:
            number += 1


def read(path: Path) -> tuple[Record, SampleSettings]:
    """The record of an image that cdtool wrote, and the settings that make it again.

    Raises InputError for any other file.
    """
    try:
        with open_regular(path) as file, Image.open(file) as image:
            about = schema.build(Record, schema.loads(str(image.info[_CHUNK])))
        chosen = replace(schema.build(SampleSettings, about.settings), count=1, seed=about.seed, batch=1)
        settings.check(chosen)
    except SettingsError as error:
        raise InputError(f"The record in {path} cannot be followed: {error}", "Sample it anew.") from None
    except (OSError, KeyError, ValueError, SyntaxError, struct.error, Image.DecompressionBombError):
        raise InputError(
            f"{path} holds no record of how it was made.", "--replay takes a PNG that cdtool sample wrote."
        ) from None
    return about, chosen
