"""A few hostile cases of every area, always the same ones; thousands in the slow tier."""

from __future__ import annotations

import pytest

from . import areas
from .areas import Ground, attack
from .places import PLACES

AREAS = areas.AREAS | PLACES

QUICK = ("imports", "prior sets", "records to replay", "photos and captions", "every option of every command",
         "answers and keys of studies")  # fmt: skip


@pytest.fixture(scope="module")
def ground(tmp_path_factory):
    return Ground(tmp_path_factory.mktemp("ground"))


def tried(ground, monkeypatch, name, cases, number):
    monkeypatch.setenv("CDTOOL_HOME", str(ground.home))
    ground.fallen.clear()
    attack(AREAS[name], ground, cases, number)
    assert ground.fallen == []


@pytest.mark.parametrize("name", QUICK)
def test_a_few_cases(ground, monkeypatch, name):
    tried(ground, monkeypatch, name, 2, 0)


@pytest.mark.slow
@pytest.mark.parametrize("name", AREAS)
def test_many_cases(ground, monkeypatch, name):
    tried(ground, monkeypatch, name, 1000, 1)


def test_a_fall_is_noticed(ground, monkeypatch):
    monkeypatch.setenv("CDTOOL_HOME", str(ground.home))
    monkeypatch.setattr("cdtool.store.registry.concepts", lambda: 1 / 0)
    ground.fresh()
    ground.fallen.clear()
    ground.run("list")
    assert len(ground.fallen) == 1
