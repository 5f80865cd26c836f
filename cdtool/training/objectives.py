"""What is added to the loss of the photos once a step: terms on the trained weights and words alone, a row each."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch.nn import functional as F

from cdtool.images import photos
from cdtool.models import pipelines, text
from cdtool.priors import captions
from cdtool.tokens import bind

if TYPE_CHECKING:
    from torch import Tensor

    from cdtool.models.pipelines import Base
    from cdtool.settings import TrainSettings
    from cdtool.tokens import Prompt, Token
    from cdtool.training.loss import Texts
    from cdtool.training.trainable import Trainable

# What makes the weight 1 of the captions' term hold mini's class as class images do (tests/benchmarks/beyond.py).
TEXT_SCALE = 10.0


@dataclass(frozen=True)
class Scene:
    """What the terms are computed from."""

    base: Base
    trained: Trainable
    texts: Texts
    pairs: tuple[Pair, ...]  # of each token that is learned
    root: Tensor | None = None  # of R [d, d], without the directions that cannot change; of the captions' term
    sizes: Tensor | None = None  # tr(W R W') of the K/V module that each row of all of them belongs to [sum o, 1]


class Kept(NamedTuple):
    """The Cholesky root of the captions' R [d, d], and the orthonormal directions [d, h] that cannot change."""

    root: Tensor
    held: Tensor


@dataclass(frozen=True)
class Pair:
    """A token's training caption and the same with the class noun alone, and where in them the token stands."""

    own: Prompt
    plain: Prompt
    position: int  # of the token's first word in both
    own_end: int  # of the end of the text
    plain_end: int


def _captions(scene: Scene) -> Tensor:
    """How far K/V of regularization captions moved: tr(dW R dW') / tr(W R W'), the mean over all K/V."""
    assert scene.root is not None
    assert scene.sizes is not None
    moved = torch.cat([module.moved() for module in scene.trained.modules.values()])  # one product for all of them
    return TEXT_SCALE * ((moved @ scene.root).square() / scene.sizes).sum() / len(scene.trained.modules)


def _lock(scene: Scene) -> Tensor:
    """How far the keys of the learned words are from their class noun's: mean |(W0 + dW) c - W0 c_class|."""
    own, plain = scene.texts.of([pair.own for pair in scene.pairs]), _plain(scene)
    found = []
    for name, module in scene.trained.modules.items():
        if not name.endswith("to_k"):
            continue
        base = scene.base.kv[name].float().to(scene.base.device)
        for row, pair in enumerate(scene.pairs):
            c, aim = own.features[row, pair.position].float(), plain[row, pair.position]
            found.append((F.linear(c, base) + F.linear(c, module.change()) - F.linear(aim, base)).abs().mean())
    return torch.stack(found).mean()


def _align(scene: Scene) -> Tensor:
    """1 - cosine of the end-of-text features of the training caption and of the same with the class noun alone."""
    own, plain = scene.texts.of([pair.own for pair in scene.pairs]), _plain(scene)
    cosines = [F.cosine_similarity(own.features[row, pair.own_end].float(), plain[row, pair.plain_end], dim=0)
               for row, pair in enumerate(scene.pairs)]  # fmt: skip
    return 1 - torch.stack(cosines).mean()


def _plain(scene: Scene) -> Tensor:
    return scene.texts.of([pair.plain for pair in scene.pairs]).features.float().detach()


@dataclass(frozen=True)
class Term:
    """A row: its weight in a training's loss, 0 where it is off, and its value."""

    weight: Callable[[TrainSettings], float]
    value: Callable[[Scene], Tensor]


TERMS = {
    "captions": Term(lambda settings: settings.prior_weight if settings.prior == "text" else 0.0, _captions),
    "lock": Term(lambda settings: settings.lock, _lock),
    "align": Term(lambda settings: settings.align, _align),
}


def active(settings: TrainSettings) -> list[Term]:
    """The terms that a training's settings switch on."""
    return [term for term in TERMS.values() if term.weight(settings)]


def scene(
    base: Base, settings: TrainSettings, tokens: Sequence[Token], earlier: int, trained: Trainable, texts: Texts,
    kept: Kept | None,
) -> Scene:  # fmt: skip
    """What the active terms need; the first `earlier` tokens are not learned here, and `kept` is that of `known`."""
    learned = range(earlier, len(tokens))
    pairs = tuple(_pair(base, tokens, index, style=settings.style) for index in learned)
    if kept is None:
        return Scene(base, trained, texts, pairs)
    weights = [base.kv[name].float().to(base.device) for name in trained.modules]
    sizes = torch.cat([(weight @ kept.root).square().sum().expand(len(weight), 1) for weight in weights])
    return Scene(base, trained, texts, pairs, kept.root - kept.held @ (kept.held.T @ kept.root), sizes)


def _pair(base: Base, tokens: Sequence[Token], index: int, *, style: bool) -> Pair:
    token = tokens[index]
    number = index + 1 if len(tokens) > 1 else None
    own = bind(photos.template(token, style, token.words(number)), tokens)
    plain = bind(own.plain(), ())
    owners, end = text.owners(base, own, tokens)
    position = next(at for at, owner in enumerate(owners) if owner == index)
    return Pair(own, plain, position, end, text.owners(base, plain, ())[1])


def known(base: Base, settings: TrainSettings) -> Kept | None:
    """What the captions' term keeps, where it is active; encodes the captions in float32 if no run did before."""
    if settings.prior != "text":
        return None
    pipelines.need(base, "text")
    stats = captions.known(base, captions.read(captions.find(None, base.folder)))
    moment = stats.moment[: stats.width, : stats.width]
    ridge = 1e-6 * moment.trace() / len(moment) * torch.eye(len(moment), dtype=moment.dtype)
    root = torch.linalg.cholesky(moment + ridge).float().to(base.device)
    return Kept(root, text.empty_directions(base, settings.preserve_uncond).to(base.device))


def kept_prompts(base: Base, tokens: Sequence[Token]) -> tuple[Prompt, ...]:
    """Regularization captions that name none of the tokens' nouns, for the prior "self"."""
    found = captions.read(captions.find(None, base.folder))
    named = [line for line in found if not any(captions.names(line, token.noun) for token in tokens)]
    return tuple(bind(line, ()) for line in named or found)


def value(scene: Scene, settings: TrainSettings) -> Tensor:
    """The weighted sum of the active terms."""
    return torch.stack([term.weight(settings) * term.value(scene) for term in active(settings)]).sum()
