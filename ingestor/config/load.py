"""Where each value comes from: flag, then environment, then file, then default.

Each origin is a layer: settings under dotted keys such as ``replay.speed``, and a name for people.
Layers are laid over each other, checked as a whole, and the winner of every key is remembered.
"""

from __future__ import annotations

import difflib
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import msgspec

from ingestor.config.schema import Config
from ingestor.errors import ConfigurationError

DEFAULT_ORIGIN: Final = "default"
MAX_CONFIG_BYTES: Final = 1024 * 1024


@dataclass(frozen=True, slots=True)
class Setting:
    """A value as it was given, and by what (``flag --speed``, ``environment REPLAY_SPEED``).

    `typed` values (from a file) must have the right type; others are texts to be read as it.
    """

    value: Any
    origin: str
    typed: bool = False


Layer = Mapping[str, Setting]
"""Settings under their dotted keys."""


@dataclass(frozen=True, slots=True)
class Loaded:
    """The configuration, and the origin of every key that is not a default."""

    config: Config
    origins: Mapping[str, str] = field(default_factory=dict)


def load(layers: Sequence[Layer]) -> Loaded:
    """Lay `layers` over the defaults, the last one on top. Raises `ConfigurationError`."""
    merged: dict[str, Setting] = {}
    for layer in layers:
        merged.update(layer)
    for key, setting in merged.items():
        _check(key, setting)
    config = msgspec.convert(_nested(merged), Config, strict=False)
    return Loaded(config, {key: setting.origin for key, setting in merged.items()})


def file_layer(path: Path) -> Layer:
    """Read a TOML file. Raises `ConfigurationError` naming the path."""
    try:
        with path.open("rb") as file:
            text = file.read(MAX_CONFIG_BYTES + 1)
    except OSError as error:
        raise ConfigurationError(
            f"configuration file {path} cannot be read: {error.strerror}"
        ) from error
    if len(text) > MAX_CONFIG_BYTES:
        raise ConfigurationError(
            f"configuration file {path} is larger than {MAX_CONFIG_BYTES} bytes"
        )
    try:
        tables = tomllib.loads(text.decode())
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigurationError(f"configuration file {path} is not TOML: {error}") from error
    return _flat(tables, f"file {path}")


def environment_layer(environ: Mapping[str, str], keys: Mapping[str, str]) -> Layer:
    """Take the variables named in `keys` (variable to dotted key); empty ones count as unset."""
    return {
        key: Setting(_listed(key, environ[name]), f"environment {name}")
        for name, key in keys.items()
        if environ.get(name)
    }


def defaults() -> dict[str, Any]:
    """Return every dotted key with its default."""
    return dict(_leaves(msgspec.to_builtins(Config()), Config))


def values(config: Config) -> dict[str, Any]:
    """Return every dotted key with its value, as TOML would write it."""
    return dict(_leaves(msgspec.to_builtins(config), Config))


def _listed(key: str, text: str) -> Any:
    """Environment variables write lists with commas."""
    return text.split(",") if isinstance(defaults().get(key), list | tuple) else text


def _leaves(tables: Mapping[str, Any], kind: Any) -> list[tuple[str, Any]]:
    found: list[tuple[str, Any]] = []
    for info in msgspec.structs.fields(kind):
        value = tables[info.name]
        if isinstance(info.type, type) and issubclass(info.type, msgspec.Struct):
            found += [(f"{info.name}.{key}", leaf) for key, leaf in _leaves(value, info.type)]
        else:
            found.append((info.name, value))
    return found


def _flat(tables: Mapping[str, Any], origin: str) -> Layer:
    known = {info.name for info in msgspec.structs.fields(Config)}
    layer: dict[str, Setting] = {}
    for table, content in tables.items():
        if table not in known:
            raise _unknown(table, origin, known)
        if not isinstance(content, Mapping):
            raise ConfigurationError(f"{table} in {origin} must be a table: write [{table}]")
        for key, value in content.items():
            layer[f"{table}.{key}"] = Setting(value, origin, typed=True)
    return layer


def _check(key: str, setting: Setting) -> None:
    """Convert one key by itself, so that an error can name it, its value and its origin."""
    known = defaults()
    if key not in known:
        raise _unknown(key, setting.origin, known)
    try:
        msgspec.convert(_nested({key: setting}), Config, strict=setting.typed)
    except msgspec.ValidationError as error:
        reason = _plain(str(error), key)
        raise ConfigurationError(
            f"{key} = {setting.value!r} ({setting.origin}) is not allowed: {reason}"
        ) from error


def _plain(reason: str, key: str) -> str:
    """Turn msgspec's ``Expected `float` - at `$.replay.speed``` into words without the path."""
    text, _, path = reason.partition(" - at `$.")
    inner = path.rstrip("`").removeprefix(key).strip(".")
    return text.replace("`", "").replace("Expected", "expected") + (f" at {inner}" if inner else "")


def _unknown(key: str, origin: str, known: Any) -> ConfigurationError:
    nearest = difflib.get_close_matches(key, list(known), n=1, cutoff=0.4)
    hint = f"; did you mean {nearest[0]}?" if nearest else ""
    return ConfigurationError(f"there is no setting {key} ({origin}){hint}")


def _nested(settings: Mapping[str, Setting]) -> dict[str, Any]:
    tables: dict[str, Any] = {}
    for key, setting in settings.items():
        table, _, name = key.partition(".")
        tables.setdefault(table, {})[name] = setting.value
    return tables
