"""
Everything that can go wrong and that a person can act on.

    BtrError
    |-- UsageError      2  a flag, a path or a question that cannot be used
    |-- StoreError      3  a store that is missing, locked, corrupt, newer, or made with another bundle
    |   `-- BusyError      another run is writing to it
    `-- ModelError      4  a bundle or a checkpoint that cannot be used
        |-- FormatError    bytes or sizes that break a format's rule
        `-- ExportError    a training run or an export that cannot go on

A message is one sentence: the fact with its number, then what to do. Exit codes 0 (answered), 1 (nothing found or
abstained), 5 (finished with failed files) and 130 (interrupted) are outcomes, not errors.
"""

from __future__ import annotations


class BtrError(Exception):
    """Any error with a sentence for the person at the keyboard."""

    exit_code = 1


class UsageError(BtrError):
    """What was asked for cannot be done as asked."""

    exit_code = 2


class StoreError(BtrError):
    """The store cannot be used."""

    exit_code = 3


class BusyError(StoreError):
    """Another run is writing to the store."""


class ModelError(BtrError):
    """The bundle, or what it is made from, cannot be used."""

    exit_code = 4


class FormatError(ModelError):
    """Bytes or sizes that break a format's rule."""


class ExportError(ModelError):
    """A training run or an export that cannot go on."""
