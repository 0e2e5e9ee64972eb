"""Checkpoints by name, from a hub of this machine or from a cache as a fetch leaves it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from export.hub import fetch, name_of
from store.errors import ExportError
from tests.tiny import questions, t5_checkpoint

ROOT = Path(__file__).parent.parent
READ = ("config.json", "model.safetensors", "tokenizer.json")
OLD = ("config.json", "pytorch_model.bin", "spiece.model", "tokenizer_config.json")
COMMIT = "0123456789abcdef0123456789abcdef01234567"
FETCH = """
import sys
from export.hub import fetch
from store.errors import ExportError
try:
    print(fetch(sys.argv[1]))
except ExportError as error:
    print(error)
    sys.exit(error.exit_code)
"""
TRAIN = "from export.cli import main; main()"
SHORT = [f"--set={step}.steps=1" for step in ("full", "decomposed", "binarized")]
SHORT += ["--set=split.split_layer=2", "--set=split.upper_layers=1", "--set=split.bits=32", "--set=split.code_bits=32"]
SHORT += ["--set=data.window=40", "--set=retrieval.epochs=1"]


def python(code: str, *arguments: str | Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """Some code in a process of its own: the hub's settings are read as its library is loaded."""
    kept = {n: v for n, v in os.environ.items() if not n.startswith("HF_") and not n.lower().endswith("_proxy")}
    command = [sys.executable, "-c", code, *map(str, arguments)]
    return subprocess.run(command, cwd=ROOT, env=kept | environment, capture_output=True, text=True, timeout=300)


def cache(home: Path, repository: str, files: dict[str, bytes]) -> Path:
    """A hub's cache that holds a repository; the folder of its files."""
    folder = home / "hub" / f"models--{repository.replace('/', '--')}"
    snapshot = folder / "snapshots" / COMMIT
    for made in (folder / "refs", folder / "blobs", snapshot):
        made.mkdir(parents=True)
    (folder / "refs" / "main").write_text(COMMIT)
    for number, (name, data) in enumerate(files.items()):
        (folder / "blobs" / str(number)).write_bytes(data)
        (snapshot / name).symlink_to(Path("..", "..", "blobs", str(number)))
    return snapshot


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    folder = t5_checkpoint(tmp_path_factory.mktemp("hub") / "t5")
    return {name: (folder / name).read_bytes() for name in READ}


def test_a_t5_is_trained_from_the_cache_without_a_network(tmp_path: Path, files: dict[str, bytes]) -> None:
    home, data, run = tmp_path / "hf", questions(tmp_path / "train.jsonl"), tmp_path / "run"
    cache(home, "someone/tiny-t5", files)
    arguments = ["train", "someone/tiny-t5", run, "--train", data, "--validation", data, *SHORT]
    done = python(TRAIN, *arguments, HF_HOME=str(home), HF_HUB_OFFLINE="1")
    assert done.returncode == 0, done.stderr
    record = json.loads((run / "train.json").read_text())
    assert (record["checkpoint"], list(record["dev"])) == ("someone/tiny-t5", ["full", "decomposed", "binarized"])


def test_a_command_that_finds_no_checkpoint_says_so_and_writes_nothing(tmp_path: Path) -> None:
    data, run = questions(tmp_path / "train.jsonl"), tmp_path / "run"
    arguments = ["train", tmp_path / "no-t5", run, "--train", data, "--validation", data]
    done = python(TRAIN, *arguments, HF_HOME=str(tmp_path / "hf"), HF_HUB_OFFLINE="1")
    assert done.returncode == 4
    said = f"btr-export: {tmp_path}/no-t5 does not exist: give a checkpoint folder, or a name on the"
    assert done.stderr == f"{said} Hugging Face hub\n"
    assert not run.exists()


@pytest.mark.parametrize(
    ("missing", "kind"),
    [
        ("config.json", "config.json"),
        ("model.safetensors", "model.safetensors or pytorch_model.bin"),
        ("tokenizer.json", "tokenizer.json or spiece.model"),
    ],
)
def test_a_cache_that_lacks_a_file_is_said(tmp_path: Path, files: dict[str, bytes], missing: str, kind: str) -> None:
    """As it is after something else fetched the rest."""
    cache(tmp_path, "tiny-t5", {name: data for name, data in files.items() if name != missing})
    done = python(FETCH, "tiny-t5", HF_HOME=str(tmp_path), HF_HUB_OFFLINE="1")
    assert done.returncode == 4
    assert done.stdout.startswith(f"tiny-t5 has no {kind} on the Hugging Face hub, or in its cache")


def test_what_is_not_cached_cannot_be_had_without_a_network(tmp_path: Path) -> None:
    said = "google/flan-t5-small is no folder here, and the Hugging Face hub cannot be reached"
    for environment in ({"HF_HUB_OFFLINE": "1"}, {"HF_ENDPOINT": "http://127.0.0.1:9"}):
        done = python(FETCH, "google/flan-t5-small", HF_HOME=str(tmp_path), **environment)
        assert (done.returncode, done.stdout.count("\n")) == (4, 1)
        assert done.stdout.startswith(said)


class Hub(ThreadingHTTPServer):
    """As much of a hub as a fetch asks for: someone/tiny-t5, a gated someone/gated, and nothing else."""

    def __init__(self, files: dict[str, bytes]) -> None:
        super().__init__(("127.0.0.1", 0), Reply)
        self.files = files
        self.asked: list[str] = []


class Reply(BaseHTTPRequestHandler):
    """One answer of it."""

    server: Hub

    def do_GET(self) -> None:
        """A repository's list of files, or a file."""
        self.server.asked.append(self.path)
        repository, _, name = self.path.removeprefix("/api/models").strip("/").partition(f"/resolve/{COMMIT}/")
        repository = repository.removesuffix("/revision/main")
        if repository not in ("someone/tiny-t5", "someone/gated"):
            self.reply(401, **{"X-Error-Code": "RepoNotFound"})
        elif not name:
            listed = [{"rfilename": file} for file in self.server.files]
            self.reply(200, json.dumps({"id": repository, "sha": COMMIT, "siblings": listed}).encode())
        elif repository == "someone/gated":
            self.reply(403, **{"X-Error-Code": "GatedRepo"})
        else:
            self.reply(200, self.server.files[name], ETag=f'"{name}"', **{"X-Repo-Commit": COMMIT})

    def do_HEAD(self) -> None:
        """The same without the data."""
        self.do_GET()

    def reply(self, status: int, data: bytes = b"", **headers: str) -> None:
        """Status, headers and, if it was asked for, the data."""
        self.send_response(status)
        for name, value in ({"Content-Length": str(len(data))} | headers).items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(data)

    def log_message(self, format: str, *args: object) -> None:
        """Nothing."""


@pytest.fixture
def hub(files: dict[str, bytes]) -> Iterator[Hub]:
    with Hub({**files, "pytorch_model.bin": b"", "onnx/model.onnx": b"", "1_Pooling/config.json": b"{}"}) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def test_a_name_is_fetched_once_and_only_what_is_read(tmp_path: Path, files: dict[str, bytes], hub: Hub) -> None:
    here = {"HF_HOME": str(tmp_path), "HF_ENDPOINT": f"http://127.0.0.1:{hub.server_port}"}
    done = python(FETCH, "someone/tiny-t5", **here)
    assert done.returncode == 0, done.stdout + done.stderr
    folder = Path(done.stdout.strip())
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == files
    assert name_of(folder) == "someone/tiny-t5"
    assert {path.rpartition("/")[2] for path in hub.asked} == {"main", *READ}
    assert python(FETCH, "someone/tiny-t5", **here, HF_HUB_OFFLINE="1").stdout == done.stdout


@pytest.mark.parametrize(
    "wanted", [OLD, (*READ[:2], *OLD[2:]), (OLD[0], OLD[1], READ[2])], ids=["both old", "old tokenizer", "old weights"]
)
def test_of_older_checkpoints_the_files_in_their_place_are_fetched(
    tmp_path: Path, hub: Hub, wanted: tuple[str, ...]
) -> None:
    hub.files = {name: name.encode() for name in {*OLD, *wanted, "tf_model.h5", "special/spiece.model"}}
    here = {"HF_HOME": str(tmp_path), "HF_ENDPOINT": f"http://127.0.0.1:{hub.server_port}"}
    done = python(FETCH, "someone/tiny-t5", **here)
    assert done.returncode == 0, done.stdout + done.stderr
    assert {path.name for path in Path(done.stdout.strip()).iterdir()} == set(wanted)
    assert {path.rpartition("/")[2] for path in hub.asked} == {"main", *wanted}
    assert python(FETCH, "someone/tiny-t5", **here, HF_HUB_OFFLINE="1").stdout == done.stdout


def test_of_weights_in_parts_those_that_the_index_names_are_fetched(tmp_path: Path, hub: Hub) -> None:
    index = json.dumps({"weight_map": {"a": "model-1-of-2.safetensors", "b": "model-2-of-2.safetensors"}})
    wanted = {"config.json", "spiece.model", "model.safetensors.index.json"}
    wanted |= {"model-1-of-2.safetensors", "model-2-of-2.safetensors"}
    others = {"pytorch_model.bin.index.json", "pytorch_model-1-of-2.bin", "model-1-of-3.safetensors", "tf_model.h5"}
    hub.files = {name: name.encode() for name in wanted | others} | {"model.safetensors.index.json": index.encode()}
    here = {"HF_HOME": str(tmp_path), "HF_ENDPOINT": f"http://127.0.0.1:{hub.server_port}"}
    done = python(FETCH, "someone/tiny-t5", **here)
    assert done.returncode == 0, done.stdout + done.stderr
    assert {path.name for path in Path(done.stdout.strip()).iterdir()} == wanted
    assert {path.rpartition("/")[2] for path in hub.asked} == {"main", *wanted}
    assert python(FETCH, "someone/tiny-t5", **here, HF_HUB_OFFLINE="1").stdout == done.stdout


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("someone/gated", "someone/gated is gated: accept its terms on its page of the Hugging Face hub"),
        ("someone/tiny-t6", "someone/tiny-t6 is neither a folder here nor on the Hugging Face hub"),
        ("tiny-t5", "tiny-t5 is neither a folder here nor on the Hugging Face hub"),
    ],
)
def test_what_the_hub_does_not_give_is_one_sentence(tmp_path: Path, hub: Hub, name: str, sentence: str) -> None:
    done = python(FETCH, name, HF_HOME=str(tmp_path), HF_ENDPOINT=f"http://127.0.0.1:{hub.server_port}")
    assert (done.returncode, done.stdout.count("\n")) == (4, 1)
    assert done.stdout.startswith(sentence)


def test_a_path_is_never_asked_of_the_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever mistypes a folder's name tells nobody."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs").mkdir()
    assert fetch("runs") == Path("runs")
    for name in ("./t5", "../t5", "~/t5", "/t5", "t5/", "runs/t5", "my/own/t5", "my t5", str(tmp_path / "t5")):
        with pytest.raises(ExportError, match="does not exist: give a checkpoint folder"):
            fetch(name)


def test_a_folder_is_called_by_its_own_name(tmp_path: Path) -> None:
    assert name_of(tmp_path / "t5") == "t5"
    assert name_of(tmp_path / "snapshots" / "t5") == "t5"
    assert name_of(tmp_path / "models--t5-small" / "snapshots" / COMMIT) == "t5-small"
