"""Code blocks: always what the passages say, whoever wrote them; distances as defined, in the memory of the codes."""

from __future__ import annotations

import random
import sqlite3
import tracemalloc
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from store.codes import BLOCK_BITS, Blocks, Codes
from store.errors import FormatError, StoreError
from store.records import NewDocument, NewPassage, Placement
from store.tokens import TokenStore
from store.upkeep import search_index
from tests.conftest import rows

SIZE = 1 << BLOCK_BITS


@pytest.fixture
def store(tmp_path: Path) -> Iterator[TokenStore]:
    with TokenStore.create(tmp_path / "store.db", "f", "tiny") as opened:
        yield opened


def put(store: TokenStore, name: str, codes: list[bytes], text: str = "text") -> int:
    """A note with a passage for each code."""
    scale = np.zeros(1, "<f2").tobytes()
    passages = [NewPassage(0, 4, 1, None, "", text, 1, code, b"\0", scale) for code in codes]
    return store.put_document(store.add_source("/"), NewDocument(name, "h", 1, 1, name, {}), passages)


def made(count: int, width: int, seed: int = 0) -> list[bytes]:
    generator = random.Random(seed)
    return [generator.randbytes(width) for _ in range(count)]


def check(path: Path) -> Codes:
    """The code index is what the passages say, through a connection of its own."""
    said = rows(path, "SELECT id, document_id, code FROM passages ORDER BY id")
    with TokenStore.open(path) as reader:
        index = reader.code_index()
    taken = index.take(np.arange(len(index)))
    found = zip(index.ids.tolist(), index.owners.tolist(), [code.tobytes() for code in taken], strict=True)
    assert list(found) == said
    return index


def test_a_block_is_these_bytes(store: TokenStore) -> None:
    """The format, spelled out: changing this breaks every store in the field."""
    put(store, "a", [b"\1\2\3\4", b"\5\6\7\x08"])
    put(store, "b", [b"\xff\0\0\0"])
    assert rows(store.path, "SELECT * FROM code_blocks") == [
        (0, b"\1\0\2\0\3\0", b"\1\0\0\0\1\0\0\0\2\0\0\0", b"\1\2\3\4\5\6\7\x08\xff\0\0\0")
    ]


def test_blocks_follow_every_kind_of_change(store: TokenStore) -> None:
    first = put(store, "/a", made(SIZE - 1, 4))
    second = put(store, "/b", made(SIZE + 3, 4, 1))
    assert len(check(store.path)) == 2 * SIZE + 2
    put(store, "/a", made(7, 4, 2))
    assert len(check(store.path)) == SIZE + 10
    store.delete_documents([second], 7.0)
    assert len(check(store.path)) == SIZE + 10  # a tombstone keeps its codes
    store.place_documents([Placement(second, 1, "/c", 1, 1)])
    check(store.path)
    store.delete_documents([second], 7.0)
    store.purge()
    assert len(check(store.path)) == 7
    store.vacuum()
    check(store.path)
    store.forget([d.id for d in store.documents()], [])
    assert len(check(store.path)) == 0
    assert rows(store.path, "SELECT COUNT(*) FROM code_blocks") == [(0,)]
    assert first != second
    put(store, "/d", made(3, 4, 3))
    store.remove_source("/")
    assert len(check(store.path)) == 0


@settings(
    deadline=None,
    max_examples=25,
    phases=(Phase.explicit, Phase.generate),
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(
    steps=st.lists(st.tuples(st.integers(0, 5), st.integers(0, 5)), max_size=6),
    outside=st.integers(0, 3),
    seed=st.integers(0, 9),
)
def test_after_any_changes_blocks_are_what_passages_say(
    store: TokenStore, steps: list[tuple[int, int]], outside: int, seed: int
) -> None:
    """Ids that are used again, blocks that empty, and changes made past the program."""
    store.forget([d.id for d in store.documents()], [])
    for number, (name, count) in enumerate(steps):
        put(store, f"/{name}", made(300 * count, 5, seed + number))
    check(store.path)
    with sqlite3.connect(store.path) as stranger:
        stranger.execute("DELETE FROM token_bits")  # it has no foreign keys: bits would be left behind
        if outside == 1:
            stranger.execute("DELETE FROM passages WHERE id % 3 = 0")
        elif outside == 2:
            stranger.execute("UPDATE passages SET code = x'0102030405' WHERE id % 5 = 0")
        elif outside == 3:
            stranger.execute("UPDATE passages SET id = id + 50000 WHERE id % 2 = 0")
    stranger.close()
    check(store.path)
    assert not search_index(store.path).problems
    put(store, "/6", made(2, 5))
    assert rows(store.path, "SELECT COUNT(*) FROM stale_codes") == [(0,)]
    check(store.path)
    assert not search_index(store.path).problems


def test_a_failed_write_leaves_the_blocks_as_they_were(store: TokenStore) -> None:
    put(store, "/a", made(5, 4))
    before = rows(store.path, "SELECT * FROM code_blocks")
    with pytest.raises(sqlite3.IntegrityError):
        put(store, "/a", [b"abcd", None])  # type: ignore[list-item]
    assert rows(store.path, "SELECT * FROM code_blocks") == before
    check(store.path)


def test_the_index_is_read_again_only_when_the_store_changed(store: TokenStore) -> None:
    put(store, "/a", made(5, 4))
    before = store.code_index()
    assert store.code_index() is before
    put(store, "/b", made(5, 4))  # by the same connection
    assert len(store.code_index()) == 10
    with TokenStore.open(store.path) as reader:
        assert reader.code_index() is reader.code_index()
        put(store, "/c", made(5, 4))  # by another one
        assert len(reader.code_index()) == 15


@pytest.mark.parametrize("width", [1, 4, 8, 13, 48])
def test_distances_are_those_of_the_definition(width: int, tmp_path: Path) -> None:
    generator = np.random.default_rng(width)
    codes = generator.integers(0, 256, (SIZE + 77, width), dtype=np.uint8)
    query = generator.integers(0, 256, width, dtype=np.uint8)
    codes[5], codes[6] = query, ~query
    with TokenStore.create(tmp_path / "store.db", "f", "tiny") as store:
        put(store, "/a", [code.tobytes() for code in codes])
        index = store.code_index()
        assert (index.distances(query) == np.bitwise_count(codes ^ query).sum(axis=1)).all()
        chosen = np.array([700, 3, SIZE + 76, 3])
        assert (index.take(chosen) == codes[chosen]).all()
        with pytest.raises(FormatError, match="does not go with"):
            index.distances(np.zeros(width + 1, dtype=np.uint8))


def test_damaged_blocks_are_found_and_made_anew(store: TokenStore) -> None:
    put(store, "/a", made(SIZE + 5, 4))
    whole = rows(store.path, "SELECT * FROM code_blocks")
    for damage, says in (
        ("UPDATE code_blocks SET codes = substr(codes, 2) WHERE block = 0", "code block 0 is not whole"),
        ("UPDATE code_blocks SET codes = zeroblob(length(codes)) WHERE block = 0", "block 0 is not what its passages"),
        ("UPDATE code_blocks SET owners = zeroblob(length(owners))", "block 0 is not what its passages"),
        ("DELETE FROM code_blocks WHERE block = 1", "block 1 is not what its passages"),
        ("INSERT INTO code_blocks VALUES (9, x'0100', x'01000000', x'01020304')", "block 9 is not what its passages"),
    ):
        with sqlite3.connect(store.path) as stranger:
            stranger.execute(damage)
        stranger.close()
        assert says in search_index(store.path).problems[0]
        store.rebuild_search()
        assert rows(store.path, "SELECT * FROM code_blocks") == whole
        assert not search_index(store.path).problems


def test_a_block_that_is_not_whole_is_a_sentence(store: TokenStore) -> None:
    put(store, "/a", made(5, 4))
    with sqlite3.connect(store.path) as stranger:
        stranger.execute("UPDATE code_blocks SET codes = substr(codes, 2)")
    stranger.close()
    with TokenStore.open(store.path) as reader, pytest.raises(StoreError, match="verify --rebuild-search"):
        reader.code_index()


def test_memory_is_that_of_the_codes_and_no_passage_becomes_a_row(store: TokenStore) -> None:
    """50,000 passages: their codes, ids and documents take 56 bytes each; a row of each would take 200."""
    count, width = 50_000, 48
    document = put(store, "/a", [])
    codes = np.random.default_rng(0).integers(0, 256, (count, width), dtype=np.uint8)
    with store._transaction():
        sql = (
            'INSERT INTO passages (document_id, "start", "end", line, heading, text, tokens, code) '
            f"VALUES ({document}, 0, 4, 1, '', 'text of a passage', 1, ?)"
        )
        store._connection.executemany(sql, [(code.tobytes(),) for code in codes])
    with TokenStore.open(store.path) as reader:
        tracemalloc.start()
        index = reader.code_index()
        query = codes[17]
        assert int(index.distances(query).argmin()) == 17
        held, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        del index
    kept = count * (width + 8)
    assert held < 1.05 * kept + 500_000
    assert peak < 1.05 * kept + 1_500_000


def test_loading_reads_no_passage(store: TokenStore) -> None:
    put(store, "/a", made(2 * SIZE, 4))
    statements: list[str] = []
    with TokenStore.open(store.path) as reader:
        reader._connection.set_trace_callback(statements.append)
        Blocks(reader._connection).load()
        reader._connection.set_trace_callback(None)
    assert len(statements) == 5
    assert not any("passages" in statement for statement in statements)
