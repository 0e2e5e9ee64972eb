"""
Calibrated binarization of hidden states (BTR section 3.1), as modules that train through their signs.

A binarizer turns a hidden state h (..., d) into y (..., m); what is stored is sign(y) as m bits and one
scale, rms(y). `restore` gets h~ back from them. One convention, shared with `store.codec`: a sign is +1
where y > 0 and -1 elsewhere, zero included.

Kinds, by name; what ships is "residual", the others are what it was chosen against (docs/results.md):
- "naive": h~ = tanh(beta h) with a growing beta in training, sign(h) afterwards. The paper's failing baseline.
- "plain": h~ = sign(h), the gradient straight through.
- "sign": h~ = scale * sign(h). The paper's choice for post-layernorm readers.
- "gain": h~ = c + g * scale * sign(h - c), with a mean c and a gain g for every channel.
- "norm": h~ = scale * sign(h) * g, with g = 1 / |w| of the layernorm above at first. The paper's choice for
  pre-layernorm readers (T5): see `export.t5`.
- "residual": binarize what the token id does not already tell. base = W e(id) + c, y = (h - base) P,
  h~ = base + scale * sign(y) D. The ids cost nothing: passages are re-tokenized from their text.
- "neighbours": the same with a base that also sees the ids before and after.

Constants are fitted on data before they are trained: a gain left to grow from a guess costs thousands of steps.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn


class SignSTE(torch.autograd.Function):
    """sign(u) forward, +-1 with sign(0) = -1; the gradient of tanh(u) backward (BTR section 3.1)."""

    @staticmethod
    def forward(ctx: Any, u: Tensor) -> Tensor:
        ctx.save_for_backward(u)
        return torch.where(u > 0, 1.0, -1.0)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:  # type: ignore[override]
        (u,) = ctx.saved_tensors
        return grad * (1 - torch.tanh(u) ** 2)


def rms(y: Tensor) -> Tensor:
    """Root mean square over the last axis, (..., m) -> (..., 1), never zero."""
    return y.pow(2).mean(dim=-1, keepdim=True).add(1e-12).sqrt()


class Binarizer(nn.Module):
    """h~ = rms(h) * sign(h), kind "sign": m = d bits, no constants. The other kinds say what they do differently."""

    exportable = True
    """Whether the graphs can compute its base: a table of ids, or none."""
    uses_ids = False
    """Whether the base depends on the token id."""

    def __init__(self, hidden_size: int, bits: int) -> None:
        super().__init__()
        self.bits = bits

    def features(self, e: Tensor, mask: Tensor) -> Tensor:
        """What the base is predicted from: word embeddings e (B, L, d) of tokens where mask (B, L) is true."""
        return e

    def fit(self, h: Tensor, f: Tensor) -> None:
        """Fit the constants on states h (tokens, d) and features f (tokens, ...)."""

    def anneal(self, step: int) -> None:
        """Harden whatever is soft in training."""

    def base(self, f: Tensor | None) -> Tensor:
        """What is known without any bit, from features (..., f) -> something that broadcasts to (..., d)."""
        return torch.zeros(())

    def project(self, h: Tensor, base: Tensor) -> Tensor:
        """y (..., m), whose signs are stored, from states (..., d)."""
        return h - base

    def restore(self, signs: Tensor, scale: Tensor, base: Tensor) -> Tensor:
        """h~ (..., d) from signs (..., m), scale (..., 1) and the base (..., d)."""
        return base + scale * signs

    def forward(self, h: Tensor, f: Tensor, bare: Tensor | None = None) -> Tensor:
        """
        States h (..., d), features (..., f) -> h~ (..., d), differentiable through the signs.

        Where the mask `bare` (...) is true the scale is 0, as a store says of a token without a vector.
        """
        base = self.base(f)
        y = self.project(h, base)
        scale = rms(y)
        kept = scale if bare is None else scale.masked_fill(bare[..., None], 0.0)
        return self.restore(SignSTE.apply(y / scale), kept, base)


class PlainBinarizer(Binarizer):
    """h~ = sign(h), kind "plain"."""

    def restore(self, signs: Tensor, scale: Tensor, base: Tensor) -> Tensor:
        """h~ (..., d): the signs themselves."""
        return signs


class NaiveBinarizer(PlainBinarizer):
    """h~ = tanh(beta h) in training and sign(h) afterwards, kind "naive": beta = sqrt(1 + step / 10) (BPR)."""

    def __init__(self, hidden_size: int, bits: int) -> None:
        super().__init__(hidden_size, bits)
        self.beta = 1.0

    def anneal(self, step: int) -> None:
        """Steeper with every step."""
        self.beta = (1 + step / 10) ** 0.5

    def forward(self, h: Tensor, f: Tensor, bare: Tensor | None = None) -> Tensor:
        """States h (..., d) -> h~ (..., d)."""
        return torch.tanh(self.beta * h) if self.training else super().forward(h, f, bare)


class GainBinarizer(Binarizer):
    """h~ = c + g * scale * sign(h - c), kind "gain": a mean and a gain for every channel."""

    def __init__(self, hidden_size: int, bits: int) -> None:
        super().__init__(hidden_size, bits)
        self.mean = nn.Parameter(torch.zeros(hidden_size))
        self.gain = nn.Parameter(torch.ones(hidden_size))

    @torch.no_grad()
    def fit(self, h: Tensor, f: Tensor) -> None:
        """The channels' means, and the gains of least squares."""
        y = h - h.mean(0)
        coded = rms(y) * torch.where(y > 0, 1.0, -1.0)
        self.mean.copy_(h.mean(0))
        self.gain.copy_((coded * y).sum(0) / coded.pow(2).sum(0))

    def base(self, f: Tensor | None) -> Tensor:
        """The channels' means (d,)."""
        return self.mean

    def restore(self, signs: Tensor, scale: Tensor, base: Tensor) -> Tensor:
        """h~ (..., d) from signs (..., d), scale (..., 1) and the means (d,)."""
        return base + self.gain * scale * signs


class NormBinarizer(Binarizer):
    """h~ = scale * sign(h) * g, kind "norm": the signs after a layernorm w, taken back through it."""

    def __init__(self, hidden_size: int, bits: int) -> None:
        super().__init__(hidden_size, bits)
        self.gain = nn.Parameter(torch.ones(hidden_size))

    @torch.no_grad()
    def below(self, w: Tensor) -> None:
        """Set the gain from the weights w (d,) of the layernorm above; next to 0 they would say nothing."""
        self.gain.copy_(1 / w.abs().clamp(min=0.01 * float(w.abs().mean()) + 1e-12))

    def restore(self, signs: Tensor, scale: Tensor, base: Tensor) -> Tensor:
        """h~ (..., d) from signs (..., d) and scale (..., 1)."""
        return scale * signs * self.gain


class ResidualBinarizer(Binarizer):
    """h~ = W f + c + rms(y) * sign(y) D, y = (h - W f - c) P, kind "residual": m bits in a rotated subspace."""

    uses_ids = True
    neighbours = 0
    """Ids to each side that the base sees as well."""

    def __init__(self, hidden_size: int, bits: int) -> None:
        super().__init__(hidden_size, bits)
        self.predict = nn.Linear(hidden_size * (1 + 2 * self.neighbours), hidden_size)
        self.P = nn.Parameter(torch.zeros(hidden_size, bits))
        self.D = nn.Parameter(torch.zeros(bits, hidden_size))

    @torch.no_grad()
    def fit(self, h: Tensor, f: Tensor, ridge: float = 1e-3, seed: int = 0) -> None:
        """
        Fit every constant on states h (tokens, d) and features f (tokens, d), or 3 d of them with the neighbours'.

        W, c by ridge regression; P the principal axes of the residual times a random rotation, which evens
        out the variances over the bits; D by least squares on the signs themselves.
        """
        h, f = h.double(), f.double()
        h_mean, f_mean = h.mean(0), f.mean(0)
        centred = f - f_mean
        gram = centred.T @ centred
        gram += ridge * gram.diagonal().mean() * torch.eye(gram.shape[0], dtype=gram.dtype)
        weight = torch.linalg.solve(gram, centred.T @ (h - h_mean)).T
        self.predict.weight.copy_(weight)
        self.predict.bias.copy_(h_mean - weight @ f_mean)
        residual = h - (centred @ weight.T + h_mean)
        _, axes = torch.linalg.eigh(residual.T @ residual)  # ascending eigenvalues
        generator = torch.Generator().manual_seed(seed)
        gaussian = torch.randn(self.bits, self.bits, generator=generator, dtype=h.dtype)
        rotation, _ = torch.linalg.qr(gaussian)
        P = axes[:, -self.bits :] @ rotation
        self.P.copy_(P)
        y = residual @ P
        coded = rms(y) * torch.where(y > 0, 1.0, -1.0).to(y.dtype)
        self.D.copy_(torch.linalg.lstsq(coded, residual).solution)

    def base(self, f: Tensor | None) -> Tensor:
        """What the token ids alone predict: features (..., f) -> (..., d)."""
        return self.predict(f)

    def project(self, h: Tensor, base: Tensor) -> Tensor:
        """y (..., m): the residual in the rotated subspace."""
        return (h - base) @ self.P

    def restore(self, signs: Tensor, scale: Tensor, base: Tensor) -> Tensor:
        """h~ (..., d) from signs (..., m), scale (..., 1) and the base (..., d)."""
        return base + scale * (signs @ self.D)


class NeighbourBinarizer(ResidualBinarizer):
    """The residual binarizer with a base that also sees one id to each side, kind "neighbours"."""

    exportable = False
    neighbours = 1

    def features(self, e: Tensor, mask: Tensor) -> Tensor:
        """Word embeddings (B, L, d) -> (B, L, 3 d): a token's own, the one before, the one after; 0 past the ends."""
        e = e * mask[..., None]
        nothing = torch.zeros_like(e[:, :1])
        before, after = torch.cat([nothing, e[:, :-1]], dim=1), torch.cat([e[:, 1:], nothing], dim=1)
        return torch.cat([e, before, after], dim=-1)


KINDS: dict[str, type[Binarizer]] = {
    "naive": NaiveBinarizer,
    "plain": PlainBinarizer,
    "sign": Binarizer,
    "gain": GainBinarizer,
    "norm": NormBinarizer,
    "residual": ResidualBinarizer,
    "neighbours": NeighbourBinarizer,
}


def make_binarizer(kind: str, hidden_size: int, bits: int) -> Binarizer:
    """The binarizer of this name; kinds without a projection keep a bit for every channel, whatever `bits` says."""
    made = KINDS[kind]
    return made(hidden_size, bits if issubclass(made, ResidualBinarizer) else hidden_size)
