"""
What a token costs: what a store keeps of it, next to what other ways of keeping a passage ready would.

Everything that is kept for reading and ranking by codes counts; the notes' own text does not, for every way needs it,
and to read it anew at each question needs nothing else. The word index is told beside: whoever searches by words has
one. Float states are those below the split, d values a token; int8 ones have a float16 scale each. None of the others
is given passage codes.
"""

from __future__ import annotations

from store.bundle import Manifest
from store.records import Counts


def parts(counts: Counts) -> dict[str, float]:
    """What is kept -> bytes a token, adding up to `Counts.bytes_per_token`."""
    kept = {
        "bits": counts.bits_bytes,
        "scales": counts.scale_bytes,
        "masks": counts.runs_bytes,
        "passage_codes": counts.code_bytes,
    }
    return {name: round(size / max(counts.tokens, 1), 2) for name, size in kept.items()}


def word_index(counts: Counts) -> float:
    """Bytes a token of the full-text index, which no other figure holds."""
    return round(counts.word_index_bytes / max(counts.tokens, 1), 2)


def alternatives(counts: Counts, manifest: Manifest) -> dict[str, float]:
    """Another way -> bytes a token; `uncompressed` is ours with a vector for every token."""
    d = manifest.hidden_size
    codes = counts.code_bytes / max(counts.tokens, 1)
    return {
        "uncompressed": round(manifest.bits / 8 + 2 + codes, 2),
        "float32": 4.0 * d,
        "float16": 2.0 * d,
        "int8": d + 2.0,
        "from_text": 0.0,
    }


def lines(counts: Counts, manifest: Manifest) -> tuple[str, str]:
    """Both for a person."""
    own = ", ".join(f"{name.replace('_', ' ')} {size:.1f}" for name, size in parts(counts).items())
    other = alternatives(counts, manifest)
    return (
        f"{counts.bytes_per_token:.1f} bytes ({own}), and {word_index(counts):.1f} for the word index",
        f"{other['uncompressed']:.1f} uncompressed; states in float32 {other['float32']:,.0f}, "
        f"float16 {other['float16']:,.0f}, int8 {other['int8']:,.0f}; 0 to read the text anew",
    )
