"""The processes that train together, through accelerate's reading of what torchrun or accelerate launch set up."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from cdtool.errors import UsageError

# What torchrun sets, and accelerate launch with GPUs; then what MPI does, through which it starts processes on CPUs.
_WORLD = ("WORLD_SIZE", "PMI_SIZE", "OMPI_COMM_WORLD_SIZE", "MV2_COMM_WORLD_SIZE")
_RANK = ("RANK", "PMI_RANK", "OMPI_COMM_WORLD_RANK", "MV2_COMM_WORLD_RANK")


@dataclass(frozen=True)
class Ranks:
    """This process among those that train together."""

    rank: int = 0
    world: int = 1


ALONE = Ranks()


def launched() -> bool:
    """Whether a launcher started this process as one of several."""
    return _number(_WORLD, 1) > 1


def leads() -> bool:
    """Whether this process speaks for its group, told before it joins."""
    return _number(_RANK, 0) == 0


def _number(names: Iterable[str], otherwise: int) -> int:
    return next((int(os.environ[name]) for name in names if name in os.environ), otherwise)


@contextlib.contextmanager
def distributed(device: str = "auto") -> Iterator[Ranks]:
    """While open, this process belongs to its group: nccl on GPUs, gloo on CPUs; alone, nothing happens.

    Raises UsageError where the launcher is one that only joins processes on CPUs, and they are to use GPUs.
    """
    if not launched():
        yield ALONE
        return
    import torch
    from accelerate import PartialState

    state = PartialState(cpu=device == "cpu" or not torch.cuda.is_available())
    if state.num_processes == 1:
        raise UsageError("Processes that MPI started train together on CPUs only.", "Start them with --gpus N.")
    try:
        yield Ranks(state.process_index, state.num_processes)
    finally:
        state.destroy_process_group()
