"""Ctrl-C and SIGTERM: the same ending at any moment, whatever a library makes of it."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time

import pytest

from cdtool.cli import stopping
from cdtool.store import registry


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("swallow", [False, True])
def test_a_signal_ends_a_command_with_130_and_a_word(cdtool, monkeypatch, number, swallow):
    def interrupted():
        try:
            os.kill(os.getpid(), number)
        except KeyboardInterrupt:
            if swallow:
                raise ImportError("half imported") from None
            raise
        raise AssertionError("the signal did not arrive")

    monkeypatch.setattr(registry, "concepts", interrupted)
    before = [signal.getsignal(each) for each in (signal.SIGINT, signal.SIGTERM)]
    said = cdtool("list")
    assert (said.code, said.out, said.err) == (130, "", "Interrupted.\n")
    assert [signal.getsignal(each) for each in (signal.SIGINT, signal.SIGTERM)] == before


def test_work_that_saves_is_asked_first_and_ended_second():
    with stopping.interruptible() as came, stopping.asked_to_stop() as stop:
        assert not stop()
        os.kill(os.getpid(), signal.SIGTERM)
        assert stop()
        assert not came()
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGTERM)


def test_a_signal_that_python_drops_in_a_destructor_comes_again(cdtool, monkeypatch):
    class Struck:
        def __del__(self):
            os.kill(os.getpid(), signal.SIGTERM)
            for _ in range(1000):  # the handler runs between two of these
                pass

    def interrupted():
        struck = Struck()
        del struck
        time.sleep(10)
        raise AssertionError("the signal did not come again")

    monkeypatch.setattr(registry, "concepts", interrupted)
    before = sys.unraisablehook
    said = cdtool("list")
    assert (said.code, said.out, said.err) == (130, "", "Interrupted.\n")
    assert sys.unraisablehook is before


def test_sigterm_while_the_command_line_is_being_loaded_ends_with_the_same_word(tmp_path):
    """A module that the command line imports first waits until the signal came."""
    code = (
        "import os, signal, sys, types\n"
        "class Slow:\n"
        "    def find_spec(self, name, *_):\n"
        "        if name == 'cdtool.cli':\n"
        "            os.kill(os.getpid(), signal.SIGTERM)\n"
        "sys.meta_path.insert(0, Slow())\n"
        "from cdtool.__main__ import main\n"
        "sys.exit(main())\n"
    )
    done = subprocess.run([sys.executable, "-c", code, "list"], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (130, "Interrupted.\n")


@pytest.mark.slow
@pytest.mark.parametrize("words", [("compress", "dog", "-o", "x"), ("merge", "dog", "cat", "-o", "y"), ("doctor",)])
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_at_any_moment_of_a_process_of_its_own_ends_it_with_a_word(saved, words, number):
    """During the imports above all: they take most of these commands' time."""
    for name in ("dog", "cat"):
        saved(name)
    draw = random.Random(number)
    quiet = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore"}
    for _ in range(4):
        running = subprocess.Popen([sys.executable, "-m", "cdtool", *words], env=quiet, stdout=subprocess.PIPE,
                                   stderr=subprocess.PIPE, text=True)  # fmt: skip
        time.sleep(draw.uniform(0.5, 5))
        running.send_signal(number)
        _, told = running.communicate(timeout=120)
        assert running.returncode in (0, 4, 130, -number), told  # -number: before the interpreter was up
        assert "Traceback" not in told
        assert "Interrupted." in told or running.returncode != 130
