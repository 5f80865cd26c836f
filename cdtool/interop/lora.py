"""LoRA files: PEFT's names, as diffusers reads them, and kohya's, as A1111, ComfyUI and kohya's scripts do."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from cdtool.errors import InputError
from cdtool.interop import embeddings as words
from cdtool.interop import key_maps
from cdtool.interop.bundle import ExportBundle, File, Kind, Written
from cdtool.interop.files import BUNDLE, Content, Layout, ParsedCheckpoint, floats, refuse, row
from cdtool.models.deltas import Factors, trimmed
from cdtool.models.lora import scaling

if TYPE_CHECKING:
    from torch import Tensor

# unet.M.lora_A.weight; unet.M.lora.down.weight; unet.ATTENTION.processor.to_k_lora.down.weight
_PEFT = re.compile(r"(?:unet\.)?(?P<module>.+?)(?:\.lora_(?P<ab>[AB])|[._]lora\.(?P<way>down|up))\.weight")
_KOHYA = re.compile(r"(?P<module>lora_\w+?)\.(?P<part>lora_down\.weight|lora_up\.weight|alpha)")
_BUNDLED = re.compile(r"bundle_emb\.(?P<word>[^.]+)\.string_to_param\.\*")
_WHY = "that is more than K/V of the text cross-attention"
WEIGHTS = "pytorch_lora_weights.safetensors"  # the name diffusers looks for in a folder
# By family, and for SD 2 by what it predicts: ss_base_model_version and modelspec.architecture, as kohya writes them.
_MODELS = {
    "sd1": ("sd_v1", "stable-diffusion-v1/lora"),
    "sd2": ("sd_v2", "stable-diffusion-v2-512/lora"),
    "sd2 v_prediction": ("sd_v2_v", "stable-diffusion-v2-768-v/lora"),
    "sdxl": ("sdxl_base_v1-0", "stable-diffusion-xl-v1-base/lora"),
}


# ---------------------------------------------------------------- writing


def write_diffusers(bundle: ExportBundle, folder: str) -> Written:
    """A LoRA in PEFT's names, and per word and text encoder a file for load_textual_inversion."""
    files, load = {}, []
    if bundle.factors:
        files[WEIGHTS] = File(to_peft(bundle.factors))
        load.append(f'pipe.load_lora_weights("{folder}", weight_name="{WEIGHTS}")')
    word_files, load_words = words.write(bundle, folder, lambda place: (bundle.word(place), f"<{bundle.word(place)}>"))
    prompt = bundle.prompt(lambda place: f"<{bundle.word(place)}>")
    return Written(files | word_files, bundle.example([*load, *load_words], prompt, needs="peft"))


def write_kohya(bundle: ExportBundle, _: str) -> Written:
    """A LoRA in kohya's names, an embedding file per word, and for one text encoder both in one file, the bundle."""
    lora = to_kohya(bundle.factors, bundle.base_info.layers if bundle.manifest.base.family == "sdxl" else None)
    words_of = {bundle.word(place): rows for place, rows in bundle.rows.items()}
    files = {f"{word}.safetensors": File(words.kohya(rows)) for word, rows in words_of.items()}
    kinds: dict[str, Kind] = dict.fromkeys(files, "embedding")
    lines = [f"{name} belongs into embeddings, under this name: it is the word." for name in files]
    if lora:
        metadata = _kohya_metadata(bundle)
        files[f"{bundle.stem}.safetensors"] = File(lora, metadata)
        kinds[f"{bundle.stem}.safetensors"] = "lora"
        lines.append(f"{bundle.stem}.safetensors belongs into A1111's models/Lora or ComfyUI's models/loras.")
        bundled = {key: row for word, rows in words_of.items() if len(rows) == 1
                   for key, row in to_bundle(word, *rows.values()).items()}  # fmt: skip
        if bundled:
            both = f"{bundle.stem}{BUNDLE}.safetensors"
            files[both] = File(lora | bundled, metadata)
            kinds[both] = "bundle"
            lines.append(f"{both} alone is all of that for A1111; ComfyUI would not read its words.")
    lines.append(f"A1111: {bundle.prompt(bundle.word)}{f' <lora:{bundle.stem}:1>' if lora else ''}")
    lines.append(f"ComfyUI: {bundle.prompt(lambda place: f'embedding:{bundle.word(place)}')}")
    return Written(files, "\n".join(lines), kinds=kinds)


def _kohya_metadata(bundle: ExportBundle) -> dict[str, str]:
    """What kohya writes into the header, and A1111 tells the base from."""
    manifest, prediction = bundle.manifest, bundle.base_info.prediction
    family = manifest.base.family
    version, architecture = _MODELS.get(f"{family} {prediction}", _MODELS.get(family, ("", "")))
    known = {
        "ss_network_module": "networks.lora",
        "ss_network_dim": str(bundle.rank),
        "ss_network_alpha": str(float(bundle.rank)),
        "ss_base_model_version": version,
        "ss_v2": str(family == "sd2"),
        "modelspec.sai_model_spec": "1.0.0",
        "modelspec.architecture": architecture,
        "modelspec.title": bundle.stem,
        "modelspec.trigger_phrase": bundle.prompt(bundle.word),
        "modelspec.prediction_type": {"epsilon": "epsilon", "v_prediction": "v"}.get(prediction, ""),
    }
    return {name: value for name, value in known.items() if value}


def to_peft(factors: Mapping[str, Factors]) -> dict[str, Tensor]:
    """PEFT's names for changes by module, all of one rank: A is down, B is up; without alpha the scale is 1."""
    tensors = {}
    for module, (up, down) in factors.items():
        tensors[f"unet.{module}.lora_A.weight"] = down
        tensors[f"unet.{module}.lora_B.weight"] = up
    return tensors


def to_kohya(factors: Mapping[str, Factors], layers: int | None) -> dict[str, Tensor]:
    """Kohya's names for changes by module, alpha the rank of each; with `layers` in CompVis spelling."""
    tensors = {}
    for module, (up, down) in factors.items():
        name = key_maps.to_flat(module, layers)
        tensors[f"{name}.lora_down.weight"] = down
        tensors[f"{name}.lora_up.weight"] = up
        tensors[f"{name}.alpha"] = up.new_tensor(float(up.shape[1]))
    return tensors


def to_bundle(word: str, tensor: Tensor) -> dict[str, Tensor]:
    """The entry of a learned row [d] inside a kohya file, as A1111 reads it."""
    return {f"bundle_emb.{word}.string_to_param.*": tensor[None]}


# ---------------------------------------------------------------- reading


def is_peft(tensors: Mapping[str, Any]) -> bool:
    """Whether a file is a LoRA in one of diffusers' spellings."""
    return any(_PEFT.fullmatch(name) and not _KOHYA.fullmatch(name) for name in tensors)


def is_kohya(tensors: Mapping[str, Any]) -> bool:
    """Whether a file is a LoRA in kohya's spelling."""
    return any(name.startswith(("lora_unet_", "lora_te")) for name in tensors)


def read_peft(content: Content, layout: Layout) -> ParsedCheckpoint:
    """The K/V changes of a PEFT LoRA, scaled as its metadata says. Raises InputError for anything else in it."""
    pairs: dict[str, dict[str, Tensor]] = {}
    others = []
    for name, tensor in content.tensors.items():
        found = _PEFT.fullmatch(name)
        module = found["module"].replace(".processor.", ".") if found else name
        if found is None or module not in layout.kv:
            others.append(module)
        else:
            pairs.setdefault(module, {})["down" if found["ab"] == "A" or found["way"] == "down" else "up"] = tensor
    if others:
        raise refuse(content.file, set(others), layout, _WHY)
    told = scaling(content.file, content.metadata)
    changes = {}
    for module, pair in pairs.items():
        up, down = _factors(content, module, pair)
        changes[f"{module}.weight"] = _product(content, module, up, down, told.of(module, len(down)))
    return ParsedCheckpoint(changes=changes)


def read_kohya(content: Content, layout: Layout) -> ParsedCheckpoint:
    """The K/V changes of a kohya LoRA, scaled by alpha / rank, and its bundled words.

    Raises InputError for anything else in it.
    """
    known = key_maps.flat_names(layout.kv, layout.layers)
    pairs: dict[str, dict[str, Tensor]] = {}
    rows, others = {}, []
    for name, tensor in content.tensors.items():
        found = _KOHYA.fullmatch(name)
        if bundled := _BUNDLED.fullmatch(name):
            rows[bundled["word"]] = [row(content.file, tensor)]
        elif found and found["module"] in known:
            part = found["part"].removeprefix("lora_").removesuffix(".weight")
            pairs.setdefault(known[found["module"]], {})[part] = tensor
        else:
            others.append(found["module"] if found else name)
    if others:
        raise refuse(content.file, set(others), layout, _WHY)
    changes: dict[str, Factors] = {}
    for module, pair in pairs.items():
        up, down = _factors(content, module, pair)
        alpha = float(floats(content.file, f"{module}.alpha", pair["alpha"], 0, 1).mean()) if "alpha" in pair else None
        scale = 1.0 if alpha is None else alpha / len(down)
        changes[f"{module}.weight"] = _product(content, module, up, down, scale)
    return ParsedCheckpoint(changes=changes, rows=rows)


def _factors(content: Content, module: str, pair: Mapping[str, Any]) -> tuple[Tensor, Tensor]:
    """(up [o, r], down [r, d]) of a module. Raises InputError where the two do not fit."""
    if "up" in pair and "down" in pair:
        up, down = (floats(content.file, module, pair[part], 2) for part in ("up", "down"))
        if up.shape[1] == down.shape[0]:
            return up, down
    raise InputError(f"The two factors of {module} in {content.file} do not fit each other.", "Copy it again.")


def _product(content: Content, module: str, up: Tensor, down: Tensor, scale: float) -> Factors:
    """A module's change without zero ranks, `up` times the scale. Raises InputError where that overflows."""
    scaled = up if scale == 1 else up.float() * scale
    if not bool(scaled.isfinite().all()):
        raise InputError(f"The scale of {module} in {content.file} is no usable number ({scale:g}).", "Copy it again.")
    return trimmed(Factors(scaled, down))
