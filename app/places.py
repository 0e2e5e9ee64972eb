"""
Where things are: store, bundle, locks, configuration, and which of flag, environment, file or default said so.

Flag > environment > config.toml > default. `BTR_ASSISTANT_HOME` puts everything under one folder.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import tempfile
import tomllib
from dataclasses import dataclass
from pathlib import Path

from store.errors import UsageError

APP = "btr-assistant"
EMBEDDED_BUNDLE = Path(__file__).parent / "bundle"
CHAT = "chat"
"""The table of the configuration that is the chat's own (`app.chat.settings`)."""
EMBEDDED = "embedded"
"""What the bundle of the package is called where a name is asked for."""
SETTINGS = {
    "store": "the file with what was read of your notes",
    "bundle": "the folder of the model",
    "device": "what the model runs on",
}
"""Each a string in config.toml; what it means."""


@dataclass(frozen=True)
class Setting:
    """What a setting is, and who said so."""

    name: str
    value: str
    origin: str
    """flag, environment, file or default."""
    where: str
    """The flag, the variable or the file that has it; nothing for a default."""


@dataclass(frozen=True)
class Places:
    """Resolved once per command, handed to whoever needs it."""

    store: Path
    bundle: Path
    device: str
    state: Path
    """Folder for locks and logs."""
    config: Path = Path("config.toml")
    """The configuration file, which need not exist."""
    bundles: Path = Path("bundles")
    """Folder of further bundles, each in one of its own."""
    settings: tuple[Setting, ...] = ()

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
    config /= "config.toml"
    given = {"store": store, "bundle": bundle, "device": device}
    defaults = {"store": str(data / "store.db"), "bundle": str(EMBEDDED_BUNDLE), "device": "cpu"}
    file = read_config(config)
    settings = []
    for name in SETTINGS:
        variable = f"BTR_ASSISTANT_{name.upper()}"
        said = [
            (given[name], "flag", f"--{name}"),
            (os.environ.get(variable), "environment", variable),
            (file.get(name), "file", str(config)),
        ]
        chosen = next(
            ((value, origin, where) for value, origin, where in said if value), (defaults[name], "default", "")
        )
        settings.append(Setting(name, *chosen))
    values = {setting.name: setting.value for setting in settings}
    return Places(
        store=_path(values["store"]),
        bundle=_path(values["bundle"]),
        device=values["device"],
        state=state,
        config=config,
        bundles=data / "bundles",
        settings=tuple(settings),
    )


def models(places: Places) -> dict[str, Path]:
    """The bundles that can be chosen by name: the embedded one, and each folder of the data folder's `bundles`."""
    found = {EMBEDDED: EMBEDDED_BUNDLE}
    if places.bundles.is_dir():
        found |= {path.name: path for path in sorted(places.bundles.iterdir()) if (path / "manifest.json").is_file()}
    return found


def absolute(text: str) -> Path:
    """A path as a person types it, from the root."""
    return Path(os.path.abspath(os.path.expanduser(text)))


def _path(text: str) -> Path:
    return Path(os.path.expanduser(text))  # pathlib's own raises where there is no such user


def read_config(path: Path) -> dict[str, str]:
    """
    What a configuration file sets; nothing where there is none.

    Raises:
        UsageError: If it cannot be read or has an entry that nobody knows.
    """
    if not path.is_file():
        return {}
    try:
        return _parse(path.read_text(encoding="utf-8"), path)
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise UsageError(f"{path} cannot be read ({error}): correct or remove it") from error


def _parse(text: str, path: Path) -> dict[str, str]:
    entries = tomllib.loads(text)
    entries.pop(CHAT, None)
    for name, value in entries.items():
        if name not in SETTINGS:
            raise UsageError(f"{path} has the entry {name}, which nobody knows: known are {', '.join(SETTINGS)}")
        if not isinstance(value, str) or not value:
            said = json.dumps(value, default=str)
            raise UsageError(f'{path} has {name} = {said}, which is no text: write it as {name} = "..."')
    return entries


def write_config(path: Path, name: str, value: str | None) -> None:
    """
    Set an entry of a configuration file, or with None remove it; all other lines stay as they are.

    Raises:
        UsageError: If the file cannot be read, or cannot be written, or says it in a way that only a person can change.
    """
    wanted = {key: entry for key, entry in read_config(path).items() if key != name}
    old = path.read_text(encoding="utf-8") if path.is_file() else ""
    table = re.search(r"^\s*\[", old, re.MULTILINE)
    top, tables = (old[: table.start()], old[table.start() :]) if table else (old, "")
    lines = [line for line in top.splitlines() if not re.match(rf"""\s*["']?{name}["']?\s*=""", line)]
    if value is not None:
        wanted[name] = value
        lines.append(f"{name} = {_quoted(value)}")
    text = "".join(f"{line}\n" for line in lines) + tables
    try:
        same = _parse(text, path) == wanted
    except (tomllib.TOMLDecodeError, UsageError):
        same = False
    if not same:
        raise UsageError(f"{path} has {name} in more than one line: change it by hand")
    target = Path(os.path.realpath(path))  # a link to it stays one
    try:
        target.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        with tempfile.NamedTemporaryFile("w", encoding="utf-8", dir=target.parent, delete=False) as file:
            file.write(text)
        Path(file.name).replace(target)
    except OSError as error:
        raise UsageError(f"cannot write {path} ({error.strerror}): check its permissions and its disk") from error


def _quoted(text: str) -> str:
    """A TOML string; JSON's are, but for one character."""
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")
