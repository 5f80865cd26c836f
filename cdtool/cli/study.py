"""cdtool study: people choose between two subjects on a blind page, and their choices are counted."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cdtool import files
from cdtool.cli import evalflags, options, output
from cdtool.cli.parsing import BASICS
from cdtool.errors import UsageError

if TYPE_CHECKING:
    from cdtool.research.answers import Key, Preference

_BETTER = {"text": "fits the text", "photos": "shows what is in the photos"}

Page = Annotated[
    Path | None,
    typer.Option("--out", "-o", metavar="FILE", rich_help_panel=BASICS, help="The page: one HTML file, offline."),
]
AnswerFiles = Annotated[list[Path], typer.Argument(metavar="FILE...", help="The answers that people sent back.")]
KeyFile = Annotated[
    Path | None,
    typer.Option("--key", metavar="FILE", rich_help_panel=BASICS, help="The study's key; else found beside them."),
]


def _subject(metavar: str) -> typer.models.ArgumentInfo:
    found: typer.models.ArgumentInfo = typer.Argument(
        metavar=metavar, help="A concept, several joined, or a base.", autocompletion=options.complete_subjects
    )
    return found


def make(
    first: Annotated[str, _subject("A")],
    second: Annotated[str, _subject("B")],
    out: Page = None,
    photos: evalflags.Photos = None,
    prompts: options.PromptFile = None,
    sampling: evalflags.Sampling = evalflags.Sampling(),
    device: options.Device = "auto",
    force: options.Force = False,
    json: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """Make a page on which people choose between two.

    Both are sampled for the same prompts. The page asks which image fits the text better, and which shows better what
    is in the photos; it names neither side. The key that says which image is whose is written beside it: keep it.

    Examples:
      cdtool study make dog dog-small -o study.html
      cdtool study make dog mini --prompts templates.txt -n 2 -o dog-or-base.html
    """
    from cdtool.research import study

    voice = output.sink(json, quiet)
    if out is None:
        raise UsageError("A study needs the file of its page.", "Like: cdtool study make dog dog-small -o study.html")
    study.check(out, force=force)
    lines = files.read_prompts(prompts) if prompts else []
    plan = study.plan(first, second, folders=photos or (), prompts=lines, flags=vars(sampling), device=device)
    output.quiet_libraries()
    events = voice.progress(study.run(plan), plan.pictures + 1, label="picture")
    made = next(event for event in events if isinstance(event, study.Study))
    key = study.save(made, out)
    questions, pairs = len(made.key.items), len({item.pair for item in made.key.items})
    data = {"path": str(out), "key": str(key), "study": made.key.study, "questions": questions}
    voice.result(str(out), data)
    voice.talk(f"{questions} questions about {pairs} pairs of pictures. Pass the page on and keep its key,")
    voice.talk(f"{key}. Score what comes back with: cdtool study score FILE...")


def score(answers: AnswerFiles, key: KeyFile = None, json: options.Json = False, quiet: options.Quiet = False) -> None:
    """Count the answers to a study.

    Examples:
      cdtool study score answers-*.json
      cdtool study score answers-*.json --key study.key.json
    """
    from cdtool.research import answers as preference

    out = output.sink(json, quiet)
    known = preference.read_key(key) if key else preference.find_key(answers[0])
    shares = preference.score(known, preference.read_all(answers, known))
    data = {
        "study": known.study, "a": known.a, "b": known.b, "people": len(answers),
        "questions": {question: asdict(share) for question, share in shares.items()},
    }  # fmt: skip
    if out.mode == "quiet":
        out.results([f"{question} {share.share:.4f}" for question, share in shares.items()], data)
        return
    rows = [
        [question, str(one.a), str(one.undecided), str(one.b), f"{one.share:.1%}", f"{one.low:.1%} to {one.high:.1%}"]
        for question, one in shares.items()
    ]
    out.table(["", known.a, "cannot tell", known.b, f"share for {known.a}", "95% interval"], rows, data)
    for question, share in shares.items():
        out.talk(_verdict(known, question, share))
    people = "one person" if len(answers) == 1 else f"{len(answers)} people"
    out.talk(f'{people}, {len(known.items)} questions each; "cannot tell" counts half for each side.')


def _verdict(key: Key, question: str, share: Preference) -> str:
    if share.low <= 0.5 <= share.high:
        return f"Neither clearly {_BETTER[question]} better."
    return f"{key.a if share.share > 0.5 else key.b} {_BETTER[question]} better."
