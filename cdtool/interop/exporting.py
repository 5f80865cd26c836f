"""Exporting a concept: its changes as another tool's files hold them, whole or as factors of one rank."""

from __future__ import annotations

from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from cdtool.errors import BaseError, InputError, UsageError
from cdtool.interop import bundle, placing
from cdtool.interop.bundle import BaseInfo, ExportBundle
from cdtool.interop.formats import FORMATS, Format
from cdtool.interop.placing import Tool
from cdtool.models import deltas, denoiser, pipelines
from cdtool.models.deltas import Factors
from cdtool.store import concept
from cdtool.store.concept import parameter_name
from cdtool.store.registry import Concept


@dataclass(frozen=True)
class Step:
    """One matrix of an export done; the last step of all says where the files are and what they lost."""

    paths: tuple[Path, ...] = ()
    usage: str = ""
    rank: int = 0
    error: float = 0.0  # ‖dW - up down‖ / ‖dW‖ over all matrices, before rounding
    padding: int = 0  # ranks of zeros added, over all matrices, so that they have one rank


def steps(entry: Concept, to: str) -> int:
    """How many steps an export of a concept has."""
    if FORMATS[to].holds != "factors":
        return 1
    return len(deltas.changed_parameters(concept.read_header(entry.path)[1])) + 1


def export(
    entry: Concept,
    to: str,
    folder: Path,
    *,
    stem: str = "",
    base: str,
    rank: int | None = None,
    energy: float | None = None,
    tool: Tool | None = None,
    force: bool = False,
) -> Iterator[Step]:
    """Write a concept into `folder` as the format `to` of WRITTEN; its files begin with `stem`.

    Low-rank changes are written as they are; dense ones by SVD at the rank they need, at `rank`, or at the fewest
    ranks that keep the share `energy` of the singular values' sum. Whole weights need `base`, the concept's own. With
    `tool`, `folder` is where that program is installed, and each file goes where it looks for files of its kind.

    Raises InputError for changes the format cannot hold, BaseError for another base, NameTakenError for a file that
    is there without `force`, UsageError for a rank where the format has none and for a format the tool does not read.
    """
    row = FORMATS[to]
    assert row.write is not None
    assert entry.manifest is not None
    if row.holds != "factors" and (rank or energy):
        raise UsageError(
            f"{to} has no rank to choose: the matrices are written whole, or as the concept has them.",
            "Leave --rank and --energy out.",
        )
    tensors = concept.read_tensors(entry.path)
    names = deltas.changed_parameters(tensors)
    made = ExportBundle(
        stem or bundle.stem(entry.name), entry.manifest, bundle.base_info(entry.manifest, base),
        bundle.rows(entry.manifest, tensors),
    )  # fmt: skip
    for place, part in placing.parts(row.write(_hollow(made, names, row), ""), folder, tool).items():
        bundle.check_free(place, part.files, force=force)
    lost, padding = 0.0, 0
    if row.holds == "weights":
        made = replace(made, full=_whole(entry, base, names, tensors))
    elif row.holds == "concept":
        made = replace(made, tensors=tensors)
    else:
        made, lost, padding = yield from _with_factors(made, row, _factors(names, tensors, rank, energy))
    written = row.write(made, str(folder))
    if row.readme:
        shared = replace(made, base_info=_shared(made.base_info, entry.manifest.base.name))
        written = replace(written, texts={"README.txt": row.write(shared, folder.name).usage + "\n"})
    paths = [path for place, part in placing.parts(written, folder, tool).items()
             for path in bundle.put(part, place, force=force)]  # fmt: skip
    yield Step(tuple(paths), written.usage, made.rank, lost, padding)


def _with_factors(
    made: ExportBundle, row: Format, found: Iterable[tuple[str, Factors, float, float]]
) -> Generator[Step, None, tuple[ExportBundle, float, int]]:
    """The bundle with its matrices' factors; their relative error together, and the ranks that were padded."""
    parts = {}
    for module, factors, error, norm in found:
        parts[module] = (factors, error, norm)
        yield Step()
    each = _of_one_precision({module: factors for module, (factors, _, _) in parts.items()})
    made, padding = replace(made, factors=each), 0
    if not row.mixed_ranks:
        padding = made.rank * len(each) - sum(one.rank for one in each.values())
        made = replace(made, factors={module: deltas.padded(one, made.rank) for module, one in each.items()})
    norms = sum(norm for _, _, norm in parts.values())
    return made, (sum(error for _, error, _ in parts.values()) / norms) ** 0.5 if norms else 0.0, padding


def _hollow(made: ExportBundle, names: Sequence[str], row: Format) -> ExportBundle:
    """The bundle without its numbers: a writer of it names the files, and refuses parameters it cannot hold."""
    parameters = [name.removeprefix(parameter_name("")) for name in names]
    if row.holds == "concept":
        return made
    if row.holds == "weights":
        return replace(made, full={name: torch.empty(0) for name in parameters})
    for name in parameters:
        if not name.endswith(".weight"):
            raise InputError(f"The concept changes {name}, which a LoRA cannot hold.", "Try --to custom-diffusion.")
    return replace(made, factors={name: Factors(torch.empty(0, 0), torch.empty(0, 0)) for name in parameters})


def _shared(base_info: BaseInfo, name: str) -> BaseInfo:
    """What other people may read about the base: no folders of this machine."""
    return base_info if base_info.public else replace(base_info, source=f"the folder of {Path(name).name}")


def _factors(
    names: Sequence[str], tensors: Mapping[str, Tensor], rank: int | None, energy: float | None
) -> Iterator[tuple[str, Factors, float, float]]:
    """Per change its module, its factors, and the squared norms of what they lost and of all of it."""
    for name in names:
        change = deltas.read(tensors, name)
        module = name.removeprefix(parameter_name("")).removesuffix(".weight")
        shape = (change.up.shape[0], *change.down.shape[1:]) if isinstance(change, Factors) else tuple(change.shape)
        if len(shape) != 2:
            raise InputError(f"The concept changes {module}, which is no matrix; a LoRA of K/V cannot hold it.")
        if isinstance(change, Factors) and rank is None and energy is None:
            yield module, change, 0.0, 0.0
            continue
        spectrum = deltas.decompose(change)
        kept = rank or (deltas.rank_for(spectrum.s, energy) if energy else deltas.needed_rank(spectrum.s, shape))
        factors = deltas.truncate(spectrum, min(kept, len(spectrum.s)))
        squares = spectrum.s.double().square()
        yield (
            module,
            Factors(factors.up.half(), factors.down.half()),
            float(squares[factors.rank :].sum()),
            float(squares.sum()),
        )


def _of_one_precision(factors: Mapping[str, Factors]) -> dict[str, Factors]:
    """The same changes, all in float32 where one of them is."""
    if not any(torch.float32 in (each.up.dtype, each.down.dtype) for each in factors.values()):
        return dict(factors)
    return {module: deltas.balanced(each) for module, each in factors.items()}


def _whole(entry: Concept, base: str, names: Sequence[str], tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """W = W0 + dW in float32 by parameter."""
    assert entry.manifest is not None
    loaded = pipelines.load(base, device="cpu", parts=())
    if loaded.fingerprint != entry.manifest.base.fingerprint:
        raise BaseError(
            f'"{entry.name}" was trained on {entry.manifest.base.name}; the weights of {base} are others.',
            f"Use --base {entry.manifest.base.name}.",
        )
    parameters = {name.removeprefix(parameter_name("")): name for name in names}
    stored = denoiser.read_parameters(loaded.folder, parameters)
    changes = {parameter: deltas.dense(deltas.read(tensors, name)) for parameter, name in parameters.items()}
    return {parameter: stored[parameter].float() + change for parameter, change in changes.items()}
