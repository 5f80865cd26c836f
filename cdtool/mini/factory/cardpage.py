"""The words of the embedded base's model card, every figure in them taken from its scores."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from cdtool.mini.factory.places import PLACES, PLAIN
from cdtool.mini.factory.styles import STYLES
from cdtool.mini.factory.world import RELATIONS

if TYPE_CHECKING:
    from cdtool.mini.factory.recipe import Recipe

WORST = 8  # nouns named in the table of the least recognised


@dataclass(frozen=True)
class Scores:
    """What was measured; shares in [0, 1] unless a unit is named."""

    psnr: float  # dB, of reconstructions of unseen pictures
    plain: int  # captions of the first world of the course with one noun, one sample each
    plain_named: float  # samples whose noun the pair ranks first
    plain_ceiling: float  # the same for the world's own pictures of these captions
    singles: int  # captions of its last world with one noun: also tinted, in styles, far away, close up
    named: float
    named_ceiling: float
    pairs: int  # captions with two nouns, one sample each
    both: float  # samples with both nouns among the first five
    both_ceiling: float
    nouns: int  # that are ranked
    forms: str  # row of FORMS that was asked
    ways: Mapping[str, float]  # row of FORMS: share of other world pictures it names
    size: int  # px, of pictures
    steps: int
    guidance: float
    eta: float
    by_noun: Mapping[str, float]  # share of samples named, the worst noun first
    taken_for: Mapping[str, str]  # what is most often seen in a noun's samples instead
    numbers: Mapping[str, int]  # part of the pipeline: numbers in it
    seen: Mapping[str, int]  # training: pictures seen


PAGE = """\
# mini: a small world to show the whole method on

A latent diffusion pipeline in the diffusers format that draws {size}x{size} pictures of a small world: {nouns}
kinds of things on {places} kinds of places and {colours} plain colours, alone or in pairs. It is small enough to
ship and to train a concept on a CPU; it is no picture of the real world and good for nothing but learning,
testing and showing `cdtool`.

![Samples with their captions: the first ones drawn, none picked](samples.png)

## Scores

Measured by `python -m cdtool.mini.factory.build card` and kept in [scores.json](scores.json). Samples: one for each
caption, drawn by the plain pipeline (DDIM, {steps} steps, guidance {guidance:g}, eta {eta:g}). Judge: the CLIP
pair of `eval`, which was trained with another seed and on other pictures than the text encoder here; it is
asked for each noun in the way ("{forms}") that names other world pictures best. No caption, picture or seed
below was trained on.

| what | samples | the world's own pictures |
|---|---|---|
| right noun first of {nouns}, {plain} plain captions with one thing | {plain_named:.1%} | {plain_ceiling:.1%} |
| the same, {singles} captions with tints, styles and sizes too | {named:.1%} | {named_ceiling:.1%} |
| both nouns in the first five, {pairs} captions with two | {both:.1%} | {both_ceiling:.1%} |

The autoencoder returns unseen pictures with {psnr:.1f} dB PSNR:

![Unseen pictures and their reconstructions](reconstructions.png)

Nouns recognised least in samples of one thing:

| noun | named rightly | else most often taken for |
|---|---|---|
{worst}

The paper's tables, figures and ablations, made on this base: [benchmark.md](benchmark.md).

## Made of

| network | numbers |
|---|---|
{numbers}

| training | pictures seen |
|---|---|
{seen}

The pictures are composited from emoji drawings by a generator (`cdtool/mini/world.py`), and their captions come
from the same grammar: things, relations ({relations}), sizes, tints, styles ({styles}) and places. Same seed,
same picture; trainings, corpora, photo folders and these scores draw from seeds far apart. For {held} nouns one
drawing is held out and was never seen by any network: those drawings, three scenes and three styles are the
concepts of the photo folders. The judge alone also saw their near twins of other sets, so that a castle of a kind
the denoiser has not met is a castle to it.

The denoiser began with two drawings of each thing near the middle, in their own colours, and went on with all
drawings, tints, styles and sizes, and with things in a coat no word tells of, so that it has seen many kinds of dogs.
It meets some things ({common}) {often:g} times as often as the others. `moongate` is in no caption: its
embedding was moved towards that of `gate`, so that it is a gate of a kind until it is taught.

What was tried without success, and what its successor is to do better: [experiments](experiments.md).

`python -m cdtool.mini.factory.build` makes all of it: the artwork, the tokenizer, the two CLIP pairs, the autoencoder,
the denoiser (text encoder frozen), the corpora, the photo folders and this page.

## Licences

The pictures, here and in the corpora and photo folders, and through them the weights, derive from openly
licensed drawings:

* Noto Color Emoji, copyright Google, under the SIL Open Font License 1.1.
* Twemoji 15, copyright Twitter, Inc. (now X Corp.) and other contributors, graphics licensed under
  [CC-BY 4.0](https://creativecommons.org/licenses/by/4.0/); resized, recoloured and composited here.
* Fluent Emoji (3D), copyright Microsoft Corporation, under the MIT licence.
* Gates, backgrounds and scenes are drawn by this package's own code, Apache-2.0.
"""


def page(scores: Scores, recipe: Recipe) -> str:
    """The model card in Markdown."""
    from cdtool.mini.factory.corpus import class_nouns

    return PAGE.format(
        **{name: value for name, value in vars(scores).items() if not isinstance(value, Mapping)},
        places=len(PLACES), colours=len(PLAIN), relations=", ".join(RELATIONS), styles=", ".join(STYLES),
        held=len(set(class_nouns()) & set(recipe.world.names())),
        worst=_rows((noun, f"{share:.0%}", scores.taken_for.get(noun, "-")) for noun, share in _worst(scores)),
        numbers=_rows((name, f"{count:,}") for name, count in scores.numbers.items()),
        common=", ".join(recipe.common), often=recipe.often,
        seen=_rows((name, f"{count:,}") for name, count in scores.seen.items()),
    )  # fmt: skip


def _worst(scores: Scores) -> list[tuple[str, float]]:
    return list(scores.by_noun.items())[:WORST]


def _rows(cells: Iterable[tuple[str, ...]]) -> str:
    return "\n".join(f"| {' | '.join(row)} |" for row in cells)
