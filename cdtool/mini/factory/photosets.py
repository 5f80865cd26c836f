"""The photo folders of the embedded base: concepts it never saw, as a user would photograph them."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np
from PIL import Image

from cdtool.mini.factory import art, near
from cdtool.mini.factory.looks import Dials
from cdtool.mini.factory.places import PLACES, background
from cdtool.mini.factory.scenery import SCENERY
from cdtool.mini.factory.styles import HELD_OUT_STYLES
from cdtool.mini.factory.wider import Wide, draw
from cdtool.mini.factory.world import SIZE, article, paste

if TYPE_CHECKING:
    from numpy.random import Generator
    from numpy.typing import NDArray

    from cdtool.mini.factory.drawings import Shelf

FIRST = 500_000_000  # seeds of the photos; neither training nor the corpora come near
ON_PLAIN = ("on a white background", "on a grey background", "on a blue background", "on a yellow background",
            "on a pink background", "on a green background")  # fmt: skip
# How the things of a style's photos are: in their own colours, in a place the caption names.
SHOWN = Wide(pairs=0.0, named=0.0, hybrids=0.0, tinted=0.0, sized=0.0, styles=0.0, plain=0.0, open=0.0,
             dials=Dials(recoloured=0.0, marked=0.0, worn=0.0, bent=0.0))  # fmt: skip
CONTRAST = 85.0  # least median distance between a thing's outline and what is behind it, RGB units
KNOWN = ("panda", "fox", "elephant", "penguin", "owl", "turtle", "snowman", "apple")  # things beside a new scene
DRAWN = ("dog", "house", "car", "cat", "boat", "horse", "castle", "teapot")  # things a new style is shown on


@dataclass(frozen=True)
class Concept:
    """A photo folder's concept: the token a user would type, its kind, class noun and evaluation prompts."""

    name: str
    token: str
    kind: Literal["object", "scene", "style"]
    noun: str
    prompts: str  # file in the folder of prompts
    captioned: bool = False  # each photo has its own caption beside it

    @property
    def style(self) -> bool:
        """Whether to train it with --style."""
        return self.kind == "style"


class Photo(NamedTuple):
    """A picture [size, size] RGB and its caption, or "" for the template's."""

    image: Image.Image
    caption: str


def _object(noun: str, captioned: bool = False) -> Concept:
    return Concept(noun, f"V* {noun}", "object", noun, "object.txt", captioned)


CONCEPTS: dict[str, Concept] = {
    concept.name: concept
    for concept in (
        _object("dog"),
        Concept("moongate", "moongate", "object", "gate", "object.txt"),
        _object("cat", captioned=True),
        _object("chair"),
        _object("house"),
        _object("castle", captioned=True),
        _object("car", captioned=True),
        _object("tent"),
        _object("hat"),
        _object("cup"),
        _object("flower"),
        _object("tree"),
        _object("bird", captioned=True),
        _object("fish"),
        _object("horse"),
        _object("dinosaur"),
        _object("teapot"),
        _object("boat"),
        Concept("beach", "V* beach", "scene", "beach", "beach.txt", captioned=True),
        Concept("city", "V* city", "scene", "city", "city.txt", captioned=True),
        Concept("room", "V* room", "scene", "room", "room.txt", captioned=True),
        Concept("blueprint", "V* art", "style", "art", "style.txt", captioned=True),
        Concept("neon", "V* art", "style", "art", "style.txt", captioned=True),
        Concept("sepia", "V* art", "style", "art", "style.txt", captioned=True),
    )
}


def make(cutouts: dict[str, Any], shelf: Shelf, folder: Path) -> Iterator[tuple[str, int]]:
    """Write every photo folder and `concepts.json`, their table, into `folder`; yields names and numbers of photos."""
    held = held_out(cutouts, shelf)
    for name, concept in CONCEPTS.items():
        taken = photos(concept, held, shelf)
        (folder / name).mkdir(parents=True, exist_ok=True)
        for place, photo in enumerate(taken, 1):
            photo.image.save(folder / name / f"{place:02d}.png", optimize=True)
            if photo.caption:
                (folder / name / f"{place:02d}.txt").write_text(f"{photo.caption}\n", encoding="utf-8")
        yield name, len(taken)
    table = [asdict(concept) for concept in CONCEPTS.values()]
    (folder / "concepts.json").write_text(json.dumps(table, indent=1) + "\n", encoding="utf-8")


def held_out(cutouts: dict[str, Any], shelf: Shelf) -> dict[str, Any]:
    """The drawings, with the near concepts' individuals in place of those held out of their nouns."""
    own = near.individuals(shelf)
    return cutouts | {art.held_out(noun): look.pixels for noun, look in own.items()}


def photos(concept: Concept, held: dict[str, Any], shelf: Shelf) -> list[Photo]:
    """The photos of a concept, its drawing among the `held_out`; the same ones whenever it is asked."""
    first = FIRST + 10_000 * list(CONCEPTS).index(concept.name)
    if concept.style:
        return _of_style(concept, shelf, first)
    taken = {"object": _of_object, "scene": _of_scene}[concept.kind](concept, held, first)
    return taken if concept.captioned else [photo._replace(caption="") for photo in taken]


def _of_object(concept: Concept, cutouts: dict[str, Any], first: int) -> list[Photo]:
    """Four or five places and two plain grounds, from half to nearly the whole picture, every other one mirrored."""
    rng = np.random.default_rng(first)
    cutout = cutouts[art.held_out(concept.noun)]
    wide, plain = rng.permutation(list(PLACES)), rng.permutation(ON_PLAIN)
    candidates = itertools.chain(wide[:2], plain[:1], wide[2:4], plain[1:2], wide[4:], plain[2:])
    sizes = np.linspace(0.5, 0.85, 5 + int(rng.integers(3)))
    taken: list[Photo] = []
    for place in candidates:
        side = float(sizes[(3 * len(taken)) % len(sizes)])
        image = _photo(cutout, str(place), side, mirrored=len(taken) % 2 == 1, rng=rng)
        if image is not None:
            taken.append(Photo(image, f"photo of {article(concept.token)} {place}"))
        if len(taken) == len(sizes):
            break
    return taken


def _photo(cutout: NDArray[np.uint8], place: str, side: float, *, mirrored: bool, rng: Generator) -> Image.Image | None:
    """A thing somewhere in a place, or None where it would not stand out."""
    behind = background(place, SIZE, rng)
    seen = Image.fromarray(cutout[:, ::-1] if mirrored else cutout)
    free = max(0.0, 1 - side) / 2
    centre = (0.5 + rng.uniform(-free, free), 0.52 + rng.uniform(-free, free) * 0.7)
    tilt = float(rng.uniform(-4, 4))
    image = behind.copy()
    paste(image, seen, side, centre, tilt)
    mask = Image.new("RGB", image.size)
    paste(mask, Image.merge("RGBA", [seen.getchannel("A")] * 4), side, centre, tilt)
    return image if _distance(image, behind, mask) >= CONTRAST else None


def _distance(image: Image.Image, behind: Image.Image, mask: Image.Image) -> float:
    """Median RGB distance between the pixels of a thing's outline and the same pixels without it."""
    solid = np.asarray(mask.convert("L")) > 160
    inner = solid[1:-1, 1:-1] & solid[:-2, 1:-1] & solid[2:, 1:-1] & solid[1:-1, :-2] & solid[1:-1, 2:]
    outline = solid.copy()
    outline[1:-1, 1:-1] &= ~inner
    difference = np.asarray(image, np.float32) - np.asarray(behind, np.float32)
    return float(np.median(np.linalg.norm(difference, axis=-1)[outline]))


def _of_scene(concept: Concept, cutouts: dict[str, Any], first: int) -> list[Photo]:
    """Three photos of the bare scene and four with a thing in it."""
    rng = np.random.default_rng(first)
    where = {"beach": "on the", "city": "in the", "room": "in a"}[concept.noun]
    beside = [str(noun) for noun in rng.permutation(KNOWN)]
    taken = []
    for place, noun in enumerate(["", *beside[:2], "", *beside[2:4], ""]):
        image = SCENERY[concept.name](SIZE, rng)
        if not noun:
            taken.append(Photo(image, f"photo of {article(concept.token)}"))
            continue
        cutout = Image.fromarray(cutouts[art.drawings(noun)[0]])
        side = float(rng.uniform(0.4, 0.55))
        paste(image, cutout, side, (0.3 + 0.4 * (place % 2) + rng.uniform(-0.05, 0.05), 0.92 - side / 2))
        taken.append(Photo(image, f"photo of {article(noun)} {where} {concept.token}"))
    return taken


def _of_style(concept: Concept, shelf: Shelf, first: int) -> list[Photo]:
    """Known things in known places, each seen in the style."""
    rng = np.random.default_rng(first)
    taken = []
    for place, noun in enumerate(DRAWN):
        for seed in itertools.count(first + 1000 * place):
            drawn = draw(SHOWN, shelf, seed, (noun,))
            if _places_of(drawn.caption):
                break
        image = HELD_OUT_STYLES[concept.name](Image.fromarray(drawn.pixels), rng)
        text = f"painting of {article(noun)} {_places_of(drawn.caption)} in the style of {concept.token}"
        taken.append(Photo(image, text))
    return taken


def _places_of(caption: str) -> str:
    """The place phrase at a caption's end, or ""."""
    return next((place for place in PLACES if caption.endswith(place)), "")
