"""cdtool eval --compare and --answers: people choose between two subjects on a page, and their choices are counted."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cdtool.cli import output
from cdtool.errors import UsageError

if TYPE_CHECKING:
    from cdtool.research.answers import Key, Preference

_ASKED = {"text": "fits the text", "photos": "shows what is in the photos"}


def make(
    out: output.Output,
    subjects: tuple[str, str],
    page: Path | None,
    *,
    folders: Sequence[Path],
    prompts: Sequence[str],
    flags: Mapping[str, Any],
    device: str,
    force: bool,
) -> None:
    """Draw two subjects and write the page that asks about them, with its key beside it."""
    from cdtool.research import comparing

    if page is None:
        raise UsageError("Where shall the page go?", "Add --study FILE.html.")
    comparing.check(page, force=force)
    asked = comparing.plan(*subjects, folders=folders, prompts=prompts, flags=flags, device=device)
    output.quiet_libraries()
    from cdtool.research.study import Study

    events = out.progress(comparing.run(asked), asked.pictures + 1, label="picture")
    study = next(event for event in events if isinstance(event, Study))
    key = comparing.save(study, page)
    questions, pairs = len(study.key.items), len({item.pair for item in study.key.items})
    data = {"path": str(page), "key": str(key), "study": study.key.study, "questions": questions}
    out.result(str(page), data)
    out.talk(f"{questions} questions about {pairs} pairs of pictures. Pass the page on and keep its key,")
    out.talk(f"{key}. Score what comes back with: cdtool eval --answers FILE...")


def score(out: output.Output, answers: Sequence[Path], key_file: Path | None) -> None:
    """Count what people answered: the share for the first subject on each question."""
    from cdtool.research import answers as preference

    key = preference.read_key(key_file) if key_file else preference.find_key(answers[0])
    found = preference.score(key, preference.read_all(answers, key))
    data = {
        "study": key.study, "a": key.a, "b": key.b, "people": len(answers),
        "questions": {question: asdict(share) for question, share in found.items()},
    }  # fmt: skip
    if out.mode == "quiet":
        out.results([f"{question} {share.share:.4f}" for question, share in found.items()], data)
        return
    rows = [
        [question, str(one.a), str(one.undecided), str(one.b), f"{one.share:.1%}", f"{one.low:.1%} to {one.high:.1%}"]
        for question, one in found.items()
    ]
    out.table(["", key.a, "cannot tell", key.b, f"share for {key.a}", "95% interval"], rows, data)
    for question, share in found.items():
        out.talk(_verdict(key, question, share))
    people = "one person" if len(answers) == 1 else f"{len(answers)} people"
    out.talk(f'{people}, {len(key.items)} questions each; "cannot tell" counts half for each side.')


def _verdict(key: Key, question: str, share: Preference) -> str:
    if share.low <= 0.5 <= share.high:
        return f"Neither clearly {_ASKED[question]} better."
    return f"{key.a if share.share > 0.5 else key.b} {_ASKED[question]} better."
