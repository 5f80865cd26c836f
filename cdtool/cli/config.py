"""cdtool config: each setting, its value, and where that came from."""

from __future__ import annotations

from pathlib import Path

from cdtool import settings
from cdtool.cli import options, output
from cdtool.cli import trainflags as flag
from cdtool.errors import CdtoolError
from cdtool.store import bases


def config(base: options.Base = None, method: flag.Method = None, json: options.Json = False) -> None:
    """Show each setting, its value and where it came from.

    The order is flag, --like, CDTOOL_* variable, ./cdtool.toml, the user's config.toml, the base's own cdtool.toml,
    default. In a file, [train.full] counts above [train] for --method full; a method's own settings count above
    the base's [train] and below its [train.full].

    Examples:
      cdtool config
      cdtool config --base sdxl
      cdtool config --method full
      CDTOOL_TRAIN_STEPS=400 cdtool config --json
    """
    out = output.sink(json)
    chosen = settings.base_name(base)
    values = {"base": chosen}
    folder = _folder(str(chosen.value), out)
    for section, cls in settings.SECTIONS.items():
        _, found = settings.resolve(cls, {"method": method} if section == "train" else {}, folder)
        values |= {f"{section}.{name}": value for name, value in found.items()}
    places = {"data": settings.data_dir(), "cache": settings.cache_dir(), "config": settings.config_file()}
    rows = [(name, str(value.value), value.origin) for name, value in values.items()]
    rows += [
        (f"{name} directory" if name != "config" else "config file", str(path), "") for name, path in places.items()
    ]
    data = {name: {"value": value.value, "origin": value.origin} for name, value in values.items()}
    out.table(("SETTING", "VALUE", "FROM"), rows, {"settings": data, "places": places})


def _folder(base: str, out: output.Output) -> Path | None:
    try:
        return bases.locate(base)
    except CdtoolError as error:
        out.warn(f"{error} Its own settings are left out.")
        return None
