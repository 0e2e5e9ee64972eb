"""Measurements, run by hand; each prints a table. Nothing here is imported by the program."""

import app  # noqa: F401  it sets the environment of libraries that must not be imported before
