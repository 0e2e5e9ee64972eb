"""
What a person runs: command line, chat, documents in, answers out. No torch.

ONNX Runtime's packages send usage events to their maker by default, from machine code that Python cannot see into: it
is told not to here, before anything can import it, whatever the environment says.

NumPy's products are small here, and a second thread of its library waits for the next one by spinning: for tens of
milliseconds the passages are then read with one core less. It has one thread, unless the environment says otherwise.
"""

import os

os.environ["ORT_DISABLE_TELEMETRY"] = "1"
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

__version__ = "0.1.0"

SCHEMA_VERSION = 1
"""Of every JSON object that the program prints (docs/json.md)."""
