"""Ctrl-C and SIGTERM: the same ending at any moment, whatever a library makes of it."""

from __future__ import annotations

import os
import signal

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
