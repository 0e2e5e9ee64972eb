"""
What the figures of `benchmarks.readers` are held against: the processor, other ways to run a graph, plain embedding.

Roofline: the operations and bytes of a graph's matrix products at the shapes they really have, and what this processor
does of them, measured with products of such a shape and a copy in memory, on as many threads as a reader has.
"""

from __future__ import annotations

import shutil
import statistics
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from app.bundle import SLOW_FUSIONS, Bundle
from app.indexer import index
from app.reader import PassageBits
from store.bundle import SPLIT_LOWER, TOKENIZER, UPPER
from store.codec import Floats
from store.records import StoredPassage
from store.tokens import TokenStore

Arrays = dict[str, npt.NDArray[Any]]
Session = Callable[[Arrays], object]
"""Runs a graph once."""
PRODUCTS = {"MatMul": "fp32", "Gemm": "fp32", "MatMulInteger": "int8"}
"""Operator -> what it multiplies."""
COPIED = 1 << 26
"""Bytes of a copy in memory: more than a cache holds."""


@dataclass(frozen=True)
class Work:
    """What the matrix products of a graph do."""

    int8: int
    """Operations, a multiplication and an addition each counted."""
    fp32: int
    moved: int
    """Bytes of their operands and results, were nothing left in a cache between them."""
    widest: tuple[int, int, int]
    """(rows, inner, columns) of the int8 product with the most operations, or of the fp32 one where there is none."""


@dataclass(frozen=True)
class Processor:
    """What this machine does, on all threads together."""

    int8: float
    """Operations a second, in billions."""
    fp32: float
    copied: float
    """Bytes read and written a second, in billions."""

    def least_seconds(self, work: Work) -> float:
        """How long the work takes at least: computing and moving may overlap."""
        return max(work.int8 / self.int8 + work.fp32 / self.fp32, work.moved / self.copied) / 1e9


def count(graph: Path, inputs: Arrays) -> Work:
    """The products of a graph as exported, at the shapes that they have on these inputs."""
    import onnx
    import onnxruntime

    model = onnx.load(graph)
    products = [node for node in model.graph.node if node.op_type in PRODUCTS]
    names = dict.fromkeys(name for node in products for name in (*node.input[:2], node.output[0]))
    shapes = {tensor.name: tuple(tensor.dims) for tensor in model.graph.initializer}
    shapes |= {name: array.shape for name, array in inputs.items()}
    asked = [name for name in names if name not in shapes]
    known = {output.name for output in model.graph.output}
    model.graph.output.extend(onnx.ValueInfoProto(name=name) for name in asked if name not in known)
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    shapes |= {name: array.shape for name, array in zip(asked, session.run(asked, inputs), strict=True)}
    operations, moved, sizes = {"int8": 0, "fp32": 0}, 0, []
    for node in products:
        kind = PRODUCTS[node.op_type]
        (*_, columns), left = shapes[node.output[0]], shapes[node.input[0]]
        transposed = any(attribute.name == "transA" and attribute.i for attribute in node.attribute)
        inner = left[0] if transposed else left[-1]
        done = 2 * int(np.prod(shapes[node.output[0]])) * inner
        operations[kind] += done
        width = 1 if kind == "int8" else 4
        moved += 4 * int(np.prod(shapes[node.output[0]]))
        moved += sum(width * int(np.prod(shapes[name])) for name in node.input[:2])
        rows = int(np.prod(shapes[node.output[0]])) // columns
        sizes.append(((kind == "int8", done), (rows, inner, columns)))
    return Work(operations["int8"], operations["fp32"], moved, max(sizes)[1])


def measure(shape: tuple[int, int, int], threads: int, seconds: float = 1.0) -> Processor:
    """Products of (rows, inner, columns) in ONNX Runtime and copies in numpy, `seconds` each, on so many threads."""
    rows, inner, columns = shape
    operations = 2 * rows * inner * columns
    source = [np.ones(COPIED, np.uint8) for _ in range(threads)]
    target = [np.empty_like(block) for block in source]
    rates = [operations * _rate(_product(shape, kind), threads, seconds) for kind in ("MatMulInteger", "MatMul")]
    copies = _rate(lambda at: np.copyto(target[at], source[at]), threads, seconds)
    return Processor(rates[0] / 1e9, rates[1] / 1e9, 2 * COPIED * copies / 1e9)


def _product(shape: tuple[int, int, int], operator: str) -> Callable[[int], object]:
    """One product with constant weights, as a reader's session would run it."""
    import onnxruntime
    from onnx import TensorProto, helper, numpy_helper

    rows, inner, columns = shape
    random = np.random.default_rng(0)
    given, made = TensorProto.FLOAT, TensorProto.FLOAT
    a, b = random.standard_normal((rows, inner)).astype(np.float32), random.standard_normal((inner, columns))
    weights = b.astype(np.float32)
    if operator == "MatMulInteger":
        given, made = TensorProto.UINT8, TensorProto.INT32
        a, weights = random.integers(0, 256, (rows, inner), dtype=np.uint8), np.clip(20 * b, -64, 63).astype(np.int8)
    graph = helper.make_graph(
        [helper.make_node(operator, ["a", "b"], ["c"])],
        "product",
        [helper.make_tensor_value_info("a", given, [rows, inner])],
        [helper.make_tensor_value_info("c", made, [rows, columns])],
        [numpy_helper.from_array(weights, "b")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return lambda _: session.run(None, {"a": a})


def _rate(work: Callable[[int], object], threads: int, seconds: float) -> float:
    """How often a second all threads together do something; each is told its number."""

    def loop(number: int) -> float:
        work(number)
        done, began = 0, time.perf_counter()
        while (spent := time.perf_counter() - began) < seconds:
            work(number)
            done += 1
        return done / spent

    with ThreadPoolExecutor(threads) as pool:
        return sum(pool.map(loop, range(threads)))


def upper_inputs(bundle: Bundle, question: str, passages: Sequence[PassageBits]) -> list[Arrays]:
    """What the upper graph takes of a question and each of some stored passages."""
    encoded = bundle.encode_question(question)
    return [
        bundle.upper_inputs(encoded, bundle.tokenize(passage.text).ids, passage.bits, passage.scale, None)
        for passage in passages
    ]


def roofline(bundle: Bundle, question: str, passages: Sequence[PassageBits], seconds: float = 1.0) -> str:
    """The upper graph over some passages against this processor, in words; each thing is measured for `seconds`."""
    inputs = upper_inputs(bundle, question, passages)
    names, threads = bundle.outputs(UPPER), bundle.threads
    work = [count(bundle.folder / UPPER, each) for each in inputs]
    widest = max(each.widest for each in work)
    processor = measure(widest, threads, seconds)
    taken = 1 / _rate(lambda _: [bundle.run(UPPER, names, each) for each in inputs], threads, seconds)
    least = sum(processor.least_seconds(each) for each in work)
    int8, fp32, moved = (sum(getattr(each, name) for each in work) for name in ("int8", "fp32", "moved"))
    return (
        f"Roofline: the products of the upper graph over {len(work)} passages are {int8 / 1e9:.2f} billion int8 and "
        f"{fp32 / 1e9:.2f} billion fp32 operations and move {moved / 1e6:,.0f} MB. {threads} threads of this processor "
        f"do {processor.int8:.0f} and {processor.fp32:.0f} billion of them a second (products of "
        f"{' x '.join(map(str, widest))}) and copy {processor.copied:.1f} GB/s: {1000 * least:.1f} ms at least. "
        f"The graph takes {1000 * taken:.1f} ms, {least / taken:.0%} of that roof."
    )


def ways(bundle: Bundle, question: str, passages: Sequence[PassageBits], rounds: int = 20) -> str:
    """
    Ways to run the upper graph over some passages, in turns, as rows of a table: milliseconds, and how many times as
    long as the way of the reader.

    Batches hold passages of like length, padded to the longest: their activations are rounded together, so that what is
    read in a passage would depend on its neighbours.
    """
    import onnxruntime

    each = upper_inputs(bundle, question, sorted(passages, key=lambda passage: -len(passage.scale)))
    names, threads = bundle.outputs(UPPER), bundle.threads

    def session(
        workers: int = 1, level: str = "ENABLE_ALL", left_out: Sequence[str] = SLOW_FUSIONS, **more: bool
    ) -> Session:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads, options.inter_op_num_threads = workers, 1
        options.graph_optimization_level = getattr(onnxruntime.GraphOptimizationLevel, f"ORT_{level}")
        options.log_severity_level = 3
        for name, value in more.items():
            setattr(options, name, value)
        made = onnxruntime.InferenceSession(
            str(bundle.folder / UPPER), options, providers=["CPUExecutionProvider"], disabled_optimizers=list(left_out)
        )
        return lambda inputs: made.run(names, inputs)

    def parallel(run: Session, inputs: Sequence[Arrays]) -> Callable[[], object]:
        return lambda: list(pool.map(run, inputs))

    def alone(run: Session, inputs: Sequence[Arrays]) -> Callable[[], object]:
        return lambda: [run(one) for one in inputs]

    many = session(threads)
    with ThreadPoolExecutor(threads) as pool:
        found = {
            f"a passage on each of {threads} threads (as the reader does)": parallel(session(), each),
            "the same, all fusions of ONNX Runtime": parallel(session(left_out=()), each),
            "the same, its basic optimizations only": parallel(session(level="ENABLE_BASIC"), each),
            "the same, without its memory arena": parallel(session(enable_cpu_mem_arena=False), each),
            "the same, in batches of 4": parallel(session(), batches(each, 4)),
            f"a passage after another, its products on {threads} threads": alone(many, each),
            f"batches of 4, products on {threads} threads": alone(many, batches(each, 4)),
            f"all in one batch, products on {threads} threads": alone(many, batches(each, len(each))),
            "a passage after another, one thread": alone(session(), each),
        }
        taken: dict[str, list[float]] = {name: [] for name in found}
        for turn in range(rounds + 1):
            for name, work in found.items():
                began = time.perf_counter()
                work()
                if turn:  # the first warms up
                    taken[name].append(time.perf_counter() - began)
    ours = next(iter(taken.values()))
    rows = [f"| the upper graph over {len(each)} passages | ms (median of {rounds}) | times as long |", "|---|---|---|"]
    for name, seconds in taken.items():
        ratio = statistics.median(a / b for a, b in zip(seconds, ours, strict=True))
        rows.append(f"| {name} | {1000 * statistics.median(seconds):.1f} | {ratio:.2f} |")
    return "\n".join(rows)


def batches(inputs: Sequence[Arrays], most: int) -> list[Arrays]:
    """Inputs of the upper graph, one passage each, in batches of at most so many passages, padded to the longest."""
    apart = ("ids", "bits", "scale")
    made = []
    for first in range(0, len(inputs), most):
        group = inputs[first : first + most]
        longest = max(each["ids"].shape[1] for each in group)
        batch = dict(group[0])
        for name in apart:
            padded = [np.pad(each[name], _up_to(each[name], longest)) for each in group]
            batch[name] = np.concatenate(padded)
        made.append(batch)
    return made


def _up_to(array: npt.NDArray[Any], length: int) -> list[tuple[int, int]]:
    """How to pad the second axis of an array to a length."""
    return [(0, length - array.shape[1] if axis == 1 else 0) for axis in range(array.ndim)]


def write_encoder(folder: Path, checkpoint: Path) -> None:
    """The whole encoder of a checkpoint, all its layers, as an int8 graph like ours."""
    from optimum.exporters.onnx import export_models

    from export.bundle import quantize
    from export.graphs import SplitLowerGraph, SplitLowerOnnxConfig, vocabulary_tables
    from export.reader import SplitConfig, SplitReader, load_bert

    bert = load_bert(checkpoint)
    config = SplitConfig(split_layer=bert.config.num_hidden_layers, bits=8)  # it has a binarizer, which is not used
    reader = SplitReader(bert, config).eval()
    graph = SplitLowerGraph(reader, vocabulary_tables(reader))
    folder.mkdir(parents=True)
    export_models({"float32": (graph, SplitLowerOnnxConfig(reader.model_config))}, folder, opset=17)
    quantize(folder / "float32.onnx", folder / SPLIT_LOWER)
    (folder / "float32.onnx").unlink()
    shutil.copyfile(checkpoint / "tokenizer.json", folder / TOKENIZER)


def embed(encoder: Bundle, heading: str, text: str) -> Floats:
    """Plain embedding of a passage: the mean of its last states, of length 1; no graph but `write_encoder`'s runs."""
    before, after = encoder.surround(heading)
    (encoding,) = encoder.tokenizer.encode_batch_fast([text], add_special_tokens=False)
    ids = np.array([[*before, *encoding.ids[: encoder.manifest.passage_tokens], *after]], dtype=np.int64)
    (states,) = encoder.run(SPLIT_LOWER, ["states"], {"ids": ids})
    return pooled(states[0])


def pooled(states: Floats) -> Floats:
    """States (n, d) -> their mean (d,), of length 1."""
    mean = states.mean(axis=0)
    unit: Floats = mean / np.linalg.norm(mean)
    return unit


def indexing(bundle: Bundle, encoder: Bundle, notes: Sequence[tuple[str, str]], folder: Path, slices: int = 8) -> str:
    """
    Indexing notes, (title, text), against embedding the same passages, slice by slice in turns, in words.

    Ours is all that `index` does: files are read, split, encoded and written. Embedding is given the passages and drops
    its vectors: once by the whole encoder, once by our lower layers alone. All encode one passage at a time on each
    thread.
    """
    if len(notes) < 2:
        return "Indexing: left out, for the store has fewer than two notes."
    slices = min(slices, len(notes) - 1)
    spent: list[tuple[int, float, float, float]] = []

    def by_lower_layers(passage: StoredPassage) -> Floats:
        return pooled(bundle.states(passage.heading, bundle.tokenize(passage.text).ids)[0])

    with TokenStore.create(folder / "index.db", bundle.manifest.fingerprint, bundle.manifest.name) as store:
        for number in range(slices + 1):
            root = folder / f"notes-{number}"
            paths = [root / str(at) / f"{title}.txt" for at, (title, _) in enumerate(notes)][number :: slices + 1]
            for path, (_, text) in zip(paths, notes[number :: slices + 1], strict=True):
                path.parent.mkdir(parents=True)
                path.write_text(text, encoding="utf-8")
            began = time.perf_counter()
            index(store, bundle, [root])
            indexed = time.perf_counter()
            passages = [passage for path in paths for passage in store.note(str(path)) or []]
            read = time.perf_counter()
            with ThreadPoolExecutor(encoder.threads) as pool:
                list(pool.map(lambda passage: embed(encoder, passage.heading, passage.text), passages))
                embedded = time.perf_counter()
                list(pool.map(by_lower_layers, passages))
            lower = time.perf_counter()
            spent.append((sum(p.tokens for p in passages), indexed - began, embedded - read, lower - embedded))
    tokens, ours, plain, bare = zip(*spent[1:], strict=True)  # the first slice warms up
    ratio, own = (statistics.median(a / b for a, b in zip(ours, other, strict=True)) for other in (plain, bare))
    return (
        f"Indexing {sum(tokens):,} tokens in {slices} slices, in turns: ours, from file to store, "
        f"{sum(tokens) / sum(ours):,.0f} tokens/s; plain embedding of the same passages, int8, "
        f"{sum(tokens) / sum(plain):,.0f} tokens/s by the whole encoder, {sum(tokens) / sum(bare):,.0f} by our lower "
        f"layers alone. Ours takes {ratio:.2f} and {own:.2f} times as long (medians of {slices} ratios)."
    )
