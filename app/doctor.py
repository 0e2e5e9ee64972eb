"""
What can be wrong with an installation, and the command that puts each of it right. Nothing is changed.

Checks come in an order in which one that fails explains the next ones: those that need a whole store, or a whole
bundle, are left out where it is not. A disk that is away and an index run at work are no illness of the program, but a
folder of notes that is missing is said, because its notes will not be answered from as they are now.
"""

from __future__ import annotations

import os
import shutil
import sqlite3
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from shlex import quote
from typing import TYPE_CHECKING

from app.places import APP, Places
from store.bundle import Manifest, read_manifest
from store.errors import BtrError
from store.tokens import SCHEMA_VERSION, TokenStore
from store.upkeep import LOGS, Identity, beside, encoded, identify, is_locked, pages

if TYPE_CHECKING:
    from app.bundle import Bundle

SAMPLE = 5
"""Passages that are encoded again."""
_ROOM = 50_000_000
"""Bytes that should be free besides what making the file anew needs."""
_AGAIN = "move {store} away and run btr-assistant index FOLDER, or run btr-assistant restore BACKUP"


@dataclass(frozen=True)
class Check:
    """One thing that was looked at."""

    name: str
    ok: bool
    detail: str
    fix: str = ""
    """The command that puts it right."""


def examine(places: Places) -> Iterator[Check]:
    """Every check, each as soon as it is done."""
    yield _sqlite()
    checks, manifest, bundle = _bundle(places)
    yield from checks
    yield from _permissions(places)
    yield _disk(places)
    yield _lock(places)
    store = quote(str(places.store))
    if not places.store.is_file():
        yield Check("store", False, f"{places.store} does not exist", "btr-assistant index FOLDER")
        return
    try:
        identity = identify(places.store)
        if identity.empty:
            yield Check("store", False, f"no notes are indexed in {places.store} yet", "btr-assistant index FOLDER")
            return
        whole = pages(places.store, quick=True)
    except BtrError as error:
        yield Check("store", False, str(error), _AGAIN.format(store=store))
        return
    if whole.problems:
        yield Check("store", False, f"{places.store}: {whole.problems[0]}", _AGAIN.format(store=store))
        return
    yield Check("store", True, f"{places.store}, every page can be read")
    yield _schema(identity)
    if manifest is None:
        return
    yield _fingerprint(identity, manifest)
    if bundle and identity.version == SCHEMA_VERSION and identity.fingerprint == manifest.fingerprint:
        yield from _contents(places, bundle)


def _sqlite() -> Check:
    with_fts = sqlite3.connect(":memory:")
    try:
        with_fts.execute("CREATE VIRTUAL TABLE t USING fts5 (x)")
    except sqlite3.OperationalError:
        return Check("sqlite", False, f"SQLite {sqlite3.sqlite_version} has no FTS5", "use the Python of python.org")
    finally:
        with_fts.close()
    return Check("sqlite", True, f"SQLite {sqlite3.sqlite_version} with FTS5, Python {sys.version.split()[0]}")


def _bundle(places: Places) -> tuple[list[Check], Manifest | None, Bundle | None]:
    """Manifest and hashes, then device and graphs; what of them can be relied on."""
    import onnxruntime

    from app.bundle import Bundle, devices

    try:
        manifest = read_manifest(places.bundle)
        Bundle.open(places.bundle)
    except BtrError as error:
        fix = "pip install --force-reinstall btr-assistant, or give another --bundle"
        return [Check("bundle", False, str(error), fix)], None, None
    whole = Check("bundle", True, f"{manifest.name} ({manifest.fingerprint}), every file has its hash")
    try:
        bundle = Bundle.open(places.bundle, places.device)
        bundle.encode_passage("doctor", "one two three")
    except BtrError as error:
        return [whole, Check("providers", False, str(error), "btr-assistant --device cpu")], manifest, None
    offered = f"ONNX Runtime {onnxruntime.__version__} offers {', '.join(devices())}; {places.device} is used"
    return [whole, Check("providers", True, offered)], manifest, bundle


def _permissions(places: Places) -> Iterator[Check]:
    if os.name != "posix":
        return
    files = [places.store, *(beside(places.store, ending) for ending in LOGS)]
    folders = {places.state, *([places.store.parent] if places.store.parent.name == APP else [])}
    checked = [*((path, 0o600) for path in files), *((path, 0o700) for path in sorted(folders))]
    wide = [(path, mode) for path, mode in checked if path.exists() and path.stat().st_mode & 0o077]
    for path, mode in wide:
        is_open = f"{path} can be opened by others ({path.stat().st_mode & 0o777:o})"
        yield Check("permissions", False, is_open, f"chmod {mode:o} {quote(str(path))}")
    where = next(path for path in (places.store, *places.store.absolute().parents) if path.exists())
    if not os.access(where, os.W_OK):
        yield Check("permissions", False, f"{where} cannot be written", f"chmod u+w {quote(str(where))}")
    elif not wide:
        yield Check("permissions", True, "only you can open what the program keeps")


def _disk(places: Places) -> Check:
    folder = next(path for path in places.store.absolute().parents if path.exists())
    free = shutil.disk_usage(folder).free
    size = places.store.stat().st_size if places.store.is_file() else 0
    needed = 2 * size + _ROOM  # VACUUM writes the store once more, and its log
    detail = f"{free / 1e6:,.0f} MB free, at most {needed / 1e6:,.0f} MB needed"
    return Check("disk", free >= needed, detail, "" if free >= needed else f"make room on the disk of {folder}")


def _lock(places: Places) -> Check:
    from app.indexer import is_written

    try:
        if is_written(places.lock):
            return Check("locks", True, "an index run is at work")
    except BtrError as error:
        return Check("locks", False, str(error), f"rm {quote(str(places.lock))}")
    try:
        locked = places.store.is_file() and is_locked(places.store)
    except (BtrError, sqlite3.Error):
        locked = False  # what is wrong with the store is said next
    if locked:
        return Check(
            "locks", False, f"another program keeps {places.store} locked", "close the program that has it open"
        )
    return Check("locks", True, "nobody is writing")


def _schema(identity: Identity) -> Check:
    detail = f"schema {identity.version}, this version knows {SCHEMA_VERSION}"
    if identity.version > SCHEMA_VERSION:
        return Check("schema", False, detail, "pip install --upgrade btr-assistant")
    if identity.version < SCHEMA_VERSION:
        return Check("schema", False, detail, "btr-assistant index")
    return Check("schema", True, detail)


def _fingerprint(identity: Identity, manifest: Manifest) -> Check:
    if identity.fingerprint == manifest.fingerprint:
        return Check("fingerprint", True, f"made with this bundle ({identity.fingerprint})")
    detail = f"made with bundle {identity.fingerprint} ({identity.model}), this is {manifest.fingerprint}"
    return Check(
        "fingerprint", False, detail, "btr-assistant --bundle THE-OLD-BUNDLE, or move the store away and index"
    )


def _contents(places: Places, bundle: Bundle) -> Iterator[Check]:
    from app.verify import reencode

    manifest = bundle.manifest
    lengths = encoded(places.store, manifest.bits, manifest.code_bits).problems
    again = _AGAIN.format(store=quote(str(places.store)))
    if lengths:
        yield Check("bits", False, lengths[0], again)
        return
    with TokenStore.open(places.store, manifest.fingerprint) as store:
        counts = store.counts()
        missing = [source.root for source in store.sources() if not os.path.lexists(source.root)]
        count, same = reencode(store, bundle, SAMPLE)
    again_said = f"{count:,} encoded again, to the same bits" if count else "none could be encoded again"
    detail = f"{counts.passages:,} passages of {counts.notes:,} notes; {again_said}"
    yield Check(
        "bits", not same.problems, same.problems[0] if same.problems else detail, again if same.problems else ""
    )
    for root in missing:
        fix = f"mount or restore it, or run btr-assistant sources remove {quote(root)}"
        yield Check("sources", False, f"{root} is not there", fix)
    if not missing:
        yield Check("sources", True, "every folder of notes is there")
