"""
Where things are: store, bundle, locks, configuration, and which of flag, environment, file or default said so.

Flag > environment > config.toml > default. `BTR_ASSISTANT_HOME` puts everything under one folder.
"""

from __future__ import annotations

import hashlib
import os
import tomllib
from dataclasses import dataclass
from pathlib import Path

from store.errors import UsageError

APP = "btr-assistant"
EMBEDDED_BUNDLE = Path(__file__).parent / "bundle"
SETTINGS = ("store", "bundle", "device")
CHAT = "chat"
"""The table of the configuration that is the chat's own (`app.chat.settings`)."""


@dataclass(frozen=True)
class Places:
    """Resolved once per command, handed to whoever needs it."""

    store: Path
    bundle: Path
    device: str
    state: Path
    """Folder for locks and logs."""
    config: Path = Path("config.toml")
    """The configuration file, there or not."""

    @property
    def lock(self) -> Path:
        """The lock file of this store's writer, the same however the store's path is spelled."""
        name = hashlib.sha256(os.fsencode(os.path.realpath(self.store))).hexdigest()[:16]
        return self.state / f"{name}.lock"


def resolve(store: str | None = None, bundle: str | None = None, device: str | None = None) -> Places:
    """
    Resolve flags against environment, configuration file and defaults.

    Raises:
        UsageError: If the configuration file cannot be read or has an entry that nobody knows.
    """
    home = os.environ.get("BTR_ASSISTANT_HOME")
    if home:
        config, data, state = (_path(home),) * 3
    else:
        import platformdirs

        config = platformdirs.user_config_path(APP)
        data = platformdirs.user_data_path(APP)
        state = platformdirs.user_state_path(APP)
    given = {"store": store, "bundle": bundle, "device": device}
    defaults = {"store": str(data / "store.db"), "bundle": str(EMBEDDED_BUNDLE), "device": "cpu"}
    file = _read_config(config / "config.toml")
    chosen = {
        name: given[name] or os.environ.get(f"BTR_ASSISTANT_{name.upper()}") or file.get(name) or defaults[name]
        for name in SETTINGS
    }
    return Places(
        store=_path(chosen["store"]),
        bundle=_path(chosen["bundle"]),
        device=chosen["device"],
        state=state,
        config=config / "config.toml",
    )


def _path(text: str) -> Path:
    return Path(os.path.expanduser(text))  # pathlib's own raises where there is no such user


def _read_config(path: Path) -> dict[str, str]:
    if not path.is_file():
        return {}
    try:
        entries = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise UsageError(f"{path} cannot be read ({error}): correct or remove it") from error
    entries.pop(CHAT, None)
    for name, value in entries.items():
        if name not in SETTINGS or not isinstance(value, str):
            known = ", ".join(SETTINGS)
            raise UsageError(f"{path} has the entry {name} = {value!r}: known are {known}, each a string")
    return entries
