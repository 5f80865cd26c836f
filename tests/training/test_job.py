"""Trainings checked without torch: names, steps, what they go on from and whose settings they take over."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import tiny_pipelines

from cdtool.errors import ConceptError, InputError, PhotoError, SettingsError, TokenError, UsageError
from cdtool.methods import METHODS
from cdtool.store import registry
from cdtool.tokens import Token
from cdtool.training import job as jobs


@pytest.fixture(autouse=True)
def _resolution(monkeypatch):
    """The base folders here are empty."""
    monkeypatch.setattr(jobs.bases, "describe", lambda _: SimpleNamespace(resolution=64))


@pytest.fixture
def job(tmp_path):
    """Make a job of photo folders: `job(["V* dog"], folders=1, steps=10)`."""

    def make(specs, folders=1, name=None, start=None, like=None, **flags):
        paths = [tiny_pipelines.photos(tmp_path / f"photos-{number}", count=number + 2) for number in range(folders)]
        return jobs.job(paths, specs, name=name, base="tiny", base_folder=tmp_path, flags=flags, start=start, like=like)

    return make


def test_a_concept_is_called_by_its_nouns(job):
    assert job(["V* Teddy bear"]).name == "teddy-bear"
    assert job(["V1 dog", "V2 cat"], folders=2).name == "dog-cat"
    assert job(["V* dog"], name="rex").name == "rex"
    with pytest.raises(InputError):
        job(["V* dog"], name="no/name")


def test_steps_are_per_concept_and_half_of_them_without_prior(job):
    assert job(["V* dog"]).settings.steps == 250
    assert job(["V1 dog", "V2 cat"], folders=2).settings.steps == 500
    assert job(["V* dog"], prior="none").settings.steps == 125
    assert job(["V1 dog", "V2 cat"], folders=2, prior="none").settings.steps == 250
    assert job(["V* dog"], prior="none", steps=40).settings.steps == 40
    assert job(["V1 dog", "V2 cat"], folders=2, steps=40).settings.steps == 80


def test_one_token_takes_all_folders_and_several_take_one_each(job):
    assert [len(group) for group in job(["V* dog"], folders=2).groups] == [3]  # equal pictures count once
    assert [len(group) for group in job(["V1 dog", "V2 cat"], folders=2).groups] == [2, 3]
    with pytest.raises(UsageError, match="2 tokens need as many folders"):
        job(["V1 dog", "V2 cat"], folders=3)
    with pytest.raises(UsageError, match="no name"):
        job([])


def test_photos_are_checked_against_the_bases_own_resolution(tmp_path, monkeypatch):
    """A photo of less than a quarter of the resolution is no photo; whoever wants it can lower the resolution."""
    monkeypatch.setattr(jobs.bases, "describe", lambda _: SimpleNamespace(resolution=1024))
    folder = tiny_pipelines.photos(tmp_path / "dog", count=2)
    with pytest.raises(PhotoError, match="at least 256 are needed"):
        jobs.job([folder], ["V* dog"], name=None, base="tiny", base_folder=tmp_path, flags={})
    flags = {"resolution": 32}
    assert jobs.job([folder], ["V* dog"], name=None, base="tiny", base_folder=tmp_path, flags=flags).groups


def test_options_that_the_method_does_not_read_are_named(job, monkeypatch):
    (rank,) = job(["V* dog"], rank=4).warnings
    assert rank.startswith("--rank has no effect with --method kv")
    held = job(["V* dog"], preserve_uncond=0.1, rank=4, method="textual-inversion").warnings
    assert [text.split()[0] for text in held] == ["--rank", "--preserve-uncond"]
    assert job(["V* dog"], rank=4, preserve_uncond=0.1, method="lora").warnings == ()
    for method in ("kv", "crossattn", "full", "dreambooth"):
        assert job(["V* dog"], preserve_uncond=0.1, method=method).warnings == ()
    assert job(["V* dog"], preserve_uncond=0.0, method="textual-inversion").warnings == ()
    assert job(["V* dog"], token_lr=1e-3).warnings == ()
    for spec, more in (("moongate", {}), ("V* dog", {"freeze_token": True}), ("V* dog", {"method": "dreambooth"})):
        (unread,) = job([spec], token_lr=1e-3, **more).warnings
        assert unread.startswith("--token-lr has no effect")
    monkeypatch.setenv("CDTOOL_TRAIN_RANK", "4")  # for whichever method reads it
    assert job(["V* dog"]).warnings == ()


def test_what_is_unlikely_to_be_meant_is_warned_of(job, tmp_path):
    assert job(["V* dog"]).warnings == ()
    assert job(["V* dog"], lr=1e-3).warnings == ()
    (rate,) = job(["V* dog"], lr=5.0).warnings
    assert rate.startswith("The rate 5 is 62500 times the usual 8e-05")
    assert job(["V* dog"], lr=0.04, method="textual-inversion").warnings == ()
    one = tiny_pipelines.photos(tmp_path / "one", count=1)
    (single,) = jobs.job([one], ["V* dog"], name=None, base="tiny", base_folder=tmp_path, flags={}).warnings
    assert "single photo" in single


def test_a_setting_of_an_unknown_name_is_refused(job):
    with pytest.raises(SettingsError, match='no training setting "step"') as told:
        job(["V* dog"], step=3)
    assert "steps" in told.value.hint


def test_a_job_without_photos_is_refused(tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(PhotoError):
        jobs.job([tmp_path / "empty"], ["V* dog"], name=None, base="tiny", base_folder=tmp_path, flags={})


def test_the_bases_own_defaults_count_below_the_flags(job, tmp_path):
    (tmp_path / "cdtool.toml").write_text("[train]\nsteps = 60\nlr = 0.01\n")
    assert job(["V* dog"]).settings.steps == 60
    assert job(["V* dog"], lr=0.5).settings.lr == 0.5


# ---------------------------------------------------------------- methods


def test_a_method_brings_its_settings_and_flags_win(job):
    full = job(["V* dog"], method="full")
    assert (full.settings.steps, full.settings.lr, full.origins["lr"]) == (500, 8e-6, "method full")
    assert job(["V1 dog", "V2 cat"], folders=2, method="full").settings.steps == 1000
    words = job(["V* dog"], method="textual-inversion")
    assert (words.settings.steps, words.settings.prior, words.halved) == (5000, "none", False)
    assert job(["V* dog"], method="full", prior="none").settings.steps == 250
    assert job(["V* dog"], method="full", prior="none").halved
    booth = job(["V* dog"], method="dreambooth", steps=7)
    assert (booth.settings.steps, booth.settings.prior, booth.settings.freeze_token) == (7, "generated", True)


@pytest.mark.parametrize(("spec", "flags"), [("moongate", {}), ("V* dog", {"freeze_token": True})])
def test_textual_inversion_needs_a_word_to_learn(job, spec, flags):
    with pytest.raises(UsageError, match="learns a modifier token"):
        job([spec], method="textual-inversion", **flags)


# ---------------------------------------------------------------- going on


def test_going_on_appends_tokens(job, saved):
    work = job(["V2 cat"], start=saved("dog"))
    assert (work.name, work.earlier) == ("dog-cat", 1)
    assert [token.noun for token in work.tokens] == ["dog", "cat"]
    assert [token.noun for token in work.new] == ["cat"]
    assert work.tokens[0].initializer == "ktn"
    assert work.settings.steps == 250
    assert job(["V2 cat", "V3 bird"], folders=2, start=saved("dog-2")).settings.steps == 500
    assert job(["V* cat"], start=saved("rex"), name="both").name == "both"


@pytest.mark.parametrize(("spec", "error"), [("V1 cat", TokenError), ("V3 cat", TokenError), ("moongate", TokenError)])
def test_numbers_continue_and_plain_words_stay_apart(job, saved, spec, error):
    start = saved("gate", tokens=(Token("moongate", modifier=False),))
    with pytest.raises(error):
        job([spec], start=start)


@pytest.mark.parametrize(
    ("before", "method", "good"),
    [("kv", "full", True), ("merge", "kv", True), ("full", "full", True), ("full", "kv", False),
     ("dreambooth", "full", False), ("crossattn", "textual-inversion", False), ("kv", "lora", False)],
)  # fmt: skip
def test_which_methods_go_on_from_which(job, saved, before, method, good):
    start = saved("dog", method=before)
    if good:
        assert job(["V2 cat"], start=start, method=method).settings.method == method
        return
    with pytest.raises(UsageError) as caught:
        job(["V2 cat"], start=start, method=method)
    assert "--method" in caught.value.hint


def test_a_damaged_concept_is_nothing_to_go_on_from(job, saved):
    entry = registry.Concept("dog", saved("dog").path, None, 3, "It is cut short.")
    for way in ({"start": entry}, {"like": entry}):
        with pytest.raises(ConceptError, match="cut short"):
            job(["V* cat"], **way)


# ---------------------------------------------------------------- like another


def trained(saved, name="dog", tokens=1, **settings):
    settings = {"steps": 60 * tokens, "lr": 0.5, "method": "full", "prior": "none", "seed": 9} | settings
    nouns = ("dog", "cat", "bird")[:tokens]
    return saved(name, method="full", settings=settings, tokens=tuple(Token(noun) for noun in nouns))


def test_settings_are_taken_over_and_flags_win(job, saved):
    like = trained(saved)
    work = job(["V* cat"], like=like)
    chosen = work.settings
    assert (chosen.method, chosen.steps, chosen.lr, chosen.seed) == ("full", 60, 0.5, 9)
    assert not work.halved
    assert work.origins["lr"] == "like dog"
    assert job(["V* cat"], like=like, lr=0.25, method="kv").settings.lr == 0.25
    assert job(["V* cat"], like=like, method="kv").settings.method == "kv"


def test_steps_are_taken_over_per_token(job, saved):
    both = trained(saved, "both", tokens=2)
    assert job(["V* cat"], like=both).settings.steps == 60
    assert job(["V1 a", "V2 b", "V3 c"], folders=3, like=both).settings.steps == 180
    parents = ({"name": "both", "by": "train", "tokens": [{}, {}]},)
    after = saved("after", settings={"steps": 60, "lr": 1.0}, parents=parents, tokens=tuple(map(Token, "abc")))
    assert job(["V* cat"], like=after).settings.steps == 60


def test_what_was_not_trained_is_like_nothing(job, saved):
    for entry in (saved("pair", method="merge", settings={"steps": 1, "lr": 1.0}), saved("plain", settings={})):
        with pytest.raises(InputError, match="was not trained here"):
            job(["V* cat"], like=entry)


def test_the_base_is_the_flags_or_that_of_the_concept(saved):
    dog = saved("dog")
    registry.add_note("dog", base="elsewhere")
    assert jobs.base_name(None) == "mini"
    assert jobs.base_name("sd15", dog, None) == "sd15"
    assert jobs.base_name(None, dog, None) == jobs.base_name(None, None, dog) == "elsewhere"


def test_every_methods_defaults_pass_a_job(job):
    for method in METHODS:
        assert job(["V* dog"], method=method).settings.method == method
