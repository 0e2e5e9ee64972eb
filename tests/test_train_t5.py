"""The three steps with a T5: the same trainer, checkpoints and resuming, and losses that are its own."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from export.data import Batch, Passage, batches, load_passages, load_tokenizer
from export.losses import copying_loss, logit_distillation, recovery_loss, task_loss
from export.saved import load_full, load_reader
from export.step import Trainer, evaluate, read_split
from export.t5 import FullT5, Generation, SplitT5, load_t5
from export.train import train
from store.errors import ExportError
from tests.test_t5 import one_batch
from tests.tiny import RECIPE, T5_RECIPE, checkpoint, questions, t5_checkpoint


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = t5_checkpoint(tmp_path_factory.mktemp("train") / "t5")
    questions(made / "train.jsonl")
    return made


@pytest.fixture(scope="module")
def whole_run(folder: Path) -> Path:
    data = [folder / "train.jsonl"]
    train(folder, data, data, folder / "whole", T5_RECIPE, eval_every=6, save_every=6)
    return folder / "whole"


def generation(logits: torch.Tensor, answers: torch.Tensor) -> Generation:
    nothing = torch.zeros(1, 1, 1)
    return Generation(logits, nothing, nothing, nothing, answers, nothing, nothing)


def test_the_task_loss_is_that_of_transformers(folder: Path) -> None:
    reader, batch = FullT5(load_t5(folder)).eval(), one_batch(folder, second=1.0)
    made = reader.read_batch(batch)
    labels = batch.answer_ids.masked_fill(batch.answer_ids == 0, -100)
    expected = reader.t5(encoder_outputs=(made.encoded,), attention_mask=made.mask.long(), labels=labels).loss
    assert torch.isclose(task_loss(batch, made), expected, atol=1e-5)


@pytest.mark.parametrize("split", [False, True])
def test_it_learns_to_look_at_what_it_writes(folder: Path, split: bool) -> None:
    t5 = load_t5(folder)
    reader = (SplitT5(t5, T5_RECIPE.split) if split else FullT5(t5)).eval()
    batch = one_batch(folder, second=1.0)

    def read() -> Generation:
        return read_split(reader, batch, False)[0] if isinstance(reader, SplitT5) else reader.read_batch(batch)

    made = read()
    assert torch.equal(made.read_ids != 0, made.mask)
    ids = batch.answer_ids.masked_fill(batch.answer_ids == 0, -100)
    whole = t5(encoder_outputs=(made.encoded,), attention_mask=made.mask.long(), labels=ids, output_attentions=True)
    assert torch.allclose(made.looked, whole.cross_attentions[-1].mean(1), atol=1e-6)
    optimizer, before = torch.optim.Adam(reader.parameters(), 1e-2), copying_loss(made).item()
    for _ in range(10):
        optimizer.zero_grad()
        copying_loss(read()).backward()
        optimizer.step()
    assert copying_loss(read()).item() < 0.7 * before


def test_the_empty_answer_is_never_written(folder: Path) -> None:
    """As in the app: it is only held against what is."""
    reader, read, mask = FullT5(load_t5(folder)).eval(), torch.randn(1, 5, 32), torch.ones(1, 5, dtype=torch.bool)
    empty = torch.tensor([[1]])
    with torch.no_grad():
        first = reader.write(read, mask, empty)[0]
        head = reader.t5.lm_head.weight
        head[1] = 2 * head[first.argmax()] * first.max().sign()
        assert reader.write(read, mask, empty)[0].argmax() == 1
        for beams in (1, 3):
            assert reader.generate(read, mask, beams)[0, 0] != 1


def test_logit_distillation_is_the_mean_divergence_of_the_written_tokens() -> None:
    answers = torch.tensor([[5, 1, 0]])
    ours, theirs = torch.randn(2, 2, 7).unbind(0)
    loss = logit_distillation(generation(ours, answers), generation(theirs, answers), 2.0)
    p, q = (x.div(2).softmax(-1) for x in (theirs, ours))
    assert torch.isclose(loss, 4 * (p * (p / q).log()).sum() / 2, atol=1e-5)


def test_recovery_before_a_layernorm_counts_each_token_alike() -> None:
    h, restored, mask = torch.randn(1, 2, 8), torch.randn(1, 2, 8), torch.ones(1, 2, dtype=torch.bool)
    scale = torch.tensor([[[1.0], [300.0]]])
    same = recovery_loss(h, restored, mask, relative=True)
    assert torch.isclose(recovery_loss(h * scale, restored * scale, mask, relative=True), same, rtol=1e-4)
    size = torch.ones((), requires_grad=True)  # of states whose restoration grows with them
    recovery_loss(size * h, size * restored, mask, relative=True).backward()
    assert size.grad is not None
    assert abs(float(size.grad)) < 1e-5


def test_each_step_learns_and_starts_from_the_one_before(folder: Path, whole_run: Path) -> None:
    full, split = load_full(whole_run / "full"), load_reader(whole_run / "decomposed")
    assert isinstance(full, FullT5) and isinstance(split, SplitT5)
    assert not torch.equal(full.t5.shared.weight, load_t5(folder).shared.weight)
    reader = load_reader(whole_run)
    batch = one_batch(folder)
    with torch.no_grad():
        binarized, _, _, bodies, restored = read_split(reader, batch, True)
        floats = read_split(reader, batch, False)[0]
    assert restored is not None and not torch.allclose(bodies, restored)
    assert not torch.allclose(binarized.logits, floats.logits)
    assert reader.lower.words.weight is reader.t5.decoder.embed_tokens.weight


def test_a_stopped_step_goes_on_to_the_same_weights(
    folder: Path, whole_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = [folder / "train.jsonl"]
    honest, taken = Trainer._step, []

    def stopping(self: Trainer, batch: object) -> dict[str, float]:
        if len(taken) == 9:
            raise KeyboardInterrupt
        taken.append(self.name)
        return honest(self, batch)

    monkeypatch.setattr(Trainer, "_step", stopping)
    with pytest.raises(KeyboardInterrupt):
        train(folder, data, data, tmp_path / "run", T5_RECIPE, eval_every=6, save_every=2)
    monkeypatch.undo()
    train(folder, data, data, tmp_path / "run", T5_RECIPE, eval_every=6, save_every=2)
    resumed, straight = load_reader(tmp_path / "run").state_dict(), load_reader(whole_run).state_dict()
    assert all(torch.allclose(resumed[name], straight[name], atol=1e-5) for name in straight)


def test_every_second_step_reads_merged_tokens(
    folder: Path, whole_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data, honest, steps = [folder / "train.jsonl"], Trainer._losses, []
    binarized = replace(T5_RECIPE.binarized, merging=0.5, copying=1.0, tokens=1.0, share=1.0, logits=1.0)
    recipe = replace(T5_RECIPE, binarized=binarized)

    def watched(self: Trainer, batch: Batch) -> dict[str, torch.Tensor]:
        losses = honest(self, batch)
        steps.append(self._ratio())
        return losses

    monkeypatch.setattr(Trainer, "_losses", watched)
    train(folder, data, data, tmp_path / "run", recipe, share=whole_run)
    assert [ratio is None for ratio in steps] == 3 * [True, False]
    assert len({float(ratio) for ratio in steps if ratio is not None and 0 < ratio < 0.5}) == 3
    batch, reader = one_batch(folder), load_reader(tmp_path / "run")
    with torch.no_grad():
        none, half = (read_split(reader, batch, True, ratio=ratio)[0] for ratio in (None, torch.tensor(0.5)))
    assert torch.equal(half.mask, none.mask)
    assert half.logits.shape == none.logits.shape and not torch.allclose(half.logits, none.logits)


def test_a_loss_of_the_other_reader_is_refused(folder: Path, tmp_path: Path) -> None:
    recipe = replace(T5_RECIPE, full=replace(T5_RECIPE.full, early=1.0))
    data = [folder / "train.jsonl"]
    with pytest.raises(ExportError, match=r"\[full\] early is for an extractive reader: leave it out for a T5"):
        train(folder, data, data, tmp_path / "run", recipe)
    bert = checkpoint(tmp_path / "bert")
    for name in ("copying", "merging"):
        recipe = replace(RECIPE, binarized=replace(RECIPE.binarized, **{name: 0.2}))
        with pytest.raises(ExportError, match=rf"\[binarized\] {name} is for a generative reader: leave it out for a "):
            train(bert, data, data, tmp_path / "run", recipe)
    assert not (tmp_path / "run").exists()


def test_dev_figures_do_not_hang_on_how_many_batches_there_are(
    folder: Path, whole_run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    reader, dev = load_reader(whole_run), load_passages([folder / "train.jsonl"], load_tokenizer(folder), 40)
    cpu, common = torch.device("cpu"), torch.zeros(reader.model_config.vocab_size, dtype=torch.bool)
    whole = evaluate(reader, dev, True, cpu, common)
    honest, made = batches, []

    def small(passages: Sequence[Passage], pair_tokens: int, seed: int) -> Iterator[Batch]:
        for batch in honest(passages, 1, seed):
            made.append(batch)
            yield batch

    monkeypatch.setattr("export.step.batches", small)
    assert evaluate(reader, dev, True, cpu, common) == whole
    assert len(made) > 1


def test_noisy_answers_need_a_reader_that_says_which_are_right(folder: Path, tmp_path: Path) -> None:
    data = [folder / "train.jsonl"]
    with pytest.raises(ExportError, match="answers of --retrieved are noisy"):
        train(folder, data, data, tmp_path / "run", T5_RECIPE, retrieved=data)
