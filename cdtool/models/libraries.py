"""The model libraries: imported with little, and kept quiet while cdtool works (bars, warnings and logs come back)."""

from __future__ import annotations

import contextlib
import functools
import importlib
import logging
import os
import sys
import warnings
from collections.abc import Callable, Iterator
from types import ModuleType
from typing import Any, ParamSpec, TypeVar, cast

_LIBRARIES = ("accelerate", "diffusers", "huggingface_hub", "torch", "transformers")
_ENVIRONMENT = {
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "TRANSFORMERS_VERBOSITY": "error",
    "DIFFUSERS_VERBOSITY": "error",
    "TOKENIZERS_PARALLELISM": "false",
}
# What diffusers imports for pipelines and compilers that cdtool does not use: two thirds of its import time.
_HIDDEN = ("transformers", "peft", "torch._dynamo")
alone = False  # whether this process is cdtool's command line, in which nobody else uses diffusers
P = ParamSpec("P")
T = TypeVar("T")


def import_diffusers() -> None:
    """Import diffusers' denoiser and autoencoder without what only its other classes need: a second instead of two.

    Only where `alone`: diffusers' pipelines cannot be used in this process afterwards.
    """
    if "diffusers" in sys.modules:
        return
    import torch

    with contextlib.ExitStack() as stack:
        for name in _HIDDEN:
            if name not in sys.modules or name != "torch._dynamo":
                stack.enter_context(_hidden(name))
        stack.callback(setattr, torch.compiler, "disable", torch.compiler.disable)
        vars(torch.compiler)["disable"] = _undecorated  # the real one imports torch._dynamo
        import diffusers.models.autoencoders.autoencoder_kl
        import diffusers.models.unets.unet_2d_condition  # noqa: F401


@contextlib.contextmanager
def _hidden(name: str) -> Iterator[None]:
    """While open, a module cannot be imported."""
    before = sys.modules.get(name)
    sys.modules[name] = cast("ModuleType", None)
    try:
        yield
    finally:
        del sys.modules[name]
        if before is not None:
            sys.modules[name] = before


def _undecorated(function: Any = None, *_: Any, **__: Any) -> Any:
    return (lambda decorated: decorated) if function is None else function


@contextlib.contextmanager
def quiet(*, diffusers: bool = True) -> Iterator[None]:
    """While open, the libraries print nothing below an error.

    `diffusers` takes seconds to import; what needs text encoders alone does without.
    """
    with contextlib.ExitStack() as stack:
        stack.enter_context(_environment())
        if alone and diffusers:
            import_diffusers()
        stack.enter_context(warnings.catch_warnings())
        for name in _LIBRARIES:
            warnings.filterwarnings("ignore", module=rf"{name}(\.|$)")
            stack.enter_context(_level(logging.getLogger(name)))
        for name in ("transformers", *(("diffusers",) if diffusers or "diffusers" in sys.modules else ())):
            stack.enter_context(_progress_bars(name))
        yield


@contextlib.contextmanager
def _environment() -> Iterator[None]:
    """Read by the libraries when they are imported; what the user has set stays."""
    missing = [name for name in _ENVIRONMENT if name not in os.environ]
    os.environ.update({name: _ENVIRONMENT[name] for name in missing})
    try:
        yield
    finally:
        for name in missing:
            os.environ.pop(name, None)


@contextlib.contextmanager
def _level(logger: logging.Logger) -> Iterator[None]:
    before = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(before)


@contextlib.contextmanager
def _progress_bars(library: str) -> Iterator[None]:
    theirs: Any = importlib.import_module(f"{library}.utils.logging")
    were_on = theirs.is_progress_bar_enabled()
    theirs.disable_progress_bar()
    logging.getLogger(library).setLevel(logging.ERROR)  # importing it has set its own
    try:
        yield
    finally:
        if were_on:
            theirs.enable_progress_bar()


def quietly(*, diffusers: bool = True) -> Callable[[Callable[P, Iterator[T]]], Callable[P, Iterator[T]]]:
    """A decorator of generator functions: `quiet` while they run, not while their caller handles what they yield."""

    def decorate(function: Callable[P, Iterator[T]]) -> Callable[P, Iterator[T]]:
        @functools.wraps(function)
        def wrapper(*args: P.args, **kwargs: P.kwargs) -> Iterator[T]:
            steps = function(*args, **kwargs)
            try:
                while True:
                    with quiet(diffusers=diffusers):
                        step = next(steps)
                    yield step
            except StopIteration:
                return
            finally:
                steps.close()  # type: ignore[attr-defined]  # a generator

        return wrapper

    return decorate
