"""Whether a sample shows this very thing, not only its class: retrieval among look-alikes, collapse, and cut-outs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image, ImageFilter

from cdtool.errors import NotFoundError, PhotoError
from cdtool.images import photos
from cdtool.sources import read_toml
from cdtool.store import registry

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from cdtool.models.encoders import Features
    from cdtool.store.registry import Concept

    Numbers = NDArray[np.float64]

_SIDE = 64  # px at which the foreground is looked for
_GREY = (128, 128, 128)  # what a cut-out stands on
_SHARE = (0.02, 0.9)  # of an image that a foreground takes; outside it the whole image counts


# ---------------------------------------------------------------- retrieval


def likeness(images: Features, folder: Features) -> Numbers:
    """Mean cosine of each image [n, d] with all images of a folder [m, d], all of unit length: [n] in [-1, 1]."""
    values: Numbers = (images.astype(np.float64) @ folder.astype(np.float64).T).mean(axis=1)
    return values


def own_first(images: Features, own: Features, rivals: Sequence[Features]) -> Numbers:
    """1 for each image [n, d] that is nearer to its own folder [m, d] than to every rival folder [k, d], else 0: [n].

    Nearness is the mean cosine; a tie goes to the rival.
    """
    best = np.max([likeness(images, rival) for rival in rivals], axis=0)
    values: Numbers = (likeness(images, own) > best).astype(np.float64)
    return values


def own_photos_first(own: Features, rivals: Sequence[Features]) -> float:
    """What a perfect concept would score: the share of photos [m, d], m ≥ 2, whose nearest folder is their own.

    Each photo is compared with the other photos of its folder.
    """
    others = [np.delete(own, index, axis=0) for index in range(len(own))]
    return float(np.mean([own_first(own[i : i + 1], other, rivals)[0] for i, other in enumerate(others)]))


def collapsed(images: Features, targets: Sequence[Features], rivals: Sequence[Features]) -> Numbers:
    """The share of an image's k subjects whose folder is not among its k nearest: [n] in [0, 1], 0 is best.

    Args:
        images: features [n, d] of samples that were asked for all k targets at once.
        targets: features [m, d] of the photos of each subject.
        rivals: features of the photos of look-alikes.
    """
    near = np.stack([likeness(images, folder) for folder in [*targets, *rivals]], axis=1)
    # A tie goes to the rivals, which stand behind the targets: a stable descending sort of the reversed order.
    order = near.shape[1] - 1 - np.argsort(-near[:, ::-1], axis=1, kind="stable")
    present = (order[:, : len(targets)] < len(targets)).sum(axis=1)
    values: Numbers = 1 - present / len(targets)
    return values


# ---------------------------------------------------------------- the look-alikes


def lookalikes(
    own: Sequence[photos.Photo], given: Path | None, base_folder: Path, known: Mapping[str, Sequence[Path]]
) -> dict[str, list[photos.Photo]]:
    """The photos of look-alikes by name, without folders that share a photo with `own`.

    Args:
        own: the photos of the concepts that are evaluated.
        given: a folder of folders, one for each look-alike.
        base_folder: of the base, whose cdtool.toml may name such a folder too.
        known: the photo folders of other concepts on this machine.

    Raises NotFoundError where no look-alike is left.
    """
    table = read_toml(base_folder / "cdtool.toml").get("eval", {}).get("lookalikes")
    parent = given or (base_folder / str(table) if table else None)
    folders: dict[str, Sequence[Path]] = {} if given else dict(known)
    if parent is not None and parent.is_dir():
        folders |= {path.name: [path] for path in sorted(parent.iterdir()) if path.is_dir()}
    mine = {photo.sha256 for photo in own}
    found: dict[str, list[photos.Photo]] = {}
    seen: set[tuple[str, ...]] = set()
    for name, paths in folders.items():
        group = _usable(paths)
        shas = tuple(sorted(photo.sha256 for photo in group))
        if group and not mine & set(shas) and shas not in seen:
            found[name] = group
            seen.add(shas)
    if not found:
        raise NotFoundError(
            "Rank and SCR compare with photos of look-alikes, and none are known here.",
            "Name a folder of folders, one for each look-alike: --lookalikes DIR",
        )
    return found


def other_concepts(concepts: Sequence[Concept]) -> dict[str, list[Path]]:
    """The photo folders this machine trained its other concepts on, by concept."""
    names = {concept.name for concept in concepts}
    notes = {name: registry.note(name).get("photos") or () for name in registry.names() if name not in names}
    return {name: [Path(folder) for folder in folders] for name, folders in notes.items() if folders}


def _usable(paths: Sequence[Path]) -> list[photos.Photo]:
    try:
        return list(photos.find(list(paths))[0])
    except (NotFoundError, PhotoError):
        return []  # moved or emptied since


# ---------------------------------------------------------------- cut-outs


def cut_out(image: Image.Image) -> Image.Image:
    """The foreground of an RGB image on grey, cropped to its bounding box; the whole image where none stands out."""
    mask = foreground(image)
    low, high = _SHARE
    if not low <= mask.mean() <= high:
        return image
    full = Image.fromarray((mask * 255).astype(np.uint8)).resize(image.size, Image.Resampling.BILINEAR)
    box = full.point([0] * 128 + [255] * 128).getbbox()
    return Image.composite(image.convert("RGB"), Image.new("RGB", image.size, _GREY), full).crop(box)


def foreground(image: Image.Image) -> NDArray[np.bool_]:
    """The mask [h, w] of what differs in colour from the border of the image, at 64 px at most.

    A pixel's distance to the nearest border colour, weighted towards the centre, is cut at Otsu's threshold.
    """
    small = image.convert("RGB")
    small.thumbnail((_SIDE, _SIDE), Image.Resampling.BILINEAR)
    pixels = np.asarray(small.filter(ImageFilter.GaussianBlur(1)), dtype=np.float64)
    height, width = pixels.shape[:2]
    rim = np.concatenate([pixels[0], pixels[-1], pixels[:, 0], pixels[:, -1]])[::2]
    distance = np.sqrt(((pixels[:, :, None] - rim) ** 2).sum(axis=-1)).min(axis=-1)
    y, x = np.meshgrid(np.linspace(-1, 1, height), np.linspace(-1, 1, width), indexing="ij")
    salient = distance * np.exp(-(x**2 + y**2) / 2)
    mask: NDArray[np.bool_] = salient > otsu(salient)
    return mask


def otsu(values: Numbers) -> float:
    """The threshold that parts values into two classes with the largest variance between them."""
    counts, edges = np.histogram(values, bins=64)
    middles = (edges[1:] + edges[:-1]) / 2
    below, above = np.cumsum(counts), counts.sum() - np.cumsum(counts)
    total = np.cumsum(counts * middles)
    means_below = total / np.maximum(below, 1)
    means_above = (total[-1] - total) / np.maximum(above, 1)
    return float(edges[1 + int(np.argmax(below * above * (means_below - means_above) ** 2))])
