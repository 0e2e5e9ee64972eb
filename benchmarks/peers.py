"""
The readers of `benchmarks.readers`, each in a process of its own over one store, and the files that some are made of.

All of them retrieve with the same code and are given the same passages; what a reader loads and computes beyond that is
its own. A process answers one question at a time and sleeps in between, and tells its peak memory with each answer:
interpreter, store and retrieval are part of that, and `retrieval` has nothing else.
"""

from __future__ import annotations

import importlib.util
import os
import resource
import signal
import sqlite3
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing
from dataclasses import dataclass, replace
from multiprocessing.connection import Connection
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from app.baselines import FloatSplitReader, FullReader
from app.bundle import Bundle, EncodedQuestion
from app.reader import MAX_ANSWER_TOKENS, PassageBits, Reader, open_reader
from app.retriever import Retriever, priors
from store.codec import Floats
from store.errors import BtrError, ModelError
from store.records import StoredPassage
from store.tokens import TokenStore

BATCH = 200
"""Passages whose states are made at a time."""
NOTHING: npt.NDArray[np.uint8] = np.empty((0, 0), np.uint8)
"""The bits of a passage that is read from its text."""


@dataclass(frozen=True)
class Setup:
    """What the readers are made of; those that need what is None are left out."""

    store: Path
    bundle: Path
    threads: int
    baselines: Path | None = None
    """Bundle with int8 baselines."""
    floats: Path | None = None
    """Bundle with float32 baselines."""
    full: Path | None = None
    """Folder of the full step of a training run."""
    work: Path | None = None
    """Folder with the files made here, see below."""

    def file(self, name: str) -> Path:
        """One of those files."""
        assert self.work is not None
        return self.work / name


@dataclass(frozen=True)
class Turn:
    """One question, answered by one reader."""

    answer: str | None
    """None where the reader gives none, or none that means anything."""
    retrieve: float
    """Seconds to encode the question and rank the passages."""
    load: float
    """Seconds to get the passages, with what is kept of them."""
    read: float
    """Seconds to read them."""
    processor: float
    """Seconds of all threads together to load and read: others on the machine hardly change it."""
    megabytes: float
    """Peak memory of the reader's process so far."""

    @property
    def seconds(self) -> float:
        """From the question to the answer."""
        return self.retrieve + self.load + self.read

    @property
    def reading(self) -> float:
        """Seconds that the reader decides: what is kept is loaded, unpacked and read."""
        return self.load + self.read


class Peer:
    """Retrieval alone; a reader adds what it loads and how it reads."""

    def __init__(self, setup: Setup) -> None:
        self.bundle = Bundle.open(setup.bundle, threads=setup.threads)
        self.store = TokenStore.open(setup.store, self.bundle.manifest.fingerprint)
        self._retriever = Retriever(self.store)

    def load(self, found: Sequence[StoredPassage]) -> list[PassageBits]:
        """Passages as the reader wants them: their text, if it does not say otherwise."""
        return [PassageBits(p.text, NOTHING, np.empty(p.tokens, np.float16), p.heading) for p in found]

    def read(self, text: str, question: EncodedQuestion, passages: Sequence[PassageBits]) -> str | None:
        """The answer."""
        return None

    def ask(self, text: str, depth: int) -> Turn:
        """A question over the `depth` best passages."""
        began = time.perf_counter()
        question = self.bundle.encode_question(text)
        with self.store.snapshot():
            hits = self._retriever.retrieve(text, question.code, depth)
            retrieved, busy = time.perf_counter(), time.process_time()
            found, prior = self.store.passages([hit.passage_id for hit in hits]), priors(hits)
            kept = zip(found, self.load(found), strict=True)
            passages = [replace(passage, prior=prior[at.id]) for at, passage in kept]
        loaded = time.perf_counter()
        answer = self.read(text, question, passages)
        ended, busy = time.perf_counter(), time.process_time() - busy
        return Turn(answer, retrieved - began, loaded - retrieved, ended - loaded, busy, peak_megabytes())


class Over(Peer):
    """A reader behind the program's protocol, over text."""

    reader: Reader

    def read(self, text: str, question: EncodedQuestion, passages: Sequence[PassageBits]) -> str:
        spans = self.reader.read(question, passages)
        return spans[0].answer(passages[spans[0].passage].text) if spans else ""


class OverBits(Over):
    """Ours: bits from the store."""

    def __init__(self, setup: Setup, finished: int | None = None, looks: int | None = None) -> None:
        super().__init__(setup)
        self.reader = open_reader(self.bundle, finished, looks=looks)

    def load(self, found: Sequence[StoredPassage]) -> list[PassageBits]:
        bits = self.store.token_bits([passage.id for passage in found])
        return [PassageBits(passage.text, *bits[passage.id], passage.heading) for passage in found]


class Unsplit(Over):
    """The full reader of a bundle."""

    def __init__(self, setup: Setup, folder: Path | None) -> None:
        super().__init__(setup)
        assert folder is not None
        self.reader = FullReader(Bundle.open(folder, threads=setup.threads))


class StatesReader(FloatSplitReader):
    """The split reader with float states (DeFormer), given as bytes (n, size of a token's) in place of bits."""

    def __init__(self, bundle: Bundle, dtype: npt.DTypeLike) -> None:
        super().__init__(bundle)
        self._dtype = dtype

    def states(self, passage: PassageBits, ids: Sequence[int]) -> Floats:
        return passage.bits.view(self._dtype).astype(np.float32, copy=False)[None]


class OverStates(Over):
    """Float states from a file."""

    def __init__(self, setup: Setup, dtype: str) -> None:
        super().__init__(setup)
        assert setup.baselines is not None
        self.reader = StatesReader(Bundle.open(setup.baselines, threads=setup.threads), dtype)
        self._states = sqlite3.connect(setup.file(states_file(dtype)))

    def load(self, found: Sequence[StoredPassage]) -> list[PassageBits]:
        marks = ",".join("?" * len(found))
        rows = dict(self._states.execute(f"SELECT id, states FROM states WHERE id IN ({marks})", [p.id for p in found]))
        passages = []
        for at in found:
            states = np.frombuffer(rows[at.id], np.uint8).reshape(at.tokens, -1)
            passages.append(PassageBits(at.text, states, np.empty(at.tokens, np.float16), at.heading))
        return passages


class Pipeline(Peer):
    """The question-answering pipeline of transformers, one passage after the other as it does by default."""

    def __init__(self, setup: Setup) -> None:
        super().__init__(setup)
        import torch
        from transformers import pipeline

        torch.set_num_threads(setup.threads)
        self._pipeline = pipeline("question-answering", model=str(setup.file(CHECKPOINT)), device="cpu")

    def read(self, text: str, question: EncodedQuestion, passages: Sequence[PassageBits]) -> str:
        # What our full reader sees: [CLS] question [SEP] heading [SEP] text [SEP].
        contexts = [f"{self.bundle.heading_text(passage.heading)} [SEP] {passage.text}" for passage in passages]
        asked = {"question": [text] * len(contexts), "context": contexts}
        found = self._pipeline(**asked, max_answer_len=MAX_ANSWER_TOKENS)
        best = max(found if isinstance(found, list) else [found], key=lambda answer: answer["score"])
        return str(best["answer"])


class LlamaCpp(Peer):
    """A decoder-only model over all passages as one prompt, up to its first token."""

    def __init__(self, setup: Setup) -> None:
        super().__init__(setup)
        import llama_cpp

        self._cpp, self._threads = llama_cpp, setup.threads
        self._log = llama_cpp.llama_log_callback(lambda level, text, data: None)  # it says much
        llama_cpp.llama_log_set(self._log, None)
        llama_cpp.llama_backend_init()
        settings = llama_cpp.llama_model_default_params()
        settings.use_extra_bufts = False  # its weights laid out for AMX end in a segmentation fault (0.3.36, a Xeon)
        self._model = llama_cpp.llama_model_load_from_file(str(setup.file(GGUF)).encode(), settings)
        if not self._model:
            raise ModelError(f"llama.cpp cannot load {setup.file(GGUF)}: remove it, and it is written again")

    def read(self, text: str, question: EncodedQuestion, passages: Sequence[PassageBits]) -> None:
        cpp = self._cpp
        prompt = "\n\n".join([*(f"{passage.heading}\n{passage.text}" for passage in passages), text])
        ids = self.bundle.tokenizer.encode(prompt, add_special_tokens=False).ids
        settings = cpp.llama_context_default_params()
        settings.n_ctx = len(ids) + 1
        settings.n_threads = settings.n_threads_batch = self._threads
        context = cpp.llama_init_from_model(self._model, settings)
        if not context:
            raise ModelError(f"llama.cpp has no room for {len(ids)} tokens: leave it out with --only")
        try:
            for at in range(0, len(ids), settings.n_batch):
                part = ids[at : at + settings.n_batch]
                tokens = (cpp.llama_token * len(part))(*part)  # the batch only points to it
                if cpp.llama_decode(context, cpp.llama_batch_get_one(tokens, len(part))):
                    raise ModelError(f"llama.cpp cannot read {len(ids)} tokens: leave it out with --only")
            np.ctypeslib.as_array(cpp.llama_get_logits_ith(context, -1), (LLAMA.vocabulary,)).argmax()
        finally:
            cpp.llama_free(context)


class Kind(NamedTuple):
    """A row of the table."""

    title: str
    make: Callable[[Setup], Peer]
    needs: str | None = None
    """The field of the setup without which it is left out."""
    flag: str = ""
    """What gives that."""
    packages: tuple[str, ...] = ()


OURS, UNSPLIT, RETRIEVAL = "ours", "unsplit-int8", "retrieval"
KINDS: dict[str, Kind] = {
    OURS: Kind("ours", OverBits),
    "ours-bits": Kind("ours, bits alone: no second look", lambda setup: OverBits(setup, looks=0)),
    "ours-all": Kind("ours, all passages read to the end", lambda setup: OverBits(setup, sys.maxsize)),
    "states-float16": Kind(
        "split, float16 states (DeFormer), int8",
        lambda setup: OverStates(setup, "float16"), "baselines", "--baselines",
    ),
    "states-float32": Kind(
        "split, float32 states (DeFormer), int8",
        lambda setup: OverStates(setup, "float32"), "baselines", "--baselines",
    ),
    UNSPLIT: Kind(
        "unsplit, int8 (Atlas-Q)", lambda setup: Unsplit(setup, setup.baselines), "baselines", "--baselines"
    ),
    "unsplit-fp32": Kind(
        "unsplit, fp32 (Atlas)", lambda setup: Unsplit(setup, setup.floats), "floats", "--float-baselines"
    ),
    "pipeline": Kind(
        "unsplit, fp32, pipeline of transformers", Pipeline, "full", "--full", ("torch", "transformers", "export")
    ),
    "llama.cpp": Kind("llama.cpp, 0.5 B, Q8_0, to the first token", LlamaCpp, packages=("llama_cpp", "gguf")),
    RETRIEVAL: Kind("retrieval only", Peer),
}  # fmt: skip


def left_out(name: str, setup: Setup) -> str | None:
    """Why a reader cannot be measured, as a sentence; None if it can."""
    kind = KINDS[name]
    if kind.needs and getattr(setup, kind.needs) is None:
        return f"{kind.title}: left out, for {kind.flag} was not given."
    missing = [package for package in kind.packages if importlib.util.find_spec(package) is None]
    return f"{kind.title}: left out, for {' and '.join(missing)} cannot be imported." if missing else None


def serve(connection: Connection, name: str, setup: Setup) -> None:
    """A reader's process: (question, depth) in, `Turn` out until the connection closes; a `BtrError` goes out too."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent hears it, and closes
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # threads that wait do not take others' time
    try:
        peer = KINDS[name].make(setup)
        while True:
            connection.send(peer.ask(*connection.recv()))
    except (EOFError, BrokenPipeError):
        return
    except BtrError as error:
        connection.send(error)


def peak_megabytes() -> float:
    """Peak memory of this process; on Linux without what its parent's was when it forked."""
    try:
        with open("/proc/self/status") as status:
            return next(int(line.split()[1]) for line in status if line.startswith("VmHWM")) * 1024 / 1e6
    except (OSError, StopIteration):
        unit = 1 if sys.platform == "darwin" else 1024
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e6


# The files that some readers are made of.

CHECKPOINT, GGUF = "pipeline", "random-q8_0.gguf"


def states_file(dtype: str) -> str:
    """The name of the file of float states."""
    return f"states-{dtype}.db"


def write_states(bundle: Bundle, passages: Sequence[StoredPassage], paths: Mapping[str, Path]) -> dict[str, float]:
    """Write passages' lower states below a float split reader to a file of each dtype; the bytes a token of each."""
    reader = FloatSplitReader(bundle)

    def states(passage: StoredPassage) -> tuple[int, Floats]:
        text = PassageBits(passage.text, NOTHING, np.empty(passage.tokens, np.float16), passage.heading)
        return passage.id, reader.states(text, bundle.tokenize(passage.text).ids)[0]

    with ExitStack() as stack:
        pool = stack.enter_context(ThreadPoolExecutor(bundle.threads))
        files = {dtype: stack.enter_context(closing(sqlite3.connect(path))) for dtype, path in paths.items()}
        for file in files.values():
            file.execute("CREATE TABLE states (id INTEGER PRIMARY KEY, states BLOB NOT NULL)")
        for at in range(0, len(passages), BATCH):
            made = list(pool.map(states, passages[at : at + BATCH]))
            for dtype, file in files.items():
                file.executemany("INSERT INTO states VALUES (?, ?)", [(i, h.astype(dtype).tobytes()) for i, h in made])
                file.commit()
        tokens = sum(passage.tokens for passage in passages)
        sql = "SELECT sum(length(states)) FROM states"
        return {dtype: float(file.execute(sql).fetchone()[0]) / tokens for dtype, file in files.items()}


def write_checkpoint(folder: Path, full: Path, tokenizer: Path) -> None:
    """A full reader of our training as a checkpoint for transformers: the same weights by BERT's own names."""
    from transformers import BertForQuestionAnswering, BertTokenizerFast

    from export.saved import load_full

    reader = load_full(full)
    bert = BertForQuestionAnswering(reader.model_config)
    bert.bert.embeddings.load_state_dict(reader.embeddings.state_dict())
    bert.bert.encoder.layer.load_state_dict(reader.layers.state_dict())
    bert.qa_outputs.load_state_dict(reader.span.state_dict())
    bert.save_pretrained(folder)
    BertTokenizerFast(tokenizer_file=str(tokenizer), model_max_length=512).save_pretrained(folder)


@dataclass(frozen=True)
class Shape:
    """Sizes of a decoder-only model."""

    vocabulary: int
    width: int
    """d."""
    layers: int
    heads: int
    key_heads: int
    """Heads of keys and values."""
    inner: int
    """Width of the feed-forward blocks."""

    def products(self) -> Iterator[tuple[str, int, int]]:
        """(name, rows, columns) of every weight matrix."""
        keys = self.width // self.heads * self.key_heads
        yield "token_embd", self.vocabulary, self.width
        for layer in range(self.layers):
            for name, rows, columns in (
                ("attn_q", self.width, self.width),
                ("attn_k", keys, self.width),
                ("attn_v", keys, self.width),
                ("attn_output", self.width, self.width),
                ("ffn_gate", self.inner, self.width),
                ("ffn_up", self.inner, self.width),
                ("ffn_down", self.width, self.inner),
            ):
                yield f"blk.{layer}.{name}", rows, columns

    @property
    def weights(self) -> int:
        """How many, the output's being the embeddings'."""
        return sum(rows * columns for _, rows, columns in self.products())


LLAMA = Shape(vocabulary=151_936, width=896, layers=24, heads=14, key_heads=2, inner=4864)
"""As Qwen2.5-0.5B has them."""


def write_gguf(path: Path, shape: Shape = LLAMA, seed: int = 0) -> None:
    """A Llama of random weights in Q8_0, without a tokenizer: it is given ids."""
    import gguf

    random, q8 = np.random.default_rng(seed), gguf.GGMLQuantizationType.Q8_0
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_context_length(32_768)
    writer.add_embedding_length(shape.width)
    writer.add_block_count(shape.layers)
    writer.add_feed_forward_length(shape.inner)
    writer.add_head_count(shape.heads)
    writer.add_head_count_kv(shape.key_heads)
    writer.add_rope_dimension_count(shape.width // shape.heads)
    writer.add_layer_norm_rms_eps(1e-6)
    writer.add_vocab_size(shape.vocabulary)
    writer.add_tokenizer_model("none")
    writer.add_file_type(gguf.LlamaFileType.MOSTLY_Q8_0)
    scale = np.frombuffer(np.float16(0.02 / 73).tobytes(), np.uint8)  # 73 is the deviation of a random byte
    for name, rows, columns in shape.products():
        blocks = random.integers(0, 256, (rows, columns // 32, 34), dtype=np.uint8)
        blocks[..., :2] = scale
        writer.add_tensor(f"{name}.weight", blocks.reshape(rows, -1), raw_dtype=q8)
    norms = [f"blk.{layer}.{name}" for layer in range(shape.layers) for name in ("attn_norm", "ffn_norm")]
    for name in [*norms, "output_norm"]:
        writer.add_tensor(f"{name}.weight", np.ones(shape.width, np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
