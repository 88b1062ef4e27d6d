"""Where each value comes from: flag, then environment, then file, then default.

Each origin is a layer: settings under dotted keys such as ``replay.speed``, and a name for people.
Layers are laid over each other, checked as a whole, and the winner of every key is remembered.
"""

from __future__ import annotations

import datetime as dt
import difflib
import functools
import math
import re
import sys
import tomllib
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final

import msgspec

from ingestor.config.schema import SECRETS, URLS, Config, is_among
from ingestor.files import others_may_read, read_small_file
from ingestor.model.bounds import printable
from ingestor.model.errors import ConfigurationError
from ingestor.model.replay_control import MIN_SPEED
from ingestor.nats.options import without_secrets

DEFAULT_ORIGIN: Final = "default"
HIDDEN: Final = "(hidden)"
MAX_CONFIG_BYTES: Final = 256 * 1024
MAX_SECRET_BYTES: Final = 4_096
SECRET_FILES: Final = {
    "POLYGON_API_KEY_FILE": "polygon.api_key",
    "POLYGON_STANDBY_API_KEY_FILE": "polygon.standby_api_key",
    "NATS_PASSWORD_FILE": "nats.password",
    "NATS_TOKEN_FILE": "nats.token",
}
"""Variables that name a file with one secret in it: Docker's secrets, systemd's credentials."""

MAX_DOTS: Final = 16
"""Dots in a line outside its texts: `tomllib` keeps every beginning of a dotted key, which are
gigabytes for one of 100,000 parts. No key of ours has more than one."""

MAX_VALUE_CHARS: Final = 80
"""Values are cut to this length in error messages."""

_TEXTS: Final = re.compile(r""""(?:[^"\\\n]|\\.)*"?|'[^'\n]*'?|#[^\n]*""")
_BYTE_ORDER_MARK: Final = "\ufeff"
_ALIASES: Final = {"replay.feeds": {"mbp-10": "mbp10"}}
"""Aliases of values: the vendor's name of a schema."""
_WRITTEN_DATE: Final = re.compile(r"(\d{4})[-/.]?(\d\d?)[-/.]?(\d\d?)", re.ASCII)
_REGEX: Final = re.compile(r"Expected `str` matching regex '.*'(?= - at|$)")


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
    cautions: Sequence[str] = ()
    """Sentences that the operator is to read once: what works and is not safe."""


def load(layers: Sequence[Layer]) -> Loaded:
    """Lay `layers` over the defaults, the last one on top. Raises `ConfigurationError`."""
    merged: dict[str, Setting] = {}
    for layer in layers:
        merged.update({key: _with_our_words(key, setting) for key, setting in layer.items()})
    # Each key by itself first, so that an error names the key, its value and its origin.
    known = defaults()
    for key, setting in merged.items():
        if key not in known:
            raise _unknown(key, setting.origin, known)
        try:
            table, _, name = key.partition(".")
            value = getattr(getattr(_convert({key: setting}, strict=setting.typed), table), name)
        except msgspec.ValidationError as error:
            raise _not_allowed(key, setting, _plain(str(error), key)) from error
        if key == "replay.speed" and 0 < value < MIN_SPEED:
            raise _not_allowed(key, setting, f"expected 0 or at least {MIN_SPEED}")
    config = _convert(merged, strict=False)
    return Loaded(config, {key: setting.origin for key, setting in merged.items()})


def file_layer(path: Path) -> Layer:
    """Read a TOML file. Raises `ConfigurationError` naming the path."""
    data = read_small_file("configuration file", path, MAX_CONFIG_BYTES)
    try:
        text = data.decode().removeprefix(_BYTE_ORDER_MARK)
        _check_dots(text)
        tables = tomllib.loads(text, parse_float=_float)
    except RecursionError:
        raise ConfigurationError(
            f"configuration file {path} is not TOML: it is nested too deeply"
        ) from None
    except (tomllib.TOMLDecodeError, ValueError) as error:
        # The text around an error may be a secret: only where it is and what was expected is told.
        raise ConfigurationError(
            f"configuration file {path} is not TOML: {_reason(error)}"
        ) from None
    origin = f"file {path}"
    known = {info.name for info in _fields(Config)}
    layer: dict[str, Setting] = {}
    for table, content in tables.items():
        if table not in known:
            raise _unknown(table, origin, known)
        if not isinstance(content, Mapping):
            raise ConfigurationError(f"{table} in {origin} must be a table: write [{table}]")
        for key, value in content.items():
            layer[f"{table}.{key}"] = Setting(value, origin, typed=True)
    return layer


def _check_dots(text: str) -> None:
    for number, line in enumerate(_TEXTS.sub("", text).splitlines(), 1):
        if line.count(".") > MAX_DOTS:
            raise ValueError(f"a key has more than {MAX_DOTS} dots (at line {number})")


def _float(text: str) -> float:
    # TOML reads 1e999 as infinity, which no bound would name as what was written.
    value = float(text)
    if math.isinf(value) and "inf" not in text:
        raise ValueError("a number is out of range")
    return value


def _reason(error: ValueError) -> str:
    if isinstance(error, UnicodeDecodeError):
        return f"byte {error.start} is not UTF-8"
    if "integer string conversion" in str(error):
        return f"a number has more than {sys.get_int_max_str_digits()} digits"
    return printable(str(error))


def cautions(path: Path, layer: Layer) -> list[str]:
    """Return what the operator is to read once: a file with secrets that everybody can read."""
    secret = any(
        key in SECRETS or (key in URLS and "@" in str(setting.value))
        for key, setting in layer.items()
    )
    if not (secret and others_may_read(path)):
        return []
    return [f"every user of this machine can read the secrets in {path}: chmod 600 it"]


def environment_layer(environ: Mapping[str, str], keys: Mapping[str, str]) -> Layer:
    """Take the variables named in `keys` (variable to dotted key); empty ones count as unset."""
    return {
        key: Setting(_listed(key, environ[name]), f"environment {name}")
        for name, key in keys.items()
        if environ.get(name)
    }


def secret_files_layer(environ: Mapping[str, str]) -> Layer:
    """Read the files that `SECRET_FILES` name; blanks and line ends around a secret do not count.

    Raises ConfigurationError for one that cannot be read, is empty, or is given a second time.
    """
    layer: dict[str, Setting] = {}
    for name, key in SECRET_FILES.items():
        if not environ.get(name):
            continue
        plain = name.removesuffix("_FILE")
        if environ.get(plain):
            raise ConfigurationError(f"{plain} and {name} are both set: unset one of them")
        path = Path(environ[name])
        data = read_small_file(f"{name}:", path, MAX_SECRET_BYTES)
        try:
            text = data.decode("ascii").strip()
        except UnicodeDecodeError:
            text = ""
        if not text:
            raise ConfigurationError(f"{name}: {path} holds no secret of ASCII text")
        layer[key] = Setting(text, f"environment {name}")
    return layer


def secret_file_cautions(environ: Mapping[str, str]) -> list[str]:
    """Return what the operator is to read once: files with a secret that everybody can read."""
    paths = [Path(environ[name]) for name in SECRET_FILES if environ.get(name)]
    return [
        f"every user of this machine can read the secret in {path}: chmod 600 it"
        for path in paths
        if others_may_read(path)
    ]


def layers_of(
    path: Path | None, environ: Mapping[str, str], keys: Mapping[str, str]
) -> tuple[list[Layer], list[str]]:
    """Return file, environment and secret files as layers, and what the operator is to read once.

    The last one lies on top. Raises ConfigurationError.
    """
    layers, warned = [environment_layer(environ, keys), secret_files_layer(environ)], []
    if path is not None:
        layers.insert(0, file_layer(path))
        warned = cautions(path, layers[0])
    return layers, warned + secret_file_cautions(environ)


@functools.cache
def defaults() -> Mapping[str, Any]:
    """Return every dotted key with its default."""
    return values(Config())


def values(config: Config) -> dict[str, Any]:
    """Return every dotted key with its value, as TOML would write it."""
    return dict(_leaves(msgspec.to_builtins(config, enc_hook=str), Config))


def _convert(settings: Mapping[str, Setting], *, strict: bool) -> Config:
    tables: dict[str, Any] = {}
    for key, setting in settings.items():
        table, _, name = key.partition(".")
        tables.setdefault(table, {})[name] = setting.value
    return msgspec.convert(tables, Config, strict=strict, dec_hook=_path)


@functools.cache
def _fields(kind: Any) -> tuple[msgspec.structs.FieldInfo, ...]:
    """The fields of a table; msgspec evaluates their annotations anew each time it is asked."""
    return msgspec.structs.fields(kind)


def _path(kind: type, value: Any) -> Path:
    """Make the one type that msgspec does not know."""
    if kind is Path and isinstance(value, str) and value:
        return Path(value)
    raise ValueError(f"expected a path, got {value!r}")


def _listed(key: str, text: str) -> Any:
    """Environment variables write lists with commas."""
    if not isinstance(defaults().get(key), list | tuple):
        return text
    return [word.strip() for word in text.split(",") if word.strip()]


def _leaves(tables: Mapping[str, Any], kind: Any) -> list[tuple[str, Any]]:
    found: list[tuple[str, Any]] = []
    for info in _fields(kind):
        value = tables[info.name]
        if isinstance(info.type, type) and issubclass(info.type, msgspec.Struct):
            found += [(f"{info.name}.{key}", leaf) for key, leaf in _leaves(value, info.type)]
        else:
            found.append((info.name, value))
    return found


def _not_allowed(key: str, setting: Setting, reason: str) -> ConfigurationError:
    shown = HIDDEN if key in SECRETS | URLS else _value_text(setting.value)
    sentence = f"{key} = {shown} ({setting.origin}) is not allowed: {reason}"
    table, _, name = key.partition(".")
    kinds = {info.name: info.type for info in _fields(Config)}
    info = next(one for one in _fields(kinds[table]) if one.name == name)
    allowed = _described(msgspec.inspect.type_info(info.type))
    meant = _meant(key, setting.value, allowed)
    return ConfigurationError(
        sentence
        + (f"; allowed: {allowed}" if allowed else "")
        + (f"; did you mean {meant}?" if meant else "")
    )


def _value_text(value: Any) -> str:
    try:
        return printable(repr(value), MAX_VALUE_CHARS)
    except ValueError:
        return "(a number of thousands of digits)"


def _described(info: msgspec.inspect.Type) -> str:
    match info:
        case msgspec.inspect.LiteralType(values=words):
            return ", ".join(str(word) for word in words)
        case msgspec.inspect.Metadata(extra_json_schema={"description": str(text)}):
            return text
        case msgspec.inspect.VarTupleType(item_type=item):
            return _described(item)
        case msgspec.inspect.UnionType(types=kinds):
            return " or ".join(filter(None, map(_described, kinds)))
    return ""


def _plain(reason: str, key: str) -> str:
    """Turn msgspec's ``Expected `float` - at `$.replay.speed``` into words without the path."""
    reason = _REGEX.sub("it has another form", reason).replace("Invalid RFC3339 encoded", "no")
    text, _, path = reason.partition(" - at `$.")
    inner = path.rstrip("`").removeprefix(key).strip(".")
    return text.replace("`", "").replace("Expected", "expected") + (f" at {inner}" if inner else "")


def _unknown(key: str, origin: str, known: Any) -> ConfigurationError:
    nearest = difflib.get_close_matches(key, list(known), n=1, cutoff=0.4)
    hint = f"; did you mean {nearest[0]}?" if nearest else ""
    return ConfigurationError(f"there is no setting {printable(key)} ({origin}){hint}")


def _with_our_words(key: str, setting: Setting) -> Setting:
    words = _ALIASES.get(key, {})
    if not words or not isinstance(setting.value, list | tuple):
        return setting
    value = [words.get(one, one) if isinstance(one, str) else one for one in setting.value]
    return replace(setting, value=value)


def _meant(key: str, value: Any, allowed: str) -> str:
    """Guess what a wrong value was to be: a word of a choice, or a date otherwise written."""
    for text in value if isinstance(value, list | tuple) else [value]:
        if not isinstance(text, str):
            continue
        if key == "replay.dates" and (date := _as_date(text)):
            return date
        words = [] if key == "replay.dates" else allowed.split(", ")
        if text not in words and (near := difflib.get_close_matches(text, words, 1)):
            return near[0]
    return ""


def _as_date(text: str) -> str:
    found = _WRITTEN_DATE.fullmatch(text)
    if found is None:
        return ""
    try:
        date = dt.date(*map(int, found.groups())).isoformat()
    except ValueError:
        return ""
    return "" if date == text else date


def show(loaded: Loaded, leave_out: Collection[str] = ()) -> str:
    """Return one line per key as ``key = value  # origin``, secrets hidden.

    Keys and tables in `leave_out` are not shown.
    """
    shown = {
        key: _text(key, value)
        for key, value in values(loaded.config).items()
        if not is_among(key, leave_out)
    }
    width = max(len(f"{key} = {text}") for key, text in shown.items())
    return "\n".join(
        f"{f'{key} = {text}':<{width}}  # {loaded.origins.get(key, DEFAULT_ORIGIN)}"
        for key, text in shown.items()
    )


def _text(key: str, value: Any) -> str:
    if value is None:
        return "(unset)"
    if key in SECRETS:
        return HIDDEN
    # The host is worth showing; a password in the URL is not.
    if key in URLS:
        return f'"{without_secrets(value)}"'
    if isinstance(value, str):
        return f'"{value}"'
    return str(value).lower() if isinstance(value, bool) else str(value)
