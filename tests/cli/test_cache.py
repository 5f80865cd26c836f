"""cdtool cache: what is kept, by kind, and how it goes."""

from __future__ import annotations

import json
import os

import pytest

from cdtool import cache
from cdtool.settings import cache_dir


@pytest.fixture
def kept():
    for kind, number in (("features", 3), ("latents", 2)):
        for index in range(number):
            path = cache_dir() / kind / "model" / str(index)
            assert cache.write(path, b"x" * 984)
            os.utime(path, (1000 + index,) * 2)


def test_list(cdtool, kept):
    assert cdtool("cache", "list").out.split("\n")[:3] == [
        "KIND      ENTRIES  SIZE",
        "features  3        3.0 kB",
        "latents   2        2.0 kB",
    ]
    assert json.loads(cdtool("cache", "list", "--json").out)["kinds"][1] == {
        "kind": "latents",
        "entries": 2,
        "bytes": 2000,
    }
    assert cdtool("cache", "list", "-q").out.split() == ["features", "latents"]


def test_prune(cdtool, kept):
    said = json.loads(cdtool("cache", "prune", "--max-size", "2KB", "--kind", "features", "--json").out)
    assert (said["removed"], said["bytes"]) == (1, 1000)
    assert not (cache_dir() / "features" / "model" / "0").exists()  # the one used longest ago
    assert cdtool("cache", "prune").code == 0
    assert cache.usage() == []
    assert cdtool("cache", "prune", "--kind", "x").code == 2
    assert cdtool("cache", "prune", "--max-size", "much").code == 2


def test_nothing_outside_the_cache_goes(cdtool, kept, tmp_path):
    (tmp_path / "precious").write_text("precious")
    (cache_dir() / "features" / "link").symlink_to(tmp_path)
    assert cdtool("cache", "prune").code == 0
    assert (tmp_path / "precious").exists()


def test_a_link_to_a_folder_outside_is_not_followed(cdtool, tmp_path):
    from cdtool.settings import cache_dir

    precious = tmp_path / "precious"
    precious.mkdir()
    (precious / "file").write_text("kept")
    cache_dir().mkdir(parents=True)
    (cache_dir() / "vae").symlink_to(precious)
    assert cdtool("cache", "prune").code == 0
    assert cdtool("cache", "prune", "--kind", "vae").code in (0, 2, 3)
    assert (precious / "file").read_text() == "kept"
