"""What a training reports while it runs."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from torch import Tensor

    from cdtool.store.registry import Concept

Resume = bool | Literal["auto"]  # "auto": where there is a checkpoint of the same run


@dataclass(frozen=True)
class Event:
    """One thing that happened, in this order of kinds.

    note, warning   `text` for people
    class image     an image of the class was generated, `step` of `of`
    latents         `step` of `of` crops are encoded
    preview         `images` of the preview prompts after `step` steps
    step            an optimizer step, with its losses (prior_loss is nan without class images)
    snapshot        `tensors`: the concept as it is after `step` steps
    saved           a checkpoint was written
    done            `tensors` of the concept, and the `concept` once it is saved
    """

    kind: Literal["note", "warning", "class image", "latents", "preview", "step", "snapshot", "saved", "done"]
    step: int = 0  # how many are done
    of: int = 0  # how many there are
    loss: float = math.nan
    prior_loss: float = math.nan
    seconds: float = 0.0  # since the loop began
    images: tuple[NDArray[np.uint8], ...] = ()
    tensors: dict[str, Tensor] = field(default_factory=dict)
    text: str = ""
    concept: Concept | None = None
