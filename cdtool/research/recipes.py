"""The concepts a suite needs: which they are, whether they are there, and how what is missing is trained or merged."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Hashable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from cdtool.errors import InterruptedRun
from cdtool.images import photos
from cdtool.research.suite import Cell, ConceptSpec, MethodSpec, Suite, spec
from cdtool.settings import recorded
from cdtool.store import registry
from cdtool.store.concept import parameter_name, read_header
from cdtool.training import job, run

if TYPE_CHECKING:
    from pathlib import Path

    from cdtool.images.photos import Photo
    from cdtool.models.pipelines import Base
    from cdtool.sampling.sample import Generated
    from cdtool.settings import recorded
from cdtool.store.registry import Concept

GO_ON = "Go on with the same command; finished cells and concepts are kept."


@dataclass(frozen=True)
class Recipe:
    """A concept that cells need: what is trained on what, or merged of what."""

    name: str  # in the registry
    method: MethodSpec
    concepts: tuple[ConceptSpec, ...]
    parents: tuple[Recipe, ...] = ()

    @property
    def is_merge(self) -> bool:
        """Whether it is merged, not trained."""
        return bool(self.parents) and not self.concepts


@dataclass(frozen=True)
class Event:
    """What a run reports: the work that remains, a training step, an image, a cell kept, finished or failed."""

    kind: Literal["plan", "step", "picture", "kept", "cell", "failed"]
    cell: str = ""
    total: int = 0  # of "plan": training steps, pictures and cells to come
    kept: int = 0  # of "plan": cells that are finished
    told: str = ""


@dataclass
class RunContext:
    """What the cells of a run share: the base, whether to stop, and what was read before."""

    base: Base
    stop: Callable[[], bool] = lambda: False
    works: dict[str, job.Job] = field(default_factory=dict)
    found: dict[Path, list[Photo]] = field(default_factory=dict)
    bare: dict[Hashable, list[Generated]] = field(default_factory=dict)  # what the base drew beside cells

    def photos(self, concept: ConceptSpec) -> list[Photo]:
        """A concept's usable photos."""
        if concept.photos not in self.found:
            self.found[concept.photos] = photos.find([concept.photos])[0]
        return self.found[concept.photos]

    def check_stop(self) -> None:
        """Raises InterruptedRun where somebody asked to stop."""
        if self.stop():
            raise InterruptedRun("Stopped within a cell, which will be run again.", GO_ON)


def recipes(suite: Suite, cell: Cell) -> tuple[Recipe, ...]:
    """The concepts that draw a cell together: none for the base, several where they are routed."""
    method, names = cell.method, "-".join(concept.name for concept in cell.concepts)
    if method.mode == "base":
        return ()
    solo = tuple(_solo(suite, method, concept) for concept in cell.concepts)
    together = f"{suite.name}.{registry.slug(method.name)}.{method.mode}.{names}"
    if method.mode == "merge":
        return (Recipe(together, method, (), solo),)
    if method.mode == "joint":
        return (Recipe(together, method, cell.concepts),)
    if method.mode == "sequential":
        return (Recipe(together, method, cell.concepts[1:], solo[:1]),)
    return solo


def _solo(suite: Suite, method: MethodSpec, concept: ConceptSpec) -> Recipe:
    """A concept trained alone, shared by all rows with these settings."""
    like = [*suite.methods, *suite.compositions, method]
    owner = next(one for one in like if one.mode != "base" and one.settings == method.settings)
    return Recipe(f"{suite.name}.{registry.slug(owner.name)}.{concept.name}", owner, (concept,))


def described(context: RunContext, recipe: Recipe) -> list[Any]:
    """What a concept depends on but the base: settings, photos and words, its parents' too."""
    work = training(context, recipe) if recipe.concepts else None
    own = [recorded(work.settings), [photo.sha256 for group in work.groups for photo in group]] if work else []
    specs = [spec(concept, recipe.method) for concept in recipe.concepts]
    return [own, specs, [described(context, parent) for parent in recipe.parents]]


def training(context: RunContext, recipe: Recipe, start: Concept | None = None) -> job.Job:
    """The training of a recipe; without its start only its settings and photos count."""
    name = f"{recipe.name}+" if start else recipe.name
    if name not in context.works:
        flags = dict(recipe.method.settings) | (
            {"style": True} if any(concept.style for concept in recipe.concepts) else {}
        )
        specs = [spec(concept, recipe.method) for concept in recipe.concepts]
        context.works[name] = job.job([concept.photos for concept in recipe.concepts], specs, name=recipe.name,
                                     base=context.base.name, flags=flags, start=start)  # fmt: skip
    return context.works[name]


def is_fresh(context: RunContext, recipe: Recipe) -> bool:
    """Whether the registry holds a recipe's concept, made of these weights, photos, settings and parents."""
    if recipe.name not in registry.names():
        return False
    manifest = registry.find(recipe.name).manifest
    if manifest is None or manifest.base.fingerprint != context.base.fingerprint:
        return False
    if not all(is_fresh(context, parent) for parent in recipe.parents):
        return False
    now = [hashlib.sha256(registry.find(one.name).path.read_bytes()).hexdigest() for one in recipe.parents]
    if [parent.get("sha256") for parent in manifest.parents] != now:
        return False
    work = training(context, recipe) if recipe.concepts else None
    seen = tuple(photo.sha256 for group in work.groups for photo in group) if work else ()
    return work is None or (dict(manifest.settings) == recorded(work.settings) and manifest.photos == seen)


def untrained(context: RunContext, needed: Sequence[Recipe]) -> list[Recipe]:
    """The concepts among these and their parents that have to be made."""
    found = [one for recipe in needed for one in [*untrained(context, recipe.parents), recipe]]
    return [recipe for recipe in found if not is_fresh(context, recipe)]


def ensure(context: RunContext, recipe: Recipe, cell: Cell) -> Iterator[Event]:
    """Make a concept and those it is made of, unless they are there."""
    if is_fresh(context, recipe):
        return
    for parent in recipe.parents:
        yield from ensure(context, parent, cell)
    if recipe.is_merge:
        _merge(context, recipe)
        return
    start = registry.find(recipe.parents[0].name) if recipe.parents else None
    job = training(context, recipe, start)
    try:
        for event in run.train_job(job, context.base, resume="auto", stop=context.stop, force=True):
            if event.kind == "step":
                yield Event("step", cell.id, told=f"{recipe.name}  loss {event.loss:.3f}")
    except InterruptedRun as error:
        raise InterruptedRun(str(error), GO_ON) from None


def cost(concepts: Sequence[Concept]) -> dict[str, float]:
    """What concepts took and take: seconds of training, as far as they are known, changed numbers, and megabytes."""
    if not concepts:
        return {}
    seconds = [float(registry.note(entry.name).get("seconds", 0)) for entry in concepts]
    shapes = [found for entry in concepts for found in read_header(entry.path)[1].items()]
    numbers = sum(math.prod(about.shape) for name, about in shapes if name.startswith(parameter_name("")))
    sizes = {"numbers": float(numbers), "megabytes": sum(entry.bytes for entry in concepts) / 1e6}
    return sizes | ({"seconds": sum(seconds)} if all(seconds) else {})


def _merge(context: RunContext, recipe: Recipe) -> None:
    from cdtool.merging import run

    names = [parent.name for parent in recipe.parents]
    for _ in run.iter_merge(*names, name=recipe.name, base=context.base.name, force=True):
        context.check_stop()
