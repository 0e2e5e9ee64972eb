"""
Calibrated binarization of hidden states (BTR section 3.1), as modules that train through their signs.

A binarizer turns a hidden state h (..., d) into y (..., m); what is stored is sign(y) as m bits and one
scale, rms(y). `restore` gets h~ back from them. One convention, shared with `store.codec`: a sign is +1
where y > 0 and -1 elsewhere, zero included.

Two kinds, by name:
- "sign": y = h, h~ = scale * sign(h). The paper's choice for post-layernorm readers.
- "residual": binarize what the token id does not already tell. base = W e(id) + c, y = (h - base) P,
  h~ = base + scale * sign(y) D. The ids cost nothing: passages are re-tokenized from their text.

Constants of the residual kind are fitted on data before they are trained: a gain left to grow from a guess
costs thousands of steps.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

KINDS = ("residual", "sign")


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


class SignBinarizer(nn.Module):
    """h~ = rms(h) * sign(h): m = d bits, no constants."""

    kind = "sign"

    def __init__(self, hidden_size: int) -> None:
        super().__init__()
        self.bits = hidden_size

    def fit(self, h: Tensor, e: Tensor) -> None:
        """Nothing to fit; here so that both kinds are used alike."""

    def base(self, e: Tensor) -> Tensor:
        """What the token id alone predicts: nothing, (..., d) zeros."""
        return torch.zeros_like(e)

    def project(self, h: Tensor, base: Tensor) -> Tensor:
        """y (..., m): the hidden state itself."""
        return h

    def restore(self, signs: Tensor, scale: Tensor, base: Tensor) -> Tensor:
        """h~ (..., d) from signs (..., m), scale (..., 1) and the base (..., d)."""
        return base + scale * signs

    def forward(self, h: Tensor, e: Tensor) -> Tensor:
        """h (..., d), word embeddings e (..., d) -> h~ (..., d), differentiable through the signs."""
        return _through_signs(self, h, e)


class ResidualBinarizer(nn.Module):
    """h~ = W e + c + rms(y) * sign(y) D, y = (h - W e - c) P: m bits in a rotated subspace of the residual."""

    kind = "residual"

    def __init__(self, hidden_size: int, bits: int) -> None:
        super().__init__()
        self.bits = bits
        self.predict = nn.Linear(hidden_size, hidden_size)
        self.P = nn.Parameter(torch.zeros(hidden_size, bits))
        self.D = nn.Parameter(torch.zeros(bits, hidden_size))

    @torch.no_grad()
    def fit(self, h: Tensor, e: Tensor, ridge: float = 1e-3, seed: int = 0) -> None:
        """
        Fit every constant on states h (tokens, d) and word embeddings e (tokens, d).

        W, c by ridge regression; P the principal axes of the residual times a random rotation, which evens
        out the variances over the bits; D by least squares on the signs themselves.
        """
        h, e = h.double(), e.double()
        h_mean, e_mean = h.mean(0), e.mean(0)
        centred = e - e_mean
        gram = centred.T @ centred
        gram += ridge * gram.diagonal().mean() * torch.eye(gram.shape[0], dtype=gram.dtype)
        weight = torch.linalg.solve(gram, centred.T @ (h - h_mean)).T
        self.predict.weight.copy_(weight)
        self.predict.bias.copy_(h_mean - weight @ e_mean)
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

    def base(self, e: Tensor) -> Tensor:
        """What the token id alone predicts: word embeddings e (..., d) -> (..., d)."""
        return self.predict(e)

    def project(self, h: Tensor, base: Tensor) -> Tensor:
        """y (..., m): the residual in the rotated subspace."""
        return (h - base) @ self.P

    def restore(self, signs: Tensor, scale: Tensor, base: Tensor) -> Tensor:
        """h~ (..., d) from signs (..., m), scale (..., 1) and the base (..., d)."""
        return base + scale * (signs @ self.D)

    def forward(self, h: Tensor, e: Tensor) -> Tensor:
        """h (..., d), word embeddings e (..., d) -> h~ (..., d), differentiable through the signs."""
        return _through_signs(self, h, e)


Binarizer = SignBinarizer | ResidualBinarizer


def _through_signs(binarizer: Binarizer, h: Tensor, e: Tensor) -> Tensor:
    base = binarizer.base(e)
    y = binarizer.project(h, base)
    scale = rms(y)
    return binarizer.restore(SignSTE.apply(y / scale), scale, base)


def make_binarizer(kind: str, hidden_size: int, bits: int) -> Binarizer:
    """The binarizer of this name; `bits` is ignored by "sign", which keeps all d of them."""
    return SignBinarizer(hidden_size) if kind == "sign" else ResidualBinarizer(hidden_size, bits)
