"""cdtool doctor: what this machine has to offer, for bug reports and for choosing settings."""

from __future__ import annotations

import os
import platform
import shutil
from dataclasses import asdict
from importlib import metadata
from pathlib import Path
from typing import Annotated, Any

import typer

from cdtool import __version__, settings, sources
from cdtool.cli import options, output
from cdtool.errors import InputError
from cdtool.store import bases

LIBRARIES = ("torch", "diffusers", "transformers", "accelerate", "safetensors", "huggingface_hub")


Registry = Annotated[bool, typer.Option("--registry", help="Check every file of the data directory instead.")]


def doctor(registry: Registry = False, json: options.Json = False) -> None:
    """Describe this machine, for settings and bug reports.

    Versions, devices, precision, memory, disk, bases and the data directory.

    Examples:
      cdtool doctor
      cdtool doctor --json
      cdtool doctor --registry
    """
    if registry:
        _check_registry(output.sink(json))
        return
    data_dir = settings.data_dir()
    chosen = sources.base_name()
    data: dict[str, Any] = {
        "cdtool": __version__,
        "python": platform.python_version(),
        "system": platform.platform(),
        **{library: metadata.version(library) for library in LIBRARIES},
        "devices": _devices(),
        "precision": _precision(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "memory": _memory(),
        "data_directory": {"path": data_dir, "free": _free_disk(data_dir), "writable": _writable(data_dir)},
        "base": asdict(chosen),
        "bases": [asdict(base) for base in bases.installed()],
    }
    output.sink(json).facts(_facts(data), data)


def _check_registry(out: output.Output) -> None:
    """A row per file that needs something done. Raises InputError where there is one."""
    from cdtool.store import health

    checked = list(health.check())
    findings = [finding for finding in checked if finding.problem]
    data = {"checked": len(checked), "findings": [asdict(finding) for finding in findings]}
    out.table(("FILE", "PROBLEM", "WHAT TO DO"), [(str(f.path), f.problem, f.advice) for f in findings], data)
    out.talk(f"{len(checked):,} files checked.")
    if findings:
        raise InputError(f"{len(findings)} of {len(checked)} files need attention.", "See above, a line each.")


def _facts(data: dict[str, Any]) -> dict[str, str]:
    place = data["data_directory"]
    access = "" if place["writable"] else ", NOT WRITABLE (set CDTOOL_HOME to another folder)"
    return {
        **{name: str(data[name]) for name in ("cdtool", "python", "system", *LIBRARIES)},
        "devices": ", ".join(
            f"{d['name']} ({output.size(d['bytes'])})" if d["bytes"] else d["name"] for d in data["devices"]
        ),
        "precision": "auto is {dtype}: {why}".format(**data["precision"]),
        "cores": str(data["cores"]),
        "memory": output.size(data["memory"]) if data["memory"] else "unknown",
        "data directory": f"{place['path']} ({output.size(place['free'])} free{access})",
        "base in use": "{value} (from {origin})".format(**data["base"]),
        "bases at hand": ", ".join(base["name"] for base in data["bases"]) or "none",
    }


def _devices() -> list[dict[str, Any]]:
    import torch

    found = [torch.cuda.get_device_properties(index) for index in range(torch.cuda.device_count())]
    gpus = [{"name": gpu.name, "bytes": gpu.total_memory} for gpu in found]
    if torch.backends.mps.is_available():
        gpus.append({"name": "mps", "bytes": 0})
    return [*gpus, {"name": "cpu", "bytes": 0}]


def _precision() -> dict[str, str]:
    from cdtool.models import pipelines

    dtype, why = pipelines.pick_dtype("auto", pipelines.pick_device())
    return {"dtype": str(dtype).removeprefix("torch."), "why": why}


def _memory() -> int:
    """Bytes of memory this process may use at most, 0 where the system does not tell."""
    try:
        total = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, ValueError, OSError):
        return 0
    try:
        limit = Path("/sys/fs/cgroup/memory.max").read_text(encoding="ascii").strip()
    except OSError:
        return total
    return min(total, int(limit)) if limit.isdigit() else total


def _nearest_folder(path: Path) -> Path:
    return next(folder for folder in (path, *path.absolute().parents) if folder.is_dir())


def _free_disk(path: Path) -> int:
    return shutil.disk_usage(_nearest_folder(path)).free


def _writable(path: Path) -> bool:
    return os.access(_nearest_folder(path), os.W_OK)
