"""
Anything at all as input: documents, front matter, questions, filters, manifests, settings and store files.

    python -m tests.fuzz --cases 100000 [--seed N] [--only TARGET] [--batch N]

A target is a Hypothesis strategy and a check that runs the program on what the strategy draws. Only errors of our own
may come out, each with a sentence, and nothing may take longer than a few seconds. The test suite draws a few hundred
cases of each target and has Hypothesis shrink what fails; the command draws as many as it is told to in numbered
batches, which `--batch` goes on from, and prints every distinct failure with an input that causes it.
"""

# ruff: noqa: E501  (tables of odd input, one row a kind)
from __future__ import annotations

import faulthandler
import json
import shutil
import signal
import sqlite3
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from threading import Event
from typing import Any

import click
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st

from app.assistant import Assistant
from app.bundle import Bundle
from app.calibration import in_force
from app.cli_ask import _open_lines, _questions
from app.compaction import Compressor
from app.doctor import examine
from app.documents import DocumentError, ParserError
from app.evaluation import load_questions
from app.forget import choose, forget
from app.formats import FORMATS
from app.formats.base import encodable
from app.indexer import _process, index
from app.passages import PassageSplitter
from app.places import Places, read_config
from app.scope import parse_scope
from app.tree import scan
from app.verify import findings, reencode
from store import upkeep
from store.bundle import MANIFEST, read_manifest
from store.errors import BtrError
from store.scope import Dates, Field, Folder, Not, Scope, Tag
from store.search import fts_query
from store.tokens import TokenStore
from tests.pdfs import pdf

CPU_SECONDS, SECONDS = 5.0, 60.0
"""What one case may take: far more than any does on a slow machine."""
BATCH = 500


class Hang(AssertionError):
    """A case that took too long."""


@contextmanager
def limit() -> Iterator[None]:
    """Raise `Hang` in a block that does not end."""

    def stop(*_: object) -> None:
        raise Hang(f"more than {CPU_SECONDS:g} s of work, or {SECONDS:g} s")

    before = {number: signal.signal(number, stop) for number in (signal.SIGPROF, signal.SIGALRM)}
    signal.setitimer(signal.ITIMER_PROF, CPU_SECONDS)
    signal.setitimer(signal.ITIMER_REAL, SECONDS)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.setitimer(signal.ITIMER_REAL, 0)
        for number, handler in before.items():
            signal.signal(number, handler)


# what is drawn

ODD = st.sampled_from(
    [
        "",
        " ",
        "\0",
        "\ud800",
        "\udcff",
        "\ufeff",
        "\u2028",
        "\x85",
        "\r",
        "\x1b[2J",
        "🐝",
        "e\u0301",
        "ﬁ",
        "İ",
        "ß",
        "٣",
        "²",
        "𝟚",
    ]
)
TEXT = st.one_of(st.text(max_size=60), st.lists(st.one_of(ODD, st.text(max_size=8)), max_size=12).map("".join))
NUMBERS = st.sampled_from(
    ["9" * 5000, "1e999", "-1e999", "NaN", "-0", "0x" + "f" * 5000, "1_0", ".inf", "1:" * 400 + "1"]
)
FRAGMENTS: dict[str, list[str]] = {
    "markdown": "%% <!-- --> <% %> [[ ]] [ ] ( ) ]( | ! ` ``` ```dataview ~~~ # ## > > [!note] \\ ^id #tag [a]: {{date}} "
    "*** - 1. :: &amp; &#0; &#x110000; --- ... <div> </p> <a href=' |---|".split(" "),
    "text": ["Chapter", "===", "\f"],
    "rst": ".. _ :: :ref:` ` === --- ~~~ ``` .. code:: ** * |x| [1]_ :field: .. image:: +--+".split(" "),
    "org": "* ** #+TITLE: #+BEGIN_SRC #+END_SRC :PROPERTIES: :END: [[a][ ]] # | - TODO :tag: #+FILETAGS: <2024-01-01>".split(" "),
    "html": "<p> </p> <table> <tr> <td colspan=99999999> <script> </script> <h1> </h1> <!-- --> <![CDATA[ &#0; &lt; <br/> "
    "<div hidden> <pre> <style> <title> </title> <meta charset=utf-16> <li> <template> <svg> <a".split(" "),
    "mail": ["From: ", "To: a@b", "Date: ", "Subject: =?utf-8?b?", "?=", "Content-Type: multipart/mixed; boundary=x", "--x", "--x--",
             "Content-Type: text/html; charset=", "Content-Type: text/plain; charset=utf-7", "Content-Transfer-Encoding: base64",
             "Content-Transfer-Encoding: quoted-printable", "\n\n", "From a Mon Jan 1 00:00:00 2024", "-- ", "=3D=", "Content-Type: message/rfc822",
             "Content-Type: multipart/alternative; boundary*0=", "Date: Mon, 99 Jan 99999 25:61:61 +9999", "charset=idna", "charset=hex"],
    "notebook": ['{"cells":[', "]", "}", ",", '{"cell_type":"markdown","source":[', '"# a\\n"', '{"cell_type":"code","source":"x"', '"\\ud800"',
                 '"metadata":{"language_info":{"name":"a"}}', '"worksheets":[]', "null", "[" * 300],
    "pdf": ["%PDF-1.4", "1 0 obj", "<<", ">>", "/Type /Catalog", "/Pages 2 0 R", "stream", "endstream", "xref", "trailer", "%%EOF", "/Length 99999999"],
    "docx": ["PK\x03\x04", "word/document.xml", "<w:p>"],
}  # fmt: skip
YAML = st.sampled_from(
    ["---\n", "a: ", "title: ", "tags: ", "date: ", "created: ", "- ", "[", "]", "{", "}", ", ", "\n", "  ", "&a ", "*a", "!!python/object:os.system ",
     "!!binary ", "!!set ", "!!timestamp ", "!!float ", "!!omap ", "? ", "| ", "> ", "<<: ", "2024-02-30", "2024-01-01T00:00:00+99:99", "~", "yes", '"', "'", "%YAML 9.9\n",
     "0001-01-01", "99999-01-01", "20241301", "tag: [[1, {b: c}]]\n", "1: 2\n", "null: x\n", "{a: b}: c\n", "x" * 300, "  - - - -"]
)  # fmt: skip


def _mail() -> bytes:
    return (
        b"From: Jane <jane@example.org>\nTo: bob@example.org\nDate: Fri, 14 Mar 2025 09:30:00 +0100\nSubject: =?utf-8?q?Boiler?=\n"
        b"MIME-Version: 1.0\nContent-Type: multipart/alternative; boundary=x\n\n--x\nContent-Type: text/plain; charset=utf-8\n"
        b"Content-Transfer-Encoding: quoted-printable\n\nThe boiler =3D fine.\n-- \nJane\n--x\nContent-Type: text/html\n\n<p>The boiler</p>\n--x--\n"
    )


def _samples() -> dict[str, list[bytes]]:
    """Sound files of the formats that nobody writes by hand, to be damaged."""
    from tests.test_docx import docx, paragraph
    from tests.test_notebook import cell, notebook

    table = "<w:tbl><w:tr><w:tc>" + paragraph("cell") + "</w:tc></w:tr></w:tbl>"
    return {
        "pdf": [pdf([["The boiler", "", "was serviced"], None], "/Title (Boiler)", [("Start", 0)]), pdf([["x"]], password=b"p")],
        "docx": [docx(paragraph("Boiler", "Heading1") + paragraph("was serviced") + table, "A title")],
        "notebook": [notebook(cell("markdown", ["# Boiler\n", "text"]), cell("code", "print(1)"))],
        "mail": [_mail(), b"From a@b Fri Mar 14 09:30:00 2025\n" + _mail() + b"\nFrom a@b Fri Mar 14 09:31:00 2025\n" + _mail()],
        "html": [b"<html><head><title>A</title></head><body><h1>Boiler</h1><p>was <b>serviced</b></p><table><tr><td>1</td></tr></table></body></html>"],
    }  # fmt: skip


_CHANGES = st.lists(
    st.tuples(
        st.sampled_from(["flip", "put", "drop", "copy", "cut"]),
        st.floats(0, 1, exclude_max=True),
        st.integers(1, 40),
        st.one_of(
            st.binary(max_size=4), st.sampled_from([b"\xff" * 4, b"\0" * 4, b"99999999999", b"-1", b"<", b"[" * 50])
        ),
    ),
    min_size=1,
    max_size=8,
)


def changed(data: bytes, changes: list[tuple[str, float, int, bytes]]) -> bytes:
    """Bytes with some of them flipped, put in, left out, doubled, or cut off."""
    for kind, where, length, piece in changes:
        at = int(where * len(data))
        if kind == "flip" and data:
            data = data[:at] + bytes([data[at] ^ (1 << length % 8)]) + data[at + 1 :]
        elif kind == "put":
            data = data[:at] + piece + data[at:]
        elif kind == "drop":
            data = data[:at] + data[at + length :]
        elif kind == "copy":
            data = data[: at + length] + data[at:]
        elif kind == "cut":
            data = data[:at]
    return data


JSON = st.recursive(
    st.one_of(
        st.none(), st.booleans(), st.integers(), st.floats(), TEXT, st.sampled_from([10**400, -(10**400), 2**63, "../../x", "\0", 0, 1e-320])
    ),
    lambda inner: st.one_of(st.lists(inner, max_size=4), st.dictionaries(TEXT, inner, max_size=4)),
    max_leaves=8,
)  # fmt: skip


def _documents(module: str, samples: list[bytes]) -> st.SearchStrategy[bytes]:
    fragment = st.one_of(
        st.sampled_from(FRAGMENTS[module]), st.sampled_from(["word", "\n", " ", "\n\n", "\r\n"]), ODD, NUMBERS
    )
    pieces = st.lists(st.one_of(fragment, TEXT), max_size=25)
    joined = st.builds(lambda space, found: space.join(found), st.sampled_from(["", " ", "\n"]), pieces)
    repeated = st.builds(
        lambda piece, times: piece * times, fragment.filter(lambda text: len(text) < 99), st.integers(2, 2000)
    )
    encoded = st.builds(
        lambda text, encoding: text.encode(encoding, "replace"),
        st.one_of(joined, joined, repeated),
        st.sampled_from(["utf-8", "utf-8", "utf-16", "latin-1", "cp1251", "utf-8-sig", "shift_jis"]),
    )
    drawn = [encoded, encoded, st.binary(max_size=300)]
    if module == "notebook":
        cells = st.lists(
            st.fixed_dictionaries(
                {
                    "cell_type": st.sampled_from(["markdown", "code", 1]),
                    "source": st.one_of(TEXT, st.lists(st.one_of(TEXT, JSON)), JSON),
                }
            ),
            max_size=4,
        )
        whole = st.fixed_dictionaries(
            {"cells": st.one_of(cells, cells, JSON)},
            optional={"metadata": st.one_of(JSON, st.fixed_dictionaries({"title": JSON, "language_info": JSON}))},
        )
        drawn += [
            whole.map(lambda value: json.dumps(value).encode()),
            st.builds(lambda number: b'{"cells": [], "x": ' + number.encode() + b"}", NUMBERS),
        ]
    if samples:
        drawn += 3 * [st.builds(changed, st.sampled_from(samples), _CHANGES)]
    return st.one_of(drawn)


_JSON_BYTES = st.one_of(
    JSON.map(lambda value: json.dumps(value).encode()),
    st.binary(max_size=60),
    st.sampled_from(
        [
            b"[" * 100_000,
            b'{"a":' * 100_000,
            b"9" * 5000,
            b'{"format_version": ' + b"9" * 5000 + b"}",
            b"\xef\xbb\xbf{}",
        ]
    ),
)
_TERMS = st.one_of(
    st.builds(
        lambda minus, name, value, quoted: f'{minus}{name}:"{value}"' if quoted else f"{minus}{name}:{value}",
        st.sampled_from(["", "", "-", "--"]),
        st.one_of(st.sampled_from(["folder", "tag", "tags", "date", "DATE", "author", "a.b", "'"]), TEXT),
        st.one_of(TEXT, st.sampled_from(["~", "~nobody/x", "/", "//", ".", "..", "\\", "2025", "2025-02-30", "2025..", "..", "0000", "9999-12-31", "٢٠٢٥", "%", "_", "a' OR 1=1"])),
        st.booleans(),
    ),
    TEXT,
)  # fmt: skip
FILTERS = st.one_of(
    st.lists(_TERMS, max_size=5).map(" ".join),
    st.builds(lambda term, times: " ".join([term] * times), st.sampled_from(["tag:a", "-tag:a", "folder:b", "date:2025", "a:b"]), st.integers(2, 3000)),
)  # fmt: skip
_WHOLE = TEXT.map(encodable)
_CONDITIONS = st.one_of(
    st.builds(Folder, _WHOLE, st.booleans()),
    st.builds(Tag, _WHOLE),
    st.builds(Field, _WHOLE, _WHOLE),
    st.builds(Dates, st.sampled_from(["2024-01-01", None, "x"]), st.sampled_from(["2025-01-01", "x"])),
)
SCOPES = st.lists(st.one_of(_CONDITIONS, st.builds(Not, _CONDITIONS)), max_size=6).map(
    lambda found: Scope(tuple(found))
)
_WORDS = st.sampled_from(
    "boiler pear when who AND OR NOT NEAR( ) \" ' * ^ : { } - + column: heading:boiler rowid ? 5433 a.b c++ -- ; /* \\ % _".split()
)
QUESTIONS = st.one_of(
    TEXT,
    st.lists(st.one_of(_WORDS, TEXT), max_size=12).map(" ".join),
    st.builds(lambda text, times: text * times, st.one_of(_WORDS, ODD, st.text(max_size=3)), st.integers(1, 11_000)),
)
_VALUES = st.one_of(
    st.sampled_from([None, "", "x", "{}", "[[0,0,0,0]]", "[[1]]", "[1", "[" * 5000, b"", b"\xff\xfe", b"\0" * 64, 0, -1, 2**62, -(2**63), 1.5, 1e300, float("inf"), "9" * 5000]),
    st.text(max_size=5),
)  # fmt: skip
_COLUMNS = {
    "documents": "id source_id path content_hash size mtime_ns title metadata folder date deleted_at".split(),
    "passages": "id document_id start end line page heading text tokens code anchors".split(),
    "token_bits": "passage_id bits scale".split(),
    "settings": "key value".split(),
    "sources": "id root".split(),
    "failures": "path source_id reason".split(),
    "fields": "name value document_id".split(),
    "passages_fts_data": ["block"],
    "passages_fts_config": ["v"],
    "passages_fts_docsize": ["sz"],
    "_sqlite_migrations": ["name", "applied_at"],
}
_PRAGMAS = [
    "user_version = 0",
    "user_version = 2",
    "user_version = 99",
    "user_version = -1",
    "application_id = 0",
    "journal_mode = DELETE",
]
_SQL = st.one_of(
    st.sampled_from([(table, column) for table, columns in _COLUMNS.items() for column in columns]).flatmap(
        lambda where: st.tuples(st.just("set"), st.just(where), _VALUES, st.booleans())
    ),
    st.tuples(st.just("drop"), st.sampled_from([*_COLUMNS, "passages_fts"]), st.none(), st.none()),
    st.tuples(st.just("empty"), st.sampled_from(list(_COLUMNS)), st.none(), st.none()),
    st.tuples(st.just("rename"), st.sampled_from([(t, c) for t, cs in _COLUMNS.items() for c in cs]), st.none(), st.none()),
    st.tuples(st.just("pragma"), st.sampled_from(_PRAGMAS), st.none(), st.none()),
)  # fmt: skip
USES = (
    "open",
    "ask",
    "search",
    "status",
    "verify",
    "doctor",
    "backup",
    "restore",
    "index",
    "forget",
    "cleanup",
    "identify",
)
_BYTES = st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.integers(0, 255)), min_size=1, max_size=12)
_STORE_CHANGES = st.one_of(
    st.lists(_SQL, min_size=1, max_size=3).map(lambda found: ("sql", found)),
    _BYTES.map(lambda found: ("bytes", found)),
    _BYTES.map(lambda found: ("header", found)),
    st.floats(0, 1).map(lambda where: ("cut", where)),
    st.tuples(st.floats(0, 1, exclude_max=True), st.floats(0, 1, exclude_max=True)).map(lambda found: ("page", found)),
    st.binary(max_size=200).map(lambda data: ("whole", data)),
)
STORES = st.tuples(st.sampled_from(USES), _STORE_CHANGES)


# what it is given to


class Fuzz:
    """A folder with a small store and a bundle, and the checks of all targets over them."""

    def __init__(self, folder: Path, bundle: Path) -> None:
        self.folder, self.bundle = folder, Bundle.open(bundle, threads=1)
        self.notes = folder / "my notes"
        (self.notes / "work").mkdir(parents=True)
        for number in range(6):
            text = f"---\ntags: [a, b/{number}]\nauthor: Jane\ndate: 2025-0{number + 1}-01\n---\n# Boiler {number}\n\n"
            (self.notes / f"work/{number}.md").write_text(
                text + "The boiler was serviced by hansen. " * (4 * number + 1)
            )
        (self.notes / "broken.md").write_bytes(b"\0")
        (self.notes / "gone.md").write_text("The pear tree.")
        manifest = self.bundle.manifest
        with TokenStore.create(folder / "store.db", manifest.fingerprint, manifest.name) as store:
            index(store, self.bundle, [self.notes])
            (self.notes / "gone.md").unlink()
            index(store, self.bundle, [self.notes], allow_deletions=True)
            store.put_setting(
                "calibration", json.dumps({"null_logit": 1, "temperature": 1, "threshold": 0, "reader": "x"})
            )
        self._store = (folder / "store.db").read_bytes()
        self._used = [at for at, byte in enumerate(self._store) if byte]
        self._manifest = json.loads((bundle / MANIFEST).read_bytes())
        self._compressor = Compressor(self.bundle, [0.2])
        self._splitter = PassageSplitter(self.bundle.tokenizer, manifest.passage_tokens)
        self._scratch = TokenStore.create(folder / "scratch.db", manifest.fingerprint, manifest.name)
        self._scratch._connection.execute("PRAGMA synchronous = OFF")
        self._source = self._scratch.add_source(str(folder))
        self._assistant = Assistant.open(Places(folder / "store.db", bundle, "cpu", folder))
        self.targets = self._targets()

    def close(self) -> None:
        """Close what is open."""
        self._assistant.close()
        self._scratch.close()

    def _targets(self) -> dict[str, tuple[st.SearchStrategy[Any], Callable[[Any], None]]]:
        """Name -> what is drawn, and what is done with it."""
        samples = _samples()
        found: dict[str, tuple[st.SearchStrategy[Any], Callable[[Any], None]]] = {}
        for module in dict.fromkeys(FORMATS.values()):
            suffixes = st.sampled_from([suffix for suffix, name in FORMATS.items() if name == module])
            drawn = st.tuples(suffixes, _documents(module, samples.get(module, [])))
            found[module] = (drawn, self._check_document)
        front = st.lists(st.one_of(YAML, YAML, TEXT, NUMBERS), max_size=14).map(
            lambda pieces: (".md", ("---\n" + "".join(pieces) + "\n---\ntext").encode("utf-8", "replace"))
        )
        entries = {name: st.one_of(st.just(value), JSON) for name, value in self._manifest.items()}
        manifests = st.one_of(
            st.fixed_dictionaries(entries).map(lambda value: json.dumps(value).encode()),
            st.builds(lambda name, value: json.dumps(self._manifest | {name: value}).encode(), st.sampled_from(list(entries)), JSON),
            st.builds(lambda files: json.dumps(self._manifest | {"files": self._manifest["files"] | files}).encode(), st.dictionaries(TEXT, JSON, max_size=3)),
            st.builds(changed, st.just(json.dumps(self._manifest).encode()), _CHANGES),
            _JSON_BYTES,
        )  # fmt: skip
        numbers = st.one_of(JSON, st.floats(0, 1))
        calibrations = st.one_of(
            st.fixed_dictionaries({"null_logit": numbers, "temperature": numbers, "threshold": numbers, "reader": JSON}).map(json.dumps),
            _JSON_BYTES.map(lambda data: data.decode("utf-8", "replace")),
        )  # fmt: skip
        rows = st.one_of(
            st.fixed_dictionaries({"question": JSON, "answers": JSON}, optional={"context": JSON, "title": JSON, "is_impossible": JSON}).map(json.dumps),
            st.just({"data": [{"paragraphs": [{"context": "c", "qas": [{"question": "q", "answers": []}]}]}]}).map(json.dumps),
            TEXT, JSON.map(json.dumps), st.builds(lambda value: json.dumps({"data": value}), JSON),
        )  # fmt: skip
        files = st.one_of(
            st.lists(rows, max_size=4).map(lambda lines: "\n".join(lines).encode("utf-8", "surrogatepass")), _JSON_BYTES
        )
        config = st.lists(
            st.one_of(
                st.sampled_from(["store", "bundle", "device", " = ", "'a'", "\n", "[", "]", "1", '"', "#"]), TEXT
            ),
            max_size=8,
        )
        rules = st.lists(
            st.one_of(st.sampled_from(["*", "**", "/", "!", "[", "]", "\\", "?", "#", "\n", "a", "work", " "]), TEXT),
            max_size=12,
        )
        return found | {
            "front matter": (front, self._check_document),
            "questions": (QUESTIONS, self._check_question),
            "filters": (FILTERS, self._check_filter),
            "scopes": (SCOPES, self._check_scope),
            "manifests": (manifests, self._check_manifest),
            "calibrations": (calibrations, self._check_calibration),
            "question files": (files, self._check_question_file),
            "configuration": (config.map(lambda p: "".join(p).encode("utf-8", "surrogatepass")), self._check_config),
            "ignore rules": (rules.map(lambda p: "".join(p).encode("utf-8", "surrogatepass")), self._check_rules),
            "stores": (STORES, self._check_store),
        }

    def check(self, target: str, case: Any) -> None:
        """Run one case; what is no error of ours comes out."""
        with limit():
            self.targets[target][1](case)

    def draw(self, target: str, number: str, cases: int) -> list[tuple[Any, Exception | None]]:
        """Run so many cases, the same ones for the same number, and say what came out of each."""
        outcomes: list[tuple[Any, Exception | None]] = []

        @seed(number)
        @settings(
            max_examples=cases,
            database=None,
            deadline=None,
            phases=[Phase.generate],
            suppress_health_check=list(HealthCheck),
        )
        @given(self.targets[target][0])
        def run(case: Any) -> None:
            try:
                self.check(target, case)
            except Exception as error:
                outcomes.append((case, error))
            else:
                outcomes.append((None, None))

        run()
        return outcomes

    def _check_document(self, case: tuple[str, bytes]) -> None:
        suffix, data = case
        path = self.folder / f"note{suffix}"
        path.write_bytes(data)
        outcome = _process(self.bundle, self._compressor, self._splitter, path, Event())
        if isinstance(outcome, ParserError) and outcome.__cause__:
            raise outcome.__cause__
        if isinstance(outcome, DocumentError):
            said = str(outcome)
            assert said[0].islower() and ": " in said and "\n" not in said, said
            return
        document_id = self._scratch.put_document(self._source, outcome.document, outcome.passages)
        assert len(self._scratch.texts_of(document_id)) >= 3
        ids = [int(i) for i in self._scratch.codes()[0]]
        found = self._scratch.passages(ids)
        assert sorted(p.text for p in found if p.path == str(path)) == sorted(p.text for p in outcome.passages)
        for passage in found:
            assert passage.line >= 1 and 0 <= passage.start < passage.end

    def _check_question(self, question: str) -> None:
        assert fts_query(question) is not None
        with suppress(BtrError):
            self._assistant.search(question, 5)
            answer = self._assistant.ask(question, 3)
            json.dumps(answer.to_json()).encode()

    def _check_filter(self, text: str) -> None:
        with suppress(BtrError):
            scope = parse_scope(text)
            self._assistant.count_notes(scope)
            self._assistant.search("boiler", 5, scope)

    def _check_scope(self, scope: Scope) -> None:
        self._assistant.count_notes(scope)
        self._assistant.search("boiler", 5, scope)

    def _check_manifest(self, data: bytes) -> None:
        folder = self.folder / "bundle"
        if not folder.exists():
            shutil.copytree(self.bundle.folder, folder)
        (folder / MANIFEST).write_bytes(data)
        with suppress(BtrError):
            assert read_manifest(folder).fingerprint
            bundle = Bundle.open(folder, threads=1)
            in_force(None, bundle.manifest)
            bundle.encode_question("boiler")

    def _check_calibration(self, text: str) -> None:
        with suppress(BtrError):
            in_force(text, self.bundle.manifest).confidences(["a", "b"], [1.0, -3.0])

    def _check_question_file(self, data: bytes) -> None:
        path = self.folder / "questions.jsonl"
        path.write_bytes(data)
        with suppress(BtrError):
            load_questions(path)
        with suppress(BtrError), _open_lines(str(path)) as lines:
            list(_questions(lines))

    def _check_config(self, data: bytes) -> None:
        path = self.folder / "config.toml"
        path.write_bytes(data)
        with suppress(BtrError):
            read_config(path)

    def _check_rules(self, data: bytes) -> None:
        path = self.notes / ".btrignore"
        path.write_bytes(data)
        try:
            scan(self.notes)
        finally:
            path.unlink()

    def _check_store(self, case: tuple[str, tuple[str, Any]]) -> None:
        use, (kind, change) = case
        path = self.folder / "case" / "store.db"
        shutil.rmtree(path.parent, ignore_errors=True)
        path.parent.mkdir()
        path.write_bytes(self._damaged(kind, change, path))
        places = Places(path, self.bundle.folder, "cpu", path.parent)
        with suppress(BtrError):
            self._use(use, places)

    def _damaged(self, kind: str, change: Any, path: Path) -> bytes:
        data = bytearray(self._store)
        if kind in ("bytes", "header"):
            for where, byte in change:
                at = int(where * 100) if kind == "header" else self._used[int(where * len(self._used))]
                data[at] = byte
        elif kind == "cut":
            del data[int(change * len(data)) :]
        elif kind == "page":
            pages = len(data) // 16384
            first, second = (16384 * int(where * pages) for where in change)
            data[first : first + 16384] = data[second : second + 16384]
        elif kind == "whole":
            return bytes(change)
        else:
            path.write_bytes(data)
            connection = sqlite3.connect(path, isolation_level=None)
            for what, where, value, every in change:
                with suppress(sqlite3.Error, OverflowError, UnicodeEncodeError):
                    if what == "set":
                        table, column = where
                        one = "" if every else f' WHERE "{column}" = (SELECT MAX("{column}") FROM "{table}")'
                        connection.execute(f'UPDATE OR REPLACE "{table}" SET "{column}" = ?{one}', (value,))
                    elif what == "rename":
                        connection.execute(f'ALTER TABLE "{where[0]}" RENAME COLUMN "{where[1]}" TO "other"')
                    else:
                        verb = {"drop": "DROP TABLE", "empty": "DELETE FROM", "pragma": "PRAGMA"}[what]
                        connection.execute(f"{verb} {where}" if what == "pragma" else f'{verb} "{where}"')
            connection.close()
            return path.read_bytes()
        return bytes(data)

    def _use(self, use: str, places: Places) -> None:
        manifest, path = self.bundle.manifest, places.store
        if use in ("ask", "search"):
            with TokenStore.open(path, manifest.fingerprint) as store:
                assistant = Assistant(store, self.bundle)
                found = assistant.ask("who serviced the boiler?", 5) if use == "ask" else assistant.search("boiler", 5)
                repr(found).encode("utf-8", "surrogatepass")
                assistant.search("boiler", 5, parse_scope("tag:a date:2025 folder:work author:jane"))
        elif use == "status":
            with TokenStore.open(path, manifest.fingerprint) as store:
                counts = store.counts()
                said = [f"{counts.notes:,} {counts.tokens:,} {counts.store_bytes:,} {counts.bytes_per_token:.1f}"]
                said += [f"{source.root} {source.notes:,}" for source in store.sources()]
                said += [path + reason for path, reason in store.failures()]
                said += [document.path for document in store.documents() if document.deleted]
                assert "\n".join(said)
        elif use == "verify":
            for finding in findings(path, self.bundle.folder, manifest, path.with_suffix(".lock")):
                assert all(isinstance(problem, str) for problem in finding.problems)
            with TokenStore.open(path, manifest.fingerprint) as store:
                reencode(store, self.bundle, 3)
        elif use == "doctor":
            list(examine(places))
        elif use == "backup":
            upkeep.back_up(path, path.parent / "backup.db")
        elif use == "restore":
            upkeep.restore(path, path.parent / "other.db", manifest.fingerprint, manifest.name)
        elif use == "identify":
            upkeep.identify(path)
            upkeep.check_usable(path, manifest.fingerprint)
        else:
            with TokenStore.create(path, manifest.fingerprint, manifest.name) as store:
                if use == "index":
                    index(store, self.bundle, [self.notes], allow_deletions=True)
                elif use == "forget":
                    forget(store, choose(store, [str(self.notes / "work")]))
                elif use == "cleanup":
                    store.purge()
                    store.vacuum()


# the command


def where_it_broke(error: BaseException) -> str:
    """What tells one failure from another: the kind of error and the innermost line of ours."""
    root = str(Path(__file__).parent.parent)
    frames = [
        f
        for f in traceback.extract_tb(error.__traceback__)
        if f.filename.startswith(root) and ".venv" not in f.filename
    ]
    ours = [f for f in frames if "tests" not in Path(f.filename).parts[-2:]] or frames
    place = f"{Path(ours[-1].filename).name}:{ours[-1].lineno} {ours[-1].name}" if ours else "?"
    return f"{type(error).__name__} at {place}"


@click.command()
@click.option(
    "--cases", default=100_000, show_default=True, type=click.IntRange(1), help="How many cases, over all targets."
)
@click.option("--seed", "chosen", default=0, show_default=True, help="Another one draws other cases.")
@click.option("--only", multiple=True, help="Only these targets; repeatable.")
@click.option("--batch", "first", default=0, show_default=True, help="Go on from this batch of an earlier run.")
def fuzz(cases: int, chosen: int, only: tuple[str, ...], first: int) -> None:
    """Run the program on anything at all; exit code 1 if anything but an error of ours comes out. Ctrl-C sums up."""
    from tests.tiny import bundle

    faulthandler.dump_traceback_later(600, repeat=True)
    work = Path(tempfile.mkdtemp(prefix="btr-fuzz-", dir="/dev/shm" if Path("/dev/shm").is_dir() else None))
    bench = Fuzz(work, bundle(work / "tiny"))
    names = list(only or bench.targets)
    unknown = set(names) - set(bench.targets)
    if unknown:
        raise click.UsageError(f"no target {', '.join(sorted(unknown))}: there are {', '.join(bench.targets)}")
    done, began, batch = dict.fromkeys(names, 0), time.monotonic(), first
    failures: dict[str, list[Any]] = {}
    try:
        while sum(done.values()) < cases:
            name = names[batch % len(names)]
            count = min(BATCH, cases - sum(done.values()))
            for case, error in bench.draw(name, f"{chosen}/{batch}", count):
                done[name] += 1
                if error is not None:
                    key = f"{name}: {where_it_broke(error)}"
                    if key not in failures:
                        click.echo(f"FAILURE {key}: {str(error)[:300]!r}\n    {case!r:.1500}")
                    failures.setdefault(key, []).append(case)
            batch += 1
            rate = sum(done.values()) / (time.monotonic() - began)
            click.echo(
                f"{sum(done.values()):>9,} cases, batch {batch - 1:,} {name}, {rate:,.0f} a second, {len(failures)} failures",
                err=True,
            )
    except KeyboardInterrupt:
        click.echo(f"interrupted: go on with --seed {chosen} --batch {batch}", err=True)
    faulthandler.cancel_dump_traceback_later()
    bench.close()
    shutil.rmtree(work, ignore_errors=True)
    for name, count in done.items():
        click.echo(f"{name:<16} {count:>9,} cases")
    click.echo(
        f"{'all':<16} {sum(done.values()):>9,} cases, {len(failures)} distinct failures, seed {chosen}, next batch {batch}"
    )
    for key, found in failures.items():
        click.echo(f"{len(found):>9,} x {key}")
    sys.exit(1 if failures else 0)


if __name__ == "__main__":
    fuzz()
