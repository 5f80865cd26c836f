"""Answers counted as by hand, intervals computed another way, and files that cannot be right."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest

from cdtool.errors import InputError, NotFoundError
from cdtool.research import answers as preference
from cdtool.research.answers import Answers, Item, Key

ITEMS = tuple(
    Item(f"q{number}{question[0]}", question, number, f"prompt {number}", f"pa{number}", f"pb{number}")
    for question in ("text", "photos")
    for number in range(3)
)
KEY = Key("study1", "mine", "theirs", 7, ITEMS, {"a": {"steps": 50}})


def answers(rater, picks):
    """One person's answers from a letter per item: a, b or - for cannot tell."""
    choices = {item.id: {"a": item.a, "b": item.b, "-": ""}[pick] for item, pick in zip(ITEMS, picks, strict=True)}
    return Answers(rater, choices)


def written(path, found, **changes):
    table = {
        "format": 1, "study": KEY.study, "rater": found.rater, "answers": found.choices,
        "check": preference.checksum(KEY.study, found),
    }  # fmt: skip
    path.write_text(json.dumps(table | changes))
    return path


def test_counts_and_shares_are_those_made_by_hand():
    found = preference.score(KEY, [answers("x", "aab--b"), answers("y", "a-babb")])
    text, photos = found["text"], found["photos"]
    assert (text.a, text.undecided, text.b) == (3, 1, 2)
    assert text.share == pytest.approx((3 + 0.5) / 6)
    assert (photos.a, photos.undecided, photos.b) == (1, 2, 3)
    assert photos.share == pytest.approx((1 + 1) / 6)
    assert 0 <= text.low < text.share < text.high <= 1


def crossing(distance, low, high):
    """Where a function that is negative at `low` and positive at `high` crosses zero, by halving."""
    for _ in range(80):
        middle = (low + high) / 2
        low, high = (middle, high) if distance(middle) < 0 else (low, middle)
    return low


@pytest.mark.parametrize(("wins", "count"), [(0, 5), (1, 8), (13, 20), (20, 20), (410, 800)])
def test_wilson_ends_where_the_score_test_begins_to_reject(wins, count):
    share, z = wins / count, 1.959963984540054

    def distance(value):
        return (share - value) ** 2 - z * z * value * (1 - value) / count

    low, high = preference.wilson(share, count)
    inside = share + (1e-6 if wins == 0 else -1e-6 if wins == count else 0)
    assert low == pytest.approx(0 if wins == 0 else crossing(distance, inside, 0), abs=1e-9)
    assert high == pytest.approx(1 if wins == count else crossing(distance, inside, 1), abs=1e-9)


def test_one_persons_decided_answers_make_the_plain_interval():
    values = [[1, 0, 1, 1, 0, 1, 1]]
    assert preference.interval(values) == pytest.approx((5 / 7, *preference.wilson(5 / 7, 7)))


def test_people_who_repeat_each_other_add_no_certainty():
    one = [1, 0, 1, 1, 0, 1, 1, 0]
    assert preference.interval([one, one, one]) == pytest.approx(preference.interval([one]))
    assert preference.interval([[1, 1]] * 9) == pytest.approx(preference.interval([[1, 1]]))


def test_independent_answers_add_certainty_and_people_at_odds_take_it():
    rng = np.random.default_rng(3)
    values = (rng.random((8, 40)) < 0.6).astype(float)
    _, low, high = preference.interval(values.tolist())
    _, one_low, one_high = preference.interval(values[:1].tolist())
    assert high - low < (one_high - one_low) / 2
    odds = [[1.0] * 40, [0.0] * 40, [1.0] * 40]
    _, low, high = preference.interval(odds)
    assert high - low > 0.6


def test_the_effective_number_is_the_smaller_of_both_ways():
    rng = np.random.default_rng(5)
    values = rng.choice([0, 0.5, 1], size=(5, 12), p=[0.3, 0.2, 0.5])
    share = values.mean()
    spreads = [values.mean(axis=0).var() / 12, values.mean(axis=1).var(ddof=1) / 5]
    count = min([share * (1 - share) / spread for spread in spreads] + [60])
    assert preference.interval(values.tolist()) == pytest.approx((share, *preference.wilson(share, count)))


def test_a_key_survives_its_file(tmp_path):
    path = preference.key_path(tmp_path / "pairs.html")
    assert path.name == "pairs.key.json"
    path.write_text(preference.key_text(KEY), encoding="utf-8")
    assert preference.read_key(path) == KEY


def test_answers_survive_their_file(tmp_path):
    found = answers("x", "ab-ab-")
    assert preference.read_answers(written(tmp_path / "a.json", found), KEY) == found


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lambda table: table | {"study": "other"}, "study other"),
        (lambda table: table | {"format": 99}, "no file that a study's page made"),
        (lambda table: [table], "no file that a study's page made"),
        (lambda table: {k: v for k, v in table.items() if k != "answers"}, "no file that a study's page made"),
        (lambda table: table | {"rater": "z"}, "changed after"),
        (lambda table: table | {"check": "00000000"}, "changed after"),
        (lambda table: table | {"answers": table["answers"] | {"q0t": "pb0"}}, "changed after"),
        (lambda table: table | {"answers": table["answers"] | {"q9t": "pb0"}}, "changed after"),
    ],
)
def test_bad_answers_get_one_sentence(tmp_path, spoil, words):
    path = written(tmp_path / "a.json", answers("x", "aaaaaa"))
    path.write_text(json.dumps(spoil(json.loads(path.read_text()))))
    with pytest.raises(InputError, match=words) as caught:
        preference.read_answers(path, KEY)
    assert str(path) in str(caught.value)
    assert caught.value.hint


def test_a_file_cut_short_or_unfinished_is_refused(tmp_path):
    path = written(tmp_path / "a.json", answers("x", "aaaaaa"))
    path.write_text(path.read_text()[:60])
    with pytest.raises(InputError, match="cut short"):
        preference.read_answers(path, KEY)
    found = answers("x", "aaaaaa")
    some = replace(found, choices=dict(list(found.choices.items())[:2]))
    with pytest.raises(InputError, match="2 of 6"):
        preference.read_answers(written(path, some), KEY)
    with pytest.raises(NotFoundError):
        preference.read_answers(tmp_path / "lost.json", KEY)


def test_a_choice_of_a_picture_that_was_not_shown_is_refused(tmp_path):
    found = answers("x", "aaaaaa")
    found.choices["q0t"] = "pa1"
    with pytest.raises(InputError, match="changed after"):
        preference.read_answers(written(tmp_path / "a.json", found), KEY)


def test_the_same_person_twice_is_refused(tmp_path):
    paths = [written(tmp_path / f"{name}.json", answers("x", "aaaaaa")) for name in "ab"]
    with pytest.raises(InputError, match=r"b\.json is by the same person as .*a\.json"):
        preference.read_all(paths, KEY)
    with pytest.raises(InputError, match="no answers"):
        preference.score(KEY, [])


def test_the_key_is_found_beside_the_answers_or_here(tmp_path, monkeypatch):
    folder = tmp_path / "downloads"
    folder.mkdir()
    path = written(folder / "a.json", answers("x", "aaaaaa"))
    (folder / "broken.key.json").write_text("{")
    (folder / "other.key.json").write_text(preference.key_text(replace(KEY, study="other")))
    with pytest.raises(NotFoundError, match="study1"):
        preference.find_key(path)
    (tmp_path / "s.key.json").write_text(preference.key_text(KEY))
    monkeypatch.chdir(tmp_path)
    assert preference.find_key(path) == KEY


@pytest.mark.parametrize("text", ["{}", "[]", '{"format": 1}', '{"format": 1, "items": [{"id": 3}]}', "no"])
def test_what_is_no_key_is_refused(tmp_path, text):
    path = tmp_path / "a.key.json"
    path.write_text(text)
    with pytest.raises(InputError, match=r"key|cut short"):
        preference.read_key(path)
