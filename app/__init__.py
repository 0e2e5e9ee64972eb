"""What a person runs: command line, chat, documents in, answers out. No torch."""

__version__ = "0.1.0"
