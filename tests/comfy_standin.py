"""A small stand-in for the parts of ComfyUI that the nodes call, written from what its interface is known to do.

ComfyUI is in no package registry and under the GPL, so neither the package nor its code is here. The denoiser inside is
diffusers', under a name of its own that only `unet_to_diffusers` knows; weights are patched by key, conditionings are
batched with those of the same keys and shapes, and a token list may hold embeddings, as there.
"""

from __future__ import annotations

import copy
import re
import sys
from types import ModuleType, SimpleNamespace

import torch

INNER = "wrapped."  # where a parameter of diffusers lies in the stand-in's model


class CONDRegular:
    """A tensor that travels with a prompt and is repeated to the batch."""

    def __init__(self, cond):
        self.cond = cond

    def process_cond(self, batch_size, **_):
        return CONDRegular(self.cond.repeat(batch_size, 1, 1)[:batch_size])

    def can_concat(self, other):
        return self.cond.shape == other.cond.shape

    def concat(self, others):
        return torch.cat([self.cond, *(other.cond for other in others)])


def unet_to_diffusers(config):
    return {name: INNER + name for name in config["names"]}


def load_lora(state, to_load):
    patches = {}
    for name, key in to_load.items():
        if f"{name}.lora_up.weight" in state:
            patches[key] = ("lora", state[f"{name}.lora_up.weight"], state[f"{name}.lora_down.weight"])
        elif f"{name}.diff" in state:
            patches[key] = ("diff", state[f"{name}.diff"])
    return patches


class Unet(torch.nn.Module):
    """A diffusers denoiser behind the call of ComfyUI's."""

    def __init__(self, wrapped):
        super().__init__()
        self.wrapped = wrapped

    def forward(self, x, timesteps, context=None, added=None, **_):
        return self.wrapped(x, timesteps, encoder_hidden_states=context, added_cond_kwargs=added).sample


class BaseModel:
    def __init__(self, unet, added=None):
        names = [name for name, _ in unet.named_parameters()]
        self.model_config = SimpleNamespace(unet_config={"names": names})
        self.diffusion_model, self.added = Unet(unet), added

    def apply_model(self, x, t, c_crossattn=None, transformer_options=None, **others):
        added = self.added and {name: value[: len(x)] for name, value in self.added.items()}
        return self.diffusion_model(x, t, context=c_crossattn, added=added, **others)


class ModelPatcher:
    def __init__(self, model, patches=(), options=None):
        self.model, self.patches, self.model_options = model, list(patches), dict(options or {})

    def clone(self):
        return ModelPatcher(self.model, self.patches, self.model_options)

    def add_patches(self, patches, strength=1.0):
        known = {f"diffusion_model.{name}" for name, _ in self.model.diffusion_model.named_parameters()}
        fitting = {key: patch for key, patch in patches.items() if key in known}
        self.patches += [(key, patch, strength) for key, patch in fitting.items()]
        return list(fitting)

    def set_model_unet_function_wrapper(self, wrapper):
        self.model_options["model_function_wrapper"] = wrapper

    @torch.no_grad()
    def run(self, x, timestep, conditionings, batch=1):
        """What the patched model makes of each conditioning [b, ...]; those that can be batched go in one call."""
        original = self.model.diffusion_model
        self.model.diffusion_model = copy.deepcopy(original)
        parameters = dict(self.model.diffusion_model.named_parameters())
        for key, (kind, *tensors), strength in self.patches:
            weight = parameters[key.removeprefix("diffusion_model.")]
            change = tensors[0].float() @ tensors[1].float() if kind == "lora" else tensors[0].float()
            weight += strength * change.reshape(weight.shape)
        try:
            return self._run(x, timestep, conditionings, batch)
        finally:
            self.model.diffusion_model = original

    def _run(self, x, timestep, conditionings, batch):
        todo = list(range(len(conditionings)))
        conds = [{"c_crossattn": CONDRegular(features), **others.get("model_conds", {})}
                 for ((features, others),) in conditionings]  # fmt: skip
        conds = [{name: cond.process_cond(batch) for name, cond in each.items()} for each in conds]
        results = [None] * len(conds)
        while todo:
            first = conds[todo[0]]
            group = [at for at in todo if conds[at].keys() == first.keys()
                     and all(first[name].can_concat(conds[at][name]) for name in first)]  # fmt: skip
            todo = [at for at in todo if at not in group]
            c = {name: conds[group[0]][name].concat([conds[at][name] for at in group[1:]]) for name in first}
            c["transformer_options"] = {"cond_or_uncond": group}
            rows = batch * len(group)
            arguments = {"input": x.repeat(rows, 1, 1, 1), "timestep": timestep.repeat(rows), "c": c,
                         "cond_or_uncond": group}  # fmt: skip
            wrapper = self.model_options.get("model_function_wrapper")
            if wrapper:
                made = wrapper(self.model.apply_model, arguments)
            else:
                made = self.model.apply_model(arguments["input"], arguments["timestep"], **c)
            for at, part in zip(group, made.chunk(len(group)), strict=True):
                results[at] = part
        return results


class SDTokenizer:
    """Words to chunks of as many (token, weight) as the encoder reads; "(word:1.2)" gives a weight."""

    def __init__(self, tokenizers):
        self.tokenizers = tokenizers

    def tokenize_with_weights(self, text, return_word_ids=False, **_):
        return {key: self._one(tokenizer, text) for key, tokenizer in self.tokenizers.items()}

    def _one(self, tokenizer, text):
        length, body = tokenizer.model_max_length, []
        for part in re.split(r"(\([^()]*:[0-9.]+\))", text):
            found = re.fullmatch(r"\((.*):([0-9.]+)\)", part)
            words, weight = (found[1], float(found[2])) if found else (part, 1.0)
            for word in words.split():
                body += [(i, weight) for i in tokenizer(word, add_special_tokens=False)["input_ids"]]
        chunks = []
        for start in range(0, max(len(body), 1), length - 2):
            chunk = [(tokenizer.bos_token_id, 1.0), *body[start : start + length - 2], (tokenizer.eos_token_id, 1.0)]
            chunks.append(chunk + [(tokenizer.pad_token_id, 1.0)] * (length - len(chunk)))
        return chunks


class CLIP:
    def __init__(self, tokenizers, encoders, penultimate):
        self.tokenizer, self.encoders, self.penultimate = SDTokenizer(tokenizers), encoders, penultimate

    def clone(self):
        return copy.copy(self)

    def tokenize(self, text):
        return self.tokenizer.tokenize_with_weights(text)

    @torch.no_grad()
    def encode_from_tokens_scheduled(self, tokens):
        features, pooled = [], None
        for key in sorted(tokens, reverse=True):  # l, then g, which stands first in the tokens
            encoder, parts = self.encoders[key], []
            for chunk in tokens[key]:
                ids = torch.tensor([[0 if torch.is_tensor(token) else token for token, _ in chunk]])
                handle = encoder.get_input_embeddings().register_forward_hook(_placed(chunk))
                result = encoder(ids, output_hidden_states=True)
                handle.remove()
                parts.append(result.hidden_states[-2] if self.penultimate else result.last_hidden_state)
                pooled = getattr(result, "text_embeds", pooled)
            features.append(torch.cat(parts, dim=1))
        return [[torch.cat(features, dim=-1), {"pooled_output": pooled}]]


def _placed(chunk):
    def put(_, __, output):
        for at, (token, _) in enumerate(chunk):
            if torch.is_tensor(token):
                output[0, at] = token
        return output

    return put


def install(monkeypatch, folder):
    """Make `import comfy.conds`, `comfy.lora`, `comfy.utils` and `folder_paths` find the stand-in."""
    comfy = ModuleType("comfy")
    parts = {"conds": {"CONDRegular": CONDRegular}, "lora": {"load_lora": load_lora},
             "utils": {"unet_to_diffusers": unet_to_diffusers}}  # fmt: skip
    monkeypatch.setitem(sys.modules, "comfy", comfy)
    for name, contents in parts.items():
        module = ModuleType(f"comfy.{name}")
        vars(module).update(contents)
        setattr(comfy, name, module)
        monkeypatch.setitem(sys.modules, f"comfy.{name}", module)
    paths = ModuleType("folder_paths")
    paths.models_dir, paths.folder_names_and_paths = str(folder / "models"), {}
    place = folder / "models" / "cdtool"
    paths.get_filename_list = lambda kind: sorted(path.name for path in place.iterdir())
    paths.get_full_path = lambda kind, name: str(place / name)
    monkeypatch.setitem(sys.modules, "folder_paths", paths)
