"""Batches drawn ahead of the training that needs them, by other processes where a GPU leaves the CPUs idle."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

import torch

if TYPE_CHECKING:
    from collections.abc import Iterator

Made = TypeVar("Made")


class Updates(torch.utils.data.IterableDataset[Any]):
    """The batches of all updates from one on, shared out among worker processes in turn."""

    def __init__(self, make: Callable[[int], Any], first: int) -> None:
        """`make` draws the batch of an update."""
        self.make, self.first = make, first

    def __iter__(self) -> Iterator[Any]:
        """Every so many of them, as many as there are workers."""
        worker = torch.utils.data.get_worker_info()
        update, step = (self.first + worker.id, worker.num_workers) if worker else (self.first, 1)
        while True:
            yield self.make(update)
            update += step


def workers() -> int:
    """How many processes should draw: none where the CPU is what trains."""
    return max(1, (os.cpu_count() or 1) - 2) if torch.cuda.is_available() else 0


def batches(make: Callable[[int], Made], count: int) -> Callable[[int], Made]:
    """`make`, its results prepared by `count` processes; to be asked for updates in their order."""
    if not count:
        return make
    running: list[Any] = []

    def following(update: int) -> Made:
        if not running:
            loader = torch.utils.data.DataLoader(
                Updates(make, update), batch_size=None, num_workers=count, collate_fn=_as_it_is
            )
            running.append(iter(loader))
        batch: Made = next(running[0])
        return batch

    return following


def _as_it_is(batch: Any) -> Any:
    return batch
