"""Training on tiny bases: the loss against its formula, the gradient against autograd's, and learning by learning."""

from __future__ import annotations

import copy
import math
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from cdtool.errors import InputError, InterruptedRun, ResourceError, TrainingError
from cdtool.models import adapter, diffusion, initializers, pipelines, text
from cdtool.settings import TrainSettings
from cdtool.tokens import Token, bind
from cdtool.training import batches, loop, loss, optimizer_step, trainable
from cdtool.training.batches import ConceptImages, Example
from cdtool.training.processes import Ranks

SETTINGS = TrainSettings(steps=4, batch=4, lr=1e-3, precision="fp32", crops=2, save_every=100, seed=11)


def picture(seed):
    """A soft picture of a few colours."""
    small = np.random.default_rng(seed).integers(0, 256, (3, 3, 3), dtype=np.uint8)
    return Image.fromarray(small).resize((40, 40), Image.Resampling.BICUBIC)


def subject(noun="V* dog", photos=3, priors=4, first=0):
    return ConceptImages(
        tuple(Example(f"photo of a {noun}", lambda n=n: picture(first + n), f"{n}") for n in range(photos)),
        tuple(Example(("a dog", "the cat")[n % 2], lambda n=n: picture(50 + first + n)) for n in range(priors)),
    )


SUBJECTS = (subject(),)


@pytest.fixture(scope="module")
def loaded(request):
    """A base by the name of its fixture, in float32: `loaded("sd_base")`."""
    kept = {}

    def load(name, precision="fp32"):
        if (name, precision) not in kept:
            folder = str(request.getfixturevalue(name))
            kept[name, precision] = pipelines.load(folder, precision=precision, device="cpu")
        return kept[name, precision]

    return load


@pytest.fixture
def sgd(monkeypatch):
    """Plain gradient descent in place of AdamW, so that a change is the gradient."""
    monkeypatch.setitem(optimizer_step.OPTIMIZERS, "adamw", lambda groups, lr: torch.optim.SGD(groups, lr=lr))


@pytest.fixture
def fit(loaded, tmp_path):
    """Train on a tiny base; returns every step."""

    def run(
        settings=SETTINGS, *, on="sd_base", concepts=SUBJECTS, nouns=("dog",), precision="fp32", lazily=False, **more
    ):
        base = loaded(on, precision)
        tokens = initializers.assign(base.tokenizers, [Token(n.split()[-1], modifier=n[0] != "-") for n in nouns])
        more = {"checkpoint": tmp_path / "run.pt"} | more
        steps = loop.fit(base, concepts, tokens, settings, **more)
        return steps if lazily else list(steps)

    return run


def stop_after(count):
    asked = iter(range(1000))
    return lambda: next(asked) >= count


def tensors(steps):
    assert steps[-1].kind == "done"
    return steps[-1].tensors


def vector(tensors):
    return torch.cat([tensor.float().flatten() for _, tensor in sorted(tensors.items())])


def distance(one, other):
    """Relative difference of all trained numbers' changes."""
    kv = [{name: t for name, t in made.items() if name.startswith("unet")} for made in (one, other)]
    return float((vector(kv[0]) - vector(kv[1])).norm() / vector(kv[1]).norm())


# ---------------------------------------------------------------- the loss


def test_the_masked_error_is_a_mean_over_the_masks_cells_and_all_channels():
    """By hand: errors 2 and 4 in the two counted cells of every channel give (4 + 16) / 2, not four times that."""
    found, mask = torch.zeros(2, 4, 2, 2), torch.zeros(2, 2, 2)
    found[0, :, 0, 0], found[0, :, 0, 1], found[0, :, 1, 1] = 2.0, 4.0, 99.0
    mask[0, 0] = 1
    mask[1] = 1
    found[1] = 3.0
    assert loss.masked_error(found, torch.zeros_like(found), mask).tolist() == [10.0, 9.0]
    everywhere = loss.masked_error(found, torch.zeros_like(found), torch.ones(2, 2, 2))
    torch.testing.assert_close(everywhere, (found**2).mean(dim=(1, 2, 3)))


def by_hand(base, settings, concepts, step=0):
    """(target losses, prior losses) of a step by the formulas, with the base's own K/V but for gradients."""
    tokens = initializers.assign(base.tokenizers, [Token("dog")])
    drawn = batches.samples_of(settings, concepts, step)
    *_, (_, _, cache) = batches.encode_crops(base, settings, concepts, tokens, drawn)
    alphas = (1 - torch.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=torch.float64) ** 2).cumprod(0)
    losses = {False: [], True: []}
    with trainable.attached(base, tokens) as trained:
        for sample in drawn:
            item = cache[batches.crop_key(sample)]
            first, noise, t = loss.noise_of(settings, step, sample.position, item.moments.shape[1:], 1000)
            z = item.moments[0] + item.moments[1] * first
            a, s = float(alphas[t].sqrt()), float((1 - alphas[t]).sqrt())
            wanted = a * noise - s * z if base.prediction == "v_prediction" else noise
            prompt = text.tokenize(base, item.prompt, tokens)
            told = text.encode(base, [prompt], trained.rows)
            added = None
            if base.family.conditioned:
                added = {"text_embeds": told.pooled, "time_ids": torch.tensor([[16.0, 16, 0, 0, 16, 16]])}
            found = base.unet(
                (a * z + s * noise)[None], t, encoder_hidden_states=told.features, added_cond_kwargs=added
            ).sample[0]
            error = (found - wanted).square()[:, item.mask]
            losses[sample.is_class].append(error.mean())
        total = torch.stack(losses[False]).mean() + settings.prior_weight * torch.stack(losses[True]).mean()
        total.backward()
        grads = {f"unet.{name}.weight": module.weight.grad for name, module in trained.modules.items()}
        for name, encoder in zip(base.family.encoders, trained.rows, strict=True):
            grads[f"token.1.{name}"] = encoder[0].grad
    means = [torch.stack(losses[prior]).mean().item() for prior in (False, True)]
    return means, grads


@pytest.mark.parametrize("on", ["sd_base", "sd_v_base", "sdxl_base"])
@pytest.mark.parametrize("weight", [1.0, 0.25])
def test_a_step_follows_the_gradient_of_the_papers_loss(fit, loaded, sgd, on, weight):
    """Targets and prior 1:1 (or as asked), the start token detached, one step down the gradient autograd finds."""
    settings = replace(SETTINGS, steps=1, batch=8, lr=1.0, weight_decay=0.0, prior_weight=weight)
    base = loaded(on)
    steps = fit(settings, on=on)
    (target, prior), grads = by_hand(base, settings, SUBJECTS)
    first = next(step for step in steps if step.kind == "step")
    assert first.loss == pytest.approx(target, rel=1e-4)
    assert first.prior_loss == pytest.approx(prior, rel=1e-4)
    started = initializers.initial_embeddings(base, initializers.assign(base.tokenizers, [Token("dog")]))
    rows = {f"token.1.{n}": row[0] for n, row in zip(base.family.encoders, started, strict=True)}
    for name, tensor in tensors(steps).items():
        moved = tensor.float() - rows.get(name, 0.0)
        torch.testing.assert_close(moved, -grads[name], atol=2e-6, rtol=5e-3)
        assert grads[name].abs().max() > 1e-5


def attention_begins(module, _, result):
    """What a K/V projection says, the start token's column without a gradient."""
    return torch.cat([result[:, :1].detach(), result[:, 1:]], dim=1)


def loop_by_hand(base, settings, chosen, *, row, low_rank=False):
    """Plain gradient descent on a copy of the denoiser whose parameters are written down one by one."""
    tokens = initializers.assign(base.tokenizers, [Token("dog")])
    unet = copy.deepcopy(base.unet)
    stored = dict(unet.named_parameters())
    learned = {name: stored[name].detach().clone().requires_grad_() for name in stored if chosen(name)}
    for name, module in unet.named_modules():
        if name in base.kv and (f"{name}.weight" in learned):
            module.register_forward_hook(attention_begins)
    if low_rank:  # begins as the tool's does, which is a matter of taste
        with trainable.attached(base, tokens, settings) as trained:
            learned = {part.name.removeprefix("unet."): part.parameter.detach().clone().requires_grad_()
                       for part in trained.parts if part.name.startswith("unet")}  # fmt: skip
    begun = {name: parameter.detach().clone() for name, parameter in learned.items()}
    initial = initializers.initial_embeddings(base, tokens, settings.token_init, settings.seed)
    rows = [[embedding.requires_grad_(True) for embedding in encoder] for encoder in initial]
    schedule = diffusion.scheduler(base, "ddpm")
    every = [sample for step in range(settings.steps) for sample in batches.samples_of(settings, SUBJECTS, step)]
    *_, (_, _, cache) = batches.encode_crops(base, settings, SUBJECTS, tokens, every)
    for step in range(settings.steps):
        weights = learned
        if low_rank:
            names = [f"{module}.weight" for module in base.kv]
            weights = {name: stored[name].detach() + learned[f"{name}.up"] @ learned[f"{name}.down"] for name in names}
        losses = {False: [], True: []}
        for sample in batches.samples_of(settings, SUBJECTS, step):
            item = cache[batches.crop_key(sample)]
            first, noise, t = loss.noise_of(settings, step, sample.position, item.moments.shape[1:], 1000)
            z = item.moments[0] + item.moments[1] * first
            noisy = schedule.add_noise(z[None], noise[None], torch.tensor([t]))
            told = text.encode(base, [text.tokenize(base, item.prompt, tokens)], rows)
            found = torch.func.functional_call(
                unet, weights, (noisy, t), {"encoder_hidden_states": told.features}
            ).sample
            losses[sample.is_class].append((found[0] - noise).square()[:, item.mask].mean())
        sum(torch.stack(part).mean() for part in losses.values() if part).backward()
        with torch.no_grad():
            for parameter in [*learned.values(), *(rows[0] if row else [])]:
                parameter -= settings.lr * parameter.grad
                parameter.grad = None
    moved = {f"unet.{name}": parameter.detach() - begun[name] for name, parameter in learned.items()}
    if low_rank:
        moved = {f"unet.{name}": parameter.detach() for name, parameter in learned.items()}
    return moved | {"token.1.text_encoder": rows[0][0].detach()}


@pytest.mark.parametrize("method", ["kv", "crossattn", "full", "dreambooth", "textual-inversion", "lora"])
def test_every_method_follows_an_obvious_loop(fit, loaded, sgd, method):
    chosen = {
        "kv": lambda name: name.endswith(("attn2.to_k.weight", "attn2.to_v.weight")),
        "crossattn": lambda name: ".attn2." in name,
        "textual-inversion": lambda name: False,
        "lora": lambda name: name.endswith(("attn2.to_k.weight", "attn2.to_v.weight")),
    }.get(method, lambda name: True)
    row = method != "dreambooth"
    init = "class" if method == "textual-inversion" else "rare"
    settings = replace(SETTINGS, method=method, steps=2, lr=0.5, weight_decay=0.0, freeze_token=not row,
                       token_init=init, rank=3)  # fmt: skip
    base = loaded("sd_base")
    before = {name: tensor.clone() for name, tensor in base.unet.state_dict().items()}
    made = tensors(fit(settings))
    assert all(torch.equal(tensor, before[name]) for name, tensor in base.unet.state_dict().items())
    wanted = loop_by_hand(base, settings, chosen, row=row, low_rank=method == "lora")
    assert made.keys() == wanted.keys()
    for name, tensor in made.items():
        torch.testing.assert_close(
            tensor.float(), wanted[name], atol=2e-5, rtol=2e-2, msg=lambda m, n=name: f"{n}: {m}"
        )
    apart = max((wanted[name].abs().max() for name in wanted if name.startswith("unet")), default=1.0)
    assert apart > 5e-4


# ---------------------------------------------------------------- learning


def error_on(base, tokens, what, pictures, draws=24):
    """What the denoiser's mean error on pictures has above that of saying nothing, with fixed noise, on the way that
    sampling takes."""
    z = diffusion.moments(base, [np.asarray(picture.resize((16, 16))) for picture in pictures])[:, 0]
    z = z.repeat(draws // len(z), 1, 1, 1)
    generator = torch.Generator().manual_seed(5)
    noise = torch.randn(z.shape, generator=generator)
    t = torch.linspace(20, 980, len(z)).long()
    prompt = text.tokenize(base, bind("photo of a V* dog", tokens), tokens)
    condition = text.join([adapter.encode(base, what, [prompt])] * len(z))
    schedule = diffusion.scheduler(base, "ddpm")
    with adapter.precomputed_kv(base) as give, torch.no_grad():
        give(adapter.keys_and_values(base, what, condition.features))
        sizes = diffusion.size_condition(base, 16, 16, len(z))
        found = diffusion.predict(base, schedule.add_noise(z, noise, t), t, condition, sizes)
    return ((found - noise).square().mean() - noise.square().mean()).item()


@pytest.mark.parametrize("on", ["sd_base", "sdxl_base"])
def test_training_learns_its_photos(fit, loaded, on):
    settings = replace(SETTINGS, steps=30, lr=5e-2, augment=False)
    base = loaded(on)
    tokens = initializers.assign(base.tokenizers, [Token("dog")])
    own = [example.open() for example in SUBJECTS[0].photos]
    empty = adapter.ConceptWeights(
        embeddings=tuple(tuple(row) for row in initializers.initial_embeddings(base, tokens))
    )
    before = error_on(base, tokens, empty, own)
    made = tensors(fit(settings, on=on))
    after = error_on(base, tokens, adapter.load_weights(base, tokens, made), own)
    assert after < 0.8 * before
    rows = initializers.initial_embeddings(base, tokens)
    for place, encoder in enumerate(base.family.encoders):
        assert (made[f"token.1.{encoder}"] - rows[place][0]).abs().max() > 1e-2


def test_only_the_concept_changes_and_the_base_stays_bit_for_bit(fit, loaded):
    base = loaded("sd_base")
    modules = (base.unet, base.vae, *base.text_encoders)
    before = [{name: tensor.clone() for name, tensor in module.state_dict().items()} for module in modules]
    made = tensors(fit())
    after = [module.state_dict() for module in modules]
    for old, new in zip(before, after, strict=True):
        assert old.keys() == new.keys()
        assert all(torch.equal(old[name], new[name]) for name in old)
    assert not any(parameter.requires_grad for module in modules for parameter in module.parameters())
    assert set(made) == {f"unet.{name}.weight" for name in base.kv} | {"token.1.text_encoder"}


def test_a_concept_without_modifier_trains_no_row(fit, loaded):
    made = tensors(fit(concepts=(subject("moongate"),), nouns=("-moongate",)))
    assert set(made) == {f"unet.{name}.weight" for name in loaded("sd_base").kv}
    assert all(tensor.any() for tensor in made.values())


def test_two_concepts_train_a_row_each(fit):
    both = (subject("V1 dog"), subject("V2 cat", photos=2, first=20))
    made = tensors(fit(replace(SETTINGS, steps=3), concepts=both, nouns=("dog", "cat")))
    assert {"token.1.text_encoder", "token.2.text_encoder"} < set(made)
    assert not torch.equal(made["token.1.text_encoder"], made["token.2.text_encoder"])


def test_a_rate_of_its_own_moves_the_row_so_much_further_and_nothing_else(fit, sgd):
    one, other = (fit(replace(SETTINGS, steps=1, lr=0.1, token_lr=rate))[-1].tensors for rate in (0.0, 0.8))
    begun = fit(replace(SETTINGS, steps=1, lr=0.1, freeze_token=True))[-1].tensors
    for name, tensor in one.items():
        if name.startswith("token."):
            torch.testing.assert_close(other[name] - begun[name], 8 * (tensor - begun[name]), atol=1e-5, rtol=1e-3)
        else:
            assert torch.equal(other[name], tensor)


def test_without_prior_every_picture_is_a_target(fit):
    steps = fit(concepts=(subject(priors=0),))
    assert all(math.isnan(step.prior_loss) for step in steps if step.kind == "step")
    assert tensors(steps)


def test_two_concepts_of_full_take_turns_as_those_of_kv_do(fit):
    both = (subject("V1 dog"), subject("V2 cat", photos=2, first=20))
    made = tensors(fit(replace(SETTINGS, steps=3, method="full", lr=1e-3), concepts=both, nouns=("dog", "cat")))
    assert {"token.1.text_encoder", "token.2.text_encoder", "unet.conv_in.weight"} < set(made)


@pytest.mark.parametrize(("init", "frozen"), [("rare", True), ("normal", False), ("normal", True), ("word:cat", True)])
def test_a_row_begins_as_asked_and_stays_where_it_is_frozen(fit, loaded, init, frozen):
    base = loaded("sd_base")
    settings = replace(SETTINGS, steps=2, token_init=init, freeze_token=frozen)
    tokens = initializers.assign(base.tokenizers, [Token("dog")])
    begun = initializers.initial_embeddings(base, tokens, init, settings.seed)[0][0]
    row = tensors(fit(settings))["token.1.text_encoder"]
    assert torch.equal(row, begun) is frozen
    torch.testing.assert_close(row, begun, atol=3 * settings.lr, rtol=0)


def test_going_on_equals_a_loop_begun_at_those_weights(fit, loaded, sgd, monkeypatch, tmp_path):
    """The second training of a base into whose stored weights the first one's changes were written."""
    base = loaded("sd_base")
    settings = replace(SETTINGS, steps=3, lr=3.0, weight_decay=0.0)
    first = tensors(fit(settings))
    start = trainable.Start(first, 1, "one")
    second = (subject("V2 cat", first=30),)
    found = tensors(fit(settings, concepts=second, nouns=("dog", "cat"), start=start))
    assert torch.equal(found["token.1.text_encoder"], first["token.1.text_encoder"])
    other = copy.copy(base)
    other.unet = copy.deepcopy(base.unet)
    other.kv = {name: weight + first[f"unet.{name}.weight"].float() for name, weight in base.kv.items()}
    for name, weight in other.kv.items():
        other.unet.get_submodule(name).weight.copy_(weight)
    tokens = initializers.assign(base.tokenizers, [Token("dog"), Token("cat")])
    wanted = tensors(list(loop.fit(other, second, tokens, replace(settings, freeze_token=False),
                                       checkpoint=tmp_path / "other.pt", start=trainable.Start(
                                           {"token.1.text_encoder": first["token.1.text_encoder"]}, 1))))  # fmt: skip
    for name in base.kv:
        total = first[f"unet.{name}.weight"].float() + wanted[f"unet.{name}.weight"].float()
        torch.testing.assert_close(found[f"unet.{name}.weight"].float(), total, atol=3e-5, rtol=2e-3)
        assert wanted[f"unet.{name}.weight"].float().abs().max() > 1e-3
    torch.testing.assert_close(found["token.2.text_encoder"], wanted["token.2.text_encoder"], atol=1e-5, rtol=1e-4)
    with pytest.raises(InputError, match="other photos"):  # a checkpoint is of its own start
        list(fit(replace(settings, save_every=1), concepts=second, nouns=("dog", "cat"), start=start))
        fit(settings, concepts=second, nouns=("dog", "cat"), start=replace(start, sha256="two"), resume=True)


# ---------------------------------------------------------------- what must make no difference


@pytest.mark.parametrize(
    ("on", "more"),
    [
        ("sd_base", {"accumulate": 2}),
        ("sd_base", {"checkpointing": True}),
        ("sdxl_base", {"accumulate": 4, "checkpointing": True}),
        ("sd_base", {"method": "full", "accumulate": 2, "checkpointing": True}),
        ("sd_base", {"method": "full", "checkpointing": True, "precision": "bf16"}),
    ],
    ids=str,
)
def test_passes_and_recomputation_change_nothing(fit, loaded, on, more):
    precision = more.get("precision", "fp32")
    plain = tensors(fit(replace(SETTINGS, method=more.get("method", "kv")), on=on, precision=precision))
    near = 2e-3 if precision == "fp32" else 1e-6
    assert distance(tensors(fit(replace(SETTINGS, **more), on=on, precision=precision)), plain) < near
    unet = loaded(on).unet
    assert not unet.training
    assert not unet.is_gradient_checkpointing


def test_the_same_command_gives_the_same_concept(fit):
    one, again, other = tensors(fit()), tensors(fit()), tensors(fit(replace(SETTINGS, seed=12)))
    assert all(torch.equal(one[name], again[name]) for name in one)
    assert distance(one, other) > 0.05


def test_bf16_comes_near_to_float32(fit, sgd):
    settings = replace(SETTINGS, steps=3, batch=8, lr=0.1, weight_decay=0.0)
    full, half = tensors(fit(settings)), tensors(fit(settings, precision="bf16"))
    assert all(tensor.dtype == torch.float32 for name, tensor in half.items() if name.startswith("token"))
    assert 0 < distance(half, full) < 0.1


def test_recomputing_in_bf16_takes_the_same_attention(fit, sgd):
    """Small latents attend without the fused kernel in bf16, in the recomputed forward as in the first."""
    settings = replace(SETTINGS, steps=2, batch=4)
    kept, again = (tensors(fit(replace(settings, checkpointing=on), precision="bf16")) for on in (False, True))
    assert all(torch.equal(kept[name], again[name]) for name in kept)


class Group:
    """An all-reduce between the threads of one process."""

    def __init__(self, world):
        self.barrier, self.parts = threading.Barrier(world, timeout=120), []

    def all_reduce(self, tensor):
        self.parts.append(tensor.clone())
        self.barrier.wait()
        total = torch.stack(self.parts).sum(0)
        if self.barrier.wait() == 0:
            self.parts.clear()
        self.barrier.wait()
        tensor.copy_(total)


@pytest.fixture
def together(sd_base, monkeypatch, tmp_path):
    """Train with ranks as threads, each with a base of its own: every rank's (steps, what it was stopped with)."""

    def run(settings, world, resume=False, stop_after=None):
        monkeypatch.setattr(torch.distributed, "all_reduce", Group(world).all_reduce)
        bound = [pipelines.load(str(sd_base), precision="fp32", device="cpu") for _ in range(world)]
        tokens = initializers.assign(bound[0].tokenizers, [Token("dog")])

        def rank(number):
            steps = []

            def stop():
                return number == 0 and any((step.kind, step.step) == ("step", stop_after) for step in steps)

            try:
                for step in loop.fit(bound[number], SUBJECTS, tokens, settings, checkpoint=tmp_path / "shared.pt",
                                         resume=resume, stop=stop, ranks=Ranks(number, world)):  # fmt: skip
                    steps.append(step)
            except InterruptedRun as error:
                return steps, str(error)
            return steps, ""

        with ThreadPoolExecutor(world) as pool:
            return list(pool.map(rank, range(world)))

    return run


@pytest.fixture
def unrounded(monkeypatch):
    """Changes as they were trained: fp16 rounds what lies on either side of a half to different numbers."""
    monkeypatch.setattr(trainable, "_change", lambda parameter, before: parameter.detach() - before.float())


@pytest.mark.parametrize(("world", "method"), [(2, "full"), (3, "kv")])
def test_the_result_does_not_depend_on_the_number_of_processes(fit, together, unrounded, world, method):
    """One of them is asked to stop, and all do at the same step."""
    settings = replace(SETTINGS, batch=6, steps=5, method=method)
    whole = tensors(fit(settings))
    first = together(settings, world, stop_after=2)
    second = together(settings, world, resume=True)
    assert {told for _, told in first} == {"Stopped at step 3 of 5."}
    assert [sum(step.kind == "saved" for step in steps) for steps, _ in first] == [1] + [0] * (world - 1)
    made = [tensors(steps) for steps, _ in second]
    assert all(torch.equal(made[0][name], other[name]) for other in made for name in other)
    assert distance(made[0], whole) < 1e-4
    losses = [[step.loss for step in steps if step.kind == "step"] for steps, _ in second]
    assert all(other == losses[0] for other in losses)


@pytest.mark.parametrize("method", ["kv", "full"])
def test_two_processes_learn_to_the_last_bit_what_one_learns_in_two_passes(
    fit, together, unrounded, monkeypatch, method
):
    """Where kernels meet the same numbers, that is: a crop is encoded alone, and a pass has as many of both kinds."""
    monkeypatch.setattr(diffusion, "LATENT_BATCH", 1)
    settings = replace(SETTINGS, batch=8, steps=5, method=method)
    one = tensors(fit(replace(settings, accumulate=2)))
    for steps, _ in together(settings, 2):
        assert all(torch.equal(tensor, one[name]) for name, tensor in tensors(steps).items())


# ---------------------------------------------------------------- checkpoints


def stopped(fit, count, **more):
    """Run until `stop` says so in the middle; returns how many crops were banked first."""
    crops = [step for step in fit(**more) if step.kind == "latents"]
    with pytest.raises(InterruptedRun) as caught:
        fit(stop=stop_after(len(crops) + count), **more)
    return caught.value


@pytest.mark.parametrize(
    ("on", "method"), [("sd_base", "kv"), ("sdxl_base", "kv"), ("sd_base", "full"), ("sd_base", "lora")]
)
def test_a_resumed_run_equals_an_unbroken_one(fit, on, method):
    settings = replace(SETTINGS, steps=6, method=method)
    whole = tensors(fit(settings, on=on))
    error = stopped(fit, 2, settings=settings, on=on)
    assert "step 3 of 6" in str(error)
    assert "--resume" in error.hint
    steps = fit(settings, on=on, resume=True)
    assert [step.step for step in steps if step.kind == "step"] == [4, 5, 6]
    assert all(torch.equal(tensor, whole[name]) for name, tensor in tensors(steps).items())


def test_checkpoints_come_every_so_often_and_leave_nothing_else(fit, tmp_path):
    steps = fit(replace(SETTINGS, steps=5, save_every=2))
    assert [step.step for step in steps if step.kind == "saved"] == [2, 4]
    assert [path.name for path in tmp_path.iterdir()] == ["run.pt"]
    assert [step.step for step in fit(replace(SETTINGS, steps=5), resume=True) if step.kind == "step"] == [5]


@pytest.mark.parametrize(
    ("settings", "concepts"),
    [
        ({"seed": 1}, SUBJECTS),
        ({"lr": 2e-3}, SUBJECTS),
        ({}, (subject("V* dog", photos=4),)),
        (
            {},
            (
                ConceptImages(
                    tuple(example._replace(digest="other") for example in SUBJECTS[0].photos), SUBJECTS[0].class_images
                ),
            ),
        ),
    ],
    ids=["seed", "rate", "count", "pictures"],
)
def test_a_checkpoint_of_another_run_is_refused(fit, settings, concepts):
    fit(replace(SETTINGS, save_every=2))
    with pytest.raises(InputError, match="other photos, tokens, base or settings") as caught:
        fit(replace(SETTINGS, **settings), concepts=concepts, resume=True)
    assert caught.value.exit_code == 4


@pytest.mark.parametrize("how", ["cut", "empty", "junk", "other"])
def test_a_damaged_checkpoint_is_refused(fit, tmp_path, how):
    path = tmp_path / "run.pt"
    fit(replace(SETTINGS, save_every=2))
    if how == "other":
        torch.save([1, 2], path)
    else:
        path.write_bytes({"cut": path.read_bytes()[:-200], "empty": b"", "junk": b"junk" * 100}[how])
    with pytest.raises(InputError, match="cannot be read") as caught:
        fit(resume=True)
    assert "\n" not in str(caught.value)


def test_a_stop_while_encoding_leaves_no_checkpoint(fit, tmp_path):
    with pytest.raises(InterruptedRun, match="nothing to go on from"):
        fit(stop=lambda: True)
    assert not list(tmp_path.iterdir())


def test_a_stop_in_the_last_step_finishes(fit):
    crops = len([step for step in fit() if step.kind == "latents"])
    assert fit(stop=stop_after(crops + SETTINGS.steps - 1))[-1].kind == "done"
    again = fit(resume=True)  # from the checkpoint of the last step
    assert [step.kind for step in again if step.kind != "latents"] == ["note", "done"]


# ---------------------------------------------------------------- the loop doubts itself


def test_a_loss_that_is_no_number_ends_the_run(fit, tmp_path):
    with pytest.raises(TrainingError, match="loss became") as caught:
        fit(replace(SETTINGS, lr=1e30))
    assert "--lr" in caught.value.hint
    assert not list(tmp_path.iterdir())


def test_losses_that_are_read_late_are_the_same_and_read_before_anything_is_kept(fit, monkeypatch):
    longer = replace(SETTINGS, steps=5, save_every=3)
    plain = fit(longer)
    taken: list[int] = []
    step = optimizer_step.take

    def counted(*of, **more):
        taken.append(more["step"])
        return step(*of, **more)

    monkeypatch.setattr(loop, "reads_late", lambda device: True)
    monkeypatch.setattr(optimizer_step, "take", counted)
    late, ahead = [], []
    for event in fit(longer, lazily=True):
        late.append(event)
        if event.kind in ("step", "saved"):
            ahead.append((event.kind, event.step, len(taken)))
    assert [(one.kind, one.step, one.loss) for one in late] == [(one.kind, one.step, one.loss) for one in plain]
    assert ahead == [("step", 1, 2), ("step", 2, 3), ("step", 3, 3), ("saved", 3, 3), ("step", 4, 5), ("step", 5, 5)]
    for name, tensor in plain[-1].tensors.items():
        assert torch.equal(late[-1].tensors[name], tensor)


def test_a_loss_that_is_no_number_is_found_a_step_late_and_nothing_is_kept(fit, tmp_path, monkeypatch):
    monkeypatch.setattr(loop, "reads_late", lambda device: True)
    with pytest.raises(TrainingError, match="loss became"):
        fit(replace(SETTINGS, lr=1e30))
    assert not list(tmp_path.iterdir())


def test_weights_that_stay_are_no_success(fit):
    with pytest.raises(TrainingError, match="changed nothing in down_blocks"):
        fit(replace(SETTINGS, lr=0.0))


def test_what_weight_decay_alone_moved_is_no_success(fit, monkeypatch):
    plain = loss.per_image
    monkeypatch.setattr(loss, "per_image", lambda *given: 0.0 * plain(*given))
    with pytest.raises(TrainingError, match="changed nothing in down_blocks"):
        fit(replace(SETTINGS, weight_decay=0.5))


def limited(monkeypatch, most, error):
    """Let memory run out in passes of more than `most` images, in the backward pass's place; counts the passes."""
    plain, sizes = loss.per_image, []

    def per_image(*given):
        sizes.append(len(given[3]))
        found = plain(*given)
        if len(given[3]) > most:
            found.sum().backward()  # what a failed pass leaves behind must not count
            raise error
        return found

    monkeypatch.setattr(loss, "per_image", per_image)
    return sizes


@pytest.mark.parametrize(
    "error", [MemoryError(), RuntimeError("CUDA error: out of memory"), torch.OutOfMemoryError("CUDA out of memory.")]
)
def test_a_step_that_does_not_fit_goes_on_in_more_passes_with_the_same_result(fit, monkeypatch, error):
    settings = replace(SETTINGS, batch=4)
    expected = tensors(fit(replace(settings, accumulate=4)))
    sizes = limited(monkeypatch, 1, error)
    steps = fit(settings)
    assert sizes == [4, 2] + [1] * 4 * settings.steps
    assert all(torch.equal(found, expected[name]) for name, found in tensors(steps).items())
    assert [step.text for step in steps if step.kind == "note"] == [
        "Memory ran out; from here on a step is split into 4 passes."
    ]


def test_a_single_image_that_does_not_fit_is_an_error_that_names_what_keeps_the_recipe(fit, monkeypatch):
    limited(monkeypatch, 0, MemoryError())
    with pytest.raises(ResourceError, match="a single image") as told:
        fit()
    assert "--checkpointing" in told.value.hint
    assert not {"--batch", "--resolution"} & set(told.value.hint.split())


def test_another_error_of_a_step_is_not_taken_for_memory(fit, monkeypatch):
    limited(monkeypatch, 0, RuntimeError("shapes cannot be multiplied"))
    with pytest.raises(RuntimeError, match="multiplied"):
        fit()


def test_a_row_that_no_caption_names_is_no_success(fit):
    with pytest.raises(TrainingError, match="changed nothing in the learned row 1"):
        fit(replace(SETTINGS, steps=2), concepts=(subject("dog"),))


# ---------------------------------------------------------------- previews


def test_previews_come_at_the_start_at_checkpoints_and_at_the_end(fit, loaded):
    steps = fit(replace(SETTINGS, save_every=3, lr=2e-2), previews=["a V* dog", "the beach"])
    shown = [step for step in steps if step.kind == "preview"]
    assert [step.step for step in shown] == [0, 3, 4]
    assert all(len(step.images) == 2 and step.images[0].shape == (16, 16, 3) for step in shown)
    assert (shown[0].images[0] != shown[-1].images[0]).any()
    quiet = tensors(fit(replace(SETTINGS, save_every=3, lr=2e-2)))
    assert all(torch.equal(tensor, quiet[name]) for name, tensor in tensors(steps).items())
