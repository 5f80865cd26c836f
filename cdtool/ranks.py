"""The processes that train together, through accelerate's reading of what torchrun or accelerate launch set up."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from dataclasses import dataclass


@dataclass(frozen=True)
class Ranks:
    """This process among those that train together."""

    rank: int = 0
    world: int = 1


ALONE = Ranks()


def launched() -> bool:
    """Whether a launcher started this process as one of several."""
    return int(os.environ.get("WORLD_SIZE", "1")) > 1


def leads() -> bool:
    """Whether this process speaks for its group, told before it joins."""
    return int(os.environ.get("RANK", "0")) == 0


@contextlib.contextmanager
def joined(device: str = "auto") -> Iterator[Ranks]:
    """While open, this process belongs to its group: nccl on GPUs, gloo on CPUs; alone, nothing happens."""
    if not launched():
        yield ALONE
        return
    import torch
    from accelerate import PartialState

    state = PartialState(cpu=device == "cpu" or not torch.cuda.is_available())
    try:
        yield Ranks(state.process_index, state.num_processes)
    finally:
        state.destroy_process_group()
