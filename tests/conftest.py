"""
Shared fixtures: the embedded bundle and a store over the sample notes, made once; a home of its own for each test.

Nothing here touches the real home: `BTR_ASSISTANT_HOME` lies in a temporary folder for every test.
"""

from __future__ import annotations

import io
import json
import shutil
import sqlite3
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import hypothesis
import pytest

from app import cli
from app.assistant import Assistant
from app.bundle import Bundle
from app.indexer import Report, index
from app.places import EMBEDDED_BUNDLE, Places
from app.tree import check_root
from store.bundle import MANIFEST
from store.tokens import TokenStore

hypothesis.settings.register_profile("unhurried", deadline=None)  # a busy machine is no failure
hypothesis.settings.load_profile("unhurried")
SAMPLE_NOTES = Path(__file__).parent.parent / "examples" / "notes"


@dataclass(frozen=True)
class Outcome:
    """What a command did: exit code, stdout, stderr."""

    code: int
    out: str
    err: str


Run = Callable[..., Outcome]
"""Arguments of the command line -> its outcome."""


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty home of the program; the environment and colours of whoever runs the tests do not matter."""
    for name in ("STORE", "BUNDLE", "DEVICE"):
        monkeypatch.delenv(f"BTR_ASSISTANT_{name}", raising=False)
    monkeypatch.delenv("NO_COLOR", raising=False)
    folder = tmp_path / "home"
    monkeypatch.setenv("BTR_ASSISTANT_HOME", str(folder))
    return folder


@pytest.fixture(scope="session")
def bundle() -> Bundle:
    """The embedded bundle, its graphs loaded at most once."""
    return Bundle.open(EMBEDDED_BUNDLE)


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle of the smallest reader, for what asks many processes or a great many passages."""
    from tests.tiny import bundle  # torch

    return bundle(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="session")
def generative(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the run and the bundle of the smallest generative reader."""
    from tests.tiny import generative  # torch

    return generative(tmp_path_factory.mktemp("generative"))


@pytest.fixture
def notes(tmp_path: Path) -> Path:
    """An empty folder of notes with a name that is not easy."""
    folder = tmp_path / "my notes"
    folder.mkdir()
    return folder


@pytest.fixture
def store(tmp_path: Path, bundle: Bundle) -> Iterator[TokenStore]:
    """An empty store of the embedded bundle."""
    with new_store(tmp_path / "own.db", bundle) as opened:
        yield opened


@pytest.fixture(scope="session")
def sample(tmp_path_factory: pytest.TempPathFactory, bundle: Bundle) -> Places:
    """A store over a copy of the sample notes, under `notes` beside it; to be read, never to be written."""
    return sample_store(tmp_path_factory.mktemp("sample"), EMBEDDED_BUNDLE, bundle)


@pytest.fixture(scope="session")
def uncompressed(tmp_path_factory: pytest.TempPathFactory) -> Places:
    """The same by a bundle that differs in one thing: it asks for a vector of every token."""
    folder = tmp_path_factory.mktemp("uncompressed")
    copy = bundle_asking(None, folder / "bundle")
    return sample_store(folder, copy, Bundle.open(copy))


@pytest.fixture(scope="session")
def assistant(sample: Places) -> Iterator[Assistant]:
    """The sample notes, ready to be asked."""
    with Assistant.open(sample) as opened:
        yield opened


@pytest.fixture
def own_sample(sample: Places, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Places:
    """A copy of the sample store that may be damaged; the command line of this test uses it."""
    return own_copy(sample, tmp_path, monkeypatch)


@pytest.fixture
def own_uncompressed(uncompressed: Places, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Places:
    """The same of the store whose tokens all have a vector; the command line uses its bundle, too."""
    return own_copy(uncompressed, tmp_path, monkeypatch)


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """The command line as a person calls it, its handling of errors included."""

    def call(*arguments: str | Path) -> Outcome:
        monkeypatch.setattr(sys, "argv", ["btr-assistant", *map(str, arguments)])
        capsys.readouterr()
        with pytest.raises(SystemExit) as exit_:
            cli.main()
        captured = capsys.readouterr()
        code = exit_.value.code
        assert isinstance(code, int)
        assert "Traceback" not in captured.err
        return Outcome(code, captured.out, captured.err)

    return call


def piped(data: str | bytes) -> io.TextIOWrapper:
    """Standard input that another program writes, in a locale that is not UTF-8."""
    return io.TextIOWrapper(io.BytesIO(data.encode() if isinstance(data, str) else data), encoding="ascii")


def own_copy(sample: Places, folder: Path, monkeypatch: pytest.MonkeyPatch) -> Places:
    """A copy of a store in a folder, which the command line uses from now on, with its bundle if it is not embedded."""
    path = folder / "copy.db"
    with sqlite3.connect(sample.store) as source, sqlite3.connect(path) as target:
        source.backup(target)
    source.close()
    target.close()
    monkeypatch.setenv("BTR_ASSISTANT_STORE", str(path))
    if sample.bundle != EMBEDDED_BUNDLE:
        monkeypatch.setenv("BTR_ASSISTANT_BUNDLE", str(sample.bundle))
    return Places(path, sample.bundle, "cpu", folder)


def bundle_asking(ratio: float | None, folder: Path) -> Path:
    """A copy of the embedded bundle that asks for an offline compression, or for none."""
    shutil.copytree(EMBEDDED_BUNDLE, folder)
    made = json.loads((folder / MANIFEST).read_text())
    (folder / MANIFEST).write_text(json.dumps(made | {"offline_ratio": ratio}))
    return folder


def sample_store(folder: Path, bundle_folder: Path, bundle: Bundle) -> Places:
    """A store of a bundle over a copy of the sample notes, both in a folder."""
    shutil.copytree(SAMPLE_NOTES, folder / "notes")
    with new_store(folder / "store.db", bundle) as opened:
        index(opened, bundle, [folder / "notes"])
    return Places(folder / "store.db", bundle_folder, "cpu", folder)


def new_store(path: Path, bundle: Bundle) -> TokenStore:
    """An empty store of a bundle."""
    return TokenStore.create(path, bundle.manifest.fingerprint, bundle.manifest.name)


def run_index(store: TokenStore, bundle: Bundle, *roots: Path) -> Report:
    """Bring a store up to date, as the command does."""
    return index(store, bundle, [check_root(root) for root in roots])


def rows(path: Path, sql: str) -> list[tuple[Any, ...]]:
    """What a store's file holds, read past the program."""
    connection = sqlite3.connect(path)
    try:
        return connection.execute(sql).fetchall()
    finally:
        connection.close()


def contents(path: Path) -> list[tuple[Any, ...]]:
    """Everything of the live notes that indexing decides, in an order that does not depend on row numbers."""
    return rows(
        path,
        'SELECT d.path, d.content_hash, d.title, d.metadata, p."start", p."end", p.line, p.heading, p.text, p.tokens, '
        "p.code, t.bits, t.scale, t.runs, d.date, (SELECT group_concat(name || '=' || value) FROM fields "
        "WHERE document_id = d.id) FROM documents d LEFT JOIN passages p ON p.document_id = d.id "
        'LEFT JOIN token_bits t ON t.passage_id = p.id WHERE d.deleted_at IS NULL ORDER BY d.path, p."start"',
    )
