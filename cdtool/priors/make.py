"""Making prior sets: retrieved from a corpus, drawn by a base, or taken over from a folder of one's own."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from PIL import Image

from cdtool.errors import InterruptedRun, NotFoundError, PhotoError
from cdtool.images import corpora, photos
from cdtool.models import diffusion, text
from cdtool.priors import retrieval, sets, staging
from cdtool.priors.sets import Manifest, PendingSet, PriorImage, PriorSet
from cdtool.settings import SampleSettings
from cdtool.tokens import Prompt

if TYPE_CHECKING:
    from cdtool.images.photos import Skipped
    from cdtool.models.encoders import Encoder
    from cdtool.models.pipelines import Base
    from cdtool.priors.retrieval import Found
    from cdtool.priors.staging import Staging

_EMPTY = Prompt(("",), frozenset())


@dataclass(frozen=True)
class Progress:
    """How far a set is: captions encoded, images taken in, one that could not be, and in the end the set."""

    kind: Literal["caption", "image", "skipped", "done"]
    done: int = 0
    of: int = 0
    reason: str = ""  # of "skipped": which, and why
    entry: PriorSet | None = None


# ---------------------------------------------------------------- from a corpus


def retrieve(
    name: str,
    corpus: Path,
    noun: str,
    prompt: str,
    encoder: Encoder,
    *,
    images: Path | None = None,
    count: int = 200,
    floor: float | None = None,
    style: bool = False,
    force: bool = False,
) -> Iterator[Progress]:
    """Make a set of the images whose captions are nearest to `prompt`: at least `floor` (the encoder's own unless
    given), the nearest first, `count` at most.

    Raises what `corpora.read` raises, NotFoundError where no caption is near enough, NameTakenError, ResourceError.
    """
    floor = encoder.spec.floor if floor is None else floor
    members = corpora.read(corpus, images)
    captions = [member.caption for member in members]
    near = np.zeros(0, dtype=np.float32)
    for step in retrieval.likeness(captions, prompt, encoder):
        near = near if step.cosines is None else step.cosines
        yield Progress("caption", step.done, step.of)
    if not (near >= floor).any():
        best = int(near.argmax())
        raise NotFoundError(
            f'No caption of {corpus} is as near to "{prompt}" as {floor:.2f}.',
            f'The nearest is "{captions[best]}", {near[best]:.2f}; lower it with --floor, or draw some: --generate 200',
        )
    origin = {"corpus": str(corpus.absolute()), "prompt": prompt, "encoder": encoder.spec.name, "floor": floor}
    with staging.stage(name, {"retrieved": origin}) as staged:
        taken, sides = [], []
        for found in retrieval.nearest(members, near, floor):
            if isinstance(found, retrieval.Passed):
                yield Progress("skipped", reason=f'{found.member.path.name} ("{found.member.caption}"): {found.reason}')
                continue
            taken.append(_take(staged, found))
            sides.append(min(found.image.size))
            yield Progress("image", len(taken), count)
            if len(taken) == count:
                break
        yield _done(staged, Manifest(name, noun, "retrieved", origin, style=style), taken, sides, force)


def _take(staged: Staging, found: Found) -> PriorImage:
    return staged.put(
        found.content, _suffix(found.content), caption=found.member.caption, cosine=round(found.cosine, 4)
    )


def _suffix(content: bytes) -> str:
    with Image.open(io.BytesIO(content)) as image:
        return (image.format or "image").lower().replace("jpeg", "jpg")


def _done(
    staged: Staging, manifest: Manifest, taken: Sequence[PriorImage], sides: Sequence[int], force: bool
) -> Progress:
    """Publish what was taken. Raises NotFoundError where that is nothing."""
    if not taken:
        raise NotFoundError("None of the images found can be used.", "See the reasons above.")
    whole = replace(manifest, images=tuple(taken), side=min(sides))
    return Progress("done", len(taken), len(taken), entry=staged.publish(whole, force=force))


# ---------------------------------------------------------------- by a base


def generate(
    base: Base, wanted: PendingSet, *, force: bool = False, stop: Callable[[], bool] = lambda: False
) -> Iterator[Progress]:
    """Make a set of images a base draws, each from its own seed; what is there already of an unfinished set, or of
    the set it replaces, is kept.

    Raises InterruptedRun when asked to stop, with all drawn images kept for the next time; NameTakenError,
    ResourceError.
    """
    how = wanted.how
    recipe = how.recipe(wanted.prompt, base.fingerprint)
    with staging.stage(wanted.name, {"generated": recipe}) as staged:
        kept = _kept(staged, recipe)
        condition, negative = _texts(base, wanted.prompt)
        seeds = range(how.seed, how.seed + how.count)
        for start in range(0, how.count, how.batch):
            group = seeds[start : start + how.batch]
            if not kept.keys() >= set(group):
                if stop():
                    raise _stopped(len(kept), how.count)
                for seed, image in zip(group, _images(base, condition, negative, group, wanted), strict=True):
                    if seed not in kept:
                        kept[seed] = staged.put(_png(image), "png", caption=wanted.prompt, seed=seed)
            for place, _ in enumerate(group, start + 1):
                yield Progress("image", place, how.count)
        origin = {"base": base.name, "seed": how.seed, **recipe}
        manifest = Manifest(
            wanted.name, wanted.noun, "generated", origin, style=wanted.style, requested=wanted.requested
        )  # fmt: skip
        yield _done(staged, manifest, [kept[seed] for seed in seeds], [base.resolution], force)


def _kept(staged: Staging, recipe: dict[str, Any]) -> dict[int, PriorImage]:
    """The images by their seeds that are there: in an unfinished set of this recipe, or in the set of this name."""
    kept = {image.seed: image for image in staged.kept() if image.seed is not None}
    for entry in sets.entries():
        manifest = entry.manifest
        if entry.name != staged.name or manifest is None or not recipe.items() <= manifest.origin.items():
            continue
        for image in manifest.images:
            if image.seed is not None and image.seed not in kept:
                try:
                    content = sets.content(entry, image)
                except PhotoError:
                    continue  # it is drawn again
                kept[image.seed] = staged.put(content, "png", caption=image.caption, seed=image.seed)
    return kept


def _texts(base: Base, prompt: str) -> tuple[text.Conditioning, text.Conditioning]:
    """Text features of the prompt and of no prompt, a row each."""
    import torch

    ids = [text.tokenize(base, one, ()) for one in (Prompt((prompt,), frozenset()), _EMPTY)]
    with torch.no_grad():
        both = text.encode(base, ids)
    return both[0:1], text.unconditional(base, both[1:2])


def _images(
    base: Base, condition: text.Conditioning, negative: text.Conditioning, seeds: Sequence[int], wanted: PendingSet
) -> list[Image.Image]:
    with_text, without = (text.join([one] * len(seeds)).to(base.dtype) for one in (condition, negative))
    settings = SampleSettings(steps=wanted.how.steps, guidance=wanted.how.guidance)
    size = (base.resolution, base.resolution)
    pixels = diffusion.images(base, with_text, without, settings, seeds=seeds, size=size)
    return [Image.fromarray(image) for image in pixels]


def _png(image: Image.Image) -> bytes:
    file = io.BytesIO()
    image.save(file, "PNG")
    return file.getvalue()


def _stopped(done: int, count: int) -> InterruptedRun:
    return InterruptedRun(f"Stopped after {done} of {count} class images.", "Go on with the same command.")


# ---------------------------------------------------------------- one's own


def take_over(
    name: str, folder: Path, noun: str, *, style: bool = False, force: bool = False
) -> tuple[PriorSet, list[Skipped]]:
    """Make a set of the images of a folder, copied with the captions beside them, and what was skipped.

    Raises what `photos.find` raises, NameTakenError, ResourceError.
    """
    found, skipped = photos.find([folder])
    with staging.stage(name, {"own": str(folder.absolute())}) as staged:
        taken = []
        for photo in found:
            content = photo.path.read_bytes()
            taken.append(staged.put(content, _suffix(content), caption=photo.caption))
        sides = [min(photo.size) for photo in found]
        manifest = Manifest(name, noun, "own", {"folder": str(folder.absolute())}, style=style)
        made = _done(staged, manifest, taken, sides, force)
    assert made.entry is not None
    return made.entry, skipped
