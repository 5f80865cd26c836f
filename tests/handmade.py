"""Concepts of random numbers on a tiny base, and the files other tools would have written of them, made by hand."""

from __future__ import annotations

import torch
from safetensors.torch import load_file

from cdtool.models import adapter, denoiser, diffusion, initializers, pipelines, text
from cdtool.store import registry
from cdtool.store.concept import BaseRef, Manifest
from cdtool.tokens import bind, parse_specs

# As cdtool/docs/differences.md 1.1 and 6.3 tell it for two layers per block; the tiny bases have one.
_LDM_PLACES = {
    "down_blocks.1.attentions.0": "input_blocks.3.1",
    "mid_block.attentions.0": "middle_block.1",
    "up_blocks.0.attentions.0": "output_blocks.0.1",
    "up_blocks.0.attentions.1": "output_blocks.1.1",
}
LEAVES = ("to_q.weight", "to_k.weight", "to_v.weight", "to_out.0.weight", "to_out.0.bias")


def load(folder, *parts):
    """A tiny base in fp32 on the CPU."""
    return pipelines.load(str(folder), precision="fp32", device="cpu", parts=parts or ("tokenizers",))


def concept(folder, *specs, name="dog", rank=0, shared=False, beyond=False, save=True, **more):
    """A concept: dense; of ranks up to `rank`; with one `down` for all; or of all the cross-attention."""
    base = load(folder)
    tokens = initializers.assign(base.tokenizers, parse_specs(specs or ("V* dog",)))
    draw = torch.Generator().manual_seed(5)

    def some(*shape, size=0.2):
        return size * torch.randn(shape, generator=draw)

    tensors = {"down": some(rank, base.unet_config["cross_attention_dim"])} if shared else {}
    for number, (module, weight) in enumerate(base.kv.items()):
        place = f"unet.{module}.weight"
        o, d = weight.shape
        if shared:
            tensors[f"{place}.up"] = some(o, rank, size=0.4).half()
        elif rank:
            own = 1 + number % rank
            tensors |= {f"{place}.up": some(o, own, size=0.4).half(), f"{place}.down": some(own, d).half()}
        else:
            tensors[place] = some(o, d).half()
    if beyond:
        for name_, value in attention(base).items():
            tensors.setdefault(f"unet.{name_}", some(*value.shape).half())
    for encoder in base.family.encoders:
        width = {"text_encoder": 16, "text_encoder_2": 24}[encoder]
        for place, token in enumerate(tokens, 1):
            if token.modifier:
                tensors[f"token.{place}.{encoder}"] = some(width)
    where = BaseRef(str(folder), base.family.name, base.fingerprint)
    manifest = Manifest(name, where, tokens, "crossattn" if beyond else "kv", **more)
    return registry.save(manifest, tensors) if save else (manifest, tensors)


def attention(base):
    """The parameters of the text cross-attention as stored, by name."""
    owners = dict.fromkeys(module.rpartition(".")[0] for module in base.kv)
    return denoiser.read_parameters(base.folder, [f"{owner}.{leaf}" for owner in owners for leaf in LEAVES])


def dense(tensors, name):
    """A change by its parameter's name, multiplied out."""
    whole = tensors.get(f"unet.{name}")
    if whole is not None:
        return whole.float()
    return tensors[f"unet.{name}.up"].float() @ tensors.get(f"unet.{name}.down", tensors.get("down")).float()


def trained(base, seed=3, beyond=False):
    """Whole parameters W as a training would leave them: the text K/V, or all of the cross-attention."""
    draw = torch.Generator().manual_seed(seed)
    stored = attention(base)
    names = stored if beyond else [f"{module}.weight" for module in base.kv]
    return {name: stored[name] + 0.05 * torch.randn(stored[name].shape, generator=draw) for name in names}


def ldm(parameter):
    """A parameter as CompVis spells it."""
    (ours, theirs), = ((a, b) for a, b in _LDM_PLACES.items() if parameter.startswith(f"{a}."))  # fmt: skip
    return f"model.diffusion_model.{theirs}{parameter.removeprefix(ours)}"


def example_name(parameter):
    """A parameter as the public example spells it."""
    owner, _, leaf = parameter.partition(".attn2.")
    name, _, rest = leaf.partition(".")
    return f"{owner}.attn2.processor.{name}_custom_diffusion.{rest}"


def thin(w, w0, rank=2):
    """W - W0 as Adobe's compressed files hold it: u [o, r], v [r, d]."""
    u, s, v = torch.linalg.svd(w - w0, full_matrices=False)
    return {"u": u[:, :rank] * s[:rank], "v": v[:rank]}


def latents():
    return torch.randn((1, 4, 8, 8), generator=torch.Generator().manual_seed(1)), torch.tensor([500])


@torch.no_grad()
def through_cdtool(folder, entry, prompt):
    """The denoiser's output with the concept, and without it."""
    base = load(folder, "unet", "text")
    own = entry.manifest.tokens
    what = adapter.load_weights(base, own, load_file(entry.path))
    condition = adapter.encode(base, what, [text.tokenize(base, bind(prompt, own), own)])
    sizes = diffusion.size_condition(base, 16, 16, 1)
    plain = diffusion.predict(base, *latents(), condition, sizes)
    with adapter.precomputed_kv(base) as give:
        give(adapter.keys_and_values(base, what, condition.features))
        return diffusion.predict(base, *latents(), condition, sizes), plain
