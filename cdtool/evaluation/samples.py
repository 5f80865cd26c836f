"""Samples that are scored: the prompts they are made of, and where they come from, a base or a folder."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from cdtool import files, schema
from cdtool.errors import InputError, NotFoundError, PhotoError, UsageError
from cdtool.images.pictures import decode
from cdtool.sources import read_toml
from cdtool.tokens import Token, article, bind

if TYPE_CHECKING:
    from cdtool.evaluation.alignment import Sample
    from cdtool.models.pipelines import Base
    from cdtool.sampling.sample import Generated
    from cdtool.settings import SampleSettings
    from cdtool.store.registry import Concept

# The prompts of an evaluation where neither the user nor the base names any; {} stands for the concept's words, {0} for
# those of its first token, {1} for those of its second.
PROMPTS = ("photo of a {}", "a {} on the beach", "a {} in the snow", "a {} in the forest", "a painting of a {}")
SAMPLES = "samples.jsonl"
_HINT = "Sample them with: cdtool sample CONCEPT PROMPT --out DIR"


def prompts(base_folder: Path) -> list[str]:
    """The prompts a base is measured with: the file its [eval] names, or the general ones."""
    named = read_toml(base_folder / "cdtool.toml").get("eval", {}).get("prompts")
    return files.read_prompts(base_folder / str(named)) if named else list(PROMPTS)


def fill(prompt: str, tokens: Sequence[Token]) -> str:
    """A prompt with {} replaced by the concept's words, several as "V1 dog and a V2 cat", and {0}, {1} by each token's.

    Raises UsageError where they have no words to stand for.
    """
    shown = [at for at, token in enumerate(tokens) if not token.erased] or range(len(tokens))  # the erased: alone
    words = [tokens[at].words(None if len(tokens) == 1 else at + 1) for at in shown]
    if not words and re.search(r"\{\d*\}", prompt):
        raise UsageError("A base by itself has no words for {} to stand for.", "Give --prompts FILE.")

    def put(found: re.Match[str]) -> str:
        like, index = found[1], found[2]
        if index and int(index) >= len(words):
            held = f"{len(words)} tokens, {{0}} to {{{len(words) - 1}}}" if len(words) > 1 else "one token, {}"
            raise UsageError(f'"{prompt}" asks for {{{index}}}, but there is {held}.', "Count from {0}.")
        first, *others = [words[int(index)]] if index else words
        rest = "".join(f" and {article(word)}" for word in others)
        return (article(first, like[0]) if like else first) + rest

    return re.sub(r"(\b[aA]n? )?\{(\d*)\}", put, prompt)


def generate(
    base: Base,
    concepts: Sequence[Concept],
    prompts: Sequence[str],
    tokens: Sequence[Token],
    settings: SampleSettings,
    *,
    weights: Sequence[float] = (),
) -> Iterator[tuple[Generated, Sample]]:
    """The images of prompts, each with the sample that is scored: the prompt without modifier tokens.

    The bare base, which is what no concepts are, is given the prompts without modifier tokens.

    tokens: those that prompts name, also where the bare base is sampled.

    Raises what `sampling.sample.generate` raises.
    """
    from cdtool.evaluation.alignment import Sample
    from cdtool.sampling import sample

    plain = {prompt: bind(prompt, tokens).plain() for prompt in prompts}
    given = prompts if concepts else [plain[prompt] for prompt in prompts]
    for generated in sample.generate(base, concepts, given, settings, weights=weights):
        yield generated, Sample(generated.image, plain.get(generated.prompt, generated.prompt))


def read(folder: Path, subject: str, tokens: Sequence[Token]) -> list[Sample]:
    """The samples of a subject in a folder's samples.jsonl, their prompts without modifier tokens.

    Raises NotFoundError where there are none, InputError where a line or a picture cannot be used.
    """
    from cdtool.evaluation.alignment import Sample

    path = folder / SAMPLES
    if not path.is_file():
        raise NotFoundError(f"{folder} has no {SAMPLES} with the prompts of its images.", _HINT)
    samples = []
    for number, line in enumerate(_lines(path), 1):
        try:
            entry = schema.loads(line)
            if entry["subject"] == subject:
                with files.open_regular(folder / Path(entry["file"]).name) as file:
                    samples.append(Sample(decode(file)[0], bind(entry["prompt"], tokens).plain()))
        except (ValueError, KeyError, TypeError, OSError, PhotoError) as error:
            raise InputError(f"{path}, line {number}, cannot be used ({error}).", _HINT) from None
    if not samples:
        raise NotFoundError(f"{folder} has no images sampled with {subject}.", _HINT)
    return samples


def _lines(path: Path) -> list[str]:
    try:
        return files.read_regular(path, most=1_000_000_000).decode().splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path} cannot be read ({error}).", _HINT) from None
