"""Captions of the wider world: what is seen, in varying detail, with synonyms and in changing order."""

from __future__ import annotations

from typing import TYPE_CHECKING

from cdtool.mini.factory.looks import ADJECTIVES, Look

if TYPE_CHECKING:
    from numpy.random import Generator

NAMES = ("ktn", "zqv")  # stand for the first and the second individual of a picture in its caption
SYNONYMS = {
    "dog": ("puppy", "hound"), "cat": ("kitten",), "house": ("home",), "car": ("auto",), "boat": ("sailboat",),
    "airplane": ("plane",), "rabbit": ("bunny",), "cup": ("mug",), "couch": ("sofa",), "horse": ("pony",),
    "bicycle": ("bike",), "shoe": ("sneaker",), "train": ("locomotive",), "gate": ("gateway",),
}  # fmt: skip
ALIKE = {"tan": ("beige", "cream"), "grey": ("silver",), "purple": ("violet",), "teal": ("turquoise",)}
WEARING = {"vest": ("with", "in", "wearing"), "scarf": ("with", "in", "wearing"), "hat": ("with", "in", "wearing")}
RELATIONS = ("in front of", "next to", "on the left of", "on top of", "and")


def article(words: str) -> str:
    """`words` with its indefinite article; a name counts by its first letter."""
    return f"{'an' if words[0] in 'aeiou' else 'a'} {words}"


def _one(rng: Generator, of: tuple[str, ...] | list[str]) -> str:
    return of[int(rng.integers(len(of)))]


def _word(rng: Generator, word: str, table: dict[str, tuple[str, ...]], share: float) -> str:
    return _one(rng, table[word]) if word in table and rng.random() < share else word


def thing(noun: str, look: Look, rng: Generator, name: str = "") -> str:
    """A thing's words without its article: by its name, or by as much of its look as this caption tells."""
    noun = _word(rng, noun, SYNONYMS, 0.12)
    if name:
        return name if rng.random() < 0.2 else f"{name} {noun}"
    detail = rng.random()
    if detail < 0.15:
        return noun
    colours = [_word(rng, colour, ALIKE, 0.25) for colour in look.colours[: 1 if detail < 0.4 else 2]]
    if len(colours) == 2 and rng.random() < 0.3:
        colours.reverse()
    words = " and ".join([*colours, noun]) if len(colours) < 2 else f"{' and '.join(colours)} {noun}"
    words = words.replace(f" and {noun}", f" {noun}") if len(colours) == 1 else words
    after = []
    if look.mark and rng.random() < 0.8:
        if rng.random() < 0.5:
            words = f"{ADJECTIVES[look.mark]} {words}"
        else:
            after.append(f"{_word(rng, look.mark_colour, ALIKE, 0.2)} {look.mark}")
    if look.worn and rng.random() < 0.85:
        told = f"{_word(rng, look.worn_colour, ALIKE, 0.2)} {look.worn}" if rng.random() < 0.85 else look.worn
        after.append(article(told))
    if not after:
        return words
    joining = _one(rng, WEARING.get(look.worn, ("with",))) if len(after) == 1 and look.worn in after[0] else "with"
    return f"{words} {joining} {' and '.join(after)}"


def caption(things: list[str], relation: str, place: str, medium: str, size: str, rng: Generator) -> str:
    """The whole caption; its place stands last, or now and then first."""
    before = size == "very small" and rng.random() < 0.6
    words = f" {relation} ".join(article(f"{size} {one}" if before else one) for one in things)
    if medium:
        words = f"{medium} of {words}"
        if rng.random() < 0.2:
            words = article(words)
    if size and not before:
        words = f"{'a ' if size == 'far away' else ''}{size} {words}"
    if place and rng.random() < 0.12:
        return f"{place}, {words}"
    return f"{words} {place}" if place else words
