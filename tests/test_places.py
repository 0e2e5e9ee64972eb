"""Where things are: flag before environment before file before default, and one lock for one store."""

from __future__ import annotations

from pathlib import Path

import pytest

from app.places import EMBEDDED_BUNDLE, resolve
from store.errors import UsageError


def test_the_home_holds_everything_by_default(home: Path) -> None:
    places = resolve()
    assert (places.store, places.bundle, places.device) == (home / "store.db", EMBEDDED_BUNDLE, "cpu")
    assert places.lock.parent == places.state == home
    assert not home.exists()


def test_without_a_home_the_folders_of_the_system_are_used(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("BTR_ASSISTANT_HOME")
    for name in ("XDG_CONFIG_HOME", "XDG_DATA_HOME", "XDG_STATE_HOME", "HOME"):
        monkeypatch.setenv(name, str(tmp_path / name))
    places = resolve()
    assert places.store.name == "store.db"
    assert places.store.is_relative_to(tmp_path)
    assert places.lock.is_relative_to(tmp_path)


def test_flag_beats_environment_beats_file_beats_default(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    home.mkdir()
    assert resolve().device == "cpu"
    (home / "config.toml").write_text('device = "openvino"\nstore = "/from/file.db"\n')
    assert resolve().device == "openvino"
    monkeypatch.setenv("BTR_ASSISTANT_DEVICE", "coreml")
    assert resolve().device == "coreml"
    assert resolve(device="cuda").device == "cuda"
    assert resolve().store == Path("/from/file.db")


def test_a_tilde_is_home_and_an_unknown_user_is_just_a_name(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    assert resolve(store="~/x.db").store == tmp_path / "x.db"
    assert resolve(store="~no-such-user-here/x.db").store == Path("~no-such-user-here/x.db")


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (b"store = ", "cannot be read"),
        (b"store = '\xff'", "cannot be read"),
        (b"stroe = '/a'", "the entry stroe, which nobody knows: known are store, bundle, device"),
        (b"device = 1", r"has device = 1, which is no text: write it as device = \"\.\.\.\""),
        (b"device = ''", 'has device = "", which is no text'),
        (b"[store]\na = 1", 'has store = {"a": 1}, which is no text'),
    ],
)
def test_a_configuration_that_cannot_be_used_is_refused(home: Path, text: bytes, says: str) -> None:
    home.mkdir()
    (home / "config.toml").write_bytes(text)
    with pytest.raises(UsageError, match=says):
        resolve()


def test_a_store_has_one_lock_however_it_is_spelled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "sub").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "sub")
    monkeypatch.chdir(tmp_path)
    spellings = (tmp_path / "sub" / "a.db", "sub/a.db", "./sub/../sub/a.db", "link/a.db")
    assert len({resolve(store=str(path)).lock for path in spellings}) == 1
    assert resolve(store="sub/b.db").lock != resolve(store="sub/a.db").lock
