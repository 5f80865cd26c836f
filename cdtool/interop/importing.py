"""Importing a concept: other tools' files read as changes of a base's K/V and learned words."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from cdtool.errors import BaseError, InputError, TokenError
from cdtool.interop import files as foreign
from cdtool.interop.files import Content, Layout, ParsedCheckpoint
from cdtool.interop.formats import FORMATS, Format
from cdtool.models import deltas, denoiser, initializers
from cdtool.models.deltas import Factors
from cdtool.models.pipelines import Base
from cdtool.store import bases
from cdtool.store.concept import BaseRef, Manifest, parameter_name, row_name
from cdtool.store.families import FAMILIES, read_json
from cdtool.tokens import Token

STRANGE = 0.5  # ‖W - W0‖ / ‖W0‖ above this and W was hardly trained on W0: fine-tuning moves some percent


@dataclass(frozen=True)
class Brought:
    """A concept read from other tools' files, not saved yet, and what may not be meant about it."""

    manifest: Manifest
    tensors: Mapping[str, Tensor]
    label: str
    remarks: tuple[str, ...]


def bring(paths: Sequence[Path], base: Base, tokens: Sequence[Token], name: str) -> Brought:
    """Read other tools' files as one concept on `base`, which needs its K/V and its tokenizers.

    Raises InputError for files that are damaged, unknown or hold what a concept cannot, BaseError for those of
    another base, TokenError where `tokens` are not as many as the learned words.
    """
    per_block = base.unet_config.get("layers_per_block", 2)
    layout = Layout(tuple(base.kv), per_block if isinstance(per_block, int) else int(per_block[0]))
    contents = [foreign.read(path) for path in paths]
    kinds = [_kind(content) for content in contents]
    read = [kind.read(content, layout) for kind, content in zip(kinds, contents, strict=True) if kind.read]
    found = _together(read, contents)
    told = ", ".join(content.file for content in contents)
    own = initializers.assign(base.tokenizers, tokens)
    rows = _rows(found.rows, base, own)
    tensors, remarks = _changes(found, base, told)
    label = ", ".join(dict.fromkeys(kind.label for kind in kinds))
    where = BaseRef(base.name, base.family.name, base.fingerprint)
    parent = {"by": "import", "format": label, "file": told}
    manifest = Manifest(name, where, own, _method(found, base), parents=(parent,))
    return Brought(manifest, tensors | rows, label, tuple(remarks))


def _kind(content: Content) -> Format:
    readable = [row for row in FORMATS.values() if row.knows]
    for row in readable:
        if row.knows and row.knows(content.tensors):
            return row
    known = ", ".join(row.label for row in readable)
    raise InputError(f"{content.file} is in no format cdtool reads.", f"It reads: {known}, and its own.")


def _together(parts: Sequence[ParsedCheckpoint], contents: Sequence[Content]) -> ParsedCheckpoint:
    """What several files hold; weights come from one of them. Raises InputError for two sets of weights."""
    weighty = [content.file for part, content in zip(parts, contents, strict=True) if part.full or part.changes]
    if len(weighty) > 1:
        raise InputError(f"{weighty[0]} and {weighty[1]} both hold weights.", "Import one of them, with its words.")
    found = ParsedCheckpoint()
    for part in parts:
        found.full.update(part.full)
        found.changes.update(part.changes)
        for word, rows in part.rows.items():
            found.rows.setdefault(word, []).extend(rows)
    return found


def _method(found: ParsedCheckpoint, base: Base) -> str:
    changed = {name.removesuffix(".weight") for name in (*found.full, *found.changes)}
    if not changed:
        return "textual-inversion"
    return "kv" if changed <= set(base.kv) else "crossattn"


# ---------------------------------------------------------------- weights


def _changes(found: ParsedCheckpoint, base: Base, files: str) -> tuple[dict[str, Tensor], list[str]]:
    """The tensors of the changes, and a remark where they are too large to be a fine-tuning of this base.

    Raises BaseError for shapes of another base, InputError where whole K/V are missing.
    """
    given: dict[str, Tensor | Factors] = {**found.full, **found.changes}
    if not given:
        return {}, []
    stored = {f"{module}.weight": weight for module, weight in base.kv.items()}
    stored |= denoiser.read_parameters(base.folder, [name for name in given if name not in stored])
    tensors, squares = {}, torch.zeros(2, dtype=torch.float64)
    for name, weight in stored.items():
        change = given.get(name)
        if change is None and found.full:
            raise InputError(f"{files} holds no weights of {name}.", "Give the files that the training wrote.")
        _check_shape(name, change, weight, base, files)
        if isinstance(change, Tensor):
            moved = change.float() - weight.float()
            squares += torch.stack([moved.double().square().sum(), weight.double().square().sum()])
            tensors[parameter_name(name)] = moved.half()
        else:
            none = Factors(weight.new_zeros(weight.shape[0], 1), weight.new_zeros(1, weight.shape[1]))
            tensors |= _low_rank(parameter_name(name), change or none, weight.numel())
    relative = float((squares[0] / squares[1]).sqrt()) if found.full else 0.0
    far = f"These weights differ from those of {base.name} by {relative:.0%}: were they trained on another base?"
    return tensors, [far] if relative > STRANGE else []


def _low_rank(name: str, factors: Factors, numbers: int) -> dict[str, Tensor]:
    """Factors as they are, in a precision concepts have; multiplied out where the whole matrix is smaller in fp16."""
    halves = all(factor.dtype == torch.float16 for factor in factors)
    up, down = factors if halves else (factors.up.float(), factors.down.float())
    if up.nbytes + down.nbytes > 2 * numbers:
        return {name: deltas.dense(factors).half()}
    return {f"{name}.up": up, f"{name}.down": down}


def _check_shape(name: str, change: Tensor | Factors | None, weight: Tensor, base: Base, files: str) -> None:
    if change is None:
        return
    shape = (change.up.shape[0], change.down.shape[1]) if isinstance(change, Factors) else tuple(change.shape)
    if shape != tuple(weight.shape):
        raise BaseError(
            f"{files} belongs to another base: its {name} is {_sides(shape)}, that of {base.name} "
            f"{_sides(tuple(weight.shape))}.",
            _bases_like(shape[-1]),
        )


def _sides(shape: tuple[int, ...]) -> str:
    return "x".join(map(str, shape))


def _bases_like(width: int) -> str:
    """A hint naming public bases by their text width."""
    families = {family.name for family in FAMILIES if family.width == width} | ({"sdxl"} if width == 2048 else set())
    names = [name for name in bases.ALIASES if any(name.startswith(family) for family in families)]
    return f"Name the base it was trained on: --base {names[0] if names else 'NAME'}"


# ---------------------------------------------------------------- words


def _rows(found: Mapping[str, Sequence[Tensor]], base: Base, tokens: Sequence[Token]) -> dict[str, Tensor]:
    """The tensors of the learned words, in the natural order of what the files call them: `<new2>` before `<new10>`."""
    words = sorted(found, key=foreign.natural)
    places = [place for place, token in enumerate(tokens) if token.modifier]
    if len(words) != len(places):
        raise _miscounted(words, tokens)
    tensors: dict[str, Tensor] = {}
    for word, place in zip(words, places, strict=True):
        rows = _by_encoder(word, found[word], base)
        tensors |= {row_name(place, encoder): row for encoder, row in rows.items()}
    return tensors


def _miscounted(words: Sequence[str], tokens: Sequence[Token]) -> TokenError:
    nouns = [token.noun for token in tokens]
    if not words:
        return TokenError(
            "The files hold no learned word, so a modifier would stand for nothing.", f'Write --token "{nouns[0]}".'
        )
    if len(words) == 1:
        return TokenError(
            f"The files hold one learned word ({words[0]}), so one token has a modifier.",
            f'Write --token "V* {nouns[0]}".',
        )
    nouns += ["NOUN"] * (len(words) - len(nouns))
    specs = " ".join(f'--token "V{place} {noun}"' for place, noun in enumerate(nouns[: len(words)], 1))
    return TokenError(
        f"The files hold {len(words)} learned words ({', '.join(words)}), so as many tokens have a modifier.",
        f"Write {specs}.",
    )


def _by_encoder(word: str, rows: Sequence[Tensor], base: Base) -> dict[str, Tensor]:
    """The rows of a word by text encoder, told by their widths. Raises BaseError where they are not the base's."""
    widths = {encoder: int(read_json(base.folder / encoder / "config.json")["hidden_size"])
              for encoder in base.family.encoders}  # fmt: skip
    left, found = list(rows), {}
    for encoder, width in widths.items():
        fits = next((place for place, row in enumerate(left) if row.shape[0] == width), None)
        if fits is not None:
            found[encoder] = left.pop(fits)
    if left or len(found) < len(widths):
        told, wanted = " and ".join(str(row.shape[0]) for row in rows), " and ".join(map(str, widths.values()))
        raise BaseError(
            f"The word {word} has {told} numbers, a word of {base.name} {wanted}.",
            "Name the base it was trained on: --base NAME",
        )
    return found
