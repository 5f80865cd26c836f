"""cdtool doctor."""

from __future__ import annotations

import json
import platform

import torch

from cdtool import __version__
from cdtool.cli import doctor


def test_doctor(cdtool, home):
    table = json.loads(cdtool("doctor", "--json").out)
    assert table["cdtool"] == __version__
    assert table["torch"] == torch.__version__
    assert table["python"] == platform.python_version()
    assert table["data_directory"]["path"] == str(home)
    assert table["data_directory"]["writable"] is True
    assert table["devices"][-1]["name"] == "cpu"
    assert len(table["devices"]) >= 1 + torch.cuda.device_count()
    assert table["cores"] >= 1
    assert not home.exists()


def test_it_says_what_auto_is_and_why(cdtool):
    said = cdtool("doctor")
    assert said.code == 0
    (precision,) = [line for line in said.out.splitlines() if line.startswith("precision")]
    table = doctor._precision()
    assert table["dtype"] in precision
    assert table["why"] in precision


def test_a_data_directory_that_cannot_be_written(cdtool, monkeypatch):
    monkeypatch.setattr(doctor, "_writable", lambda path: False)
    assert "NOT WRITABLE" in cdtool("doctor").out
