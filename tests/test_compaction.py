"""Compaction of a store: resumable, idempotent, in bounded batches, and everything else goes on working over it."""

from __future__ import annotations

import json
import shutil
import threading
from pathlib import Path

import numpy as np
import pytest

import app.compaction
from app.assistant import Assistant
from app.bundle import Bundle
from app.compaction import SETTING, Compressor, compact, ratios_of
from app.places import Places
from app.verify import reencode
from store import upkeep
from store.codec import read_packed
from store.errors import StoreError
from store.runs import common_ids
from store.tokens import TokenStore
from tests.conftest import SAMPLE_NOTES, Run, bundle_asking, contents, rows, run_index
from tests.test_cli import BOILER, QUESTION, execute, refused
from tests.test_indexer import write
from tests.test_trust import SECRET

STORED = "SELECT passage_id, bits, scale, runs FROM token_bits ORDER BY passage_id"


@pytest.fixture(scope="session")
def bundle(uncompressed: Places) -> Bundle:
    """What these tests compress themselves: the embedded bundle, had it not asked for it."""
    return Bundle.open(uncompressed.bundle)


@pytest.fixture
def private(own_uncompressed: Places) -> Places:
    """A store of it as the program itself makes one: for its owner only."""
    own_uncompressed.store.chmod(0o600)
    return own_uncompressed


def interrupt_after(batches: int) -> object:
    """Progress that ends the run as Ctrl-C does."""

    def progress(done: int, total: int) -> None:
        if done >= batches:
            raise KeyboardInterrupt

    return progress


# the command


def test_a_compacted_store_is_smaller_says_so_and_answers(run: Run, private: Places) -> None:
    before = json.loads(run("status", "--json").out)
    outcome = run("compact", "--ratio", "0.2")
    assert (outcome.code, outcome.out) == (0, "")
    assert outcome.err.startswith("ratio 0.2: ")
    found = json.loads(run("status", "--json").out)
    assert found["offline_ratio"] == 0.2
    assert found["bytes_per_token"] < 0.6 * before["bytes_per_token"]
    assert sum(found["bytes_per_token_parts"].values()) == pytest.approx(found["bytes_per_token"], abs=0.02)
    assert found["bytes_per_token_parts"]["masks"] > 0
    assert found["bytes_per_token_instead"] == before["bytes_per_token_instead"]
    assert {**before, "store_bytes": 0} | {k: v for k, v in found.items() if k in before} == found
    assert "compacted  with ratio 0.2\n" in run("status").out
    assert "March 2024" in run("ask", QUESTION).out.splitlines()[0]


def test_status_counts_every_byte_that_is_stored(run: Run, private: Places) -> None:
    run("compact", "--ratio", "0.3")
    sql = (
        "SELECT SUM(LENGTH(bits) + LENGTH(scale) + LENGTH(runs) + LENGTH(code)), SUM(tokens) "
        "FROM passages JOIN token_bits ON passage_id = id"
    )
    ((encoded, tokens),) = rows(private.store, sql)
    sql = "SELECT SUM(LENGTH(places) + LENGTH(owners) + LENGTH(codes)) FROM code_blocks"
    ((blocks,),) = rows(private.store, sql)
    assert json.loads(run("status", "--json").out)["bytes_per_token"] == round((encoded + blocks) / tokens, 2)


def test_a_dry_run_says_what_then_happens_and_changes_nothing(run: Run, private: Places) -> None:
    before = contents(private.store)
    for ratio in ("0", "0.35"):
        told = run("compact", "--dry-run", "--ratio", ratio)
        assert (told.code, told.err) == (0, "Nothing was changed.\n")
        assert contents(private.store) == before
        assert rows(private.store, f"SELECT * FROM settings WHERE key = '{SETTING}'") == []
    done = run("compact", "--ratio", "0.35")
    per_token = told.out.partition("would shrink, ")[2].strip()
    assert f"passages, {per_token}, " in done.err
    again = run("compact", "--dry-run", "--ratio", "0.6")
    assert again.out.partition("would shrink, ")[2].strip() in run("compact", "--ratio", "0.6").err


def test_compacting_again_changes_nothing(run: Run, private: Places) -> None:
    run("compact", "--ratio", "0.25")
    before = rows(private.store, STORED)
    for arguments in ([], ["--ratio", "0.25"]):
        assert "ratio 0.25: 0 passages" in run("compact", *arguments).err
        assert rows(private.store, STORED) == before


def test_bad_input_is_one_sentence(run: Run, private: Places, home: Path) -> None:
    run("compact", "--ratio", "0.5")
    before = contents(private.store)
    refused(run("compact", "--ratio", "0.2"), 2, "was compacted with ratio 0.5", "index again")
    for ratio in ("1", "-0.1", "nan", "much"):
        assert run("compact", "--ratio", ratio).code == 2
    refused(run("--store", home / "none.db", "compact"), 3, "no notes are indexed yet")
    assert contents(private.store) == before


@pytest.mark.parametrize("kept", ["{", "[0.3, 0.1]", "[1.5]", '["x"]', "3", "[NaN]"])
def test_damaged_ratios_are_one_sentence(run: Run, private: Places, kept: str) -> None:
    execute(f"INSERT INTO settings VALUES ('{SETTING}', '{kept}')", private.store)
    for command in (["compact"], ["index"], ["status"]):
        refused(run(*command), 3, "offline_ratios are damaged")


def test_one_writer_at_a_time(run: Run, private: Places, home: Path) -> None:
    from app.indexer import writer_lock
    from app.places import resolve

    with writer_lock(resolve().lock):
        refused(run("compact"), 3, "another index run is writing")
        assert run("compact", "--dry-run").code == 0


# interrupted, in batches, beside readers


def test_an_interrupted_run_goes_on_and_ends_as_if_it_had_not_been(
    private: Places, tmp_path: Path, bundle: Bundle, monkeypatch: pytest.MonkeyPatch, run: Run
) -> None:
    upkeep.back_up(private.store, tmp_path / "other.db")
    with TokenStore.open(tmp_path / "other.db") as other:
        compact(other, bundle, 0.2)
    monkeypatch.setattr(app.compaction, "BATCH", 2)
    with TokenStore.open(private.store) as store, pytest.raises(KeyboardInterrupt):
        compact(store, bundle, 0.2, interrupt_after(4))  # type: ignore[arg-type]
    assert rows(private.store, "SELECT COUNT(runs) FROM token_bits") == [(4,)]
    assert "passages not yet: run btr-assistant compact" in run("status").out
    assert run("verify", "--reencode", "99").code == 0  # half done it is as valid
    assert "March 2024" in run("ask", QUESTION).out.splitlines()[0]
    with TokenStore.open(private.store) as store:
        compact(store, bundle, 0.2)
    assert rows(private.store, STORED) == rows(tmp_path / "other.db", STORED)


def test_the_room_is_given_back_even_if_a_run_stops_before_that(private: Places, bundle: Bundle) -> None:
    with TokenStore.open(private.store) as store:
        store.put_setting("room", "x" * 1_000_000)
        store.put_setting("room", None)
        batches = -(-store.counts().stored_passages // app.compaction.BATCH)
        with pytest.raises(KeyboardInterrupt):
            compact(store, bundle, 0.5, interrupt_after(batches))  # type: ignore[arg-type]
        assert store._pragma("freelist_count") > 50
        assert compact(store, bundle, 0.5).changed == 0  # every passage was written
        assert store._pragma("freelist_count") == 0


def test_a_further_ratio_after_an_interrupted_one_reaches_every_passage_the_same_way(
    private: Places, tmp_path: Path, bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    upkeep.back_up(private.store, tmp_path / "other.db")
    with TokenStore.open(tmp_path / "other.db") as other:
        compact(other, bundle, 0.1)
        compact(other, bundle, 0.5)
    monkeypatch.setattr(app.compaction, "BATCH", 3)
    with TokenStore.open(private.store) as store:
        with pytest.raises(KeyboardInterrupt):
            compact(store, bundle, 0.1, interrupt_after(3))  # type: ignore[arg-type]
        compact(store, bundle, 0.5)
        assert ratios_of(store, bundle.manifest) == [0.1, 0.5]
    assert rows(private.store, STORED) == rows(tmp_path / "other.db", STORED)


def test_a_batch_is_one_transaction(private: Places, bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(app.compaction, "BATCH", 4)
    stop = (
        "CREATE TRIGGER stop BEFORE UPDATE ON token_bits WHEN old.passage_id = 7 BEGIN SELECT RAISE(ABORT, 'no'); END"
    )
    execute(stop, private.store)
    with TokenStore.open(private.store) as store, pytest.raises(StoreError, match=r"\(no\)"):
        compact(store, bundle, 0.2)
    done = [i for (i,) in rows(private.store, "SELECT passage_id FROM token_bits WHERE runs IS NOT NULL ORDER BY 1")]
    assert done == [1, 2, 3, 4]


def test_no_more_than_a_batch_is_read_at_a_time(
    private: Places, bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(app.compaction, "BATCH", 2)
    read: list[int] = []
    whole = TokenStore._rows

    def counted(self: TokenStore, sql: str, parameters: tuple[object, ...] = ()) -> list[object]:
        found = whole(self, sql, parameters)
        read.append(len(found))
        return found

    with TokenStore.open(private.store) as store:
        passages = store.counts().passages
        monkeypatch.setattr(TokenStore, "_rows", counted)
        compact(store, bundle, 0.2)
    assert max(read) == 2
    assert len(read) > passages / 2


def test_readers_keep_working_meanwhile(private: Places, bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    """A chat that stays open answers before, between any two batches, after, and from its own snapshot."""
    monkeypatch.setattr(app.compaction, "BATCH", 2)
    execute("PRAGMA journal_mode = WAL", private.store)
    with Assistant.open(private) as chat, TokenStore.open(private.store) as store:
        answers = [chat.ask(QUESTION).answer]

        def ask(done: int, total: int) -> None:
            answers.append(chat.ask(QUESTION).answer)

        with TokenStore.open(private.store) as reader, reader.snapshot():
            bits = reader.token_bits([1])[1][0].tobytes()
            worker = threading.Thread(target=compact, args=(store, bundle, 0.1, ask))
            worker.start()
            worker.join(timeout=120)
            assert not worker.is_alive()
            assert reader.token_bits([1])[1][0].tobytes() == bits
        answers.append(chat.ask(QUESTION).answer)
    assert len(answers) > 3
    assert {answer and answer[:13] for answer in answers} == {"14 March 2024"}


# later


def test_notes_indexed_later_come_out_as_if_they_had_been_there(
    notes: Path, tmp_path: Path, store: TokenStore, bundle: Bundle
) -> None:
    from tests.conftest import new_store

    write(notes, a=BOILER, b="The pear tree was planted in November.", c="It is what it is.")
    run_index(store, bundle, notes)
    compact(store, bundle, 0.2)
    compact(store, bundle, 0.4)
    write(notes, b="The apple tree was planted by Jane Hansen, in the last week of November 2023.", d="Port 5433.")
    assert run_index(store, bundle, notes).indexed == 2
    with new_store(tmp_path / "other.db", bundle) as other:
        run_index(other, bundle, notes)
        compact(other, bundle, 0.2)
        compact(other, bundle, 0.4)
    assert contents(store.path) == contents(tmp_path / "other.db")
    assert rows(store.path, "SELECT COUNT(*), COUNT(runs) FROM token_bits")[0][0] == 4
    assert reencode(store, bundle, 99)[1].problems == ()
    assert compact(store, bundle, 0.4).changed == 0


def test_a_deleted_note_is_compacted_too_and_comes_back(notes: Path, store: TokenStore, bundle: Bundle) -> None:
    write(notes, a=BOILER, b="The pear tree was planted in November.", c="Bread.", d="Coffee.")
    run_index(store, bundle, notes)
    (notes / "b.md").rename(notes.parent / "b.md")
    run_index(store, bundle, notes)
    compact(store, bundle, 0.2)
    assert rows(store.path, "SELECT COUNT(*) - COUNT(runs) FROM token_bits") == [(0,)]
    (notes.parent / "b.md").rename(notes / "b.md")
    assert run_index(store, bundle, notes).restored == 1
    assert reencode(store, bundle, 99)[1].problems == ()


def test_text_of_common_words_alone_is_still_read(notes: Path, store: TokenStore, bundle: Bundle) -> None:
    write(notes, a="It is what it is: so be it, or not.", b="... !!! 1")
    run_index(store, bundle, notes)
    compact(store, bundle, 0.9)
    for bits, scale in store.token_bits([1, 2]).values():
        assert bits.shape == (len(scale), bundle.manifest.bits // 8)
        assert (scale > 0).sum() >= 1


def test_a_passage_without_a_common_word_is_compressed_once(
    run: Run, notes: Path, home: Path, uncompressed: Places, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every token of it keeps its vector, so nothing is merged; it is as compressed as it can be all the same."""
    monkeypatch.setenv("BTR_ASSISTANT_BUNDLE", str(uncompressed.bundle))
    write(notes, a="Alpha beta gamma delta.", b="Quillfeather")
    (notes / "b.md").rename(notes / "b.txt")
    run("index", notes)
    for said, found in (("2 passages", 2), ("0 passages", 0)):
        assert f"ratio 0: {said} would shrink" in run("compact", "--dry-run").out
        assert json.loads(run("compact", "--dry-run", "--json").out)["passages"] == found
        assert f"ratio 0: {said}, " in run("compact").err
        assert run("status").out.count("compacted  common words keep no vector\n") == 1
    assert rows(home / "store.db", "SELECT COUNT(*), COUNT(runs) FROM token_bits") == [(2, 2)]
    assert run("verify", "--reencode", "9").code == 0


def test_a_token_keeps_a_vector_unless_its_word_is_common(bundle: Bundle) -> None:
    ids = {word: bundle.tokenizer.token_to_id(word) for word in ("the", ".", "boiler", "##s", "5", "s", "not")}
    common = {word: bool(common_ids(ids)[i]) for word, i in ids.items()}
    assert common == {"the": True, ".": True, "boiler": False, "##s": False, "5": False, "s": True, "not": False}
    pieces = common_ids({token: i for i, token in enumerate(("▁the", "▁The", "the", "▁", "▁s", "s", "▁boiler", "."))})
    assert pieces.tolist() == [True, True, False, True, True, False, False, True]


# trust


def test_verify_and_doctor_find_a_compacted_store_sound_and_one_flipped_bit_not(
    run: Run, private: Places, bundle: Bundle
) -> None:
    run("compact", "--ratio", "0.2")
    run("compact", "--ratio", "0.5")
    assert run("verify", "--reencode", "99").code == 0
    assert run("doctor").code == 0
    for column in ("bits", "scale", "runs"):
        ((stored,),) = rows(private.store, f"SELECT {column} FROM token_bits WHERE passage_id = 2")
        execute(f"UPDATE token_bits SET {column} = x'{bytes([stored[0] ^ 16]).hex() + stored[1:].hex()}' "
                "WHERE passage_id = 2", private.store)  # fmt: skip
        with TokenStore.open(private.store) as store:
            assert len(reencode(store, bundle, 99)[1].problems) == 1
        execute(f"UPDATE token_bits SET {column} = x'{stored.hex()}' WHERE passage_id = 2", private.store)
    assert run("verify", "--reencode", "99").code == 0


@pytest.mark.parametrize(
    "sql",
    [
        "UPDATE token_bits SET runs = x'00' WHERE passage_id = 1",
        "UPDATE token_bits SET runs = zeroblob(LENGTH(runs)) WHERE passage_id = 1",
        "UPDATE token_bits SET runs = NULL WHERE passage_id = 1",
        "UPDATE token_bits SET bits = SUBSTR(bits, 2) WHERE passage_id = 1",
        "UPDATE token_bits SET scale = SUBSTR(scale, 2) WHERE passage_id = 1",
    ],
)
def test_verify_sees_lengths_that_do_not_fit(run: Run, private: Places, sql: str) -> None:
    run("compact", "--ratio", "0.2")
    execute(sql, private.store)
    outcome = run("verify", "--json")
    checks = json.loads(outcome.out)["checks"]
    assert (outcome.code, [check["name"] for check in checks if not check["ok"]]) == (3, ["bits"])
    assert run("doctor").code == 3


def test_a_backup_of_a_compacted_store_restores_it(run: Run, private: Places, tmp_path: Path) -> None:
    before = rows(private.store, STORED)
    run("compact", "--ratio", "0.2")
    small = rows(private.store, STORED)
    assert run("backup", tmp_path / "b.db").code == 0
    run("compact", "--ratio", "0.8")
    assert run("restore", tmp_path / "b.db", "--yes").code == 0
    assert rows(private.store, STORED) == small != before
    assert "ratio 0.2: 0 passages" in run("compact").err


def test_what_is_forgotten_leaves_nothing_in_a_compacted_store(
    run: Run, notes: Path, home: Path, uncompressed: Places, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BTR_ASSISTANT_BUNDLE", str(uncompressed.bundle))
    write(notes, a=SECRET, b=BOILER)
    run("index", notes)
    before = rows(home / "store.db", "SELECT bits FROM token_bits")
    run("compact", "--ratio", "0.3")
    data = (home / "store.db").read_bytes()
    assert not any(bits[:96] in data for (bits,) in before)  # nor is what was compressed
    outcome = run("forget", notes / "a.md", "--yes", "--json")
    assert (outcome.code, json.loads(outcome.out)["left"]) == (0, 0)
    assert b"uillfeather" not in (home / "store.db").read_bytes()
    assert run("verify", "--reencode", "9").code == 0


def test_what_a_store_gives_is_what_its_bytes_say(private: Places, bundle: Bundle) -> None:
    """Compressed by the definition, past the store, a passage reads as the store gives it."""
    with TokenStore.open(private.store) as store:
        ratios = [0.1, 0.3]
        compressor = Compressor(bundle, ratios)
        expected = {row.passage_id: compressor(row.text, row.passage).tokens() for row in store.packed_after(0, 99)}
        for ratio in ratios:
            compact(store, bundle, ratio)
        found = store.token_bits(list(expected))
        for i, (bits, scale) in expected.items():
            assert np.array_equal(found[i][0], bits)
            assert np.array_equal(found[i][1], scale)
        with pytest.raises(StoreError):
            TokenStore.open(private.store.with_name("none.db"))
        assert read_packed(*store.stored_bytes(1), len(expected[1][1])).starts is not None  # type: ignore[misc]


# a bundle that asks for it


def test_a_bundle_can_ask_for_notes_to_be_compressed_as_they_are_indexed(
    run: Run, private: Places, notes: Path, home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with TokenStore.open(private.store) as store:
        compact(store, Bundle.open(private.bundle), 0)
    monkeypatch.setenv("BTR_ASSISTANT_BUNDLE", str(bundle_asking(0, tmp_path / "asking")))
    shutil.copytree(SAMPLE_NOTES, notes, dirs_exist_ok=True)
    fresh = home / "store.db"
    monkeypatch.setenv("BTR_ASSISTANT_STORE", str(fresh))
    assert run("index", notes).code == 0
    assert rows(fresh, STORED) == rows(private.store, STORED)
    found = json.loads(run("status", "--json").out)
    assert found["offline_ratio"] == 0
    assert found["bytes_per_token"] < 0.7 * found["bytes_per_token_instead"]["uncompressed"]
    assert "compacted  common words keep no vector\n" in run("status").out
    assert run("compact").err.startswith("ratio 0: 0 passages")
    assert run("verify", "--reencode", "9").code == 0
    assert run("compact", "--ratio", "0.2").code == 0
    assert run("verify", "--reencode", "9").code == 0
    refused(run("compact", "--ratio", "0.1"), 2, "the store was compacted with ratio 0.2")
