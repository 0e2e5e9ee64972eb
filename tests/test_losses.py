"""Each loss on numbers small enough to do by hand."""

import math

import pytest
import torch
from torch import Tensor

from export.data import Batch
from export.losses import (
    attention_to_same,
    early_loss,
    logit_distillation,
    recovery_loss,
    task_loss,
    token_distillation,
)
from export.reader import MASKED, Reading


def reading(start: Tensor, end: Tensor | None = None, states: Tensor | None = None) -> Reading:
    return Reading(start, start if end is None else end, torch.zeros(*start.shape, 1) if states is None else states)


def batch(gold: int) -> Batch:
    """One question with two passages; its answer is token 1 of pair `gold`."""
    return Batch(
        *(torch.zeros(1) for _ in range(5)),
        pair_question=torch.tensor([0, 0]),
        pair_passage=torch.tensor([0, 1]),
        slot=torch.tensor([0, 1]),
        gold_pair=torch.tensor([gold]),
        start=torch.tensor([1]),
        end=torch.tensor([1]),
        answer_ids=torch.zeros(0, 0, dtype=torch.long),
    )


def test_task_loss_normalises_over_passages_and_the_null_option() -> None:
    """Two passages of two tokens and the null: one softmax over five logits."""
    start, end = torch.tensor([[0.3, 1.2], [-0.5, 2.0]]), torch.tensor([[-1.0, 0.1], [0.7, 0.4]])
    starts = -torch.log_softmax(torch.tensor([0.0, 0.3, 1.2, -0.5, 2.0]), 0)
    ends = -torch.log_softmax(torch.tensor([0.0, -1.0, 0.1, 0.7, 0.4]), 0)
    for gold, at in ((0, 2), (1, 4), (-1, 0)):
        expected = (starts[at] + ends[at]) / 2
        assert torch.isclose(task_loss(batch(gold), reading(start, end)), expected, atol=1e-5)


def test_the_early_head_has_the_same_loss() -> None:
    logits = torch.tensor([[0.3, 1.2], [-0.5, 2.0]])
    early = Reading(logits * 0, logits * 0, torch.zeros(2, 2, 1), logits, logits)
    assert early_loss(batch(0), early) == task_loss(batch(0), reading(logits))
    with pytest.raises(ValueError, match="no early span head"):
        early_loss(batch(0), reading(logits))


def test_token_distillation_looks_at_the_most_attended_half_only() -> None:
    states = torch.tensor([[[0.0], [0.0], [0.0], [0.0], [0.0]]])
    student = reading(torch.zeros(1, 5), states=states)
    teacher = reading(torch.zeros(1, 5), states=torch.tensor([[[1.0], [2.0], [3.0], [4.0], [9.0]]]))
    teacher.attention = torch.tensor([[0.1, 0.4, 0.3, 0.2, 0.9]])
    mask = torch.tensor([[True, True, True, True, False]])  # the padded token is never one of them
    assert token_distillation(student, teacher, mask, 0.5) == (2**2 + 3**2) / 2
    assert token_distillation(student, teacher, mask, 1.0) == (1 + 4 + 9 + 16) / 4


def test_token_distillation_without_attention_says_what_is_missing() -> None:
    plain = reading(torch.zeros(1, 2))
    with pytest.raises(ValueError, match="no attention"):
        token_distillation(plain, plain, torch.ones(1, 2, dtype=torch.bool), 0.5)


def test_logit_distillation_is_zero_on_equal_logits_and_the_divergence_otherwise() -> None:
    ours, theirs = torch.tensor([[1.0, -2.0, MASKED]]), torch.tensor([[0.5, 3.0, MASKED]])
    assert logit_distillation(reading(ours), reading(ours), 2.0).abs() < 1e-6
    p = torch.softmax(torch.tensor([0.0, 0.5, 3.0]) / 2, 0)
    q = torch.softmax(torch.tensor([0.0, 1.0, -2.0]) / 2, 0)
    expected = 4 * sum(float(a) * math.log(float(a) / float(b)) for a, b in zip(p, q, strict=True))
    assert logit_distillation(reading(ours), reading(theirs), 2.0).item() == pytest.approx(expected, rel=1e-5)


def test_copying_counts_attention_to_the_tokens_that_are_written() -> None:
    """The first one stands once in what is read, the second twice, the third nowhere; the fourth is padding."""
    looked = torch.tensor([[[0.1, 0.2, 0.3, 0.4], [0.1, 0.2, 0.3, 0.4], [0.7, 0.1, 0.1, 0.1], [1.0, 0.0, 0.0, 0.0]]])
    ids, written = torch.tensor([[7, 8, 8, 0]]), torch.tensor([[7, 8, 9, 0]])
    expected = torch.tensor(-(math.log(0.1) + math.log(0.5)) / 2)
    assert torch.isclose(attention_to_same(looked, ids, written), expected)
    assert attention_to_same(looked, torch.tensor([[5, 5, 5, 0]]), written) == 0


def test_recovery_is_the_mean_squared_error_over_body_tokens() -> None:
    h, restored = torch.ones(1, 3, 2), torch.tensor([[[1.0, 3.0], [1.0, 1.0], [50.0, 50.0]]])
    mask = torch.tensor([[True, True, False]])
    assert recovery_loss(h, restored, mask) == (0 + 4) / 2 / 2
