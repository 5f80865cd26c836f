"""Self-contained HTML pages: text escaped, pictures inside, nothing fetched from anywhere."""

from __future__ import annotations

import base64
import io
import json
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jinja2
from markupsafe import Markup

from cdtool.errors import NotFoundError, UsageError
from cdtool.files import replacing

if TYPE_CHECKING:
    from PIL import Image

SUFFIXES = (".html", ".htm")
TINY = 160  # px; pictures up to this side keep every pixel and are shown with hard edges
_TEMPLATES = Path(__file__).parent.parent / "assets"


def figure(value: float) -> str:
    """A score for people: "0.120", "27.42", "1,299": as many places as tell something."""
    return f"{value:,.{_places(value)}f}".replace("-", "\u2212")


def signed(value: float) -> str:
    """A difference for people: "+0.120", "−0.120" with a true minus."""
    return f"{value:+,.{_places(value)}f}".replace("-", "\u2212")


def _places(value: float) -> int:
    return 3 if abs(value) < 10 else 2 if abs(value) < 100 else 0


def render(template: str, **values: Any) -> str:
    """A template of cdtool/assets with its values, which are escaped unless they are Markup."""
    return str(_environment().get_template(template).render(values))


@cache
def _environment() -> jinja2.Environment:
    found = jinja2.Environment(
        loader=jinja2.FileSystemLoader(_TEMPLATES), autoescape=True, undefined=jinja2.StrictUndefined
    )
    found.filters |= {"figure": figure, "signed": signed}
    found.globals |= {"source": _source, "data_uri": data_uri, "is_tiny": is_tiny}
    return found


def _source(name: str) -> Markup:
    """A style sheet or script of cdtool/assets as it is."""
    return Markup((_TEMPLATES / name).read_text(encoding="utf-8"))  # our own file


def data(value: Any) -> Markup:
    """A value as JSON that can stand inside a script element, whatever texts it holds."""
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    return Markup(text.replace("&", "\\u0026").replace("<", "\\u003c").replace(">", "\\u003e"))


def data_uri(image: Image.Image, side: int = 512) -> str:
    """A picture as a data URI and nothing but its pixels: no name, no prompt, no place and no date of the file.

    Pictures over `side` px are scaled down; small ones are PNG, larger ones JPEG.
    """
    from PIL import Image

    pixels = image.convert("RGB")
    if max(pixels.size) > side:
        pixels.thumbnail((side, side), Image.Resampling.LANCZOS)
    pixels.info.clear()  # where PIL keeps what came with the file, and writes some of it
    buffer = io.BytesIO()
    kind = "png" if is_tiny(pixels) else "jpeg"
    pixels.save(buffer, kind, **({"optimize": True} if kind == "png" else {"quality": 90}))
    return f"data:image/{kind};base64,{base64.b64encode(buffer.getvalue()).decode()}"


def is_tiny(image: Image.Image) -> bool:
    """Whether a picture is so small that a page enlarges it with hard pixels."""
    return max(image.size) <= TINY


def check(path: Path, flag: str) -> None:
    """Whether a page can be written there, told before the work: UsageError or NotFoundError."""
    if path.suffix.lower() not in SUFFIXES:
        raise UsageError(f'"{path}" is no name of a page.', f"End it in .html: {flag} {path.stem or 'page'}.html")
    if not path.absolute().parent.is_dir():
        raise NotFoundError(f"There is no folder {path.parent} for the page.", "Make it, or choose another.")


def save(text: str, path: Path) -> None:
    """Write a page under its name whole or not at all, over an older one."""
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8", newline="\n")
