"""cdtool export and import: concepts to and from other tools' files."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from cdtool import sources, tokens
from cdtool.cli import options, output
from cdtool.errors import ConceptError, InputError, UsageError
from cdtool.store import bases, concept, registry
from cdtool.store.registry import Concept
from cdtool.tokens import counted

if TYPE_CHECKING:
    from cdtool.cli.output import Output
    from cdtool.interop.exporting import Step

To = Annotated[
    Literal["diffusers", "kohya", "custom-diffusion", "comfyui-node"], typer.Option("--to", help="Whose files.")
]
Target = Annotated[
    Path | None, typer.Option("--out", "-o", metavar="DIR", help="The folder; CONCEPT-FORMAT. kohya: also a file.")
]
Into = Annotated[
    Path | None, typer.Option("--into", metavar="DIR", help="Where ComfyUI or A1111 is; each file in its place.")
]
Card = Annotated[bool, typer.Option("--card", help="Write the concept's card beside it too.")]
Rank = Annotated[int | None, typer.Option("--rank", metavar="R", min=1, help="Keep so many ranks of each matrix.")]
Energy = Annotated[
    float | None, typer.Option("--energy", metavar="F", help="Keep this share of the singular values' sum.")
]
Paths = Annotated[list[Path], typer.Argument(metavar="PATH...", help="Files of one concept, or their folder.")]
Tokens = Annotated[
    list[str] | None,
    typer.Option(
        "--token", metavar="SPEC", help='What it is called, as in train: "V* dog"; other tools do not record it.'
    ),
]


def export(
    concept_name: options.Concept,
    to: To,
    out: Target = None,
    into: Into = None,
    card: Card = False,
    rank: Rank = None,
    energy: Energy = None,
    base: options.Base = None,
    force: options.Force = False,
    json: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """Write a concept for diffusers, ComfyUI, A1111 or kohya.

    It becomes a LoRA and its words' embeddings. Whole matrices become a LoRA of the rank they need, which loses
    nothing; --rank and --energy make it smaller. kohya keeps a rank for each matrix, diffusers wants one for all, so
    there smaller ones are padded. custom-diffusion writes whole weights as the public example script does; comfyui-node
    writes the concept and nodes that read it, for several concepts in one picture too. To share a concept with another
    cdtool, copy its file instead.

    Examples:
      cdtool export dog --to diffusers
      cdtool export dog --to kohya --energy 0.6 -o models/dog.safetensors
      cdtool export dog --to custom-diffusion -o dog-weights
      cdtool export dog --to comfyui-node -o dog-nodes
    """
    voice = output.sink(json, quiet)
    _check_target(out, into, card)
    _check_rank(rank, energy)
    entry = registry.find(concept_name)
    where = base or registry.base_of(entry)
    if entry.manifest and concept.reach(entry.manifest) == "own words":
        voice.warn(
            f"{entry.name} was trained to change its own words alone; other tools let it change the whole prompt."
        )
    folder, stem = (into, "") if into else _target(out, to, entry)
    output.quiet_libraries()
    from cdtool.interop import exporting, placing

    events = exporting.export(
        entry, to, folder, stem=stem, base=where, rank=rank, energy=energy,
        tool=placing.find(into, to) if into else None, force=force,
    )  # fmt: skip
    if card:
        from cdtool.sharing import card as cards

        made = cards.gather(entry)
        cards.check_free(folder, force=force)
    done = list(voice.progress(events, exporting.steps(entry, to), label="matrix"))[-1]
    if card:
        cards.write(made, folder, force=force)
    main = folder / f"{stem}.safetensors" if stem else folder
    _tell_written(voice, done, {"concept": entry.name, "format": to, "path": str(main)})


def _tell_written(voice: Output, done: Step, data: dict[str, object]) -> None:
    """Say what was written, and what it lost."""
    voice.talk(done.usage)
    if done.rank:
        voice.talk(f"Rank {done.rank}, relative error {done.error:.1e}.")
    if done.padding:
        voice.talk(f"All matrices are padded to rank {done.rank}, as {data['format']} wants one rank. --to kohya "
                   "writes each at its own; --rank chooses a smaller one.")  # fmt: skip
    size = sum(path.stat().st_size for path in done.paths)
    voice.talk(f"{counted(len(done.paths), 'file')}, {output.size(size)}.")
    data |= {"files": [str(path) for path in done.paths], "rank": done.rank, "error": done.error, "bytes": size}
    voice.result(str(data["path"]), data | {"usage": done.usage})


def _check_target(out: Path | None, into: Path | None, card: bool) -> None:
    if into is not None and (out is not None or card):
        raise UsageError(f"--into and {'--card' if card else '-o'} exclude each other.", "Give one of them.")


def _check_rank(rank: int | None, energy: float | None) -> None:
    if rank is not None and energy is not None:
        raise UsageError("--rank and --energy exclude each other.", "Give one of them.")
    if energy is not None and not 0 < energy <= 1:
        raise UsageError(f"--energy is a share above 0 and up to 1, not {energy:g}.", "Like --energy 0.6.")


def _target(out: Path | None, to: str, entry: Concept) -> tuple[Path, str]:
    """The folder to write into, and for kohya's `-o FILE.safetensors` what its files begin with."""
    if out is None:
        return Path(f"{entry.name}-{to}"), ""
    if out.suffix != registry.SUFFIX:
        return out, ""
    if to != "kohya":
        raise UsageError(f"{to} is a folder of files, not one.", f"Like -o {out.stem}.")
    return out.parent, out.stem


def import_(
    paths: Paths,
    token: Tokens = None,
    name: options.Name = None,
    base: options.Base = None,
    force: options.Force = False,
    if_missing: options.IfMissing = False,
    json: options.JsonLines = False,
    quiet: options.Quiet = False,
) -> None:
    """Bring in a concept or another tool's weights.

    It reads another cdtool's file, and weights, LoRAs of K/V and embeddings of other tools. Those know neither their
    base nor what the thing is: --base and --token say so.

    Examples:
      cdtool import ./shared/rex.safetensors
      cdtool import ./dog-output --token "V* dog" --base sd14 --name their-dog
      cdtool import delta.bin --token "V1 dog" --token "V2 cat" --name their-pair
    """
    voice = output.sink(json, quiet)
    from cdtool.interop import files as foreign

    files = foreign.files(paths)
    own = [path for path in files if foreign.is_concept(path)]
    if own and len(own) < len(files):
        other = next(path for path in files if path not in own)
        raise InputError(
            f"{own[0].name} is a whole concept, {other.name} another tool's file.", "Import them one by one."
        )
    if own:
        _adopt(voice, own, name, token or [], force=force, if_missing=if_missing)
    else:
        _bring(voice, files, name, token or [], base, force=force, if_missing=if_missing)


def _adopt(
    voice: Output, files: Sequence[Path], name: str | None, specs: Sequence[str], *, force: bool, if_missing: bool
) -> None:
    """Copy concepts of another cdtool into the registry."""
    if specs:
        raise UsageError("A concept of cdtool knows its own words.", "Leave --token out.")
    if name and len(files) > 1:
        raise UsageError(
            f"--name {name} cannot name {len(files)} concepts.", "Leave it out, or import them one by one."
        )
    for path in files:
        called = name or path.stem
        if if_missing and called in registry.names():
            _tell(voice, registry.find(called), "", f'There is a concept "{called}" already; nothing to do.')
            continue
        registry.check_free(called, force=force)
        _tell(voice, registry.adopt(path, called, force=force), "cdtool")


def _bring(
    voice: Output,
    files: Sequence[Path],
    name: str | None,
    specs: Sequence[str],
    base: str | None,
    *,
    force: bool,
    if_missing: bool,
) -> None:
    if not specs:
        raise UsageError(
            "Other tools' files do not say what the thing is called in a prompt.",
            'Add --token with its class noun, like --token "V* dog"; --token moongate where no word was trained.',
        )
    learned = tokens.parse_specs(specs)
    called = name or "-".join(registry.slug(each.noun) for each in learned)
    if if_missing and called in registry.names():
        _tell(voice, registry.find(called), "", f'There is a concept "{called}" already; nothing to do.')
        return
    registry.check_free(called, force=force)
    chosen = sources.base_name(base)
    bases.locate(chosen.value)
    if base is None:
        voice.talk(f"Reading it as a concept on {chosen.value}; name another base with --base NAME.")
    output.quiet_libraries()
    from cdtool.interop import importing
    from cdtool.models import pipelines

    loaded = pipelines.load(chosen.value, device="cpu", parts=("tokenizers",))
    brought = importing.bring(files, loaded, learned, called)
    for remark in brought.remarks:
        voice.warn(remark)
    entry = registry.save(brought.manifest, brought.tensors, force=force)
    _tell(voice, entry, brought.label)


def _tell(voice: Output, entry: Concept, label: str, remark: str = "") -> None:
    if entry.manifest is None:
        raise ConceptError(entry.problem)
    held = entry.manifest.tokens
    words = [token.words(place if len(held) > 1 else None) for place, token in enumerate(held, 1)]
    voice.talk(remark or f'Imported ({label}). Try: cdtool sample {entry.name} "photo of a {" and a ".join(words)}"')
    data: dict[str, Any] = {"name": entry.name, "path": str(entry.path), "bytes": entry.bytes, "format": label}
    voice.result(entry.name, data | {"method": entry.manifest.method, "tokens": words})
