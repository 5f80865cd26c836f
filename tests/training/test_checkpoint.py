"""Checkpoints: whole or not at all, and only for the run they are of."""

from __future__ import annotations

import errno

import pytest
import torch

from cdtool.errors import InputError, ResourceError
from cdtool.training import checkpoint

CPU = torch.device("cpu")


def test_a_checkpoint_comes_back(tmp_path):
    path = tmp_path / "checkpoints" / "dog.pt"
    checkpoint.save(path, {"identity": "run", "step": 3, "parameters": [torch.arange(4.0)]})
    state = checkpoint.load(path, "run", CPU)
    assert state["step"] == 3
    assert torch.equal(state["parameters"][0], torch.arange(4.0))
    with pytest.raises(InputError, match="other photos"):
        checkpoint.load(path, "another run", CPU)


@pytest.mark.parametrize("error", [OSError(errno.ENOSPC, "No space left"), RuntimeError("PytorchStreamWriter failed")])
def test_a_full_disk_keeps_the_checkpoint_before(tmp_path, monkeypatch, error):
    path = tmp_path / "dog.pt"
    checkpoint.save(path, {"identity": "run", "step": 1})

    def full(state, target):
        target.write_bytes(b"half")
        raise error

    monkeypatch.setattr(torch, "save", full)
    with pytest.raises(ResourceError) as caught:
        checkpoint.save(path, {"identity": "run", "step": 2})
    assert caught.value.exit_code == 5
    monkeypatch.undo()
    assert checkpoint.load(path, "run", CPU)["step"] == 1
    assert [file.name for file in tmp_path.iterdir()] == ["dog.pt"]


def test_code_in_a_checkpoint_is_not_run(tmp_path):
    class Trap:
        def __reduce__(self):
            return (print, ("it ran",))

    torch.save({"identity": "run", "trap": Trap()}, tmp_path / "dog.pt")
    with pytest.raises(InputError, match="cannot be read"):
        checkpoint.load(tmp_path / "dog.pt", "run", CPU)
