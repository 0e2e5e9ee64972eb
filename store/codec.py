"""
Binary token codec: signs of token states <-> bytes.

One convention, defined here and nowhere else:
- a bit is 1 where y > 0 and 0 elsewhere, so y == 0 decodes to -1 (BTR section 3.1);
- bits are packed along the last axis, most significant bit first (numpy's "big");
- m is a multiple of 8, so there are never padding bits;
- a token's scale is one little-endian float16.

A compressed passage (`store.runs`) holds vectors for runs of its tokens only, and says so in `runs`:
- n bits, 1 where a token is held, then one bit for each held token, 1 where it begins a run, packed as above with zeros
  at the end; at least one token is held, and the first one that is begins a run;
- bits and scales then are those of the runs, in order; a token that is not held has scale 0: no vector;
- a run's scale is one byte c: 2 ** ((c - 160) / 16), and 0 where c is 0. Neighbouring values are 4.4 % apart.
"""

from __future__ import annotations

from dataclasses import dataclass

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


def scales_to_bytes(scale: Floats) -> bytes:
    """Scales (n,) -> 2 n bytes."""
    return scale.astype(SCALE_DTYPE).tobytes()


@dataclass(frozen=True)
class Packed:
    """A passage's tokens as they are stored."""

    bits: Bits
    """(r, m / 8), a row a run; a row a token in a passage that is not compressed."""
    scale: npt.NDArray[np.float16]
    """(r,)."""
    held: npt.NDArray[np.bool_]
    """(n,): the token belongs to a run."""
    starts: npt.NDArray[np.bool_] | None
    """Of every held token: it begins a run. None: the passage is not compressed."""

    def to_bytes(self) -> tuple[bytes, bytes, bytes | None]:
        """Bits, scale and runs, as a store keeps them."""
        if self.starts is None:
            return self.bits.tobytes(), self.scale.astype(SCALE_DTYPE).tobytes(), None
        runs = np.packbits(np.concatenate([self.held, self.starts])).tobytes()
        return self.bits.tobytes(), encoded_scales(self.scale).tobytes(), runs

    def tokens(self) -> tuple[Bits, npt.NDArray[np.float16]]:
        """Bits (n, m / 8) and scales (n,) of every token."""
        if self.starts is None:
            return self.bits, self.scale
        bits = np.zeros((len(self.held), self.bits.shape[1]), dtype=np.uint8)
        scale = np.zeros(len(self.held), dtype=np.float16)
        run = np.cumsum(self.starts) - 1
        bits[self.held], scale[self.held] = self.bits[run], self.scale[run]
        return bits, scale


def encoded_scales(scale: npt.NDArray[np.floating]) -> npt.NDArray[np.uint8]:
    """Scales (r,) -> the nearest of the 256 that one byte can say."""
    with np.errstate(divide="ignore"):
        steps = np.round(16 * np.log2(scale.astype(np.float64))) + 160
    code: npt.NDArray[np.uint8] = np.where(scale > 0, np.clip(steps, 1, 255), 0).astype(np.uint8)
    return code


def decoded_scales(code: npt.NDArray[np.uint8]) -> npt.NDArray[np.float16]:
    """One byte a run (r,) -> scales (r,)."""
    scale = np.exp2((code.astype(np.float64) - 160) / 16)
    return np.where(code > 0, scale, 0).astype(np.float16)


def read_runs(runs: bytes, tokens: int) -> tuple[npt.NDArray[np.bool_], npt.NDArray[np.bool_]]:
    """
    The `runs` of a compressed passage of so many tokens -> which are held (n,), and which of those begin a run.

    Raises:
        FormatError: If the bytes do not say that.
    """
    flags = np.unpackbits(np.frombuffer(runs, dtype=np.uint8)).astype(np.bool_)
    held = flags[:tokens]
    used = tokens + int(held.sum())
    starts = flags[tokens:used]
    if tokens <= 0 or len(flags) != -(-used // 8) * 8 or flags[used:].any() or not starts[:1].any():
        raise FormatError(f"{len(runs)} bytes do not cut {tokens} tokens into runs: index the note again")
    return held, starts


def read_packed(bits: bytes, scale: bytes, runs: bytes | None, tokens: int) -> Packed:
    """
    What a store holds for one passage -> its tokens.

    Raises:
        FormatError: If the bytes do not divide into that many tokens or runs.
    """
    held, starts, rows, item = np.ones(max(tokens, 0), dtype=np.bool_), None, tokens, SCALE_DTYPE.itemsize
    if runs is not None:
        held, starts = read_runs(runs, tokens)
        rows, item = int(starts.sum()), 1
    if tokens <= 0 or len(bits) % rows or len(scale) != rows * item:
        raise FormatError(
            f"{len(bits)} bytes of bits and {len(scale)} of scales do not make {tokens} tokens: index the note again"
        )
    packed = np.frombuffer(bits, dtype=np.uint8).reshape(rows, -1)
    if starts is None:
        scales = np.frombuffer(scale, dtype=SCALE_DTYPE).astype(np.float16, copy=False)
    else:
        scales = decoded_scales(np.frombuffer(scale, dtype=np.uint8))
    return Packed(packed, scales, held, starts)


def token_arrays(
    bits: bytes, scale: bytes, tokens: int, runs: bytes | None = None
) -> tuple[Bits, npt.NDArray[np.float16]]:
    """
    What a store holds for one passage -> bits (tokens, m // 8) and scales (tokens,).

    Raises:
        FormatError: If the bytes do not divide into that many tokens.
    """
    return read_packed(bits, scale, runs, tokens).tokens()
