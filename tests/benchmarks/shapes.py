"""Random bases of real sizes for the benchmarks, written once under build/bench, and how a figure is reported."""

from __future__ import annotations

import json
import platform
import shutil
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from tests import tiny_pipelines

FOLDER = Path("build/bench")


def base(name: str) -> str:
    """What `--base` takes: the random folder "tiny" or "sd15-random", made if need be, or the name as it stands."""
    if name not in MAKERS:
        return name
    folder = FOLDER / name
    if not (folder / "model_index.json").is_file():
        shutil.rmtree(folder, ignore_errors=True)
        MAKERS[name](folder)
    return str(folder)


def _save(folder: Path, vae: Any, text: Any, tokenizer: Any, unet: Any, schedule: Any) -> None:
    from diffusers import StableDiffusionPipeline

    StableDiffusionPipeline(
        vae=vae, text_encoder=text, tokenizer=tokenizer, unet=unet, scheduler=schedule, safety_checker=None,
        feature_extractor=None, requires_safety_checker=False,
    ).save_pretrained(folder)  # fmt: skip


def _tiny(folder: Path) -> None:
    tiny_pipelines.sd(folder)


def _sd15(folder: Path) -> None:
    """Stable Diffusion 1.5: 859.5 M + 83.7 M + 123.1 M weights, kept in bf16; 512 px from 64x64 latents."""
    from diffusers import AutoencoderKL, PNDMScheduler, UNet2DConditionModel
    from transformers import CLIPTextConfig, CLIPTextModel

    torch.manual_seed(0)
    tokens = tiny_pipelines.tokenizer(folder / "tokenizer")
    torch.set_default_dtype(torch.bfloat16)
    try:
        unet = UNet2DConditionModel(sample_size=64, cross_attention_dim=768)  # diffusers' other defaults are SD 1.x
        vae = AutoencoderKL(
            down_block_types=("DownEncoderBlock2D",) * 4, up_block_types=("UpDecoderBlock2D",) * 4,
            block_out_channels=(128, 256, 512, 512), layers_per_block=2, latent_channels=4, sample_size=512,
        )  # fmt: skip
        text = CLIPTextModel(CLIPTextConfig(
            vocab_size=49408, hidden_size=768, intermediate_size=3072, num_hidden_layers=12, num_attention_heads=12,
            max_position_embeddings=77, projection_dim=768, bos_token_id=tokens.bos_token_id,
            eos_token_id=tokens.eos_token_id, pad_token_id=tokens.pad_token_id,
        ))  # fmt: skip
    finally:
        torch.set_default_dtype(torch.float32)
    schedule = PNDMScheduler(
        beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", skip_prk_steps=True, steps_offset=1
    )
    _save(folder, vae, text, tokens, unet, schedule)


def _sdxl(folder: Path) -> None:
    """SDXL: 2567 M + 83.7 M + 123.1 M + 694.7 M weights, kept in fp16; 1024 px from 128x128 latents."""
    from diffusers import AutoencoderKL, EulerDiscreteScheduler, UNet2DConditionModel
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

    torch.manual_seed(0)
    common = {"vocab_size": 49408, "max_position_embeddings": 77}
    sizes = ((768, 3072, 12, 12, 768, "quick_gelu"), (1280, 5120, 32, 20, 1280, "gelu"))
    kinds = (CLIPTextModel, CLIPTextModelWithProjection)
    folder.mkdir(parents=True)
    for place, (kind, (width, inner, layers, heads, projection, act)) in enumerate(zip(kinds, sizes, strict=True)):
        end = f"_{place + 1}" if place else ""
        tokens = tiny_pipelines.tokenizer(folder / f"tokenizer{end}", pad="!" if place else "<|endoftext|>")
        tokens.save_pretrained(folder / f"tokenizer{end}")
        config = CLIPTextConfig(
            hidden_size=width, intermediate_size=inner, num_hidden_layers=layers, num_attention_heads=heads,
            projection_dim=projection, hidden_act=act, bos_token_id=tokens.bos_token_id,
            eos_token_id=tokens.eos_token_id, pad_token_id=tokens.pad_token_id, **common,
        )  # fmt: skip
        _write_random(folder / f"text_encoder{end}", kind, config)
    _write_random(folder / "unet", UNet2DConditionModel, tiny_pipelines.SDXL_UNET)
    vae = {
        "down_block_types": ["DownEncoderBlock2D"] * 4, "up_block_types": ["UpDecoderBlock2D"] * 4,
        "block_out_channels": [128, 256, 512, 512], "layers_per_block": 2, "latent_channels": 4, "sample_size": 1024,
        "scaling_factor": 0.13025,
    }  # fmt: skip
    _write_random(folder / "vae", AutoencoderKL, vae)
    EulerDiscreteScheduler(
        beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", steps_offset=1
    ).save_pretrained(folder / "scheduler")
    index = {
        "_class_name": "StableDiffusionXLPipeline", "force_zeros_for_empty_prompt": True,
        "unet": ["diffusers", "UNet2DConditionModel"], "vae": ["diffusers", "AutoencoderKL"],
        "text_encoder": ["transformers", "CLIPTextModel"], "tokenizer": ["transformers", "CLIPTokenizer"],
        "text_encoder_2": ["transformers", "CLIPTextModelWithProjection"],
        "tokenizer_2": ["transformers", "CLIPTokenizer"], "scheduler": ["diffusers", "EulerDiscreteScheduler"],
    }  # fmt: skip
    (folder / "model_index.json").write_text(json.dumps(index))


def _write_random(folder: Path, kind: Any, config: Any) -> None:
    """A component of a pipeline with random fp16 weights, made a tensor at a time and written once."""
    from safetensors.torch import save_file

    with torch.device("meta"):
        model = kind.from_config(config) if isinstance(config, dict) else kind(config)
    generator = torch.Generator().manual_seed(1)
    tensors = {}
    for name, empty in model.state_dict().items():
        if empty.dim() == 1:
            made = torch.full(empty.shape, float("norm" in name and name.endswith("weight")))
        else:
            made = torch.empty(empty.shape, dtype=torch.bfloat16)
            made.normal_(std=empty[0].numel() ** -0.5, generator=generator)
        tensors[name] = made.half()
    folder.mkdir()
    (model.save_config if isinstance(config, dict) else config.save_pretrained)(folder)
    if not isinstance(config, dict):
        config.architectures = [kind.__name__]
        config.save_pretrained(folder)
    stem = "diffusion_pytorch_model" if isinstance(config, dict) else "model"
    save_file(tensors, folder / f"{stem}.safetensors", metadata={"format": "pt"})


MAKERS: dict[str, Callable[[Path], None]] = {"tiny": _tiny, "sd15-random": _sd15, "sdxl-random": _sdxl}


def photos(count: int, side: int) -> Path:
    """A folder of random photos."""
    folder = FOLDER / f"photos-{count}-{side}"
    return folder if folder.is_dir() else tiny_pipelines.photos(folder, count, side)


# ---------------------------------------------------------------- timing and telling


def seconds(work: Callable[[], Any], device: str = "cpu") -> float:
    """How long `work` takes, with what it left on a GPU done."""
    begun = time.perf_counter()
    work()
    if device == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - begun


def alternate(works: Sequence[Callable[[], Any]], rounds: int, device: str = "cpu") -> list[list[float]]:
    """Seconds of each work in each round; they take turns, so that a machine that slows down slows them all."""
    times: list[list[float]] = [[] for _ in works]
    for _ in range(rounds):
        for place, work in enumerate(works):
            times[place].append(seconds(work, device))
    return times


def machine(precision: str = "") -> str:
    """The machine in a line: processor, cores in use, GPU, versions, precision."""
    model = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.is_file():
        lines = dict(line.split(":", 1) for line in info.read_text().splitlines() if ":" in line)
        model = next((value.strip() for key, value in lines.items() if key.strip() == "model name"), model)
    gpu = f", {torch.cuda.get_device_name()}" if torch.cuda.is_available() else ""
    told = f"{model}, {torch.get_num_threads()} threads{gpu}, torch {torch.__version__}"
    return f"{told}, {precision}" if precision else told


def report(title: str, rows: Sequence[Sequence[object]], head: Sequence[str], about: str) -> None:
    """Print a Markdown table with the machine and the command below it."""
    print(f"\n**{title}**\n")
    print(f"| {' | '.join(head)} |")
    print(f"|{'---|' * len(head)}")
    for row in rows:
        print(f"| {' | '.join(_cell(value) for value in row)} |")
    module = Path(sys.argv[0]).stem
    print(f"\n{about}  \n`{' '.join(['python -m tests.benchmarks.' + module, *sys.argv[1:]])}`", flush=True)


def _cell(value: object) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def median(values: Sequence[float]) -> float:
    """The middle one."""
    return statistics.median(values)
