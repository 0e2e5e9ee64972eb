"""
A bundle becomes a run again: the weights of a split reader, read back from its own graphs.

Training goes on from what ships where the run behind it is gone, or never was here. Int8 products come back within half
a step of their scale, what the graphs keep in float exactly, word vectors from the checkpoint, which no step trains.
What stands in a graph as a table over the vocabulary is solved for.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
import torch
from onnx import numpy_helper
from torch import Tensor

from export.binarizer import NeighbourBinarizer
from export.checkpoint import tokenizer_file, weights_hash
from export.full import whole
from export.reader import SplitReader, load_bert
from export.recipe import make_recipe
from export.saved import check_files, save_reader
from store.bundle import LOWER, MANIFEST, SPAN, TOKENIZER, UPPER, Manifest, read_manifest, verify
from store.errors import ExportError

_PREFIX = "reader."
_OTHERS = "has other graphs than its manifest says: only those of this version can be unpacked"


class _Graph:
    """The constants of a graph by name, and what its products multiply by."""

    def __init__(self, path: Path) -> None:
        graph = onnx.load(path).graph
        self.constants = {each.name: numpy_helper.to_array(each) for each in graph.initializer}
        for node in graph.node:  # a constant that stands twice
            if node.op_type == "Identity" and node.input[0] in self.constants:
                self.constants[node.output[0]] = self.constants[node.input[0]]
        self._nodes = {node.name: node for node in graph.node}
        self._made = {output: node for node in graph.node for output in node.output}
        self._biased = {name: node for node in graph.node if node.op_type == "Add" for name in node.input}

    def table(self, name: str) -> Tensor:
        """A table over the vocabulary (V, n)."""
        rows, scale = (self.constants[f"tables.{name}.{part}"].astype(np.float32) for part in ("rows", "scale"))
        return torch.from_numpy(rows * scale)

    def weight(self, node: str) -> Tensor:
        """What the product of this name multiplies by (in, out)."""
        found = self._nodes.get(f"{node}_quant") or self._nodes[node]
        return self._constant(found)

    def product(self, bias: str) -> Tensor:
        """What the product that a bias is added to multiplies by (in, out), its largest inputs' share put back."""
        add = self._biased[bias]
        (product,) = (node for node in self._above(add) if node.op_type in ("MatMul", "MatMulInteger"))
        weight = self._constant(product)
        before, inner, _ = product.name.rpartition("/dense/MatMul")
        exact = self._nodes.get(f"{before}/exact/MatMul")
        if inner and exact is not None:
            top = self.constants[self._nodes[f"{before}/Gather"].input[1]].tolist()
            weight[top] = self._constant(exact)
        return weight

    def _constant(self, product: onnx.NodeProto) -> Tensor:
        """The constant input of a product, in float."""
        name = next(name for name in product.input if name in self.constants)
        values = self.constants[name].astype(np.float32)
        if product.op_type == "MatMulInteger":
            zero, scale = (self.constants[name.removesuffix("quantized") + part] for part in ("zero_point", "scale"))
            values = (values - zero) * scale
        return torch.from_numpy(np.array(values, np.float32))

    def _above(self, node: onnx.NodeProto) -> Iterator[onnx.NodeProto]:
        """The products that a node's sum comes from, past the rescaling of int8 ones."""
        for name in node.input:
            above = self._made.get(name)
            if above is None:
                continue
            if above.op_type in ("Cast", "Mul"):
                yield from self._above(above)
            else:
                yield above


def unpack(bundle: Path, checkpoint: Path, out: Path, layers_alone: bool = False) -> Manifest:
    """
    Write the run folder `out` of an extractive bundle made from this checkpoint, for `train --start` and its like.

    With `layers_alone` it is a checkpoint folder instead, of the BERT that has the reader's layers one after another.

    Raises:
        ExportError: If the bundle is not of this checkpoint, not of int8 graphs made here, or `out` is not empty.
        ModelError: If the folder is no bundle or a damaged one.
    """
    manifest = read_manifest(bundle)
    verify(bundle, manifest)
    check_files(checkpoint)
    if manifest.reader != "extractive":
        raise ExportError(f"{bundle} holds a {manifest.reader} reader: only an extractive one can be unpacked")
    trained = manifest.provenance
    if trained.get("checkpoint_sha256") != weights_hash(checkpoint):
        raise ExportError(
            f"{bundle} was not made from {checkpoint}: give {trained.get('checkpoint', 'its checkpoint')}"
        )
    if out.exists() and any(out.iterdir()):
        raise ExportError(f"{out} is not empty: give another folder")
    if "recipe" not in trained:
        raise ExportError(f"{bundle} does not say how its reader is split: only bundles made here can be unpacked")
    split = make_recipe({"split": trained["recipe"]["split"]}, str(bundle / MANIFEST)).split
    reader = SplitReader(load_bert(checkpoint), split)
    try:
        fill(reader, bundle)
    except (KeyError, StopIteration) as missing:  # nodes and constants are looked up by the names that our export gives
        raise ExportError(f"{bundle} {_OTHERS} ({missing})") from missing
    if layers_alone:
        bert = load_bert(checkpoint)
        whole(reader, bert)
        bert.save_pretrained(out)
        shutil.copyfile(tokenizer_file(checkpoint), out / TOKENIZER)
        return manifest
    out.mkdir(parents=True, exist_ok=True)
    save_reader(reader, out)
    shutil.copyfile(bundle / TOKENIZER, out / TOKENIZER)
    known = {name: trained[name] for name in ("checkpoint", "data", "recipe", "dev")}
    record = {**known, "sha256": trained["checkpoint_sha256"], "unpacked": manifest.fingerprint}
    (out / "train.json").write_text(json.dumps(record, indent=2) + "\n")
    return manifest


@torch.no_grad()
def fill(reader: SplitReader, bundle: Path) -> None:
    """Set a reader's weights to those of a bundle of the same shape."""
    graphs = [_Graph(bundle / name) for name in (LOWER, UPPER, SPAN)]
    lower, upper, _ = graphs
    left = {name for name, _ in reader.named_parameters() if name != "lower.embeddings.word_embeddings.weight"}

    def put(name: str, values: Tensor) -> None:
        if values.numel() != reader.get_parameter(name).numel():
            raise ExportError(f"{bundle} {_OTHERS} ({name})")
        reader.get_parameter(name).copy_(values.reshape(reader.get_parameter(name).shape))
        left.discard(name)

    for graph in graphs:
        names = {
            name.removeprefix(_PREFIX).replace(".dense.dense.", ".dense."): name
            for name in graph.constants
            if name.startswith(_PREFIX)
        }
        if more := {own for own in names if own.endswith(".bias")} - set(reader.state_dict()):
            raise ExportError(f"{bundle} {_OTHERS} ({', '.join(sorted(more))})")
        for own in left & set(names):
            put(own, torch.from_numpy(graph.constants[names[own]].copy()))
        for own, name in names.items():
            weight = own.removesuffix("bias") + "weight"
            if own.endswith(".bias") and weight in left:
                put(weight, graph.product(name).T)
    put("retrieval.weight.weight", lower.weight("/retrieval/weight/MatMul").T)
    binarizer = reader.binarizer
    if "binarizer.D" in left:
        put("binarizer.D", upper.weight("/MatMul"))
    if isinstance(binarizer, NeighbourBinarizer):
        put("binarizer.reduce.weight", lower.weight("/reduce/MatMul").T)
        put("binarizer.around.weight", lower.weight("/around/MatMul").T)
        binarizer.edge.copy_(torch.from_numpy(lower.constants[f"{_PREFIX}binarizer.edge"].copy()))
    if reader.upper.match_in is not None:
        put("upper.match_out.weight", upper.weight("/match_out/MatMul").T)
        words = reader.lower.words.weight
        known = torch.cat([words, torch.ones(len(words), 1)], dim=1).double()
        solved = torch.linalg.lstsq(known, upper.table("match").double()).solution.float()
        put("upper.match_in.weight", solved[:-1].T)
        put("upper.match_in.bias", solved[-1])
    segments = reader.lower.embeddings.token_type_embeddings.weight
    first = next(n for n in lower.constants if n.startswith("onnx::Add_"))
    segments[0] = torch.from_numpy(lower.constants[first].copy())
    left.discard("lower.embeddings.token_type_embeddings.weight")
    if left:
        raise ExportError(f"{bundle} {_OTHERS} ({', '.join(sorted(left))})")
