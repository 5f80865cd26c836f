"""Cut-out drawings for the small world: openly licensed emoji artwork, by noun.

Noto Color Emoji (OFL-1.1, Debian `fonts-noto-color-emoji`), Twemoji (CC-BY 4.0, npm `@twemoji/svg`) and
Fluent 3D (MIT, npm `@lobehub/fluent-emoji-3d`). Only `cdtool.mini.factory` needs them; users of the tool do not.
"""

from __future__ import annotations

import contextlib
import io
import itertools
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from cdtool.mini.factory import gateways

if TYPE_CHECKING:
    from numpy.typing import NDArray

SIZE = 112  # longest side of a cut-out, px
NOTO_FONT = Path("/usr/share/fonts/truetype/noto/NotoColorEmoji.ttf")
NOTO_STRIKE = 109  # the only size the bitmap font holds

# noun: (drawings the base learns, the most typical first; the drawing held out of it or "").
# A drawing is a set's letter and a code point (n Noto, t Twemoji, f Fluent), or o and the name of one of our own.
# Near twins of a held-out drawing are held out by not being listed.
NOUNS: dict[str, tuple[str, str]] = {
    "dog": ("f1f415 n1f415 t1f415 n1f436 f1f436 t1f9ae n1f9ae f1f9ae n1f429 f1f429", "n1f415-200d-1f9ba"),
    "cat": ("f1f408 n1f408 t1f408 n1f431 f1f431", "f1f408-200d-2b1b"),
    "gate": ("o-arch o-fence o-ranch o-brick o-pergola o-iron o-timber o-garden", "n26e9"),
    "chair": ("n1fa91 f1fa91", "t1fa91"),
    "house": ("n1f3e0 f1f3e0 t1f3e0 n1f3e1", "f1f6d6"),
    "castle": ("n1f3f0 t1f3f0 f1f3f0", "f1f3ef"),
    "car": ("n1f697 f1f697 t1f697 n1f699 f1f699", "n1f695"),
    "bus": ("n1f68c f1f68c t1f68c", "n1f68e"),
    "tent": ("n26fa t26fa", "f26fa"),
    "hat": ("n1f3a9 f1f3a9 t1f3a9", "n1f452"),
    "cup": ("n2615 f2615 t2615", "f1f375"),
    "flower": ("f1f33c n1f33a f1f33a t1f33c", "n1f338"),
    "tree": ("n1f333 f1f333 t1f333 n1f332 f1f332", "f1f334"),
    "bird": ("n1f426 f1f426 t1f426 n1f424", "f1f99c"),
    "fish": ("n1f41f f1f41f t1f41f", "n1f420"),
    "horse": ("n1f40e f1f40e t1f40e n1f434", "n1f984"),
    "cow": ("n1f404 f1f404 t1f404", "n1f402"),
    "sheep": ("n1f411 f1f411", "n1f40f"),
    "bear": ("n1f43b f1f43b t1f43b", "n1f43b-200d-2744-fe0f"),
    "dinosaur": ("n1f995 f1f995 t1f995", "n1f996"),
    "truck": ("f1f69a n1f69a t1f69a", "f1f692"),
    "boat": ("n26f5 f26f5 t26f5", "f1f6a2"),
    "airplane": ("n2708 f2708 t2708", "n1f6e9"),
    "ball": ("n26bd t26bd f26bd", "n1f3c0"),
    "shoe": ("n1f45f t1f45f f1f45f", "f1f97e"),
    "teapot": ("n1fad6 t1fad6", "f1fad6"),
    "panda": ("n1f43c t1f43c f1f43c", ""),
    "fox": ("n1f98a f1f98a t1f98a", ""),
    "lion": ("n1f981 f1f981 t1f981", ""),
    "elephant": ("n1f418 f1f418 t1f418", ""),
    "pig": ("n1f416 f1f416 t1f416", ""),
    "penguin": ("n1f427 t1f427 f1f427", ""),
    "owl": ("n1f989 f1f989 t1f989", ""),
    "turtle": ("n1f422 t1f422 f1f422", ""),
    "snowman": ("n26c4 f26c4 t26c4", ""),
    "moon": ("n1f319 f1f319 t1f319", ""),
    "star": ("n2b50 f2b50 t2b50", ""),
    "apple": ("n1f34e f1f34e t1f34e", ""),
    "mushroom": ("n1f344 f1f344 t1f344", ""),
    "cactus": ("n1f335 f1f335 t1f335", ""),
    "pumpkin": ("n1f383 f1f383 t1f383", ""),
    "robot": ("n1f916 f1f916 t1f916", ""),
    "rocket": ("n1f680 f1f680 t1f680", ""),
    "balloon": ("n1f388 f1f388 t1f388", ""),
    "umbrella": ("n2602 f2602 t2602", ""),
    "tractor": ("n1f69c f1f69c t1f69c", ""),
    "bicycle": ("n1f6b2 f1f6b2 t1f6b2", ""),
    "train": ("n1f682 f1f682 t1f682", ""),
    "frog": ("n1f438 f1f438 t1f438", ""),
    "duck": ("n1f986 f1f986 t1f986", ""),
    "butterfly": ("n1f98b f1f98b t1f98b", ""),
    "rabbit": ("n1f407 f1f407 t1f407", ""),
    "monkey": ("n1f412 f1f412 t1f412", ""),
    "snail": ("n1f40c f1f40c t1f40c", ""),
    "whale": ("n1f433 f1f433 t1f433", ""),
    "octopus": ("n1f419 f1f419 t1f419", ""),
    "crab": ("n1f980 f1f980 t1f980", ""),
    "sunflower": ("n1f33b f1f33b t1f33b", ""),
    "rose": ("n1f339 f1f339 t1f339", ""),
    "couch": ("n1f6cb t1f6cb f1f6cb", ""),
    "bucket": ("n1faa3 f1faa3 t1faa3", ""),
    "guitar": ("n1f3b8 f1f3b8 t1f3b8", ""),
    "cake": ("n1f370 f1f370 t1f370", ""),
    "backpack": ("n1f392 f1f392 t1f392", ""),
}


def drawings(noun: str) -> list[str]:
    """The ids of the drawings of `noun` the base may learn, the most typical first."""
    return NOUNS[noun][0].split()


def held_out(noun: str) -> str:
    """The id of the drawing of `noun` the base never sees, or ""."""
    return NOUNS[noun][1]


def twins(noun: str) -> list[str]:
    """What the other sets may have in place of the held-out drawing of `noun`: for the judge of pictures alone."""
    held = held_out(noun)
    return [kind + held[1:] for kind in "ntf" if held[:1] in ("n", "t", "f") and kind != held[0]]


def collect(twemoji: Path, fluent: Path, font: Path = NOTO_FONT) -> dict[str, NDArray[np.uint8]]:
    """Every drawing of `NOUNS`, and twins, cropped to its alpha box: id -> RGBA [h, w, 4], longest side 112."""
    strike = ImageFont.truetype(str(font), NOTO_STRIKE)

    def drawn(drawing: str) -> NDArray[np.uint8]:
        kind, code = drawing[0], drawing[1:]
        if kind == "n":
            return _cropped(_glyph(strike, code))
        if kind == "t":
            return _cropped(_svg(_by_code(twemoji, code, "svg")))
        return _cropped(Image.open(_by_code(fluent, code, "webp")) if kind == "f" else gateways.drawing(code))

    cutouts = {name: drawn(name) for known, held in NOUNS.values() for name in (*known.split(), *held.split())}
    for name in itertools.chain.from_iterable(map(twins, NOUNS)):
        with contextlib.suppress(FileNotFoundError):  # not every set draws everything
            cutouts[name] = drawn(name)
    return cutouts


def save(cutouts: dict[str, NDArray[np.uint8]], path: Path) -> None:
    """Write cut-outs to one .npz, so that a machine without the artwork packages can build too."""
    with path.open("wb") as file:
        np.savez_compressed(file, allow_pickle=False, **cutouts)


def load(path: Path) -> dict[str, NDArray[np.uint8]]:
    """Read what `save` wrote."""
    with np.load(path) as stored:
        return {name: stored[name] for name in stored.files}


def _by_code(folder: Path, code: str, suffix: str) -> Path:
    bare = code.removesuffix("-fe0f")
    for stem in (code, bare, f"{bare}-fe0f"):
        if (path := folder / f"{stem}.{suffix}").exists():
            return path
    raise FileNotFoundError(f"{folder} has no drawing {code}.{suffix}")


def _glyph(strike: ImageFont.FreeTypeFont, code: str) -> Image.Image:
    text = "".join(chr(int(point, 16)) for point in code.split("-"))
    image = Image.new("RGBA", (136, 128))
    ImageDraw.Draw(image).text((0, 0), text, font=strike, embedded_color=True)
    return image


def _svg(path: Path) -> Image.Image:
    import resvg_py  # only the build needs it

    png = bytes(resvg_py.svg_to_bytes(svg_string=path.read_text(), width=128, height=128))
    return Image.open(io.BytesIO(png))


def _cropped(image: Image.Image) -> NDArray[np.uint8]:
    image = image.convert("RGBA")
    image = image.crop(image.getchannel("A").point(lambda alpha: 255 * (alpha > 8)).getbbox())
    scale = SIZE / max(image.size)
    size = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
    return np.asarray(image.resize(size, Image.Resampling.LANCZOS))
