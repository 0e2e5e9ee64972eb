"""
Bipartite merging of token states (BTR section 3.3, after ToMe), traceable into ONNX.

Tokens at even places propose their nearest neighbour by cosine among those at odd places within reach, and the closest
floor(ratio n) of them merge with it, n being a row's true length: at most every second token, whatever the ratio.
A merged token is the mean of all tokens it stands for, keeps the place and position of the odd one, and counts in
attention as often as it stands for tokens. Padding (size 0) stands at the end of a row, and is neither merged nor
counted. Order is kept. Cosines are compared in steps of 1 / 4096, and of equal ones the earlier is the closer: tokens
that stand in a passage twice are restored alike, and whichever way the last digits fall there, all twins do the same.

Inside a passage only what the layers above would add is shared (`unmerge`): a token's own state is known before them,
and the decoder, which copies answers word by word, has to read every one. What they add is alike for neighbours, so
none farther apart than `REACH` merge. The paper merges any two, for good.

Sums are one product with the places of the tokens, which costs less than to scatter them. At a ratio of 0 an exported
graph does nothing of all this (`merge_passage`): only a scripted function becomes an If. The biases of positions
stand here because those of merged tokens are others (`bias_of_merged`).
"""

from __future__ import annotations

import torch
from torch import Tensor

REACH = 3
"""Farthest that two tokens of a passage stand apart that merge."""


def _weight(size: Tensor) -> Tensor:
    """What a token of this size adds to the scores of attention to it."""
    return torch.where(size > 0, size.clamp(min=1.0).log(), torch.full_like(size, -1e30))


def bias_by_distance(distances: Tensor, position: Tensor, size: Tensor) -> Tensor:
    """
    Biases of the distances -R..R (2 R + 1, heads), positions (B, L), sizes (B, L) -> biases (B, heads, L, L).

    They are added to attention scores; farther than R counts as R. A token of size s counts as s tokens, one of size 0
    as none.
    """
    farthest = distances.size(0) // 2
    apart = (position[:, None, :] - position[:, :, None]).clamp(-farthest, farthest) + farthest
    bias = torch.nn.functional.embedding(apart, distances).permute(0, 3, 1, 2).contiguous()
    return bias + _weight(size)[:, None, None, :]


def bias_in_order(distances: Tensor, size: Tensor) -> Tensor:
    """
    The same of tokens at the positions 0, 1, 2, ...

    Each row of a head is the one above it, moved by one: a sequence that goes round after 2 L numbers, cut into rows of
    2 L - 1. So it is copied, not looked up.
    """
    farthest, heads, length = distances.shape[0] // 2, distances.shape[1], size.shape[1]
    around = torch.arange(-length, length, device=size.device).clamp(-farthest, farthest) + farthest
    again = distances[around].t()[:, None].expand(heads, length, 2 * length).reshape(heads, 2 * length * length)
    rows = again[:, length:].reshape(heads, length, 2 * length - 1)[None, :, :, :length]
    return rows + _weight(size)[:, None, None, :]


@torch.jit.script
def merge_passage(
    x: Tensor, size: Tensor, position: Tensor, question: Tensor, ratio: Tensor, reach: int
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """
    Joint states (B, L, d), sizes (B, L) of 1 or 0, positions (B, L); a question (B, Q, ...) that stands first stays.

    Only the question's length counts; as a number it would be that of the example in an exported graph. A passage of
    one token has none to merge with.

    Returns:
        The same of (B, Q + n') tokens, and which of these each (B, L) belongs to.
    """
    q = question.size(1)
    place = torch.arange(x.size(1), device=x.device)
    group = place + 0 * position
    if bool(ratio * (x.size(1) - q - 1) > 0):
        real = size > 0
        length = real[:, q:].sum(1, keepdim=True)
        count = torch.minimum((ratio * length).floor().long(), length // 2)
        unit = x / x.norm(2, -1, True).clamp(min=1e-12)
        even, odd = place[q::2], place[q + 1 :: 2]
        cosine = (4096 * torch.matmul(unit[:, q::2], unit[:, q + 1 :: 2].transpose(1, 2))).round()
        barred = (even[:, None] - odd).abs() > reach
        barred = barred | ~real[:, None, q + 1 :: 2]
        nearest, partner = cosine.masked_fill(barred, -9999.0).max(dim=-1)  # of equal ones the first
        nearest = nearest.masked_fill(~real[:, q::2], -9999.0) - even / x.size(1)
        rank = (nearest[:, None, :] > nearest[:, :, None]).sum(2)
        chosen = torch.where(rank < count, 2 * partner + q + 1, -1)
        inside = (place - q).clamp(min=-1)
        target = torch.where((inside >= 0) & (inside % 2 == 0), chosen[:, inside // 2], -1)
        kept = real & (target < 0)
        group = torch.gather((kept.long().cumsum(1) - 1).clamp(min=0), 1, torch.where(target < 0, place, target))
        places = torch.arange(int(kept.sum(1).max()), device=x.device)
        here = (group[:, None, :] == places[:, None]).to(x.dtype) * size[:, None, :]
        size = here.sum(2)
        position = torch.matmul(here, (position * kept).to(x.dtype)[:, :, None])[:, :, 0].long()
        x = torch.matmul(here / size[:, :, None].clamp(min=1.0), x)
    return x, size, position, group


@torch.jit.script
def unmerge(states: Tensor, merged: Tensor, read: Tensor, group: Tensor, ratio: Tensor) -> Tensor:
    """
    Each token's own state, and what layers added to the merged one that it belongs to.

    States (B, L, d), merged (B, L', d), these read by the layers (B, L', d), groups (B, L) -> (B, L, d); what was read
    where nothing was merged.
    """
    if bool(ratio > 0):
        rows = torch.arange(group.size(0), device=group.device)[:, None] * merged.size(1)
        added = (read - merged).flatten(0, 1)
        read = states + added[(group + rows).flatten()].reshape(states.shape)
    return read


@torch.jit.script
def bias_of_merged(distances: Tensor, position: Tensor, size: Tensor, ratio: Tensor) -> Tensor:
    """The biases after `merge_passage`: by distance where something was merged, else in order."""
    return bias_by_distance(distances, position, size) if bool(ratio > 0) else bias_in_order(distances, size)
