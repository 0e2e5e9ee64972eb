"""
What the three steps minimise: the task, the teacher's states and logits, the recovery of a passage's states.

All take a batch's `Reading`s, so each can be tested on numbers small enough to do by hand.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from export.data import Batch
from export.reader import Reading


def task_loss(batch: Batch, reading: Reading) -> Tensor:
    """
    Cross-entropy of start and end over all tokens of a question's passages and the null option (logit 0).

    Logits (N, n) are relative to each passage's null logit, so they add up over passages (shared normalisation).
    """
    total = torch.zeros((), device=reading.start.device)
    questions = batch.gold_pair.shape[0]
    answered = batch.gold_pair >= 0
    gold = batch.gold_pair.clamp(min=0)
    for logits, target in ((reading.start, batch.start), (reading.end, batch.end)):
        per_pair = torch.logsumexp(logits.float(), dim=1)
        table = per_pair.new_full((questions, 3), -1e4)
        table[:, 2] = 0.0
        table = table.index_put((batch.pair_question, batch.slot), per_pair)
        at = target.clamp(max=logits.shape[1] - 1)
        right = torch.where(answered, logits.float()[gold, at], 0.0)
        total = total + (torch.logsumexp(table, dim=1) - right).mean()
    return total / 2


def token_distillation(student: Reading, teacher: Reading, mask: Tensor, share: float) -> Tensor:
    """
    Mean squared error of the last states over the passage tokens that the teacher's question attends to most.

    Of each pair's body tokens, mask (N, n), the `share` with the highest attention count (BTR section 3.2).
    """
    if teacher.attention is None:
        raise ValueError("the teacher's reading holds no attention: ask the full reader for it")
    score = teacher.attention.masked_fill(~mask, -torch.inf)
    rank = score.argsort(dim=1, descending=True).argsort(dim=1)
    chosen = (rank < (mask.sum(1, keepdim=True) * share).ceil()) & mask
    error = (student.states.float() - teacher.states.float()).pow(2).mean(-1)
    return error[chosen].mean()


def logit_distillation(student: Reading, teacher: Reading, temperature: float) -> Tensor:
    """Kullback-Leibler divergence of start and end over a pair's tokens and its null, times T^2 (DeFormer)."""
    total = torch.zeros((), device=student.start.device)
    for ours, theirs in ((student.start, teacher.start), (student.end, teacher.end)):
        ours, theirs = (F.pad(x.float(), (1, 0)) / temperature for x in (ours, theirs))
        total = total + F.kl_div(ours.log_softmax(1), theirs.log_softmax(1), reduction="batchmean", log_target=True)
    return total / 2 * temperature**2


def recovery_loss(h: Tensor, restored: Tensor, mask: Tensor) -> Tensor:
    """Mean squared error of states (P, n, d) restored from their signs, over body tokens (P, n) (BTR section 3.2)."""
    return (h.float() - restored.float()).pow(2).mean(-1)[mask].mean()
