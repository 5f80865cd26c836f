"""A concept for ComfyUI: its own file, and beside it the nodes that read it."""

from __future__ import annotations

from importlib import resources

from cdtool.interop import public
from cdtool.interop.bundle import ExportBundle, File, Written
from cdtool.store.concept import KEY, to_json

NODES = "cdtool_concepts.py"  # what the nodes are called in ComfyUI/custom_nodes


def write(bundle: ExportBundle, _: str) -> Written:
    """The concept's file and the nodes, one file of Python that needs nothing but ComfyUI."""
    nodes = resources.files("cdtool.interop.comfyui").joinpath("node.py").read_text(encoding="utf-8")
    name = f"{bundle.stem}.safetensors"
    alone = len(bundle.manifest.tokens) == 1
    prompt = bundle.prompt(lambda place: "V*" if alone else f"V{place + 1}")
    usage = [
        f"{NODES} belongs into ComfyUI/custom_nodes, {name} into ComfyUI/models/cdtool; restart ComfyUI.",
        'Nodes: "Load cdtool concept" (one behind the other for several), "Apply cdtool concepts", "cdtool prompt".',
        f"Prompt: {prompt}",
    ]
    file = File(bundle.tensors, {KEY: to_json(public.manifest(bundle.manifest))})
    return Written({name: file}, "\n".join(usage), {NODES: nodes}, {name: "concept", NODES: "node"})
