"""
The bundle on disk: a folder with `manifest.json`, `tokenizer.json`, `lower.onnx`, `upper.onnx` and what answers above
them: `span.onnx` in an extractive reader, `cross.onnx` and `decoder.onnx` in a generative one.

`manifest.json` says what the graphs are and carries the hash of every file. The fingerprint covers what decides the
stored bytes (lower graph, tokenizer, sizes, binarizer): a store keeps it and refuses another one.
"""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from store.errors import ModelError

FORMAT_VERSION = 4
MANIFEST = "manifest.json"
TOKENIZER, LOWER, UPPER, SPAN = "tokenizer.json", "lower.onnx", "upper.onnx", "span.onnx"
FULL, SPLIT_LOWER, SPLIT_UPPER = "full.onnx", "split-lower.onnx", "split-upper.onnx"
"""The readers to measure against, in bundles that were made with them."""
CROSS, DECODER = "cross.onnx", "decoder.onnx"
FULL_CROSS, FULL_DECODER, SPLIT_CROSS, SPLIT_DECODER = (
    f"{step}-{name}" for step in ("full", "split") for name in (CROSS, DECODER)
)
DECIDES_STORED_BITS = (
    "reader",
    "hidden_size",
    "split_layer",
    "bits",
    "code_bits",
    "binarizer",
    "passage_tokens",
    "heading_tokens",
)
REPAIR = "reinstall btr-assistant or export the bundle again"
"""What to do about a file that is not as it was made."""
READERS = ("extractive", "generative")
GRAPHS = {"extractive": (LOWER, UPPER, SPAN), "generative": (LOWER, UPPER, CROSS, DECODER)}
"""By reader; all but the first decide how it answers."""
FRAMES = {"extractive": (("[CLS]",), "[SEP]"), "generative": ((), "</s>")}
"""Special tokens by reader: what stands before a text, and what ends each of its parts."""
MOST_MERGED = 0.5
"""Largest runtime ratio: bipartite merging leaves every second token."""
SIZES = (
    "hidden_size", "split_layer", "upper_layers", "bits", "code_bits", "passage_tokens", "question_tokens",
    "heading_tokens",
)  # fmt: skip


@dataclass(frozen=True)
class Manifest:
    """What a bundle is."""

    format_version: int
    name: str
    reader: str
    """extractive or generative."""
    hidden_size: int
    """d."""
    split_layer: int
    """Layers in the lower graph."""
    upper_layers: int
    """Layers in the upper graph."""
    bits: int
    """m, stored bits per token."""
    code_bits: int
    """Bits of a passage code."""
    binarizer: str
    passage_tokens: int
    """Longest passage body the reader was trained on."""
    question_tokens: int
    """Longest question; a longer one is cut."""
    heading_tokens: int
    """Heading tokens that the lower graph sees before a passage."""
    offline_ratio: float | None
    """How far passages are compressed as they are indexed (`store.runs`): 0, common words alone; None, not at all."""
    null_logit: float
    """Score of "not in your notes" when answers are ranked."""
    temperature: float
    """Scores are divided by it before they become a confidence."""
    threshold: float
    """Smallest confidence that is given as an answer."""
    files: Mapping[str, str]
    """File name -> sha256."""
    licence: str
    provenance: Mapping[str, Any]
    """Checkpoint, data and training figures."""
    measured: Mapping[str, Any]
    """Figures measured when the bundle was made."""
    runtime_ratio: float = 0.0
    """Share of the tokens that a generative reader merges as it reads; 0 too where a bundle does not say."""

    @property
    def fingerprint(self) -> str:
        """16 hex digits over everything that decides the stored bits."""
        decided = {name: getattr(self, name) for name in DECIDES_STORED_BITS}
        decided["files"] = [self.files.get(LOWER), self.files.get(TOKENIZER)]
        return hashlib.sha256(json.dumps(decided, sort_keys=True).encode()).hexdigest()[:16]


def check_calibration(null_logit: float, temperature: float, threshold: float) -> None:
    """
    Refuse what is no calibration.

    Raises:
        ValueError: If a number is none or not finite, the temperature is not above 0, or the threshold not in 0..1.
    """
    for name, value in (("null_logit", null_logit), ("temperature", temperature), ("threshold", threshold)):
        if type(value) not in (int, float) or not abs(value) <= sys.float_info.max:  # not math.isfinite: 10**400 is too
            raise ValueError(f"a {name} of {value!r}, which is no number")
    if temperature <= 0 or not 0 <= threshold <= 1:
        raise ValueError(f"a temperature of {temperature:g} and a threshold of {threshold:g}, which cannot be")


def is_ratio(value: object) -> bool:
    """Whether it is a number that notes can be compressed by: at least 0 and less than 1."""
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value < 1


def write_manifest(folder: Path, manifest: Manifest) -> None:
    """Write `manifest.json` as the last file of a bundle."""
    (folder / MANIFEST).write_text(json.dumps(asdict(manifest), indent=2, sort_keys=True) + "\n", encoding="utf-8")


def read_manifest(folder: Path) -> Manifest:
    """
    Read and check `manifest.json`; the other files are checked by `verify`.

    Raises:
        ModelError: If the folder is no bundle, or one of another format.
    """
    path = folder / MANIFEST
    try:
        data = json.loads(path.read_bytes())
    except FileNotFoundError:
        raise ModelError(f"{folder} is not a bundle, it has no {MANIFEST}: give another --bundle") from None
    except (OSError, ValueError, RecursionError) as error:
        raise ModelError(f"{path} cannot be read ({error}): export the bundle again") from error
    if not isinstance(data, dict):
        raise ModelError(f"{path} is not a JSON object: export the bundle again")
    version = data.get("format_version")
    if version != FORMAT_VERSION:
        raise ModelError(f"{path} has format {version!r}, this version knows {FORMAT_VERSION}: export the bundle again")
    names = {field.name for field in fields(Manifest)}
    if names != {"runtime_ratio", *data}:
        odd = ", ".join(sorted(names ^ {"runtime_ratio", *data}))
        raise ModelError(f"{path} has missing or unknown entries ({odd}): export the bundle again")
    manifest = Manifest(**data)
    for name in SIZES:
        value = getattr(manifest, name)
        if type(value) is not int or value <= 0:
            raise ModelError(f"{path} says {name} is {value!r}, not a positive number: export the bundle again")
    needed = {TOKENIZER, *GRAPHS.get(str(manifest.reader), ())}
    if not isinstance(manifest.files, dict) or not needed <= set(manifest.files):
        raise ModelError(f"{path} does not list the files of a bundle: export the bundle again")
    try:
        check_calibration(manifest.null_logit, manifest.temperature, manifest.threshold)
    except ValueError as error:
        raise ModelError(f"{path} has {error}: export the bundle again") from error
    if manifest.offline_ratio is not None and not is_ratio(manifest.offline_ratio):
        raise ModelError(f"{path} says offline_ratio is {manifest.offline_ratio!r}, no ratio: export the bundle again")
    if not is_ratio(manifest.runtime_ratio) or manifest.runtime_ratio > MOST_MERGED:
        raise ModelError(f"{path} says runtime_ratio is {manifest.runtime_ratio!r}, no ratio: export the bundle again")
    if not isinstance(manifest.name, str):
        raise ModelError(f"{path} has a name that is no text: export the bundle again")
    if manifest.reader not in READERS or manifest.bits % 8 or manifest.code_bits % 8:
        raise ModelError(f"{path} describes a reader that this version cannot run: export the bundle again")
    return manifest


def file_hash(path: Path) -> str:
    """The sha256 of a file, in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def damaged(folder: Path, manifest: Manifest) -> dict[str, str]:
    """What is wrong with each file of a bundle that is not as it was made."""
    found: dict[str, str] = {}
    for name, expected in manifest.files.items():
        path = folder / name
        if not path.is_file():
            found[name] = "is missing"
        elif file_hash(path) != expected:
            found[name] = "is damaged, its hash differs"
    return found


def verify(folder: Path, manifest: Manifest) -> None:
    """
    Check every file of a bundle against its hash.

    Raises:
        ModelError: If a file is missing or differs.
    """
    for name, what in damaged(folder, manifest).items():
        raise ModelError(f"{folder / name} {what}: {REPAIR}")
