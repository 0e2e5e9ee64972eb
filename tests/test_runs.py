"""Compressed passages: their bytes, and the runs that they are cut into."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks.compression import merge
from store.codec import (
    Packed,
    decoded_scales,
    encoded_scales,
    read_packed,
    read_runs,
    scales_to_bytes,
    token_arrays,
    unpack,
)
from store.errors import FormatError
from store.runs import compress, runs_kept

RATIOS = st.floats(0, 0.99)


def whole(signs: list[list[int]] | np.ndarray, scale: list[float] | np.ndarray) -> Packed:
    """A passage as it is indexed, from signs (n, m)."""
    rows = np.packbits(np.array(signs) > 0, axis=1)
    return Packed(rows, np.array(scale, dtype=np.float16), np.ones(len(rows), dtype=np.bool_), None)


@st.composite
def passages(draw: st.DrawFn) -> tuple[Packed, np.ndarray]:
    """A passage of few tokens, with which of them are held."""
    n = draw(st.integers(1, 12))
    rng = np.random.default_rng(draw(st.integers(0, 999)))
    signs = np.where(rng.random((n, 16)) < 0.5, -1, 1)
    held = np.array(draw(st.lists(st.booleans(), min_size=n, max_size=n)))
    return whole(signs, rng.uniform(0.2, 0.9, n)), held


def test_the_bytes_of_a_compressed_passage_are_fixed() -> None:
    """The on-disk format, spelled out: changing a byte breaks every compacted store in the field."""
    bits = np.array([[0b11110000], [0b00001111]], dtype=np.uint8)
    held = np.array([True, False, True, True, False], dtype=np.bool_)
    packed = Packed(bits, np.array([1.0, 0.5], dtype=np.float16), held, np.array([True, False, True]))
    assert packed.to_bytes() == (b"\xf0\x0f", b"\xa0\x90", b"\xb5")
    assert 0xB5 == 0b10110_101
    bits, scale = token_arrays(b"\xf0\x0f", b"\xa0\x90", 5, b"\xb5")
    assert bits.tolist() == [[0xF0], [0], [0xF0], [0x0F], [0]]
    assert scale.tolist() == [1.0, 0, 1.0, 0.5, 0]


def test_scales_of_one_byte_are_fixed_and_no_further_off_than_half_a_step() -> None:
    assert encoded_scales(np.array([0, 0.25, 0.5, 1, 2, 1e-9, 1e9])).tolist() == [0, 128, 144, 160, 176, 1, 255]
    scale = np.geomspace(0.002, 50, 1000)
    assert np.abs(decoded_scales(encoded_scales(scale)) / scale - 1).max() < 0.023
    codes = np.arange(256, dtype=np.uint8)
    assert np.array_equal(encoded_scales(decoded_scales(codes)), codes)


@given(passages(), st.lists(RATIOS, min_size=1, max_size=3))
def test_a_compressed_passage_reads_back_from_its_bytes(drawn: tuple[Packed, np.ndarray], ratios: list[float]) -> None:
    packed = compress(*drawn, ratios)
    n = len(drawn[1])
    again = read_packed(*packed.to_bytes(), n)
    assert again.to_bytes() == packed.to_bytes()
    for mine, read in zip(packed.tokens(), again.tokens(), strict=True):
        assert np.array_equal(mine, read)
    bits, scale = again.tokens()
    assert bits.shape == (n, 2)
    held = drawn[1] if drawn[1].any() else np.arange(n) == 0
    assert np.array_equal(scale > 0, held)  # what is not held has no vector, and only that


@given(passages(), RATIOS)
def test_compressing_again_changes_nothing(drawn: tuple[Packed, np.ndarray], ratio: float) -> None:
    once = compress(*drawn, [ratio])
    read = read_packed(*once.to_bytes(), len(drawn[1]))
    assert compress(read, ~drawn[1], [ratio]).to_bytes() == once.to_bytes()


@given(passages(), st.lists(RATIOS, min_size=2, max_size=3).map(sorted))
def test_ratios_one_after_the_other_are_those_of_one_go(drawn: tuple[Packed, np.ndarray], ratios: list[float]) -> None:
    """What an interrupted run and `verify` rest on."""
    packed = drawn[0]
    for step in range(1, len(ratios) + 1):
        packed = read_packed(*compress(packed, drawn[1], ratios[:step]).to_bytes(), len(drawn[1]))
    assert packed.to_bytes() == compress(*drawn, ratios).to_bytes()


@given(passages(), RATIOS)
def test_as_many_runs_are_left_as_the_ratio_says(drawn: tuple[Packed, np.ndarray], ratio: float) -> None:
    held = max(1, int(drawn[1].sum()))
    packed = compress(*drawn, [ratio])
    bits, scale, runs = packed.to_bytes()
    assert len(scale) == runs_kept(held, ratio) == len(bits) // 2
    assert runs is not None
    assert len(runs) == -(-(len(drawn[1]) + held) // 8)


def test_what_a_ratio_leaves_is_rounded_up_and_never_nothing() -> None:
    assert [runs_kept(10, ratio) for ratio in (0, 0.05, 0.1, 0.3, 0.99)] == [10, 10, 9, 7, 1]
    assert runs_kept(100, 0.07) == 93  # 1 - 0.07 is a little more than 0.93


def test_at_ratio_0_only_common_words_lose_anything() -> None:
    rng = np.random.default_rng(0)
    passage = whole(np.where(rng.random((6, 16)) < 0.5, -1, 1), rng.uniform(0.3, 0.8, 6))
    held = np.array([1, 0, 1, 1, 0, 1], dtype=np.bool_)
    bits, scale = compress(passage, held, [0.0]).tokens()
    assert np.array_equal(bits[held], passage.bits[held])
    assert np.allclose(scale[held], passage.scale[held], rtol=0.023)


def test_a_run_is_the_least_squares_fit_to_its_tokens() -> None:
    """Of all vectors of signs and all scales none is nearer, and a stronger token has more to say."""
    signs = np.array([[1, 1, -1, 1, 1, 1, 1, 1], [-1, 1, 1, 1, 1, 1, 1, 1]])
    packed = compress(whole(signs, [0.75, 0.25]), np.ones(2, dtype=np.bool_), [0.5])
    assert unpack(packed.bits)[0].tolist() == [1, 1, -1, 1, 1, 1, 1, 1]
    wanted = signs * np.array([[0.75], [0.25]])
    scale = np.abs(wanted.sum(axis=0)).sum() / (2 * 8)
    assert float(packed.scale[0]) == pytest.approx(scale, rel=0.023)
    patterns = unpack(np.arange(256, dtype=np.uint8)[:, None])
    errors = [((wanted - s * pattern) ** 2).sum() for pattern in patterns for s in np.linspace(0.05, 1, 96)]
    assert ((wanted - scale * unpack(packed.bits)) ** 2).sum() <= min(errors) + 1e-3


def test_a_bit_on_which_equals_disagree_stays_that_of_the_first() -> None:
    """Always -1 would skew the share of ones."""
    rng = np.random.default_rng(0)
    signs = np.where(rng.random((2, 512)) < 0.5, -1, 1)
    packed = compress(whole(signs, [0.5, 0.5]), np.ones(2, dtype=np.bool_), [0.5])
    assert np.array_equal(unpack(packed.bits)[0], signs[0])
    _, merged, _ = merge(np.packbits(signs > 0, axis=1), np.array([0.5, 0.5], dtype=np.float32), 1)
    assert np.array_equal(unpack(merged)[0], signs[0])


def test_the_neighbours_that_are_nearest_merge_first_and_of_equal_ones_the_first() -> None:
    a, b = [1] * 8, [1, -1] * 4
    ones = np.ones(6, dtype=np.bool_)
    packed = compress(whole([a, a, b, b, a, a], [0.5] * 6), ones, [0.1])
    assert packed.starts is not None
    assert packed.starts.tolist() == [True, True, True, True, True, True]
    packed = compress(packed, ones, [0.16])
    assert packed.starts is not None
    assert packed.starts.tolist() == [True] * 6
    packed = compress(packed, ones, [0.17])
    assert packed.starts is not None
    assert packed.starts.tolist() == [True, False, True, True, True, True]
    packed = compress(packed, ones, [0.5])
    assert packed.starts is not None
    assert packed.starts.tolist() == [True, False, True, False, True, False]
    assert packed.tokens()[0].tolist() == [[255], [255], [0b10101010], [0b10101010], [255], [255]]


@settings(max_examples=30)
@given(st.integers(0, 999), st.integers(2, 8))
def test_merging_is_wards(seed: int, keep: int) -> None:
    """The heap against the definition: of all neighbours those whose merging loses least, again and again."""
    rng = np.random.default_rng(seed)
    signs, scale = np.where(rng.random((9, 24)) < 0.4, -1, 1), rng.uniform(0.2, 0.9, 9)
    passage = whole(signs, scale)
    parts = [[i] for i in range(9)]
    values = signs * decoded_scales(encoded_scales(passage.scale)).astype(np.float64)[:, None]

    def explained(part: list[int]) -> float:
        return float(np.abs(values[part].sum(axis=0)).sum() ** 2 / (24 * len(part)))

    while len(parts) > keep:
        losses = [explained(a) + explained(b) - explained(a + b) for a, b in pairwise(parts)]
        at = int(np.argmin(losses))
        parts[at : at + 2] = [parts[at] + parts[at + 1]]
    packed = compress(passage, np.ones(9, dtype=np.bool_), [1 - keep / 9])
    assert packed.starts is not None
    assert np.flatnonzero(packed.starts).tolist() == [part[0] for part in parts]


@pytest.mark.parametrize(
    ("tokens", "runs"),
    [(5, b""), (5, b"\xb5\x00"), (5, b"\x00"), (5, b"\x95"), (5, b"\xb1"), (6, b"\xb5"), (0, b""), (3, b"\xf9")],
    ids=["short", "long", "none held", "padding", "no first run", "more tokens", "no token", "padding of three"],
)
def test_bytes_that_are_no_runs_are_refused(tokens: int, runs: bytes) -> None:
    with pytest.raises(FormatError, match="index the note again"):
        read_runs(runs, tokens)


@pytest.mark.parametrize(("bits", "scale"), [(b"\xf0", b"\xa0\x90"), (b"\xf0\x0f", b"\xa0"), (b"\xf0\x0f", b"1234")])
def test_bytes_that_do_not_fill_the_runs_are_refused(bits: bytes, scale: bytes) -> None:
    with pytest.raises(FormatError, match="do not make 5 tokens"):
        token_arrays(bits, scale, 5, b"\xb5")


def test_what_is_not_compressed_is_as_it_was() -> None:
    passage = whole(np.ones((3, 8)), [1.0, 2.0, 3.0])
    assert compress(passage, np.zeros(3, dtype=np.bool_), []) is passage
    assert passage.to_bytes() == (b"\xff\xff\xff", scales_to_bytes(np.array([1, 2, 3], dtype=np.float32)), None)


# the paper's, as it is measured against


def test_bipartite_matching_merges_the_closest_pairs_of_one_id() -> None:
    base = np.random.default_rng(0).integers(0, 256, (3, 8), dtype=np.uint8)
    near = base.copy()
    near[:, 0] ^= np.array([1, 0, 3], dtype=np.uint8)  # 1, 0 and 2 bits away
    rows = np.stack([base, near], axis=1).reshape(6, 8)
    index, vectors, scales = merge(rows, np.full(6, 0.5, dtype=np.float32), 4)
    assert index.tolist() == [0, 0, 1, 1, 2, 3]
    assert np.array_equal(vectors, np.stack([base[0], base[1], base[2], near[2]]))
    assert scales.tolist() == pytest.approx([0.5 * 63 / 64, 0.5, 0.5, 0.5])


@given(st.integers(1, 40), st.integers(1, 40), st.integers(0, 99))
def test_bipartite_matching_leaves_as_many_as_asked_for_and_loses_no_token(n: int, keep: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    bits, scale = rng.integers(0, 256, (n, 8), dtype=np.uint8), rng.uniform(0.2, 0.9, n).astype(np.float32)
    index, vectors, scales = merge(bits, scale, keep)
    assert len(vectors) == len(scales) == min(n, keep)
    assert sorted(set(index.tolist())) == list(range(len(vectors)))
