"""Trained weights in files small enough to travel: between machines, and from one sitting to the next."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from cdtool.mini.factory.loop import write

if TYPE_CHECKING:
    from torch import Tensor

MOST = 12_000_000  # bytes of a file's weights
AVERAGED = ("vae", "student", "decoder", "judge")  # trainings whose moving average is kept


def keep(folder: Path, name: str) -> list[Path]:
    """Write the moving average of the training `folder/name.pt` as bfloat16 into `folder/kept/name-N.pt`."""
    state = torch.load(folder / f"{name}.pt", map_location="cpu", weights_only=True, mmap=True)
    (folder / "kept").mkdir(exist_ok=True)
    for old in (folder / "kept").glob(f"{name}-*.pt"):
        old.unlink()
    made = []
    for number, part in enumerate(_parts(state["average"])):
        made.append(folder / "kept" / f"{name}-{number}.pt")
        write({"update": state["update"], "pictures": state.get("pictures", 0), "weights": part}, made[-1])
    return made


def _parts(weights: Mapping[str, Tensor]) -> Iterator[dict[str, Tensor]]:
    part: dict[str, Tensor] = {}
    size = 0
    for name, one in weights.items():
        if size + 2 * one.numel() > MOST and part:
            yield part
            part, size = {}, 0
        part[name] = one.to(torch.bfloat16).clone()
        size += 2 * one.numel()
    yield part


def restore(folder: Path, name: str) -> None:
    """Begin the training `folder/name.pt`, where there is none, from what was kept of it, if anything was."""
    parts = sorted((folder / "kept").glob(f"{name}-*.pt"))
    if not parts or (folder / f"{name}.pt").exists():
        return
    weights: dict[str, Tensor] = {}
    state: dict[str, Any] = {}
    for path in parts:
        state = torch.load(path, map_location="cpu", weights_only=True)
        weights |= {key: one.float() for key, one in state["weights"].items()}
    seen = {"pictures": state["pictures"]} if state["pictures"] else {}
    write({"model": weights, "average": weights, "update": state["update"], **seen}, folder / f"{name}.pt")
