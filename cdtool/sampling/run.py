"""Sampling from names to images: what to sample is checked before anything is loaded, then sampled step by step."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, TypedDict, Unpack

from cdtool import settings, sources
from cdtool.errors import InputError, UsageError
from cdtool.models.libraries import quietly
from cdtool.settings import Precision, SampleSettings, Scheduler
from cdtool.store import bases, loras, subject
from cdtool.tokens import Prompt, bind_weighted, capitalised

if TYPE_CHECKING:
    from cdtool.sampling.records import Images, InitImage, Record, SampledImage
    from cdtool.store.registry import Concept
    from cdtool.store.subject import Composition


WITH_ETA = ("ddim", "ddim-trailing", "tcd")  # the schedulers that read eta


class SampleOptions(TypedDict, total=False):
    """The options of `sample`; what is left out, or None, has its default."""

    seed: int | None
    steps: int | None
    guidance: float | None
    scheduler: Scheduler | None
    eta: float | None
    negative: str | None
    size: str | None
    precision: Precision | None
    memory: str | None
    compile: bool | None
    vae: str | None
    lora: str | None
    batch: int | None
    base: str | None
    device: str
    force: bool
    init_image: str | Path | None
    strength: float | None


@dataclass(frozen=True)
class Plan:
    """What will be sampled, and how."""

    subject: Composition
    prompts: tuple[Prompt, ...]
    settings: SampleSettings
    device: str = "auto"
    force: bool = False
    record: Record | None = None  # of the image that is made again
    skip: frozenset[tuple[str, int]] = frozenset()  # prompts and seeds of images that are there already
    init: dict[str, Any] | None = None  # the image to begin with, as the record has it
    offload: bool = False  # the denoiser is freed while images are decoded, to save memory
    without_effect: tuple[str, ...] = ()  # a sentence for each option that was given in vain

    @property
    def total(self) -> int:
        """How many images it makes."""
        seeds = range(self.settings.seed, self.settings.seed + self.settings.count)
        return sum((prompt.text, seed) not in self.skip for prompt in self.prompts for seed in seeds)

    def warnings(self) -> list[str]:
        """What may not be meant: options without effect, prompts that name no token or not all of several concepts."""
        tokens = self.subject.tokens
        taught = {index for index, token in enumerate(tokens) if not token.erased}  # what is erased need not be named
        words = [f'"{token.words(number if len(tokens) > 1 else None)}"' for number, token in enumerate(tokens, 1)]
        found = list(self.without_effect)
        for prompt in self.prompts:
            if taught and not prompt.named:
                meant = f' Is "{capitalised(prompt.text)}" meant?' if capitalised(prompt.text) else ""
                found.append(f'"{prompt.text}" names no token of the concept; it holds {" or ".join(words)}.{meant}')
            elif len(self.subject.parts) > 1 and (missing := taught - prompt.named):
                unnamed = " and ".join(words[index] for index in sorted(missing))
                found.append(f'"{prompt.text}" does not name {unnamed}, which will not show.')
        return found


class SampleStep(NamedTuple):
    """How far sampling is, in denoising steps of images, and the images and the warnings that have come with it."""

    done: int
    total: int
    images: tuple[SampledImage, ...] = ()
    warnings: tuple[str, ...] = ()


def sample(
    concept: str | Path | Concept,
    prompts: str | Sequence[str],
    *,
    n: int | None = None,
    **options: Unpack[SampleOptions],
) -> Images:
    """Sample images of a concept, of several together, or of a bare base.

    Args:
        concept: a concept, its name or file, several joined ("dog+moongate", "dog:0.8+cat"), or a base's name.
        prompts: one or several; `V*` is the concept's token, `V1`, `V2`... the tokens of several in order.
        n: images per prompt, 4.
        seed: of the first image of every prompt, 0; the next ones count up.
        steps: denoising steps, 50.
        guidance: how strongly images follow the prompt, 6.0; 1 or less is the conditional prediction alone.
        scheduler: "ddim", "ddpm", "dpm++", "dpm++-sde", "euler", "euler-a", "unipc" or "pndm"; ddim.
        eta: noise of ddim and tcd, 1.0 (as ddpm); 0 is none.
        negative: what images lead away from; nothing.
        size: "WIDTHxHEIGHT" in px; the base's own.
        precision: "fp32", "bf16", "fp16", or "auto", what the device has.
        memory: what may be used, like "8GB"; what the device has free.
        compile: the denoiser's blocks by torch.compile, slow at first and faster then; False.
        vae: another autoencoder, a folder or a single file; the base's own.
        lora: other tools' LoRA files over the base, like "style.safetensors:0.7", several with commas; none.
        batch: images sampled at once, 4; no image depends on it.
        base: another base than the concept's own, which `force` must allow.
        device: "cpu", "cuda", "cuda:1", "mps" or "auto".
        force: let a base with other weights of the same shapes pass.
        init_image: a file to begin with in place of noise alone, cut to the size.
        strength: the share of the steps that change it, above 0 and up to 1; 0.6.

    Returns the images in the order of the prompts, each with its prompt, seed and record.

    Raises NotFoundError for an unknown concept or base, TokenError for a modifier token that the concept does not
    hold, SettingsError, BaseError for another base, ConceptError for concepts that cannot be joined or are damaged.
    """
    from cdtool.sampling.records import Images

    return Images(image for step in iter_sample(concept, prompts, n=n, **options) for image in step.images)


def iter_sample(
    concept: str | Path | Concept,
    prompts: str | Sequence[str],
    *,
    n: int | None = None,
    **options: Unpack[SampleOptions],
) -> Iterator[SampleStep]:
    """As `sample`, yielding after every denoising step, with the images that it finished."""
    return run(plan(concept, prompts, n=n, **options))


def plan(
    concept: str | Path | Concept,
    prompts: str | Sequence[str],
    *,
    n: int | None = None,
    base: str | None = None,
    device: str = "auto",
    force: bool = False,
    init_image: str | Path | None = None,
    strength: float | None = None,
    **flags: Any,
) -> Plan:
    """Check what can be checked before anything is loaded; `flags` are sampling settings. See `sample`."""
    sources.check_flags(SampleSettings, flags)
    found = subject.find(subject.text_of(concept), base, force=force)
    chosen, origins = sources.resolve(SampleSettings, {"count": n, **flags}, bases.locate(found.base))
    texts = [prompts] if isinstance(prompts, str) else list(prompts)
    if not texts:
        raise UsageError("There is no prompt.", 'Like: cdtool sample dog "V* dog on the beach".')
    loras.parse(chosen.lora)
    bind_weighted(chosen.negative, found.tokens)  # what it cannot hold is told before anything is loaded
    bound = tuple(bind_weighted(text, found.tokens) for text in texts)
    given = [name for name, value in origins.items() if value.origin == "flag"]
    init = _about_init(init_image, strength)
    return Plan(found, bound, chosen, device, force, without_effect=tuple(_without_effect(chosen, given)), init=init)


def _about_init(path: str | Path | None, strength: float | None) -> dict[str, Any] | None:
    from cdtool.sampling import records

    if path is None:
        if strength is not None:
            raise UsageError("--strength has no meaning without an image to begin with.", "Add --init-image FILE.")
        return None
    share = {} if strength is None else {"strength": strength}
    return records.about_init(records.InitImage(Path(path), **share))


def _without_effect(chosen: SampleSettings, given: Collection[str]) -> Iterator[str]:
    """A sentence for each option that was given but that the others leave without effect."""
    if "eta" in given and chosen.scheduler not in WITH_ETA:
        yield f"--eta has no effect with --scheduler {chosen.scheduler}; {', '.join(WITH_ETA)} read it."
    if "negative" in given and chosen.negative and not settings.guided(chosen.guidance):
        yield f"--negative has no effect with --guidance {chosen.guidance:g}; it needs one above 1."


def replay(
    path: Path, concept: str | None = None, *, base: str | None = None, device: str = "auto", force: bool = False
) -> Plan:
    """The plan that makes the image in a file again.

    Raises InputError for a file without a record, and what `plan` raises.
    """
    from cdtool.sampling import records

    record, chosen = records.read(path)
    found = subject.find(concept or record.subject, base or record.base, force=force)
    found = replace(found, base=base or record.base)  # of a bare base too
    return Plan(found, (bind_weighted(record.prompt, found.tokens),), chosen, device, force, record, init=record.init)


@quietly()
def run(plan: Plan) -> Iterator[SampleStep]:
    """Carry out a plan, yielding after every denoising step; the first step has the warnings alone.

    Raises ResourceError where an image does not fit into memory, BaseError where the base is not the concept's,
    InputError where it is not that of the image made again.
    """
    from cdtool.models import pipelines
    from cdtool.sampling import memory, records
    from cdtool.sampling import sample as sampling

    plan, fitted = memory.fit_plan(plan)
    base = pipelines.for_sampling(plan.subject.base, plan.settings, plan.device, sparing=True)
    base.offload = plan.offload
    if plan.record and plan.record.fingerprint != base.fingerprint and not plan.force:
        raise InputError(
            f"The image was made on {plan.record.base}; {base.name} has other weights.",
            f"Use --base {plan.record.base}.",
        )
    if plan.record and plan.record.lora != base.lora_sha256:
        raise InputError(f"{plan.settings.lora} is not what it was when the image was made.", "Bring that file back.")
    subject, warnings = plan.subject, [*plan.warnings(), *fitted]
    for step in sampling.steps(
        base, subject.concepts, plan.prompts, plan.settings, weights=subject.weights, force=plan.force, skip=plan.skip,
        init=_init(plan),
    ):  # fmt: skip
        images = tuple(records.sampled(one, subject.text, base, plan.settings, plan.init) for one in step.images)
        yield SampleStep(step.done, step.total, images, (*warnings, *step.warnings))
        warnings = []


def _init(plan: Plan) -> InitImage | None:
    """The image to begin with. Raises InputError where its file is not what it was."""
    from cdtool.sampling import records

    if plan.init is None:
        return None
    init = records.InitImage(Path(plan.init["file"]), float(plan.init["strength"]))
    if records.about_init(init)["sha256"] != plan.init["sha256"]:
        raise InputError(f"{init.path} is another image than the one this began with.", "Bring the first one back.")
    return init
