"""
Checkpoints by name: a folder of this disk or, where there is none, a repository of the Hugging Face hub.

What can only be a path is never asked for there: what begins with a dot, a slash or ~, ends with a slash, or stands in
a folder that exists. What was fetched once comes from the hub's own cache where the hub cannot be reached.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from huggingface_hub import snapshot_download
from huggingface_hub.errors import (
    GatedRepoError,
    HFValidationError,
    LocalEntryNotFoundError,
    RepositoryNotFoundError,
)
from huggingface_hub.utils import validate_repo_id

from store.errors import ExportError

INDEX = ".index.json"
"""What the name of an index ends with: of large weights, it names the files that they are parted into."""
WEIGHTS = ("model.safetensors", f"model.safetensors{INDEX}", "pytorch_model.bin", f"pytorch_model.bin{INDEX}")
TOKENIZERS = ("tokenizer.json", "spiece.model")
FILES = (("config.json",), WEIGHTS, TOKENIZERS)
"""All that is read of a checkpoint: of each kind the first that it has, and the parts that it names."""
BESIDE = ("tokenizer_config.json", "special_tokens_map.json", "added_tokens.json")
"""What may stand beside a `spiece.model`: other sentinels, more tokens."""


def fetch(name: str) -> Path:
    """
    The folder of a checkpoint, fetched from the hub if it is none of this disk.

    Raises:
        ExportError: If it is neither here nor there, or cannot be fetched.
    """
    folder = Path(name)
    if folder.exists():
        return folder
    if not _may_be_repository(name):
        raise ExportError(f"{name} does not exist: give a checkpoint folder, or a name on the Hugging Face hub")
    try:
        fetched = _download(name)
    except GatedRepoError as error:
        raise ExportError(
            f"{name} is gated: accept its terms on its page of the Hugging Face hub, then hf auth login"
        ) from error
    except RepositoryNotFoundError as error:
        raise ExportError(
            f"{name} is neither a folder here nor on the Hugging Face hub, unless it is private: correct the name, "
            "or hf auth login"
        ) from error
    except LocalEntryNotFoundError as error:
        raise ExportError(
            f"{name} is no folder here, and the Hugging Face hub cannot be reached (or HF_HUB_OFFLINE is set): "
            "give a checkpoint folder, or connect"
        ) from error
    except (OSError, RuntimeError) as error:  # hf_xet's downloads fail with the latter
        reason = str(error).strip().partition("\n")[0] or type(error).__name__
        raise ExportError(
            f"{name} cannot be fetched from the Hugging Face hub ({reason}): try again, or give a checkpoint folder"
        ) from error
    for names in FILES:
        if not any((fetched / file).is_file() for file in names):
            raise ExportError(
                f"{name} has no {either(names)} on the Hugging Face hub, or in its cache here if that cannot be "
                "reached: give a checkpoint that has it"
            )
    return fetched


def name_of(folder: Path) -> str:
    """What a run's record calls a checkpoint: the repository that it was fetched from, or else its folder's name."""
    folder = folder.resolve()
    cached = folder.parents[1].name if folder.parent.name == "snapshots" else ""
    return cached.removeprefix("models--").replace("--", "/") if cached.startswith("models--") else folder.name


def either(names: Sequence[str]) -> str:
    """Files in words, one of which is enough."""
    return " or ".join(name for name in names if not name.endswith(INDEX))


def parts(index: Path) -> list[str]:
    """
    The names of the files beside an index that hold a model's weights.

    Raises:
        ExportError: If it is damaged, or leads elsewhere.
    """
    try:
        names = sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))
        beside = [name for name in names if Path(name).name == name and name.endswith((".safetensors", ".bin"))]
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ExportError(f"{index} is damaged, or no index of weights: give a whole checkpoint folder") from error
    if not names or beside != names:
        raise ExportError(f"{index} names no files of weights beside it: give a whole checkpoint folder")
    return names


def _may_be_repository(name: str) -> bool:
    parent = Path(name).parent
    if parent != Path() and parent.is_dir():
        return False
    try:
        validate_repo_id(name)
    except HFValidationError:
        return False
    return True


def _download(name: str) -> Path:
    """The folder of a repository with the first file of each kind that it has, and what belongs to that."""
    wanted = [names[0] for names in FILES]
    folder = Path(snapshot_download(name, allow_patterns=wanted))
    for names in FILES:
        for file in names[1:]:
            if any((folder / other).is_file() for other in names):
                break
            wanted += [file, *BESIDE] if file == TOKENIZERS[1] else [file]
            folder = Path(snapshot_download(name, allow_patterns=wanted))
            if file.endswith(INDEX) and (folder / file).is_file():
                wanted += parts(folder / file)
                folder = Path(snapshot_download(name, allow_patterns=wanted))
    return folder
