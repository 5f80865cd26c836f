"""Training a concept: the banked latents, the loss, and the loop that yields its steps."""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, cast

import numpy as np
import torch

from cdtool import adapter as adapters
from cdtool import checkpoint as checkpoints
from cdtool import diffusion, text
from cdtool.bank import Bank, Draw, Subject, draws, fill_bank, key_of, resolution, share
from cdtool.errors import InterruptedRun, TrainingError
from cdtool.ranks import ALONE, Ranks
from cdtool.tokens import Prompt, Token, bind

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import Tensor

    from cdtool.adapter import Adapter
    from cdtool.base import Base
    from cdtool.settings import TrainSettings
    from cdtool.text import Conditioning, Tokenized


@dataclass(frozen=True)
class Step:
    """What the loop tells its caller."""

    kind: Literal["bank", "step", "saved", "preview", "done"]
    step: int = 0  # how many are done; of "bank", crops
    of: int = 0  # how many there are
    loss: float = math.nan
    prior_loss: float = math.nan
    seconds: float = 0.0  # since the loop began
    pictures: tuple[NDArray[np.uint8], ...] = ()  # of a preview
    tensors: dict[str, Tensor] = field(default_factory=dict)  # of "done": the concept


# ---------------------------------------------------------------- the loss


@dataclass
class _Texts:
    """Text features of a run: those without learned rows are encoded once and kept."""

    base: Base
    tokens: tuple[Token, ...]
    ids: dict[Prompt, Tokenized] = field(default_factory=dict)
    kept: dict[Prompt, Conditioning] = field(default_factory=dict)

    def of(self, prompts: Sequence[Prompt], rows: Sequence[Sequence[Tensor]]) -> Conditioning:
        """Features of prompts; each different one is encoded once, with gradients where it holds a row."""
        different = list(dict.fromkeys(prompts))
        moving = [prompt for prompt in different if any(isinstance(piece, int) for piece in prompt.pieces)]
        for prompt in different:
            self.ids.setdefault(prompt, text.tokenize(self.base, prompt, self.tokens))
        new = [prompt for prompt in different if prompt not in self.kept and prompt not in moving]
        if new:
            with torch.no_grad():
                made = text.encode(self.base, [self.ids[prompt] for prompt in new])
            self.kept |= {prompt: made[place : place + 1] for place, prompt in enumerate(new)}
        parts = {prompt: self.kept[prompt] for prompt in different if prompt in self.kept}
        if moving:
            made = text.encode(self.base, [self.ids[prompt] for prompt in moving], rows)
            parts |= {prompt: made[place : place + 1] for place, prompt in enumerate(moving)}
        return text.join([parts[prompt] for prompt in prompts])


def noise_of(
    settings: TrainSettings, step: int, index: int, shape: torch.Size, timesteps: int
) -> tuple[Tensor, Tensor, int]:
    """(latent noise, target noise, timestep) of one picture of one step; depends on nothing else."""
    rng = np.random.default_rng((settings.seed, step, index, 1))
    generator = torch.Generator().manual_seed(int(rng.integers(2**62)))
    both = torch.randn((2, *shape), generator=generator)
    return both[0], both[1], int(rng.integers(timesteps))


def masked_error(found: Tensor, wanted: Tensor, mask: Tensor) -> Tensor:
    """Mean squared error of each sample over its mask's cells: [b, c, h, w], [b, c, h, w], [b, h, w] -> [b]."""
    error = (found - wanted).pow(2).mean(dim=1) * mask
    return error.sum(dim=(1, 2)) / mask.sum(dim=(1, 2)).clamp(min=1)


# ---------------------------------------------------------------- the loop


@dataclass
class _Run:
    base: Base
    settings: TrainSettings
    texts: _Texts
    adapter: Adapter
    schedule: Any
    optimizer: torch.optim.Optimizer
    scaler: torch.amp.GradScaler
    ranks: Ranks
    bank: Bank
    with_prior: bool

    def conditioning(self, prompts: Sequence[Prompt]) -> Conditioning:
        """Text features of prompts in the compute precision; the float32 encoder computes in it too."""
        dtype = self.base.dtype
        with torch.autocast(self.base.device.type, dtype, enabled=dtype != torch.float32):
            return self.texts.of(prompts, self.adapter.rows).to(dtype)

    def losses(self, part: Sequence[Draw], step: int) -> Tensor:
        """The loss of each picture of a pass [b]."""
        items = [self.bank[key_of(draw)] for draw in part]
        steps = self.schedule.config.num_train_timesteps
        noises = [noise_of(self.settings, step, draw.sample, item.moments.shape[1:], steps)
                  for draw, item in zip(part, items, strict=True)]  # fmt: skip
        device = self.base.device
        z = torch.stack(
            [item.moments[0] + item.moments[1] * noise[0] for item, noise in zip(items, noises, strict=True)]
        )
        noise = torch.stack([pair[1] for pair in noises]).to(device)
        t = torch.tensor([pair[2] for pair in noises], device=device)
        z, mask = z.to(device), torch.stack([item.mask for item in items]).to(device).float()
        side = z.shape[-1] * self.base.latent_factor
        condition = self.conditioning([item.prompt for item in items])
        noisy = self.schedule.add_noise(z, noise, t).to(self.base.dtype)
        sizes = diffusion.size_condition(self.base, side, side, len(part))
        found = diffusion.predict(self.base, noisy, t, condition, sizes)
        return masked_error(found, diffusion.target(self.base, self.schedule, z, noise, t), mask)


def fit(
    base: Base,
    subjects: Sequence[Subject],
    tokens: tuple[Token, ...],
    settings: TrainSettings,
    *,
    checkpoint: Path,
    resume: bool = False,
    previews: Sequence[str] = (),
    stop: Callable[[], bool] = lambda: False,
    ranks: Ranks = ALONE,
) -> Iterator[Step]:
    """Train a concept, yielding every step; the last one, "done", carries its tensors.

    Latents are banked first. `stop` is asked after each step: the loop then saves a checkpoint and raises
    InterruptedRun. Every process of a group runs the same loop on its share and sees the same parameters.

    Raises TrainingError on a non-finite loss and where K/V or a row did not move; InputError for a checkpoint of
    another run.
    """
    begun = time.monotonic()
    wanted = [draw for step in range(settings.steps) for draw in share(draws(settings, subjects, step), ranks)]
    bank: Bank = {}
    for done, count, filled in fill_bank(base, settings, subjects, tokens, wanted):
        bank = filled
        if stop():
            raise InterruptedRun("Stopped before the first step; there is nothing to go on from.")
        yield Step("bank", done, count, seconds=time.monotonic() - begun)
    with adapters.attached(base, tokens) as adapter, _checkpointing(base, settings):
        parameters = adapter.parameters()
        groups = adapter.groups(settings.weight_decay)
        run = _Run(base, settings, _Texts(base, tokens), adapter, diffusion.scheduler(base, "ddpm"),
                   torch.optim.AdamW(groups, lr=settings.lr, fused=base.device.type != "mps"),
                   torch.amp.GradScaler(base.device.type, enabled=base.dtype == torch.float16), ranks, bank,
                   any(subject.priors for subject in subjects))  # fmt: skip
        identity = checkpoints.identity(base, subjects, tokens, settings)
        first = _restore(run, checkpoint, identity) if resume and checkpoint.exists() else 0
        began = [parameter.detach().clone() for parameter in _initial(run)]
        if previews and ranks.rank == 0:
            yield Step("preview", first, pictures=_preview(run, previews))
        for step in range(first, settings.steps):
            target, prior, stopped = _step(run, share(draws(settings, subjects, step), ranks), step, parameters, stop())
            yield Step("step", step + 1, settings.steps, target, prior, time.monotonic() - begun)
            last = step + 1 == settings.steps
            if stopped or ((step + 1) % settings.save_every == 0 and not last):
                if ranks.rank == 0:
                    _save(run, checkpoint, identity, step + 1)
                    yield Step("saved", step + 1)
                if stopped and not last:
                    raise InterruptedRun(f"Stopped at step {step + 1} of {settings.steps}.", "Go on with --resume.")
                if previews and ranks.rank == 0:
                    yield Step("preview", step + 1, pictures=_preview(run, previews))
        _check_moved(began, parameters, adapter)
        if previews and ranks.rank == 0:
            yield Step("preview", settings.steps, pictures=_preview(run, previews))
        yield Step("done", settings.steps, seconds=time.monotonic() - begun, tensors=adapters.changes(base, adapter))


def _step(
    run: _Run, mine: Sequence[Draw], step: int, parameters: Sequence[torch.nn.Parameter], stop: bool
) -> tuple[float, float, bool]:
    """One optimizer step; (target loss, prior loss, whether any process wants to stop)."""
    settings = run.settings
    count = settings.batch // 2 if run.with_prior else settings.batch  # of targets, and of prior pictures
    sums = torch.zeros(2, device=run.base.device)
    for part in (mine[start :: settings.accumulate] for start in range(settings.accumulate)):
        if not part:
            continue
        with diffusion.attention(run.base, cells=run.bank[key_of(part[0])].mask.numel()):
            losses = run.losses(part, step)
            weights = losses.new_tensor([settings.prior_weight if draw.prior else 1.0 for draw in part])
            run.scaler.scale((losses * weights / count).sum()).backward()  # type: ignore[no-untyped-call]
        prior = torch.tensor([draw.prior for draw in part], device=losses.device)
        means = (losses / count).detach()
        sums += torch.stack([means[~prior].sum(), means[prior].sum()])
    stopped = _join(parameters, sums, stop, run.ranks)
    if not bool(torch.isfinite(sums).all()):
        raise TrainingError(
            f"The loss became {sums.sum().item()} at step {step + 1}.", "Lower --lr, or use --precision bf16 or fp32."
        )
    run.scaler.step(run.optimizer)
    run.scaler.update()
    run.optimizer.zero_grad(set_to_none=True)
    target, prior_loss = sums.tolist()
    return target, prior_loss if run.with_prior else math.nan, stopped


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


@contextlib.contextmanager
def _checkpointing(base: Base, settings: TrainSettings) -> Iterator[None]:
    unet = cast("Any", base.unet)
    if not settings.checkpointing:
        yield
        return
    unet.enable_gradient_checkpointing()
    unet.train()  # diffusers recomputes only in training mode; these nets have no dropout
    try:
        yield
    finally:
        unet.disable_gradient_checkpointing()
        unet.eval()


@torch.no_grad()
def _preview(run: _Run, previews: Sequence[str]) -> tuple[NDArray[np.uint8], ...]:
    """A picture of each preview prompt with the weights as they are now, the same noise every time."""
    side = resolution(run.base, run.settings)
    prompts = [bind(prompt, run.texts.tokens) for prompt in previews]
    condition = run.conditioning(prompts)
    empty = run.conditioning([Prompt(("",), frozenset())] * len(prompts))
    *_, z = diffusion.denoise(
        run.base, diffusion.scheduler(run.base, "ddim"), condition, text.unprompted(run.base, empty),
        seeds=range(len(prompts)), steps=25, guidance=6.0, eta=1.0, size=(side, side),
    )  # fmt: skip
    return tuple(diffusion.decode(run.base, z))


# ---------------------------------------------------------------- checkpoints and checks


def _save(run: _Run, path: Path, identity: str, step: int) -> None:
    state = {
        "identity": identity,
        "step": step,
        "parameters": [parameter.detach() for parameter in run.adapter.parameters()],
        "optimizer": run.optimizer.state_dict(),
        "scaler": run.scaler.state_dict(),
    }
    checkpoints.save(path, state)


def _restore(run: _Run, path: Path, identity: str) -> int:
    """Go on from a checkpoint; the number of steps done."""
    state = checkpoints.load(path, identity, run.base.device)
    with torch.no_grad():
        for parameter, stored in zip(run.adapter.parameters(), state["parameters"], strict=True):
            parameter.copy_(stored)
    run.optimizer.load_state_dict(state["optimizer"])
    run.scaler.load_state_dict(state["scaler"])
    return int(state["step"])


def _initial(run: _Run) -> list[Tensor]:
    """The parameters as they are before training, in the order of `Adapter.parameters`."""
    weights = [run.base.kv[name].float().to(run.base.device) for name in run.adapter.weights]
    rows = text.initial_rows(run.base, run.adapter.tokens)
    kept = [row for encoder in rows for row, token in zip(encoder, run.adapter.tokens, strict=True) if token.modifier]
    return [*weights, *kept]


def _check_moved(began: Sequence[Tensor], parameters: Sequence[Tensor], adapter: Adapter) -> None:
    """Raises TrainingError where something that was to be learned is as it was."""
    still = [place for place, (old, new) in enumerate(zip(began, parameters, strict=True)) if torch.equal(old, new)]
    if not still:
        return
    names = [*adapter.weights, *(f"the learned row {place + 1}" for place in range(len(parameters)))]
    raise TrainingError(f"Training changed nothing in {names[still[0]]}; nothing was saved.", "Please report it.")
