"""
Binary token codec: signs of token states <-> bytes.

One convention, defined here and nowhere else:
- a bit is 1 where y > 0 and 0 elsewhere, so y == 0 decodes to -1 (BTR section 3.1);
- bits are packed along the last axis, most significant bit first (numpy's "big");
- m is a multiple of 8, so there are never padding bits;
- a token's scale is one little-endian float16.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from store.errors import FormatError

Floats = npt.NDArray[np.float32]
Bits = npt.NDArray[np.uint8]

SCALE_DTYPE = np.dtype("<f2")


def pack(y: Floats) -> Bits:
    """
    Pack the signs of token states (..., m) into bytes (..., m // 8).

    Raises:
        FormatError: If m is not a multiple of 8.
    """
    if y.shape[-1] % 8:
        raise FormatError(f"{y.shape[-1]} bits per token is not a multiple of 8: export the bundle again")
    return np.packbits(y > 0, axis=-1)


def unpack(bits: Bits) -> Floats:
    """Bytes (..., m // 8) -> signs (..., m), +1 or -1."""
    return np.unpackbits(bits, axis=-1).astype(np.float32) * 2 - 1


def hamming(a: Bits, b: Bits) -> npt.NDArray[np.int64]:
    """Hamming distance over the last axis of two broadcastable packed arrays: small is near."""
    distance: npt.NDArray[np.int64] = np.bitwise_count(a ^ b).sum(axis=-1, dtype=np.int64)
    return distance


def scales_to_bytes(scale: Floats) -> bytes:
    """Scales (n,) -> 2 n bytes."""
    return scale.astype(SCALE_DTYPE).tobytes()


def token_arrays(bits: bytes, scale: bytes, tokens: int) -> tuple[Bits, npt.NDArray[np.float16]]:
    """
    What a store holds for one passage -> bits (tokens, m // 8) and scales (tokens,).

    Raises:
        FormatError: If the bytes do not divide into that many tokens.
    """
    if tokens <= 0 or len(bits) % tokens or len(scale) != tokens * SCALE_DTYPE.itemsize:
        raise FormatError(
            f"{len(bits)} bytes of bits and {len(scale)} of scales do not make {tokens} tokens: index the note again"
        )
    packed = np.frombuffer(bits, dtype=np.uint8).reshape(tokens, -1)
    return packed, np.frombuffer(scale, dtype=SCALE_DTYPE).astype(np.float16, copy=False)
