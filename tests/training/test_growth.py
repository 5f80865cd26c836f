"""Two hundred trainings in one process: neither files nor memory nor open files grow."""

from __future__ import annotations

import os
import threading
from pathlib import Path

import pytest
import tiny_pipelines
from PIL import Image

from cdtool import settings
from cdtool.cli import main


def files():
    return sorted(path.relative_to(settings.data_dir()).as_posix() for path in settings.data_dir().rglob("*"))


def resident():
    """Bytes of memory that this process holds now."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="memory is read from /proc")
def test_nothing_grows_over_two_hundred_trainings(tmp_path, capfd):
    base = tiny_pipelines.sd(tmp_path / "base")
    Image.new("RGB", (40, 40), (200, 30, 30)).save(tmp_path / "photo.png")
    words = ["train", str(tmp_path / "photo.png"), "--token", "V* cat", "--base", str(base), "--device", "cpu",
             "--prior", "none", "--steps", "2", "--batch", "2", "--name", "new", "--force"]  # fmt: skip
    seen = {}
    for number in range(1, 201):
        assert main(words) == 0, capfd.readouterr().err
        capfd.readouterr()
        if number in (60, 200):  # the first ones fill caches and the allocator's pools
            seen[number] = files(), len(os.listdir("/proc/self/fd")), threading.active_count(), resident()
    (names, handles, threads, before), (*rest, after) = seen[60], seen[200]
    assert rest == [names, handles, threads]
    assert after - before < 16_000_000, f"{(after - before) / 1e6:.1f} MB in 140 trainings"
