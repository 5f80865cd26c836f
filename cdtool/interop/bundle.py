"""A concept made ready for other tools, and the files they read, published together."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from cdtool.errors import ConceptError, NameTakenError, NotFoundError, ResourceError
from cdtool.files import publish, workplace
from cdtool.models.deltas import Factors
from cdtool.store import bases, registry
from cdtool.store.concept import Manifest, row_name
from cdtool.store.families import read_json

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class BaseInfo:
    """What other tools need to know about a concept's base; `prediction` is "" for a base not on this machine."""

    source: str  # a hub id, or the path of a folder on this machine
    public: bool  # whether `source` means the same to others
    family: str
    prediction: str = ""
    layers: int = 2  # per block of the UNet


@dataclass(frozen=True)
class ExportBundle:
    """A concept as the writers of other formats need it: names, learned embeddings, and its changes."""

    stem: str  # what its files are called
    manifest: Manifest
    base_info: BaseInfo
    rows: Mapping[int, Mapping[str, Tensor]]  # by place of the token (from 0) and text encoder: [d] float32
    factors: Mapping[str, Factors] = field(default_factory=dict)  # by module, all of one precision
    full: Mapping[str, Tensor] = field(default_factory=dict)  # by parameter: W = W0 + dW
    tensors: Mapping[str, Tensor] = field(default_factory=dict)  # as the concept's own file holds them

    @property
    def rank(self) -> int:
        """The largest rank of the factors; 0 where there are none."""
        return max((factors.rank for factors in self.factors.values()), default=0)

    def word(self, place: int) -> str:
        """What a token is called where words are files: a name that is no word of any prompt, e.g. "dog-v1"."""
        return f"{registry.slug(self.stem)}-v{place + 1}"

    def prompt(self, say: Callable[[int], str]) -> str:
        """An example prompt; `say` writes the word of the token at a place."""
        parts = [f"{say(place)} {token.noun}" if token.modifier else token.noun
                 for place, token in enumerate(self.manifest.tokens)]  # fmt: skip
        if self.manifest.settings.get("style"):
            return f"painting in the style of {parts[0]}"
        return f"photo of a {' and a '.join(parts)}"

    def example(self, load: Sequence[str], prompt: str, needs: str = "") -> str:
        """Python that draws a prompt with plain diffusers, the lines `load` between the pipeline and the picture."""
        lines = [
            f"# {self.stem}, made with cdtool. Install: {' '.join(['diffusers', 'transformers', needs]).strip()}",
            "from diffusers import DDIMScheduler, DiffusionPipeline",
            f'pipe = DiffusionPipeline.from_pretrained("{self.base_info.source}")',
            # As `sample` draws; a config that lacks clip_sample would have DDIM clip its latents.
            "config = {**pipe.scheduler.config, 'clip_sample': False, 'set_alpha_to_one': False}",
            "pipe.scheduler = DDIMScheduler.from_config(config)",
            *load,
            f'image = pipe("{prompt}", num_inference_steps=50, guidance_scale=6.0, eta=1.0).images[0]',
            f'image.save("{self.stem}.png")',
        ]
        return "\n".join(lines)


@dataclass(frozen=True)
class File:
    """The content of a safetensors file."""

    tensors: Mapping[str, Tensor]
    metadata: Mapping[str, str] = field(default_factory=dict)


Kind = Literal["lora", "embedding", "bundle", "concept", "node"]  # what a file is to the tool that reads it


@dataclass(frozen=True)
class Written:
    """What a writer makes: files by name, and the words about them for whoever uses them."""

    files: Mapping[str, File]
    usage: str
    texts: Mapping[str, str] = field(default_factory=dict)  # files of text by name, which replace older ones
    kinds: Mapping[str, Kind] = field(default_factory=dict)  # of files and texts, where a tool looks for each kind


def base_info(manifest: Manifest, base: str) -> BaseInfo:
    """What other tools need to know about `base`, read off its configurations where it is on this machine."""
    hub_id = bases.ALIASES[base][0] if base in bases.ALIASES else base
    public = base != "mini" and bases.is_name(base)
    try:
        folder = bases.locate(base)
    except NotFoundError:
        return BaseInfo(hub_id, public, manifest.base.family)
    schedule = read_json(folder / "scheduler" / "scheduler_config.json")
    layers = read_json(folder / "unet" / "config.json").get("layers_per_block", 2)
    return BaseInfo(
        hub_id if public else str(folder), public, manifest.base.family,
        str(schedule.get("prediction_type", "epsilon")), layers if isinstance(layers, int) else int(layers[0]),
    )  # fmt: skip


def rows(manifest: Manifest, tensors: Mapping[str, Tensor]) -> dict[int, dict[str, Tensor]]:
    """The learned rows of a concept by place and text encoder, float32. Raises ConceptError where one is missing."""
    found = {}
    for place, token in enumerate(manifest.tokens):
        if token.modifier:
            start = row_name(place, "")
            found[place] = {name.removeprefix(start): tensors[name].float()
                            for name in sorted(tensors) if name.startswith(start)}  # fmt: skip
    encoders = {encoder for own in found.values() for encoder in own} or {"text_encoder"}
    if lacking := [place for place, own in found.items() if set(own) != encoders]:
        raise ConceptError(f'"{manifest.name}" has no learned row for its token {lacking[0] + 1}.', "Train it again.")
    return found


def stem(name: str) -> str:
    """What the files of a concept are called: its name, made plain where it is a file's."""
    return name if name in registry.names() else registry.slug(name)


def check_free(folder: Path, names: Mapping[str, object], *, force: bool) -> None:
    """Raises NameTakenError where one of the files is there already and `force` is not given."""
    if not force and (taken := [name for name in names if (folder / name).exists()]):
        raise NameTakenError(f"{folder / taken[0]} is there already.", "Choose another place with -o, or add --force.")


def put(written: Written, folder: Path, *, force: bool) -> list[Path]:
    """Write the files into `folder`, each whole or not at all; a folder that is new appears with all of them.

    Raises NameTakenError where one is there already, without `force`; ResourceError where they cannot be written.
    """
    check_free(folder, written.files, force=force)
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with workplace(folder if folder.is_dir() else folder.parent) as work:
            _write(written, work / "new")
            names = sorted(path.name for path in (work / "new").iterdir())
            if not folder.is_dir():
                (work / "new").rename(folder)
            else:
                for name in names:
                    _move(work / "new" / name, folder / name, force=force or name in written.texts)
    except OSError as error:
        raise ResourceError(
            f"{folder} cannot be written: {error.strerror or error}.", "Choose another with -o."
        ) from None
    return [folder / name for name in names]


def _write(written: Written, folder: Path) -> None:
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    folder.mkdir()
    try:
        for name, file in written.files.items():
            tensors = {key: tensor.contiguous().clone() for key, tensor in file.tensors.items()}
            (folder / name).touch()
            mode = (folder / name).stat().st_mode  # the user's own; safetensors lets nobody else read its files
            save_file(tensors, folder / name, metadata={"format": "pt", **file.metadata})
            (folder / name).chmod(mode)
    except SafetensorError as error:
        raise OSError(str(error)) from None
    for name, text in written.texts.items():
        (folder / name).write_text(text, encoding="utf-8")


def _move(source: Path, target: Path, *, force: bool) -> None:
    if force:
        source.replace(target)
    elif not publish(source, target):
        raise NameTakenError(f"{target} is there already.", "Choose another place with -o, or add --force.")
