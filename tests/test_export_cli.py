"""`btr-export` where it cannot even begin."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
WITHOUT_EXTRA = """
import sys
for name in "huggingface_hub onnx optimum safetensors torch tqdm transformers".split():
    sys.modules[name] = None  # as if it were not installed
sys.argv[0] = "btr-export"
from export.cli import main
main()
"""


def test_without_the_export_extra_it_says_how_to_get_it_and_writes_nothing(tmp_path: Path) -> None:
    command = [sys.executable, "-c", WITHOUT_EXTRA, "bundle", str(tmp_path / "run"), str(tmp_path / "bundle")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stdout) == (4, "")
    assert done.stderr.startswith("btr-export: optimum") and done.stderr.count("\n") == 1
    assert done.stderr.endswith(" is not installed: pip install 'btr-assistant[export]'\n")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("asked", [["--help"], ["train", "-h"], ["bundle", "--help"]])
def test_help_needs_no_extra(asked: list[str]) -> None:
    command = [sys.executable, "-c", WITHOUT_EXTRA, *asked]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith(" ".join(["Usage: btr-export", *asked[:-1]]))
