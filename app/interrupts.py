"""Ctrl-C that counts even where Python drops its exception, as it does in the callback of a weak reference."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager


@contextmanager
def heeding_interrupts() -> Iterator[Callable[[], None]]:
    """Inside, what is given raises a Ctrl-C again whose exception was lost: long work calls it now and then."""
    pressed = []

    def interrupt(number: int, frame: object) -> None:
        pressed.append(number)
        raise KeyboardInterrupt

    def check() -> None:
        if pressed:
            raise KeyboardInterrupt

    before = signal.signal(signal.SIGINT, interrupt)
    try:
        yield check
    finally:
        signal.signal(signal.SIGINT, before)
