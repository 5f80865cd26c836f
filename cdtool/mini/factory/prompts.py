"""Evaluation prompts in the words of the embedded base; {} stands for a concept, {0} and {1} for a pair."""

from __future__ import annotations

from pathlib import Path

FOLDER = Path(__file__).parent.parent / "prompts"
SMALL = 5  # the first prompts of each file: a place, another thing, a property, a style and a size between them
FILES = ("object.txt", "beach.txt", "city.txt", "room.txt", "style.txt", "pair.txt")


def read(file: str) -> list[str]:
    """The prompts of a file of FILES, in its order."""
    return (FOLDER / file).read_text(encoding="utf-8").splitlines()


def fill(prompts: list[str], *words: str) -> list[str]:
    """Prompts with a concept's words in place of {}, or those of a pair in place of {0} and {1}."""
    return [prompt.format(*words) for prompt in prompts]
