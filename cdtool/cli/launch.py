"""Several training processes: started through torch's own launcher, their exit codes kept."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Sequence

from cdtool.errors import UsageError


def launch(count: int, arguments: Sequence[str]) -> int:
    """Run `cdtool` with `arguments` in `count` processes, one per GPU or on the CPU; the first failure's exit code.

    Raises UsageError where there are fewer GPUs than asked for.
    """
    import torch
    from torch.distributed.elastic.multiprocessing.api import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    if torch.cuda.is_available() and count > torch.cuda.device_count():
        raise UsageError(f"There are {torch.cuda.device_count()} GPUs here, not {count}.", "Lower --gpus.")
    logging.getLogger("torch.distributed").setLevel(logging.CRITICAL)
    config = LaunchConfig(
        min_nodes=1, max_nodes=1, nproc_per_node=count, rdzv_backend="c10d", rdzv_endpoint="localhost:0",
        run_id=f"cdtool-{os.getpid()}", max_restarts=0, monitor_interval=0.2, log_line_prefix_template="",
    )  # fmt: skip
    try:
        elastic_launch(config, sys.executable)("-m", "cdtool", *arguments)
    except ChildFailedError as error:
        codes = [failure.exitcode for failure in error.failures.values() if failure.exitcode > 0]
        return codes[0] if codes else 1
    except SignalException:
        return 130
    return 0
