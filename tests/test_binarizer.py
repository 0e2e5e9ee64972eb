"""Signs that train, and constants that are fitted: twins of the store's codec."""

import numpy as np
import pytest
import torch

from export.binarizer import KINDS, ResidualBinarizer, SignSTE, make_binarizer, rms
from store.codec import pack, unpack


def data(tokens: int = 600, d: int = 32) -> tuple[torch.Tensor, torch.Tensor]:
    """States that the word embedding explains in part: a linear map of it plus a low-rank rest."""
    generator = torch.Generator().manual_seed(0)
    e = torch.randn(tokens, d, generator=generator)
    rest = torch.randn(tokens, 6, generator=generator) @ torch.randn(6, d, generator=generator)
    return e @ torch.randn(d, d, generator=generator) * 0.3 + 0.4 * rest + 2.0, e


def error(restored: torch.Tensor, h: torch.Tensor) -> float:
    """Squared error, 1 for the mean."""
    return float((restored.detach() - h).pow(2).sum() / (h - h.mean(0)).pow(2).sum())


def test_the_forward_sign_is_the_codecs() -> None:
    """Twins: what training sees equals what the store gives back, zero and -0.0 included."""
    h = torch.tensor([[0.0, -0.0, 1.5, -2.0, 1e-20, -1e-20, 3.0, -4.0]])
    assert np.array_equal(SignSTE.apply(h).numpy(), unpack(pack(h.numpy())))


def test_the_backward_gradient_is_tanhs() -> None:
    u = torch.linspace(-3, 3, 13, requires_grad=True)
    SignSTE.apply(u).sum().backward()
    assert u.grad is not None
    assert torch.allclose(u.grad, 1 - torch.tanh(u.detach()) ** 2)


@pytest.mark.parametrize("kind", KINDS)
def test_gradients_reach_the_states_through_the_signs(kind: str) -> None:
    h, e = data(20)
    binarizer = make_binarizer(kind, 32, 16)
    binarizer.fit(h, e)
    h = h.requires_grad_()
    binarizer(h, e).pow(2).sum().backward()
    assert h.grad is not None
    assert h.grad.abs().sum() > 0


def test_the_forward_pass_is_restore_of_what_is_stored() -> None:
    h, e = data()
    binarizer = make_binarizer("residual", 32, 16)
    binarizer.fit(h, e)
    base = binarizer.base(e)
    y = binarizer.project(h, base)
    stored = torch.from_numpy(unpack(pack(y.detach().numpy())))
    assert torch.allclose(binarizer(h, e), binarizer.restore(stored, rms(y), base), atol=1e-5)


def test_fewer_residual_bits_restore_better_than_plain_signs() -> None:
    h, e = data()
    plain = make_binarizer("sign", 32, 32)
    residual = ResidualBinarizer(32, 16)
    residual.fit(h, e)
    assert error(residual(h, e), h) < 0.5 * error(plain(h, e), h)


def test_more_bits_restore_better() -> None:
    h, e = data()
    errors = []
    for bits in (8, 16, 32):
        binarizer = ResidualBinarizer(32, bits)
        binarizer.fit(h, e)
        errors.append(error(binarizer(h, e), h))
    assert errors == sorted(errors, reverse=True)


def test_the_fitted_base_is_what_the_id_alone_predicts() -> None:
    h, e = data()
    binarizer = ResidualBinarizer(32, 8)
    binarizer.fit(h, e)
    base = binarizer.base(e)
    assert error(base, h) < 1
    assert (h - base).mean(0).abs().max() < 1e-3
