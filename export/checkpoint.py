"""
The files of a checkpoint folder, as the Hugging Face hub has them: which of them are read, and how.

Weights are `model.safetensors` or, as of older checkpoints, `pytorch_model.bin`: a pickle, of which tensors are read
and no code is run. Of a large model either may be an index and the parts that it names. A tokenizer is `tokenizer.json`
or, of a T5, the `spiece.model` that transformers makes one of.
"""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Sequence
from pathlib import Path

from tokenizers import Tokenizer
from transformers import AutoModel, PreTrainedModel, T5TokenizerFast

from export.hub import INDEX, TOKENIZERS, WEIGHTS, either, parts
from store.bundle import file_hash
from store.errors import ExportError


def weights_files(checkpoint: Path) -> list[Path]:
    """
    The files that the weights of a checkpoint are read from: one, or an index and its parts.

    Raises:
        ExportError: If it has none, or lacks a part.
    """
    first = _first_of(checkpoint, WEIGHTS)
    files = [first, *(checkpoint / name for name in parts(first))] if first.name.endswith(INDEX) else [first]
    for file in files:
        if not file.is_file():
            raise ExportError(f"{checkpoint} lacks {file.name}, a part of its weights: give a whole checkpoint folder")
    return files


def weights_hash(checkpoint: Path) -> str:
    """
    What tells a checkpoint's weights from others: the SHA-256 of their file, or of the names and hashes of several.

    Raises:
        ExportError: As `weights_files`.
    """
    hashes = {file.name: file_hash(file) for file in weights_files(checkpoint)}
    listed = "".join(f"{name} {value}\n" for name, value in hashes.items())
    return next(iter(hashes.values())) if len(hashes) == 1 else hashlib.sha256(listed.encode()).hexdigest()


def tokenizer_file(checkpoint: Path, known: Sequence[str] = TOKENIZERS) -> Path:
    """
    The file that the tokenizer of a checkpoint is read from, one of those `known`.

    Raises:
        ExportError: If it has none.
    """
    return _first_of(checkpoint, known)


def _first_of(checkpoint: Path, names: Sequence[str]) -> Path:
    for name in names:
        if (checkpoint / name).is_file():
            return checkpoint / name
    raise ExportError(f"{checkpoint} holds no {either(names)}: give a whole checkpoint folder")


def load_weights(
    kind: type[PreTrainedModel] | type[AutoModel], checkpoint: Path, attention: str | None = None
) -> PreTrainedModel:
    """
    The model of a checkpoint folder, every weight of it from `weights_files`; a pooler may be missing, and is random.

    Raises:
        ExportError: If a file is damaged, or they hold something else than the model's weights.
    """
    path, *more = weights_files(checkpoint)
    whole = "give a whole checkpoint folder"
    try:
        with warnings.catch_warnings(action="ignore"):  # of odd pickles: they are refused
            model, found = kind.from_pretrained(
                checkpoint,
                use_safetensors=path.name.startswith("model.safetensors"),
                weights_only=True,
                output_loading_info=True,
                attn_implementation=attention,
            )
    except Exception as error:  # transformers raises five unrelated types for the same fact
        weights = f"{path} or one of its parts" if more else str(path)
        raise ExportError(f"{weights} is damaged, or not of the model that config.json describes: {whole}") from error
    missing = sorted(name for name in found["missing_keys"] if not name.startswith("pooler."))
    if missing:
        name = type(model).__name__
        raise ExportError(f"{path} lacks {len(missing)} weights of a {name}, {missing[0]} first: {whole}")
    for weight in model.parameters():  # those of a pickle are still mapped from its file, which may change
        weight.data = weight.data.clone()
    return model


def read_tokenizer(folder: Path) -> Tokenizer:
    """
    The tokenizer of a checkpoint folder or a run, as it stands there.

    Raises:
        ExportError: If it has none, or a damaged one.
    """
    path = tokenizer_file(folder)
    try:
        if path.suffix == ".json":
            return Tokenizer.from_file(str(path))
        return T5TokenizerFast.from_pretrained(folder).backend_tokenizer
    except Exception as error:  # neither library raises a type of its own
        raise ExportError(f"{path} is damaged, or no tokenizer: give a whole checkpoint folder") from error
