"""Which nouns a CLIP pair sees in pictures: how the embedded base is scored."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from cdtool.mini.factory import clip, vae
from cdtool.mini.factory.world import article
from cdtool.models import encoders
from cdtool.models.encoders import Encoder, EncoderSpec

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from PIL import Image
    from transformers import CLIPModel, CLIPTokenizer

# Ways to ask which noun is in a picture; a row's features are averaged over its forms.
FORMS: dict[str, tuple[str, ...]] = {
    "noun": ("{}",),
    "photo": ("photo of {}",),
    "a photo": ("a photo of {}",),
    "grammar": ("{}", "photo of {}", "close up photo of {}", "a far away photo of {}", "{} on a white background",
                "{} on the grass", "photo of {} in a room", "{} at night"),
}  # fmt: skip


class Naming(NamedTuple):
    """Places (0 is first) [n, m] of each picture's own m nouns among all nouns, and each picture's first noun."""

    places: NDArray[np.int64]
    first: list[str]

    def among(self, count: int) -> float:
        """Share of pictures all of whose nouns are among the first `count`."""
        return float((self.places < count).all(axis=1).mean())


def encoder(model: CLIPModel, tokenizer: CLIPTokenizer) -> Encoder:
    """A CLIP pair of the base, finished or still in training, as an encoder; pictures must have the world's size."""
    import torch

    model = model.eval()

    @torch.inference_mode()
    def text(texts: Sequence[str]) -> NDArray[np.float32]:
        return _numbers(model.get_text_features(input_ids=clip.ids(tokenizer, list(texts)).to(model.device)))

    @torch.inference_mode()
    def image(images: Sequence[Image.Image]) -> NDArray[np.float32]:
        batch = vae.pixels(np.stack([np.asarray(picture.convert("RGB")) for picture in images]))
        return _numbers(model.get_image_features(pixel_values=batch.to(model.device, model.dtype)))

    return Encoder(EncoderSpec("mini", "", 0.0), text, image)


def _numbers(made: Any) -> NDArray[np.float32]:
    tensor = getattr(made, "pooler_output", made)  # newer transformers wrap the features
    numbers: NDArray[np.float32] = tensor.float().cpu().numpy()
    return numbers


def noun_features(pair: Encoder, nouns: Sequence[str], forms: Sequence[str]) -> NDArray[np.float32]:
    """Unit text features [nouns, d] of "a NOUN" in each form, averaged over the forms."""
    asked = [form.format(article(noun)) for noun in nouns for form in forms]
    found = encoders.text_features(pair, asked).reshape(len(nouns), len(forms), -1)
    return encoders.unit(found.mean(axis=1))


def name(
    pair: Encoder, images: Sequence[Image.Image], nouns: Sequence[str], known: NDArray[np.float32],
    truth: Sequence[Sequence[str]],
) -> Naming:  # fmt: skip
    """Rank all `nouns`, of text features `known` [nouns, d], for each picture, and find its true ones among them."""
    likeness = encoders.image_features(pair, images) @ known.T
    order = np.argsort(-likeness, axis=1, kind="stable")
    standing = np.argsort(order, axis=1)
    column = {noun: place for place, noun in enumerate(nouns)}
    places = np.array([[row[column[noun]] for noun in own] for row, own in zip(standing, truth, strict=True)])
    return Naming(places, [nouns[row[0]] for row in order])


def compare_forms(
    pair: Encoder, images: Sequence[Image.Image], nouns: Sequence[str], truth: Sequence[Sequence[str]]
) -> dict[str, float]:
    """Share of pictures whose nouns each row of FORMS ranks first, the best row first."""
    shares = {}
    for row, forms in FORMS.items():
        named = name(pair, images, nouns, noun_features(pair, nouns, forms), truth)
        shares[row] = named.among(len(truth[0]))
    return dict(sorted(shares.items(), key=lambda item: -item[1]))


def confusions(said: Sequence[str], truth: Sequence[str]) -> tuple[dict[str, float], dict[str, str]]:
    """Noun by noun, the worst first: the share named rightly, and what is most often said where it is not."""
    answers: dict[str, Counter[str]] = defaultdict(Counter)
    for answer, noun in zip(said, truth, strict=True):
        answers[noun][answer] += 1
    shares = {noun: counts[noun] / counts.total() for noun, counts in answers.items()}
    wrong = {noun: max((word for word in counts if word != noun), key=counts.__getitem__, default="")
             for noun, counts in answers.items()}  # fmt: skip
    ordered = sorted(shares, key=lambda noun: (shares[noun], noun))
    return {noun: shares[noun] for noun in ordered}, {noun: wrong[noun] for noun in ordered if wrong[noun]}
