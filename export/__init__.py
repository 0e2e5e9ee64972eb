"""
A checkpoint becomes a bundle: train, binarize, split, ONNX, parity. Needs the `export` extra.

ONNX Runtime is told to send nothing, as in `app`.
"""

import os

os.environ["ORT_DISABLE_TELEMETRY"] = "1"
