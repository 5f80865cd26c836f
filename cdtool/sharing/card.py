"""A concept's card: a README.md and pictures, made from its manifest, its scores and its samples."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cdtool import schema
from cdtool.errors import NameTakenError, UsageError
from cdtool.files import workplace
from cdtool.interop import public
from cdtool.reports.html import figure, signed
from cdtool.sharing import pictures
from cdtool.sharing.pictures import Picture
from cdtool.store import bases, registry, subject
from cdtool.tokens import article, counted

if TYPE_CHECKING:
    from cdtool.store.concept import Manifest
    from cdtool.store.registry import Concept

SHOWN = 8  # pictures
IMAGES = "images"  # the folder of the pictures beside the card
_LICENCE = re.compile(r"[a-z0-9][a-z0-9.+-]{0,49}")
_SETTINGS = ("steps", "lr", "batch", "prior", "rank", "augment", "seed")
_SIDE = 1024  # px, the longest side of a picture


@dataclass(frozen=True)
class Interval:
    """A mean with its 95% interval."""

    mean: float
    low: float
    high: float


@dataclass(frozen=True)
class Scores:
    """The last evaluation of a concept, as its note has it."""

    concept: Mapping[str, float]
    base: Mapping[str, float] = field(default_factory=dict)
    difference: Mapping[str, Interval] = field(default_factory=dict)
    encoder: str = ""
    samples: int = 0


@dataclass(frozen=True)
class Card:
    """What a card says and shows; what is left empty is left out."""

    concept: Concept
    images: tuple[Picture, ...] = ()
    licence: str = ""  # an identifier such as cc-by-4.0
    repository: str = ""  # OWNER/NAME on the hub
    scores: Scores | None = None

    @property
    def manifest(self) -> Manifest:
        """The concept's manifest, without the folders of this machine."""
        assert self.concept.manifest is not None
        return public.manifest(self.concept.manifest)


def gather(entry: Concept, *, images: Sequence[Path] | None = None, licence: str = "", repository: str = "") -> Card:
    """A card's data; `images` are folders or files, those that `cdtool sample` wrote here unless given.

    Raises UsageError for a licence that is no identifier, NotFoundError for a place of images that does not exist.
    """
    if licence and not _LICENCE.fullmatch(licence):
        raise UsageError(f'"{licence}" is not the identifier of a licence.', "Like cc-by-4.0, mit or openrail++.")
    found = pictures.find(images if images is not None else pictures.default_places(entry.name))
    note = registry.note(entry.name) if entry.path.parent == registry.concepts_dir() else {}
    try:
        scores = schema.build(Scores, note["evaluation"]) if "evaluation" in note else None
    except schema.SchemaError:
        scores = None  # of another version
    return Card(entry, tuple(pictures.of(entry.name, found, SHOWN)), licence, repository, scores)


def card(
    concept: str | Path | Concept,
    folder: str | Path,
    *,
    images: Sequence[str | Path] | None = None,
    licence: str = "",
    force: bool = False,
) -> Path:
    """Write the card of a concept into a folder: README.md, and its pictures in `images`.

    Args:
        concept: a concept, its name or its file.
        folder: where the card goes; it is made where it does not exist.
        images: folders or files that `cdtool sample` wrote; `samples/CONCEPT` where that exists.
        licence: the identifier of the licence the concept is given under, such as "cc-by-4.0".
        force: replace a card that is there.

    Returns the path of README.md. Raises NameTakenError for a README.md that is there without `force`, UsageError for
    a licence that is no identifier, NotFoundError for an unknown concept or place of images.
    """
    entry = subject.load(subject.text_of(concept))
    made = gather(entry, images=None if images is None else [Path(one) for one in images], licence=licence)
    return write(made, Path(folder), force=force)


def write(card: Card, folder: Path, *, force: bool = False) -> Path:
    """Write a card and its pictures into a folder; see `card`."""
    target = check_free(folder, force=force)
    (folder / IMAGES).mkdir(parents=True, exist_ok=True) if card.images else folder.mkdir(parents=True, exist_ok=True)
    with workplace(folder) as work:
        for number, picture in enumerate(card.images, 1):
            pixels = picture.pixels()
            pixels.thumbnail((_SIDE, _SIDE))
            pixels.save(work / "picture.png", "PNG")
            (work / "picture.png").replace(folder / IMAGES / f"{number}.png")
        (work / "README.md").write_text(text(card), encoding="utf-8", newline="\n")
        (work / "README.md").replace(target)
    return target


def check_free(folder: Path, *, force: bool) -> Path:
    """Where the card of a folder lies. Raises NameTakenError for one that is there, without `force`."""
    target = folder / "README.md"
    if target.exists() and not force:
        raise NameTakenError(f"{target} is there already.", "Choose another folder with -o, or add --force.")
    return target


# ---------------------------------------------------------------- the text


def text(card: Card) -> str:
    """A card as the hub and people read it: a header of YAML, then Markdown."""
    manifest = card.manifest
    called = " and ".join(f"**{_plain(word)}**" for word in pictures.words(manifest))
    parts = [
        _header(card),
        f"# {_plain(card.concept.name)}",
        "",
        f"{called}: a concept for {_base(card)}, made with cdtool.",
    ]
    if card.images:
        parts += ["", *_samples(card.images)]
    parts += ["", "## Use", "", *_use(card), "", "## What it is", "", *_facts(card)]
    if card.scores:
        parts += ["", "## Scores", "", *_scores(card.scores)]
    parts += ["", "## Licence", "", _licence(card)]
    return "\n".join(parts) + "\n"


def _header(card: Card) -> str:
    """What the hub reads; a JSON value is a YAML value too, so nothing in a prompt can add a line."""
    hub_id = _hub_id(card.manifest.base.name)
    table: dict[str, Any] = {
        "tags": ["cdtool", "custom-diffusion", "text-to-image", "diffusers"],
        "pipeline_tag": "text-to-image",
        "instance_prompt": " ".join(pictures.words(card.manifest)),
    }
    table |= {"base_model": hub_id} if hub_id else {}
    table |= {"license": card.licence} if card.licence else {}
    if card.images:
        table["widget"] = [{"text": picture.prompt, "output": {"url": f"{IMAGES}/{number}.png"}}
                           for number, picture in enumerate(card.images, 1)]  # fmt: skip
    return "\n".join(["---", *(f"{name}: {json.dumps(value)}" for name, value in table.items()), "---", ""])


def _hub_id(base: str) -> str:
    """A base's id on the hub, "" for one that only this machine has."""
    return bases.ALIASES[base][0] if base in bases.ALIASES else base if base != "mini" and bases.is_name(base) else ""


def _base(card: Card) -> str:
    name = card.manifest.base.name
    hub_id = _hub_id(name)
    return (
        f"`{hub_id}`" if hub_id else "cdtool's embedded base `mini`" if name == "mini" else "a base that is not public"
    )


def _samples(images: Sequence[Picture]) -> list[str]:
    rows = [f"| ![]({IMAGES}/{number}.png) | {_plain(picture.prompt)} | {picture.seed} |"
            for number, picture in enumerate(images, 1)]  # fmt: skip
    return ["| picture | prompt | seed |", "|---|---|---|", *rows]


def _use(card: Card) -> list[str]:
    name, manifest = card.concept.name, card.manifest
    prompt = f"photo of {' and '.join(article(word) for word in pictures.words(manifest))}"
    fetch = f"cdtool pull {card.repository}" if card.repository else f"cdtool import ./{name}.safetensors"
    return ["```bash", fetch, f'cdtool sample {name} "{prompt}"', "```", "",
            "For ComfyUI, A1111, kohya and diffusers: `cdtool export`."]  # fmt: skip


def _facts(card: Card) -> list[str]:
    manifest = card.manifest
    base = manifest.base
    chosen = [f"{name} {manifest.settings[name]}" for name in _SETTINGS if name in manifest.settings]
    facts = {
        "method": manifest.method,
        "base": f"{_base(card)} ({base.family}); its keys and values have the fingerprint `{base.fingerprint}`",
        "settings": _plain(", ".join(chosen)),
        "photos": counted(len(manifest.photos), "photo") if manifest.photos else "",
        "made from": _plain(", ".join(str(one.get("name", one.get("by", ""))) for one in manifest.parents)),
        "size": f"{card.concept.bytes / 1e6:.1f} MB",
        "created": f"{manifest.created[:10]} by cdtool {manifest.version}" if manifest.created else "",
    }
    return [f"* {name}: {value}" for name, value in facts.items() if value]


def _scores(scores: Scores) -> list[str]:
    """The means of the last evaluation, the base's own and the difference with its interval beside them."""
    lines = ["| score | concept | base | difference, 95% interval |", "|---|---|---|---|"]
    for name, value in scores.concept.items():
        found = scores.difference.get(name)
        interval = f"{signed(found.mean)} [{signed(found.low)}, {signed(found.high)}]" if found else ""
        base = figure(scores.base[name]) if name in scores.base else ""
        lines.append(f"| {_plain(name)} | {figure(value)} | {base} | {interval} |")
    return [*lines, "", f"{counted(scores.samples, 'picture')}, measured with {_plain(scores.encoder)}."]


def _licence(card: Card) -> str:
    own = f"This concept is given under `{card.licence}`." if card.licence else (
        "No licence was named for this concept: ask whoever shared it before you use it.")  # fmt: skip
    return f"{own} The licence of the base counts for what is made with both."


def _plain(words: str) -> str:
    """Words from a concept's file as text of a table: no markup, no new line."""
    return re.sub(r"([\\`*_{}\[\]<>|#!])", r"\\\1", " ".join(words.split())).replace("\\*", "&#42;")
