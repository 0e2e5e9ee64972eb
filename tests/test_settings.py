"""Settings and models: what is written is read again, what cannot be used is never written."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from app.places import EMBEDDED_BUNDLE, Places, resolve, write_config
from store.bundle import MANIFEST, UPPER
from store.errors import UsageError
from tests.conftest import Run, rows


def test_settings_are_shown_with_who_said_so(run: Run, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    home.mkdir()
    (home / "config.toml").write_text(
        'store = "/from/file.db"\n[chat]\nsave = false\n[chat.keys]\n"chat.open" = "f9"\n'
    )
    monkeypatch.setenv("BTR_ASSISTANT_DEVICE", "coreml")
    lines = run("--bundle", "/from/flag", "config", "show").out.splitlines()
    assert lines == [
        f"store    /from/file.db  (file: {home / 'config.toml'})",
        "bundle   /from/flag  (flag: --bundle)",
        "device   coreml  (environment: BTR_ASSISTANT_DEVICE)",
        'chat     follow_ups = true, save = false, keys.chat.open = "f9"',
        f"file     {home / 'config.toml'}",
    ]
    settings = json.loads(run("config", "show", "--json").out)["settings"]
    assert settings["bundle"] == {"value": str(EMBEDDED_BUNDLE), "origin": "default", "where": ""}
    assert settings["device"] == {"value": "coreml", "origin": "environment", "where": "BTR_ASSISTANT_DEVICE"}


def test_what_is_set_is_used_until_it_is_unset(
    run: Run, home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    outcome = run("config", "set", "store", "here.db")
    assert (outcome.code, outcome.out) == (0, "")
    assert resolve().store == tmp_path / "here.db"
    assert run("config", "set", "store", 'odd "name" \\ ü.db').code == 0
    assert resolve().store == tmp_path / 'odd "name" \\ ü.db'
    assert run("config", "unset", "store").err == f"store is {home / 'store.db'} now (default)\n"
    assert resolve().store == home / "store.db"


def test_what_the_environment_overrides_is_said(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BTR_ASSISTANT_STORE", "/elsewhere.db")
    assert "the environment comes first: unset BTR_ASSISTANT_STORE to" in run("config", "set", "store", "x.db").err


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["set", "device", "abacus"], "device abacus is not present"),
        (["set", "bundle", "/nowhere"], "there is no model /nowhere: embedded"),
        (["set", "store", "/"], "/ is a folder"),
        (["set", "store", " "], "is empty"),
        (["set", "stroe", "x"], "'stroe' is not one of 'store', 'bundle', 'device'"),
    ],
    ids=str,
)
def test_what_cannot_be_used_is_not_written(run: Run, home: Path, arguments: list[str], says: str) -> None:
    outcome = run("config", *arguments)
    assert outcome.code == 2
    assert says in outcome.err
    assert not home.exists()


def test_a_change_leaves_all_other_lines(tmp_path: Path) -> None:
    path = tmp_path / "own" / "config.toml"
    write_config(path, "device", "cpu")
    assert oct(path.parent.stat().st_mode & 0o777) == "0o700"
    path.write_text("# mine\nstore = '/a'  # the old one\ndevice = 'cpu'\n")
    write_config(path, "device", "cuda")
    assert path.read_text() == "# mine\nstore = '/a'  # the old one\ndevice = \"cuda\"\n"
    write_config(path, "store", None)
    assert path.read_text() == '# mine\ndevice = "cuda"\n'
    path.write_text('device = """\ncpu"""\n')
    with pytest.raises(UsageError, match="change it by hand"):
        write_config(path, "device", "cuda")
    assert path.read_text() == 'device = """\ncpu"""\n'


def test_a_link_to_a_configuration_stays_one(home: Path, tmp_path: Path) -> None:
    home.mkdir()
    (home / "config.toml").symlink_to(tmp_path / "dotfile.toml")
    write_config(home / "config.toml", "device", "cpu")
    assert (home / "config.toml").is_symlink()
    assert (tmp_path / "dotfile.toml").read_text() == 'device = "cpu"\n'


@pytest.fixture
def other(home: Path) -> Path:
    """A model in the data folder that encodes otherwise; the graphs are the embedded one's."""
    folder = home / "bundles" / "other"
    shutil.copytree(EMBEDDED_BUNDLE, folder)
    manifest = json.loads((folder / MANIFEST).read_text())
    (folder / MANIFEST).write_text(json.dumps(manifest | {"name": "another-reader", "heading_tokens": 23}))
    return folder


def test_models_are_listed_shown_and_chosen_by_name(run: Run, own_sample: Places, other: Path) -> None:
    lines = run("model", "list").out.splitlines()
    assert [line.split()[0:2] for line in lines] == [["*", "embedded"], ["other", "another-reader,"]]
    assert "licence      Apache-2.0" in run("model", "show").out.splitlines()
    assert run("model", "show", "other").out.startswith("model        another-reader, extractive\n")
    outcome = run("model", "use", "other")
    assert outcome.code == 0
    assert "was made with bundle" in outcome.err
    assert "or move it away and run btr-assistant index " in outcome.err
    assert resolve().bundle == other
    outcome = run("ask", "boiler?")
    assert (outcome.code, outcome.out) == (3, "")
    ((made_with,),) = rows(own_sample.store, "SELECT value FROM settings WHERE key = 'fingerprint'")
    assert f"go back to btr-minilm-3+3 ({made_with} in btr-assistant model list)" in outcome.err
    assert made_with in run("model", "list").out
    assert run("model", "use", "embedded").code == 0
    assert run("status").code == 0
    assert resolve().settings[1].origin == "default"


def test_a_damaged_model_is_found_and_not_chosen(run: Run, home: Path, other: Path) -> None:
    with (other / UPPER).open("r+b") as file:
        file.write(b"x")
    outcome = run("model", "verify", "other")
    assert outcome.code == 4
    assert f"failed {UPPER}       is damaged, its hash differs" in outcome.out.splitlines()
    assert json.loads(run("model", "verify", "other", "--json").out)["ok"] is False
    assert run("model", "verify").code == 0
    outcome = run("model", "use", "other")
    assert (outcome.code, outcome.err.count("\n")) == (4, 1)
    assert not (home / "config.toml").exists()
    (other / MANIFEST).write_text("{}")
    listed = run("model", "list")
    assert listed.code == 0
    assert "  other  cannot be used: " in listed.out


def test_a_model_that_is_not_there_names_those_that_are(run: Run, other: Path) -> None:
    outcome = run("model", "show", "nothing")
    assert (outcome.code, outcome.out) == (2, "")
    assert "there is no model nothing: embedded, other, or the folder of one" in outcome.err
