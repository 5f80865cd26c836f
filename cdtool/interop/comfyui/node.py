"""ComfyUI nodes that read cdtool's concepts: their words in prompts, their keys and values in the model.

This one file goes into ComfyUI/custom_nodes, concepts into ComfyUI/models/cdtool. It needs nothing but ComfyUI:
"Load cdtool concept" (once per concept, one after the other), "Apply cdtool concepts", and for prompts "cdtool prompt".
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import comfy.conds
import comfy.lora
import comfy.utils
import folder_paths
import torch
from safetensors import safe_open

FOLDER = "cdtool"  # below ComfyUI/models
SHARE = "cdtool_share"  # the name under which a prompt carries [1, l, N]: how much of each change a position takes
_MODIFIER = re.compile(r"(?<![\w\\])V(\*|[0-9]{1,4})(?!\w)")
_LITERAL = re.compile(r"\\(?=V(?:\*|[0-9]{1,4})(?!\w))")
_TENSOR = re.compile(r"down|unet\..+|token\.[0-9]+\.text_encoder(_2)?")
_MARKERS = ("ktn", "pll", "ucd", "sks", "olis", "phol")  # words of one entry in CLIP's vocabulary

folder_paths.folder_names_and_paths[FOLDER] = ([os.path.join(folder_paths.models_dir, FOLDER)], {".safetensors"})


# ---------------------------------------------------------------- the file


@dataclass(frozen=True)
class Concept:
    """A concept file as it was read, and how much of its change counts."""

    name: str
    manifest: Mapping[str, Any]
    tensors: Mapping[str, torch.Tensor]
    strength: float = 1.0

    @property
    def tokens(self) -> Sequence[Mapping[str, Any]]:
        """Its words in order, each with its noun and whether a modifier (V*) stands before it."""
        found: Sequence[Mapping[str, Any]] = self.manifest["tokens"]
        return found

    @property
    def reach(self) -> str:
        """Which text positions it changes: "prompt", its "own words" alone, or "everywhere"."""
        if all(token.get("erased") for token in self.tokens):
            return "everywhere"
        return "own words" if self.manifest.get("settings", {}).get("focus") is True else "prompt"


def read_concept(path: str, strength: float = 1.0) -> Concept:
    """Read a concept file of format 1. Raises ValueError for any other file."""
    name = os.path.basename(path).removesuffix(".safetensors")
    with safe_open(path, framework="pt") as file:
        manifest = json.loads((file.metadata() or {}).get("cdtool", "{}"))
        tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 - it is no mapping
    if manifest.get("format") != 1 or not manifest.get("tokens"):
        raise ValueError(
            f"{name} is no concept of cdtool in format 1. Export it again: cdtool export --to comfyui-node"
        )
    for key, tensor in tensors.items():
        if not _TENSOR.fullmatch(key) or not bool(tensor.isfinite().all()):
            raise ValueError(f"{name} is damaged (its {key}). Copy it again.")
    return Concept(name, manifest, tensors, strength)


def changes(concept: Concept) -> dict[str, tuple[torch.Tensor, ...]]:
    """The change of each parameter of the UNet, in diffusers' names: (dW,) or its factors (up, down)."""
    found: dict[str, tuple[torch.Tensor, ...]] = {}
    for key, tensor in concept.tensors.items():
        name = key.removeprefix("unet.")
        if name != key and key.endswith(".up"):
            down = concept.tensors.get(f"{key.removesuffix('.up')}.down", concept.tensors.get("down"))
            if down is None:
                raise ValueError(f"{concept.name} is damaged (half of {key} is missing). Copy it again.")
            found[name.removesuffix(".up")] = (tensor, down)
        elif name != key and not key.endswith(".down"):
            found[name] = (tensor,)
    return found


# ---------------------------------------------------------------- the model


def places(model: Any, names: Sequence[str], concept: Concept) -> dict[str, str]:
    """ComfyUI's name of each parameter. Raises ValueError for a model of another kind than the concept's base."""
    known = comfy.utils.unet_to_diffusers(model.model.model_config.unet_config)
    if missing := [name for name in names if name not in known]:
        base = concept.manifest["base"]
        raise ValueError(f"{concept.name} is for {base['name']} ({base['family']}); this model has no {missing[0]}.")
    return {name: f"diffusion_model.{known[name]}" for name in names}


def patched(model: Any, concept: Concept) -> Any:
    """The model with the concept's change added to its weights, as a LoRA's is."""
    found, clone = changes(concept), model.clone()
    state = {}
    for name, change in found.items():
        if len(change) == 1:
            state[f"{name}.diff"] = change[0]
        else:
            state[f"{name}.lora_up.weight"], state[f"{name}.lora_down.weight"] = change
    where = places(model, list(found), concept)
    applied = clone.add_patches(comfy.lora.load_lora(state, where), concept.strength)
    if len(set(applied)) != len(found):
        raise ValueError(f"Only {len(set(applied))} of {len(found)} changes of {concept.name} fit this model.")
    return clone


def routed(model: Any, concepts: Sequence[Concept]) -> Any:
    """The model that adds each concept's change of K and V at the text positions that a prompt's share names."""
    additions: dict[str, list[Addition]] = {}
    for index, concept in enumerate(concepts):
        found = changes(concept)
        if other := [name for name in found if not name.endswith(("attn2.to_k.weight", "attn2.to_v.weight"))]:
            raise ValueError(f"{concept.name} changes {other[0]}, for the whole picture: it cannot be joined.")
        for name, place in places(model, list(found), concept).items():
            module = place.removeprefix("diffusion_model.").removesuffix(".weight")
            additions.setdefault(module, []).append(Addition(index, found[name], concept.strength))
    clone = model.clone()
    before = clone.model_options.get("model_function_wrapper")

    def run(apply_model: Any, arguments: Mapping[str, Any]) -> Any:
        condition = dict(arguments["c"])
        share = condition.pop(SHARE, None)
        with adding(apply_model.__self__.diffusion_model, additions, share):
            if before is not None:
                return before(apply_model, {**arguments, "c": condition})
            return apply_model(arguments["input"], arguments["timestep"], **condition)

    clone.set_model_unet_function_wrapper(run)
    return clone


class Addition:
    """The change of one projection by one concept, kept on the device it was last used on."""

    def __init__(self, concept: int, change: tuple[torch.Tensor, ...], strength: float) -> None:
        self.concept, self.strength = concept, strength
        self.matrices = change[::-1]  # down before up

    def __call__(self, features: torch.Tensor) -> torch.Tensor:
        """What the change makes of text features [n, d], in float32: [n, o]."""
        self.matrices = tuple(matrix.to(features.device, torch.float32) for matrix in self.matrices)
        result = features.float()
        for matrix in self.matrices:
            result = torch.nn.functional.linear(result, matrix)
        return self.strength * result


@contextlib.contextmanager
def adding(unet: Any, additions: Mapping[str, Sequence[Addition]], share: torch.Tensor | None) -> Iterator[None]:
    """While open, projections add share times change at each text position; without a share the model is the base."""
    handles = []
    if share is not None:
        handles = [unet.get_submodule(name).register_forward_hook(_hook(own, share)) for name, own in additions.items()]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _hook(additions: Sequence[Addition], share: torch.Tensor) -> Callable[..., torch.Tensor]:
    def add(_: Any, inputs: tuple[torch.Tensor, ...], output: torch.Tensor) -> torch.Tensor:
        features = inputs[0]
        for addition in additions:
            part = share[..., addition.concept].to(features.device, torch.float32)
            at = part[:, : features.shape[1]].nonzero(as_tuple=True)
            change = part[at][:, None] * addition(features[at])
            output = output.index_put(at, change.to(output.dtype), accumulate=True)
        return output

    return add


# ---------------------------------------------------------------- the words


class Tokenizer:
    """ComfyUI's tokenizer of a model, which also knows the words of concepts; everything else is the original's."""

    def __init__(self, original: Any, concepts: Sequence[Concept]) -> None:
        self.original = original
        self.concepts = concepts
        self.tokens = [(index, number, token) for index, concept in enumerate(concepts)
                       for number, token in enumerate(concept.tokens, 1)]  # fmt: skip

    def __getattr__(self, name: str) -> Any:
        if name == "original":
            raise AttributeError(name)
        return getattr(self.original, name)

    def tokenize_with_weights(self, text: str, return_word_ids: bool = False, **options: Any) -> Any:
        """Token ids and embeddings with their weights, as ComfyUI wants them."""
        return self.bind(text, return_word_ids, **options)[0]

    def bind(self, text: str, return_word_ids: bool = False, **options: Any) -> tuple[Any, torch.Tensor]:
        """The tokens of a prompt, and each concept's share [1, l, N] of its positions.

        Every own token of a concept is first written as a marker, a word of one token, so that ComfyUI reads weights
        and splits long prompts as always; then the markers give way to embeddings and the noun's ids, in order.
        """
        marker = next((word for word in _MARKERS if word not in text.lower()), _MARKERS[0])
        written, own = "", []
        for piece, token in pieces(text, [token for _, _, token in self.tokens]):
            contents = [] if token is None else self._contents(piece, token)
            own += contents
            blank = piece[: len(piece) - len(piece.lstrip())]
            written += blank + " ".join([marker] * len(contents)) if contents else piece
        encoded = self.original.tokenize_with_weights(written, return_word_ids, **options)
        ids = {key: rows[0] for key, rows in self._ids(marker).items()}
        positions: dict[str, list[list[int | None]]] = {}
        for key, chunks in encoded.items():
            rest = iter(own)
            positions[key] = [
                [_replace(chunk, at, key, ids[key], rest) for at in range(len(chunk))] for chunk in chunks
            ]
        first = next(iter(encoded))
        end = self.original.tokenize_with_weights("")[first][0][1][0]
        return encoded, self._share(encoded[first], positions[first], end)

    def _contents(self, piece: str, token: int) -> list[tuple[int, Mapping[str, Any]]]:
        """Concept and content, by encoder, of every token that a modifier or a noun takes."""
        concept, number, _ = self.tokens[token]
        if _MODIFIER.fullmatch(piece):
            rows = {key: self._row(concept, number, key) for key in self._ids("")}
            return [(concept, rows)]
        ids = self._ids(piece)
        count = len(next(iter(ids.values())))
        return [(concept, {key: each[at] for key, each in ids.items()}) for at in range(count)]

    def _row(self, concept: int, number: int, key: str) -> torch.Tensor:
        tensors = self.concepts[concept].tensors
        second = f"token.{number}.text_encoder_2"
        name = second if key == "g" and second in tensors else f"token.{number}.text_encoder"
        if name not in tensors:
            raise ValueError(f"{self.concepts[concept].name} is damaged ({name} is missing). Copy it again.")
        return tensors[name]

    def _ids(self, text: str) -> dict[str, list[int]]:
        """The ids of a text by encoder, without start, end and padding."""
        empty = self.original.tokenize_with_weights("")
        found = {}
        for key, chunks in self.original.tokenize_with_weights(text).items():
            end = empty[key][0][1][0]
            ids = [entry[0] for entry in chunks[0]][1:]
            found[key] = ids[: ids.index(end)]
        return found

    def _share(self, chunks: Any, owners: Sequence[Sequence[int | None]], end: int) -> torch.Tensor:
        """Own words take all of a concept's change; the end of the text takes the mean of the concepts named."""
        share = torch.zeros(1, sum(map(len, chunks)), len(self.concepts))
        start = 0
        for chunk, own in zip(chunks, owners, strict=True):
            for at, concept in enumerate(own):
                if concept is not None:
                    share[0, start + at, concept] = 1.0
            named = {concept for concept in own if concept is not None}
            whole = sorted(concept for concept in named if self.concepts[concept].reach == "prompt")
            ends = next(at for at, entry in enumerate(chunk) if at and _is(entry[0], end))
            for concept in whole:
                share[0, start + ends : start + len(chunk), concept] = 1.0 / len(whole)
            start += len(chunk)
        return share


def _is(content: Any, identity: int) -> bool:
    return not torch.is_tensor(content) and content == identity


def _replace(chunk: Any, at: int, key: str, marker: int, own: Iterator[tuple[int, Mapping[str, Any]]]) -> int | None:
    """Put the next own content in the place of a marker; the concept it belongs to, None for other tokens."""
    if not _is(chunk[at][0], marker):
        return None
    concept, contents = next(own)
    chunk[at] = (contents[key], *chunk[at][1:])
    return concept


def pieces(text: str, tokens: Sequence[Mapping[str, Any]]) -> list[tuple[str, int | None]]:
    """A prompt in pieces, each with the token it belongs to: a modifier, the noun behind it, or a plain noun.

    Raises ValueError for a modifier that no token has.
    """
    found: list[tuple[str, int | None]] = []
    end = 0
    for match in _MODIFIER.finditer(text):
        token = _token(match[0], match[1], tokens)
        found += _plain(text[end : match.start()], tokens)
        end = match.end()
        if tokens[token]["modifier"]:
            found.append((match[0], token))
            if noun := re.compile(rf"\s*{_noun(tokens[token])}", re.IGNORECASE).match(text, end):
                found.append((noun[0], token))
                end = noun.end()
    return [piece for piece in [*found, *_plain(text[end:], tokens)] if piece[0]]


def _plain(text: str, tokens: Sequence[Mapping[str, Any]]) -> list[tuple[str, int | None]]:
    """A text split at the nouns of tokens without a modifier, the longest first."""
    nouns = sorted(
        (at for at, token in enumerate(tokens) if not token["modifier"]), key=lambda at: -len(tokens[at]["noun"])
    )
    found: list[tuple[str, int | None]] = []
    end = 0
    for match in re.finditer("|".join(f"({_noun(tokens[at])})" for at in nouns) or "(?!)", text, re.IGNORECASE):
        found += [(_LITERAL.sub("", text[end : match.start()]), None), (match[0], nouns[(match.lastindex or 1) - 1])]
        end = match.end()
    return [*found, (_LITERAL.sub("", text[end:]), None)]


def _noun(token: Mapping[str, Any]) -> str:
    return r"(?<!\w)" + r"\s+".join(map(re.escape, str(token["noun"]).split())) + r"(?!\w)"


def _token(word: str, sign: str, tokens: Sequence[Mapping[str, Any]]) -> int:
    if sign == "*" and len(tokens) == 1:
        return 0
    if sign != "*" and 1 <= int(sign) <= len(tokens):
        return int(sign) - 1
    known = ", ".join(f"V{number} {token['noun']}" if token["modifier"] else str(token["noun"])
                      for number, token in enumerate(tokens, 1))  # fmt: skip
    raise ValueError(f"The prompt names {word}, but the concepts here are: {known}.")


# ---------------------------------------------------------------- the nodes


class LoadConcept:
    """One concept from models/cdtool, behind those already loaded: they are numbered V1, V2... in this order."""

    CATEGORY, FUNCTION = "cdtool", "load"
    RETURN_TYPES = RETURN_NAMES = ("CDTOOL_CONCEPTS",)

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        """What ComfyUI shows."""
        strength = ("FLOAT", {"default": 1.0, "min": 0.0, "max": 4.0, "step": 0.05})
        return {
            "required": {"concept": (folder_paths.get_filename_list(FOLDER),), "strength": strength},
            "optional": {"before": ("CDTOOL_CONCEPTS",)},
        }

    @classmethod
    def IS_CHANGED(cls, concept: str, **_: Any) -> float:
        """When the file was written: it is read again after that."""
        return os.path.getmtime(folder_paths.get_full_path(FOLDER, concept))

    def load(self, concept: str, strength: float, before: tuple[Concept, ...] = ()) -> tuple[tuple[Concept, ...]]:
        """The concepts so far and this one."""
        return ((*before, read_concept(folder_paths.get_full_path(FOLDER, concept), strength)),)


class ApplyConcepts:
    """Concepts on a model and its CLIP: one changes the whole prompt, several change their own words."""

    CATEGORY, FUNCTION = "cdtool", "apply"
    RETURN_TYPES = ("MODEL", "CLIP")

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        """What ComfyUI shows."""
        return {"required": {"model": ("MODEL",), "clip": ("CLIP",), "concepts": ("CDTOOL_CONCEPTS",)}}

    def apply(self, model: Any, clip: Any, concepts: Sequence[Concept]) -> tuple[Any, Any]:
        """The model with the changes, the CLIP with the words."""
        bases = {concept.manifest["base"]["fingerprint"]: concept.manifest["base"]["name"] for concept in concepts}
        if len(bases) > 1:
            logging.warning("cdtool: these concepts were trained on different bases: %s", ", ".join(bases.values()))
        alone = len(concepts) == 1 and concepts[0].reach == "prompt"
        for concept in concepts:
            if alone or concept.reach == "everywhere":
                model = patched(model, concept)
        if not alone and any(concept.reach != "everywhere" for concept in concepts):
            model = routed(
                model, [concept if concept.reach != "everywhere" else _wordless(concept) for concept in concepts]
            )
        clip = clip.clone()
        clip.tokenizer = Tokenizer(clip.tokenizer, concepts)
        return model, clip


def _wordless(concept: Concept) -> Concept:
    """A concept without its changes: they are in the weights already."""
    return Concept(concept.name, concept.manifest, {}, concept.strength)


class Prompt:
    """A prompt that names concepts. For one concept or a merged one, ComfyUI's own text node does as well."""

    CATEGORY, FUNCTION = "cdtool", "encode"
    RETURN_TYPES = ("CONDITIONING",)

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        """What ComfyUI shows."""
        text = ("STRING", {"multiline": True, "default": "photo of a V* dog"})
        return {"required": {"clip": ("CLIP",), "text": text}}

    def encode(self, clip: Any, text: str) -> tuple[list[Any]]:
        """The conditioning, and with it whose keys and values each position takes."""
        if not isinstance(clip.tokenizer, Tokenizer):
            raise ValueError('Connect the CLIP of "Apply cdtool concepts".')
        tokens, share = clip.tokenizer.bind(text)
        conditioning = []
        for features, others in clip.encode_from_tokens_scheduled(tokens):
            carried = {**others.get("model_conds", {}), SHARE: comfy.conds.CONDRegular(share)}
            conditioning.append([features, {**others, "model_conds": carried}])
        return (conditioning,)


NODE_CLASS_MAPPINGS = {
    "CdtoolLoadConcept": LoadConcept, "CdtoolApplyConcepts": ApplyConcepts, "CdtoolPrompt": Prompt,
}  # fmt: skip
NODE_DISPLAY_NAME_MAPPINGS = {
    "CdtoolLoadConcept": "Load cdtool concept",
    "CdtoolApplyConcepts": "Apply cdtool concepts",
    "CdtoolPrompt": "cdtool prompt",
}
