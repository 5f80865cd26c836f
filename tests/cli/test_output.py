"""The sink: what goes to stdout and what to stderr in each mode; progress; questions."""

from __future__ import annotations

import io
import json
import sys

import pytest

from cdtool.cli import output
from cdtool.cli.output import Output
from cdtool.errors import InterruptedRun, UsageError


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.mark.parametrize(
    ("mode", "out", "err"),
    [
        ("human", "dog\nA   B\nx   1\nyy  2\n", "talk\nWarning: care\n"),
        ("quiet", "dog\nx\nyy\n", "Warning: care\n"),
        ("json", '{"schema": 1, "name": "dog"}\n{"schema": 1, "rows": 2}\n', "talk\nWarning: care\n"),
    ],
)
def test_modes(capsys, mode, out, err):
    sink = Output(mode)
    sink.result("dog", {"name": "dog"})
    sink.table(("A", "B"), [("x", "1"), ("yy", "2")], {"rows": 2})
    sink.talk("talk")
    sink.warn("care")
    assert capsys.readouterr() == (out, err)


def test_an_empty_table_has_no_head(capsys):
    Output().table(("A", "B"), [], {})
    assert capsys.readouterr().out == ""


def test_facts(capsys):
    Output().facts({"name": "dog", "tokens": "V* dog"}, {})
    assert capsys.readouterr().out == "name    dog\ntokens  V* dog\n"


ROW = ("a-long-name", "textual-inversion", "V1 dog, V2 moongate", "2026-11-25 00:15", "text 1.234 image 0.567")


@pytest.mark.parametrize("width", [40, 60, 80, 200])
def test_tables_fit_the_terminal_and_break_between_words(monkeypatch, width):
    screen = Terminal()
    monkeypatch.setattr(sys, "stdout", screen)
    monkeypatch.setenv("COLUMNS", str(width))
    Output().table(("NAME", "KIND", "TOKENS", "CREATED", "SCORE"), [ROW, ("dog", "kv", "[V*] dog", "", "")], {})
    lines = screen.getvalue().splitlines()
    assert max(map(len, lines)) <= width
    for word in " ".join(ROW).replace(",", "").split():
        assert word in screen.getvalue()
    assert "[V*] dog" in screen.getvalue()
    assert (len(lines) == 3) == (width == 200)
    assert ("NAME     a-long-name" in lines) == (width == 40)  # too narrow for columns


def test_long_facts_hang_under_their_name(monkeypatch):
    screen = Terminal()
    monkeypatch.setattr(sys, "stdout", screen)
    monkeypatch.setenv("COLUMNS", "30")
    Output().facts({"name": "dog", "settings": "steps 250, lr 8e-05, batch 8", "file": "/a/long/path/" + "x" * 30}, {})
    assert screen.getvalue().splitlines() == [
        "name      dog",
        "settings  steps 250, lr 8e-05, batch 8",
        "file      /a/long/path/" + "x" * 30,
    ]


def test_tables_in_a_pipe_have_a_line_for_each_row(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "40")
    Output().table(("NAME", "KIND", "TOKENS", "CREATED", "SCORE"), [ROW], {})
    assert len(capsys.readouterr().out.splitlines()) == 2


def test_json_takes_any_value(capsys, tmp_path):
    Output("json").result("", {"path": tmp_path, "odd": "\udcff", "word": "ü"})
    table = json.loads(capsys.readouterr().out)
    assert table == {"schema": output.SCHEMA, "path": str(tmp_path), "odd": "\udcff", "word": "ü"}


def test_the_flags_exclude_each_other():
    assert [output.sink().mode, output.sink(json=True).mode, output.sink(quiet=True).mode] == ["human", "json", "quiet"]
    with pytest.raises(UsageError):
        output.sink(json=True, quiet=True)


@pytest.fixture
def clock(monkeypatch):
    """The time that progress reads, set by the test."""

    class Clock:
        now = 0.0

    monkeypatch.setattr(output.time, "monotonic", lambda: Clock.now)
    return Clock


def test_plain_progress(capsys, clock):
    def steps():
        for letter, now in zip("abcde", (1.0, 3.0, 6.5, 7.0, 10.0), strict=True):
            clock.now = now
            yield letter

    progress = Output().progress(steps(), 15, start=10, describe=lambda step: f"loss {step}")
    assert list(progress) == list("abcde")
    said = capsys.readouterr()
    assert said.out == ""
    # From the end of the first step on, a step takes (6.5 - 1) / 2 seconds.
    assert said.err.splitlines() == ["step 11/15  loss a", "step 13/15  loss c  eta 6s", "step 15/15  loss e"]


def test_steps_count_what_they_are_worth_and_keep_the_last_words(capsys, clock):
    def steps():
        for number in range(4):
            clock.now += 6
            yield number

    advance, words = {0: 5, 1: 0, 2: 5, 3: 10}, {1: "image 1"}
    list(Output().progress(steps(), 20, advance=advance.get, describe=lambda step: words.get(step, "")))
    assert capsys.readouterr().err.splitlines() == ["step 5/20", "step 10/20  image 1  eta 24s", "step 20/20  image 1"]


def test_no_estimate_before_it_means_something(clock):
    pace = output.Pace(100)
    told = []
    for seconds in (30, 0.5, 0.5, 0.5, 0.5):  # the first step holds the loading
        clock.now += seconds
        pace.count(1, "")
        told.append(pace.left())
    assert told == ["", "", "", "", "eta 48s"]


def test_quiet_progress(capsys):
    assert list(Output("quiet").progress([1, 2], 2)) == [1, 2]
    assert capsys.readouterr() == ("", "")


def test_a_bar_on_a_terminal(monkeypatch):
    screen = Terminal()
    monkeypatch.setattr(sys, "stderr", screen)
    monkeypatch.setenv("COLUMNS", "100")
    monkeypatch.setenv("TERM", "xterm")
    assert list(Output().progress(range(3), 3, label="step", describe=lambda step: f"[loss] {step}")) == [0, 1, 2]
    assert "3/3" in screen.getvalue()
    assert "[loss] 2" in screen.getvalue()


def test_steps_are_closed_with_the_progress():
    closed = []

    def steps():
        try:
            yield from range(9)
        finally:
            closed.append(True)

    progress = Output().progress(steps(), 9)
    next(progress)
    progress.close()
    assert closed


def test_yes_asks_nothing(monkeypatch):
    monkeypatch.setattr(sys, "stdin", None)
    Output().confirm("Remove dog?", yes=True)


def test_without_a_terminal_yes_is_needed(monkeypatch):
    monkeypatch.setattr(sys, "stdin", io.StringIO("y\n"))
    with pytest.raises(UsageError, match="Remove dog") as caught:
        Output().confirm("Remove dog?", yes=False)
    assert "--yes" in caught.value.hint


@pytest.mark.parametrize(("answer", "agreed"), [("y", True), ("YES ", True), ("n", False), ("", False), ("yep", False)])
def test_asking_on_a_terminal(monkeypatch, answer, agreed):
    screen = Terminal()
    monkeypatch.setattr(sys, "stdin", Terminal(answer + "\n"))
    monkeypatch.setattr(sys, "stderr", screen)
    if agreed:
        Output().confirm("Remove dog?", yes=False)
    else:
        with pytest.raises(InterruptedRun, match="Nothing was changed"):
            Output().confirm("Remove dog?", yes=False)
    assert screen.getvalue() == "Remove dog? [y/N] "


@pytest.mark.parametrize(
    ("count", "text"), [(0, "0 B"), (999, "999 B"), (1000, "1.0 kB"), (38_340_000, "38.3 MB"), (6.8e11, "680.0 GB")]
)
def test_sizes(count, text):
    assert output.size(count) == text


@pytest.mark.parametrize(
    ("seconds", "text"), [(-1, "0s"), (0.4, "0s"), (59.6, "1m 00s"), (200, "3m 20s"), (3900, "1h 05m")]
)
def test_durations(seconds, text):
    assert output.duration(seconds) == text


def test_what_steers_a_terminal_never_reaches_it(capsys):
    out = output.Output()
    out.table(("A", "B"), [("\x1b[31mred", "x\x07")], {})
    out.talk("one\x1b]0;title\ntwo\u202e")
    out.warn("\x9b")
    shown = capsys.readouterr()
    assert shown.out == "A         B\n\ufffd[31mred  x\ufffd\n"
    assert shown.err == "one\ufffd]0;title\ntwo\ufffd\nWarning: \ufffd\n"


def test_an_endless_line_of_talk_loses_its_middle_and_a_result_does_not(capsys):
    output.Output().talk("x" * 10_000_000)
    output.Output().result("y" * 10_000, {})
    shown = capsys.readouterr()
    assert len(shown.err) <= 2001
    assert shown.out == "y" * 10_000 + "\n"
