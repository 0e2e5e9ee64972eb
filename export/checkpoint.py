"""
The files of a checkpoint folder, as the Hugging Face hub has them: which of them are read, and how.

Weights are `model.safetensors` or, as of older checkpoints, `pytorch_model.bin`: a pickle, of which tensors are read
and no code is run. A tokenizer is `tokenizer.json` or, of a T5, the `spiece.model` that transformers makes one of.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path

from tokenizers import Tokenizer
from transformers import AutoModel, PreTrainedModel, T5TokenizerFast

from export.hub import TOKENIZERS, WEIGHTS
from store.errors import ExportError


def weights_file(checkpoint: Path) -> Path:
    """
    The file that the weights of a checkpoint are read from.

    Raises:
        ExportError: If it has none.
    """
    return _first_of(checkpoint, WEIGHTS, "give a checkpoint with its weights in one file")


def tokenizer_file(checkpoint: Path, known: Sequence[str] = TOKENIZERS) -> Path:
    """
    The file that the tokenizer of a checkpoint is read from, one of those `known`.

    Raises:
        ExportError: If it has none.
    """
    return _first_of(checkpoint, known, "give a whole checkpoint folder")


def _first_of(checkpoint: Path, names: Sequence[str], instead: str) -> Path:
    for name in names:
        if (checkpoint / name).is_file():
            return checkpoint / name
    raise ExportError(f"{checkpoint} holds no {' or '.join(names)}: {instead}")


def load_weights(
    kind: type[PreTrainedModel] | type[AutoModel], checkpoint: Path, attention: str | None = None
) -> PreTrainedModel:
    """
    The model of a checkpoint folder, every weight of it from `weights_file`; a pooler may be missing, and is random.

    Raises:
        ExportError: If the file is damaged, or holds something else than the model's weights.
    """
    path = weights_file(checkpoint)
    whole = "give a whole checkpoint folder"
    try:
        with warnings.catch_warnings(action="ignore"):  # of odd pickles: they are refused
            model, found = kind.from_pretrained(
                checkpoint,
                use_safetensors=path.suffix == ".safetensors",
                weights_only=True,
                output_loading_info=True,
                attn_implementation=attention,
            )
    except Exception as error:  # transformers raises five unrelated types for the same fact
        raise ExportError(f"{path} is damaged, or not of the model that config.json describes: {whole}") from error
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
