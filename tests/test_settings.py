"""Settings: defaults of their own kinds, ranges, folders."""

from __future__ import annotations

from dataclasses import fields
from typing import get_args

import pytest

from cdtool import settings
from cdtool.errors import SettingsError
from cdtool.methods import METHODS
from cdtool.settings import SampleSettings, TrainSettings
from cdtool.sources import resolve


@pytest.mark.parametrize("text", ["768x512", "64X64"])
def test_sizes(text):
    assert settings.parse_size(text) == tuple(int(side) for side in text.lower().split("x"))


@pytest.mark.parametrize("text", ["768", "x", "768x", "0x64", "-8x8", "axb", "1x2x3"])
def test_bad_sizes(text):
    with pytest.raises(SettingsError, match="not a size"):
        resolve(SampleSettings, {"size": text})


def test_home_moves_everything(home, monkeypatch):
    assert settings.data_dir() == home
    assert settings.cache_dir().parent == home
    assert settings.config_file().parent == home
    monkeypatch.delenv("CDTOOL_HOME")
    assert home not in (settings.data_dir(), settings.cache_dir().parent, settings.config_file().parent)


def test_every_setting_has_a_default_of_its_own_kind():
    for cls in settings.SECTIONS.values():
        chosen, found = resolve(cls, {})
        assert chosen == cls()
        assert set(found) == {field.name for field in fields(cls)}
        assert {value.origin for value in found.values()} == {"default"}


def test_every_method_is_a_choice_with_settings_that_exist():
    assert get_args(settings.Method) == tuple(METHODS)
    for method, row in METHODS.items():
        assert set(row.defaults) <= {field.name for field in fields(TrainSettings)} - {"method"}
        assert resolve(TrainSettings, {"method": method})[0].method == method


def test_what_was_no_setting_once_leaves_no_trace_where_it_is_not_used():
    assert not {"token_lr", "compile", "memory"} & settings.recorded(TrainSettings()).keys()
    assert settings.recorded(TrainSettings(token_lr=1e-3))["token_lr"] == 1e-3
