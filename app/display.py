"""
How what is found leaves the program: paths and text on one line of a terminal, with nothing that could steer it, and
numbers that JSON has.
"""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from typing import Any

_CONTROLS = dict.fromkeys((*range(32), *range(127, 160), 0x2028, 0x2029), " ")


def plain(text: str, longest: int | None = None) -> str:
    """Text on one line, each control character a space (so offsets stay), cut to a length if one is given."""
    text = text.translate(_CONTROLS)
    return text if longest is None or len(text) <= longest else text[: longest - 1].rstrip() + "…"


def many(count: int, noun: str) -> str:
    """A number of things: 1 note, 1,204 notes."""
    return f"{count:,} {noun}" if count == 1 else f"{count:,} {noun}s"


def short(path: str) -> str:
    """A path as a person would write it: relative to here or to home, where that is shorter."""
    options = [path]
    home = os.path.expanduser("~")
    if path.startswith(home + os.sep):
        options.append("~" + path[len(home) :])
    try:
        here = os.getcwd()
    except FileNotFoundError:  # the folder we were started in is gone
        here = home
    if path.startswith(here + os.sep):
        options.append(os.path.relpath(path, here))
    return plain(min(options, key=len))


def finite(value: Any) -> Any:
    """A JSON value with null in place of each number that is not finite, which JSON cannot say."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {key: finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [finite(item) for item in value]
    return value
