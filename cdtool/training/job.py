"""A training as it is asked for, checked as far as that goes without torch."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cdtool import methods, sources
from cdtool.errors import ConceptError, InputError, SettingsError, TokenError, UsageError, nearest
from cdtool.settings import TrainSettings
from cdtool.store import bases, concept, registry
from cdtool.tokens import Token, parse_specs

if TYPE_CHECKING:
    from cdtool.images import photos
    from cdtool.store.registry import Concept


HIGH_RATE = 30.0  # times the usual rate, from which a training is warned of


@dataclass(frozen=True)
class Job:
    """What will be trained on what."""

    name: str
    base: str
    tokens: tuple[Token, ...]  # those of the concept it goes on from come first
    groups: tuple[tuple[photos.Photo, ...], ...]  # the photos of each token that is new
    skipped: tuple[photos.Skipped, ...]
    settings: TrainSettings  # steps are those of the whole run
    folders: tuple[str, ...]
    origins: Mapping[str, str] = field(default_factory=dict)  # where each setting came from
    halved: bool = False  # the steps are half as many because there is no prior
    start: Concept | None = None  # the concept it goes on from
    warnings: tuple[str, ...] = ()  # a sentence each, on what is unlikely to be meant

    @property
    def earlier(self) -> int:
        """How many tokens the concept it goes on from holds."""
        return len(self.start.manifest.tokens) if self.start and self.start.manifest else 0

    @property
    def new(self) -> tuple[Token, ...]:
        """The tokens that are trained."""
        return self.tokens[self.earlier :]


def job(
    paths: Sequence[Path],
    specs: Sequence[str],
    *,
    name: str | None,
    base: str,
    base_folder: Path | None = None,
    flags: Mapping[str, Any],
    start: Concept | None = None,
    like: Concept | None = None,
) -> Job:
    """Check what `train` was given; `start` is the concept to go on from, `like` one whose settings are taken over.

    Raises NotFoundError, UsageError, TokenError, SettingsError, PhotoError, ConceptError or InputError.
    """
    from cdtool.images import photos

    earlier = _tokens(start)
    tokens = parse_specs(specs, first=len(earlier) + 1)
    _check_tokens(tokens, earlier, len(paths))
    given = (f"like {like.name}", settings_of(like)) if like else None
    _check_names(flags)
    folder = base_folder or bases.locate(base)
    chosen, found = sources.resolve(TrainSettings, flags, folder, like=given)
    steps, halved = _steps(chosen, len(tokens), found["steps"].origin)
    chosen = _focused(chosen, [name for name, value in found.items() if value.origin == "flag"])
    _check_method(chosen, tokens, start)
    groups = [paths] if len(tokens) == 1 else [[path] for path in paths]
    usable = [photos.find(group, resolution=chosen.resolution or bases.describe(folder).resolution) for group in groups]
    own = name or "-".join([*([start.name] if start else []), *(registry.slug(token.noun) for token in tokens)])
    registry.check_name(own)
    return Job(
        name=own,
        base=base,
        tokens=earlier + tokens,
        groups=tuple(tuple(good) for good, _ in usable),
        skipped=tuple(item for _, skipped in usable for item in skipped),
        settings=replace(chosen, steps=steps),
        folders=tuple(str(path.resolve()) for path in paths),
        origins={name: value.origin for name, value in found.items()},
        halved=halved,
        start=start,
        warnings=(
            *_warnings(chosen, [good for good, _ in usable], folder),
            *_without_effect(chosen, tokens, [name for name, value in found.items() if value.origin == "flag"]),
        ),
    )


def _focused(chosen: TrainSettings, given: Collection[str]) -> TrainSettings:
    """Settings of a focused training where they were not given.

    Prompts without the concept's words cannot change, so class images and the empty prompt need no keeping; a step has
    as many photos as it would have beside class images.
    """
    if not chosen.focus:
        return chosen
    if chosen.prior == "auto" and "prior" not in given:
        chosen = replace(chosen, prior="none", batch=max(1, chosen.batch // 2))
    return chosen if "preserve_uncond" in given else replace(chosen, preserve_uncond=0.0)


def _check_names(flags: Mapping[str, Any]) -> None:
    known = [field.name for field in fields(TrainSettings)]
    for name in flags:
        if name not in known:
            raise SettingsError(f'There is no training setting "{name}".', nearest(name, known))


def _warnings(chosen: TrainSettings, groups: Sequence[Sequence[photos.Photo]], folder: Path) -> Iterator[str]:
    """What can be trained but is unlikely to turn out well."""
    if any(len(group) == 1 for group in groups):
        yield "There is a single photo; the concept will hardly be told from its background. Give 4 to 10."
    usual = sources.resolve(TrainSettings, {"method": chosen.method}, folder)[0].lr
    if chosen.lr > HIGH_RATE * usual:
        times = f"{chosen.lr / usual:.0f} times the usual {usual:g}"
        yield f"The rate {chosen.lr:g} is {times}; the concept may come out as noise."


def _without_effect(chosen: TrainSettings, tokens: Sequence[Token], given: Collection[str]) -> Iterator[str]:
    """A sentence for each option that was given but that this training does not read."""
    if "rank" in given and not methods.METHODS[chosen.method].low_rank:
        yield f"--rank has no effect with --method {chosen.method}; only lora has a rank."
    if "preserve_uncond" in given and chosen.preserve_uncond and methods.words_only(chosen.method):
        yield f"--preserve-uncond has no effect with --method {chosen.method}, which trains no keys and values."
    if "token_lr" in given and (chosen.freeze_token or not any(token.modifier for token in tokens)):
        yield "--token-lr has no effect: no modifier token is trained."


def base_name(flag: str | None, start: Concept | None = None, like: Concept | None = None) -> str:
    """The base to train on: the flag's, that of the concept to go on from, of the one to be like, or the one in use."""
    of = start or like
    return flag or (registry.base_of(of) if of else str(sources.base_name().value))


def _steps(chosen: TrainSettings, tokens: int, origin: str) -> tuple[int, bool]:
    """Steps of the whole run, and whether they are half as many because every picture of a step is then a target."""
    steps = chosen.steps * tokens
    usual = methods.METHODS[chosen.method].defaults.get("prior")
    halved = chosen.prior == "none" and usual != "none" and origin != "flag" and not origin.startswith("like ")
    return (max(1, steps // 2), True) if halved else (steps, False)


def _tokens(start: Concept | None) -> tuple[Token, ...]:
    if start is None:
        return ()
    if start.manifest is None:
        raise ConceptError(start.problem, f"Remove it: cdtool remove {start.name}")
    return start.manifest.tokens


def _check_tokens(tokens: Sequence[Token], earlier: Sequence[Token], folders: int) -> None:
    if not tokens:
        raise UsageError("What the photos show has no name yet.", 'Give it one: --token "V* dog".')
    if len(tokens) > 1 and len(tokens) != folders:
        raise UsageError(f"{len(tokens)} tokens need as many folders, not {folders}.", "Give a folder per --token.")
    plain = {token.noun for token in earlier if not token.modifier}
    for place, token in enumerate(tokens, len(earlier) + 1):
        if not token.modifier and token.noun in plain:
            raise TokenError(
                f'The concept holds the plain word "{token.noun}" already.', f'Use --token "V{place} {token.noun}".'
            )


def _check_method(chosen: TrainSettings, tokens: Sequence[Token], start: Concept | None) -> None:
    """Raises UsageError where a method has nothing to learn, or cannot go on from that concept."""
    rows = [token for token in tokens if token.modifier and not chosen.freeze_token]
    if methods.words_only(chosen.method) and len(rows) < len(tokens):
        raise UsageError(
            f"--method {chosen.method} learns a modifier token and nothing else.", 'Name it: --token "V* dog".'
        )
    if any((chosen.focus, chosen.lock, chosen.prior == "text")) and not methods.keys_and_values_only(chosen.method):
        raise UsageError(
            "--focus, --lock and --prior text are about keys and values, and "
            f"{chosen.method} trains {methods.METHODS[chosen.method].trains}.",
            "Use --method kv or lora.",
        )
    if chosen.focus and start:
        raise UsageError("--focus begins at the base, not at a concept.", "Train them alone and merge them.")
    before = start.manifest.method if start and start.manifest else "kv"
    if start and methods.METHODS[chosen.method].low_rank:
        raise UsageError("Low-rank factors begin at the base, not at a concept.", "Go on with --method kv.")
    if methods.beyond_kv(before) and chosen.method != before:
        raise UsageError(
            f'"{start.name if start else ""}" was trained by {before}, which changes more than {chosen.method} does.',
            f"Go on with --method {before}.",
        )


def settings_of(entry: Concept) -> dict[str, Any]:
    """The training settings a concept's manifest holds, with the steps per token as a user gives them.

    Raises InputError for a concept that was not trained here.
    """
    manifest = entry.manifest
    if manifest is None:
        raise ConceptError(entry.problem, f"Remove it: cdtool remove {entry.name}")
    names = {field.name for field in fields(TrainSettings)}
    known = {name: value for name, value in manifest.settings.items() if name in names}
    if manifest.method not in methods.METHODS or not {"steps", "lr"} <= known.keys():
        raise InputError(f'"{entry.name}" was not trained here; it has no settings to take over.', "See: cdtool list")
    trained = len(manifest.tokens) - sum(len(parent["tokens"]) for parent in continued(manifest))
    return known | {"steps": max(1, round(int(known["steps"]) / max(1, trained)))}


def continued(manifest: concept.Manifest) -> list[Mapping[str, Any]]:
    """The parents whose tokens a training carried over."""
    return [parent for parent in manifest.parents if parent.get("by") == "train"]
