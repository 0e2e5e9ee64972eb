"""A checkpoint becomes a bundle: train, binarize, split, ONNX, parity. Needs the `export` extra."""
