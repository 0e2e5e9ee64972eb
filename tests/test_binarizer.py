"""Signs that train, and constants that are fitted: twins of the store's codec."""

import numpy as np
import pytest
import torch

from export.binarizer import KINDS, NaiveBinarizer, NeighbourBinarizer, ResidualBinarizer, SignSTE, make_binarizer, rms
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
    f = binarizer.features(e[None], torch.ones(1, 20, dtype=torch.bool))[0]
    binarizer.fit(h, f)
    h = h.requires_grad_()
    (binarizer(h, f) * torch.arange(32)).sum().backward()
    assert h.grad is not None
    assert h.grad.abs().sum() > 0


@pytest.mark.parametrize("kind", KINDS)
def test_the_forward_pass_is_restore_of_what_is_stored(kind: str) -> None:
    h, e = data()
    binarizer = make_binarizer(kind, 32, 16).eval()
    f = binarizer.features(e[None], torch.ones(1, len(e), dtype=torch.bool))[0]
    binarizer.fit(h, f)
    base = binarizer.base(f)
    y = binarizer.project(h, base)
    assert y.shape[-1] == binarizer.bits
    stored = torch.from_numpy(unpack(pack(y.detach().numpy())))
    assert torch.allclose(binarizer(h, f), binarizer.restore(stored, rms(y), base), atol=1e-5)


def test_the_naive_kind_hardens_step_by_step() -> None:
    h, e = data(20)
    binarizer = NaiveBinarizer(32, 32).train()
    errors = []
    for step in (0, 100, 10_000, 10_000_000):
        binarizer.anneal(step)
        errors.append(float((binarizer(h, e) - torch.sign(h)).abs().mean()))
    assert errors == sorted(errors, reverse=True)
    assert errors[-1] < 0.01
    assert torch.equal(binarizer.eval()(h, e), torch.where(h > 0, 1.0, -1.0))


def test_a_mean_and_a_gain_restore_better_than_signs_alone() -> None:
    h, e = data()
    errors = []
    for kind in ("plain", "sign", "gain"):
        binarizer = make_binarizer(kind, 32, 32)
        binarizer.fit(h, e)
        errors.append(error(binarizer(h, e), h))
    assert errors == sorted(errors, reverse=True)


def test_neighbours_help_where_the_state_depends_on_them() -> None:
    e = torch.randn(1, 500, 32, generator=torch.Generator().manual_seed(1))
    mask = torch.ones(1, 500, dtype=torch.bool)
    h = e + torch.roll(e, 1, dims=1)
    mask[0, 0] = False
    errors = []
    for kind in ("residual", "neighbours"):
        binarizer = make_binarizer(kind, 32, 8)
        f = binarizer.features(e, torch.ones_like(mask))
        binarizer.fit(h, f, mask)
        errors.append(error(binarizer.base(f)[mask], h[mask]))
    assert errors[1] < 0.01 < errors[0]


def test_neighbours_end_with_the_passage() -> None:
    """Padding is no neighbour: what stands behind a passage's end changes nothing."""
    binarizer = make_binarizer("neighbours", 4, 8)
    e, mask = torch.ones(1, 3, 4), torch.tensor([[True, True, False]])
    features = binarizer.features(e, mask)[0]
    assert features[0].tolist() == [1] * 4 + [0] * 4 + [1] * 4
    assert features[1].tolist() == [1] * 4 + [1] * 4 + [0] * 4


def test_what_neighbours_say_in_few_directions_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """States that depend on 4 directions of the embedding before: a rank of 4 is enough, whatever its scale."""
    monkeypatch.setattr(NeighbourBinarizer, "rank", 4)
    generator = torch.Generator().manual_seed(6)
    e = 0.05 * torch.randn(1, 4000, 32, generator=generator)
    few = torch.randn(32, 4, generator=generator) @ torch.randn(4, 32, generator=generator)
    h = 20 * e + torch.roll(e, 1, dims=1) @ few
    mask = torch.ones(1, 4000, dtype=torch.bool)
    mask[0, 0] = False
    binarizer = NeighbourBinarizer(32, 8)
    f = binarizer.features(e, torch.ones_like(mask))
    binarizer.fit(h, f, mask)
    assert error(binarizer.base(f)[mask], h[mask]) < 0.01


def test_the_base_from_tables_of_ids_is_the_base_from_embeddings(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(NeighbourBinarizer, "rank", 8)
    h, words = data(40)
    binarizer = NeighbourBinarizer(32, 8)
    binarizer.edge.fill_(7)
    assert binarizer.reduce.weight.shape == (8, 32)
    ids = torch.tensor([[3, 7, 5, 9, 0], [1, 2, 4, 6, 8]])
    f = binarizer.features(words[ids], binarizer.inner(ids))
    binarizer.fit(h[ids], f, ids != 0)
    rows = {name: table[ids] for name, table in binarizer.tables(words).items()}
    assert torch.allclose(binarizer.base_of(rows)[ids != 0], binarizer.base(f)[ids != 0], atol=1e-5)
    assert not binarizer.tables(words)["around"][[0, 7]].any()


def blended(passages: int = 40, length: int = 30) -> tuple[torch.Tensor, torch.Tensor]:
    """States (P, L, d) of which each holds a part of the two beside it, and embeddings that say nothing of them."""
    generator = torch.Generator().manual_seed(3)
    own = torch.randn(passages, length, 32, generator=generator)
    h = own + 0.7 * (torch.roll(own, 1, dims=1) + torch.roll(own, -1, dims=1))
    return h, torch.randn(passages, length, 32, generator=generator)


def test_the_vectors_beside_a_token_help_to_restore_it_most_where_it_has_none() -> None:
    h, e = blended()
    mask = torch.ones(h.shape[:2], dtype=torch.bool)
    bare = torch.rand(mask.shape, generator=torch.Generator().manual_seed(4)) < 0.4
    errors = {}
    for kind in ("neighbours", "context"):
        binarizer = make_binarizer(kind, 32, 32)
        f = binarizer.features(e, mask)
        binarizer.fit(h, f, mask, bare)
        restored = binarizer(h, f, bare)
        errors[kind] = error(restored[bare], h[bare]), error(restored[~bare], h[~bare])
    assert errors["context"][0] < 0.8 * errors["neighbours"][0]
    assert errors["context"][1] < 0.95 * errors["neighbours"][1]


def test_what_has_no_vector_gives_nothing_to_those_beside_it() -> None:
    """A token restored next to one without a vector: the same whatever the signs of that one would have been."""
    h, e = blended(2, 6)
    binarizer = make_binarizer("context", 32, 16)
    f = binarizer.features(e, torch.ones(2, 6, dtype=torch.bool))
    binarizer.fit(h, f)
    scale = torch.ones(2, 6, 1)
    scale[:, 2] = 0
    signs = torch.ones(2, 6, 16)
    before = binarizer.restore(signs, scale, binarizer.base(f))
    signs[:, 2] = -1
    assert torch.equal(before, binarizer.restore(signs, scale, binarizer.base(f)))


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


def test_a_token_without_its_bits_is_its_base() -> None:
    h, e = data(20)
    binarizer = ResidualBinarizer(32, 16)
    binarizer.fit(h, e)
    bare = torch.arange(20) % 3 == 0
    restored = binarizer(h, e, bare)
    assert torch.equal(restored[bare], binarizer.base(e)[bare])
    assert torch.equal(restored[~bare], binarizer(h, e)[~bare])
