"""The checkpoint of a training: written whole or not at all, and refused by any other run."""

from __future__ import annotations

import hashlib
import json
import pickle
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from cdtool.errors import InputError, ResourceError
from cdtool.files import replacing, sweep
from cdtool.settings import UNUSED

if TYPE_CHECKING:
    from cdtool.models.pipelines import Base
    from cdtool.settings import TrainSettings
    from cdtool.tokens import Token
    from cdtool.training.batches import ConceptImages

# How often it saves and in how many passes it computes may change on the way.
FREE = ("save_every", "accumulate", "checkpointing", "memory", "compile")


def identity(
    base: Base, concepts: Sequence[ConceptImages], tokens: Sequence[Token], settings: TrainSettings, start: str = ""
) -> str:
    """A hash of what must be the same for a run to go on; `start` is the hash of the concept it began as."""
    chosen = {name: value for name, value in asdict(settings).items()
              if name not in FREE and UNUSED.get(name) != value}  # fmt: skip
    pictures = [[[example.caption, example.digest] for example in (*concept.photos, *concept.class_images)]
                for concept in concepts]  # fmt: skip
    told = json.dumps([base.fingerprint, [asdict(token) for token in tokens], chosen, pictures, start], sort_keys=True)
    return hashlib.sha256(told.encode()).hexdigest()


def save(path: Path, state: Mapping[str, Any]) -> None:
    """Write a checkpoint in place of the one before. Raises ResourceError when the disk is full."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        sweep(path.parent)
        with replacing(path) as temporary:
            torch.save(dict(state), temporary)
    except (OSError, RuntimeError) as error:  # torch reports a full disk as RuntimeError
        message = f"The checkpoint could not be written to {path.parent}: {error}."
        raise ResourceError(message, "Free some disk.") from None


def load(path: Path, wanted: str, device: torch.device) -> dict[str, Any]:
    """The state of a checkpoint of the run `wanted` (see `identity`).

    Raises InputError for a checkpoint of another run and for a damaged one.
    """
    try:
        state: dict[str, Any] = torch.load(path, map_location=device, weights_only=True)
        same = state["identity"] == wanted
    except (RuntimeError, KeyError, TypeError, ValueError, EOFError, OSError, pickle.UnpicklingError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise InputError(f"The checkpoint {path} cannot be read ({reason}).", "Start anew without --resume.") from None
    if not same:
        raise InputError(
            "The checkpoint is of a run with other photos, tokens, base or settings.",
            "Give the same command as then, or start anew without --resume.",
        )
    return state
