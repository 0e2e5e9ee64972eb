"""
Calibrated binarization of hidden states (BTR section 3.1), as modules that train through their signs.

A binarizer turns a hidden state h (..., d) into y (..., m); what is stored is sign(y) as m bits and one
scale, rms(y). `restore` gets h~ back from them. One convention, shared with `store.codec`: a sign is +1
where y > 0 and -1 elsewhere, zero included.

Kinds, by name; what ships is "context", the others are what it was chosen against (docs/results.md):
- "naive": h~ = tanh(beta h) with a growing beta in training, sign(h) afterwards. The paper's failing baseline.
- "plain": h~ = sign(h), the gradient straight through.
- "sign": h~ = scale * sign(h). The paper's choice for post-layernorm readers.
- "gain": h~ = c + g * scale * sign(h - c), with a mean c and a gain g for every channel.
- "norm": h~ = scale * sign(h) * g, with g in proportion to 1 / |w| of the layernorm above at first. The paper's choice
  for pre-layernorm readers (T5): see `export.t5`.
- "residual": binarize what the token id does not already tell. base = W e(id) + c, y = (h - base) P,
  h~ = base + scale * sign(y) D. The ids cost nothing: passages are re-tokenized from their text.
- "neighbours": the same with a base that also sees the ids before and after, through r = 64 numbers of each.
- "context": besides, a token is restored from the vectors of the tokens next to it as well: what a sign loses of
  one state, those of its neighbours know in part, and a token that keeps no vector has theirs.

Constants are fitted on data before they are trained: a gain left to grow from a guess costs thousands of steps.
"""

from __future__ import annotations

from collections.abc import Mapping
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

    def __init__(self, hidden_size: int, bits: int) -> None:
        super().__init__()
        self.bits = bits

    def features(self, e: Tensor, mask: Tensor) -> Tensor:
        """What the base is predicted from: word embeddings e (B, L, d) of tokens where mask (B, L) is true."""
        return e

    @torch.no_grad()
    def fit(self, h: Tensor, f: Tensor, mask: Tensor | None = None, bare: Tensor | None = None) -> None:
        """
        Fit the constants on states h (P, L, d) and features f (P, L, ...) of passages.

        Tokens stand where mask (P, L) is true; those of `bare` (P, L) will keep no vector. None: everywhere, nowhere.
        """

    def anneal(self, step: int) -> None:
        """Harden whatever is soft in training."""

    def inner(self, ids: Tensor) -> Tensor:
        """Which tokens (B, L) count as neighbours: all but padding."""
        return ids != 0

    def base(self, f: Tensor | None) -> Tensor:
        """What is known without any bit, from features (..., f) -> something that broadcasts to (..., d)."""
        return torch.zeros(())

    needs: tuple[str, ...] = ()
    """Names of the tables that the base needs."""

    def tables(self, words: Tensor) -> dict[str, Tensor]:
        """What the base needs of each id, from all word embeddings (V, d): name -> (V, ...)."""
        return {}

    def base_of(self, rows: Mapping[str, Tensor]) -> Tensor:
        """The base of passages from the rows (B, L, ...) of those tables."""
        return self.base(None)

    def project(self, h: Tensor, base: Tensor) -> Tensor:
        """y (..., m), whose signs are stored, from states (..., d)."""
        return h - base

    def restore(self, signs: Tensor, scale: Tensor, base: Tensor) -> Tensor:
        """h~ (..., d) from signs (..., m), scale (..., 1) and the base (..., d)."""
        return base + scale * signs

    def forward(self, h: Tensor, f: Tensor, bare: Tensor | None = None) -> Tensor:
        """
        States h (..., L, d), features (..., L, f) -> h~ (..., L, d), differentiable through the signs.

        Where the mask `bare` (..., L) is true the scale is 0, as a store says of a token without a vector.
        """
        base = self.base(f)
        y = self.project(h, base)
        scale = rms(y)
        kept = scale if bare is None else scale.masked_fill(bare[..., None], 0.0)
        return self.restore(SignSTE.apply(y / scale), kept, base)


class PlainBinarizer(Binarizer):
    """h~ = sign(h), kind "plain"."""

    def restore(self, signs: Tensor, scale: Tensor, base: Tensor) -> Tensor:
        """h~ (..., d): the signs themselves; a scale of 0 says that a token has none."""
        return signs * (scale > 0)


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
    def fit(self, h: Tensor, f: Tensor, mask: Tensor | None = None, bare: Tensor | None = None) -> None:
        """The channels' means, and the gains of least squares."""
        h = h[_tokens(h, mask)]
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
    def below(self, w: Tensor, h: Tensor | None = None) -> None:
        """
        Set the gain from the weights w (d,) of the layernorm above; next to 0 they would say nothing.

        With states h (N, d) it is then made as long as suits them best: the paper's formula is right for states that
        are their own signs, which have no large channels.
        """
        self.gain.copy_(1 / w.abs().clamp(min=0.01 * float(w.abs().mean()) + 1e-12))
        if h is not None:
            restored = rms(h) * torch.where(h > 0, 1.0, -1.0) * self.gain
            self.gain.mul_((restored * h).sum() / restored.pow(2).sum())

    def restore(self, signs: Tensor, scale: Tensor, base: Tensor) -> Tensor:
        """h~ (..., d) from signs (..., d) and scale (..., 1)."""
        return scale * signs * self.gain


class ResidualBinarizer(Binarizer):
    """h~ = W f + c + rms(y) * sign(y) D, y = (h - W f - c) P, kind "residual": m bits in a rotated subspace."""

    needs = ("base",)

    def __init__(self, hidden_size: int, bits: int) -> None:
        super().__init__(hidden_size, bits)
        self.predict = nn.Linear(hidden_size, hidden_size)
        self.P = nn.Parameter(torch.zeros(hidden_size, bits))
        self.D = nn.Parameter(torch.zeros(bits, hidden_size))

    @torch.no_grad()
    def fit(self, h: Tensor, f: Tensor, mask: Tensor | None = None, bare: Tensor | None = None, seed: int = 0) -> None:
        """
        W, c by ridge regression; P the principal axes of the residual of what keeps a vector times a random rotation,
        which evens out the variances over the bits; D by least squares on the signs themselves.
        """
        mask = _tokens(h, mask)
        bare = torch.zeros_like(mask) if bare is None or (bare | ~mask).all() else bare & mask
        flat, features = h[mask].double(), f[mask]
        self._fit_base(flat, features.double())
        residual = flat - self.base(features).double()
        held = residual[~bare[mask]]
        _, axes = torch.linalg.eigh(held.T @ held)  # ascending eigenvalues
        generator = torch.Generator().manual_seed(seed)
        gaussian = torch.randn(self.bits, self.bits, generator=generator, dtype=flat.dtype)
        rotation, _ = torch.linalg.qr(gaussian)
        P = axes[:, -self.bits :] @ rotation
        self.P.copy_(P)
        y = residual @ P
        self._fit_restore(rms(y) * torch.where(y > 0, 1.0, -1.0).to(y.dtype), residual, mask, bare)

    def _fit_base(self, h: Tensor, f: Tensor) -> None:
        weight, bias = _ridge(f, h)
        self.predict.weight.copy_(weight)
        self.predict.bias.copy_(bias)

    def _fit_restore(self, vectors: Tensor, residual: Tensor, mask: Tensor, bare: Tensor) -> None:
        """Set D by the vectors (tokens, m) and residuals (tokens, d) of the tokens of a mask (P, L), some `bare`."""
        held = ~bare[mask]
        self.D.copy_(_least_squares(vectors[held], residual[held]))

    def tables(self, words: Tensor) -> dict[str, Tensor]:
        """What the base needs of each id, from all word embeddings (V, d): name -> (V, ...)."""
        return {"base": self.predict(words)}

    def base_of(self, rows: Mapping[str, Tensor]) -> Tensor:
        """The base (B, L, d) of passages from the rows (B, L, ...) of those tables."""
        return rows["base"]

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
    """
    The residual binarizer with a base that also sees one id to each side, kind "neighbours".

    A passage is encoded between two tokens of the id `edge` and stored without them: they count for nothing, as does
    what is beyond the ends of what is stored.
    """

    needs = ("base", "around")
    rank = 64
    """Numbers that say of an id what its neighbours' bases need."""
    edge: Tensor

    def __init__(self, hidden_size: int, bits: int) -> None:
        super().__init__(hidden_size, bits)
        rank = min(self.rank, hidden_size)
        self.reduce = nn.Linear(hidden_size, rank, bias=False)
        self.around = nn.Linear(2 * rank, hidden_size, bias=False)
        self.register_buffer("edge", torch.tensor(-1))

    def inner(self, ids: Tensor) -> Tensor:
        """Which tokens (B, L) count as neighbours: all but padding and the edges."""
        return (ids != 0) & (ids != self.edge)

    def features(self, e: Tensor, mask: Tensor) -> Tensor:
        """Word embeddings (B, L, d) -> (B, L, 3 d): a token's own, the one before, the one after; 0 past the ends."""
        return torch.cat([e, *_beside(e * mask[..., None])], dim=-1)

    def _fit_base(self, h: Tensor, f: Tensor) -> None:
        """The neighbours' share of a ridge regression, cut to its largest directions; then all but those once more."""
        d, rank = h.shape[1], self.reduce.out_features
        weight, _ = _ridge(f, h)
        own, before, after = f.split(d, dim=1)
        values, axes = torch.linalg.eigh(own.T @ own / len(own))
        length = values.clamp(min=1e-3 * float(values.mean()) + 1e-12).sqrt()  # few ids leave directions empty
        root = axes * length
        found = torch.cat([weight[:, d : 2 * d], weight[:, 2 * d :]]) @ root  # (2 d, d): what each direction brings
        _, _, rows = torch.linalg.svd(found, full_matrices=False)
        reduce = rows[:rank] @ (axes / length).T
        self.reduce.weight.copy_(reduce)
        weight, bias = _ridge(torch.cat([own, before @ reduce.T, after @ reduce.T], dim=1), h)
        self.predict.weight.copy_(weight[:, :d])
        self.predict.bias.copy_(bias)
        self.around.weight.copy_(weight[:, d:])

    def tables(self, words: Tensor) -> dict[str, Tensor]:
        """What the base needs of each id, from all word embeddings (V, d): name -> (V, ...)."""
        counts = self.inner(torch.arange(len(words), device=words.device))
        return {**super().tables(words), "around": self.reduce(words) * counts[:, None]}

    def base_of(self, rows: Mapping[str, Tensor]) -> Tensor:
        """The base (B, L, d) of passages from the rows (B, L, ...) of those tables."""
        return rows["base"] + self.around(torch.cat(_beside(rows["around"]), dim=-1))

    def base(self, f: Tensor | None) -> Tensor:
        """What the token ids alone predict: features (..., 3 d) -> (..., d)."""
        assert f is not None
        own, before, after = f.chunk(3, dim=-1)
        return self.predict(own) + self.around(torch.cat([self.reduce(before), self.reduce(after)], dim=-1))


class ContextBinarizer(NeighbourBinarizer):
    """
    The same, restored from the vectors v = scale * sign(y) of a token and of those next to it, kind "context".

    h~ = base + v D_0 + v_before D_1 + v_after D_2; where a token keeps no vector, base + v_before D_3 + v_after D_4.
    """

    def __init__(self, hidden_size: int, bits: int) -> None:
        super().__init__(hidden_size, bits)
        self.D = nn.Parameter(torch.zeros(5 * bits, hidden_size))

    def _fit_restore(self, vectors: Tensor, residual: Tensor, mask: Tensor, bare: Tensor) -> None:
        """A part of D for the tokens with a vector, one for those without: by all where none is without."""
        own = vectors.new_zeros(*mask.shape, self.bits)
        own[mask] = vectors
        own = own.masked_fill(bare[..., None], 0.0)
        without = bare[mask]
        beside = torch.cat(_beside(own), dim=-1)[mask]
        whole = torch.cat([own[mask], beside], dim=-1)
        rows = without if without.any() else ~without
        fits = ((whole[~without], residual[~without]), (beside[rows], residual[rows]))
        self.D.copy_(torch.cat([_least_squares(x, y) for x, y in fits]))

    def restore(self, signs: Tensor, scale: Tensor, base: Tensor) -> Tensor:
        """h~ (..., L, d) from signs (..., L, m), scale (..., L, 1), 0 of no vector, and the base (..., L, d)."""
        own = scale * signs
        beside = torch.cat(_beside(own), dim=-1)
        has = (scale != 0).to(own.dtype)
        return base + torch.cat([own, beside * has, beside * (1 - has)], dim=-1) @ self.D


def _tokens(h: Tensor, mask: Tensor | None) -> Tensor:
    """The mask (...) of states h (..., d): all of them where there is none."""
    return torch.ones(h.shape[:-1], dtype=torch.bool) if mask is None else mask


def _beside(x: Tensor) -> tuple[Tensor, Tensor]:
    """What stands before and after each of (..., L, n): two of the same shape, 0 past the ends."""
    nothing = torch.zeros_like(x[..., :1, :])
    return torch.cat([nothing, x[..., :-1, :]], dim=-2), torch.cat([x[..., 1:, :], nothing], dim=-2)


def _least_squares(x: Tensor, y: Tensor, ridge: float = 1e-3) -> Tensor:
    """Weights (a, b) of y (tokens, b) on x (tokens, a), a little shrunk: features of any scale alike."""
    gram = x.T @ x
    diagonal = gram.diagonal()
    gram = gram + ridge * torch.diag(diagonal + 1e-6 * diagonal.mean() + 1e-12)
    return torch.linalg.solve(gram, x.T @ y)


def _ridge(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """Weight (b, a) and bias (b,) of y (tokens, b) on x (tokens, a)."""
    x_mean, y_mean = x.mean(0), y.mean(0)
    weight = _least_squares(x - x_mean, y - y_mean).T
    return weight, y_mean - weight @ x_mean


KINDS: dict[str, type[Binarizer]] = {
    "naive": NaiveBinarizer,
    "plain": PlainBinarizer,
    "sign": Binarizer,
    "gain": GainBinarizer,
    "norm": NormBinarizer,
    "residual": ResidualBinarizer,
    "neighbours": NeighbourBinarizer,
    "context": ContextBinarizer,
}


def make_binarizer(kind: str, hidden_size: int, bits: int) -> Binarizer:
    """The binarizer of this name; kinds without a projection keep a bit for every channel, whatever `bits` says."""
    made = KINDS[kind]
    return made(hidden_size, bits if issubclass(made, ResidualBinarizer) else hidden_size)
