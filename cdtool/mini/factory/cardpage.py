"""The words of the embedded base's model card, every figure in them taken from its scores."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from cdtool.mini.factory import grounds, places
from cdtool.mini.factory.near import NEAR
from cdtool.mini.factory.styles import STYLES
from cdtool.mini.factory.telling import RELATIONS

WORST = 8  # nouns named in the table of the least recognised
TRAININGS = {"vae": "autoencoder", "decoder": "its decoder, once more", "student": "denoiser and text encoder",
             "judge": "judge"}  # fmt: skip


@dataclass(frozen=True)
class Scores:
    """What was measured; shares in [0, 1] unless a unit is named."""

    psnr: float  # dB, of reconstructions of unseen pictures
    plain: int  # plain captions: one common thing in its own colours, one sample each
    plain_named: float  # samples whose noun the pair ranks first
    plain_ceiling: float  # the same for the world's own pictures of these captions
    singles: int  # captions of one thing of any noun, in any look
    named: float
    named_ceiling: float
    pairs: int  # captions of two things, one sample each
    both: float  # samples with both nouns among the first five
    both_ceiling: float
    nouns: int  # that are ranked
    common: int  # nouns that half of all things are of
    drawings: int
    forms: str  # row of FORMS that was asked
    ways: Mapping[str, float]  # row of FORMS: share of other world pictures it names
    size: int  # px, of pictures
    steps: int
    guidance: float
    eta: float
    by_noun: Mapping[str, float]  # share of plain samples named, the worst noun first
    taken_for: Mapping[str, str]  # what is most often seen in a noun's samples instead
    numbers: Mapping[str, int]  # part of the pipeline: numbers in it
    seen: Mapping[str, int]  # training: pictures seen


PAGE = """\
# mini: a small world to show the whole method on

A latent diffusion pipeline in the diffusers format that draws {size}x{size} pictures of a small world: {nouns}
kinds of things in any look on {places} kinds of places and {colours} plain colours, alone or in pairs. It is small
enough to ship and to train a concept on a CPU; it is no picture of the real world and good for nothing but
learning, testing and showing `cdtool`.

![Samples with their captions: the first ones drawn, none picked](samples.png)

## Scores

Measured by `python -m cdtool.mini.factory card` and kept in [scores.json](scores.json). Samples: one for each
caption, drawn by the plain pipeline (DDIM, {steps} steps, guidance {guidance:g}, eta {eta:g}). Judge: the CLIP pair
of `eval`, which was trained on other pictures than the text encoder here; it is asked for each of {nouns} nouns in
the way ("{forms}") that names other world pictures best. No caption, picture or seed below was trained on.

| what | samples | the world's own pictures |
|---|---|---|
| right noun first, {plain} plain captions (one of {common} common things) | {plain_named:.1%} | {plain_ceiling:.1%} |
| right noun first, {singles} captions of one thing of any noun, in any look | {named:.1%} | {named_ceiling:.1%} |
| both nouns in the first five, {pairs} captions with two | {both:.1%} | {both_ceiling:.1%} |

The autoencoder returns unseen pictures with {psnr:.1f} dB PSNR:

![Unseen pictures and their reconstructions](reconstructions.png)

Nouns recognised least in plain samples:

| noun | named rightly | else most often taken for |
|---|---|---|
{worst}

## Made of

| network | numbers |
|---|---|
{numbers}

| training | pictures seen |
|---|---|
{seen}

The pictures are composited from {drawings} emoji drawings by a generator (`cdtool/mini/factory/wider.py`): each
drawing recoloured by its own flat regions, marked (spots, stripes, patches), bent, with something worn (vest,
scarf, hat, bag, bow, band, collar), now and then put together from two. Captions tell colours, marks and what is
worn in varying detail; relations ({relations}), sizes, styles ({styles}) and places. Same seed, same picture;
trainings, corpora, photo folders and these scores draw from seeds far apart.

Half of all things are told by a name instead of by their looks. A name is one word whose embedding a small network
makes from a view of that very individual; it is trained along and does not ship. So the denoiser has met as many
proper names as individuals, and draws from one word what captions do not tell: what keys, values and one new word
are asked for later.

Two kinds of concept are held out. *Near*: {near} have a drawing the base knows, in a mark and a worn thing it never
met together on it. *Far*: the other things of the photo folders are drawings no network ever saw, and so are three
scenes and three styles. `moongate` is in no caption: its embedding was moved towards that of `gate`, so that it is
a gate of a kind until it is taught.

What was tried, and how it was trained: [experiments](experiments.md). `python -m cdtool.mini.factory` makes all of
it.

## Licences

The pictures, here and in the corpora and photo folders, and through them the weights, derive from openly
licensed drawings:

* Noto Color Emoji, copyright Google, under the SIL Open Font License 1.1.
* Twemoji 15, copyright Twitter, Inc. (now X Corp.) and other contributors, graphics licensed under
  [CC-BY 4.0](https://creativecommons.org/licenses/by/4.0/); resized, recoloured and composited here.
* Fluent Emoji (3D), copyright Microsoft Corporation, under the MIT licence.
* Gates, backgrounds and scenes are drawn by this package's own code, Apache-2.0.
"""


def page(scores: Scores) -> str:
    """The model card in Markdown."""
    return PAGE.format(
        **{name: value for name, value in vars(scores).items() if not isinstance(value, Mapping)},
        places=len({*places.PLACES, *grounds.PLACES}), colours=len(places.PLAIN), relations=", ".join(RELATIONS),
        styles=", ".join(STYLES), near=", ".join(NEAR),
        worst=_rows((noun, f"{share:.0%}", scores.taken_for.get(noun, "-")) for noun, share in _worst(scores)),
        numbers=_rows((name, f"{count:,}") for name, count in scores.numbers.items()),
        seen=_rows((TRAININGS[name], f"{count:,}") for name, count in scores.seen.items()),
    )  # fmt: skip


def _worst(scores: Scores) -> list[tuple[str, float]]:
    return list(scores.by_noun.items())[:WORST]


def _rows(cells: Iterable[tuple[str, ...]]) -> str:
    return "\n".join(f"| {' | '.join(row)} |" for row in cells)
