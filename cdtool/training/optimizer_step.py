"""One optimizer step: the gradients of its pictures in any number of passes, over any number of processes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

import torch

from cdtool.errors import ResourceError, is_out_of_memory
from cdtool.models import diffusion
from cdtool.tokens import Prompt
from cdtool.training import loss, objectives
from cdtool.training.batches import CropCache, SampleIndex, crop_key
from cdtool.training.factored import FactoredAdamW
from cdtool.training.optimizer import AdamW

if TYPE_CHECKING:
    from torch import Tensor

    from cdtool.models.pipelines import Base
    from cdtool.settings import TrainSettings
    from cdtool.tokens import Token
    from cdtool.training.processes import Ranks
    from cdtool.training.trainable import Trainable

OPTIMIZERS = {"adamw": AdamW, "factored": FactoredAdamW}


@dataclass
class Run:
    """A training under way: what every one of its steps takes."""

    base: Base
    settings: TrainSettings
    texts: loss.Texts
    trained: Trainable
    schedule: Any
    optimizer: AdamW
    scaler: torch.amp.GradScaler
    ranks: Ranks
    crops: CropCache
    with_prior: bool
    terms: objectives.Scene | None  # what the terms beside the pictures' losses are computed from, where there are any
    kept_prompts: tuple[Prompt, ...]  # of the prior "self" for words without a modifier
    passes: int  # that a step is split into; more than was asked for once memory ran out
    without_gradient: set[str]  # trained parameters that no step had a gradient for yet

    def losses(self, part: Sequence[SampleIndex], step: int) -> Tensor:
        """The loss of each picture of a pass [b]."""
        prior = self.settings.prior
        items = [self.crops[crop_key(sample, prior)] for sample in part]
        like_base = [row for row, sample in enumerate(part) if sample.is_class] if prior == "self" else []
        for row in like_base:
            items[row] = items[row]._replace(prompt=self.class_prompt(items[row].prompt, part[row], step))
        steps = self.schedule.config.num_train_timesteps
        noises = [loss.noise_of(self.settings, step, sample.position, item.moments.shape[1:], steps)
                  for sample, item in zip(part, items, strict=True)]  # fmt: skip
        return loss.per_image(self.base, self.schedule, self.texts, items, noises, self.trained, like_base)

    def class_prompt(self, prompt: Prompt, sample: SampleIndex, step: int) -> Prompt:
        """What stays as it was: a photo's caption without the modifier, or, of a plain word, some other caption."""
        if any(isinstance(piece, int) for piece in prompt.pieces):
            return Prompt((prompt.plain(),))
        return self.kept_prompts[(step * self.settings.batch + sample.position) % len(self.kept_prompts)]


def prepare(
    base: Base, settings: TrainSettings, tokens: tuple[Token, ...], trained: Trainable, ranks: Ranks, crops: CropCache,
    with_prior: bool, earlier: int, kept: objectives.Kept | None = None,
) -> Run:  # fmt: skip
    """A training of what is attached to a base, before its first step; `earlier` tokens were learned before."""
    groups = trained.groups(settings)
    texts = loss.Texts(base, tokens, trained.rows)
    active = objectives.active(settings)
    terms = objectives.scene(base, settings, tokens, earlier, trained, texts, kept) if active else None
    return Run(
        base=base, settings=settings, texts=texts, trained=trained, terms=terms,
        kept_prompts=objectives.kept_prompts(base, tokens) if settings.prior == "self" else (),
        schedule=diffusion.scheduler(base, "ddpm"),
        optimizer=OPTIMIZERS[settings.optimizer](groups, lr=settings.lr),
        scaler=torch.amp.GradScaler(base.device.type, enabled=base.dtype == torch.float16),
        ranks=ranks, crops=crops, with_prior=with_prior, passes=settings.accumulate,
        without_gradient={part.name for part in trained.parts if part.mark is not None},
    )  # fmt: skip


def take(
    run: Run, mine: Sequence[SampleIndex], *, parameters: Sequence[torch.nn.Parameter], step: int, stop: bool
) -> tuple[Tensor, bool]:
    """One optimizer step; the losses [2] of photos and class images, and whether any process wants to stop."""
    while (sums := _gradients(run, mine, step)) is None:
        run.optimizer.zero_grad()
        run.passes = min(2 * run.passes, len(mine))
        if run.base.device.type == "cuda":
            torch.cuda.empty_cache()
    stopped = _join(parameters, sums, stop, run.ranks)
    run.without_gradient -= {part.name for part in run.trained.parts if part.name in run.without_gradient
                             and part.parameter.grad is not None and bool(part.parameter.grad.any())}  # fmt: skip
    run.scaler.step(cast("torch.optim.Optimizer", run.optimizer))
    run.scaler.update()
    run.optimizer.zero_grad()
    return sums, stopped


def _gradients(run: Run, mine: Sequence[SampleIndex], step: int) -> Tensor | None:
    """Add up the gradients of a step; the losses [2] of photos and class images, None where memory ran out.

    Raises ResourceError where a single image does not fit.
    """
    try:
        return _accumulated(run, mine, step)
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        if run.passes >= len(mine):
            hint = "Try --checkpointing" + (", or --precision bf16." if run.base.dtype == torch.float32 else ".")
            hint = "Free some memory." if run.settings.checkpointing else hint
            raise ResourceError("There is not enough memory to train on a single image at a time.", hint) from None
    return None  # the error is gone by now, and with it what its frames held


def _accumulated(run: Run, mine: Sequence[SampleIndex], step: int) -> Tensor:
    settings = run.settings
    halved = run.with_prior or settings.prior == "text"
    count = settings.batch // 2 if halved else settings.batch  # of targets, and of class images
    sums = torch.zeros(2, device=run.base.device)
    if run.terms is not None and run.ranks.rank == 0:  # the first process's, before its pictures
        run.scaler.scale(objectives.value(run.terms, settings)).backward()  # type: ignore[no-untyped-call]
    for part in (mine[start :: run.passes] for start in range(run.passes)):
        if not part:
            continue
        cells = run.crops[crop_key(part[0], settings.prior)].mask.numel()
        with diffusion.attention(run.base, cells), run.trained.computing():
            losses = run.losses(part, step)
            weights = losses.new_tensor([settings.prior_weight if sample.is_class else 1.0 for sample in part])
            run.scaler.scale((losses * weights / count).sum()).backward()  # type: ignore[no-untyped-call]
        prior = torch.tensor([sample.is_class for sample in part], device=losses.device)
        means = (losses / count).detach()
        sums += torch.stack([means[~prior].sum(), means[prior].sum()])
    return sums


def _join(parameters: Sequence[torch.nn.Parameter], sums: Tensor, stop: bool, ranks: Ranks) -> bool:
    """Sum gradients, losses and wishes to stop over all processes in one all-reduce; whether anyone wants to stop."""
    if ranks.world == 1:
        return stop
    grads = [torch.zeros_like(p) if p.grad is None else p.grad for p in parameters]
    flat = torch.cat([*(grad.flatten() for grad in grads), sums, sums.new_tensor([float(stop)])])
    torch.distributed.all_reduce(flat)
    for parameter, part in zip(parameters, torch.split(flat[:-3], [grad.numel() for grad in grads]), strict=True):
        parameter.grad = part.view_as(parameter)
    sums.copy_(flat[-3:-1])
    return bool(flat[-1] > 0)
