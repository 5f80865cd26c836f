"""The hub's cache of public pipelines, and the one download cdtool makes."""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from cdtool.errors import BaseError, NotFoundError

_COMPONENTS = ("unet", "vae", "text_encoder", "text_encoder_2")
_PLAIN_FILES = re.compile(
    r"model_index\.json|(scheduler|tokenizer|tokenizer_2)/[^/]+\.(json|txt)|(unet|vae|text_encoder|text_encoder_2)/config\.json"
)
_WEIGHTS = re.compile(
    r"(?P<part>unet|vae|text_encoder|text_encoder_2)/(diffusion_pytorch_model|model)"
    r"(?P<half>\.fp16)?(-\d{5}-of-\d{5})?(?P<old_half>\.fp16)?\.safetensors(\.index(?P<index_half>\.fp16)?\.json)?"
)


def snapshot(hub_id: str) -> Path | None:
    """The folder of a pipeline in the cache, or None."""
    from huggingface_hub import try_to_load_from_cache

    index = try_to_load_from_cache(hub_id, "model_index.json")
    return Path(index).parent if isinstance(index, str) else None


def cached() -> Iterator[tuple[str, Path]]:
    """Hub id and folder of every pipeline in the hub cache, read from the folder names alone."""
    from huggingface_hub import constants

    for store in Path(constants.HF_HUB_CACHE).glob("models--*--*"):
        _, owner, model = store.name.split("--", 2)
        try:
            commit = (store / "refs" / "main").read_text(encoding="utf-8").strip()
        except OSError:
            continue
        yield f"{owner}/{model}", store / "snapshots" / commit


def download(hub_id: str) -> Path:
    """Download a pipeline into the cache: configurations, tokenizers, safetensors weights (fp16 where there are any).

    With `sharing.hub`, all of cdtool that uses the network. Raises NotFoundError where the hub has no such pipeline or
    cannot be reached, BaseError where it has no safetensors weights.
    """
    with online():
        from huggingface_hub import HfApi, snapshot_download
        from huggingface_hub.errors import GatedRepoError, HfHubHTTPError, RepositoryNotFoundError

        try:
            # One small file first: it fails at once where the listing would retry for half a minute.
            snapshot_download(hub_id, allow_patterns=["model_index.json"])
            files = files_to_fetch(HfApi().list_repo_files(hub_id))
            return Path(snapshot_download(hub_id, allow_patterns=files))
        except GatedRepoError:
            raise NotFoundError(
                f"{hub_id} is only given to those who accepted its licence.",
                "Accept it on the model's page, then: hf auth login",
            ) from None
        except RepositoryNotFoundError:
            raise NotFoundError(f"The hub has no public model {hub_id}.", "See: cdtool base list") from None
        except (HfHubHTTPError, OSError) as error:
            if getattr(error, "errno", None) == errno.ENOSPC:
                raise
            reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
            raise NotFoundError(f"{hub_id} could not be fetched: {reason}.", "Try again when you are online.") from None


def files_to_fetch(files: Iterable[str]) -> list[str]:
    """The files of a hub pipeline that cdtool needs; of each part's weights the fp16 ones where there are any.

    Raises BaseError for a pipeline without safetensors weights of its UNet.
    """
    files = list(files)
    chosen = [name for name in files if _PLAIN_FILES.fullmatch(name)]
    found = [match for name in files if (match := _WEIGHTS.fullmatch(name))]
    for part in _COMPONENTS:
        weights = [match for match in found if match["part"] == part]
        halves = [match for match in weights if match["half"] or match["old_half"] or match["index_half"]]
        chosen += [match[0] for match in halves or weights]
        if part == "unet" and not weights:
            raise BaseError("It found no safetensors weights of a UNet.", "Choose another base: cdtool base list")
    return sorted(chosen)


@contextmanager
def online() -> Iterator[None]:
    """Let the hub library use the network for a while; everywhere else it may not."""
    from huggingface_hub import constants

    before = constants.HF_HUB_OFFLINE
    constants.HF_HUB_OFFLINE = False
    saved = os.environ.pop("HF_HUB_OFFLINE", None)
    try:
        yield
    finally:
        constants.HF_HUB_OFFLINE = before
        if saved is not None:
            os.environ["HF_HUB_OFFLINE"] = saved
