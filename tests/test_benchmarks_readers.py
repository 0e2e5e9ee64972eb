"""The table of all readers: who is asked what, what a row says, and that the peers are what they are called."""

import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper

from app.baselines import FloatSplitReader, FullReader
from app.bundle import Bundle
from app.evaluation import Question
from app.indexer import index
from app.reader import PassageBits
from benchmarks import peers
from benchmarks.peers import LLAMA, OURS, UNSPLIT, Setup, Shape, StatesReader, Turn, left_out, write_checkpoint
from benchmarks.readers import against_unsplit, choose, line, ratios, take_turns
from benchmarks.yardsticks import Processor, Work, batches, count, embed, write_encoder
from export.bundle import make_bundle
from export.reader import load_bert
from store.bundle import UPPER
from store.errors import UsageError
from tests.conftest import new_store
from tests.tiny import CONTEXT, questions

PASSAGE = PassageBits(CONTEXT, np.empty((0, 0), np.uint8), np.empty(0, np.float16), "heating")


@pytest.fixture(scope="module")
def baselines(tiny: Path) -> Path:
    """The smallest reader's bundle with what it is measured against."""
    folder = tiny.parent / "baselines"
    make_bundle(tiny.parent / "run", folder, "tiny", precision="float32", baselines=True)
    return folder


def turn(answer: str | None, read: float, load: float = 0.0) -> Turn:
    """A turn in which only reading took time."""
    return Turn(answer, 0.0, load, read, 2 * (load + read), 50.0)


class Fake:
    """A child that answers at once and says how long it took."""

    def __init__(self, name: str, seconds: Callable[[int], float], asked: list[str]) -> None:
        self.name, self._seconds, self._asked = name, seconds, asked

    def ask(self, text: str, depth: int) -> Turn:
        self._asked.append(f"{self.name} {text}")
        return turn("yes", self._seconds(depth))


def asked_in(budget: float, expected: dict[str, float], count: int = 4) -> list[str]:
    asked: list[str] = []
    children: Any = [Fake("fast", lambda depth: 0.01 * depth, asked), Fake("slow", lambda depth: 1.0 * depth, asked)]
    given = [Question(str(number), ("yes",), None, "") for number in range(count)]
    take_turns(children, given, 5, budget, expected)
    return asked


def test_readers_take_turns_and_another_one_begins_each_time() -> None:
    assert asked_in(100, {}, 3) == ["fast 0", "slow 0", "slow 1", "fast 1", "fast 2", "slow 2"]


def test_no_turn_begins_that_would_go_over_the_budget() -> None:
    assert [who for who in asked_in(12, {}) if "slow" in who] == ["slow 0", "slow 1"]
    assert asked_in(12, {"slow": 13.0}) == [f"fast {number}" for number in range(4)]


def test_questions_are_chosen_at_equal_distances_among_those_with_an_answer() -> None:
    given = [Question(str(number), ("yes",) if number % 2 else (), None, "") for number in range(20)]
    assert [question.text for question in choose(given, 3)] == ["1", "7", "13"]
    assert len(choose(given, 50)) == 10
    with pytest.raises(UsageError, match="none of the questions has an answer"):
        choose(given[:1], 3)


GIVEN = [Question("a", ("four march",), None, ""), Question("b", ("hansen",), None, "")]
TURNS = {
    OURS: {0: turn("four", 0.1, 0.1), 1: turn("hansen", 0.1)},
    UNSPLIT: {1: turn("hansen", 0.4)},
    "retrieval": {0: turn(None, 0.001)},
    "unsplit-fp32": {},
}


def test_a_row_says_what_was_measured() -> None:
    row = line(OURS, 40, TURNS, GIVEN, 26.96, None)
    assert row == "| 40 | ours | 2 | 50.0 / 83.3 | 150 / 195 | 150 | 300 | 4.00 | 6.67 | 27.0 | 50 |"
    columns = row.count("|")
    assert [line(name, 40, TURNS, GIVEN, 0.4, 2.5).count("|") for name in TURNS] == [columns] * 4
    assert line("unsplit-fp32", 40, TURNS, GIVEN, 0.4, 2.5).split("|")[5].strip() == "about 2,500"


def test_how_fast_a_reader_reads_counts_loading_and_only_what_both_answered() -> None:
    assert ratios(TURNS, OURS) == [pytest.approx(4.0)]
    slow = {**TURNS, OURS: {1: turn("hansen", 0.1, 0.1)}}
    assert ratios(slow, OURS) == [pytest.approx(2.0)]
    assert ratios({OURS: TURNS[OURS]}, OURS) == []


def test_ours_is_held_against_the_unsplit_reader_question_by_question() -> None:
    said = against_unsplit(TURNS, 40, GIVEN)
    assert said is not None
    assert (
        "4.00 times as fast" in said
        and "median of 1 ratios" in said
        and "F1 100.0 for 100.0 (+0.0 ± 0.0), 100.0% of it kept" in said
    )
    both = {**TURNS, UNSPLIT: {0: turn("four march", 0.8), 1: turn("hansen", 0.4)}}
    said = against_unsplit(both, 40, GIVEN)
    assert said is not None and "F1 83.3 for 100.0 (-16.7 ± 11.8), 83.3% of it kept" in said
    assert against_unsplit({**TURNS, UNSPLIT: {}}, 40, GIVEN) is None


def test_a_reader_that_cannot_be_measured_is_left_out_with_a_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    setup = Setup(Path("store"), Path("bundle"), 1)
    assert left_out(OURS, setup) is None
    assert left_out(UNSPLIT, setup) == "unsplit, int8 (Atlas-Q): left out, for --baselines was not given."
    assert left_out(UNSPLIT, replace(setup, baselines=Path("b"))) is None
    monkeypatch.setattr(peers.importlib.util, "find_spec", lambda name: None if name == "gguf" else True)
    assert left_out("llama.cpp", setup) == (
        "llama.cpp, 0.5 B, Q8_0, to the first token: left out, for gguf cannot be imported."
    )


def test_states_from_a_file_read_as_states_computed_anew(baselines: Path) -> None:
    bundle = Bundle.open(baselines, threads=1)
    question, ids = bundle.encode_question("who serviced the boiler?"), bundle.tokenize(CONTEXT).ids
    computed = FloatSplitReader(bundle)
    expected = computed.logits(computed.prepare(question), PASSAGE, ids)
    states = computed.states(PASSAGE, ids)[0]
    for dtype, tolerance in (("float32", 0.0), ("float16", 0.05)):
        stored = replace(PASSAGE, bits=states.astype(dtype).view(np.uint8))
        reader = StatesReader(bundle, dtype)
        assert np.allclose(reader.logits(reader.prepare(question), stored, ids), expected, rtol=0, atol=tolerance)
    assert stored.bits.shape == (len(ids), 2 * bundle.manifest.hidden_size)


def test_the_checkpoint_for_transformers_has_the_full_readers_logits(
    baselines: Path, tiny: Path, tmp_path: Path
) -> None:
    from transformers import AutoTokenizer, BertForQuestionAnswering

    write_checkpoint(tmp_path / "made", tiny.parent / "run" / "full", baselines / "tokenizer.json")
    bundle = Bundle.open(baselines, threads=1)
    ids = bundle.tokenize(CONTEXT).ids
    start, _ = FullReader(bundle).logits(bundle.encode_question("who?"), PASSAGE, ids)
    encoded = AutoTokenizer.from_pretrained(tmp_path / "made")("who?", f"heating [SEP] {CONTEXT}", return_tensors="pt")
    with torch.no_grad():
        made = BertForQuestionAnswering.from_pretrained(tmp_path / "made")(**encoded).start_logits[0].numpy()
    assert encoded["input_ids"].shape[1] == len([*"CQ?S", "heading", "S", *ids, "S"])
    assert np.allclose(made[-1 - len(ids) : -1] - made[0], start, atol=0.05)


def test_the_model_for_llama_cpp_is_whole_and_of_half_a_billion_weights(tmp_path: Path) -> None:
    gguf = pytest.importorskip("gguf")
    shape = Shape(vocabulary=96, width=64, layers=2, heads=4, key_heads=2, inner=128)
    peers.write_gguf(tmp_path / "small.gguf", shape)
    tensors = {tensor.name: tensor for tensor in gguf.GGUFReader(tmp_path / "small.gguf").tensors}
    matrices = [tensor for tensor in tensors.values() if tensor.tensor_type == gguf.GGMLQuantizationType.Q8_0]
    assert sum(int(tensor.n_elements) for tensor in matrices) == shape.weights
    assert tensors["blk.1.attn_k.weight"].shape.tolist() == [64, 32]  # columns first
    assert tensors["blk.0.ffn_norm.weight"].shape.tolist() == [64]
    values = gguf.quants.dequantize(tensors["token_embd.weight"].data, gguf.GGMLQuantizationType.Q8_0)
    assert values.std() == pytest.approx(0.02, rel=0.1)
    assert LLAMA.weights / 1e9 == pytest.approx(0.494, abs=0.001)


def test_the_operations_of_a_graph_are_counted_at_their_real_shapes(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("DynamicQuantizeLinear", ["x"], ["q", "scale", "zero"]),
        helper.make_node("MatMulInteger", ["q", "w", "zero"], ["whole"]),
        helper.make_node("Cast", ["whole"], ["y"], to=TensorProto.FLOAT),
        helper.make_node("Transpose", ["y"], ["t"], perm=[0, 2, 1]),
        helper.make_node("MatMul", ["y", "t"], ["z"]),
    ]
    graph = helper.make_graph(
        nodes,
        "graph",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, "n", 8])],
        [helper.make_tensor_value_info("z", TensorProto.FLOAT, [1, "n", "n"])],
        [numpy_helper.from_array(np.ones((8, 4), np.int8), "w")],
    )
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.save(made, tmp_path / "graph.onnx")
    found = count(tmp_path / "graph.onnx", {"x": np.ones((1, 5, 8), np.float32)})
    int8 = 2 * 5 * 8 * 4
    fp32 = 2 * 5 * 4 * 5
    moved = (5 * 8 + 8 * 4 + 4 * 5 * 4) + 4 * (5 * 4 + 4 * 5 + 5 * 5)
    assert found == Work(int8, fp32, moved, (5, 8, 4))


def test_work_takes_as_long_as_the_scarcer_of_computing_and_moving() -> None:
    processor = Processor(int8=100.0, fp32=50.0, copied=10.0)
    assert processor.least_seconds(Work(10**9, 10**9, 10**6, (1, 1, 1))) == pytest.approx(0.03)
    assert processor.least_seconds(Work(10**9, 10**9, 10**9, (1, 1, 1))) == pytest.approx(0.1)


def test_a_batch_is_read_as_its_passages_are_one_by_one(baselines: Path) -> None:
    bundle = Bundle.open(baselines, threads=1)
    question = bundle.encode_question("who serviced the boiler?")
    each = []
    for text in (CONTEXT, "The staging database listens on port 5433.", CONTEXT[:30]):
        kept, ids = bundle.encode_passage("heating", text), bundle.tokenize(text).ids
        bits = np.frombuffer(kept.bits, np.uint8).reshape(len(ids), -1)
        each.append(bundle.upper_inputs(question, ids, bits, np.ones(len(ids), np.float16), None))
    made = batches(each, 2)
    assert [len(batch["ids"]) for batch in made] == [2, 1]
    together = np.concatenate([bundle.run(UPPER, ["relevance"], batch)[0] for batch in made])
    apart = np.concatenate([bundle.run(UPPER, ["relevance"], one)[0] for one in each])
    assert np.allclose(together, apart, rtol=0, atol=1e-5) and len(set(apart.round(5))) == 3


def test_plain_embedding_is_the_mean_of_all_layers_states(baselines: Path, tiny: Path, tmp_path: Path) -> None:
    checkpoint = tiny.parent / "bert"
    write_encoder(tmp_path / "encoder", checkpoint)
    encoder = Bundle(tmp_path / "encoder", Bundle.open(baselines).manifest, "cpu", 1)
    before, after = encoder.surround("heating")
    ids = torch.tensor([[*before, *encoder.tokenize(CONTEXT).ids, *after]])
    with torch.no_grad():
        mean = load_bert(checkpoint)(ids).last_hidden_state[0].mean(0).numpy()
    found = embed(encoder, "heating", CONTEXT)
    assert np.linalg.norm(found) == pytest.approx(1.0)
    assert found @ (mean / np.linalg.norm(mean)) > 0.99


@pytest.fixture
def asked(baselines: Path, tmp_path: Path) -> Callable[..., subprocess.CompletedProcess[str]]:
    """The command over a store of two notes with the smallest readers."""
    bundle = Bundle.open(baselines, threads=1)
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "heating.txt").write_text(CONTEXT)
    (tmp_path / "notes" / "staging.txt").write_text("The staging database listens on port 5433.")
    with new_store(tmp_path / "notes.db", bundle) as store:
        index(store, bundle, [tmp_path / "notes"])
    given = questions(tmp_path / "questions.jsonl")

    def call(*arguments: str, store: str = "notes.db") -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "benchmarks.readers", str(tmp_path / store), str(given), "--threads", "1"]
        root = Path(__file__).parent.parent
        return subprocess.run(
            [*command, "--bundle", str(baselines), *arguments], cwd=root, capture_output=True, text=True
        )

    return call


def test_the_command_prints_one_table(
    asked: Callable[..., subprocess.CompletedProcess[str]], baselines: Path, tiny: Path
) -> None:
    done = asked(
        "--baselines", str(baselines), "--quick", "--encoder", str(tiny.parent / "bert"),
        "--only", "ours,states-float16,unsplit-int8,unsplit-fp32,retrieval",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    rows = [
        [cell.strip() for cell in row.split("|")[1:-1]]
        for row in done.stdout.splitlines()
        if row.startswith(("| 5 |", "| 20 |"))
    ]
    assert [row[1] for row in rows[:4]] == [
        "ours", "split, float16 states (DeFormer), int8", "unsplit, int8 (Atlas-Q)", "retrieval only",
    ]  # fmt: skip
    assert [row[2] for row in rows] == ["4"] * 8
    assert float(rows[1][9]) - float(rows[3][9]) == pytest.approx(64, abs=0.2)  # 32 values of two bytes
    assert "unsplit, fp32 (Atlas): left out, for --float-baselines was not given." in done.stdout
    assert "Roofline: the products of the upper graph over 2 passages" in done.stdout
    assert "| a passage on each of 1 threads (as the reader does) |" in done.stdout
    assert "Indexing 8 tokens in 1 slices" in done.stdout


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["--passages", "0"], 2, "readers: --passages 0: give numbers from 1 to 200"),
        (["--passages", "5,x"], 2, "readers: --passages 5,x"),
        (["--only", "ours,oars"], 2, "readers: --only ours,oars: give some of ours, ours-bits"),
        (["--count", "0"], 2, "readers: --count, --threads and --budget are 1 or more"),
    ],
)
def test_what_cannot_be_measured_is_one_sentence(
    asked: Callable[..., subprocess.CompletedProcess[str]], arguments: list[str], code: int, said: str
) -> None:
    done = asked(*arguments)
    assert (done.returncode, done.stderr.count("\n")) == (code, 1)
    assert said in done.stderr


def test_a_store_that_is_not_there_is_one_sentence(asked: Callable[..., subprocess.CompletedProcess[str]]) -> None:
    done = asked(store="no.db")
    assert done.returncode == 3
    assert done.stderr.startswith("readers: ") and done.stderr.count("\n") == 1
