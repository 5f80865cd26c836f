"""The concepts a suite needs: which they are, whether they are there, and how what is missing is trained or merged."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Hashable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from cdtool.errors import InputError, InterruptedRun
from cdtool.images import photos
from cdtool.research.suite import Cell, Row, Suite, Thing, spec
from cdtool.store import bases, registry, subject
from cdtool.store.concept import parameter_name, read_header
from cdtool.training import job, run

if TYPE_CHECKING:
    from pathlib import Path

    from cdtool.images.photos import Photo
    from cdtool.models.pipelines import Base
    from cdtool.sampling.sample import Drawn
    from cdtool.store.registry import Entry


GO_ON = "Go on with the same command; finished cells and concepts are kept."


@dataclass(frozen=True)
class Recipe:
    """A concept that cells need: what is trained on what, or merged of what."""

    name: str  # in the registry
    row: Row
    things: tuple[Thing, ...]
    parents: tuple[Recipe, ...] = ()

    @property
    def is_merge(self) -> bool:
        """Whether it is merged, not trained."""
        return bool(self.parents) and not self.things


@dataclass(frozen=True)
class Event:
    """What the run tells: steps that remain, a training step, a picture, a cell kept or finished."""

    kind: Literal["plan", "step", "picture", "kept", "cell", "note"]
    cell: str = ""
    total: int = 0  # of "plan": training steps, pictures and cells to come
    kept: int = 0  # of "plan": cells that are finished
    told: str = ""


@dataclass
class Bench:
    """What every cell of a run shares: the base, whether to stop, and what was read before."""

    base: Base
    stop: Callable[[], bool] = lambda: False
    works: dict[str, job.Job] = field(default_factory=dict)
    found: dict[Path, list[Photo]] = field(default_factory=dict)
    bare: dict[Hashable, list[Drawn]] = field(default_factory=dict)  # what the base drew beside cells

    def photos(self, thing: Thing) -> list[Photo]:
        """A concept's usable photos."""
        if thing.photos not in self.found:
            self.found[thing.photos] = photos.find([thing.photos])[0]
        return self.found[thing.photos]

    def check_stop(self) -> None:
        """Raises InterruptedRun where somebody asked to stop."""
        if self.stop():
            raise InterruptedRun("Stopped within a cell, which will be made anew.", GO_ON)


def recipes(suite: Suite, cell: Cell) -> tuple[Recipe, ...]:
    """The concepts that draw a cell together: none for the base, several where they are routed."""
    row, names = cell.row, "-".join(thing.name for thing in cell.things)
    if row.way == "base":
        return ()
    solo = tuple(_solo(suite, row, thing) for thing in cell.things)
    together = f"{suite.name}.{registry.slug(row.name)}.{row.way}.{names}"
    if row.way == "merge":
        return (Recipe(together, row, (), solo),)
    if row.way == "joint":
        return (Recipe(together, row, cell.things),)
    if row.way == "sequential":
        return (Recipe(together, row, cell.things[1:], solo[:1]),)
    return solo


def _solo(suite: Suite, row: Row, thing: Thing) -> Recipe:
    """A concept trained alone, shared by all rows with these settings."""
    like = [*suite.methods, *suite.ways, row]
    owner = next(one for one in like if one.way != "base" and one.settings == row.settings)
    return Recipe(f"{suite.name}.{registry.slug(owner.name)}.{thing.name}", owner, (thing,))


def described(bench: Bench, recipe: Recipe) -> list[Any]:
    """What a concept depends on but the base: settings, photos and words, its parents' too."""
    work = training(bench, recipe) if recipe.things else None
    own = [asdict(work.settings), [photo.sha256 for group in work.groups for photo in group]] if work else []
    specs = [spec(thing, recipe.row) for thing in recipe.things]
    return [own, specs, [described(bench, parent) for parent in recipe.parents]]


def training(bench: Bench, recipe: Recipe, start: Entry | None = None) -> job.Job:
    """The training of a recipe; without its start only its settings and photos count."""
    name = f"{recipe.name}+" if start else recipe.name
    if name not in bench.works:
        flags = dict(recipe.row.settings) | ({"style": True} if any(thing.style for thing in recipe.things) else {})
        specs = [spec(thing, recipe.row) for thing in recipe.things]
        bench.works[name] = job.job([thing.photos for thing in recipe.things], specs, name=recipe.name,
                                     base=bench.base.name, flags=flags, start=start)  # fmt: skip
    return bench.works[name]


def is_fresh(bench: Bench, recipe: Recipe) -> bool:
    """Whether the registry holds a recipe's concept, made of these weights, photos, settings and parents."""
    if recipe.name not in registry.names():
        return False
    manifest = registry.find(recipe.name).manifest
    if manifest is None or manifest.base.fingerprint != bench.base.fingerprint:
        return False
    if not all(is_fresh(bench, parent) for parent in recipe.parents):
        return False
    now = [hashlib.sha256(registry.find(one.name).path.read_bytes()).hexdigest() for one in recipe.parents]
    if [parent.get("sha256") for parent in manifest.parents] != now:
        return False
    work = training(bench, recipe) if recipe.things else None
    seen = tuple(photo.sha256 for group in work.groups for photo in group) if work else ()
    return work is None or (dict(manifest.settings) == asdict(work.settings) and manifest.photos == seen)


def ensure(bench: Bench, recipe: Recipe, cell: Cell) -> Iterator[Event]:
    """Make a concept and those it is made of, unless they are there."""
    if is_fresh(bench, recipe):
        return
    for parent in recipe.parents:
        yield from ensure(bench, parent, cell)
    if recipe.is_merge:
        _merge(bench, recipe)
        return
    start = registry.find(recipe.parents[0].name) if recipe.parents else None
    work = training(bench, recipe, start)
    for _ in run.draw_priors(work, bench.base, stop=bench.stop):
        pass
    learned, _ = run.subjects(work, bench.base)
    resume = run.checkpoint_path(work.name).is_file()
    try:
        for step in run.train(work, bench.base, learned, resume=resume, stop=bench.stop, force=True):
            if step.kind == "step":
                yield Event("step", cell.id, told=f"{recipe.name}  loss {step.loss:.3f}")
    except InterruptedRun as error:
        raise InterruptedRun(str(error), GO_ON) from None
    except InputError:
        if not resume:
            raise
        run.checkpoint_path(work.name).unlink(missing_ok=True)  # of other weights, photos or settings
        yield from ensure(bench, recipe, cell)


def cost(concepts: Sequence[Entry]) -> dict[str, float]:
    """What concepts took and take: seconds of training, as far as they are known, changed numbers, and megabytes."""
    if not concepts:
        return {}
    seconds = [float(registry.note(entry.name).get("seconds", 0)) for entry in concepts]
    shapes = [found for entry in concepts for found in read_header(entry.path)[1].items()]
    numbers = sum(math.prod(about.shape) for name, about in shapes if name.startswith(parameter_name("")))
    sizes = {"numbers": float(numbers), "megabytes": sum(entry.bytes for entry in concepts) / 1e6}
    return sizes | ({"seconds": sum(seconds)} if all(seconds) else {})


def _merge(bench: Bench, recipe: Recipe) -> None:
    from cdtool.merging import captions, merge
    from cdtool.models import pipelines

    folder = bases.locate(bench.base.name)
    texts = captions.read(captions.find(None, folder))
    loaded = pipelines.load(bench.base.name, precision="fp32", device="cpu", parts=("text",))
    key = captions.key_of(loaded, texts)
    if captions.stored(key) is None:
        for _ in captions.encode(loaded, texts, key):
            bench.check_stop()
    chosen = subject.find("+".join(parent.name for parent in recipe.parents), bench.base.name)
    merged = merge.merge(loaded, chosen, recipe.name, captions.known(loaded, texts))
    registry.save(merged.manifest, merged.tensors, force=True)
