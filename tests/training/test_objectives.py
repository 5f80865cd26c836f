"""Terms beside the photos' loss, against their formulas; focus; and the priors that need no class images."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from cdtool import settings
from cdtool.errors import SettingsError, UsageError
from cdtool.models import adapter, diffusion, initializers, pipelines, text
from cdtool.priors import captions
from cdtool.sampling import sample
from cdtool.settings import TrainSettings
from cdtool.store import registry
from cdtool.store.concept import BaseRef, Manifest
from cdtool.tokens import Token, bind
from cdtool.training import batches, job, loop, loss, objectives, optimizer_step, trainable
from cdtool.training.batches import ConceptImages, Example

SETTINGS = TrainSettings(steps=4, batch=4, lr=1e-3, precision="fp32", crops=2, save_every=100, seed=11)


def picture(seed):
    small = np.random.default_rng(seed).integers(0, 256, (3, 3, 3), dtype=np.uint8)
    return Image.fromarray(small).resize((64, 64), Image.Resampling.BICUBIC)


def subject(priors=4):
    photos = (Example("photo of a V* dog", lambda n=n: picture(n), f"{n}") for n in range(3))
    return ConceptImages(tuple(photos), tuple(Example("a dog", lambda n=n: picture(50 + n)) for n in range(priors)))


ALONE = (subject(priors=0),)
TOKENS = (Token("dog"),)


@pytest.fixture
def base(sd_base, tmp_path, monkeypatch):
    """The tiny base with three regularization captions."""
    (tmp_path / "few.txt").write_text("photo of a dog\na cat on the beach\nthe beach\n")
    monkeypatch.setattr(captions, "SHIPPED", tmp_path / "few.txt")
    return pipelines.load(str(sd_base), precision="fp32", device="cpu")


def fit(base, settings, tmp_path, concepts=ALONE, tokens=TOKENS):
    tokens = initializers.assign(base.tokenizers, tokens)
    return list(loop.fit(base, concepts, tokens, settings, checkpoint=tmp_path / "run.pt"))


def scene(base, made, settings, tokens):
    texts, kept = loss.Texts(base, tokens, made.rows), objectives.known(base, settings)
    return objectives.scene(base, settings, tokens, 0, made, texts, kept)


def moved(made, seed=2):
    """Change all trained K/V by random numbers; returns the changes."""
    draw = torch.Generator().manual_seed(seed)
    changes = {name: 0.1 * torch.randn(module.weight.shape, generator=draw) for name, module in made.modules.items()}
    with torch.no_grad():
        for name, module in made.modules.items():
            module.weight += changes[name]
    return changes


def encoded(base, prompt, tokens=(), rows=((),)):
    with torch.no_grad():
        return text.encode(base, [text.tokenize(base, bind(prompt, tokens), tokens)], rows).features[0]


# ---------------------------------------------------------------- terms


def test_the_captions_term_is_the_mean_change_of_their_keys_and_values(base):
    settings = replace(SETTINGS, prior="text")
    tokens = initializers.assign(base.tokenizers, TOKENS)
    with trainable.attached(base, tokens, settings) as made:
        own = scene(base, made, settings, tokens)
        assert float(objectives._captions(own).detach()) == 0.0
        changes = moved(made)
        found = float(objectives._captions(own).detach())
    stats = captions.known(base, captions.read(captions.SHIPPED))
    features = torch.cat([encoded(base, line) for line in captions.read(captions.SHIPPED)]).double()
    torch.testing.assert_close(stats.moment[:-1, :-1], features.T @ features / len(features), rtol=1e-4, atol=1e-5)
    shares = [(features @ change.double().T).square().sum() / (features @ base.kv[name].double().T).square().sum()
              for name, change in changes.items()]  # fmt: skip
    assert found == pytest.approx(objectives.TEXT_SCALE * float(torch.stack(shares).mean()), rel=1e-3)


def test_held_directions_are_no_part_of_the_captions_term(base):
    settings = replace(SETTINGS, prior="text", preserve_uncond=0.05)
    tokens = initializers.assign(base.tokenizers, TOKENS)
    with trainable.attached(base, tokens, settings) as made:
        moved(made)
        own = scene(base, made, settings, tokens)
        found = float(objectives._captions(own).detach())
        changes = {name: module.change().detach() for name, module in made.modules.items()}
    features = torch.cat([encoded(base, line) for line in captions.read(captions.SHIPPED)])
    shares = [(features @ change.T).square().sum() / (features @ base.kv[name].float().T).square().sum()
              for name, change in changes.items()]  # fmt: skip
    assert found == pytest.approx(objectives.TEXT_SCALE * float(torch.stack(shares).mean()), rel=1e-3)


def test_the_lock_is_the_distance_of_the_words_keys_from_the_nouns(base):
    settings = replace(SETTINGS, lock=1.0, token_init="class")
    tokens = initializers.assign(base.tokenizers, TOKENS)
    with trainable.attached(base, tokens, settings) as made:
        own = scene(base, made, settings, tokens)
        assert float(objectives._lock(own).detach()) < 1e-6  # the word begins as its noun, behind the same words
        changes = moved(made)
        found = float(objectives._lock(own).detach())
        rows = [[row.detach() for row in rows] for rows in made.rows]
    at = 1 + len(base.tokenizers[0]("photo of a", add_special_tokens=False)["input_ids"])
    c, aim = encoded(base, "photo of a V* dog", tokens, rows)[at], encoded(base, "photo of a dog")[at]
    keys = [(c @ (base.kv[name].float() + change).T - aim @ base.kv[name].float().T).abs().mean()
            for name, change in changes.items() if name.endswith("to_k")]  # fmt: skip
    assert found == pytest.approx(float(torch.stack(keys).mean()), rel=1e-4)


def test_the_alignment_is_of_the_ends_of_the_text(base):
    settings = replace(SETTINGS, align=1.0)
    tokens = initializers.assign(base.tokenizers, TOKENS)
    with trainable.attached(base, tokens, settings) as made:
        own = scene(base, made, settings, tokens)
        found = objectives._align(own)
        found.backward()
        gradient = made.rows[0][0].grad
        rows = [[row.detach() for row in rows] for rows in made.rows]
    eos = base.tokenizers[0].eos_token_id
    ends = [text.tokenize(base, bind(prompt, tokens), tokens).ids[0].index(eos, 1)
            for prompt in ("photo of a V* dog", "photo of a dog")]  # fmt: skip
    mine, theirs = encoded(base, "photo of a V* dog", tokens, rows)[ends[0]], encoded(base, "photo of a dog")[ends[1]]
    assert float(found.detach()) == pytest.approx(1 - float(torch.cosine_similarity(mine, theirs, dim=0)), abs=1e-5)
    assert gradient is not None
    assert bool(gradient.any())


def test_terms_count_once_a_step_in_however_many_passes(base, tmp_path):
    settings = replace(SETTINGS, prior="text", lock=0.5, align=0.5)
    one, two = (fit(base, replace(settings, accumulate=passes), tmp_path)[-1].tensors for passes in (1, 2))
    plain = fit(base, replace(settings, prior_weight=0.0, lock=0.0, align=0.0), tmp_path)[-1].tensors
    for name, tensor in one.items():
        torch.testing.assert_close(tensor.float(), two[name].float(), rtol=1e-2, atol=1e-4)
    assert any(not torch.allclose(tensor.float(), plain[name].float(), atol=1e-4) for name, tensor in one.items())


@pytest.mark.parametrize("flags", [{"prior": "text"}, {"prior": "self"}, {"focus": True, "lock": 1.0, "align": 1.0}])
def test_they_train_in_half_precision_too(sd_base, base, tmp_path, flags):
    half = pipelines.load(str(sd_base), precision="bf16", device="cpu")
    made = fit(half, replace(SETTINGS, precision="bf16", steps=2, **flags), tmp_path)[-1].tensors
    assert all(bool(tensor.isfinite().all()) for tensor in made.values())


# ---------------------------------------------------------------- priors without class images


def test_the_prior_of_captions_has_half_as_many_pictures_and_moves_captions_less(base, tmp_path):
    settings = replace(SETTINGS, prior="text", batch=4)
    samples = batches.samples_of(settings, ALONE, 0)
    assert [sample.is_class for sample in samples] == [False, False]
    held, free = (fit(base, replace(settings, steps=20, prior_weight=weight), tmp_path)[-1].tensors
                  for weight in (3.0, 0.0))  # fmt: skip
    features = torch.cat([encoded(base, line) for line in captions.read(captions.SHIPPED)])

    def change(tensors):
        return sum(float((features @ tensors[f"unet.{name}.weight"].float().T).square().sum()) for name in base.kv)

    assert change(held) < 0.5 * change(free)


def test_what_the_base_predicts_is_the_target_of_class_prompts(base, tmp_path):
    settings = replace(SETTINGS, prior="self", steps=3, lr=1e-2)
    samples = batches.samples_of(settings, ALONE, 0)
    assert [sample.is_class for sample in samples] == [False, False, True, True]
    steps = [event for event in fit(base, settings, tmp_path) if event.kind == "step"]
    assert steps[0].prior_loss == pytest.approx(0.0, abs=1e-12)  # nothing has changed yet
    assert steps[-1].prior_loss > 1e-9
    assert steps[0].loss > 0.01


@pytest.mark.parametrize("method", ["full", "lora"])
def test_the_frozen_base_is_the_base_whatever_is_trained(base, method):
    settings = replace(SETTINGS, method=method)
    tokens = initializers.assign(base.tokenizers, TOKENS)
    noisy, t = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(1)), torch.tensor([500])
    condition = text.encode(base, [text.tokenize(base, bind("photo of a dog", ()), ())])

    def predicted():
        with torch.no_grad():
            return diffusion.predict(base, noisy, t, condition, None)

    plain = predicted()
    with trainable.attached(base, tokens, settings) as made:
        with torch.no_grad():
            for part in made.parts:
                part.parameter.add_(0.1)
        with made.computing():
            assert not torch.allclose(predicted(), plain, atol=1e-3)
            with made.frozen():
                assert torch.equal(predicted(), plain)
            assert not torch.allclose(predicted(), plain, atol=1e-3)


def test_a_plain_word_is_kept_by_other_captions(base):
    settings = replace(SETTINGS, prior="self")
    tokens = (Token("dog", modifier=False),)
    kept = objectives.kept_prompts(base, tokens)
    assert [prompt.text for prompt in kept] == ["a cat on the beach", "the beach"]
    with trainable.attached(base, tokens, settings) as made:
        run = optimizer_step.prepare(base, settings, tokens, made, loop.ALONE, {}, True, 0)
        own, sample_ = bind("photo of a dog", tokens), batches.SampleIndex(2, True, 0, 0, 0)
        assert run.class_prompt(own, sample_, 0) in kept


# ---------------------------------------------------------------- focus


@pytest.mark.parametrize("method", ["kv", "lora"])
def test_a_focused_training_predicts_as_sampling_will(base, method):
    settings = replace(SETTINGS, focus=True, method=method, rank=2)
    tokens = initializers.assign(base.tokenizers, TOKENS)
    prompt = bind("photo of a V* dog on the beach", tokens)
    noisy, t = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(1)), torch.tensor([500])
    with trainable.attached(base, tokens, settings) as made:
        with torch.no_grad():
            for part in made.parts:
                part.parameter.add_(
                    0.05 * torch.randn(part.parameter.shape, generator=torch.Generator().manual_seed(3))
                )
        texts = loss.Texts(base, tokens, made.rows)
        made.focus.mask = texts.own_words([prompt])
        with torch.no_grad(), made.computing():
            training = diffusion.predict(base, noisy, t, texts.of([prompt]), None)
        tensors = trainable.changes(made)
    manifest = Manifest("dog", BaseRef(base.name, "sd", base.fingerprint), tokens, settings={"focus": True})
    sampler = sample.sampler(base, [registry.save(manifest, tensors)])
    encoded_prompt = sampler.encode(prompt)
    with torch.no_grad(), adapter.precomputed_kv(base) as give:
        give(sampler.keys_and_values(encoded_prompt.condition.features, encoded_prompt.share))
        sampling = diffusion.predict(base, noisy, t, encoded_prompt.condition, None)
    torch.testing.assert_close(training, sampling, rtol=1e-3, atol=1e-3)  # the file has fp16
    own = loss.Texts(base, tokens, ((),)).own_words([prompt])[0]
    assert encoded_prompt.share[0, :, 0].bool().tolist() == own.tolist()
    assert int(own.sum()) == 1 + len(base.tokenizers[0]("dog", add_special_tokens=False)["input_ids"])


def test_a_prompt_without_its_words_is_the_bases_own(base, tmp_path):
    made = fit(base, replace(SETTINGS, focus=True, prior="none"), tmp_path)[-1].tensors
    tokens = initializers.assign(base.tokenizers, TOKENS)
    manifest = Manifest("dog", BaseRef(base.name, "sd", base.fingerprint), tokens, settings={"focus": True})
    sampler = sample.sampler(base, [registry.save(manifest, made)])
    for prompt, differs in (("a dog on the beach", False), ("a V* dog", True)):
        one = sampler.encode(bind(prompt, tokens))
        found = sampler.keys_and_values(one.condition.features, one.share)
        plain = adapter.keys_and_values(base, adapter.ConceptWeights(), one.condition.features)
        assert any(not torch.equal(found[name], plain[name]) for name in found) == differs


def test_class_images_teach_a_focused_training_nothing(base, tmp_path):
    settings = replace(SETTINGS, focus=True, batch=4, steps=1)
    one, other = (fit(base, replace(settings, prior_weight=weight), tmp_path, (subject(),))[-1].tensors
                  for weight in (0.0, 5.0))  # fmt: skip
    assert all(torch.equal(tensor, other[name]) for name, tensor in one.items())


def test_focus_needs_no_class_images_and_says_what_it_cannot_do(sd_base, tmp_path):
    for name in "ab":
        picture(ord(name)).save(tmp_path / f"{name}.png")

    def asked(**flags):
        return job.job([tmp_path], ["V* dog"], name=None, base=str(sd_base), flags=flags).settings

    plain, focused = asked(), asked(focus=True)
    assert (focused.prior, focused.batch, focused.preserve_uncond) == ("none", plain.batch // 2, 0.0)
    assert focused.steps == plain.steps
    assert asked(focus=True, prior="text").prior == "text"
    for flags in ({"focus": True}, {"lock": 1.0}, {"prior": "text"}):
        with pytest.raises(UsageError, match="about keys and values"):
            asked(method="crossattn", **flags)


def test_settings_of_weights_are_not_negative():
    for name in ("lock", "align"):
        with pytest.raises(SettingsError, match="negative"):
            settings.check(replace(TrainSettings(), **{name: -1.0}))
