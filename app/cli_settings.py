"""
The commands about the program itself: config, model, completion.

A setting is written only after it was tried: a file that names a model or a device that is not there would stop every
other command.
"""

from __future__ import annotations

import json
import os
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from app import complete
from app.cli_base import json_option, pass_places, print_json
from app.display import plain
from app.places import EMBEDDED, SETTINGS, Places, absolute, models, resolve, write_config
from store.errors import ModelError, StoreError, UsageError

if TYPE_CHECKING:
    from store.bundle import Manifest


@click.group()
def config() -> None:
    """Show or change the settings, and who said so.

    Example: btr-assistant config show
    """


@config.command("show")
@json_option
@pass_places
def config_show(places: Places, as_json: bool) -> None:
    """Show every setting, its value and where it comes from.

    A flag comes before an environment variable, that before the file, and the file before the default.

    Example: btr-assistant config show
    """
    from app.chat.settings import load_settings

    chat = asdict(load_settings(places.config))
    if as_json:
        settings = {setting.name: _without_name(asdict(setting)) for setting in places.settings}
        file = {"file": str(places.config), "exists": places.config.is_file()}
        print_json({**file, "settings": settings, "chat": chat})
        return
    for setting in places.settings:
        origin = "default" if setting.origin == "default" else f"{setting.origin}: {plain(setting.where)}"
        click.echo(f"{setting.name:<8} {plain(setting.value)}  ({origin})")
    keys = {f"keys.{binding}": key for binding, key in chat.pop("keys").items()}
    shown = (f"{name} = {json.dumps(value)}" for name, value in (chat | keys).items() if value is not None)
    click.echo(f"chat     {plain(', '.join(shown))}")
    exists = "" if places.config.is_file() else ", which is not there yet"
    click.echo(f"file     {plain(str(places.config))}{exists}")


def _without_name(setting: dict[str, str]) -> dict[str, str]:
    return {name: value for name, value in setting.items() if name != "name"}


@config.command("set")
@click.argument("name", type=click.Choice(list(SETTINGS)))
@click.argument("value", shell_complete=complete.files)
@json_option
@pass_places
def config_set(places: Places, name: str, value: str, as_json: bool) -> None:
    """Write a setting into the configuration file.

    Example: btr-assistant config set device cpu
    """
    if not value.strip():
        raise UsageError(f"the value of {name} is empty: btr-assistant config unset {name} goes back to the default")
    if name == "device":
        from app.bundle import devices

        if value not in devices():
            raise UsageError(f"device {value} is not present, ONNX Runtime offers: {', '.join(devices())}")
    elif name == "bundle":
        unusable = _use(places, _folder(places, value))
        _say(name, as_json)
        _warn(unusable)
        return
    else:
        path = absolute(value)
        if path.is_dir():
            raise UsageError(f"{path} is a folder: give the file of a store, which need not exist yet")
        value = str(path)
    write_config(places.config, name, value)
    _say(name, as_json)


@config.command("unset")
@click.argument("name", type=click.Choice(list(SETTINGS)))
@json_option
@pass_places
def config_unset(places: Places, name: str, as_json: bool) -> None:
    """Remove a setting from the configuration file.

    Example: btr-assistant config unset device
    """
    write_config(places.config, name, None)
    _say(name, as_json)


def _say(name: str, as_json: bool) -> None:
    """What a setting is after a change, and whether the change counts."""
    now = next(setting for setting in resolve().settings if setting.name == name)
    if as_json:
        print_json(asdict(now))
        return
    where = f": {plain(now.where)}" if now.where else ""
    click.echo(f"{name} is {plain(now.value)} now ({now.origin}{where})", err=True)
    if now.origin == "environment":
        click.echo(f"the environment comes first: unset {now.where} to use what the file says", err=True)


@click.group()
def model() -> None:
    """List, show, check or choose the model that reads.

    Example: btr-assistant model list
    """


@model.command("list")
@json_option
@pass_places
def model_list(places: Places, as_json: bool) -> None:
    """List the embedded model and those in the data folder.

    Example: btr-assistant model list
    """
    from store.bundle import read_manifest

    found = models(places)
    if not _is_among(places.bundle, found):
        found[str(places.bundle)] = places.bundle
    rows: list[dict[str, Any]] = []
    for name, folder in found.items():
        row: dict[str, Any] = {"name": name, "in_use": _same(folder, places.bundle), "folder": str(folder)}
        try:
            manifest = read_manifest(folder)
        except ModelError as error:
            rows.append(row | {"model": None, "reader": None, "fingerprint": None, "bytes": None, "error": str(error)})
            continue
        facts = {"model": manifest.name, "reader": manifest.reader, "fingerprint": manifest.fingerprint}
        rows.append(row | facts | {"bytes": _size(folder, manifest), "error": None})
    if as_json:
        print_json({"models": rows, "folder": str(places.bundles)})
        return
    for row in rows:
        mark = "*" if row["in_use"] else " "
        if row["error"]:
            click.echo(f"{mark} {plain(row['name'])}  cannot be used: {plain(row['error'])}")
        else:
            size = f"{row['bytes'] / 1e6:.0f} MB"
            click.echo(
                f"{mark} {plain(row['name'])}  {plain(row['model'])}, {row['reader']}, {size}, {row['fingerprint']}"
            )
    click.echo(f"A folder with a model in {plain(str(places.bundles))} is listed here by its name.", err=True)


@model.command("show")
@click.argument("name", required=False, shell_complete=complete.bundles)
@json_option
@pass_places
def model_show(places: Places, name: str | None, as_json: bool) -> None:
    """Show what a model is, what it was made from, its licence.

    Without NAME: the model in use. A name of model list, or a folder.

    Example: btr-assistant model show
    """
    from store.bundle import read_manifest

    folder = _folder(places, name)
    manifest = read_manifest(folder)
    if as_json:
        facts = asdict(manifest)
        print_json({"folder": str(folder), "fingerprint": manifest.fingerprint, "manifest": facts})
        return
    made = {name: manifest.provenance.get(name, "not said") for name in ("checkpoint", "checkpoint_sha256", "exported")}
    scale = "a 16-bit scale" if manifest.offline_ratio is None else "an 8-bit scale, common words nothing"
    lines = {
        "model": f"{manifest.name}, {manifest.reader}",
        "folder": str(folder),
        "licence": manifest.licence,
        "size": f"{_size(folder, manifest) / 1e6:.0f} MB in {len(manifest.files)} files",
        "layers": f"{manifest.split_layer} when notes are read, {manifest.upper_layers} when a question is",
        "a token": f"{manifest.bits} bits and {scale}, of {manifest.hidden_size} numbers ({manifest.binarizer})",
        "a passage": f"at most {manifest.passage_tokens} tokens, and a code of {manifest.code_bits} bits",
        "fingerprint": f"{manifest.fingerprint}, of what decides the stored bits",
        "made from": f"{made['checkpoint']} (sha256 {made['checkpoint_sha256']})",
        "trained on": ", ".join(map(str, manifest.provenance.get("data") or ["not said"])),
        "exported": f"{made['exported']}, {manifest.provenance.get('precision', 'precision not said')}",
        "confidence": f'"not in your notes" below {manifest.threshold:.0%}, where calibrate did not change it',
    }
    for title, text in lines.items():
        click.echo(f"{title:<12} {plain(str(text))}")
    click.echo("All of it: btr-assistant model show --json", err=True)


@model.command("verify")
@click.argument("name", required=False, shell_complete=complete.bundles)
@json_option
@pass_places
def model_verify(places: Places, name: str | None, as_json: bool) -> None:
    """Check every file of a model against its hash.

    Example: btr-assistant model verify
    """
    from store.bundle import REPAIR, damaged, read_manifest

    folder = _folder(places, name)
    manifest = read_manifest(folder)
    bad = damaged(folder, manifest)
    if as_json:
        rows = [{"name": file, "ok": file not in bad, "problem": bad.get(file)} for file in manifest.files]
        print_json({"folder": str(folder), "ok": not bad, "files": rows})
    for file, sha256 in () if as_json else manifest.files.items():
        click.secho(f"{'failed' if file in bad else 'ok':<7}", fg="red" if file in bad else "green", nl=False)
        click.echo(f"{file:<16} {bad.get(file, f'sha256 {sha256}')}")
    if bad:
        raise ModelError(f"{len(bad)} of {len(manifest.files)} files are not as they were made: {REPAIR}")


@model.command("use")
@click.argument("name", shell_complete=complete.bundles)
@json_option
@pass_places
def model_use(places: Places, name: str, as_json: bool) -> None:
    """Choose the model that reads, from now on.

    NAME is one of model list, or a folder.

    Example: btr-assistant model use embedded
    """
    folder = _folder(places, name)
    unusable = _use(places, folder)
    if as_json:
        print_json({"folder": str(folder), "store_problem": unusable})
        return
    _say("bundle", as_json)
    _warn(unusable)


def _warn(sentence: str | None) -> None:
    if sentence:
        click.echo(f"btr-assistant: {plain(sentence)}", err=True)


def _use(places: Places, folder: Path) -> str | None:
    """Write a bundle that can be used into the configuration; why the store cannot be used with it, if it cannot."""
    from app.bundle import Bundle
    from store.tokens import TokenStore
    from store.upkeep import identify

    manifest = Bundle.open(folder).manifest
    write_config(places.config, "bundle", None if _same(folder, models(places)[EMBEDDED]) else str(folder))
    if places.store.is_file():
        try:
            if not identify(places.store).empty:
                TokenStore.open(places.store, manifest.fingerprint).close()
        except StoreError as error:
            return str(error)
    return None


def _folder(places: Places, name: str | None) -> Path:
    """The folder of a model by its name, or by its path; of the one in use, without either."""
    if name is None:
        return places.bundle
    found = models(places)
    if name in found:
        return found[name]
    path = absolute(name)
    if path.is_dir():
        return path
    raise UsageError(f"there is no model {name}: {', '.join(found)}, or the folder of one")


def _is_among(folder: Path, found: dict[str, Path]) -> bool:
    return any(_same(folder, path) for path in found.values())


def _same(one: Path, other: Path) -> bool:
    return os.path.realpath(one) == os.path.realpath(other)


def _size(folder: Path, manifest: Manifest) -> int:
    return sum((folder / name).stat().st_size for name in manifest.files if (folder / name).is_file())


@click.command()
@click.argument("shell", type=click.Choice(complete.SHELLS))
def completion(shell: str) -> None:
    """Print the script that completes commands at the tab key.

    bash: add eval "$(btr-assistant completion bash)" to ~/.bashrc. zsh: the same with zsh, in ~/.zshrc after compinit.
    fish: btr-assistant completion fish > ~/.config/fish/completions/btr-assistant.fish

    Example: btr-assistant completion bash
    """
    click.echo(complete.script(click.get_current_context().find_root().command, shell), nl=False)


COMMANDS = (config, model, completion)
