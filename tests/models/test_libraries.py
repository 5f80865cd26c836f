"""Libraries kept quiet: while it lasts, and as they were after it."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
import warnings

import pytest
from diffusers.utils import logging as diffusers_logging
from transformers.utils import logging as transformers_logging

from cdtool.models import libraries

BOTH = (diffusers_logging, transformers_logging)


def state():
    bars = [theirs.is_progress_bar_enabled() for theirs in BOTH]
    levels = [logging.getLogger(name).level for name in ("diffusers", "transformers", "torch")]
    return bars, levels, {name: os.environ.get(name) for name in libraries._ENVIRONMENT}, list(warnings.filters)


@pytest.fixture
def loud():
    """Bars on and loggers talkative, whatever other tests have left."""
    before = state()
    for theirs in BOTH:
        theirs.enable_progress_bar()
    logging.getLogger("diffusers").setLevel(logging.INFO)
    yield state()
    for theirs, on in zip(BOTH, before[0], strict=True):
        (theirs.enable_progress_bar if on else theirs.disable_progress_bar)()
    logging.getLogger("diffusers").setLevel(before[1][0])


def test_bars_logs_and_warnings_are_off_inside_and_as_before_after(loud):
    with pytest.raises(RuntimeError, match="inside"), libraries.quiet():
        assert not any(theirs.is_progress_bar_enabled() for theirs in BOTH)
        assert logging.getLogger("diffusers").level == logging.ERROR
        assert os.environ["TOKENIZERS_PARALLELISM"]
        raise RuntimeError("inside")
    assert state() == loud


def test_a_generator_is_quiet_only_while_it_runs(loud):
    closed = []

    @libraries.quietly()
    def steps(count):
        try:
            for number in range(count):
                yield number, [theirs.is_progress_bar_enabled() for theirs in BOTH]
        finally:
            closed.append(count)

    for _, bars in steps(2):
        assert bars == [False, False]
        assert state() == loud
    first = steps(5)
    next(first)
    first.close()
    assert closed == [2, 5]
    assert state() == loud


@pytest.mark.slow
def test_a_command_line_imports_neither_the_compiler_nor_other_models():
    code = """
import sys
from cdtool.models import libraries
libraries.alone = True
with libraries.quiet():
    from diffusers import AutoencoderKL, DDIMScheduler, UNet2DConditionModel
print([name for name in ("torch._dynamo", "transformers.modeling_utils", "peft", "sympy") if name in sys.modules])
import transformers, torch._dynamo
print(transformers.CLIPTextConfig().hidden_size, torch.compiler.disable.__module__)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split("\n")[:2] == ["[]", "512 torch.compiler"]
