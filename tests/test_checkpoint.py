"""Checkpoints as the hub has those of older T5s: spiece.model, pytorch_model.bin, and what can be wrong with them."""

from __future__ import annotations

import io
import json
import os
import pickle
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import sentencepiece
import torch
from tokenizers import Tokenizer
from transformers import T5TokenizerFast

from export.bundle import make_bundle
from export.checkpoint import weights_files, weights_hash
from export.cli import main
from export.data import load_tokenizer
from export.reader import load_bert
from export.saved import check_files
from export.t5 import load_t5
from export.train import train
from store.bundle import file_hash, read_manifest
from store.errors import ExportError
from tests.tiny import CONTEXT, SHORT, checkpoint, hub_t5, pickle_weights, questions

TEXTS = [CONTEXT, "  two  spaces ", "who? <extra_id_0> is", "ünïcödé", "which port: 5433</s>", ""]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = hub_t5(tmp_path_factory.mktemp("hub") / "t5")
    questions(made / "train.jsonl")
    return made


@pytest.fixture
def own(folder: Path, tmp_path: Path) -> Path:
    """A copy that may be damaged."""
    return Path(shutil.copytree(folder, tmp_path / "own"))


def pickled(what: object, **settings: bool) -> bytes:
    data = io.BytesIO()
    torch.save(what, data, **settings)
    return data.getvalue()


def written(tokenizer: Tokenizer) -> dict[str, Any]:
    """What stands in its file, scores to the figures that JSON keeps."""
    made: dict[str, Any] = json.loads(tokenizer.to_str())
    made["model"]["vocab"] = [(piece, round(score, 9)) for piece, score in made["model"]["vocab"]]
    return made


Refusal = Callable[[Path], str]
"""A checkpoint -> the one sentence that `btr-export train` says of it."""


@pytest.fixture
def refusal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Refusal:
    """Sees that it says no more, and writes nothing."""

    def call(own: Path) -> str:
        data, run = own / "train.jsonl", tmp_path / "run"
        arguments = ["train", own, run, "--train", data, "--validation", data]
        monkeypatch.setattr(sys, "argv", ["btr-export", *map(str, arguments)])
        capsys.readouterr()
        with pytest.raises(SystemExit) as exit_:
            main()
        said = capsys.readouterr().err
        assert (exit_.value.code, said.count("\n")) == (4, 1), said
        assert not run.exists()
        return said.removeprefix(f"btr-export: {own}")

    return call


def test_a_spiece_model_gives_the_ids_of_sentencepiece(folder: Path) -> None:
    """As T5 is trained: what sentencepiece gives, then </s>."""
    pieces = sentencepiece.SentencePieceProcessor(model_file=str(folder / "spiece.model"))
    tokenizer = load_tokenizer(folder)
    for text in TEXTS:
        if "<" not in text:
            assert tokenizer.encode(text).ids == [*pieces.encode(text), 1]
    assert [tokenizer.token_to_id(token) for token in ("<pad>", "</s>", "<unk>")] == [0, 1, 2]


def test_sentinels_count_down_behind_the_pieces(folder: Path) -> None:
    """32,099 is the first of 32,000 pieces' hundred, 32,000 the last."""
    tokenizer = load_tokenizer(folder)
    pieces = sentencepiece.SentencePieceProcessor(model_file=str(folder / "spiece.model")).vocab_size()
    assert tokenizer.get_vocab_size() == pieces + 100
    assert [tokenizer.token_to_id(f"<extra_id_{at}>") for at in (0, 99)] == [pieces + 99, pieces]
    assert pieces + 99 in tokenizer.encode("who? <extra_id_0> is").ids
    assert tokenizer.decode([pieces + 99, 1]) == ""


@pytest.mark.parametrize("settings", [None, {"extra_ids": 4}, {"legacy": False}, {"legacy": None, "extra_ids": 0}])
def test_it_is_the_tokenizer_that_the_same_model_comes_with(own: Path, settings: dict[str, Any] | None) -> None:
    if settings is not None:
        (own / "tokenizer_config.json").write_text(json.dumps(settings))
    T5TokenizerFast.from_pretrained(own).save_pretrained(own / "published")
    published, made = Tokenizer.from_file(str(own / "published" / "tokenizer.json")), load_tokenizer(own)
    assert written(made) == written(published)
    assert [made.encode(text).ids for text in TEXTS] == [published.encode(text).ids for text in TEXTS]


@pytest.mark.parametrize("zipped", [True, False])
def test_a_pickle_gives_the_weights_of_the_same_safetensors(folder: Path, own: Path, zipped: bool) -> None:
    """The hub's oldest ones are of a time when torch did not zip them."""
    weights = load_t5(folder).state_dict()
    (own / "pytorch_model.bin").write_bytes(pickled(weights, _use_new_zipfile_serialization=zipped))
    read = load_t5(own).state_dict()
    assert all(torch.equal(read[name], value) for name, value in weights.items())


def test_where_both_are_the_safetensors_are_read(own: Path) -> None:
    weights = load_t5(own)
    weights.save_pretrained(own)
    (own / "pytorch_model.bin").write_bytes(b"")
    assert torch.equal(load_t5(own).shared.weight, weights.shared.weight)


def parted(own: Path, safe: bool) -> Path:
    """The same checkpoint as the hub has large ones; its index."""
    load_t5(own).save_pretrained(own, safe_serialization=safe, max_shard_size="20KB")
    (own / "pytorch_model.bin").unlink()
    return own / ("model.safetensors.index.json" if safe else "pytorch_model.bin.index.json")


@pytest.mark.parametrize("safe", [True, False], ids=["safetensors", "pickles"])
def test_weights_in_parts_are_the_same(folder: Path, own: Path, safe: bool) -> None:
    index = parted(own, safe)
    files = weights_files(own)
    assert files[0] == index and len(files) > 3
    read = load_t5(own).state_dict()
    assert all(torch.equal(read[name], value) for name, value in load_t5(folder).state_dict().items())
    before = weights_hash(own)
    files[-1].write_bytes(files[-1].read_bytes() + b" ")
    assert before != weights_hash(own)


@pytest.mark.parametrize("safe", [True, False], ids=["safetensors", "pickles"])
def test_a_missing_or_damaged_part_is_one_sentence(own: Path, refusal: Refusal, safe: bool) -> None:
    index = parted(own, safe)
    part = weights_files(own)[2]
    whole = part.read_bytes()
    part.write_bytes(whole[: len(whole) // 2])
    assert refusal(own).startswith(f"/{index.name} or one of its parts is damaged, or not of the model that config")
    part.unlink()
    assert refusal(own) == f" lacks {part.name}, a part of its weights: give a whole checkpoint folder\n"


@pytest.mark.parametrize(
    ("written", "said"),
    [
        ("{", " is damaged, or no index of weights: give a whole checkpoint folder"),
        ("[]", " is damaged, or no index of weights: give a whole checkpoint folder"),
        ('{"weight_map": {"shared.weight": 3}}', " is damaged, or no index of weights: give a whole checkpoint folder"),
        ('{"weight_map": {}}', " names no files of weights beside it: give a whole checkpoint folder"),
        ('{"weight_map": {"shared.weight": "../a.bin"}}', " names no files of weights beside it: give a whole"),
        ('{"weight_map": {"shared.weight": "config.json"}}', " names no files of weights beside it: give a whole"),
    ],
)
def test_an_index_that_is_none_is_one_sentence(own: Path, refusal: Refusal, written: str, said: str) -> None:
    index = parted(own, True)
    index.write_text(written)
    assert refusal(own).startswith(f"/{index.name}{said}")


def test_a_bert_whose_weights_are_a_pickle_without_a_pooler_is_read(tmp_path: Path) -> None:
    made = checkpoint(tmp_path / "bert")
    pickle_weights(made)
    weights = torch.load(made / "pytorch_model.bin", weights_only=True)
    kept = {name: value for name, value in weights.items() if not name.startswith("pooler.")}
    torch.save(kept, made / "pytorch_model.bin")
    check_files(made)
    read = load_bert(made).state_dict()
    assert len(kept) < len(weights) and all(torch.equal(read[name], value) for name, value in kept.items())


def test_a_t5_as_the_hub_has_it_is_trained_and_exported(folder: Path, tmp_path: Path) -> None:
    data, run = [folder / "train.jsonl"], tmp_path / "run"
    train(folder, data, data, run, SHORT)
    record = json.loads((run / "train.json").read_text())
    assert record["sha256"] == file_hash(folder / "pytorch_model.bin")
    kept = Tokenizer.from_file(str(run / "tokenizer.json"))
    assert written(kept) == written(load_tokenizer(folder))
    make_bundle(run, tmp_path / "bundle", precision="float32")
    assert read_manifest(tmp_path / "bundle").reader == "generative"
    assert not {path.name for path in folder.iterdir()} & {"tokenizer.json", "model.safetensors"}


class Code:
    """A pickle of this runs code where it is loaded as one."""

    def __init__(self, made: Path) -> None:
        self.made = made

    def __reduce__(self) -> tuple[Callable[[str], None], tuple[str]]:
        return os.mkdir, (str(self.made),)


@pytest.mark.parametrize("kind", ["code", "zipped code", "module", "list", "keys", "nested", "values", "shape"])
def test_a_pickle_of_something_else_is_refused_and_never_run(own: Path, refusal: Refusal, kind: str) -> None:
    weights, made = load_t5(own).state_dict(), own / "made"
    others: dict[str, bytes] = {
        "code": pickle.dumps(Code(made)),
        "zipped code": pickled({**weights, "more": Code(made)}),
        "module": pickled(torch.nn.Linear(2, 2)),
        "list": pickled([1, 2]),
        "keys": pickled({1: torch.zeros(1)}),
        "nested": pickled({"model": weights, "step": 3}),
        "values": pickled({**weights, "shared.weight": 1}),
        "shape": pickled({**weights, "shared.weight": torch.zeros(5, 32)}),
    }
    (own / "pytorch_model.bin").write_bytes(others[kind])
    said = refusal(own)
    assert not made.exists()
    if kind == "nested":
        assert said.startswith("/pytorch_model.bin lacks ")
    else:
        assert said.startswith("/pytorch_model.bin is damaged, or not of the model that config.json describes: ")


@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.safetensors", "spiece.model", "tokenizer.json"])
@pytest.mark.parametrize("damage", ["empty", "garbage", "cut", "a pointer"])
def test_a_damaged_file_is_one_sentence(own: Path, refusal: Refusal, name: str, damage: str) -> None:
    if name == "model.safetensors":
        load_t5(own).save_pretrained(own)
    if name == "tokenizer.json":
        load_tokenizer(own).save(str(own / name))
    whole = (own / name).read_bytes()
    data = {
        "empty": b"",
        "garbage": b"\x80\x02garbage" * 40,
        "cut": whole[: len(whole) // 2],
        "a pointer": b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 5\n",
    }
    (own / name).write_bytes(data[damage])
    said = refusal(own)
    assert said.startswith(f"/{name} is damaged, or ") and said.endswith(": give a whole checkpoint folder\n")


def test_the_weights_of_an_encoder_alone_are_no_t5(own: Path) -> None:
    weights = {n: v for n, v in load_t5(own).state_dict().items() if not n.startswith(("decoder.", "lm_head."))}
    torch.save(weights, own / "pytorch_model.bin")
    with pytest.raises(ExportError, match=r"lacks \d+ weights of a T5ForConditionalGeneration, decoder\.block\.0"):
        load_t5(own)


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("pytorch_model.bin", " holds no model.safetensors or pytorch_model.bin: give a whole checkpoint folder"),
        ("spiece.model", " holds no tokenizer.json or spiece.model: give a whole checkpoint folder"),
    ],
)
def test_a_missing_file_is_one_sentence(own: Path, refusal: Refusal, name: str, said: str) -> None:
    (own / name).unlink()
    assert refusal(own).startswith(said)


def test_a_tokenizer_of_another_checkpoint_is_refused(own: Path, refusal: Refusal) -> None:
    (own / "tokenizer_config.json").write_text('{"extra_ids": 900}')
    said = refusal(own)
    assert said.startswith(" has a tokenizer of 970 tokens and weights of 192: give a whole checkpoint folder")


def test_a_spiece_model_is_a_t5s_alone(own: Path, tmp_path: Path) -> None:
    """Those of others have other special tokens."""
    made = checkpoint(tmp_path / "bert")
    shutil.move(own / "spiece.model", made / "spiece.model")
    (made / "tokenizer.json").unlink()
    with pytest.raises(ExportError, match=r"bert holds no tokenizer\.json: give a whole checkpoint folder"):
        check_files(made)
