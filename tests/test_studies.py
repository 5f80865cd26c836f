"""Jobs checked without torch, and what the demo will run."""

from __future__ import annotations

import pipelines
import pytest

from cdtool import demo, registry, studies
from cdtool.errors import InputError, PhotoError, UsageError


@pytest.fixture
def job(tmp_path):
    """Make a job of photo folders: `job(["V* dog"], folders=1, steps=10)`."""

    def make(specs, folders=1, name=None, **flags):
        paths = [pipelines.photos(tmp_path / f"photos-{number}", count=number + 2) for number in range(folders)]
        return studies.job(paths, specs, name=name, base="tiny", base_folder=tmp_path, flags=flags)

    return make


def test_a_concept_is_called_by_its_nouns(job):
    assert job(["V* Teddy bear"]).name == "teddy-bear"
    assert job(["V1 dog", "V2 cat"], folders=2).name == "dog-cat"
    assert job(["V* dog"], name="rex").name == "rex"
    with pytest.raises(InputError):
        job(["V* dog"], name="no/name")


def test_steps_are_per_concept_and_half_of_them_without_prior(job):
    assert job(["V* dog"]).settings.steps == 250
    assert job(["V1 dog", "V2 cat"], folders=2).settings.steps == 500
    assert job(["V* dog"], prior="none").settings.steps == 125
    assert job(["V1 dog", "V2 cat"], folders=2, prior="none").settings.steps == 250
    assert job(["V* dog"], prior="none", steps=40).settings.steps == 40
    assert job(["V1 dog", "V2 cat"], folders=2, steps=40).settings.steps == 80


def test_one_token_takes_all_folders_and_several_take_one_each(job):
    assert [len(group) for group in job(["V* dog"], folders=2).groups] == [3]  # equal pictures count once
    assert [len(group) for group in job(["V1 dog", "V2 cat"], folders=2).groups] == [2, 3]
    with pytest.raises(UsageError, match="2 tokens need as many folders"):
        job(["V1 dog", "V2 cat"], folders=3)
    with pytest.raises(UsageError, match="no name"):
        job([])


def test_a_job_without_photos_is_refused(tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(PhotoError):
        studies.job([tmp_path / "empty"], ["V* dog"], name=None, base="tiny", base_folder=tmp_path, flags={})


def test_the_bases_own_defaults_count_below_the_flags(job, tmp_path):
    (tmp_path / "cdtool.toml").write_text("[train]\nsteps = 60\nlr = 0.01\n")
    assert job(["V* dog"]).settings.steps == 60
    assert job(["V* dog"], lr=0.5).settings.lr == 0.5


def test_the_demo_runs_commands_a_user_could_type(tmp_path):
    commands = demo.demo_commands(tmp_path / "out")
    assert [command[0] for command in commands] == ["sample", "train", "sample"] * 2 + ["list"]
    for command in commands:
        if command[0] == "train":
            registry.check_name(command[command.index("-o") + 1])
            assert command[command.index("--base") + 1] == "mini"
