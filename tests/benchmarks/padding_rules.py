"""Whether the padding behind a prompt belongs into C and R of a merge: all rules side by side, on pairs of concepts.

    CDTOOL_HOME=~/pairs python -m tests.benchmarks.padding_rules dog+castle cat+chair

The concepts must be in the registry. C takes no padding, its mean over a prompt's padding, or every position of it; R
takes the words alone or every position. Fidelity is the mean over concepts and pairs on prompts that do not bind, drift
what the merge does to everyday words; both are relative to the concepts' own change. The figures behind
`targets.collect` and `reg_captions.encode`, which here are written out slowly.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from statistics import fmean
from typing import Any
from unittest.mock import patch

import torch

from cdtool.cli.output import quiet_libraries
from cdtool.merging import inputs, merge, targets
from cdtool.merging.targets import Targets
from cdtool.models import pipelines, text
from cdtool.models.pipelines import Base
from cdtool.priors import captions as reg_captions
from cdtool.store import bases, subject
from cdtool.tokens import Prompt, Token, bind
from tests.benchmarks import shapes

IN_C = ("none", "mean", "every")
IN_R = ("words", "every")


def features(base: Base, prompt: Prompt, tokens: Sequence[Token], learned: Any) -> torch.Tensor:
    """A prompt's text features [l, d] in float64."""
    with torch.no_grad():
        return text.encode(base, [text.tokenize(base, prompt, tokens)], learned).features[0].double()


def bound(rule: str) -> Any:
    """A stand-in for `merge._targets` with this much padding in C."""

    def rows(base: Base, tokens: Sequence[Token], styled: Sequence[bool], learned: Any, *_: Any) -> Targets:
        found: list[torch.Tensor] = []
        places: list[tuple[int, ...]] = []
        for sentence in targets.prompts(tokens, styled):
            prompt = bind(sentence, tokens)
            own, end = text.owners(base, prompt, tokens)
            mine = [(at, place) for at, place in enumerate(own) if place is not None]
            row = features(base, prompt, tokens, learned)
            if len(prompt.named) == 1:
                place = mine[0][1]
                mine = [(at, place) for at in range(mine[0][0], end + 1)]
                behind = row[end + 1 :]
                more = {"none": behind[:0], "mean": behind.mean(0, keepdim=True), "every": behind}[rule]
                found += list(more)
                places += [(place,)] * len(more)
            found += [row[at] for at, _ in mine]
            places += [(place,) for _, place in mine]
        return targets.distinct(Targets(torch.stack(found), places))

    return rows


def moment(base: Base, captions: Sequence[str], rule: str) -> torch.Tensor:
    """R of [c; 1]: the mean outer product over the words of all captions, or over every position."""
    total, count = torch.zeros(1), 0
    for caption in captions:
        prompt = Prompt((caption,), frozenset())
        row = features(base, prompt, (), [[] for _ in base.text_encoders])
        end = text.tokenize(base, prompt, ()).ids[0].index(base.tokenizers[0].eos_token_id, 1)
        row = row if rule == "every" else row[: end + 1]
        row = torch.cat([row, row.new_ones(len(row), 1)], dim=1)
        total, count = total + row.T @ row, count + len(row)
    return total / count


def main() -> None:
    """Merge every pair by every rule, and print."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("pairs", nargs="+", help="like dog+castle")
    options.add_argument("--base", default="mini")
    chosen = options.parse_args()
    quiet_libraries()
    base = pipelines.load(chosen.base, precision="fp32", device="cpu", parts=("text",))
    captions = reg_captions.read(reg_captions.find(None, bases.locate(chosen.base)))
    known = reg_captions.known(base, captions)
    rows = []
    for in_r in IN_R:
        own = known._replace(moment=moment(base, captions, in_r))
        for in_c in IN_C:
            with patch.object(merge, "_targets", bound(in_c)):
                reports = [
                    merge.merge(base, inputs.load(base, subject.find(pair)), "tried", own).report
                    for pair in chosen.pairs
                ]
            kept = [value for report in reports for value in report.fidelity.values()]
            rows.append([in_c, in_r, fmean(report.rows for report in reports), fmean(kept), min(kept),
                         fmean(report.drift for report in reports)])  # fmt: skip
    head = ("padding in C", "positions in R", "rows", "fidelity", "least", "drift")
    shapes.report("Padding in a merge", rows, head, f"{', '.join(chosen.pairs)}; {len(captions)} captions")


if __name__ == "__main__":
    main()
