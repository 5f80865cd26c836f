"""What people prefer: the key that unblinds a study, the answers its page hands back, and shares with intervals."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import NormalDist, fmean, pvariance, variance
from typing import Any, NoReturn

from cdtool.errors import InputError, NotFoundError
from cdtool.files import parse_json

FORMAT = 1  # of a key and of answers
KEY_SUFFIX = ".key.json"
LEVEL = 0.95
# The paper's two questions (4.3) in our words; a page asks all of one before the other.
QUESTIONS = {
    "text": "Which picture fits the text better?",
    "photos": "Which picture better shows what is in the photos?",
}
_AGAIN = "Ask for the file again, as the page saved it."


@dataclass(frozen=True)
class Item:
    """One question of a study: about which pair (from 0), and the ids under which a's and b's picture were shown."""

    id: str
    question: str
    pair: int
    prompt: str
    a: str
    b: str


@dataclass(frozen=True)
class Key:
    """What unblinds a study: its two subjects and which picture was whose; `shown` is how both were drawn."""

    study: str
    a: str
    b: str
    seed: int
    items: tuple[Item, ...]
    shown: dict[str, Any]


@dataclass(frozen=True)
class Answers:
    """One person's answers: for each item the chosen picture's id, or "" for "cannot tell"."""

    rater: str
    choices: dict[str, str]


@dataclass(frozen=True)
class Preference:
    """How often a, b and neither was chosen, and the share for a in [0, 1] with its 95% interval; ties are halved."""

    a: int
    b: int
    undecided: int
    share: float
    low: float
    high: float


# ---------------------------------------------------------------- files


def key_path(page: Path) -> Path:
    """Where the key of a study's page lies: beside it."""
    return page.with_name(page.stem + KEY_SUFFIX)


def key_text(key: Key) -> str:
    """A key as its file holds it."""
    return json.dumps({"format": FORMAT, **asdict(key)}, ensure_ascii=False, indent=1) + "\n"


def read_key(path: Path) -> Key:
    """Raises NotFoundError for no such file, InputError for one that is no key."""
    table = _table(path, "--key takes the file that lies beside the study's page.")
    try:
        if table["format"] != FORMAT:
            raise ValueError
        items = tuple(Item(**item) for item in table["items"])
        key = Key(table["study"], table["a"], table["b"], table["seed"], items, dict(table["shown"]))
    except (KeyError, TypeError, ValueError):
        raise InputError(
            f"{path} is not the key of a study.", "--key takes the file that lies beside the study's page."
        ) from None
    return key


def find_key(answers: Path) -> Key:
    """The key that belongs to a file of answers, where it lies beside it or in the current folder.

    Raises NotFoundError where it does not, and for no such answers; InputError for what is no answers at all.
    """
    study = _study(answers, _table(answers, _AGAIN))
    for folder in dict.fromkeys([answers.absolute().parent, Path.cwd()]):
        for path in sorted(folder.glob(f"*{KEY_SUFFIX}")):
            try:
                key = read_key(path)
            except InputError:
                continue
            if key.study == study:
                return key
    raise NotFoundError(
        f"The key of study {study} lies neither beside {answers} nor here.", f"Add --key FILE{KEY_SUFFIX}."
    )


def read_answers(path: Path, key: Key) -> Answers:
    """One file that a study's page handed back.

    Raises NotFoundError for no such file, InputError for one that is cut short, of another study, not finished, or
    changed since the page wrote it.
    """
    table = _table(path, _AGAIN)
    study = _study(path, table)
    if study != key.study:
        raise InputError(
            f"{path} answers study {study}; the key is that of study {key.study}.", "Give the key that lies beside it."
        )
    found = Answers(str(table.get("rater", "")), {str(item): str(chosen) for item, chosen in table["answers"].items()})
    left = [item.id for item in key.items if item.id not in found.choices]
    shown = {item.id: ("", item.a, item.b) for item in key.items}
    if table.get("check") != checksum(study, found) or any(
        chosen not in shown.get(item, ()) for item, chosen in found.choices.items()
    ):
        raise InputError(f"{path} was changed after the page wrote it.", _AGAIN)
    if left:
        raise InputError(
            f"{path} answers {len(found.choices)} of {len(key.items)} questions.", "Have it finished on the page."
        )
    return found


def read_all(paths: Sequence[Path], key: Key) -> list[Answers]:
    """The answers of several people. Raises what `read_answers` raises, and InputError for the same ones twice."""
    first: dict[str, Path] = {}
    for path in paths:
        rater = read_answers(path, key).rater
        if rater in first:
            raise InputError(f"{path} is by the same person as {first[rater]}.", "Give each person's answers once.")
        first[rater] = path
    return [read_answers(path, key) for path in first.values()]


def checksum(study: str, answers: Answers) -> str:
    """FNV-1a of the answers, as the page computes it: it tells a slip of an editor, not a forger."""
    told = ",".join(f"{item}={answers.choices[item]}" for item in sorted(answers.choices))
    value = 0x811C9DC5
    for byte in f"{study}|{answers.rater}|{told}".encode():
        value = (value ^ byte) * 0x01000193 % 2**32
    return f"{value:08x}"


def _table(path: Path, hint: str) -> dict[str, Any]:
    try:
        table = parse_json(path, most=100_000_000)
    except FileNotFoundError:
        raise NotFoundError(f"There is no file {path}.", "Check the path.") from None
    except (ValueError, OSError):
        _refuse(path, hint)
    return table if isinstance(table, dict) else _refuse(path, hint)


def _study(path: Path, table: dict[str, Any]) -> str:
    if table.get("format") != FORMAT or not isinstance(table.get("answers"), dict):
        _refuse(path, _AGAIN)
    return str(table.get("study", ""))


def _refuse(path: Path, hint: str) -> NoReturn:
    raise InputError(f"{path} is cut short, or is no file that a study's page made.", hint) from None


# ---------------------------------------------------------------- shares


def score(key: Key, answers: Sequence[Answers]) -> dict[str, Preference]:
    """The preference for a on each question, all people pooled. Raises InputError where nobody answered."""
    if not answers:
        raise InputError("There are no answers to score.", "Like: cdtool study score alice.json bob.json")
    found = {}
    for question in dict.fromkeys(item.question for item in key.items):
        items = [item for item in key.items if item.question == question]
        values = [[_value(item, one.choices[item.id]) for item in items] for one in answers]
        pooled = [value for row in values for value in row]
        share, low, high = interval(values)
        found[question] = Preference(pooled.count(1), pooled.count(0), pooled.count(0.5), share, low, high)
    return found


def _value(item: Item, chosen: str) -> float:
    return 0.5 if chosen == "" else float(chosen == item.a)


def interval(values: Sequence[Sequence[float]]) -> tuple[float, float, float]:
    """Mean of values [people, pairs] in [0, 1] and its 95% Wilson interval for as many answers as are independent.

    Answers about one pair are alike, and so are the answers of one person: n is the smaller of the two effective sample
    sizes p (1 - p) / var(mean), over pairs and over people, and never more than the answers given. One person's
    decided answers make it the plain Wilson interval with n pairs.
    """
    people, pairs = len(values), len(values[0])
    share = fmean(value for row in values for value in row)
    by_pair = pvariance([fmean(column) for column in zip(*values, strict=True)]) / pairs
    by_person = variance([fmean(row) for row in values]) / people if people > 1 else 0.0
    spread = max(by_pair, by_person)
    if 0 < share < 1:
        count = min(share * (1 - share) / spread, people * pairs) if spread else people * pairs
    else:
        count = pairs  # all agree: the others said nothing new
    return share, *wilson(share, count)


def wilson(share: float, count: float, level: float = LEVEL) -> tuple[float, float]:
    """Wilson's score interval of a share of `count` independent answers."""
    z = NormalDist().inv_cdf((1 + level) / 2)
    middle = (share + z * z / (2 * count)) / (1 + z * z / count)
    reach = z / (1 + z * z / count) * math.sqrt(share * (1 - share) / count + z * z / (4 * count * count))
    return max(0.0, middle - reach), min(1.0, middle + reach)
