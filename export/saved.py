"""
Readers on disk: the checkpoint of a BERT or a T5 that training starts from, and the readers that it leaves in a run.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout
from safetensors.torch import load_model, save_model
from transformers import BertConfig, BertModel, T5Config, T5ForConditionalGeneration

from export.checkpoint import tokenizer_file, weights_files
from export.full import FullReader
from export.hub import TOKENIZERS
from export.reader import SplitConfig, SplitReader, load_bert
from export.recipe import make_recipe
from export.t5 import FullT5, SplitT5, load_t5, model_type, without_dropout
from store.errors import ExportError

AnyReader = FullReader | SplitReader | FullT5 | SplitT5


@contextmanager
def alone_in(folder: Path) -> Iterator[None]:
    """
    Inside, nobody else trains into a folder; it is made, and gone again if nothing was written.

    Raises:
        ExportError: If somebody does already.
    """
    folder.mkdir(parents=True, exist_ok=True)
    lock = FileLock(folder / ".lock", timeout=0)
    try:
        lock.acquire()
    except Timeout as error:
        raise ExportError(f"another process is training into {folder}: wait for it, or give another folder") from error
    try:
        yield
    finally:
        if [path.name for path in folder.iterdir()] == [".lock"]:
            shutil.rmtree(folder)
        lock.release()


def save_reader(reader: AnyReader, folder: Path) -> None:
    """Write `reader.safetensors`, `config.json` and, of a split reader, `split.json`: what `load_reader` needs."""
    save_model(reader, str(folder / "reader.safetensors.new"))
    (folder / "reader.safetensors.new").replace(folder / "reader.safetensors")
    (folder / "config.json").write_text(reader.model_config.to_json_string())
    if isinstance(reader, SplitReader | SplitT5):
        (folder / "split.json").write_text(json.dumps(reader.config.to_json(), indent=2) + "\n")


def check_finished(folder: Path) -> None:
    """
    See that a run, or a step of one, has been trained to its end.

    Raises:
        ExportError: If it has not.
    """
    if not (folder / "train.json").is_file():
        raise ExportError(f"{folder} holds no finished run: give the same `btr-export train` command until it ends")


def _empty(folder: Path) -> BertModel | T5ForConditionalGeneration:
    check_finished(folder)
    if model_type(folder) == "t5":
        return without_dropout(T5ForConditionalGeneration(T5Config.from_json_file(folder / "config.json")))
    config = BertConfig.from_json_file(folder / "config.json")
    config._attn_implementation = "sdpa"
    config.hidden_dropout_prob = config.attention_probs_dropout_prob = 0.0
    return BertModel(config)


def load_reader(folder: Path) -> SplitReader | SplitT5:
    """
    The split reader of a finished run, or of its decomposed step.

    Raises:
        ExportError: If the folder holds no finished training.
    """
    model = _empty(folder)
    if not (folder / "split.json").is_file():
        raise ExportError(f"{folder} holds a full reader: give the run's folder, which holds the split one")
    split = make_recipe({"split": json.loads((folder / "split.json").read_text())}, str(folder / "split.json")).split
    reader = split_reader(model, split)
    load_model(reader, str(folder / "reader.safetensors"))
    return reader.eval()


def split_reader(model: BertModel | T5ForConditionalGeneration, split: SplitConfig) -> SplitReader | SplitT5:
    """The split reader of either family that starts from a checkpoint."""
    return SplitReader(model, split) if isinstance(model, BertModel) else SplitT5(model, split)


def load_full(folder: Path) -> FullReader | FullT5:
    """
    The full reader of a run's first step.

    Raises:
        ExportError: If the folder holds no finished training.
    """
    model = _empty(folder)
    reader = FullReader(model) if isinstance(model, BertModel) else FullT5(model)
    load_model(reader, str(folder / "reader.safetensors"))
    return reader.eval()


def load_checkpoint(checkpoint: Path) -> BertModel | T5ForConditionalGeneration:
    """
    A checkpoint of either family from a folder, without dropout.

    Raises:
        ExportError: If the folder holds none, or one of another architecture.
    """
    kind = model_type(checkpoint)
    if kind not in ("bert", "t5"):
        raise ExportError(f"{checkpoint} is a {kind} checkpoint: give a bert or a t5")
    return load_t5(checkpoint) if kind == "t5" else load_bert(checkpoint)


def check_files(checkpoint: Path) -> None:
    """
    See that a checkpoint folder is whole.

    Raises:
        ExportError: If a file is missing.
    """
    known = TOKENIZERS if model_type(checkpoint) == "t5" else TOKENIZERS[:1]
    weights_files(checkpoint)
    tokenizer_file(checkpoint, known)
