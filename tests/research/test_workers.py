"""One suite on several workers, some of them killed: the same tables, to the byte."""

from __future__ import annotations

import json
import os
import random
import signal
import sys
from dataclasses import asdict
from types import SimpleNamespace
from typing import ClassVar

import pytest
import suite_made

from cdtool.errors import InputError, UsageError
from cdtool.research import recipes, tables, workers
from cdtool.research import run as suites
from cdtool.store import claims

# A worker of the tests: the command's own run, measured with mean colours.
WORKER = """
import sys, time
sys.path.insert(0, {tests!r})
import pytest, suite_made
from pathlib import Path
from cdtool.research import run as suites
path, base, out = sys.argv[1:]
with pytest.MonkeyPatch.context() as patch:
    suite_made.see_colours(patch)
    for event in suites.run(suites.plan(suites.find(path), base=base, out=Path(out))):
        time.sleep(0.01)
"""


@pytest.fixture
def path(tmp_path, monkeypatch):
    suite_made.see_colours(monkeypatch)
    return suite_made.write(tmp_path)


def planned(path, base, out="out", **more):
    return suites.plan(suites.find(str(path)), base=str(base), out=path.parent / out, **more)


def written(plan):
    """The tables of a finished run, without what differs between two runs: seconds."""
    results = suites.results(plan)
    filled = tables.fill(plan.suite, plan.cells, results)
    scores = {name: [result["scores"], result["each"]] for name, result in sorted(results.items())}
    return tables.markdown(plan.suite, filled, "about") + json.dumps([asdict(t) for t in filled]) + json.dumps(scores)


def test_a_failed_cell_is_noted_and_the_others_go_on(path, wide_base, monkeypatch):
    ensure = recipes.ensure

    def broken(context, recipe, cell):
        if cell.id == "ours.dog":
            raise InputError("No such luck.", "Try again.")
        return ensure(context, recipe, cell)

    only = ("*.dog", "base.cat")
    plan = planned(path, wide_base, only=only)
    assert [one.state for one in suites.status(plan)] == ["waiting"] * 3
    monkeypatch.setattr(recipes, "ensure", broken)
    events = list(suites.run(plan))
    assert [(event.cell, event.told) for event in events if event.kind == "failed"] == [("ours.dog", "No such luck.")]
    states = {one.cell: (one.state, one.why) for one in suites.status(plan)}
    assert states["ours.dog"] == ("failed", "No such luck.")
    assert states["base.cat"][0] == "finished"
    monkeypatch.setattr(recipes, "ensure", ensure)
    assert [event.kind for event in suites.run(plan) if event.cell == "ours.dog"][-1] == "cell", "tried again"
    assert {one.state for one in suites.status(plan)} == {"finished"}


def test_what_another_worker_has_is_left_to_it(path, wide_base):
    plan = planned(path, wide_base, only=("base.*",))
    folder = plan.out / suites.CLAIMS
    folder.mkdir(parents=True)
    other = claims.Claim("base.dog", "elsewhere", 1, 0.0)
    claims._write(claims._path(folder, "base.dog"), asdict(other))
    run = suites.run(plan)
    assert [event.cell for event in (next(run), next(run), next(run), next(run))][1:] == ["base.cat"] * 3
    assert ("base.dog", "running", "elsewhere:1") in [(one.cell, one.state, one.worker) for one in suites.status(plan)]
    run.close()
    assert [claim.cell for claim in claims.claims(folder)] == ["base.dog"], "its own it gave back"


@pytest.mark.parametrize(("text", "count"), [("1", 1), ("3", 3)])
def test_workers_are_counted(text, count):
    assert workers.count_of(text) == count
    assert workers.count_of("auto") >= 1
    for wrong in ("0", "-1", "many"):
        with pytest.raises(UsageError, match="number of workers"):
            workers.count_of(wrong)


def test_each_worker_has_its_share_of_the_machine(monkeypatch):
    import torch

    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    monkeypatch.setattr(os, "cpu_count", lambda: 8)
    assert workers.environment(0, 4)["OMP_NUM_THREADS"] == "2"
    assert "OMP_NUM_THREADS" not in workers.environment(0, 1)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert [workers.environment(index, 3)["CUDA_VISIBLE_DEVICES"] for index in range(3)] == ["0", "1", "0"]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "5,7")
    assert [workers.environment(index, 2)["CUDA_VISIBLE_DEVICES"] for index in range(2)] == ["5", "7"]


@pytest.mark.slow
def test_any_number_of_workers_and_any_deaths_give_the_same_tables(path, wide_base, tmp_path, monkeypatch, home):
    plan = planned(path, wide_base, "one")
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    program = tmp_path / "worker.py"
    program.write_text(WORKER.format(tests=str(suite_made.__file__).rpartition(os.sep)[0]))
    texts, rng = [], random.Random(0)
    for number, deaths in ((1, 0), (2, 0), (4, 2)):
        monkeypatch.setenv("CDTOOL_HOME", str(tmp_path / f"home{number}"))
        plan = planned(path, wide_base, f"out{number}")
        command = [sys.executable, str(program), str(path), str(wide_base), str(plan.out)]
        started, start = [], workers._start

        def noted(*arguments, start=start, started=started):
            started.append(start(*arguments))
            return started[-1]

        monkeypatch.setattr(workers, "_start", noted)
        finished = []
        for event in workers.run(plan, command, number):
            finished += [event.cell] if event.kind == "cell" else []
            if deaths and len(finished) in (1, 3):
                running = [process for process in started if process.poll() is None]
                if running and len(started) < 4 + deaths:
                    os.kill(rng.choice(running).pid, signal.SIGKILL)
                    deaths -= 1
        monkeypatch.setattr(workers, "_start", start)
        assert sorted(finished) == sorted(suite_made.CELLS)
        assert not claims.claims(plan.out / suites.CLAIMS)
        texts.append(written(plan))
    assert texts[0] == texts[1] == texts[2]


class Cluster:
    """Stands in for submitit's executor: it runs the jobs at once, one after the other."""

    parameters: ClassVar = {}

    def __init__(self, folder, cluster):
        self.parameters["cluster"] = cluster

    def update_parameters(self, **given):
        if "nonsense" in given:
            raise NameError("no such parameter")
        self.parameters.update(given)

    def submit(self, function):
        function()
        return SimpleNamespace(job_id="7_0")

    def map_array(self, function, items):
        return [self.submit(lambda item=item: function(item)) for item in items]


def test_jobs_are_submitted_as_an_array(tmp_path, monkeypatch):
    submitit = pytest.importorskip("submitit")
    monkeypatch.setattr(submitit, "AutoExecutor", Cluster)
    done = tmp_path / "done"
    command = [sys.executable, "-c", f"open({str(done)!r}, 'a').write('x')"]
    assert workers.submit(command, 2, tmp_path, {"timeout_min": 1}, "slurm") == "7"
    assert done.read_text() == "xx"
    assert Cluster.parameters == {"cluster": "slurm", "timeout_min": 1}
    with pytest.raises(UsageError, match="slurm-option"):
        workers.submit(command, 1, tmp_path, {"nonsense": 1}, "slurm")
