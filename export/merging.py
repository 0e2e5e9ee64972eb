"""
Bipartite merging of token states (BTR section 3.3, after ToMe), traceable into ONNX; twin of `app.merging`.

Tokens at even places propose their nearest neighbour by cosine among those at odd places, and the closest
floor(ratio n) of them merge with it, n being a row's true length: at most every second token, so a ratio is 0..0.5.
A merged token is the mean of all tokens it stands for, keeps the place and position of the odd one, and counts in
attention as often as it stands for tokens. Padding (size 0) stands at the end of a row, and is neither merged nor
counted. Order is kept.

At a ratio of 0 the exported graph leaves the tokens alone: that way is an If, which only a scripted function becomes.
Sums are one product with the places of the tokens, which costs less than to scatter them.
"""

from __future__ import annotations

import torch
from torch import Tensor


@torch.jit.script
def merge(x: Tensor, size: Tensor, position: Tensor, ratio: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """States (B, n, d), sizes (B, n) float, positions (B, n), ratio () -> the same of (B, n') tokens."""
    if bool(ratio > 0):
        x = torch.nn.functional.pad(x, [0, 0, 0, 1])  # so that there is an odd token
        size = torch.nn.functional.pad(size, [0, 1])
        position = torch.nn.functional.pad(position, [0, 1])
        real = size > 0
        length = real.sum(1, keepdim=True)
        count = torch.minimum((ratio * length).floor().long(), length // 2)
        unit = torch.nn.functional.normalize(x, dim=-1)
        similarity = torch.matmul(unit[:, 0::2], unit[:, 1::2].transpose(1, 2))
        similarity = similarity.masked_fill(~real[:, None, 1::2], -2.0)
        nearest, partner = similarity.max(dim=-1)
        order = nearest.masked_fill(~real[:, 0::2], -3.0).argsort(dim=1, descending=True)
        rank = torch.zeros_like(order).scatter(1, order, torch.arange(order.size(1), device=x.device).expand_as(order))
        place = torch.arange(x.size(1), device=x.device)
        merged = ((rank < count)[:, place // 2]) & (place % 2 == 0)[None]
        kept = real & ~merged
        target = torch.where(merged, 2 * partner[:, place // 2] + 1, place[None].expand_as(merged))
        target = torch.gather((kept.long().cumsum(1) - 1).clamp(min=0), 1, target)
        places = torch.arange(int(kept.sum(1).max()), device=x.device)
        here = (target[:, None, :] == places[None, :, None]).to(x.dtype)
        parts = here * size[:, None, :]
        sizes = parts.sum(2)
        x = torch.matmul(parts, x) / sizes[:, :, None].clamp(min=1.0)
        left = torch.where(kept, position, torch.zeros_like(position)).to(x.dtype)
        position = torch.matmul(here, left[:, :, None])[:, :, 0].round().long()
        size = sizes
    return x, size, position
