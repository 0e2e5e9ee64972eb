"""
What a person can set of the chat: the table `[chat]` of config.toml, with the keys by the ids of their bindings.

    [chat]
    theme = "high-contrast"
    follow_ups = false
    save = false

    [chat.keys]
    "chat.open" = "ctrl+e"
    "chat.send" = "ctrl+j"
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from store.errors import UsageError

TABLE = "chat"
_KNOWN = "theme (a text), follow_ups and save (true or false), and the table chat.keys"


@dataclass(frozen=True)
class Settings:
    """As the chat begins."""

    theme: str | None = None
    """Of Textual's, or high-contrast; None: Textual's own choice."""
    follow_ups: bool = True
    """Questions that lean on the one before are read with it."""
    save: bool = True
    """Questions and answers are kept in the store."""
    keys: Mapping[str, str] = field(default_factory=dict)
    """Binding id -> keys, with commas between."""


def load_settings(config: Path) -> Settings:
    """
    The settings of a configuration file; without one, or without the table, the defaults.

    Raises:
        UsageError: If an entry is unknown or of another kind.
    """
    if not config.is_file():
        return Settings()
    try:
        table = tomllib.loads(config.read_text(encoding="utf-8")).get(TABLE, {})
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise UsageError(f"{config} cannot be read ({error}): correct or remove it") from error
    kinds: dict[str, type] = {"theme": str, "follow_ups": bool, "save": bool, "keys": dict}
    if not isinstance(table, dict):
        raise _wrong(config, TABLE, table)
    for name, value in table.items():
        if name not in kinds or not isinstance(value, kinds[name]):
            raise _wrong(config, f"{TABLE}.{name}", value)
    for binding, keys in table.get("keys", {}).items():
        if not isinstance(keys, str):
            raise _wrong(config, f"{TABLE}.keys.{binding}", keys)
    return Settings(**table)


def _wrong(config: Path, name: str, value: Any) -> UsageError:
    return UsageError(f"{config} has the entry {name} = {value!r}: known are {_KNOWN}, each key a text")
