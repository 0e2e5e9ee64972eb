"""The bundle at work: opened only when whole, tokens that point into the text, the same bytes for the same passage."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from app.bundle import Bundle, devices
from app.places import EMBEDDED_BUNDLE
from store.bundle import LOWER, MANIFEST, SPAN, TOKENIZER, UPPER, file_hash
from store.errors import ModelError, UsageError

TEXT = "The boiler in the cellar was serviced on 14 March 2024 by Hansen & Son. 🐝 naïve cafe\u0301"


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """A bundle that may be damaged."""
    return Path(shutil.copytree(EMBEDDED_BUNDLE, tmp_path / "bundle"))


def change(copy: Path, **entries: object) -> None:
    """Other entries in a bundle's manifest."""
    manifest = json.loads((copy / MANIFEST).read_text())
    (copy / MANIFEST).write_text(json.dumps(manifest | entries))


def flip_a_byte(path: Path) -> None:
    """One bit in the middle of a file is other than it was."""
    with path.open("r+b") as file:
        file.seek(path.stat().st_size // 2)
        byte = file.read(1)[0]
        file.seek(-1, 1)
        file.write(bytes([byte ^ 1]))


@pytest.mark.parametrize("name", [LOWER, UPPER, TOKENIZER])
def test_a_damaged_file_is_refused(copy: Path, name: str) -> None:
    flip_a_byte(copy / name)
    with pytest.raises(ModelError, match=f"{name} is damaged, its hash differs: reinstall btr-assistant or export"):
        Bundle.open(copy)


@pytest.mark.parametrize("name", [LOWER, UPPER, TOKENIZER])
def test_a_missing_file_is_refused(copy: Path, name: str) -> None:
    (copy / name).unlink()
    with pytest.raises(ModelError, match=f"{name} is missing: reinstall btr-assistant or export"):
        Bundle.open(copy)


def test_a_graph_that_is_whole_but_no_graph_is_refused_when_it_is_used(copy: Path) -> None:
    (copy / LOWER).write_bytes(b"no graph")
    hashes = {name: file_hash(copy / name) for name in (LOWER, UPPER, SPAN, TOKENIZER)}
    change(copy, files=hashes)
    with pytest.raises(ModelError, match=r"lower.onnx cannot be loaded .*: export the bundle again"):
        Bundle.open(copy).encode_question("Where?")


def test_a_generative_bundle_without_its_graphs_is_refused(copy: Path) -> None:
    change(copy, reader="generative")
    with pytest.raises(ModelError, match="does not list the files of a bundle"):
        Bundle.open(copy)


def test_an_absent_device_is_refused_with_those_present() -> None:
    with pytest.raises(UsageError, match=r"device warp is not present, ONNX Runtime offers: .*cpu"):
        Bundle.open(EMBEDDED_BUNDLE, "warp")
    assert devices()["cpu"] == "CPUExecutionProvider"
    assert "azure" not in devices()


def test_tokens_point_into_the_text(bundle: Bundle) -> None:
    tokens = bundle.tokenize(TEXT)
    assert len(tokens.ids) == len(tokens.offsets)
    first, last = tokens.offsets[0], tokens.offsets[10]
    assert TEXT[slice(*first)] == "The"
    assert "14 March 2024" in TEXT[first[0] : tokens.offsets[12][1]]
    assert all(0 <= a < b <= len(TEXT) for a, b in tokens.offsets)
    assert last[0] >= first[1]


def test_a_passage_is_never_longer_than_the_reader_knows(bundle: Bundle) -> None:
    limit = bundle.manifest.passage_tokens
    assert len(bundle.tokenize("word " * 1000).ids) == limit
    assert bundle.encode_passage("heading " * 1000, "word " * 1000).tokens == limit


def test_a_passage_has_the_bytes_that_the_manifest_promises(bundle: Bundle) -> None:
    encoded = bundle.encode_passage("Boiler", TEXT)
    assert encoded.tokens == len(bundle.tokenize(TEXT).ids)
    assert len(encoded.bits) == encoded.tokens * bundle.manifest.bits // 8
    assert len(encoded.scale) == 2 * encoded.tokens
    assert len(encoded.code) == bundle.manifest.code_bits // 8


def test_a_heading_matters_to_the_bits(bundle: Bundle) -> None:
    assert bundle.encode_passage("Boiler", TEXT) != bundle.encode_passage("", TEXT)


def test_a_passage_is_the_same_from_any_thread_and_from_a_second_bundle(bundle: Bundle) -> None:
    expected = bundle.encode_passage("Boiler", TEXT)
    with ThreadPoolExecutor(4) as pool:
        assert set(pool.map(lambda _: bundle.encode_passage("Boiler", TEXT), range(8))) == {expected}
    assert Bundle.open(EMBEDDED_BUNDLE, threads=1).encode_passage("Boiler", TEXT) == expected


def test_a_question_is_cut_to_the_longest_that_the_reader_knows(bundle: Bundle) -> None:
    manifest = bundle.manifest
    encoded = bundle.encode_question("word " * 5000)
    assert encoded.ids.shape == (1, manifest.question_tokens + 2)
    assert encoded.states.shape == (1, manifest.question_tokens + 2, manifest.hidden_size)
    assert encoded.code.shape == (manifest.code_bits,)


@pytest.mark.parametrize("question", ["", "?", "🐝", "\0", "x" * 10_000])
def test_any_question_is_encoded(bundle: Bundle, question: str) -> None:
    encoded = bundle.encode_question(question)
    assert np.isfinite(encoded.states).all()
    assert np.isfinite(encoded.code).all()


def test_a_heading_without_an_end_is_cut_as_a_long_one_is(bundle: Bundle) -> None:
    long = " > ".join(["Boiler", *(f"part {i}" for i in range(60))])
    assert bundle.heading_text(long) == bundle.heading_text(
        " > ".join(["Boiler", *(f"part {i}" for i in range(30, 60))])
    )
    words = "very " * 100_000
    assert bundle.surround(words) == bundle.surround("very " * 100)


@pytest.mark.parametrize("typed", ["what is slack", "what is slack ", "what is slack?", " what is slack ?"])
def test_a_question_reads_the_same_without_its_question_mark(bundle: Bundle, typed: str) -> None:
    whole = bundle.encode_question("what is slack?")
    assert bundle.encode_question(typed).ids.tolist() == whole.ids.tolist()
    said, asked = bundle.encode_question("Slack is a thing."), bundle.encode_question("Slack is a thing")
    assert said.ids.tolist() != asked.ids.tolist()


@pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="the system does not tell")
def test_numpy_has_one_thread_unless_the_environment_says_otherwise() -> None:
    """A second one spins after each product, and takes its core from the passages."""
    code = "import app, numpy, os; a = numpy.ones((500, 500)); a @ a; print(len(os.listdir('/proc/self/task')))"
    environment = {name: value for name, value in os.environ.items() if name != "OPENBLAS_NUM_THREADS"}
    for more, threads in (({}, "1\n"), ({"OPENBLAS_NUM_THREADS": "2"}, f"{min(2, len(os.sched_getaffinity(0)))}\n")):
        done = subprocess.run([sys.executable, "-c", code], env=environment | more, capture_output=True, text=True)
        assert done.stdout == threads
