"""The families of bases, read from a pipeline's configuration files; what cannot be used is refused with the reason."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from cdtool.errors import BaseError
from cdtool.files import parse_json


@dataclass(frozen=True)
class Family:
    """One kind of base; everything that differs between kinds is a column here."""

    name: str
    pipelines: tuple[str, ...]  # class names in model_index.json
    width: int  # text width d; 0 is any
    encoders: tuple[str, ...] = ("text_encoder",)
    tokenizers: tuple[str, ...] = ("tokenizer",)
    penultimate: bool = False  # text features are the last but one hidden states, without the final norm
    conditioned: bool = False  # pooled text and image sizes enter the time embedding


_SD = ("StableDiffusionPipeline", "StableDiffusionInpaintPipeline")
_SDXL: dict[str, Any] = {
    "pipelines": ("StableDiffusionXLPipeline", "StableDiffusionXLInpaintPipeline"),
    "encoders": ("text_encoder", "text_encoder_2"),
    "tokenizers": ("tokenizer", "tokenizer_2"),
    "penultimate": True,
    "conditioned": True,
}
FAMILIES = (
    Family("sd1", _SD, 768),
    Family("sd2", _SD, 1024),
    Family("sd", _SD, 0),  # the same design in other sizes
    Family("sdxl", width=0, **_SDXL),
)
USABLE = "Use a Stable Diffusion 1.x, 2.x or SDXL pipeline: cdtool base list"

_JOINT = "its transformer attends to text and image together, so no keys and values are fed by text alone"
_OWN_TEXT = "its text encoder is not CLIP, so a modifier token has no place in it"
# Pipeline classes that cannot be used, by how their names begin.
_REFUSED = {
    "Flux": _JOINT,
    "StableDiffusion3": _JOINT,
    "AuraFlow": _JOINT,
    "QwenImage": _JOINT,
    "PixArt": _OWN_TEXT,
    "Sana": _OWN_TEXT,
    "HunyuanDiT": _OWN_TEXT,
    "Kolors": _OWN_TEXT,
    "Lumina": _OWN_TEXT,
    "Kandinsky": "its denoiser is fed by image embeddings of a separate prior",
    "StableCascade": "its denoiser is fed by image embeddings of a separate prior",
    "IF": "it has no latent space, and its text encoder is not CLIP",
    "StableDiffusionXLImg2Img": "it is a refiner, which takes over half-denoised images and has one text encoder",
    "StableDiffusionInstructPix2Pix": "it edits a given image and cannot sample from text alone",
    "StableDiffusionUpscale": "it enlarges a given image and cannot sample from text alone",
    "LatentConsistencyModel": "it is distilled to take the guidance scale as an input, which the loss does not know",
}
_PREDICTIONS = ("epsilon", "v_prediction")


class Configs(NamedTuple):
    """What a base's configuration files say."""

    family: Family
    unet: dict[str, Any]
    scheduler: dict[str, Any]

    @property
    def inpainting(self) -> bool:
        """Whether the denoiser also takes a mask and the latents of the masked image."""
        return bool(self.unet.get("in_channels", 4) == 2 * self.unet.get("out_channels", 4) + 1)


def read(folder: Path) -> Configs:
    """The family and configurations of a base folder. Raises BaseError for what can neither train nor sample."""
    index = read_json(folder / "model_index.json")
    name = check_class(index)
    unet, scheduler = (_component(folder, part) for part in ("unet", "scheduler"))
    _check_unet(name, unet)
    _check_scheduler(name, scheduler)
    width = unet.get("cross_attention_dim")
    family = next(row for row in FAMILIES if name in row.pipelines and row.width in (0, width))
    if missing := [part for part in family.encoders if part in index and not index[part][0]]:
        raise BaseError(f"This {name} has no {missing[0]}, so it cannot be prompted.", USABLE)
    return Configs(family, unet, scheduler)


def check_class(index: dict[str, Any]) -> str:
    """The pipeline class that a model_index.json names. Raises BaseError, with the reason, for one we cannot use."""
    name = str(index.get("_class_name", "unknown"))
    if any(name in family.pipelines for family in FAMILIES):
        denoiser = (index.get("unet") or [None, None])[1]
        if denoiser not in (None, "UNet2DConditionModel"):
            raise BaseError(f"This {name} has a {denoiser} as its denoiser, which cdtool does not know.", USABLE)
        return name
    reason = next((text for start, text in _REFUSED.items() if name.startswith(start)), "")
    known = ", ".join(sorted({pipeline for family in FAMILIES for pipeline in family.pipelines}))
    raise BaseError(f"A {name} cannot be a base: {reason or f'cdtool knows {known}'}.", USABLE)


def check_trainable(name: str, configs: Configs) -> None:
    """Raises BaseError for a base that samples but cannot be trained on; `name` is what the user calls it."""
    if configs.inpainting:
        raise BaseError(
            f'"{name}" is an inpainting base: its UNet also takes a masked image, so photos alone cannot train it.',
            f"Train on the base it was made from, then: cdtool sample CONCEPT PROMPT --base {name} --force",
        )


def read_json(path: Path) -> dict[str, Any]:
    """A configuration file of a base. Raises BaseError for a missing or damaged one."""
    try:
        table = parse_json(path)
    except (OSError, ValueError) as error:
        raise BaseError(f"{path} cannot be read: {error}.", "Fetch or copy the base again.") from None
    if not isinstance(table, dict):
        raise BaseError(f"{path} is not a configuration.", "Fetch or copy the base again.")
    return table


def _component(folder: Path, part: str) -> dict[str, Any]:
    name = "scheduler_config.json" if part == "scheduler" else "config.json"
    if not (folder / part / name).is_file():
        raise BaseError(f"{folder} is not a complete diffusers folder: {part}/{name} is missing.",
                        "Fetch or copy it again.")  # fmt: skip
    return read_json(folder / part / name)


def _check_unet(name: str, unet: dict[str, Any]) -> None:
    taken, made = (unet.get(key, 4) for key in ("in_channels", "out_channels"))
    if not (isinstance(taken, int) and isinstance(made, int)):
        raise BaseError(f"The UNet's configuration of this {name} is damaged.", "Fetch or copy it again.")
    if taken not in (made, 2 * made + 1):
        raise BaseError(
            f"This {name}'s UNet takes {taken} channels and makes {made}: it edits or enlarges a given image and "
            "cannot sample from text alone.", USABLE,
        )  # fmt: skip
    if unet.get("time_cond_proj_dim") is not None:
        reason = _REFUSED["LatentConsistencyModel"]
        raise BaseError(f"This {name}'s UNet cannot be a base: {reason}.", "Use the base it was distilled from.")


def shrinking(config: dict[str, Any]) -> int:
    """By how much an autoencoder or a UNet makes a side smaller: twice per block but the last. Raises BaseError."""
    blocks = config.get("block_out_channels")
    if not isinstance(blocks, list) or not 0 < len(blocks) <= 16:
        raise BaseError("A configuration of the base does not tell its block_out_channels.", "Fetch or copy it again.")
    return int(2 ** (len(blocks) - 1))


def resolution(unet: dict[str, Any], factor: int) -> int:
    """The side of the pictures a base was trained on, px. Raises BaseError where its configuration does not tell."""
    side = unet.get("sample_size")
    if not isinstance(side, int) or not 0 < side <= 4096:
        raise BaseError("The UNet's configuration does not tell its sample_size.", "Fetch or copy the base again.")
    return side * factor


def _check_scheduler(name: str, scheduler: dict[str, Any]) -> None:
    cls = str(scheduler.get("_class_name", ""))
    if cls.startswith("FlowMatch") or scheduler.get("use_flow_sigmas"):
        raise BaseError(f"This {name} is a flow-matching model ({cls}), which has another loss than ours.", USABLE)
    if cls.startswith("EDM"):
        raise BaseError(f"This {name} has EDM preconditioning ({cls}), which has another loss than ours.", USABLE)
    prediction = scheduler.get("prediction_type", "epsilon")
    if prediction not in _PREDICTIONS:
        raise BaseError(f'This {name} predicts "{prediction}"; cdtool knows {" and ".join(_PREDICTIONS)}.', USABLE)
