"""A T5 that learnt four questions by heart, exported, and asked as a person would: the whole way without torch."""

from __future__ import annotations

import json
import math
import threading
from collections.abc import Iterator
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch

from app.assistant import Assistant
from app.baselines import baseline
from app.bundle import Bundle
from app.chat.app import ChatApp
from app.chat.engine import AssistantEngine
from app.cli_ask import _print_answer
from app.compaction import compact
from app.evaluation import Examination, load_questions
from app.generative import MAX_ANSWER_TOKENS, GenerativeReader, Hypothesis, locate
from app.indexer import index
from app.places import Places
from app.reader import Cancelled, PassageBits, open_reader
from benchmarks.generative import asked, parity
from export.bundle import make_bundle
from export.graphs import Table
from export.recipe import make_recipe
from export.saved import load_reader, save_reader
from export.t5 import SplitT5
from export.train import train
from store.bundle import CROSS, DECODER, LOWER, UPPER, read_manifest
from store.codec import token_arrays
from store.errors import UsageError
from tests import test_chat
from tests.conftest import new_store
from tests.test_chat import answered, ask, cards, content, until
from tests.tiny import CONTEXT, T5_RECIPE

NOTES = {"heating.txt": CONTEXT, "staging.txt": "The staging database listens on port 5433."}


@pytest.fixture(scope="module")
def floats(generative: Path) -> Bundle:
    return Bundle.open(generative / "float32")


def passage(bundle: Bundle, text: str, heading: str = "heating") -> PassageBits:
    encoded = bundle.encode_passage(heading, text)
    return PassageBits(text, *token_arrays(encoded.bits, encoded.scale, encoded.tokens), heading)


def passages(bundle: Bundle) -> list[PassageBits]:
    return [passage(bundle, text, Path(name).stem) for name, text in NOTES.items()]


@pytest.fixture(scope="module")
def torch_states(generative: Path, floats: Bundle) -> tuple[SplitT5, torch.Tensor]:
    """The reader in torch, and the states of both notes for one question: stored bits, restored, read jointly."""
    reader = load_reader(generative / "run")
    assert isinstance(reader, SplitT5)
    q_ids = torch.from_numpy(floats.encode_question("when was the boiler serviced?").ids)
    parts = []
    words = reader.lower.words.weight
    exact = words.detach().clone()
    with torch.no_grad():
        words.copy_(Table(exact)(torch.arange(len(exact))))  # the lower graph's word table is int8
        for one in passages(floats):
            before, after = floats.surround(one.heading)
            ids = floats.tokenize(one.text).ids
            whole = torch.tensor([[*before, *ids, *after]])
            h = reader.lower(whole, whole != 0)[:, len(before) : -1]
            p = reader.binarize(h, torch.tensor([ids]))
            mask = torch.ones(1, len(ids), dtype=torch.bool)
            parts.append(reader.read(reader.lower(q_ids, q_ids != 0), q_ids, p, torch.tensor([ids]), mask))
        words.copy_(exact)
    return reader, torch.cat(parts, dim=1)


def test_the_four_questions_are_answered_from_the_right_note(floats: Bundle) -> None:
    reader = GenerativeReader(floats, ratio=0.0)
    stored = passages(floats)
    for question, answer, source in (
        ("when was the boiler serviced?", "4 march", 0),
        ("who serviced the boiler?", "hansen", 0),
        ("which port?", "5433", 1),
    ):
        (span,) = reader.read(floats.encode_question(question), stored)
        assert (span.text, span.passage) == (answer, source)
        assert stored[source].text[span.start : span.end].lower() == answer
        assert span.score > 0


def test_the_graphs_decode_as_torch_does(floats: Bundle, torch_states: tuple[SplitT5, torch.Tensor]) -> None:
    """Greedy tokens are those of transformers' generate; scores those of teacher forcing, against the empty answer."""
    t5_reader, states = torch_states
    mask = torch.ones(states.shape[:2], dtype=torch.bool)
    reader = GenerativeReader(floats, ratio=0.0, beams=4)
    question = floats.encode_question("when was the boiler serviced?")
    ours = np.concatenate([reader.encode(question, one) for one in passages(floats)])
    assert np.allclose(ours, states[0], atol=0.02)  # float16 scales stand between them
    fused = reader.fuse(question, [states[0].numpy()])
    greedy = GenerativeReader(floats, ratio=0.0).decode(fused)[0]
    written = t5_reader.generate(states, mask)[0].tolist()
    assert [*greedy.ids, 1] == written[: written.index(1) + 1]
    beams = reader.decode(fused)
    assert len({tuple(one.ids) for one in beams}) == 4
    assert beams[0].score >= greedy.score - 1e-4
    assert [one.score for one in beams] == sorted((one.score for one in beams), reverse=True)
    with torch.no_grad():
        for one in beams:
            answer = torch.tensor([[*one.ids, 1]])
            chances = t5_reader.write(states, mask, answer)[0].log_softmax(-1)
            whole = float(chances[torch.arange(answer.shape[1]), answer[0]].sum())
            assert math.isclose(one.score, whole - float(chances[0, 1]), abs_tol=1e-3)


def test_wide_beams_find_the_likeliest_answer_of_two_tokens(
    floats: Bundle, torch_states: tuple[SplitT5, torch.Tensor]
) -> None:
    _, states = torch_states
    fused = GenerativeReader(floats, ratio=0.0).fuse(floats.encode_question("who?"), [states[0].numpy()])
    best = GenerativeReader(floats, ratio=0.0, beams=88).decode(fused)
    assert best[0].score >= max(one.score for one in GenerativeReader(floats, 0.0, 2).decode(fused)) - 1e-4
    assert len(best) == 88


def test_attention_is_shared_out_among_the_passages(floats: Bundle) -> None:
    """Every step pays 1 in sum, however much was merged, and merged states are their passages' in proportion."""
    for ratio in (0.0, 0.2, 0.5):
        reader = GenerativeReader(floats, ratio=ratio)
        question = floats.encode_question("which port?")
        fused = reader.fuse(question, [reader.encode(question, one) for one in passages(floats)])
        assert np.allclose(fused.shares.sum(axis=1), 1)
        (one,) = reader.decode(fused)
        assert one.mass.sum() == pytest.approx(len(one.ids), abs=1e-3)


def test_a_ratio_leaves_the_decoder_one_question_to_read(floats: Bundle) -> None:
    """The mean of what each passage made of it, which stands for all passages alike; without a ratio one of each."""
    question = floats.encode_question("which port?")
    asked, bodies = question.ids.shape[1], [len(floats.tokenize(text).ids) for text in NOTES.values()]
    for ratio, questions in ((0.0, 2), (0.2, 1), (0.5, 1)):
        reader = GenerativeReader(floats, ratio=ratio)
        encoded = [reader.encode(question, one) for one in passages(floats)]
        assert [len(states) for states in encoded] == [asked + body for body in bodies]
        fused = reader.fuse(question, encoded)
        assert len(fused.shares) == sum(bodies) + questions * asked
        mean = GenerativeReader(floats, 0.0).fuse(question, [(encoded[0][:asked] + encoded[1][:asked]) / 2])
        for name, keys in fused.keys.items():
            assert np.allclose(keys[:, :, :asked], mean.keys[name], atol=1e-5) == (questions == 1)
        assert (fused.shares[0] == (0.5 if questions == 1 else [1, 0])).all()


def test_the_answer_so_far_is_told_and_reading_can_be_given_up(floats: Bundle) -> None:
    reader, question = GenerativeReader(floats), floats.encode_question("when was the boiler serviced?")
    told: list[str] = []
    (span,) = reader.read(question, passages(floats), told=told.append)
    assert span.text and told[-1] == span.text
    assert all(later.startswith(earlier) for earlier, later in pairwise(told))
    heard: list[str] = []
    with pytest.raises(Cancelled):
        reader.read(question, passages(floats), lambda: bool(heard), heard.append)
    assert len(heard) == 1


def test_nothing_retrieved_is_nothing_answered(floats: Bundle) -> None:
    assert GenerativeReader(floats).read(floats.encode_question("who?"), []) == []


def test_nothing_is_done_for_merging_where_nothing_is_merged(generative: Path) -> None:
    """It stands in branches of the graph that are taken at a ratio above 0 alone."""
    graph = onnx.load(generative / "float32" / UPPER).graph
    bodies = [a.g for node in graph.node if node.op_type == "If" for a in node.attribute if a.name == "then_branch"]
    for operation in ("ArgMax", "CumSum"):
        assert any(node.op_type == operation for body in bodies for node in body.node)
        assert not any(node.op_type == operation for node in graph.node)


def test_an_answer_without_an_end_is_cut(floats: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    """A decoder that never ends writes `MAX_ANSWER_TOKENS` tokens."""
    honest = Bundle.run

    def endless(self: Bundle, graph: str, outputs: list[str], inputs: dict) -> list:
        found = honest(self, graph, outputs, inputs)
        if graph == DECODER:
            found[0][..., self.end] -= 1e4
        return found

    monkeypatch.setattr(Bundle, "run", endless)
    reader, question = GenerativeReader(floats), floats.encode_question("which port?")
    (one,) = reader.decode(reader.fuse(question, [reader.encode(question, p) for p in passages(floats)]))
    assert len(one.ids) == MAX_ANSWER_TOKENS


@pytest.mark.parametrize(
    ("text", "answer", "place"),
    [
        ("Serviced on 4  March.", "4 march", (12, 20)),
        ("the boilers", "boiler", None),
        ("a (b) c", "(b)", (2, 5)),
        ("nothing", "", None),
        ("it cost 1,000 kr", "1, 000", (8, 13)),
        ("near the Cafe\u0301 Müller", "cafe muller", (9, 21)),
        ("see Newton's law", "newton ' s law", (4, 16)),
        ("naïveté", "naive", None),
        ("각 나", "가", None),
        ("나 가", "가", (2, 3)),
    ],
)
def test_an_answer_is_found_as_whole_words(text: str, answer: str, place: tuple[int, int] | None) -> None:
    assert locate(text, answer) == place


def test_an_answer_reads_as_its_passage_has_it(floats: Bundle) -> None:
    reader, (one, *_) = GenerativeReader(floats), passages(floats)
    texts = ["A table costs 1,000 kr.", "No port here."]
    inputs = [replace(one, text=text) for text in texts]
    found = []
    for written in ("1, 000 kr", "2, 000 kr"):
        ids = floats.tokenizer.encode(written, add_special_tokens=False).ids
        reader.text = lambda _, written=written: written  # type: ignore[method-assign, misc]
        found.append(reader.span(Hypothesis(-1.0, ids, np.array([0.1, 0.9], np.float32)), inputs))
    assert [(span.passage, span.text) for span in found] == [(0, "1,000 kr"), (1, "2, 000 kr")]
    assert (found[0].start, found[0].end) == (14, 22)


def test_of_passages_that_hold_the_answer_the_source_is_the_one_attended_to_most(floats: Bundle) -> None:
    reader, (one, *_) = GenerativeReader(floats), passages(floats)
    inputs = [replace(one, text=text) for text in ("Nothing.", "Port 5433.", "5433, the port.", "5433!")]
    ids = floats.tokenizer.encode("5433", add_special_tokens=False).ids
    for mass, source in (([0.5, 0.1, 0.3, 0.1], 2), ([0.1, 0.3, 0.3, 0.3], 1)):
        span = reader.span(Hypothesis(-1.0, ids, np.array(mass, np.float32)), inputs)
        assert span.passage == source  # of equal ones the first retrieved


def test_the_baselines_answer_too_and_eval_measures_all_three(generative: Path, floats: Bundle) -> None:
    asked = load_questions(generative / "train.jsonl")
    for name in ("binarized", "full", "split"):
        outcomes = Examination(asked, floats, None, ratio=0.0, beams=2).ask(name, 20, False)
        assert np.mean([outcome.em for outcome in outcomes]) >= 0.75, name
    assert isinstance(baseline(floats, "full"), GenerativeReader)


def test_settings_of_the_other_reader_are_refused(floats: Bundle, bundle: Bundle) -> None:
    with pytest.raises(UsageError, match="holds a generative reader: --finish and --looks are"):
        open_reader(floats, finished=3)
    with pytest.raises(UsageError, match="holds a generative reader: --finish and --looks are"):
        open_reader(floats, looks=1)
    with pytest.raises(UsageError, match="holds an extractive reader: --ratio and --beams are for"):
        open_reader(bundle, ratio=0.2)


@pytest.fixture
def places(generative: Path, floats: Bundle, tmp_path: Path) -> Places:
    (tmp_path / "notes").mkdir()
    for name, text in NOTES.items():
        (tmp_path / "notes" / name).write_text(text)
    with new_store(tmp_path / "t5.db", floats) as store:
        assert index(store, floats, [tmp_path / "notes"]).indexed == 2
    return Places(tmp_path / "t5.db", generative / "float32", "cpu", tmp_path)


@pytest.fixture
def assistant(places: Places) -> Iterator[Assistant]:
    with Assistant.open(places) as opened:
        yield opened


def test_notes_are_indexed_and_asked_with_it_as_with_any_bundle(assistant: Assistant) -> None:
    told: list[str] = []
    answer = assistant.ask("which port?", told=told.append)
    assert (answer.answer or answer.candidates[0].answer) == "5433" == told[-1]
    if answer.answer:
        (source,) = answer.sources
        assert source.path.endswith("staging.txt") and source.quote[slice(*source.marked)] == "5433"


def test_words_that_stand_in_no_note_are_printed_without_a_mark(
    assistant: Assistant, capsys: pytest.CaptureFixture[str]
) -> None:
    answer = assistant.ask("which port?")
    place = answer.places[0]
    written = replace(answer, answer="5433", sources=[place])
    _print_answer(written)
    assert "[5433]" in capsys.readouterr().out
    _print_answer(replace(written, answer="port 5,433", sources=[replace(place, marked=(0, 0))]))
    said = capsys.readouterr().out
    assert said.startswith("port 5,433\n") and place.quote in said and "[" not in said


@pytest.mark.asyncio
async def test_the_chat_shows_the_words_as_they_are_written_and_esc_stops_the_reader(
    places: Places, floats: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The real engine, but that the decoder waits before its second token, once."""
    honest, steps, go_on = Bundle.run, [], threading.Event()

    def held(self: Bundle, graph: str, outputs: list[str], inputs: dict) -> list:
        if graph == DECODER:
            steps.append(graph)
            if len(steps) == 2:
                go_on.wait(10)
        return honest(self, graph, outputs, inputs)

    question, tokens = "when was the boiler serviced?", floats.tokenize("4 march").ids
    with AssistantEngine(places, rescans=False) as engine:
        async with ChatApp(engine.open).run_test() as pilot:
            await until(pilot, lambda: content(pilot.app.query_one("#header"), "#status").plain.startswith("2 notes"))
            monkeypatch.setattr(Bundle, "run", held)
            await ask(pilot, question)
            await until(pilot, lambda: bool(cards(pilot)) and "4 …" in test_chat.text(cards(pilot)[0]))
            await pilot.press("escape")
            assert test_chat.text(cards(pilot)[0]) == f"You  {question}\ncancelled"
            go_on.set()
            answer = (await answered(pilot, question)).answer
            assert answer is not None and answer.candidates[0].answer == "4 march"
            assert cards(pilot)[0].answer is None
    assert len(steps) == 2 + len(tokens) + 1


def test_states_can_come_back_from_their_neighbours_and_be_compacted_further(generative: Path, tmp_path: Path) -> None:
    """Other bits than the paper's, common words without any: the same store, the same reader, the same compaction."""
    data = [generative / "train.jsonl"]
    recipe = make_recipe(json.loads((generative / "run" / "train.json").read_text())["recipe"], "tests", T5_RECIPE)
    recipe = replace(
        recipe,
        split=replace(recipe.split, binarizer="context", bits=24),
        binarized=replace(recipe.binarized, bare=1.0, head_lr=6e-4),
    )
    train(generative / "t5", data, data, tmp_path / "run", recipe, share=generative / "run", eval_every=1000)
    assert (tmp_path / "run" / "decomposed").is_symlink()
    reader, generator = load_reader(tmp_path / "run"), torch.Generator().manual_seed(5)
    with torch.no_grad():
        for constant in reader.binarizer.parameters():  # so few words leave nothing to binarize
            constant.add_(0.3 * constant.std() * torch.randn(constant.shape, generator=generator))
    save_reader(reader, tmp_path / "run")
    make_bundle(tmp_path / "run", tmp_path / "float32", precision="float32")
    bundle = Bundle.open(tmp_path / "float32")
    notes = tmp_path / "notes"
    notes.mkdir()
    for name, text in NOTES.items():
        (notes / name).write_text(text)
    with new_store(tmp_path / "store.db", bundle) as store:
        index(store, bundle, [notes])
        before = store.counts()
        assert before.compressed == before.stored_passages == 2
        assert Assistant(store, bundle).ask("when was the boiler serviced?").candidates
        asking = load_questions(generative / "train.jsonl")
        for _ in range(2):
            for found in parity(tmp_path / "run", bundle, asked(store, bundle, asking, 2)):
                assert found.same
                assert found.logits < 1e-3
            compact(store, bundle, 0.3)
        assert store.counts().bits_bytes < before.bits_bytes


def test_signs_without_a_scale_make_a_bundle_as_well(generative: Path, tmp_path: Path) -> None:
    """The naive reader that ours is measured against: its graphs take the scale of every token, and heed only a 0."""
    data = [generative / "train.jsonl"]
    recipe = make_recipe(json.loads((generative / "run" / "train.json").read_text())["recipe"], "tests", T5_RECIPE)
    recipe = replace(recipe, split=replace(recipe.split, binarizer="naive"))
    train(generative / "t5", data, data, tmp_path / "run", recipe, share=generative / "run", eval_every=1000)
    make_bundle(tmp_path / "run", tmp_path / "float32", precision="float32")
    naive = Bundle.open(tmp_path / "float32")
    reader, question = GenerativeReader(naive, ratio=0.0), naive.encode_question("which port?")
    one = passage(naive, CONTEXT)
    states = reader.encode(question, one)
    louder = reader.encode(question, replace(one, scale=2 * one.scale))
    bare = reader.encode(question, replace(one, scale=0 * one.scale))
    assert np.array_equal(states, louder)
    assert not np.allclose(states, bare, atol=0.01)


def test_the_int8_bundle_is_checked_and_says_what_it_is(generative: Path, tmp_path: Path) -> None:
    manifest = make_bundle(generative / "run", tmp_path / "int8", ratio=0.2)
    assert (manifest.reader, manifest.name, manifest.bits) == ("generative", "btr-t5", 32)
    assert manifest.measured["parity"]["int8"]["bit_agreement"] > 0.93
    assert set(read_manifest(tmp_path / "int8").files) == {LOWER, UPPER, CROSS, DECODER, "tokenizer.json"}
    products = [node for node in onnx.load(tmp_path / "int8" / UPPER).graph.node if "MatMul" in node.op_type]
    assert {node.op_type for node in products if "/exact" in node.name} == {"MatMul"}  # large inputs stay in float
    assert any("Integer" in node.op_type for node in products)
    bundle = Bundle.open(tmp_path / "int8")
    (span,) = GenerativeReader(bundle, ratio=0.0).read(bundle.encode_question("which port?"), passages(bundle))
    assert span.text == "5433"
    told, own = open_reader(bundle, ratio=0.1), open_reader(bundle)
    assert isinstance(told, GenerativeReader) and isinstance(own, GenerativeReader)
    assert (told.ratio, own.ratio) == (0.1, 0.2)
