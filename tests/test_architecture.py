"""What imports what: the layers of pyproject.toml, and how little a fresh interpreter loads before it is needed."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
HEAVY = set(
    "torch transformers optimum textual onnxruntime tokenizers sqlite_utils markdown_it pypdfium2 mammoth "
    "pathspec watchfiles aiohttp mcp".split()
)

ASK = """
import sys
from app.cli import main
sys.argv = ["btr-assistant", "ask", "Where is the ladder?"]
try:
    main()
except SystemExit as exit:
    assert exit.code in (0, 1), exit.code
"""


def loaded(code: str) -> set[str]:
    """Top-level modules in a fresh interpreter after some code; nothing of this process leaks into it."""
    code += "\nimport sys; sys.stderr.write('\\n' + ' '.join({name.partition('.')[0] for name in sys.modules}))"
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("COV", "PYTHON"))}
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, env=environment, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    return set(done.stderr.splitlines()[-1].split())


@pytest.mark.parametrize("module", ["app.cli", "app.places", "store.errors", "store.bundle"])
def test_what_every_command_loads_is_light(module: str) -> None:
    assert not loaded(f"import {module}") & (HEAVY | {"numpy", "yaml", "filelock"})


@pytest.mark.parametrize("module", ["store.codec", "store.tokens"])
def test_the_store_needs_numpy_and_nothing_heavier_to_be_read(module: str) -> None:
    modules = loaded(f"import {module}")
    assert "numpy" in modules
    assert not modules & (HEAVY | {"click", "app"})


def test_the_help_of_the_command_line_loads_nothing_heavy() -> None:
    code = "import sys; from app.cli import cli\ncli.main(['ask', '--help'], standalone_mode=False)"
    assert not loaded(code) & (HEAVY | {"numpy"})


def test_a_question_loads_neither_the_chat_nor_what_only_writing_needs(notes: Path) -> None:
    (notes / "a.md").write_text("The ladder stands behind the shed.")
    index = f"from app.cli import main; import sys; sys.argv = ['x', 'index', {str(notes)!r}]; main()"
    done = subprocess.run([sys.executable, "-c", index], cwd=ROOT, capture_output=True)
    assert done.returncode == 0, done.stderr
    modules = loaded(ASK)
    assert "onnxruntime" in modules
    assert not modules & (HEAVY - {"onnxruntime", "tokenizers"} | {"filelock", "yaml"})
    assert "semantic_text_splitter" not in modules


def test_the_layers_hold() -> None:
    """The contracts of pyproject.toml, as `make check` runs them."""
    pytest.importorskip("importlinter")
    code = "from importlinter.cli import lint_imports_command; lint_imports_command(['--no-cache'])"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "0 broken" in done.stdout


@pytest.mark.parametrize("package", ["app", "store", "export"])
def test_no_module_talks_to_the_network(package: str) -> None:
    """No module of ours but two imports a network library, not even inside a function."""
    network = set("socket ssl http urllib urllib3 requests httpx aiohttp ftplib smtplib huggingface_hub".split())
    for path in (ROOT / package).rglob("*.py"):
        if path in (ROOT / "app" / "serve.py", ROOT / "export" / "hub.py"):
            continue  # the one that listens, the one that fetches
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom):
                names = [node.module or ""]
            assert not {name.partition(".")[0] for name in names} & network, path


@pytest.mark.parametrize("package", ["app", "store"])
def test_every_module_opens_with_its_decision(package: str) -> None:
    for path in (ROOT / package).rglob("*.py"):
        assert ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))), path
