"""The layers of settings, where each value comes from, and what is refused."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import tomli

from cdtool import settings, sources
from cdtool.errors import SettingsError
from cdtool.settings import SampleSettings, TrainSettings
from cdtool.sources import resolve


def write(path, text):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def test_every_layer_wins_over_the_ones_below(tmp_path, home, monkeypatch):
    base = tmp_path / "base"
    layers = [
        ("default", lambda: None, 250),
        (str(base / "cdtool.toml"), lambda: write(base / "cdtool.toml", "[train]\nsteps = 10"), 10),
        (str(home / "config.toml"), lambda: write(home / "config.toml", "[train]\nsteps = 20"), 20),
        ("cdtool.toml", lambda: write(Path("cdtool.toml"), "[train]\nsteps = 30"), 30),
        ("CDTOOL_TRAIN_STEPS", lambda: monkeypatch.setenv("CDTOOL_TRAIN_STEPS", "40"), 40),
    ]
    for origin, arrange, steps in layers:
        arrange()
        chosen, found = resolve(TrainSettings, {"steps": None}, base)
        assert (chosen.steps, found["steps"].origin) == (steps, origin)
    chosen, found = resolve(TrainSettings, {"steps": 50}, base)
    assert (chosen.steps, found["steps"].origin) == (50, "flag")


def test_a_methods_settings_stand_between_the_bases_own_for_it_and_its_general_ones(tmp_path, home, monkeypatch):
    base = tmp_path / "base"
    layers = [
        ("default", lambda: None, {}, 8e-5),
        (f"{base / 'cdtool.toml'}", lambda: write(base / "cdtool.toml", "[train]\nlr = 1.0"), {}, 1.0),
        ("method full", lambda: None, {"method": "full"}, 8e-6),
        (
            f"{base / 'cdtool.toml'} [train.full]",
            lambda: write(base / "cdtool.toml", "[train]\nlr = 1.0\n[train.full]\nlr = 2.0"),
            {"method": "full"},
            2.0,
        ),
        (f"{home / 'config.toml'}", lambda: write(home / "config.toml", "[train]\nlr = 3.0"), {"method": "full"}, 3.0),
        ("cdtool.toml", lambda: write(Path("cdtool.toml"), "[train]\nlr = 4.0"), {"method": "full"}, 4.0),
        (
            "cdtool.toml [train.full]",
            lambda: write(Path("cdtool.toml"), "[train]\nlr = 4.0\n[train.full]\nlr = 5.0"),
            {"method": "full"},
            5.0,
        ),
        ("CDTOOL_TRAIN_LR", lambda: monkeypatch.setenv("CDTOOL_TRAIN_LR", "6"), {"method": "full"}, 6.0),
    ]
    for origin, arrange, flags, lr in layers:
        arrange()
        chosen, found = resolve(TrainSettings, flags, base)
        assert (chosen.lr, found["lr"].origin) == (lr, origin)
    like = ("like dog", {"lr": 7.0, "method": "full"})
    chosen, found = resolve(TrainSettings, {"seed": 1}, base, like=like)
    assert (chosen.lr, found["lr"].origin, chosen.method, chosen.steps) == (7.0, "like dog", "full", 500)
    assert resolve(TrainSettings, {"lr": 8.0}, base, like=like)[0].lr == 8.0


def test_the_method_itself_may_come_from_a_file():
    write(Path("cdtool.toml"), '[train]\nmethod = "dreambooth"')
    chosen, found = resolve(TrainSettings, {})
    assert (chosen.prior, chosen.freeze_token, chosen.augment) == ("generated", True, False)
    assert found["prior"].origin == "method dreambooth"


def test_flags_that_are_false_or_zero_count(home):
    write(home / "config.toml", "[train]\naugment = true\nseed = 7")
    chosen, _ = resolve(TrainSettings, {"augment": False, "seed": 0})
    assert (chosen.augment, chosen.seed) == (False, 0)


@pytest.mark.parametrize(
    ("name", "text", "value"),
    [
        ("CDTOOL_TRAIN_LR", "1e-4", 1e-4),
        ("CDTOOL_TRAIN_STYLE", "yes", True),
        ("CDTOOL_TRAIN_STYLE", "0", False),
        ("CDTOOL_TRAIN_PRECISION", "bf16", "bf16"),
    ],
)
def test_variables_are_converted(monkeypatch, name, text, value):
    monkeypatch.setenv(name, text)
    assert getattr(resolve(TrainSettings, {})[0], name.split("_", 2)[2].lower()) == value


@pytest.mark.parametrize(
    ("text", "says", "hint"),
    [
        ("[train]\nstep = 3", 'unknown setting "train.step"', "steps"),
        ("[trian]\nsteps = 3", 'unknown setting "trian"', "train"),
        ("train = 3", "is a table", "[train]"),
        ("[train", "not valid TOML", "line"),
        ("[train]\nsteps = 2.5", "must be a whole number", ""),
        ('[train]\nsteps = "many"', "must be a whole number", ""),
        ("[train]\nlr = nan", "must be a number", ""),
        ("[train]\nlr = 0", "above zero", ""),
        ("[train]\nbatch = 3", "half of it", "even --batch"),
        ("[train]\nbatch = 8\naccumulate = 3", "cannot be split", ""),
        ("[train]\nprior_weight = -1", "negative", ""),
        ('[train]\nprecision = "fp61"', 'cannot be "fp61"', "fp16"),
        ('[train]\nstyle = "perhaps"', "must be true or false", ""),
        ("[train]\nseed = [1]", "must be a whole number", ""),
        ("[train.ful]\nlr = 1", 'unknown setting "train.ful"', "full"),
        ("[train.full]\nlrr = 1", 'unknown setting "train.full.lrr"', "lr"),
        ('[train.full]\nmethod = "kv"', 'unknown setting "train.full.method"', ""),
        ("[train]\nfull = 1", '"train.full" is a table', "[train.full]"),
        ('[train]\nmethod = "ful"', 'cannot be "ful"', "full"),
        ("[train]\nrank = 0", "above zero", ""),
        ('[train]\ntoken_init = "rar"', 'cannot be "rar"', "rare"),
        ('[train]\ntoken_init = "word: "', "names no word", "word:dog"),
    ],
)
def test_bad_files(text, says, hint):
    write(Path("cdtool.toml"), text)
    with pytest.raises(SettingsError) as caught:
        resolve(TrainSettings, {})
    assert says in str(caught.value)
    assert hint in caught.value.hint


def test_an_odd_batch_is_good_without_a_prior():
    assert resolve(TrainSettings, {"batch": 3, "prior": "none"})[0].batch == 3


def test_a_settings_file_that_is_a_folder():
    Path("cdtool.toml").mkdir()
    with pytest.raises(SettingsError, match="cannot be read"):
        resolve(TrainSettings, {})


def test_a_misspelt_variable_is_an_error(monkeypatch):
    monkeypatch.setenv("CDTOOL_TRAIN_STEP", "3")
    with pytest.raises(SettingsError, match="CDTOOL_TRAIN_STEP") as caught:
        resolve(TrainSettings, {})
    assert "CDTOOL_TRAIN_STEPS" in caught.value.hint
    resolve(SampleSettings, {})


def test_a_base_file_may_offer_a_prior_and_an_encoder(tmp_path):
    write(tmp_path / "b" / "cdtool.toml", '[prior]\ncorpus = "c.tar"\n[eval]\nencoder = "eval"\n[sample]\nsteps = 9')
    assert resolve(SampleSettings, {}, tmp_path / "b")[0].steps == 9


def test_the_base_in_force(home, monkeypatch):
    assert sources.base_name() == sources.Value("mini", "default")
    write(home / "config.toml", 'base = "sd15"')
    assert sources.base_name().value == "sd15"
    write(Path("cdtool.toml"), 'base = "sd14"')
    assert sources.base_name() == sources.Value("sd14", "cdtool.toml")
    monkeypatch.setenv("CDTOOL_BASE", "sdxl")
    assert sources.base_name() == sources.Value("sdxl", "CDTOOL_BASE")
    assert sources.base_name("mini") == sources.Value("mini", "flag")


@pytest.mark.parametrize(
    "before",
    ["", "# mine\n", 'base = "old"\n', '# a\nbase = "old" # b\n[train]\nsteps = 3\n', "[train]\nsteps = 3\n"],
)
def test_choosing_a_base_changes_one_line(home, before):
    write(home / "config.toml", before)
    sources.write_base('a "b" \\ ü')
    text = (home / "config.toml").read_text()
    table = tomli.loads(text)
    assert table.pop("base") == 'a "b" \\ ü'
    old = tomli.loads(before)
    old.pop("base", None)
    assert table == old
    assert [line for line in before.splitlines() if "base" not in line] == [
        line for line in text.splitlines() if "base" not in line
    ]
    assert sources.base_name().value == 'a "b" \\ ü'


def test_choosing_a_base_leaves_a_broken_file_alone(home):
    path = write(home / "config.toml", "base = ")
    with pytest.raises(SettingsError):
        sources.write_base("mini")
    assert path.read_text() == "base = "


def test_names_of_earlier_versions_are_read(tmp_path, monkeypatch):
    (tmp_path / "cdtool.toml").write_text("[train]\nhold_empty = 0.25\n[train.lora]\nhold_empty = 0.5\n")
    monkeypatch.chdir(tmp_path)
    chosen, origins = resolve(TrainSettings, {})
    assert (chosen.preserve_uncond, origins["preserve_uncond"].origin) == (0.25, "cdtool.toml")
    assert resolve(TrainSettings, {"method": "lora"})[0].preserve_uncond == 0.5
    monkeypatch.setenv("CDTOOL_TRAIN_HOLD_EMPTY", "0.125")
    assert resolve(TrainSettings, {})[0].preserve_uncond == 0.125


@pytest.mark.parametrize(
    ("section", "line"),
    [("train", "batch = 1e308"), ("train", "batch = true"), ("train", "prior = [1]"), ("train", "steps = inf"),
     ("train", f"seed = {2**63}"), ("train", "resolution = 100000"), ("train", "lr = nan"), ("sample", "steps = 1001"),
     ("sample", "count = 1e9"), ("sample", 'size = "100000x64"'), ("sample", 'size = "²x64"'), ("sample", "size = 64"),
     ("sample", "seed = -1e300"), ("sample", "scheduler = [1]"), ("sample", f'scheduler = "{"x" * 100_000}"')],
)  # fmt: skip
def test_extreme_values_are_one_short_sentence(section, line):
    Path("cdtool.toml").write_text(f"[{section}]\n{line}\n")
    with pytest.raises(SettingsError) as caught:
        sources.resolve(settings.SECTIONS[section], {})
    assert len(str(caught.value)) < 300


@pytest.mark.parametrize("content", [b"a = " + b"[" * 100_000, b"\xff", b"a = 1\0", b"x = '" + b"y" * 10**6 + b"'",
                                     b"eval = 3", b"merge = []", b"prior = 'x'", b'"\x1b[31m" = 1'])  # fmt: skip
def test_files_that_are_no_settings(content):
    Path("cdtool.toml").write_bytes(content)
    with pytest.raises(SettingsError) as caught:
        sources.layers()
    assert len(str(caught.value)) < 500


def test_a_pipe_as_settings_file_is_not_waited_for():
    os.mkfifo("cdtool.toml")
    with pytest.raises(SettingsError, match="regular file"):
        sources.layers()
