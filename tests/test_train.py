"""Data that lines up, a loss that is what it says, a run that goes on where it stopped."""

import json
import shutil
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from click.testing import CliRunner
from tokenizers import Tokenizer
from torch.nn import functional as F
from transformers import BertModel

from export.cli import cli
from export.data import Batch, batches, load_passages, load_tokenizer, read_rows
from export.full import FullReader
from export.graphs import OutlierLinear
from export.losses import logit_distillation, task_loss
from export.reader import (
    Reading,
    RetrievalHead,
    SplitConfig,
    SplitReader,
    load_bert,
    run_last_layer,
    run_layers,
    shared_tokens,
)
from export.recipe import Recipe, load_recipe, make_recipe
from export.saved import alone_in, load_full, load_reader
from export.step import MatmulAttention, Trainer, body_states, read_full, read_split, round_inputs, span_overlaps
from export.train import agreed, train
from store.bundle import file_hash
from store.errors import ExportError
from store.runs import common_ids
from tests.tiny import CONTEXT, RECIPE, checkpoint, questions

SPLIT = RECIPE.split
SHAPE = ("split_layer", "upper_layers", "bits", "code_bits", "match_rank")


def recipe(**tables: dict[str, Any]) -> Recipe:
    """The tiny recipe with other settings."""
    return replace(RECIPE, **{name: replace(getattr(RECIPE, name), **values) for name, values in tables.items()})


@pytest.fixture(scope="module", autouse=True)
def float32() -> Iterator[None]:
    """The same losses whether or not this processor is faster in bfloat16."""
    with pytest.MonkeyPatch.context() as patch:
        for module in ("step", "train"):
            patch.setattr(f"export.{module}.fast_bfloat16", lambda device: False)
        yield


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("train")
    checkpoint(folder / "bert")
    questions(folder / "train.jsonl")
    return folder


@pytest.fixture(scope="module")
def whole_run(folder: Path) -> Path:
    """A run of all three steps that nobody stopped."""
    data = [folder / "train.jsonl"]
    train(folder / "bert", data, data, folder / "whole", RECIPE, eval_every=6, save_every=6)
    return folder / "whole"


def one_batch(folder: Path, unanswerable: float = 0.0, second: float = 0.0) -> Batch:
    tokenizer = load_tokenizer(folder / "bert")
    passages = load_passages([folder / "train.jsonl"], tokenizer, window=40)
    return next(iter(batches(passages, 4096, 0, unanswerable, second)))


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
    batch = one_batch(folder, unanswerable=1.0)
    assert (batch.gold_pair == -1).all()
    gold = one_batch(folder)
    for question, passage in zip(batch.pair_question, batch.pair_passage, strict=True):
        assert passage != gold.pair_passage[gold.gold_pair[question]]


def test_a_second_passage_stands_next_to_the_right_one(folder: Path) -> None:
    batch, gold = one_batch(folder, second=1.0), one_batch(folder)
    right = gold.pair_passage[gold.gold_pair]
    assert (batch.pair_passage[batch.gold_pair] == right).all()
    assert batch.slot.bincount().tolist() == [len(right), len(right)]
    other = batch.slot == 1
    assert (batch.pair_passage[other] != right[batch.pair_question[other]]).all()


def test_scores_are_normalised_over_all_passages_of_a_question(folder: Path) -> None:
    passages = load_passages([folder / "train.jsonl"], load_tokenizer(folder / "bert"), window=40)
    batch = next(iter(batches(passages, 4096, 0, 0.3, 1.0, others=3)))
    seen = batch.pair_question.bincount()
    assert int(seen.max()) > 2
    assert (batch.gold_pair < 0).any()
    n = batch.body_ids.shape[1]
    start, end = torch.randn(2, len(batch.pair_question), n, generator=torch.Generator().manual_seed(4))
    wanted = []
    for question, pair in enumerate(batch.gold_pair.tolist()):
        for logits, place in ((start, batch.start[question]), (end, batch.end[question])):
            every = torch.cat([logits[batch.pair_question == question].flatten(), torch.zeros(1)])
            wanted.append(every.logsumexp(0) - (logits[pair, place] if pair >= 0 else 0.0))
    loss = task_loss(batch, Reading(start, end, torch.empty(0), None))
    assert torch.allclose(loss, torch.stack(wanted).mean(), atol=1e-5)


def test_a_code_weighs_each_token_and_no_padding() -> None:
    torch.manual_seed(0)
    head = RetrievalHead(8, 16)
    h, mask = torch.randn(2, 5, 8), torch.tensor([[True] * 5, [True] * 3 + [False] * 2])
    assert torch.allclose(head(h, mask)[1], head.dense(h[1, :3].mean(0)), atol=1e-6)
    with torch.no_grad():
        head.weight.weight.copy_(100 * h[1:, 2])
    assert torch.allclose(head(h, mask)[1], head.dense(h[1, (h[1, :3] @ h[1, 2]).argmax()]), atol=1e-4)


def test_body_states_are_the_body_tokens_own(folder: Path) -> None:
    batch = one_batch(folder)
    ids = body_states(batch.passage_ids[..., None].float(), batch)[..., 0].long()
    assert torch.equal(ids[batch.body_mask], batch.body_ids[batch.body_mask])


def test_lower_then_upper_layers_on_one_text_are_the_whole_encoder(folder: Path) -> None:
    """Without bits and with the upper layers being the next ones, a split is no change at all."""
    reader = SplitReader(load_bert(folder / "bert"), SPLIT).eval()
    ids = torch.randint(5, 30, (2, 11), generator=torch.Generator().manual_seed(1))
    mask = torch.ones_like(ids, dtype=torch.bool)
    whole = BertModel.from_pretrained(folder / "bert").eval()
    with torch.no_grad():
        split = run_layers(reader.upper.layers, reader.lower(ids, mask), mask)
        assert torch.allclose(split, whole(ids).last_hidden_state, atol=1e-5)


def test_the_last_layer_gives_the_needed_positions_what_the_whole_layer_would(folder: Path) -> None:
    layer = SplitReader(load_bert(folder / "bert"), SPLIT).eval().upper.layers[-1]
    states = torch.randn(2, 9, 32, generator=torch.Generator().manual_seed(0))
    mask = torch.arange(9)[None] < torch.tensor([[9], [7]])
    with torch.no_grad():
        whole = run_layers(torch.nn.ModuleList([layer]), states, mask)
        assert torch.allclose(run_last_layer(layer, states[:, 4:], states, mask), whole[:, 4:], atol=1e-5)


@pytest.mark.parametrize("kind", ["residual", "context"])
def test_padding_changes_no_logit(folder: Path, kind: str) -> None:
    reader = SplitReader(load_bert(folder / "bert"), replace(SPLIT, binarizer=kind)).eval()
    batch = one_batch(folder)
    with torch.no_grad():
        for constant in reader.binarizer.parameters():
            constant.copy_(0.1 * torch.randn(constant.shape, generator=torch.Generator().manual_seed(1)))
        start = read_split(reader, batch, binarized=True)[0].start
        for pair in range(len(batch.pair_question)):
            p, q = batch.pair_passage[pair], batch.pair_question[pair]
            ids = batch.passage_ids[p][batch.passage_ids[p] != 0][None]
            q_ids = batch.question_ids[q][batch.question_ids[q] != 0][None]
            body = batch.body_ids[p][batch.body_mask[p]][None]
            at = int(batch.body_start[p])
            states = reader.binarize(reader.lower(ids, ids != 0)[:, at : at + body.shape[1]], body)
            h_q = reader.lower(q_ids, q_ids != 0)
            alone = reader.read(h_q, q_ids, states, body, torch.ones_like(body, dtype=torch.bool)).start
            assert torch.allclose(alone[0], start[pair, : body.shape[1]], atol=1e-4)


def test_the_full_reader_sees_question_and_passage_as_one_text_without_gaps(folder: Path) -> None:
    """Logits in a padded batch are those of transformers' own encoder on [CLS] question [SEP] heading [SEP] body."""
    bert = BertModel.from_pretrained(folder / "bert").eval()
    reader = FullReader(load_bert(folder / "bert")).eval()
    batch = one_batch(folder)
    with torch.no_grad():
        reading = read_full(reader, batch, attention=True)
        for pair in range(len(batch.pair_question)):
            p, q = batch.pair_passage[pair], batch.pair_question[pair]
            q_ids = batch.question_ids[q][batch.question_ids[q] != 0]
            p_ids = batch.passage_ids[p][batch.passage_ids[p] != 0][1:]
            segments = torch.tensor([[0] * len(q_ids) + [1] * len(p_ids)])
            outputs = bert(torch.cat([q_ids, p_ids])[None], token_type_ids=segments)
            logits = reader.span(outputs.last_hidden_state)[0]
            first, length = len(q_ids) + int(batch.body_start[p]) - 1, int(batch.body_mask[p].sum())
            expected = logits[first : first + length] - logits[:1]
            assert torch.allclose(reading.start[pair, :length], expected[:, 0], atol=1e-4)
            assert torch.allclose(reading.end[pair, :length], expected[:, 1], atol=1e-4)


def test_the_question_attention_is_the_last_layers_own(folder: Path) -> None:
    """Against transformers' attention weights, averaged over heads and question tokens."""
    bert = BertModel.from_pretrained(folder / "bert", attn_implementation="eager").eval()
    reader = FullReader(load_bert(folder / "bert")).eval()
    batch = one_batch(folder)
    p, q = batch.pair_passage[0], batch.pair_question[0]
    q_ids = batch.question_ids[q][batch.question_ids[q] != 0]
    p_ids = batch.passage_ids[p][batch.passage_ids[p] != 0][1:]
    segments = torch.tensor([[0] * len(q_ids) + [1] * len(p_ids)])
    with torch.no_grad():
        outputs = bert(torch.cat([q_ids, p_ids])[None], token_type_ids=segments, output_attentions=True)
        attention = read_full(reader, batch, attention=True).attention
    assert attention is not None
    expected = outputs.attentions[-1][0, :, : len(q_ids)].mean((0, 1))
    first, length = len(q_ids) + int(batch.body_start[p]) - 1, int(batch.body_mask[p].sum())
    assert torch.allclose(attention[0, :length], expected[first : first + length], atol=1e-5)
    assert (attention[0, length:] == 0).all()


def test_shared_tokens_are_those_on_both_sides_and_never_padding() -> None:
    p_ids = torch.tensor([[7, 8, 9, 0]])
    q_ids = torch.tensor([[2, 9, 7, 3, 0]])
    shared_p, shared_q = shared_tokens(p_ids, p_ids != 0, q_ids)
    assert shared_p.tolist() == [[True, False, True, False]]
    assert shared_q.tolist() == [[False, True, True, False, False]]


class KilledError(Exception):
    """A kill in the middle of a run."""


@pytest.mark.parametrize("stopped_in", ["full", "decomposed", "binarized"])
def test_a_stopped_run_goes_on_to_the_same_weights(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, whole_run: Path, stopped_in: str
) -> None:
    data = [folder / "train.jsonl"]
    step = Trainer._step

    def stop_after_four(self: Trainer, batch: Batch) -> dict[str, float]:
        if self.step == 4 and self.name == stopped_in:
            raise KilledError
        return step(self, batch)

    monkeypatch.setattr(Trainer, "_step", stop_after_four)
    with pytest.raises(KilledError):
        train(folder / "bert", data, data, tmp_path / "parts", RECIPE, eval_every=6, save_every=4)
    steps: list[str] = []

    def counted(self: Trainer, batch: Batch) -> dict[str, float]:
        steps.append(self.name)
        return step(self, batch)

    monkeypatch.setattr(Trainer, "_step", counted)
    train(folder / "bert", data, data, tmp_path / "parts", RECIPE, eval_every=6, save_every=4)
    assert steps.count(stopped_in) == 2  # the four before the stop were kept
    whole, parts = load_reader(whole_run).state_dict(), load_reader(tmp_path / "parts").state_dict()
    assert whole.keys() == parts.keys()
    for name in whole:
        assert torch.allclose(whole[name], parts[name], atol=1e-5), name


LONG = {"steps": 90, "lr": 2e-3, "sentences_every": 9, "unanswerable": 0.0, "second": 0.0}


def test_three_steps_lower_the_loss_through_the_bits(folder: Path, tmp_path: Path) -> None:
    data = [folder / "train.jsonl"]
    longer = recipe(full=LONG, decomposed=LONG, binarized=LONG, data={"pair_tokens": 4096})
    figures = train(folder / "bert", data, data, tmp_path / "run", longer, eval_every=60, save_every=60)
    assert {step: dev["f1"] for step, dev in figures.items()} == {"full": 100, "decomposed": 100, "binarized": 100}
    log = json.loads((tmp_path / "run" / "binarized" / "log.jsonl").read_text().splitlines()[-1])
    assert {"task", "logits", "recovery", "sentences"} <= set(log)


def test_attention_by_products_is_the_fused_one() -> None:
    q, k, v = torch.randn(3, 2, 4, 7, 8, generator=torch.Generator().manual_seed(1)).requires_grad_()
    mask = torch.where(torch.arange(7) < 5, 0.0, torch.finfo(torch.float32).min)[None, None, None]
    outs = []
    for mode in (MatmulAttention(), nullcontext()):
        with mode:
            out = F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
        assert ("ScaledDot" in type(out.grad_fn).__name__) == isinstance(mode, nullcontext)
        outs.append((out, *torch.autograd.grad(out.pow(2).sum(), (q, k, v))))
    for ours, fused in zip(*outs, strict=True):
        assert torch.allclose(ours, fused, atol=1e-5)


def test_a_run_in_bfloat16_learns_as_well(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a GPU, or a CPU with AMX, does by itself."""
    monkeypatch.setattr("export.step.fast_bfloat16", lambda device: True)
    data = [folder / "train.jsonl"]
    longer = recipe(full=LONG, decomposed=LONG, binarized=LONG, data={"pair_tokens": 4096})
    figures = train(folder / "bert", data, data, tmp_path / "run", longer, eval_every=60, save_every=60)
    assert figures["binarized"]["f1"] > 80


def test_the_decomposed_step_starts_from_the_full_reader(folder: Path, tmp_path: Path) -> None:
    """Layers and span head, cut in two: nothing of step 1 is lost."""
    data = [folder / "train.jsonl"]
    still = {"steps": 1, "lr": 0.0, "head_lr": 0.0}
    train(folder / "bert", data, data, tmp_path / "run", recipe(decomposed=still, binarized={"steps": 0}))
    full, split = load_full(tmp_path / "run" / "full"), load_reader(tmp_path / "run" / "decomposed")
    layers = [*split.lower.layers, *split.upper.layers]
    assert len(layers) == len(full.layers)
    for ours, theirs in [*zip(layers, full.layers, strict=True), (split.upper.span, full.span)]:
        for name, value in theirs.state_dict().items():
            assert torch.equal(ours.state_dict()[name], value), name


def test_a_step_left_out_needs_no_teacher(folder: Path, tmp_path: Path) -> None:
    data = [folder / "train.jsonl"]
    figures = train(folder / "bert", data, data, tmp_path / "run", recipe(full={"steps": 0}))
    assert list(figures) == ["decomposed", "binarized"]
    figures = train(
        folder / "bert", data, data, tmp_path / "full", recipe(decomposed={"steps": 0}, binarized={"steps": 0})
    )
    assert list(figures) == ["full"]
    alone = recipe(decomposed={"steps": 0}, binarized={"steps": 0, "teacher": "decomposed"})
    assert list(train(folder / "bert", data, data, tmp_path / "alone", alone)) == ["full"]
    with pytest.raises(ExportError, match=r"steps = 0 leaves out: set binarized.teacher='full'$"):
        untaught = recipe(decomposed={"steps": 0}, binarized={"teacher": "decomposed"})
        train(folder / "bert", data, data, tmp_path / "untaught", untaught)


def test_the_default_binarized_step_trains_and_goes_on(folder: Path, tmp_path: Path, whole_run: Path) -> None:
    """The default recipe's binarizer, teacher and bare words, every other step exact, stopped and gone on with."""
    data, split = [folder / "train.jsonl"], replace(Recipe().split, **{k: getattr(SPLIT, k) for k in SHAPE})
    step = replace(Recipe().binarized, steps=4, sentences_every=2, average=0.75, rounded=True, exact=0.5)
    settings = replace(RECIPE, split=split, binarized=step)
    stopped = tmp_path / "stopped" / "binarized"
    whole = train(folder / "bert", data, data, tmp_path / "whole", settings, share=whole_run, save_every=2)
    save, saved = Trainer.save, []

    def save_once(self: Trainer) -> None:
        save(self)
        saved.append(self.step)
        raise KilledError

    with pytest.MonkeyPatch.context() as patch, pytest.raises(KilledError):
        patch.setattr(Trainer, "save", save_once)
        train(folder / "bert", data, data, tmp_path / "stopped", settings, share=whole_run, save_every=2)
    assert saved == [2]
    assert (stopped / "last.pt").is_file()
    assert train(folder / "bert", data, data, tmp_path / "stopped", settings, share=whole_run, save_every=2) == whole
    assert list(whole["binarized"]) == ["passages", "em", "f1", "exact_em", "exact_f1"]
    one, other = (load_reader(tmp_path / run).state_dict() for run in ("whole", "stopped"))
    assert int(one["binarizer.edge"]) == 3
    for name in one:
        assert torch.allclose(one[name], other[name], atol=1e-5), name


def test_a_share_of_the_binarized_steps_reads_exact_states(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, whole_run: Path
) -> None:
    losses: list[set[str]] = []
    step = Trainer._losses

    def watched(self: Trainer, batch: Batch) -> dict[str, torch.Tensor]:
        found = step(self, batch)
        if self.name == "binarized":
            losses.append(set(found))
        return found

    monkeypatch.setattr(Trainer, "_losses", watched)
    data = [folder / "train.jsonl"]
    for share, expected in ((0.0, [0, 0, 0, 0, 0, 0]), (0.5, [0, 1, 0, 1, 0, 1]), (1 / 3, [0, 0, 1, 0, 0, 1])):
        losses.clear()
        settings = replace(RECIPE, binarized=replace(RECIPE.binarized, exact=share, recovery=0.9))
        train(folder / "bert", data, data, tmp_path / str(share), settings, share=whole_run)
        assert ["recovery" not in found for found in losses] == expected  # nothing was restored


def test_a_reader_is_left_with_the_mean_of_its_last_weights(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data, seen = [folder / "train.jsonl"], []
    step = Trainer._step

    def watched(self: Trainer, batch: Batch) -> dict[str, float]:
        losses = step(self, batch)
        seen.append({name: weight.detach().clone() for name, weight in self.reader.named_parameters()})
        return losses

    monkeypatch.setattr(Trainer, "_step", watched)
    settings = recipe(full={"steps": 5, "average": 0.6}, decomposed={"steps": 0}, binarized={"steps": 0})
    train(folder / "bert", data, data, tmp_path / "run", settings)
    left = dict(load_full(tmp_path / "run" / "full").named_parameters())
    assert len(seen) == 5
    for name, weight in left.items():
        assert torch.allclose(weight, torch.stack([each[name] for each in seen[2:]]).mean(0), atol=1e-6), name
    assert not torch.allclose(left["span.weight"], seen[-1]["span.weight"], atol=1e-6)


def test_products_see_what_those_of_int8_graphs_see(folder: Path) -> None:
    """ONNX Runtime's own rounding of each text, and gradients as if there were none."""
    reader = SplitReader(load_bert(folder / "bert"), SPLIT)
    quantize = onnx.helper.make_graph(
        [
            onnx.helper.make_node("DynamicQuantizeLinear", ["x"], ["q", "scale", "zero"]),
            onnx.helper.make_node("DequantizeLinear", ["q", "scale", "zero"], ["y"]),
        ],
        "rounding",
        [onnx.helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, [None, None])],
        [onnx.helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, [None, None])],
    )
    model = onnx.helper.make_model(quantize, opset_imports=[onnx.helper.make_opsetid("", 17)], ir_version=9)
    session = onnxruntime.InferenceSession(model.SerializeToString())
    layer = reader.upper.layers[0]
    plain, wide = layer.attention.self.query, layer.intermediate.dense
    x = torch.randn(2, 7, plain.in_features, generator=torch.Generator().manual_seed(3)).requires_grad_()
    before = [plain(x), wide(x)]
    (exact,) = torch.autograd.grad(before[0].sum(), x)
    round_inputs(reader)
    for dense, apart in ((plain, 0), (wide, OutlierLinear.channels)):
        largest = x.abs().flatten(0, 1).amax(0).topk(apart).indices.tolist()
        rounded = x.detach().numpy().copy()
        rounded[..., largest] = 0
        rounded = np.stack([session.run(None, {"x": text})[0] for text in rounded])
        rounded[..., largest] = x.detach().numpy()[..., largest]
        assert torch.allclose(dense(x), F.linear(torch.from_numpy(rounded), dense.weight, dense.bias), atol=1e-5)
    assert not torch.allclose(plain(x), before[0], atol=1e-4)
    assert torch.equal(torch.autograd.grad(plain(x).sum(), x)[0], exact)


def test_a_run_takes_what_another_has_finished_by_the_same_recipe(
    folder: Path, tmp_path: Path, whole_run: Path
) -> None:
    data = [folder / "train.jsonl"]
    other = recipe(split={"bits": 24}, binarized={"steps": 2})
    train(folder / "bert", data, data, tmp_path / "run", other, share=whole_run)
    assert (tmp_path / "run" / "full").resolve() == (whole_run / "full").resolve()
    assert (tmp_path / "run" / "decomposed").resolve() == (whole_run / "decomposed").resolve()
    assert not (tmp_path / "run" / "binarized").is_symlink()
    assert load_reader(tmp_path / "run").config.bits == 24
    deeper = recipe(split={"split_layer": 2})
    train(folder / "bert", data, data, tmp_path / "deeper", deeper, share=whole_run)
    assert (tmp_path / "deeper" / "full").is_symlink()
    assert not (tmp_path / "deeper" / "decomposed").is_symlink()


def test_the_binarized_step_can_go_on_from_another_runs_reader(folder: Path, tmp_path: Path, whole_run: Path) -> None:
    """Constants and all, on other data, taught by that run's own readers."""
    other = tmp_path / "other.jsonl"
    other.write_text("".join(reversed((folder / "train.jsonl").read_text().splitlines(keepends=True))))
    data, seen = [folder / "train.jsonl"], []
    still = recipe(binarized={"steps": 1, "lr": 0.0, "head_lr": 0.0, "teacher": "decomposed", "share": 1.0})

    def go_on(out: Path, settings: Recipe, start: Path | None) -> dict[str, Any]:
        return train(folder / "bert", [other], data, out, settings, start_binarized=start)

    assert list(go_on(tmp_path / "run", still, whole_run)) == ["binarized"]
    ours, theirs = load_reader(tmp_path / "run" / "binarized").state_dict(), load_reader(whole_run).state_dict()
    assert ours.keys() == theirs.keys()
    for name, value in theirs.items():
        assert torch.equal(ours[name], value), name
    for step in ("full", "decomposed"):
        assert (tmp_path / "run" / step).resolve() == (whole_run / step).resolve()
    for step in ("", "binarized/"):
        record = json.loads((tmp_path / "run" / step / "train.json").read_text())
        assert record["start_binarized"] == file_hash(whole_run / "reader.safetensors")
        seen.append((tmp_path / "run" / step / "train.json").stat().st_mtime_ns)
    go_on(tmp_path / "run", still, whole_run)
    assert seen == [(tmp_path / "run" / step / "train.json").stat().st_mtime_ns for step in ("", "binarized/")]
    with pytest.raises(ExportError, match="another recipe or data"):  # from another reader
        go_on(tmp_path / "run", still, tmp_path / "run")
    with pytest.raises(ExportError, match="reader of another shape"):
        go_on(tmp_path / "fewer", recipe(split={"bits": 8}), whole_run)
    shutil.copytree(whole_run, tmp_path / "copy")
    with pytest.raises(ExportError, match="give another folder"):
        go_on(tmp_path / "copy", still, whole_run)


def test_the_decomposed_step_can_start_from_another_runs_reader(folder: Path, tmp_path: Path, whole_run: Path) -> None:
    data = [folder / "train.jsonl"]
    still = {"steps": 1, "lr": 0.0, "head_lr": 0.0}
    settings = recipe(full={"steps": 0}, decomposed=still, binarized={"steps": 0})
    train(folder / "bert", data, data, tmp_path / "run", settings, start=whole_run)
    ours, theirs = load_reader(tmp_path / "run" / "decomposed").state_dict(), load_reader(whole_run).state_dict()
    for name, value in theirs.items():
        if not name.startswith("binarizer."):
            assert torch.equal(ours[name], value), name
    record = json.loads((tmp_path / "run" / "train.json").read_text())
    assert record["start"] == file_hash(whole_run / "reader.safetensors")
    before = (tmp_path / "run" / "decomposed" / "train.json").stat().st_mtime_ns
    train(folder / "bert", data, data, tmp_path / "run", settings, start=whole_run)
    assert (tmp_path / "run" / "decomposed" / "train.json").stat().st_mtime_ns == before
    with pytest.raises(ExportError, match="holds no finished run"):
        train(folder / "bert", data, data, tmp_path / "other", settings, start=tmp_path)
    with pytest.raises(ExportError, match="reader of another shape"):
        wider = recipe(full={"steps": 0}, split={"match_rank": 8})
        train(folder / "bert", data, data, tmp_path / "other", wider, start=whole_run)


def test_the_full_step_can_start_from_another_runs_reader(folder: Path, tmp_path: Path, whole_run: Path) -> None:
    data = [folder / "train.jsonl"]
    settings = recipe(full={"steps": 1, "lr": 0.0, "head_lr": 0.0}, decomposed={"steps": 0}, binarized={"steps": 0})
    train(folder / "bert", data, data, tmp_path / "run", settings, start_full=whole_run)
    ours, theirs = load_full(tmp_path / "run" / "full").state_dict(), load_full(whole_run / "full").state_dict()
    for name, value in theirs.items():
        assert torch.equal(ours[name], value), name
    record = json.loads((tmp_path / "run" / "full" / "train.json").read_text())
    assert record["start_full"] == file_hash(whole_run / "full" / "reader.safetensors")
    with pytest.raises(ExportError, match="holds no finished run"):
        train(folder / "bert", data, data, tmp_path / "other", settings, start_full=tmp_path)


def test_the_first_steps_read_short_windows(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []
    losses = Trainer._losses
    monkeypatch.setattr(
        Trainer, "_losses", lambda self, batch: seen.append(batch.body_ids.shape[1]) or losses(self, batch)
    )
    data = [folder / "train.jsonl"]
    settings = recipe(
        full={"steps": 10, "short": 0.6},
        decomposed={"steps": 0},
        binarized={"steps": 0},
        data={"short_window": 16, "pair_tokens": 256},
    )
    train(folder / "bert", data, data, tmp_path / "run", settings)
    assert len(seen) == 10
    assert max(seen[:6]) <= 16 < max(seen[6:])


@pytest.mark.parametrize(("share", "fewest", "most"), [(1.0, 1.0, 1.0), (0.5, 0.2, 0.8), (0.0, 0.0, 0.0)])
def test_common_words_are_read_without_their_bits(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, share: float, fewest: float, most: float
) -> None:
    tokenizer = load_tokenizer(folder / "bert")
    common = torch.from_numpy(common_ids(tokenizer.get_vocab()))
    passages: list[bool] = []
    binarize = SplitReader.binarize

    def watched(self: SplitReader, h: torch.Tensor, ids: torch.Tensor, bare: torch.Tensor | None = None) -> Any:
        if self.training:
            passages.extend([False] * len(h) if bare is None else bare.any(dim=1).tolist())
        return binarize(self, h, ids, bare)

    monkeypatch.setattr(SplitReader, "binarize", watched)
    data = [folder / "train.jsonl"]
    settings = recipe(full={"steps": 0}, decomposed={"steps": 0}, binarized={"steps": 6, "bare": share})
    train(folder / "bert", data, data, tmp_path / "run", settings)
    assert common[[tokenizer.token_to_id(word) for word in ("the", ".")]].all()
    assert fewest <= sum(passages) / len(passages) <= most


def words(tokenizer: Tokenizer, ids: torch.Tensor) -> str:
    """A row of padded ids as text, without the special tokens."""
    return " ".join(tokenizer.id_to_token(i) for i in ids.tolist() if i > 4)


def retrieved(path: Path) -> Path:
    """Two noisy rows, each with a passage that retrieval found."""
    rows = [
        ("which port?", "The staging database listens on port 5433.", "5433", "The garden database listens."),
        ("who planted?", CONTEXT, "march", "A pear tree."),
    ]
    with path.open("w") as lines:
        for question, context, answer, negative in rows:
            row = {
                "title": "house",
                "question": question,
                "context": context,
                "answers": [{"text": answer, "answer_start": context.index(answer)}],
                "hard_negatives": [{"title": "garden", "text": negative}, {"title": "garden", "text": "The a the."}],
            }
            lines.write(json.dumps(row) + "\n")
    return path


def test_a_hard_negative_stands_beside_its_question(folder: Path, tmp_path: Path) -> None:
    tokenizer = load_tokenizer(folder / "bert")
    passages = load_passages([retrieved(tmp_path / "retrieved.jsonl")], tokenizer, window=40)
    assert [len(p.questions) for p in passages] == [1, 0, 1, 0]
    (batch,) = batches(passages, 4096, 0, second=1.0)
    shown: dict[str, list[str]] = {}
    for question, passage in zip(batch.pair_question.tolist(), batch.pair_passage.tolist(), strict=True):
        asked = words(tokenizer, batch.question_ids[question])
        shown.setdefault(asked, []).append(words(tokenizer, batch.body_ids[passage]))
    assert shown == {
        "which port ?": ["the staging database listens on port 5433 .", "the garden database listens ."],
        "who planted ?": [CONTEXT.lower().replace(".", " ."), "a pear tree ."],
    }


def test_a_negative_that_holds_another_answer_of_its_context_is_passed_over(folder: Path, tmp_path: Path) -> None:
    path, rows = tmp_path / "rows.jsonl", []
    found = {"march": ["In November it is cold."], "november": ["Spring begins in March.", "A pear."]}
    for text, negatives in found.items():
        answer = {"text": text, "answer_start": CONTEXT.index(text)}
        row = {"title": "", "question": "when?", "context": CONTEXT, "answers": [answer]}
        rows.append({**row, "hard_negatives": [{"title": "", "text": negative} for negative in negatives]})
    tokenizer = load_tokenizer(folder / "bert")
    for some, expected in ((rows, "a pear ."), (rows[:1], "in november [UNK] is [UNK] .")):
        path.write_text("\n".join(map(json.dumps, some)))
        negative = load_passages([path], tokenizer, 40)[-1]
        assert " ".join(tokenizer.id_to_token(i) for i in negative.body) == expected
    rows[1]["hard_negatives"].pop()
    path.write_text("\n".join(map(json.dumps, rows)))
    assert len(load_passages([path], tokenizer, 40)) == 1  # none is left


def test_the_decomposed_reader_can_teach_the_binarized_one(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, whole_run: Path
) -> None:
    data, losses = [folder / "train.jsonl"], Trainer._losses
    decomposed = load_reader(whole_run / "decomposed")
    seen: list[tuple[torch.Tensor, ...]] = []

    def watched(self: Trainer, batch: Batch) -> dict[str, torch.Tensor]:
        found = losses(self, batch)
        assert isinstance(self.reader, SplitReader)
        with torch.no_grad():
            theirs = read_split(decomposed, batch, False)[0]
            ours = read_split(self.reader, batch, True)[0]
            mask = batch.body_mask[batch.pair_passage]
            seen.append((found["logits"], logit_distillation(ours, theirs, 2.0)))
            seen.append((found["tokens"], (ours.states - theirs.states).pow(2).mean(-1)[mask].mean()))
        return found

    monkeypatch.setattr(Trainer, "_losses", watched)
    settings = recipe(binarized={"steps": 2, "teacher": "decomposed", "tokens": 1.0, "share": 1.0})
    train(folder / "bert", data, data, tmp_path / "run", settings, share=whole_run)
    assert (tmp_path / "run" / "decomposed").is_symlink()  # what teaches the last step changes nothing before it
    assert len(seen) == 4
    for found, expected in seen:
        assert torch.isclose(found, expected, rtol=1e-3)
    monkeypatch.undo()
    for binarized, sentence in (
        ({"teacher": "nobody"}, r"\[binarized\] teacher is 'nobody': it can be 'full' or 'decomposed'"),
        ({"teacher": "decomposed", "tokens": 1.0}, "share is of the full reader's attention: set it to 1"),
    ):
        with pytest.raises(ExportError, match=sentence):
            train(folder / "bert", data, data, tmp_path / "other", recipe(binarized=binarized))
    with pytest.raises(ExportError, match=r"\[decomposed\] teacher is 'decomposed': it can be 'full'$"):
        train(folder / "bert", data, data, tmp_path / "other", recipe(decomposed={"teacher": "decomposed"}))


def test_a_full_reader_is_no_split_one(whole_run: Path) -> None:
    with pytest.raises(ExportError, match="holds a full reader: give the run's folder"):
        load_reader(whole_run / "full")


def test_only_answers_that_the_full_reader_agrees_with_are_learned_from(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, whole_run: Path
) -> None:
    noisy, data = retrieved(tmp_path / "retrieved.jsonl"), [folder / "train.jsonl"]
    passages = load_passages([noisy], load_tokenizer(folder / "bert"), 40)
    full = load_full(whole_run / "full")
    batch = next(iter(batches(passages[:1], 4096, 0)))
    reading = read_full(full, batch)
    exact = replace(batch, start=reading.start.argmax(1), end=reading.start.argmax(1))
    reading.end = reading.start
    assert span_overlaps(reading, exact) == [1.0]
    calls: list[int] = []

    def first_only(full: FullReader, passages: Any, device: torch.device) -> list[list[int]]:
        calls.append(len(passages))
        return [[0] if number == 0 else [] for number in range(len(passages))]

    seen: set[str] = set()
    losses = Trainer._losses

    def watched(self: Trainer, batch: Batch) -> dict[str, torch.Tensor]:
        seen.update(f"{self.name}: {words(tokenizer, ids)}" for ids in batch.question_ids)
        return losses(self, batch)

    tokenizer = load_tokenizer(folder / "bert")
    monkeypatch.setattr("export.train.agreed", first_only)
    monkeypatch.setattr(Trainer, "_losses", watched)
    train(folder / "bert", data, data, tmp_path / "run", RECIPE, share=whole_run, retrieved=[noisy])
    assert calls == [4]  # once for both steps
    assert (tmp_path / "run" / "full").is_symlink()
    assert {"decomposed: which port ?", "binarized: which port ?"} <= seen
    assert not any("planted" in question and "tree" not in question for question in seen)
    again = agreed(full, passages, torch.device("cpu"))
    assert [len(kept) for kept in again[1::2]] == [0, 0]
    for passage, kept in zip(passages, again, strict=True):  # batched or alone
        alone = next(batches([passage], 1, 0)) if passage.questions else None
        overlaps = span_overlaps(read_full(full, alone), alone) if alone else []
        assert kept == [number for number, overlap in enumerate(overlaps) if overlap >= 0.5]
    record = json.loads((tmp_path / "run" / "train.json").read_text())
    assert record["retrieved"] == {"retrieved.jsonl": file_hash(noisy)}


def test_a_step_that_started_elsewhere_is_not_shared(folder: Path, tmp_path: Path, whole_run: Path) -> None:
    data = [folder / "train.jsonl"]
    started = recipe(decomposed={"steps": 2})
    train(folder / "bert", data, data, tmp_path / "a", started, share=whole_run, start=whole_run)
    train(folder / "bert", data, data, tmp_path / "b", started, share=tmp_path / "a")
    assert (tmp_path / "b" / "full").is_symlink()
    assert not (tmp_path / "b" / "decomposed").is_symlink()
    train(folder / "bert", data, data, tmp_path / "c", started, share=whole_run, start=whole_run)
    assert not (tmp_path / "c" / "decomposed").is_symlink()


def test_a_shared_step_is_never_trained_into_the_other_run(folder: Path, tmp_path: Path, whole_run: Path) -> None:
    data = [folder / "train.jsonl"]
    train(folder / "bert", data, data, tmp_path / "run", recipe(binarized={"steps": 2}), share=whole_run)
    with pytest.raises(ExportError, match="is shared with another run"):
        train(folder / "bert", data, data, tmp_path / "run", recipe(full={"steps": 7}))


def test_a_device_that_is_not_there_is_named_at_once(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(ExportError, match="device warp is not present"):
        train(folder / "bert", [], [], tmp_path / "run", RECIPE, device="warp")


def test_two_processes_never_train_into_one_folder(folder: Path, tmp_path: Path) -> None:
    data = str(folder / "train.jsonl")
    command = ["train", str(folder / "bert"), str(tmp_path / "run"), "--train", data, "--validation", data]
    with alone_in(tmp_path / "run"):
        refused = CliRunner().invoke(cli, command)
        assert "is training into" in str(refused.exception)
    assert not (tmp_path / "run").exists()
    wrong = CliRunner().invoke(cli, ["train", str(tmp_path), *command[2:]])
    assert isinstance(wrong.exception, ExportError)
    assert not (tmp_path / "run").exists()
    with alone_in(tmp_path / "run"):
        (tmp_path / "run" / "log").touch()
    assert (tmp_path / "run" / "log").exists()


def test_a_run_with_another_recipe_is_refused(folder: Path, tmp_path: Path) -> None:
    data = [folder / "train.jsonl"]
    train(folder / "bert", data, data, tmp_path / "run", recipe(full={"steps": 1}), save_every=1)
    with pytest.raises(ExportError, match="another recipe or data"):
        train(folder / "bert", data, data, tmp_path / "run", recipe(full={"steps": 1, "lr": 1.0}))


@pytest.mark.parametrize(
    ("split", "message"),
    [
        (SplitConfig(split_layer=4, upper_layers=2, bits=16), "does not fit 3 layers"),
        (SplitConfig(split_layer=2, upper_layers=0, bits=16), "does not fit 3 layers"),
        (SplitConfig(split_layer=1, upper_layers=2, bits=12), "multiple of 8"),
        (SplitConfig(split_layer=1, upper_layers=2, bits=40), "at most the hidden size 32"),
        (SplitConfig(split_layer=1, upper_layers=2, bits=0), "multiple of 8"),
        (SplitConfig(split_layer=1, upper_layers=2, bits=16, code_bits=12), "12 bits of a passage code"),
        (SplitConfig(split_layer=1, upper_layers=2, bits=16, binarizer="coin"), "no binarizer 'coin': it is one of"),
    ],
)
def test_sizes_that_do_not_fit_the_checkpoint_are_refused(folder: Path, split: SplitConfig, message: str) -> None:
    with pytest.raises(ExportError, match=message):
        SplitReader(load_bert(folder / "bert"), split)


def test_inputs_that_are_not_there_are_named(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(ExportError, match=r"no config\.json"):
        load_bert(tmp_path)
    with pytest.raises(ExportError, match=r"nothing\.jsonl does not exist"):
        list(load_passages([tmp_path / "nothing.jsonl"], load_tokenizer(folder / "bert"), 40))
    row = '{"context": "", "question": "", "answers": []}'
    wrong = ("3", "{}", '{"context": null, "question": "", "answers": []}', row.replace("[]", '["x"]'))
    for line, message in (("{", "is not JSON"), *((line, "is no object with") for line in wrong)):
        (tmp_path / "bad.jsonl").write_text(f"{row}\n{line}")
        with pytest.raises(ExportError, match=rf"bad\.jsonl:2 {message}"):
            list(read_rows([tmp_path / "bad.jsonl"]))


def test_files_without_an_answerable_question_are_refused(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "none.jsonl").write_text('{"context": "a", "question": "b", "answers": []}')
    with pytest.raises(ExportError, match="hold no answerable question"):
        train(folder / "bert", [tmp_path / "none.jsonl"], [tmp_path / "none.jsonl"], tmp_path / "run", RECIPE)


def test_a_finished_run_keeps_its_figures_when_it_is_started_again(folder: Path, whole_run: Path) -> None:
    data = [folder / "train.jsonl"]
    record = (whole_run / "train.json").read_bytes()
    weights = (whole_run / "reader.safetensors").stat().st_mtime_ns
    figures = train(folder / "bert", data, data, whole_run, RECIPE)
    assert list(figures) == ["full", "decomposed", "binarized"]
    assert (whole_run / "train.json").read_bytes() == record
    assert (whole_run / "reader.safetensors").stat().st_mtime_ns == weights


def test_a_recipe_names_what_it_sets() -> None:
    made = make_recipe({"full": {"steps": 7, "lr": 1}, "split": {"bits": 64}}, "here")
    assert (made.full.steps, made.full.lr, made.split.bits) == (7, 1.0, 64)
    assert made.decomposed == Recipe().decomposed


@pytest.mark.parametrize(
    ("text", "settings", "message"),
    [
        ("[ful]\nsteps = 1", [], r"no table \[ful\]"),
        ("steps = 1", [], r"no table \[steps\]"),
        ("[full]\nstep = 1", [], r"\[full\] has no setting step"),
        ("[full]\nsteps = 1.5", [], "steps must be int, not 1.5"),
        ("[full", [], "is not TOML"),
        ("", ["full.steps"], "is no setting"),
        ("", ["full.steps=many"], "is no setting"),
        ("", ["full.steps=true"], "steps must be int, not True"),
        ("full = 3", ["full.steps=9"], "is no setting"),
        ("", ["full.steps=-1"], "steps must be 0 to inf, not -1"),
        ("", ["full.lr=nan"], "lr must be 0 to 1, not nan"),
        ("", ["decomposed.share=0"], r"share must be 0\.01 to 1, not 0\.0"),
        ("", ["binarized.sentences_every=0"], "sentences_every must be 1 to inf, not 0"),
        ("", ["data.window=600"], "window must be 16 to 400, not 600"),
    ],
)
def test_a_recipe_that_cannot_be_meant_is_refused(tmp_path: Path, text: str, settings: list[str], message: str) -> None:
    (tmp_path / "recipe.toml").write_text(text)
    with pytest.raises(ExportError, match=message):
        load_recipe(tmp_path / "recipe.toml", settings)


def test_settings_come_over_the_file(tmp_path: Path) -> None:
    (tmp_path / "recipe.toml").write_text("[full]\nsteps = 5\nlr = 0.5")
    made = load_recipe(tmp_path / "recipe.toml", ["full.steps=9", "split.binarizer='sign'"])
    assert (made.full.steps, made.full.lr, made.split.binarizer) == (9, 0.5, "sign")
    with pytest.raises(ExportError, match="cannot be read"):
        load_recipe(tmp_path / "none.toml")
