"""
Bipartite merging of token states (BTR section 3.3, after ToMe), traceable into ONNX; twin of `app.merging`.

Tokens at even places propose their nearest neighbour by cosine among those at odd places, and the closest
floor(ratio n) of them merge with it, n being a row's true length: at most every second token, so a ratio is 0..0.5.
A merged token is the mean of all tokens it stands for, keeps the place and position of the odd one, and counts in
attention as often as it stands for tokens. Padding (size 0) stands at the end of a row, and is neither merged nor
counted. Order is kept.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F


def merge(x: Tensor, size: Tensor, position: Tensor, ratio: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """States (B, n, d), sizes (B, n) float, positions (B, n), ratio () -> the same of (B, n') tokens."""
    x, size, position = (F.pad(t, (0, 0, 0, 1) if t.dim() == 3 else (0, 1)) for t in (x, size, position))
    real = size > 0
    length = real.sum(1, keepdim=True)
    count = torch.minimum((ratio * length).floor().long(), length // 2)
    unit = F.normalize(x, dim=-1)
    similarity = (unit[:, 0::2] @ unit[:, 1::2].transpose(1, 2)).masked_fill(~real[:, None, 1::2], -2.0)
    nearest, partner = similarity.max(dim=-1)
    order = nearest.masked_fill(~real[:, 0::2], -3.0).argsort(dim=1, descending=True)
    rank = torch.zeros_like(order).scatter(1, order, torch.arange(order.shape[1], device=x.device).expand_as(order))
    place = torch.arange(x.shape[1], device=x.device).expand_as(real)
    merged = ((rank < count)[:, place[0] // 2]) & (place % 2 == 0)
    kept = real & ~merged
    target = torch.where(merged, 2 * partner[:, place[0] // 2] + 1, place)
    target = torch.gather((kept.long().cumsum(1) - 1).clamp(min=0), 1, target)
    longest = kept.sum(1).max()
    weighted = torch.zeros_like(x).scatter_add(1, target[..., None].expand_as(x), x * size[..., None])
    sizes = torch.zeros_like(size).scatter_add(1, target, size)
    positions = torch.zeros_like(position).scatter_add(1, target, position * kept)
    sizes = sizes[:, :longest]
    return weighted[:, :longest] / sizes[..., None].clamp(min=1), sizes, positions[:, :longest]
