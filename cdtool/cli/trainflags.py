"""The options of cdtool train by the sections of its --help; those of a setting show TrainSettings' default."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from cdtool.cli import options, parsing
from cdtool.cli.options import default_of
from cdtool.settings import Method as _Method
from cdtool.settings import Optimizer as _Optimizer
from cdtool.settings import Precision as _Precision
from cdtool.settings import TrainSettings

_setting = partial(options.setting, TrainSettings)
_basic, _prior, _how, _speed, _safe = (
    {"panel": panel} for panel in (parsing.BASICS, parsing.CLASS_IMAGES, parsing.METHOD, parsing.SPEED, parsing.SAFETY)
)

Photos = Annotated[list[Path] | None, typer.Argument(metavar="PHOTOS...", help="Folders of photos, or single files.")]

Tokens = Annotated[
    list[str] | None,
    typer.Option("--token", metavar="SPEC", rich_help_panel=parsing.BASICS,
                 help='What it is called: "V* dog" in quotes, or a name of its own: moongate. Once per concept.'),
]  # fmt: skip
Separate = Annotated[
    bool,
    typer.Option("--separate", rich_help_panel=parsing.BASICS,
                 help="A concept for each folder and its --token, one after the other on a base loaded once."),
]  # fmt: skip
Jobs = Annotated[
    Path | None,
    typer.Option("--jobs", metavar="FILE", rich_help_panel=parsing.BASICS,
                 help="Train the concepts of a TOML file likewise: a [[job]] with photos and token for each."),
]  # fmt: skip
Workers = Annotated[
    str | None,
    typer.Option("--workers", metavar="N", rich_help_panel=parsing.SPEED,
                 help="Processes that share the concepts of --separate and --jobs; auto: one per GPU."),
]  # fmt: skip
Steps = Annotated[
    int | None,
    _setting("steps", "--steps", metavar="N", help="Optimizer steps per concept; half without class images.", **_basic),
]
Style = Annotated[bool | None, _setting("style", "--style", help='The token is a style: "V* art".', **_basic)]
Seed = Annotated[int | None, _setting("seed", "--seed", help="Seed of everything random.", metavar="N", **_basic)]
Previews = Annotated[
    list[str] | None,
    typer.Option("--preview", metavar="PROMPT", rich_help_panel=parsing.BASICS,
                 help="Sample it at the start, at checkpoints and at the end."),
]  # fmt: skip
PreviewDir = Annotated[
    Path | None,
    typer.Option("--preview-dir", metavar="DIR", rich_help_panel=parsing.BASICS,
                 help="Where previews go." + default_of("samples/NAME-preview")),
]  # fmt: skip
DryRun = Annotated[
    bool, typer.Option("--dry-run", rich_help_panel=parsing.BASICS, help="Print the plan and do nothing.")
]
CropSheet = Annotated[
    Path | None,
    typer.Option("--crop-sheet", metavar="FILE", rich_help_panel=parsing.BASICS,
                 help="Write a contact sheet of the crops, to look at before it starts; with --dry-run too."),
]  # fmt: skip

Prior = Annotated[
    str | None,
    _setting("prior", "--prior", metavar="P", autocompletion=options.complete_priors,
             **_prior,
             help="Where they come from: auto, none, generated, a set's name or a folder. Without any: text (keeps the "
             "keys and values of captions), self (keeps what the base predicts)."),
]  # fmt: skip
PriorCount = Annotated[
    int | None, _setting("prior_count", "--prior-count", metavar="N", help="At most so many.", **_prior)
]
PriorWeight = Annotated[
    float | None, _setting("prior_weight", "--prior-weight", metavar="F", help="Their weight in the loss.", **_prior)
]

Method = Annotated[
    _Method | None,
    _setting("method", "--method", metavar="M", **_how,
             help="kv (the paper's: keys and values of the text cross-attention), crossattn (all of that attention), "
             "full (the whole denoiser), dreambooth (that, with a rare word as it is), "
             "textual-inversion (the word alone), lora (kv at low rank)."),
]  # fmt: skip
Rank = Annotated[int | None, _setting("rank", "--rank", metavar="R", help="Rank of --method lora.", **_how)]
Rate = Annotated[float | None, _setting("lr", "--lr", metavar="F", help="Learning rate.", **_how)]
From = Annotated[
    str | None,
    typer.Option("--from", metavar="CONCEPT", autocompletion=options.complete_concepts, rich_help_panel=parsing.METHOD,
                 help="Go on from this concept: its tokens stay, the new ones follow; another --base needs --force."),
]  # fmt: skip
Like = Annotated[
    str | None,
    typer.Option("--like", metavar="CONCEPT", autocompletion=options.complete_concepts, rich_help_panel=parsing.METHOD,
                 help="Use the settings (and base) this concept was trained with; flags are stronger."),
]  # fmt: skip
Augment = Annotated[
    bool | None,
    _setting("augment", "--augment/--no-augment", help="Shrink and enlarge the photos, with size words.", **_how),
]
TokenInit = Annotated[
    str | None,
    _setting("token_init", "--token-init", metavar="INIT", **_how,
             help="What the modifier token begins as: rare, normal, class (its noun), or word:WORD."),
]  # fmt: skip
FreezeToken = Annotated[
    bool | None,
    _setting("freeze_token", "--freeze-token/--no-freeze-token", help="Leave the modifier token as it begins.", **_how),
]
PreserveUncond = Annotated[
    float | None,
    _setting("preserve_uncond", "--preserve-uncond", metavar="F", **_how,
             help="Keep what the empty prompt gives, down to this share of its features; 0: the paper's way."),
]  # fmt: skip
Focus = Annotated[
    bool | None,
    _setting("focus", "--focus/--no-focus", **_how,
             help="Change K and V at the concept's own words alone, in training and in sampling."),
]  # fmt: skip
Lock = Annotated[
    float | None,
    _setting("lock", "--lock", metavar="F", **_how, help="Weight that keeps the words' keys near the class noun's."),
]  # fmt: skip
Align = Annotated[
    float | None,
    _setting("align", "--align", metavar="F", **_how,
             help="Weight that keeps the text's summary of V* dog near that of dog."),
]  # fmt: skip
Pick = Annotated[
    int | None,
    typer.Option("--pick", metavar="N", min=2, rich_help_panel=parsing.METHOD,
                 help="Score N checkpoints and keep the best trade of text and image alignment."),
]  # fmt: skip

TokenRate = Annotated[
    float | None,
    _setting("token_lr", "--token-lr", metavar="F", shown="--lr", **_how,
             help="Learning rate of the modifier token's embedding."),
]  # fmt: skip

Batch = Annotated[
    int | None, _setting("batch", "--batch", metavar="N", help="Images of a step, half of them class images.", **_speed)
]
Accumulate = Annotated[
    int | None, _setting("accumulate", "--accumulate", metavar="N", help="Passes a step is split into.", **_speed)
]
Resolution = Annotated[
    int | None,
    _setting("resolution", "--resolution", metavar="PX", help="Side of the images.", shown="the base's own", **_speed),
]
Precision = Annotated[
    _Precision | None,
    _setting("precision", "--precision", metavar="P", **_speed,
             help="fp32, bf16, fp16, or auto: bf16 where the hardware has it."),
]  # fmt: skip
Checkpointing = Annotated[
    bool | None,
    _setting("checkpointing", "--checkpointing/--no-checkpointing", **_speed,
             help="Recompute activations: less memory, slower."),
]  # fmt: skip
Memory = Annotated[
    str | None,
    _setting("memory", "--memory", metavar="SIZE", **_speed,
             help="What may be used, like 8GB; --accumulate, --checkpointing and --optimizer are chosen to fit. "
             "auto: what the device has free."),
]  # fmt: skip
Optimizer = Annotated[
    _Optimizer | None,
    _setting("optimizer", "--optimizer", metavar="O", **_speed,
             help="adamw, or factored: AdamW with half the memory, not to the bit."),
]  # fmt: skip
Compile = Annotated[
    bool | None,
    _setting("compile", "--compile/--no-compile", **_speed,
             help="Compile the denoiser's blocks: a minute or more at first, then faster; not to the bit."),
]  # fmt: skip
Gpus = Annotated[
    int, typer.Option("--gpus", metavar="N", min=1, rich_help_panel=parsing.SPEED, help="Processes, one per GPU.")
]

Resume = Annotated[
    bool, typer.Option("--resume", rich_help_panel=parsing.SAFETY, help="Go on from the last checkpoint.")
]
SaveEvery = Annotated[
    int | None, _setting("save_every", "--save-every", metavar="N", help="Steps between checkpoints.", **_safe)
]


@dataclass(frozen=True)
class Settings:
    """The options that are fields of TrainSettings."""

    method: Method = None
    rank: Rank = None
    prior: Prior = None
    prior_count: PriorCount = None
    prior_weight: PriorWeight = None
    augment: Augment = None
    token_init: TokenInit = None
    freeze_token: FreezeToken = None
    preserve_uncond: PreserveUncond = None
    focus: Focus = None
    lock: Lock = None
    align: Align = None
    steps: Steps = None
    lr: Rate = None
    token_lr: TokenRate = None
    batch: Batch = None
    accumulate: Accumulate = None
    resolution: Resolution = None
    precision: Precision = None
    checkpointing: Checkpointing = None
    compile: Compile = None
    memory: Memory = None
    optimizer: Optimizer = None
    vae: options.Vae = None
    seed: Seed = None
    save_every: SaveEvery = None
    style: Style = None


@dataclass(frozen=True)
class SingleOptions:
    """Options for training a single concept; a batch of concepts does not take them."""

    gpus: Gpus = 1
    preview: Previews = None
    preview_dir: PreviewDir = None
    pick: Pick = None
    crop_sheet: CropSheet = None
