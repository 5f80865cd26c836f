"""Several worker processes on one machine, one per GPU, and jobs of a SLURM cluster."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from cdtool.errors import InterruptedRun, ResourceError, UsageError
from cdtool.research import run as suites
from cdtool.research.recipes import GO_ON, Event
from cdtool.research.run import Plan
from cdtool.schema import whole_number
from cdtool.store import claims

POLL = 0.5  # s
RESTARTS = 3  # of workers that were killed, for each worker


def count_of(text: str) -> int:
    """How many workers "auto" or a number is: one per GPU, one on a CPU. Raises UsageError."""
    if text == "auto":
        import torch

        return max(1, torch.cuda.device_count())
    count = whole_number(text) or 0
    if not 1 <= count <= 10_000:
        raise UsageError(f'"{text}" is no number of workers.', "Like --workers 4, or --workers auto: one per GPU.")
    return count


def run(plan: Plan, command: Sequence[str], count: int, *, stop: Callable[[], bool] = lambda: False) -> Iterator[Event]:
    """Run `command` in `count` processes until every cell of a plan is finished or failed.

    A worker that is killed is replaced. The first event says how many cells remain. Each worker's output goes to
    OUT/logs. Raises InterruptedRun when asked to stop and ResourceError where all workers died.

    Args:
        plan: of the suite.
        command: the command line of one worker.
        count: of processes.
        stop: whether the user asked to stop.
    """
    todo = suites.unfinished(plan)
    yield Event("plan", total=len(todo), kept=len(plan.cells) - len(todo))
    if not todo:
        return
    logs, began, left = plan.out / "logs", time.time(), set(todo)
    for _ in run_processes(command, count, logs, wanted=lambda: bool(left), stop=stop):
        for cell in sorted(left):
            if event := suites.news(plan, cell, todo[cell], began):
                left.discard(cell)
                yield event
    yield from (event for cell in sorted(left) if (event := suites.news(plan, cell, todo[cell], began)))
    if any(suites.news(plan, cell, todo[cell], began) is None for cell in left):
        raise ResourceError(f"All workers of {plan.suite.name} ended early.", f"See {logs}.")


def run_processes(
    command: Sequence[str], count: int, logs: Path, *, wanted: Callable[[], bool], stop: Callable[[], bool]
) -> Iterator[None]:
    """Run a command in `count` processes until all have ended, yielding now and then.

    A process that is killed is replaced as long as one is `wanted`. Each one's output goes into a file in `logs`.
    Raises InterruptedRun when asked to stop; the processes then save what they can first.
    """
    logs.mkdir(parents=True, exist_ok=True)
    restarts = RESTARTS * count
    running = {index: _start(command, index, count, logs) for index in range(count)}
    try:
        while running:
            time.sleep(POLL)
            yield
            if stop():
                raise InterruptedRun("Stopped; what was running goes on next time.", GO_ON)
            for index, process in list(running.items()):
                code = process.poll()
                if code is not None and code < 0 and restarts and wanted():
                    restarts -= 1
                    running[index] = _start(command, index, count, logs)
                elif code is not None:
                    running.pop(index)
    finally:
        for process in running.values():
            process.terminate()
        for process in running.values():
            process.wait()


def _start(command: Sequence[str], index: int, count: int, logs: Path) -> subprocess.Popen[bytes]:
    with (logs / f"{claims.host()}-{index}.log").open("ab") as log:
        return subprocess.Popen(
            command, env=environment(index, count), stdout=log, stderr=log, start_new_session=True
        )  # fmt: skip  Ctrl-C is for us alone; they are asked once


def environment(index: int, count: int) -> dict[str, str]:
    """The environment of worker `index` of `count`: a GPU of its own, or its share of the cores of this machine."""
    import torch

    found = dict(os.environ)
    if gpus := torch.cuda.device_count():
        visible = os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",")
        found["CUDA_VISIBLE_DEVICES"] = visible[index % gpus] if visible != [""] else str(index % gpus)
    elif count > 1:
        found.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // count)))
    return found


def submit(command: Sequence[str], count: int, folder: Path, parameters: dict[str, Any], cluster: str | None) -> str:
    """Submit `count` jobs that each run `command`, as an array; returns their id. Raises ResourceError, UsageError.

    Args:
        command: the command line of one worker.
        count: of jobs.
        folder: for the scripts and logs.
        parameters: of submitit, such as timeout_min, slurm_partition, gpus_per_node.
        cluster: "slurm", "local" for this machine, or None for what is found.
    """
    try:
        import submitit
    except ImportError:
        raise ResourceError(
            "SLURM jobs need submitit, which is not installed.", 'pip install "cdtool[slurm]"'
        ) from None
    executor = submitit.AutoExecutor(folder=folder, cluster=cluster)
    try:
        executor.update_parameters(**parameters)
    except (NameError, TypeError, ValueError) as error:
        raise UsageError(f"--slurm-option: {error}.", "Like --slurm-option timeout_min=120.") from None
    function = submitit.helpers.CommandFunction(list(command))
    jobs = executor.map_array(lambda _: function(), range(count)) if count > 1 else [executor.submit(function)]
    return str(jobs[0].job_id).split("_")[0]
