"""The bundle's manifest: what it refuses, and what its fingerprint covers."""

import json
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from store.bundle import LOWER, SPAN, UPPER, Manifest, file_hash, read_manifest, verify, write_manifest
from store.errors import ModelError


def manifest(folder: Path) -> Manifest:
    """The smallest bundle folder: three graphs that are no graphs, a tokenizer, a manifest."""
    for name in (LOWER, UPPER, SPAN, "tokenizer.json"):
        (folder / name).write_bytes(name.encode())
    made = Manifest(
        format_version=4,
        name="tiny",
        reader="extractive",
        hidden_size=32,
        split_layer=2,
        upper_layers=1,
        bits=16,
        code_bits=32,
        binarizer="residual",
        passage_tokens=64,
        question_tokens=16,
        heading_tokens=8,
        offline_ratio=0.0,
        null_logit=0.0,
        temperature=1.0,
        threshold=0.5,
        files={path.name: file_hash(path) for path in sorted(folder.iterdir())},
        licence="Apache-2.0",
        provenance={},
        measured={},
    )
    write_manifest(folder, made)
    return made


def test_a_written_manifest_reads_back_equal(tmp_path: Path) -> None:
    made = manifest(tmp_path)
    assert read_manifest(tmp_path) == made
    verify(tmp_path, made)


def test_the_fingerprint_covers_what_decides_the_bits_and_nothing_else(tmp_path: Path) -> None:
    made = manifest(tmp_path)
    assert len(made.fingerprint) == 16
    for same in (
        replace(made, name="other", measured={"f1": 1}, null_logit=2.0, temperature=3.0, threshold=0.1),
        replace(made, offline_ratio=None),
        replace(made, runtime_ratio=0.2),
        replace(made, files={**made.files, UPPER: "0"}),
    ):
        assert same.fingerprint == made.fingerprint
    for different in (
        replace(made, bits=8),
        replace(made, heading_tokens=4),
        replace(made, files={**made.files, LOWER: "0"}),
    ):
        assert different.fingerprint != made.fingerprint


def test_a_folder_without_a_manifest_is_no_bundle(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="is not a bundle"):
        read_manifest(tmp_path)


@pytest.mark.parametrize("text", ["", "[]", "{", "null", '"x"', "\x00\xff"])
def test_garbage_for_a_manifest_is_one_sentence(tmp_path: Path, text: str) -> None:
    (tmp_path / "manifest.json").write_text(text, encoding="latin-1")
    with pytest.raises(ModelError, match="export the bundle again"):
        read_manifest(tmp_path)


@pytest.mark.parametrize(
    ("entry", "value"),
    [
        ("format_version", 1),
        ("bits", 12),
        ("bits", "16"),
        ("reader", "oracle"),
        ("split_layer", 0),
        ("extra", 1),
        ("files", []),
        ("files", {}),
        ("null_logit", "0"),
        ("temperature", 0),
        ("threshold", None),
        ("threshold", 2),
        ("null_logit", float("nan")),
        ("heading_tokens", -1),
        ("bits", True),
        ("name", None),
        ("offline_ratio", 1),
        ("offline_ratio", -0.1),
        ("offline_ratio", "0"),
        ("offline_ratio", True),
        ("offline_ratio", float("nan")),
        ("runtime_ratio", 0.6),
        ("runtime_ratio", -0.1),
        ("runtime_ratio", None),
    ],
)
def test_an_entry_that_cannot_be_is_refused(tmp_path: Path, entry: str, value: object) -> None:
    changed = {**asdict(manifest(tmp_path)), entry: value}
    (tmp_path / "manifest.json").write_text(json.dumps(changed))
    with pytest.raises(ModelError, match="export the bundle again"):
        read_manifest(tmp_path)


def test_a_bundle_that_says_nothing_of_merging_merges_nothing(tmp_path: Path) -> None:
    """As none did before there was the entry."""
    entries = asdict(replace(manifest(tmp_path), runtime_ratio=0.2))
    del entries["runtime_ratio"]
    (tmp_path / "manifest.json").write_text(json.dumps(entries))
    assert read_manifest(tmp_path).runtime_ratio == 0


def test_a_damaged_or_missing_file_is_named(tmp_path: Path) -> None:
    made = manifest(tmp_path)
    (tmp_path / UPPER).write_bytes(b"other")
    with pytest.raises(ModelError, match=r"upper\.onnx is damaged"):
        verify(tmp_path, made)
    (tmp_path / UPPER).unlink()
    with pytest.raises(ModelError, match=r"upper\.onnx is missing"):
        verify(tmp_path, made)
