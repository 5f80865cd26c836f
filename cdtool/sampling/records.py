"""The record that makes an image again: in the PNG itself, and as a line of samples.jsonl beside it."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import html
import io
import itertools
import json
import re
import struct
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from PIL import Image, PngImagePlugin

from cdtool import __version__, schema, settings
from cdtool.errors import InputError, NotFoundError, ResourceError, SettingsError
from cdtool.files import open_regular, publish, sweep_workplaces, workplace
from cdtool.paths import exists
from cdtool.settings import SampleSettings
from cdtool.store import loras

if TYPE_CHECKING:
    from cdtool.models.pipelines import Base
    from cdtool.sampling.sample import Generated
    from cdtool.store.subject import Composition

SAMPLES = "samples.jsonl"  # the records of a folder's images, a line each
_CHUNK = "cdtool"  # the PNG text chunk that holds the record
_OF_ONE = ("count", "seed", "batch", "memory", "compile")  # settings that no single image depends on


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
    init: dict[str, Any] | None = None  # the image it began with: file, sha256, strength
    lora: str = ""  # a hash of the LoRA files' content


class InitImage(NamedTuple):
    """An image file to begin with, and the share of the denoising steps that change it: 1 is all of them."""

    path: Path
    strength: float = 0.6


class SampledImage(Image.Image):
    """A sampled image with its prompt, its seed and the record that makes it again.

    Saved as PNG it holds the record, so that `cdtool sample --replay FILE` and `show` read it there.
    """

    prompt: str
    seed: int
    record: Record

    def save(self, fp: Any, format: str | None = None, **params: Any) -> None:
        """As `PIL.Image.Image.save`, with the record in a PNG."""
        super().save(fp, format, **{"pnginfo": self._png_info()} | params)

    def _png_info(self) -> PngImagePlugin.PngInfo:
        info = PngImagePlugin.PngInfo()
        info.add_itxt("prompt", self.record.prompt)
        info.add_itxt(_CHUNK, json.dumps(asdict(self.record), ensure_ascii=False))
        return info


class Images(list[SampledImage]):
    """Sampled images, in a notebook shown in a row with their prompts and seeds."""

    def _repr_html_(self) -> str:
        return "".join(
            f'<figure style="display:inline-block;margin:4px;width:192px;vertical-align:top">'
            f'<img style="width:100%" alt="" src="data:image/png;base64,{_base64(image)}">'
            f"<figcaption>{html.escape(image.prompt)} ({image.seed})</figcaption></figure>"
            for image in self
        )


def _base64(image: Image.Image) -> str:
    small, file = image.copy(), io.BytesIO()
    small.thumbnail((384, 384))
    small.save(file, "PNG")
    return base64.b64encode(file.getvalue()).decode()


def sampled(
    generated: Generated, subject: str, base: Base, chosen: SampleSettings, init: dict[str, Any] | None = None
) -> SampledImage:
    """An image with its record; the precision recorded is the one really used."""
    import diffusers
    import torch

    dtype = str(base.dtype).removeprefix("torch.")
    used = asdict(chosen) | {"precision": {"float32": "fp32", "bfloat16": "bf16", "float16": "fp16"}[dtype]}
    kept = {name: value for name, value in used.items() if name not in _OF_ONE}
    versions = {"cdtool": __version__, "torch": torch.__version__, "diffusers": diffusers.__version__}
    image = SampledImage()
    image.__setstate__(generated.image.__getstate__())
    image.prompt, image.seed = generated.prompt, generated.seed
    image.record = Record(image.prompt, image.seed, subject, base.name, base.fingerprint, kept, versions, init,
                          base.lora_sha256)  # fmt: skip
    return image


def save(image: SampledImage, folder: Path) -> Path:
    """Write an image as PNG with its record, add a line to samples.jsonl, and return the path; nothing is replaced.

    Raises ResourceError where the folder cannot be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        sweep_workplaces(folder)
        path = _publish(image, folder, f"{_slug(image.prompt)}-{image.seed}")
        with (folder / SAMPLES).open("a", encoding="utf-8") as file:
            file.write(json.dumps({"file": path.name, **asdict(image.record)}, ensure_ascii=False) + "\n")
    except OSError as error:
        message = f"The image could not be written to {folder}: {error.strerror or error}."
        raise ResourceError(message, "Free some disk, or choose another folder with --out.") from None
    return path


def about_init(init: InitImage) -> dict[str, Any]:
    """What the record says of an image to begin with. Raises NotFoundError, SettingsError for the strength."""
    if not 0 < init.strength <= 1:
        raise SettingsError(f"strength is a share above 0 and up to 1, not {init.strength:g}.", "Like --strength 0.6.")
    if not init.path.is_file():
        raise NotFoundError(f"There is no image {init.path}.", "Check the path given with --init-image.")
    sha256 = hashlib.sha256(init.path.read_bytes()).hexdigest()
    return {"file": str(init.path), "sha256": sha256, "strength": init.strength}


def existing(
    folder: Path, subject: Composition, chosen: SampleSettings, init: dict[str, Any] | None = None
) -> dict[tuple[str, int], Path]:
    """The images of a subject in a folder that were made with these settings, by prompt and seed.

    Those that are older than one of the concepts were made by another one of its name, and do not count.
    """
    wanted = {name: value for name, value in asdict(chosen).items() if name not in _OF_ONE}
    if chosen.precision == "auto":
        wanted.pop("precision")
    known = asdict(SampleSettings())  # of the settings there were not yet when an image was made
    lora = loras.digest(chosen.lora)
    newest = max((entry.path.stat().st_mtime for entry in subject.concepts), default=0.0)
    found = {}
    for line in _lines(folder / SAMPLES):
        path = folder / Path(str(line.get("file"))).name
        made = line.get("settings")
        same = (line.get("subject"), line.get("base")) == (subject.text, subject.base)
        same = same and isinstance(made, dict) and wanted.items() <= {**known, **made}.items()
        same = same and (line.get("init"), line.get("lora", "")) == (init, lora)
        if same and path.is_file() and path.stat().st_mtime >= newest:
            found[line["prompt"], line["seed"]] = path
    return found


def _lines(path: Path) -> Iterator[dict[str, Any]]:
    """The records of a samples.jsonl; lines that are no record, and a file that is not there, are passed over."""
    with contextlib.suppress(OSError, UnicodeDecodeError):
        for line in path.read_text(encoding="utf-8").splitlines():
            with contextlib.suppress(ValueError):
                record = json.loads(line)
                if isinstance(record, dict) and {"prompt", "seed"} <= record.keys():
                    yield record


def _slug(prompt: str) -> str:
    return re.sub(r"[^\w*]+", "-", prompt.lower().replace("*", "")).strip("-")[:60] or "picture"


def _publish(image: SampledImage, folder: Path, stem: str) -> Path:
    names = itertools.chain([stem], (f"{stem}-{number}" for number in itertools.count(2)))
    with workplace(folder) as work:
        image.save(work / "image.png", "PNG")
        paths = (folder / f"{name}.png" for name in names)
        return next(path for path in paths if publish(work / "image.png", path, durable=False))


def read(path: Path) -> tuple[Record, SampleSettings]:
    """The record of an image that cdtool wrote, and the settings that make it again.

    Raises NotFoundError where there is no such file, InputError for any other.
    """
    if not exists(path):
        raise NotFoundError(f"There is no image {path}.", "Check the path.")
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
