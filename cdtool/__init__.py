"""cdtool: teach a text-to-image model new concepts from a handful of photos, and compose them.

    import cdtool

    dog = cdtool.train("photos/dog", token="V* dog", base="sd15")
    images = cdtool.sample(dog, "V* dog on the beach", n=4)
    pair = cdtool.merge(dog, "moongate", name="pair")

Nothing is imported before it is used. Every function has the defaults and the errors of the command of its name.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from cdtool.compression.run import compress
    from cdtool.erasure.run import forget, iter_forget
    from cdtool.errors import (
        BaseError,
        CdtoolError,
        ConceptError,
        GateError,
        InputError,
        InterruptedRun,
        NameTakenError,
        NotFoundError,
        PhotoError,
        ResourceError,
        SettingsError,
        TokenError,
        TrainingError,
        UsageError,
    )
    from cdtool.evaluation.evaluate import evaluate, iter_evaluate
    from cdtool.merging.run import iter_merge, merge
    from cdtool.sampling.run import iter_sample, sample
    from cdtool.sharing.card import card
    from cdtool.sharing.gallery import gallery
    from cdtool.sharing.hub import pull, push
    from cdtool.store.registry import Concept, concepts
    from cdtool.store.subject import load
    from cdtool.training.many import iter_train_many, train_many
    from cdtool.training.run import iter_train, train

# Where each public name is defined; it is imported at its first use (PEP 562).
_PUBLIC = {
    "compress": "cdtool.compression.run",
    "forget": "cdtool.erasure.run",
    "iter_forget": "cdtool.erasure.run",
    "evaluate": "cdtool.evaluation.evaluate",
    "iter_evaluate": "cdtool.evaluation.evaluate",
    "iter_merge": "cdtool.merging.run",
    "merge": "cdtool.merging.run",
    "iter_sample": "cdtool.sampling.run",
    "sample": "cdtool.sampling.run",
    "card": "cdtool.sharing.card",
    "gallery": "cdtool.sharing.gallery",
    "pull": "cdtool.sharing.hub",
    "push": "cdtool.sharing.hub",
    "iter_train_many": "cdtool.training.many",
    "train_many": "cdtool.training.many",
    "iter_train": "cdtool.training.run",
    "train": "cdtool.training.run",
    "Concept": "cdtool.store.registry",
    "concepts": "cdtool.store.registry",
    "load": "cdtool.store.subject",
    "BaseError": "cdtool.errors",
    "CdtoolError": "cdtool.errors",
    "ConceptError": "cdtool.errors",
    "GateError": "cdtool.errors",
    "InputError": "cdtool.errors",
    "InterruptedRun": "cdtool.errors",
    "NameTakenError": "cdtool.errors",
    "NotFoundError": "cdtool.errors",
    "PhotoError": "cdtool.errors",
    "ResourceError": "cdtool.errors",
    "SettingsError": "cdtool.errors",
    "TokenError": "cdtool.errors",
    "TrainingError": "cdtool.errors",
    "UsageError": "cdtool.errors",
}
__all__ = [
    "BaseError",
    "CdtoolError",
    "Concept",
    "ConceptError",
    "GateError",
    "InputError",
    "InterruptedRun",
    "NameTakenError",
    "NotFoundError",
    "PhotoError",
    "ResourceError",
    "SettingsError",
    "TokenError",
    "TrainingError",
    "UsageError",
    "card",
    "compress",
    "concepts",
    "evaluate",
    "forget",
    "gallery",
    "iter_evaluate",
    "iter_forget",
    "iter_merge",
    "iter_sample",
    "iter_train",
    "iter_train_many",
    "load",
    "merge",
    "pull",
    "push",
    "sample",
    "train",
    "train_many",
]


def __getattr__(name: str) -> Any:
    if name not in _PUBLIC:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = globals()[name] = getattr(importlib.import_module(_PUBLIC[name]), name)
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
