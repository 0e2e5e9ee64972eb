"""Measurements, run by hand; each prints a table. Nothing here is imported by the program."""
