"""Data that lines up, a loss that is what it says, a run that goes on where it stopped."""

import json
from pathlib import Path

import pytest
import torch
from transformers import BertModel

from export.data import Batch, batches, load_passages, load_tokenizer, read_rows
from export.reader import SplitConfig, build, run_last_layer, run_layers, shared_tokens
from export.train import TrainConfig, Trainer, body_states, load_reader, read_batch, task_loss, train
from store.errors import ExportError
from tests.tiny import checkpoint, questions

SPLIT = SplitConfig(split_layer=2, upper_layers=1, bits=16, code_bits=32, match_rank=4)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("train")
    checkpoint(folder / "bert")
    questions(folder / "train.jsonl")
    return folder


def one_batch(folder: Path, negatives: float = 0.0) -> Batch:
    tokenizer = load_tokenizer(folder / "bert")
    passages = load_passages([folder / "train.jsonl"], tokenizer, window=40)
    return next(iter(batches(passages, 4096, negatives, 0)))


def test_gold_spans_are_the_answers_tokens(folder: Path) -> None:
    tokenizer = load_tokenizer(folder / "bert")
    found = []
    for passage in load_passages([folder / "train.jsonl"], tokenizer, window=40):
        found += [tokenizer.decode(passage.body[q.start : q.end + 1]) for q in passage.questions]
    assert sorted(found) == ["4 march", "5433", "hansen", "november"]


def test_a_long_context_is_cut_into_windows_that_hold_their_answers(folder: Path) -> None:
    tokenizer = load_tokenizer(folder / "bert")
    passages = load_passages([folder / "train.jsonl"], tokenizer, window=12)
    assert all(len(passage.body) <= 12 for passage in passages)
    found = [tokenizer.decode(p.body[q.start : q.end + 1]) for p in passages for q in p.questions]
    assert sorted(found) == ["4 march", "5433", "hansen", "november"]


def test_negatives_have_the_null_option_for_their_answer(folder: Path) -> None:
    batch = one_batch(folder, negatives=1.0)
    assert (batch.gold_pair == -1).all()
    gold = one_batch(folder)
    for question, passage in zip(batch.pair_question, batch.pair_passage, strict=True):
        assert passage != gold.pair_passage[gold.gold_pair[question]]


def test_body_states_are_the_body_tokens_own(folder: Path) -> None:
    batch = one_batch(folder)
    ids = body_states(batch.passage_ids[..., None].float(), batch)[..., 0].long()
    assert torch.equal(ids[batch.body_mask], batch.body_ids[batch.body_mask])


def test_task_loss_normalises_over_passages_and_the_null_option() -> None:
    """Two passages of two tokens and the null: one softmax over five logits."""
    index = torch.tensor([0, 0])
    batch = Batch(
        *(torch.zeros(1) for _ in range(5)),
        pair_question=index,
        pair_passage=torch.tensor([0, 1]),
        slot=torch.tensor([0, 1]),
        gold_pair=torch.tensor([0]),
        start=torch.tensor([1]),
        end=torch.tensor([1]),
    )
    logits = torch.tensor([[0.3, 1.2], [-0.5, 2.0]])
    expected = -torch.log_softmax(torch.tensor([0.0, 0.3, 1.2, -0.5, 2.0]), 0)[2]
    assert torch.isclose(task_loss(batch, logits, logits), expected, atol=1e-5)
    batch.gold_pair[0] = -1
    expected = -torch.log_softmax(torch.tensor([0.0, 0.3, 1.2, -0.5, 2.0]), 0)[0]
    assert torch.isclose(task_loss(batch, logits, logits), expected, atol=1e-5)


def test_lower_then_upper_layers_on_one_text_are_the_whole_encoder(folder: Path) -> None:
    """Without bits and with the upper layers being the next ones, a split is no change at all."""
    reader = build(folder / "bert", SPLIT).eval()
    ids = torch.randint(5, 30, (2, 11), generator=torch.Generator().manual_seed(1))
    mask = torch.ones_like(ids, dtype=torch.bool)
    whole = BertModel.from_pretrained(folder / "bert").eval()
    with torch.no_grad():
        split = run_layers(reader.upper.layers, reader.lower(ids, mask), mask)
        assert torch.allclose(split, whole(ids).last_hidden_state, atol=1e-5)


def test_the_last_layer_gives_the_needed_positions_what_the_whole_layer_would(folder: Path) -> None:
    layer = build(folder / "bert", SPLIT).eval().upper.layers[-1]
    states = torch.randn(2, 9, 32, generator=torch.Generator().manual_seed(0))
    mask = torch.arange(9)[None] < torch.tensor([[9], [7]])
    with torch.no_grad():
        whole = run_layers(torch.nn.ModuleList([layer]), states, mask)
        assert torch.allclose(run_last_layer(layer, states[:, 4:], states, mask), whole[:, 4:], atol=1e-5)


def test_padding_changes_no_logit(folder: Path) -> None:
    reader = build(folder / "bert", SPLIT).eval()
    batch = one_batch(folder)
    with torch.no_grad():
        start, _, _, _ = read_batch(reader, batch, binarized=True)
        for pair in range(len(batch.pair_question)):
            p, q = batch.pair_passage[pair], batch.pair_question[pair]
            ids = batch.passage_ids[p][batch.passage_ids[p] != 0][None]
            q_ids = batch.question_ids[q][batch.question_ids[q] != 0][None]
            body = batch.body_ids[p][batch.body_mask[p]][None]
            at = int(batch.body_start[p])
            h = reader.lower(ids, ids != 0)[:, at : at + body.shape[1]]
            h_q = reader.lower(q_ids, q_ids != 0)
            alone, _ = reader.read(h_q, q_ids, h, body, torch.ones_like(body, dtype=torch.bool), binarized=True)
            assert torch.allclose(alone[0], start[pair, : body.shape[1]], atol=1e-4)


def test_shared_tokens_are_those_on_both_sides_and_never_padding() -> None:
    p_ids = torch.tensor([[7, 8, 9, 0]])
    q_ids = torch.tensor([[2, 9, 7, 3, 0]])
    shared_p, shared_q = shared_tokens(p_ids, p_ids != 0, q_ids)
    assert shared_p.tolist() == [[True, False, True, False]]
    assert shared_q.tolist() == [[False, True, True, False, False]]


class KilledError(Exception):
    """A kill in the middle of a run."""


def test_a_stopped_run_goes_on_to_the_same_weights(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = [folder / "train.jsonl"]
    config = TrainConfig(steps=6, window=40, pair_tokens=64, binarize_from=0.5, teacher_every=2)
    train(folder / "bert", data, data, tmp_path / "whole", SPLIT, config, eval_every=6, save_every=6)

    step = Trainer._step

    def stop_after_four(self: Trainer, batch: Batch) -> float:
        if self.step == 4:
            raise KilledError
        return step(self, batch)

    monkeypatch.setattr(Trainer, "_step", stop_after_four)
    with pytest.raises(KilledError):
        train(folder / "bert", data, data, tmp_path / "parts", SPLIT, config, eval_every=6, save_every=4)
    monkeypatch.setattr(Trainer, "_step", step)
    train(folder / "bert", data, data, tmp_path / "parts", SPLIT, config, eval_every=6, save_every=4)
    whole, parts = load_reader(tmp_path / "whole").state_dict(), load_reader(tmp_path / "parts").state_dict()
    assert whole.keys() == parts.keys()
    for name in whole:
        assert torch.allclose(whole[name], parts[name], atol=1e-5), name


def test_a_few_steps_lower_the_loss_through_the_bits(folder: Path, tmp_path: Path) -> None:
    data = [folder / "train.jsonl"]
    config = TrainConfig(steps=120, window=40, negatives=0.0, lr=2e-3, binarize_from=0.3, teacher_every=9)
    figures = train(folder / "bert", data, data, tmp_path / "run", SPLIT, config, eval_every=120, save_every=120)
    log = [json.loads(line) for line in (tmp_path / "run" / "log.jsonl").read_text().splitlines()]
    assert log[-1]["bits"] is True
    assert figures["f1"] == 100.0


def test_a_run_in_bfloat16_learns_as_well(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a GPU, or a CPU with AMX, does by itself."""
    monkeypatch.setattr("export.train._fast_bfloat16", lambda device: True)
    data = [folder / "train.jsonl"]
    config = TrainConfig(steps=120, window=40, negatives=0.0, lr=2e-3, binarize_from=0.3, teacher_every=9)
    figures = train(folder / "bert", data, data, tmp_path / "run", SPLIT, config, eval_every=120, save_every=120)
    assert figures["f1"] > 80


def test_a_run_with_other_options_is_refused(folder: Path, tmp_path: Path) -> None:
    data = [folder / "train.jsonl"]
    train(
        folder / "bert",
        data,
        data,
        tmp_path / "run",
        SPLIT,
        TrainConfig(steps=1, window=40),
        eval_every=1,
        save_every=1,
    )
    with pytest.raises(ExportError, match="other options or data"):
        train(folder / "bert", data, data, tmp_path / "run", SPLIT, TrainConfig(steps=1, window=40, lr=1.0))


@pytest.mark.parametrize(
    ("split", "message"),
    [
        (SplitConfig(split_layer=4, upper_layers=1, bits=16), "does not fit 3 layers"),
        (SplitConfig(split_layer=2, upper_layers=0, bits=16), "does not fit 3 layers"),
        (SplitConfig(split_layer=2, upper_layers=1, bits=12), "multiple of 8"),
        (SplitConfig(split_layer=2, upper_layers=1, bits=40), "at most the hidden size 32"),
    ],
)
def test_sizes_that_do_not_fit_the_checkpoint_are_refused(folder: Path, split: SplitConfig, message: str) -> None:
    with pytest.raises(ExportError, match=message):
        build(folder / "bert", split)


def test_inputs_that_are_not_there_are_named(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(ExportError, match=r"no config\.json"):
        build(tmp_path, SPLIT)
    with pytest.raises(ExportError, match=r"nothing\.jsonl does not exist"):
        list(load_passages([tmp_path / "nothing.jsonl"], load_tokenizer(folder / "bert"), 40))
    row = '{"context": "", "question": "", "answers": []}'
    for line, message in (("{", "is not JSON"), ("3", "is no object with"), ("{}", "is no object with")):
        (tmp_path / "bad.jsonl").write_text(f"{row}\n{line}")
        with pytest.raises(ExportError, match=rf"bad\.jsonl:2 {message}"):
            list(read_rows([tmp_path / "bad.jsonl"]))


def test_files_without_an_answerable_question_are_refused(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "none.jsonl").write_text('{"context": "a", "question": "b", "answers": []}')
    with pytest.raises(ExportError, match="hold no answerable question"):
        train(
            folder / "bert",
            [tmp_path / "none.jsonl"],
            [tmp_path / "none.jsonl"],
            tmp_path / "run",
            SPLIT,
            TrainConfig(),
        )


def test_a_finished_run_keeps_its_figures_when_it_is_started_again(folder: Path, tmp_path: Path) -> None:
    data = [folder / "train.jsonl"]
    config = TrainConfig(steps=2, window=40)
    records = []
    for _ in range(2):
        train(folder / "bert", data, data, tmp_path / "run", SPLIT, config, eval_every=2, save_every=2)
        records.append(json.loads((tmp_path / "run" / "train.json").read_text()))
    assert records[0] == records[1]
    assert "f1" in records[0]["dev"]
