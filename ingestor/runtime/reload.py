"""What a live run changes without a stop when it reads its configuration again (SIGHUP).

The supervisor reads and checks it, and shows what may change in shared memory; a feed looks there
with each tick, and so does one that is started again later. What is wrong is refused as a whole,
and the run goes on as it was.
"""

from __future__ import annotations

import logging
import mmap
from collections.abc import Callable, Mapping
from typing import Any, Final, Literal

import msgspec
import numpy as np

from ingestor.config.load import values
from ingestor.config.schema import Config, Strikes
from ingestor.model.errors import ConfigurationError, IngestorError
from ingestor.runtime import log as logs
from ingestor.runtime.counters import Slots

SETTINGS_BYTES: Final = 2 * 1024 * 1024
"""As many symbols as `polygon.symbols` takes, of the longest kind; not touched until needed."""

log = logging.getLogger(__name__)


class _Followed(msgspec.Struct, frozen=True):
    """What a feed follows."""

    symbols: Literal["*"] | tuple[str, ...]
    strikes: Strikes


class LiveSettings:
    """Shared memory that shows the newest of what may change; made before the feeds are forked."""

    def __init__(self) -> None:
        self._generation = np.frombuffer(mmap.mmap(-1, 8), np.int64)
        self._slots = Slots(1, SETTINGS_BYTES)

    @property
    def generation(self) -> int:
        """How often something was shown."""
        return int(self._generation[0])

    def show(self, config: Config) -> None:
        """Show what is to be followed; for the supervisor alone. Raises ConfigurationError."""
        followed = _Followed(config.polygon.symbols, config.strikes)
        if not self._slots.put(0, msgspec.json.encode(followed)):
            raise ConfigurationError("polygon.symbols are too many to be changed without a stop")
        # Last: whoever sees it finds the text.
        self._generation[0] += 1

    def watch(self, config: Config) -> Watch:
        """Return what looks for changes, beginning with what is shown now."""
        return Watch(self, config)

    def laid_over(self, config: Config) -> Config | None:
        """Return a configuration with what is shown; None when that changes just now."""
        data = self._slots.get(0)
        if data is None:
            return None
        shown = msgspec.json.decode(data, type=_Followed)
        polygon = msgspec.structs.replace(config.polygon, symbols=shown.symbols)
        return msgspec.structs.replace(config, polygon=polygon, strikes=shown.strikes)


class Watch:
    """One feed's look at what may change; `config` is the newest that it has seen."""

    def __init__(self, settings: LiveSettings, config: Config) -> None:
        self._settings = settings
        self._seen = 0
        self.config = config
        self.changed()

    def changed(self) -> bool:
        """Look; whether there is another `config` than before."""
        generation = self._settings.generation
        if generation == self._seen:
            return False
        newest = self._settings.laid_over(self.config)
        if newest is None:
            return False  # it changes just now: the next look finds it
        self.config, self._seen = newest, generation
        return True


class Reload:
    """Reads the configuration again and has the run heed what can change; call it."""

    def __init__(
        self,
        config: Config,
        read: Callable[[], Config],
        check: Callable[[Config], None],
        settings: LiveSettings,
    ) -> None:
        """`read` and `check` raise IngestorError for what is wrong."""
        self._config = config
        self._read = read
        self._check = check
        self._settings = settings

    def __call__(self) -> None:
        """Tell in the log what became of it."""
        try:
            wanted = self._read()
            self._check(wanted)
            heeded = _changeable(self._config, wanted)
            self._check_part(heeded, wanted)
            changed = _differences(self._config, heeded)
            if changed.keys() - {"log.level"}:
                self._settings.show(heeded)
        except IngestorError as error:
            # A warning, not information: an answer to a signal is to be seen at any level.
            log.warning("SIGHUP: nothing is reloaded, the run goes on as it was: %s", error)
            return
        if "log.level" in changed:
            logs.set_level(heeded.log.level)
        self._config = heeded
        log.warning("SIGHUP: %s", _told(changed, _differences(heeded, wanted)))

    def _check_part(self, heeded: Config, wanted: Config) -> None:
        try:
            self._check(heeded)
        except ConfigurationError as error:
            kept = ", ".join(_differences(heeded, wanted))
            raise ConfigurationError(
                f"{error}; {kept} cannot change without a restart, and the rest does not fit"
                " without it"
            ) from None


def _changeable(config: Config, wanted: Config) -> Config:
    """Return `config` with that of `wanted` which can change while a run goes on."""
    # The price that is followed, and the journal's roots, are those of the underlying.
    strikes = msgspec.structs.replace(wanted.strikes, underlying=config.strikes.underlying)
    return msgspec.structs.replace(
        config,
        log=msgspec.structs.replace(config.log, level=wanted.log.level),
        polygon=msgspec.structs.replace(config.polygon, symbols=wanted.polygon.symbols),
        strikes=strikes,
    )


def _differences(before: Config, after: Config) -> dict[str, Any]:
    """Return the keys whose values differ, with those of `after`."""
    old = values(before)
    return {key: value for key, value in values(after).items() if value != old.get(key)}


def _told(changed: Mapping[str, Any], kept: Mapping[str, Any]) -> str:
    parts = []
    if changed:
        parts.append(f"reloaded: {', '.join(changed)}")
    if kept:
        parts.append(f"not without a restart: {', '.join(kept)}")
    return "; ".join(parts) or "nothing has changed"
