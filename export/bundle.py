"""
A training run becomes a bundle: float graphs through Optimum with its own validation, int8 weights, manifest.

Everything is made in a temporary folder next to the target and moved into place at the end: a failed parity check
leaves nothing behind. Weights are int8 per channel with the range reduced to 7 bits, so that processors without VNNI,
whose 8-bit products saturate, compute the same bits as those with it.
"""

from __future__ import annotations

import datetime
import json
import shutil
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import onnx
import onnxruntime
import torch
from onnxruntime.quantization import QuantType, quantize_dynamic
from onnxruntime.quantization.shape_inference import quant_pre_process
from optimum.exporters.onnx import OnnxConfig, export_models, validate_models_outputs
from tokenizers import Tokenizer
from torch import nn
from transformers import T5ForConditionalGeneration

from export.data import MAX_HEADING, MAX_QUESTION, frame, load_tokenizer
from export.full import FullReader
from export.graphs import (
    CrossGraph,
    CrossOnnxConfig,
    DecoderGraph,
    DecoderOnnxConfig,
    FullGraph,
    FullOnnxConfig,
    LowerGraph,
    LowerOnnxConfig,
    SpanGraph,
    SpanOnnxConfig,
    SplitLowerGraph,
    SplitLowerOnnxConfig,
    SplitUpperGraph,
    SplitUpperOnnxConfig,
    T5FullGraph,
    T5FullOnnxConfig,
    T5SplitUpperGraph,
    T5SplitUpperOnnxConfig,
    T5UpperGraph,
    T5UpperOnnxConfig,
    UpperGraph,
    UpperOnnxConfig,
    part_outliers,
    vocabulary_tables,
)
from export.reader import SplitReader
from export.recipe import STARTS
from export.saved import AnyReader, load_full, load_reader
from export.t5 import FullT5, SplitT5
from store.bundle import (
    CROSS,
    DECODER,
    FORMAT_VERSION,
    FULL,
    FULL_CROSS,
    FULL_DECODER,
    LOWER,
    MANIFEST,
    SPAN,
    SPLIT_CROSS,
    SPLIT_DECODER,
    SPLIT_LOWER,
    SPLIT_UPPER,
    TOKENIZER,
    UPPER,
    Manifest,
    check_calibration,
    file_hash,
    write_manifest,
)
from store.codec import pack
from store.errors import ExportError

PROBES = (
    (
        "Heating > Boiler",
        "when was the boiler serviced?",
        "The boiler in the cellar was serviced on 14 March 2024 by Hansen & Son. They replaced the pressure valve "
        "and asked us to bleed the radiators every autumn before the heating season starts.",
    ),
    (
        "Staging environment",
        "which port does the staging database listen on?",
        "Staging runs on two machines. The database listens on port 5433 because 5432 is taken by the old reporting "
        "cluster; connect through the bastion host and use the read-only role unless you are migrating a schema.",
    ),
    (
        "Reading list > Summer",
        "who recommended the book about bees?",
        "Reading list for the summer: a history of salt, two novels that Priya lent me, and the long book about bees "
        "that my neighbour Tomas recommended after we found the swarm in the pear tree.",
    ),
)
"""Heading, question and passage on which the int8 graphs are held against the float ones."""


class Calibration(NamedTuple):
    """When the program answers, as `btr-assistant calibrate` prints it."""

    null_logit: float
    temperature: float
    threshold: float


UNCALIBRATED = Calibration(0.0, 1.0, 0.5)

MIN_BIT_AGREEMENT = 0.93
MIN_CODE_COSINE = 0.97
MAX_LOGIT_ERROR = 1.0
"""Mean absolute difference of the logits, of log probabilities over the vocabulary in a generative reader."""


def make_bundle(
    run: Path,
    out: Path,
    name: str | None = None,
    precision: str = "int8",
    baselines: bool = False,
    calibration: Calibration = UNCALIBRATED,
    ratio: float = 0.0,
) -> Manifest:
    """
    Export a training run to a bundle folder.

    `precision` is "int8" or "float32"; `calibration` goes into the manifest as it is, and so does `ratio`, the
    share of the tokens that a generative reader merges as it reads. With `baselines` the folder also gets the run's
    full reader and its float split reader, to measure against.

    Raises:
        ExportError: If the run cannot be used, the folder exists, or a graph differs from the reader; nothing is
            written then.
    """
    if out.exists():
        raise ExportError(f"{out} exists: give a new folder, or remove it first")
    try:
        check_calibration(*calibration)
    except ValueError as error:
        raise ExportError(f"the calibration has {error}: give what btr-assistant calibrate prints") from error
    reader = load_reader(run)
    if ratio and isinstance(reader, SplitReader):
        raise ExportError(f"{run} has an extractive reader, which merges nothing as it reads: leave out --ratio")
    name = name or ("btr-minilm" if isinstance(reader, SplitReader) else "btr-t5")
    trained = json.loads((run / "train.json").read_text())
    if "binarized" not in trained["dev"] or not (run / "tokenizer.json").is_file():
        raise ExportError(f"{run} is not a whole run with a binarized step: give the folder that btr-export train made")
    if baselines and not all((run / step / "train.json").is_file() for step in ("full", "decomposed")):
        raise ExportError(f"{run} has no full or no decomposed step to compare with: leave out --with-baselines")
    out.parent.mkdir(parents=True, exist_ok=True)
    work = Path(tempfile.mkdtemp(prefix=f".{out.name}-", dir=out.parent))
    try:
        manifest = _export(reader, run, work, name, precision, baselines, calibration, ratio)
        work.chmod(0o755)
        work.rename(out)
    except BaseException:
        shutil.rmtree(work, ignore_errors=True)
        raise
    return manifest


def _export(
    reader: SplitReader | SplitT5,
    run: Path,
    work: Path,
    name: str,
    precision: str,
    baselines: bool,
    calibration: Calibration,
    ratio: float,
) -> Manifest:
    tokenizer = load_tokenizer(run)
    _part_outliers(reader, tokenizer)
    graphs = _graphs(reader)
    if baselines:
        full, split = load_full(run / "full"), load_reader(run / "decomposed")
        for baseline in (full, split):
            _part_outliers(baseline, tokenizer)
        graphs |= _baseline_graphs(full, split)
    parts = {Path(name).stem: part for name, part in graphs.items()}
    floats = work / "float32"
    floats.mkdir()
    _, outputs = export_models(parts, floats, opset=17)
    # A bit whose y is next to 0 may flip between two float implementations: bits are compared by share, below.
    compared = [[output for output in names if output != "bits"] for names in outputs]
    try:
        validate_models_outputs(parts, compared, floats, use_subprocess=False)
    except Exception as error:  # Optimum raises four unrelated types for the same fact
        raise ExportError(f"the exported graphs differ from the reader, nothing was written: {error}") from error
    parity: dict[str, Any] = {"float32": _parity_torch(reader, floats, tokenizer)}
    for part in parts:
        source, target = floats / f"{part}.onnx", work / f"{part}.onnx"
        if precision == "int8":
            quantize(source, target, _EXACT if target.name == LOWER else _OUTLIERS)
        else:
            shutil.copyfile(source, target)
    if precision == "int8":
        parity["int8"] = _parity_graphs(floats, work, tokenizer, _paths(reader))
    shutil.rmtree(floats)
    tokenizer.save(str(work / TOKENIZER))
    manifest = _manifest(reader, run, work, name, precision, parity, calibration, ratio)
    write_manifest(work, manifest)
    return manifest


Graphs = dict[str, tuple[nn.Module, OnnxConfig]]


def _graphs(reader: SplitReader | SplitT5) -> Graphs:
    """File name -> graph and configuration, of the reader itself."""
    tables, config = vocabulary_tables(reader), reader.model_config
    config.btr_bits = reader.binarizer.bits
    lower: Graphs = {LOWER: (LowerGraph(reader, tables), LowerOnnxConfig(config))}
    if isinstance(reader, SplitReader):
        return lower | {
            UPPER: (UpperGraph(reader, tables), UpperOnnxConfig(config)),
            SPAN: (SpanGraph(reader, {}), SpanOnnxConfig(config)),
        }
    upper: Graphs = {UPPER: (T5UpperGraph(reader, tables), T5UpperOnnxConfig(config))}
    return lower | upper | _decoder_graphs(reader.t5, CROSS, DECODER)


def _baseline_graphs(full: FullReader | FullT5, split: SplitReader | SplitT5) -> Graphs:
    """The same of the full reader and of the split one with float states."""
    tables, config = vocabulary_tables(split), split.model_config
    lower: Graphs = {SPLIT_LOWER: (SplitLowerGraph(split, tables), SplitLowerOnnxConfig(config))}
    if isinstance(full, FullReader):
        return lower | {
            FULL: (FullGraph(full), FullOnnxConfig(full.model_config)),
            SPLIT_UPPER: (SplitUpperGraph(split, tables), SplitUpperOnnxConfig(config)),
        }
    both: Graphs = {
        FULL: (T5FullGraph(full), T5FullOnnxConfig(full.model_config)),
        SPLIT_UPPER: (T5SplitUpperGraph(split, tables), T5SplitUpperOnnxConfig(config)),
    }
    decoders = _decoder_graphs(full.t5, FULL_CROSS, FULL_DECODER) | _decoder_graphs(
        split.t5, SPLIT_CROSS, SPLIT_DECODER
    )
    return lower | both | decoders


def _decoder_graphs(t5: T5ForConditionalGeneration, cross: str, decoder: str) -> Graphs:
    return {
        cross: (CrossGraph(t5), CrossOnnxConfig(t5.config)),
        decoder: (DecoderGraph(t5), DecoderOnnxConfig.of(t5.config)),
    }


_OUTLIERS = ("/exact/",)
_EXACT = (*_OUTLIERS, "binarizer", "/predict", "/reduce", "/around", "/retrieval/weight/")
"""What stays in float of the lower graph: what decides a bit, y = (h - base) P, or weighs a code's tokens is small."""


def quantize(source: Path, target: Path, kept: Sequence[str] = _OUTLIERS) -> None:
    """
    Int8 weights for the matrix products of a float graph; activations are quantized as they come.

    Products with a part of their name in `kept` stay in float.
    """
    prepared = source.with_suffix(".prepared.onnx")
    quant_pre_process(source, prepared, skip_symbolic_shape=True)
    nodes = onnx.load(prepared).graph.node
    exact = [
        n.name for n in nodes if n.op_type == "MatMul" and any(part in i for part in kept for i in [n.name, *n.input])
    ]
    quantize_dynamic(
        prepared,
        target,
        op_types_to_quantize=["MatMul"],
        per_channel=True,
        reduce_range=True,
        weight_type=QuantType.QInt8,
        nodes_to_exclude=exact,
        extra_options={"MatMulConstBOnly": True},
    )
    prepared.unlink()


def _probes(tokenizer: Tokenizer) -> list[tuple[np.ndarray, np.ndarray, slice]]:
    """(question ids (1, q), passage ids (1, L), where the passage's body is) of every probe."""

    def ids(text: str) -> list[int]:
        return tokenizer.encode(text, add_special_tokens=False).ids

    before, sep = frame(tokenizer)
    probes = []
    for heading, question, passage in PROBES:
        head, body = [*before, *ids(heading), sep], ids(passage)
        whole = np.array([[*head, *body, sep]], dtype=np.int64)
        asked = np.array([[*before, *ids(question), sep]], dtype=np.int64)
        probes.append((asked, whole, slice(len(head), len(head) + len(body))))
    return probes


def _part_outliers(reader: AnyReader, tokenizer: Tokenizer) -> None:
    """Keep the largest inputs of an encoder's products apart, as they are seen on the probes."""

    def run() -> None:
        for asked, whole, body in _probes(tokenizer):
            q_ids, ids = torch.from_numpy(asked), torch.from_numpy(whole)
            mask = torch.ones_like(ids[:, body], dtype=torch.bool)
            if isinstance(reader, FullReader):
                reader(q_ids, ids, torch.tensor([body.start]), mask)
            elif isinstance(reader, FullT5):
                reader.encode(torch.cat([q_ids, ids], dim=1))
            else:
                h, h_q = reader.lower(ids, ids != 0)[:, body], reader.lower(q_ids, q_ids != 0)
                reader.read(h_q, q_ids, h, ids[:, body], mask)

    part_outliers(reader, run)


def _parity_torch(reader: SplitReader | SplitT5, floats: Path, tokenizer: Tokenizer) -> dict[str, float]:
    """Share of equal bits between the reader in torch and the float graph on the probes."""
    session = _session(floats / LOWER)
    agreement = []
    for _, ids, body in _probes(tokenizer):
        (bits,) = session.run(["bits"], {"ids": ids})
        expected, _, _ = reader.encode(torch.from_numpy(ids), torch.from_numpy(ids != 0))
        agreement.append(1 - np.bitwise_count(bits ^ pack(expected.numpy()))[:, body].mean() / 8)
    share = float(np.mean(agreement))
    if share < 0.99:  # the word table is int8 in the graph
        raise ExportError(f"only {share:.2%} of the float graph's bits equal the reader's, nothing was written")
    return {"bit_agreement": round(share, 6)}


Reads = Callable[[Path], Callable[[dict[str, np.ndarray]], np.ndarray]]
"""A folder of graphs -> what turns a question, a passage's bits and its states into logits."""


def _span_logits(folder: Path) -> Callable[[dict[str, np.ndarray]], np.ndarray]:
    """Start and end logits of an extractive reader, from the bits and from the states."""
    upper, span = _session(folder / UPPER), _session(folder / SPAN)

    def read(inputs: dict[str, np.ndarray]) -> np.ndarray:
        logits = []
        for exact in (False, True):
            (joint,) = upper.run(["joint"], {**inputs, "exact": np.array([exact])})
            rest = {"joint": joint, "question_ids": inputs["question_ids"], "ids": inputs["ids"]}
            logits += span.run(["start", "end"], rest)
        return np.stack(logits)

    return read


def _first_logits(folder: Path) -> Callable[[dict[str, np.ndarray]], np.ndarray]:
    """Log probabilities (V,) of the first token of a generative reader's answer, from the bits."""
    upper, cross, decoder = (_session(folder / name) for name in (UPPER, CROSS, DECODER))

    def read(inputs: dict[str, np.ndarray]) -> np.ndarray:
        stored = {name: value for name, value in inputs.items() if name != "states"}
        (encoded,) = upper.run(["encoded"], {**stored, "ratio": np.array(0, np.float32)})
        names = [output.name for output in cross.get_outputs()]
        keys = dict(zip(names, cross.run(None, {"encoded": encoded}), strict=True))
        _, heads, _, size = next(iter(keys.values())).shape
        past = {name.replace("encoder", "decoder"): np.zeros((1, heads, 0, size), np.float32) for name in names}
        start = {
            "input_ids": np.zeros((1, 1), np.int64),
            "encoder_attention_mask": np.ones(encoded.shape[:2], np.int64),
        }
        (logits,) = decoder.run(["logits"], {**start, **keys, **past})
        return logits[0, 0] - np.logaddexp.reduce(logits[0, 0])

    return read


def _paths(reader: SplitReader | SplitT5) -> Reads:
    return _span_logits if isinstance(reader, SplitReader) else _first_logits


def _parity_graphs(floats: Path, ints: Path, tokenizer: Tokenizer, reads: Reads) -> dict[str, float]:
    """
    The int8 graphs against the float ones on the probes: equal bits, passage codes, and logits end to end.

    What all logits are off by alike says nothing of the graphs: no ranking sees it, and calibration takes it up.
    """
    agreements, codes, errors = [], [], []
    sessions = [(_session(folder / LOWER), reads(folder)) for folder in (floats, ints)]
    for question, passage, body in _probes(tokenizer):
        bits, code, logits = [], [], []
        for lower, read in sessions:
            packed, scale, passage_code, own = lower.run(["bits", "scale", "code", "states"], {"ids": passage})
            (states,) = lower.run(["states"], {"ids": question})
            inputs = {
                "question_states": states,
                "question_ids": question,
                "ids": passage[:, body],
                "bits": packed[:, body],
                "scale": scale[:, body].astype(np.float16),
                "states": own[:, body],
            }
            bits.append(packed[:, body])
            code.append(passage_code[0] / np.linalg.norm(passage_code[0]))
            logits.append(read(inputs))
        agreements.append(1 - np.bitwise_count(bits[0] ^ bits[1]).mean() / 8)
        codes.append(float(code[0] @ code[1]))
        errors.append(logits[1] - logits[0])
    agreement, cosine = float(np.mean(agreements)), min(codes)
    shift = float(np.mean([error.mean() for error in errors]))
    error = max(float(np.abs(error - shift).mean()) for error in errors)
    if agreement < MIN_BIT_AGREEMENT or cosine < MIN_CODE_COSINE or error > MAX_LOGIT_ERROR:
        raise ExportError(
            f"int8 graphs differ too much: {agreement:.2%} of the bits equal (at least {MIN_BIT_AGREEMENT:.0%}), "
            f"passage codes at cosine {cosine:.3f} (at least {MIN_CODE_COSINE}), logits off by {error:.3f} "
            f"(at most {MAX_LOGIT_ERROR}); nothing was written"
        )
    found = {"bit_agreement": agreement, "code_cosine": cosine, "logit_error": error, "logit_shift": shift}
    return {name: round(value, 4) for name, value in found.items()}


def _session(path: Path) -> onnxruntime.InferenceSession:
    return onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])


def _manifest(
    reader: SplitReader | SplitT5,
    run: Path,
    work: Path,
    name: str,
    precision: str,
    parity: dict[str, Any],
    calibration: Calibration,
    ratio: float,
) -> Manifest:
    split, config = reader.config, reader.model_config
    trained = json.loads((run / "train.json").read_text())
    files = {path.name: file_hash(path) for path in sorted(work.iterdir()) if path.name != MANIFEST}
    return Manifest(
        format_version=FORMAT_VERSION,
        name=name,
        reader="extractive" if isinstance(reader, SplitReader) else "generative",
        hidden_size=config.hidden_size,
        split_layer=split.split_layer,
        upper_layers=split.upper_layers,
        bits=reader.binarizer.bits,
        code_bits=split.code_bits,
        binarizer=split.binarizer,
        passage_tokens=trained["recipe"]["data"]["window"],
        question_tokens=MAX_QUESTION,
        heading_tokens=MAX_HEADING,
        offline_ratio=0.0 if trained["recipe"]["binarized"].get("bare") else None,
        null_logit=calibration.null_logit,
        temperature=calibration.temperature,
        threshold=calibration.threshold,
        files=files,
        licence="Apache-2.0",
        provenance={
            "exported": datetime.date.today().isoformat(),
            "precision": precision,
            "checkpoint": trained["checkpoint"],
            "checkpoint_sha256": trained["sha256"],
            "data": trained["data"],
            **{name: trained[name] for name in STARTS if name in trained},
            "recipe": trained["recipe"],
            "dev": trained["dev"],
        },
        measured={"parity": parity},
        runtime_ratio=ratio,
    )
