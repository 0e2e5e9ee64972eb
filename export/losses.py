"""
What the three steps minimise: the task, the teacher's states and logits, the recovery of a passage's states.

All take a batch's `Reading`s or `Generation`s, so each can be tested on numbers small enough to do by hand.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from export.binarizer import rms
from export.data import Batch
from export.reader import Reading
from export.t5 import Generation


def task_loss(batch: Batch, reading: Reading | Generation) -> Tensor:
    """
    Cross-entropy of the written answer's tokens, </s> included; of a span reader as follows.

    Cross-entropy of start and end over all tokens of a question's passages and the null option (logit 0).

    Logits (N, n) are relative to each passage's null logit, so they add up over passages (shared normalisation).
    """
    if isinstance(reading, Generation):
        return F.cross_entropy(reading.logits.float(), reading.answers[reading.answers != 0])
    return span_loss(batch, reading.start, reading.end)


def early_loss(batch: Batch, reading: Reading | Generation) -> Tensor:
    """The same of the early span head, which decides what passages are finished."""
    if isinstance(reading, Generation) or reading.early_start is None or reading.early_end is None:
        raise ValueError("the reading is not a split reader's: it has no early span head")
    return span_loss(batch, reading.early_start, reading.early_end)


def span_loss(batch: Batch, start: Tensor, end: Tensor) -> Tensor:
    """Cross-entropy of start and end logits (N, n), as `task_loss` describes it."""
    total = torch.zeros((), device=start.device)
    questions = batch.gold_pair.shape[0]
    answered = batch.gold_pair >= 0
    gold = batch.gold_pair.clamp(min=0)
    for logits, target in ((start, batch.start), (end, batch.end)):
        per_pair = torch.logsumexp(logits.float(), dim=1)
        table = per_pair.new_full((questions, int(batch.slot.max()) + 2), -1e4)
        table[:, -1] = 0.0
        table = table.index_put((batch.pair_question, batch.slot), per_pair)
        at = target.clamp(max=logits.shape[1] - 1)
        right = torch.where(answered, logits.float()[gold, at], 0.0)
        total = total + (torch.logsumexp(table, dim=1) - right).mean()
    return total / 2


def copying_loss(generation: Generation) -> Tensor:
    """
    Negative log of the attention that writing a token pays to the tokens read that are the same one, over all heads.

    Mean over the answers' tokens that stand in what is read. Where to look is the larger half of what a reader has to
    learn, and the words of an answer alone say little of it; the idea is that of supervised attention in translation.
    """
    return attention_to_same(generation.looked, generation.read_ids, generation.answers)


def attention_to_same(looked: Tensor, ids: Tensor, written: Tensor) -> Tensor:
    """`copying_loss` of attention (B, a, T) from tokens written (B, a) to tokens read (B, T), both padded with 0."""
    same = (written[:, :, None] == ids[:, None]) & (written != 0)[:, :, None]
    paid = (looked.float() * same).sum(-1)[same.any(-1)]
    return -paid.clamp(min=1e-6).log().sum() / max(1, len(paid))


def token_distillation(
    student: Reading | Generation, teacher: Reading | Generation, mask: Tensor, share: float
) -> Tensor:
    """
    Mean squared error of the last states over the passage tokens that the teacher's question attends to most.

    Of each pair's body tokens, mask (N, n), the `share` with the highest attention count (BTR section 3.2); 1 is all.
    """
    error = (student.states.float() - teacher.states.float()).pow(2).mean(-1)
    if share == 1:
        return error[mask].mean()
    if teacher.attention is None:
        raise ValueError("the teacher's reading holds no attention: ask the full reader for it")
    score = teacher.attention.masked_fill(~mask, -torch.inf)
    rank = score.argsort(dim=1, descending=True).argsort(dim=1)
    chosen = (rank < (mask.sum(1, keepdim=True) * share).ceil()) & mask
    return error[chosen].mean()


def logit_distillation(student: Reading | Generation, teacher: Reading | Generation, temperature: float) -> Tensor:
    """
    Kullback-Leibler divergence times T^2 (DeFormer).

    Of start and end over a pair's tokens and its null; of written answers over the vocabulary at each token.
    """
    if isinstance(student, Generation) and isinstance(teacher, Generation):
        ours, theirs = (x.logits.float() / temperature for x in (student, teacher))
        divergence = F.kl_div(ours.log_softmax(1), theirs.log_softmax(1), reduction="batchmean", log_target=True)
        return divergence * temperature**2
    assert isinstance(student, Reading) and isinstance(teacher, Reading)
    total = torch.zeros((), device=student.start.device)
    for ours, theirs in ((student.start, teacher.start), (student.end, teacher.end)):
        ours, theirs = (F.pad(x.float(), (1, 0)) / temperature for x in (ours, theirs))
        total = total + F.kl_div(ours.log_softmax(1), theirs.log_softmax(1), reduction="batchmean", log_target=True)
    return total / 2 * temperature**2


def recovery_loss(h: Tensor, restored: Tensor, mask: Tensor, relative: bool = False) -> Tensor:
    """
    Mean squared error of states (P, n, d) restored from their signs, over body tokens (P, n) (BTR section 3.2).

    With `relative` each token's error is measured in its own root mean square: before a layernorm only that counts. To
    make all states smaller does not lessen it.
    """
    if relative:
        length = rms(h.float())
        h, restored = h / length, restored / length
    return (h.float() - restored.float()).pow(2).mean(-1)[mask].mean()
