"""The demo: sample photos laid beside the user, the commands to run on them, and the sheet that shows what came out."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from cdtool.store import bases


@dataclass(frozen=True)
class Chapter:
    """One concept of the demo: its sample photos, its token, and what it is asked for."""

    name: str
    spec: str
    prompts: tuple[str, ...]
    plain: tuple[str, ...]  # the same for the bare base

    @property
    def concept(self) -> str:
        """Its name in the registry, out of the way of the user's own."""
        return f"demo-{self.name}"


CHAPTERS = (
    Chapter(
        "dog",
        "V* dog",
        ("photo of a V* dog", "a V* dog on the beach", "a V* dog in the snow"),
        ("photo of a dog", "a dog on the beach", "a dog in the snow"),
    ),
    Chapter(
        "moongate",
        "moongate",
        ("photo of a moongate", "a moongate on the beach", "a moongate in the snow"),
        ("photo of a moongate", "a moongate on the beach", "a moongate in the snow"),
    ),
)
PAIR = "demo-pair"
PAIR_PROMPTS = (
    "a V2 moongate on the left of a V1 dog on the grass",
    "a V1 dog in front of a V2 moongate on the beach",
)
DEMO_PICTURES = 4  # per prompt
AGAIN = "--skip-existing"  # run again, the demo adds nothing


def unpack(folder: Path) -> None:
    """Copy the demo's sample photos into `folder`/photos."""
    for chapter in CHAPTERS:
        target = folder / "photos" / chapter.name
        target.mkdir(parents=True, exist_ok=True)
        for photo in sorted((bases.MINI.parent / "photos" / chapter.name).iterdir()):
            (target / photo.name).write_bytes(photo.read_bytes())


def demo_commands(folder: Path) -> list[list[str]]:
    """The commands of the demo in order, as a user would type them after `cdtool`; run again, they go on."""
    commands = []
    for chapter in CHAPTERS:
        photos_, count = str(folder / "photos" / chapter.name), ["-n", str(DEMO_PICTURES)]
        base = ["--out", str(folder / f"{chapter.name}-before"), *count]
        tuned = ["--out", str(folder / chapter.name), *count]
        commands += [
            ["sample", "mini", *chapter.plain, *base, AGAIN],
            ["train", photos_, "--token", chapter.spec, "-o", chapter.concept, "--base", "mini", "--if-missing"],
            ["sample", chapter.concept, *chapter.prompts, *tuned, AGAIN],
        ]
    dog, *_ = names = [chapter.concept for chapter in CHAPTERS]
    pictures = ["--out", str(folder / "pair"), "-n", str(2 * DEMO_PICTURES)]
    return [
        *commands,
        ["merge", *names, "-o", PAIR, "--if-missing"],
        ["sample", PAIR, *PAIR_PROMPTS, *pictures, AGAIN],
        ["compress", dog, "-o", f"{dog}-small", "--if-missing"],
        ["eval", dog, "--report", str(folder / "report.html")],
        ["list"],
    ]


def demo_sheet(folder: Path) -> Path:
    """The demo's contact sheet: for each concept the photos, the base's pictures and its own for the same prompts."""
    import json

    from PIL import Image

    from cdtool.images import photos
    from cdtool.images.sheets import Row, contact_sheet

    def newest(part: str, prompt: str, count: int = DEMO_PICTURES) -> list[Image.Image]:
        lines = (folder / part / "samples.jsonl").read_text(encoding="utf-8").splitlines()
        records = [record for record in map(json.loads, lines) if record["prompt"] == prompt]
        return [Image.open(folder / part / record["file"]) for record in records[-count:]]

    rows: list[Row | tuple[Row, Row]] = []
    for chapter in CHAPTERS:
        given, _ = photos.find([folder / "photos" / chapter.name])
        rows.append(Row(f"{chapter.name}: the photos", [photos.read(photo) for photo in given]))
        for plain, prompt in zip(chapter.plain, chapter.prompts, strict=True):
            before = Row(f"before: {plain}", newest(f"{chapter.name}-before", plain))
            rows.append((before, Row(f"after: {prompt}", newest(chapter.name, prompt))))
    rows += [Row(f"merged: {prompt}", newest("pair", prompt, 2 * DEMO_PICTURES)) for prompt in PAIR_PROMPTS]
    path = folder / "demo.png"
    contact_sheet(rows, side=96).save(path)
    return path
