"""The options of cdtool train, those of a setting with their default from TrainSettings."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from cdtool.cli import options
from cdtool.cli.options import setting
from cdtool.methods import METHODS
from cdtool.settings import Method as _Method
from cdtool.settings import Precision as _Precision
from cdtool.settings import TrainSettings as _Set

Photos = Annotated[list[Path], typer.Argument(metavar="PHOTOS...", help="Folders of photos, or single files.")]
Tokens = Annotated[
    list[str], typer.Option("--token", metavar="SPEC", help='What it is called: "V* dog"; "moongate" without modifier.')
]
Method = Annotated[
    _Method | None,
    setting(_Set, "method", "--method", help="; ".join(f"{name}: {row.trains}" for name, row in METHODS.items()) + "."),
]
From = Annotated[
    str | None,
    typer.Option("--from", metavar="CONCEPT", autocompletion=options.complete_concepts,
                 help="Go on from this concept: its tokens stay, the new ones follow; another --base needs --force."),
]  # fmt: skip
Like = Annotated[
    str | None,
    typer.Option("--like", metavar="CONCEPT", autocompletion=options.complete_concepts,
                 help="Use the settings (and base) this concept was trained with; flags are stronger."),
]  # fmt: skip
Prior = Annotated[
    str | None,
    setting(_Set, "prior", "--prior", metavar="P",
            help="Pictures of the class: auto, none, generated, a set's name or a folder."),
]  # fmt: skip
PriorCount = Annotated[int | None, setting(_Set, "prior_count", "--prior-count", help="At most so many.", metavar="N")]
PriorWeight = Annotated[
    float | None, setting(_Set, "prior_weight", "--prior-weight", help="Their weight in the loss.", metavar="F")
]
Steps = Annotated[
    int | None, setting(_Set, "steps", "--steps", help="Optimizer steps per concept; half without prior.", metavar="N")
]
Rate = Annotated[float | None, setting(_Set, "lr", "--lr", help="Learning rate.", metavar="F")]
Batch = Annotated[
    int | None, setting(_Set, "batch", "--batch", help="Pictures of one step, half of them prior ones.", metavar="N")
]
Accumulate = Annotated[
    int | None, setting(_Set, "accumulate", "--accumulate", help="Passes a step is split into.", metavar="N")
]
Resolution = Annotated[
    int | None, typer.Option("--resolution", metavar="PX", help="Side of the pictures; the base's own unless given.")
]
Checkpointing = Annotated[
    bool | None,
    typer.Option("--checkpointing/--no-checkpointing", help="Recompute activations: less memory, slower."),
]
Precision = Annotated[
    _Precision | None, setting(_Set, "precision", "--precision", help="auto is bf16 where the hardware has it.")
]
Gpus = Annotated[int, typer.Option("--gpus", metavar="N", min=1, help="Processes, one per GPU.")]
Seed = Annotated[int | None, setting(_Set, "seed", "--seed", help="Seed of everything random.", metavar="N")]
SaveEvery = Annotated[
    int | None, setting(_Set, "save_every", "--save-every", help="Steps between checkpoints.", metavar="N")
]
Augment = Annotated[
    bool | None, typer.Option("--augment/--no-augment", help="Shrink and enlarge the photos, with size words.")
]
TokenInit = Annotated[
    str | None,
    setting(_Set, "token_init", "--token-init", metavar="INIT",
            help="What the modifier token begins as: rare, normal, class (its noun), or word:WORD."),
]  # fmt: skip
FreezeToken = Annotated[
    bool | None, typer.Option("--freeze-token/--no-freeze-token", help="Leave the modifier token as it begins.")
]
PreserveUncond = Annotated[
    float | None,
    setting(_Set, "preserve_uncond", "--preserve-uncond", metavar="F",
            help="Keep what the empty prompt draws, down to this share of its features; 0: the paper's way."),
]  # fmt: skip
Rank = Annotated[int | None, setting(_Set, "rank", "--rank", help="Rank of --method lora.", metavar="R")]
Style = Annotated[bool | None, typer.Option("--style", help='The token is a style: "V* art".')]
Previews = Annotated[
    list[str] | None,
    typer.Option("--preview", metavar="PROMPT", help="Draw it at the start, at checkpoints and at the end."),
]
PreviewDir = Annotated[
    Path | None, typer.Option("--preview-dir", metavar="DIR", help="Where previews go; samples/NAME-preview.")
]
Resume = Annotated[bool, typer.Option("--resume", help="Go on from the last checkpoint.")]
Pick = Annotated[
    int | None,
    typer.Option("--pick", metavar="N", min=2, help="Score N checkpoints and keep the knee of text and image."),
]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Print the plan and do nothing.")]
