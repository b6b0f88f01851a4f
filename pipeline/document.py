"""A configuration as a commented TOML file."""

from __future__ import annotations

import os
from contextlib import suppress
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, Protocol

import tomli_w
from pydantic import BaseModel, TypeAdapter

from pipeline.config import Settings
from pipeline.errors import ConfigError
from pipeline.specs import AxisSpec, BandSpec, GridSpec, ProductSpec, SceneSpec

# Written even where they have their default, because a user will want to change them.
ALWAYS = {
    "product": {"name", "title", "licence", "attribution", "providers"},
    "scenes": {"folder", "pattern", "time_format", "latency"},
    "scenes.mask": {"folder", "suffix", "values"},
    "bands": {"name", "index", "dtype", "units", "scale", "offset", "forecast"},
    "grid": {"crs", "transform", "width", "height"},
    "axis": {"origin", "cadence"},
    "samples": {"context_frames", "max_age", "horizon", "test_fraction", "validation_fraction"},
    "motion": {"method", "band"},
    "training": {"epochs", "budget", "chip", "batch", "seed"},
}


class Sections(Protocol):
    """A configuration, whole (:class:`Settings`) or guessed; sections that it lacks keep their defaults."""

    @property
    def workspace(self) -> Path: ...  # noqa: D102 - as in Settings
    @property
    def product(self) -> ProductSpec: ...  # noqa: D102
    @property
    def scenes(self) -> SceneSpec: ...  # noqa: D102
    @property
    def bands(self) -> tuple[BandSpec, ...]: ...  # noqa: D102
    @property
    def grid(self) -> GridSpec: ...  # noqa: D102
    @property
    def axis(self) -> AxisSpec: ...  # noqa: D102


def write(what: Sections, path: Path, *, notes: tuple[str, ...] = (), overwrite: bool = False) -> None:
    """Writes a configuration file; it appears whole or not at all.

    Raises:
        ConfigError: the file exists, or cannot be written.
    """
    if path.exists() and not overwrite:
        msg = f"a configuration is not overwritten, but {path} exists: remove it or choose another --output"
        raise ConfigError(msg)
    aside = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        aside.write_text(render(what, notes=notes, folder=path.resolve().parent), encoding="utf-8")
        aside.replace(path)
    except (OSError, UnicodeEncodeError) as error:
        with suppress(OSError):
            aside.unlink()
        msg = f"the configuration is written to {path}, but that fails: {error}. Choose another --output"
        raise ConfigError(msg) from None


def render(what: Sections, *, notes: tuple[str, ...] = (), folder: Path | None = None) -> str:
    """A configuration as commented TOML; each value has its meaning and unit above it.

    Args:
        what: the configuration.
        notes: what stands at the top as comments.
        folder: where the file will lie; paths inside it become relative.
    """
    base = (folder or Path()).resolve()
    lines = ["# One product of cubecast. What is not said here has its default; times are UTC."]
    lines += [f"# - {_one_line(note)}" for note in notes]
    about = Settings.model_fields["workspace"].description or ""
    lines += ["", *_entry("workspace", what.workspace, about, base)]
    for name in Settings.model_fields:
        lines += _section(name, getattr(what, name, None), base)
    return "\n".join(lines) + "\n"


def _section(name: str, part: object, base: Path) -> list[str]:
    if isinstance(part, tuple):
        return [line for at, band in enumerate(part) for line in _table(f"[[{name}]]", name, band, base, first=at == 0)]
    if not isinstance(part, BaseModel):
        return []
    inner = {key: getattr(part, key) for key in type(part).model_fields if isinstance(getattr(part, key), BaseModel)}
    lines = [line for key, table in inner.items() for line in _section(f"{name}.{key}", table, base)]
    return [*_table(f"[{name}]", name, part, base), *lines]


def _table(head: str, name: str, part: BaseModel, base: Path, *, first: bool = True) -> list[str]:
    """A table; of several alike only the first is explained. Empty where everything has its default."""
    entries = []
    for key, field in type(part).model_fields.items():
        value = getattr(part, key)
        said = key in ALWAYS.get(name, ()) or value != field.default
        if said and value is not None and not isinstance(value, BaseModel):
            entries += _entry(key, value, (field.description or "") if first else "", base)
    about = [f"# {_one_line((type(part).__doc__ or '').partition('.')[0])}."] if first else []
    return ["", *about, head, *entries] if entries else []


def _entry(key: str, value: Any, about: str, base: Path) -> list[str]:
    comment = [f"# {about}"] if about else []
    return [*comment, f"{key} = {_toml(value, base)}"]


def _toml(value: Any, base: Path) -> str:
    if isinstance(value, Path):
        inside = value.is_absolute() and value.is_relative_to(base)
        return _text((value.relative_to(base) if inside else value).as_posix())
    if isinstance(value, timedelta):
        return _text(iso(value))
    if isinstance(value, datetime):
        return value.isoformat().replace("+00:00", "Z")
    if isinstance(value, BaseModel):
        value = value.model_dump(exclude_defaults=True)
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key} = {_toml(member, base)}" for key, member in value.items()) + "}"
    if isinstance(value, tuple):
        return f"[{', '.join(_toml(member, base) for member in value)}]"
    return _text(value) if isinstance(value, str) else _by_writer(value)


def _text(value: str) -> str:
    literal = '"' in value and "'" not in value and value.isprintable()  # WKT is full of double quotes
    return f"'{value}'" if literal else _by_writer(value)


def _by_writer(value: Any) -> str:
    return tomli_w.dumps({"v": value}).removeprefix("v = ").rstrip("\n")


def iso(duration: timedelta) -> str:
    """A duration in ISO 8601.

    >>> iso(timedelta(minutes=5))
    'PT5M'
    """
    return TypeAdapter(timedelta).dump_python(duration, mode="json")


def _one_line(text: str) -> str:
    """A text that cannot end the comment it stands in; tags of scenes come from strangers."""
    return "".join(c for c in " ".join(text.split()) if c.isprintable())
