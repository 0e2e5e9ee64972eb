"""The byte format of stored tokens."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from store.codec import pack, scales_to_bytes, token_arrays, unpack
from store.errors import FormatError


def test_pack_layout_is_fixed() -> None:
    """The on-disk format, spelled out: changing this byte breaks every store in the field."""
    y = np.array([[0, 1, -1, 2, -3, 4, 5, -6]], dtype=np.float32)
    assert pack(y).tolist() == [[0b01010110]]


def test_zero_of_either_sign_is_minus_one() -> None:
    y = np.array([0.0, -0.0, 1e-30, -1e-30, 0, 0, 0, 0], dtype=np.float32)
    assert unpack(pack(y)).tolist() == [-1, -1, 1, -1, -1, -1, -1, -1]


@given(
    hnp.arrays(
        np.float32, st.tuples(st.integers(0, 5), st.sampled_from([8, 24, 64])), elements=st.floats(-9, 9, width=32)
    )
)
def test_unpack_inverts_pack_to_signs(y: np.ndarray) -> None:
    assert np.array_equal(unpack(pack(y)), np.where(y > 0, 1.0, -1.0))


def test_a_width_that_leaves_padding_bits_is_refused() -> None:
    with pytest.raises(FormatError, match="12 bits per token is not a multiple of 8"):
        pack(np.zeros((2, 12), dtype=np.float32))


def test_scales_are_little_endian_float16() -> None:
    assert scales_to_bytes(np.array([1.0, -2.0], dtype=np.float32)) == b"\x00\x3c\x00\xc0"


def test_token_arrays_read_back_what_was_written() -> None:
    rng = np.random.default_rng(1)
    y = rng.standard_normal((5, 16)).astype(np.float32)
    scale = rng.random(5).astype(np.float32)
    bits, scales = token_arrays(pack(y).tobytes(), scales_to_bytes(scale), 5)
    assert np.array_equal(bits, pack(y))
    assert np.array_equal(scales, scale.astype(np.float16))


@pytest.mark.parametrize(("bits", "scale", "tokens"), [(b"", b"", 0), (b"abc", b"1234", 2), (b"abcd", b"12", 2)])
def test_bytes_that_make_no_tokens_are_refused(bits: bytes, scale: bytes, tokens: int) -> None:
    with pytest.raises(FormatError, match="index the note again"):
        token_arrays(bits, scale, tokens)
