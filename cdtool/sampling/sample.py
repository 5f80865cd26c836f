"""Sampling: prompts and a concept to pictures, each with the record that makes it again."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from PIL import Image, PngImagePlugin

from cdtool import __version__
from cdtool.errors import InputError, ResourceError, SettingsError, TokenError
from cdtool.models import adapter, diffusion, text
from cdtool.models.pipelines import check_base
from cdtool.sampling import routing
from cdtool.settings import SampleSettings, parse_size
from cdtool.store import concept
from cdtool.store.subject import beyond_words
from cdtool.tokens import Prompt, bind

if TYPE_CHECKING:
    from torch import Tensor

    from cdtool.models.pipelines import Base
    from cdtool.models.text import Conditioning
    from cdtool.store.registry import Entry
    from cdtool.tokens import Token

_CHUNK = "cdtool"  # the PNG text chunk that holds the record


class Drawn(NamedTuple):
    """A finished picture, the prompt it was drawn for, and its seed."""

    image: Image.Image
    prompt: str
    seed: int


@dataclass(frozen=True)
class Record:
    """Everything that makes a picture again: it travels in the PNG and in samples.jsonl."""

    prompt: str
    seed: int
    subject: str  # the concept's name, or the base's
    base: str
    fingerprint: str
    settings: dict[str, Any]
    versions: dict[str, str]


def tokens_of(entries: Sequence[Entry]) -> tuple[Token, ...]:
    """The tokens of concepts in order."""
    return tuple(token for entry in entries if entry.manifest for token in entry.manifest.tokens)


def check_prompts(
    prompts: Sequence[str], tokens: Sequence[Token], base: Base | None = None, *, joined: bool = False
) -> list[str]:
    """What may not be meant about prompts: naming no token, not all of joined concepts, not fitting the positions.

    Raises TokenError for a V-word nobody holds and for an empty list.
    """
    if not prompts:
        raise TokenError("There is no prompt.", 'Like: cdtool sample dog "V* dog on the beach".')
    remarks = []
    words = [f'"{token.words(place + 1 if len(tokens) > 1 else None)}"' for place, token in enumerate(tokens)]
    for prompt in prompts:
        bound = bind(prompt, tokens)
        if tokens and not bound.named:
            remarks.append(f'"{prompt}" names no token of the concept; it holds {" or ".join(words)}.')
        elif joined and len(bound.named) < len(tokens):
            unnamed = " and ".join(word for place, word in enumerate(words) if place not in bound.named)
            remarks.append(f'"{prompt}" does not name {unnamed}, which will not show.')
        if base is not None and text.tokenize(base, bound, tokens).dropped:
            remarks.append(f'"{prompt}" is longer than the base reads; its end does not count.')
    return remarks


def picture_size(base: Base, settings: SampleSettings) -> tuple[int, int]:
    """(width, height) in px of the pictures. Raises SettingsError for a size the base cannot draw."""
    size = parse_size(settings.size) if settings.size else (base.resolution, base.resolution)
    cell = base.latent_factor * 2 ** (len(base.unet_config["block_out_channels"]) - 1)
    if any(side % cell for side in size):
        raise SettingsError(f"--size {size[0]}x{size[1]}: both sides must be multiples of {cell} here.")
    return size


def draw(
    base: Base,
    concepts: Sequence[Entry],
    prompts: Sequence[str],
    settings: SampleSettings,
    *,
    weights: Sequence[float] = (),
    force: bool = False,
) -> Iterator[Drawn]:
    """Draw `settings.count` pictures per prompt, seeds counting up from `settings.seed` for every prompt.

    `concepts` holds the concept, several that act together word by word (routing.py), or nothing for the bare base;
    `weights` scale their changes, 1 each unless given. Every picture depends on its own seed alone.

    Raises BaseError for a concept of another base, ConceptError for concepts that cannot be joined.
    """
    acting = _acting(base, concepts, weights or [1.0] * len(concepts), force=force)
    jobs = [(prompt, settings.seed + number) for prompt in prompts for number in range(settings.count)]
    texts = {prompt: acting.told(bind(prompt, acting.tokens)) for prompt in dict.fromkeys(prompts)}
    negative = acting.told(Prompt((settings.negative,), frozenset()))
    if not settings.negative:
        negative = replace(negative, condition=text.unprompted(base, negative.condition))
    with adapter.placed(base.unet, acting.parameters):
        for start in range(0, len(jobs), settings.batch):
            part = jobs[start : start + settings.batch]
            pictures = _batch(acting, [texts[prompt] for prompt, _ in part], negative, [s for _, s in part], settings)
            for (prompt, seed), picture in zip(part, pictures, strict=True):
                yield Drawn(picture, prompt, seed)


@dataclass(frozen=True)
class _Told:
    """A prompt as the denoiser gets it: its text, and each concept's share [1, l, N] of every position."""

    condition: Conditioning
    share: Tensor


@dataclass(frozen=True)
class _Acting:
    """What draws: a base, and the concepts that act on it together."""

    base: Base
    concepts: tuple[adapter.Learned, ...]
    tokens: tuple[Token, ...]
    owners: tuple[int, ...]  # the concept of each token
    parameters: dict[str, Tensor]  # what a concept changes beyond K/V

    def told(self, prompt: Prompt) -> _Told:
        """A prompt with the concepts' rows in place."""
        rows = routing.rows(self.concepts) if self.concepts else ((),) * len(self.base.text_encoders)
        found = adapter.encode(self.base, adapter.Learned(rows=rows), [text.tokenize(self.base, prompt, self.tokens)])
        return _Told(found, routing.shares(self.base, prompt, self.tokens, self.owners)[None])

    def keys_and_values(self, features: Tensor, share: Tensor) -> dict[str, Tensor]:
        """K/V of prompts. One concept alone changes the whole prompt, as it was trained; several their own words."""
        if len(self.concepts) > 1:
            return routing.keys_and_values(self.base, self.concepts, share, features)
        return adapter.keys_and_values(self.base, (*self.concepts, adapter.Learned())[0], features)


def _acting(base: Base, concepts: Sequence[Entry], weights: Sequence[float], *, force: bool) -> _Acting:
    read = []
    for entry, weight in zip(concepts, weights, strict=True):
        check_base(entry, base, force=force)
        found = adapter.learned(base, tokens_of([entry]), concept.read_tensors(entry.path))
        if found.others and len(concepts) > 1:
            raise beyond_words(entry)
        read.append(routing.weighted(found, weight))
    owners = [place for place, entry in enumerate(concepts) for _ in tokens_of([entry])]
    changed = adapter.changed(base, read[0]) if read else {}
    return _Acting(base, tuple(read), tokens_of(concepts), tuple(owners), changed)


def _batch(
    acting: _Acting, prompts: Sequence[_Told], negative: _Told, seeds: Sequence[int], settings: SampleSettings
) -> list[Image.Image]:
    base, guided = acting.base, settings.guidance != 1
    without = [negative] * len(prompts)
    condition, away = (text.join([one.condition for one in part]) for part in (prompts, without))
    told = [*without, *prompts] if guided else prompts
    features = text.join([one.condition for one in told]).features
    with adapter.held(base) as give, torch.no_grad():
        give(acting.keys_and_values(features, torch.cat([one.share for one in told])))
        *_, z = diffusion.denoise(
            base, diffusion.scheduler(base, settings.scheduler), condition, away,
            seeds=seeds, steps=settings.steps, guidance=settings.guidance, eta=settings.eta,
            size=picture_size(base, settings),
        )  # fmt: skip
    return [Image.fromarray(pixels) for pixels in diffusion.decode(base, z)]


# ---------------------------------------------------------------- records and files


def record(drawn: Drawn, subject: str, base: Base, settings: SampleSettings) -> Record:
    """The record of a picture; the precision is the one really used."""
    import diffusers

    dtype = str(base.dtype).removeprefix("torch.")
    used = replace(settings, precision={"float32": "fp32", "bfloat16": "bf16", "float16": "fp16"}[dtype])  # type: ignore[arg-type]
    chosen = {name: value for name, value in asdict(used).items() if name not in ("count", "seed", "batch")}
    versions = {"cdtool": __version__, "torch": torch.__version__, "diffusers": diffusers.__version__}
    return Record(drawn.prompt, drawn.seed, subject, base.name, base.fingerprint, chosen, versions)


def save(drawn: Drawn, about: Record, folder: Path) -> Path:
    """Write a picture as PNG with its record, add a line to samples.jsonl, and return the path; nothing is replaced.

    Raises ResourceError where the folder cannot be written.
    """
    info = PngImagePlugin.PngInfo()
    info.add_itxt("prompt", about.prompt)
    info.add_itxt(_CHUNK, json.dumps(asdict(about), ensure_ascii=False))
    try:
        folder.mkdir(parents=True, exist_ok=True)
        path = _publish(drawn.image, info, folder, f"{_slug(about.prompt)}-{about.seed}")
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
                    path.unlink(missing_ok=True)  # no half picture, whatever stopped it
                    raise
            return path
        except FileExistsError:
            number += 1


def read_record(path: Path) -> tuple[Record, SampleSettings]:
    """The record of a picture cdtool drew, and the settings that draw it alone. Raises InputError for any other."""
    try:
        with Image.open(path) as image:
            table = json.loads(image.info[_CHUNK])
        about = Record(**table)
        known = {field.name for field in fields(SampleSettings)}
        chosen = {name: value for name, value in about.settings.items() if name in known}
        return about, SampleSettings(**chosen, count=1, seed=about.seed, batch=1)
    except (OSError, KeyError, ValueError, TypeError):
        raise InputError(
            f"{path} holds no record of how it was drawn.", "--replay takes a PNG that cdtool sample wrote."
        ) from None
