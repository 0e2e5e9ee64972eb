"""
A bundle at work: tokenizer and ONNX Runtime sessions, opened when first needed.

Passages are encoded one at a time, without padding, from as many threads as there are cores: the int8 graph scales
each product by its whole input, so a passage's bits would otherwise depend on what it was batched with.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from store.bundle import CROSS, DECODER, FRAMES, LOWER, SPAN, TOKENIZER, UPPER, Manifest, read_manifest, verify
from store.codec import Bits, Floats, pack, scales_to_bytes
from store.errors import ModelError, UsageError

if TYPE_CHECKING:
    from onnxruntime import InferenceSession
    from tokenizers import Tokenizer

CPU = "CPUExecutionProvider"
SLOW_FUSIONS = ["SkipLayerNormFusion"]
"""Graph rewrites of ONNX Runtime that cost time on a CPU: the lower graph takes 1.04x as long with it."""
REMOTE = {"AzureExecutionProvider"}
"""Providers that would send data elsewhere: never offered."""


_LONGEST_LEVEL = 2000
"""Characters of one level of a heading path that are looked at."""


@dataclass(frozen=True)
class TokenizedPassage:
    """A passage body as the graphs see it."""

    ids: list[int]
    """(n,) without special tokens."""
    offsets: list[tuple[int, int]]
    """(n,) character range of each token in the passage's text."""


@dataclass(frozen=True)
class EncodedPassage:
    """What the store keeps of a passage."""

    tokens: int
    bits: bytes
    scale: bytes
    code: bytes


@dataclass(frozen=True)
class EncodedQuestion:
    """What a question is read and retrieved with."""

    ids: npt.NDArray[np.int64]
    """(1, q) with [CLS] and [SEP], or with </s>."""
    states: Floats
    """(1, q, d)."""
    code: Floats
    """(c,)."""


@dataclass(frozen=True)
class Survey:
    """A passage and a question above the first upper layer."""

    ids: npt.NDArray[np.int64]
    """(1, n) of the passage."""
    joint: Floats
    """(1, q + n, d)."""
    relevance: float
    """Best span of the early span head, relative to no answer: large is near."""


class Bundle:
    """An opened bundle. Thread-safe: sessions and tokenizer may be used from several threads at once."""

    def __init__(self, folder: Path, manifest: Manifest, device: str, threads: int) -> None:
        self.folder, self.manifest, self.device, self.threads = folder, manifest, device, threads
        self._sessions: dict[str, InferenceSession] = {}
        self._opening = threading.Lock()

    @classmethod
    def open(cls, folder: Path, device: str = "cpu", threads: int | None = None) -> Bundle:
        """
        Read the manifest and check every file's hash; graphs are loaded when first used.

        Raises:
            ModelError: If the folder is no bundle or one of its files is missing or damaged.
            UsageError: If the device is not one that the installed ONNX Runtime offers.
        """
        manifest = read_manifest(folder)
        verify(folder, manifest)
        if device != "cpu" and device not in devices():
            raise UsageError(f"device {device} is not present, ONNX Runtime offers: {', '.join(devices())}")
        return cls(folder, manifest, device, threads or os.cpu_count() or 1)

    @cached_property
    def tokenizer(self) -> Tokenizer:
        """The tokenizer, without truncation or padding."""
        from tokenizers import Tokenizer

        try:
            return Tokenizer.from_file(str(self.folder / TOKENIZER))
        except Exception as error:  # the library raises no type of its own
            raise ModelError(f"{self.folder / TOKENIZER} cannot be read ({error}): export the bundle again") from error

    def run(self, graph: str, outputs: list[str], inputs: dict[str, npt.NDArray[Any]]) -> list[npt.NDArray[Any]]:
        """Outputs, by name, of one of the bundle's graphs."""
        found: list[npt.NDArray[Any]] = self._session(graph).run(outputs, inputs)
        return found

    def outputs(self, graph: str) -> list[str]:
        """What a graph computes, by name."""
        return [output.name for output in self._session(graph).get_outputs()]

    def _session(self, name: str) -> InferenceSession:
        with self._opening:
            if name not in self._sessions:
                self._sessions[name] = self._open_session(name)
            return self._sessions[name]

    def _open_session(self, name: str) -> InferenceSession:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        alone = name.endswith((CROSS, DECODER))  # all others are parallel over passages instead, see above
        options.intra_op_num_threads = self.threads if alone else 1
        options.inter_op_num_threads = 1
        options.log_severity_level = 3
        options.enable_mem_pattern = False  # one is made for each shape, and no two passages have one
        options.add_session_config_entry("session.force_spinning_stop", "1")  # else a core is lost to what comes next
        provider = devices()[self.device]
        providers = list(dict.fromkeys([provider, CPU]))
        try:
            session = onnxruntime.InferenceSession(
                str(self.folder / name), options, providers=providers, disabled_optimizers=SLOW_FUSIONS
            )
        except Exception as error:  # ONNX Runtime's own exception types are not public
            raise ModelError(f"{self.folder / name} cannot be loaded ({error}): export the bundle again") from error
        if session.get_providers()[0] != provider:  # it falls back to the CPU without a word
            raise UsageError(f"device {self.device} cannot be started: check its driver, or use --device cpu")
        return session

    def tokenize(self, text: str) -> TokenizedPassage:
        """A passage's text -> token ids and character ranges, at most `passage_tokens` of them."""
        encoding = self.tokenizer.encode(text, add_special_tokens=False)
        limit = self.manifest.passage_tokens
        return TokenizedPassage(encoding.ids[:limit], encoding.offsets[:limit])

    def encode_passage(self, heading: str, text: str) -> EncodedPassage:
        """Run the lower graph over [CLS] heading [SEP] text [SEP]; keep the text's tokens and the passage code."""
        (encoding,) = self.tokenizer.encode_batch_fast([text], add_special_tokens=False)  # without offsets
        ids = encoding.ids[: self.manifest.passage_tokens]
        whole, body = self._framed(heading, ids)
        bits, scale, code = self.run(LOWER, ["bits", "scale", "code"], {"ids": whole})
        return EncodedPassage(
            tokens=len(ids),
            bits=bits[0, body].tobytes(),
            scale=scales_to_bytes(scale[0, body]),
            code=pack(code[0]).tobytes(),
        )

    def states(self, heading: str, ids: Sequence[int], graph: str = LOWER) -> Floats:
        """What a lower graph makes of a passage's ids (n,) below its heading: states (1, n, d)."""
        whole, body = self._framed(heading, ids)
        (states,) = self.run(graph, ["states"], {"ids": whole})
        found: Floats = states[:, body]
        return found

    def _framed(self, heading: str, ids: Sequence[int]) -> tuple[npt.NDArray[np.int64], slice]:
        """What a lower graph takes for a passage's ids (n,) below its heading, (1, t), and where in it they stand."""
        before, after = self.surround(heading)
        return np.array([[*before, *ids, *after]], dtype=np.int64), slice(len(before), len(before) + len(ids))

    def surround(self, heading: str) -> tuple[list[int], list[int]]:
        """What stands before and after a passage's tokens: [CLS] heading [SEP], [SEP]; with </s> alone in a T5."""
        return [*self.before, *self._cut_heading(heading)[1], self.end], [self.end]

    def heading_text(self, heading: str) -> str:
        """What of a heading path is encoded with a passage."""
        return self._cut_heading(heading)[0]

    def _cut_heading(self, heading: str) -> tuple[str, list[int]]:
        """A heading path and its token ids; one that is too long loses levels after the first, then its end."""
        limit = self.manifest.heading_tokens
        first, *others = heading.split(" > ")
        levels = [level[:_LONGEST_LEVEL] for level in (first, *others[-limit:])]  # more have no room in any case
        while True:
            text = " > ".join(levels)
            encoding = self.tokenizer.encode(text, add_special_tokens=False)
            if len(encoding.ids) <= limit:
                return text, list(encoding.ids)
            if len(levels) <= 2:
                return text[: encoding.offsets[limit - 1][1]], list(encoding.ids[:limit])
            del levels[1]

    def encode_question(self, question: str) -> EncodedQuestion:
        """
        Run the lower graph over a question, cut to the longest the reader knows.

        One that ends in a word gets the question mark that all the questions have that a reader learns from.
        """
        if question.rstrip()[-1:].isalnum():
            question = f"{question.rstrip()}?"
        body = self.tokenizer.encode(question, add_special_tokens=False).ids[: self.manifest.question_tokens]
        ids = np.array([[*self.before, *body, self.end]], dtype=np.int64)
        states, code = self.run(LOWER, ["states", "code"], {"ids": ids})
        return EncodedQuestion(ids, states, code[0])

    def survey(
        self, question: EncodedQuestion, ids: Sequence[int], bits: Bits, scale: npt.NDArray[np.float16]
    ) -> Survey:
        """One passage's ids, bits (n, m / 8) and scales (n,) through the first upper layer."""
        return self._survey(self.upper_inputs(question, ids, bits, scale, None))

    def look(self, question: EncodedQuestion, ids: Sequence[int], heading: str) -> Survey:
        """The same without bits: from the states that the lower graph gives the passage's ids below its heading."""
        bits = np.zeros((len(ids), self.manifest.bits // 8), np.uint8)
        scale = np.zeros(len(ids), np.float16)
        return self._survey(self.upper_inputs(question, ids, bits, scale, self.states(heading, ids)))

    def upper_inputs(
        self,
        question: EncodedQuestion,
        ids: Sequence[int],
        bits: Bits,
        scale: npt.NDArray[np.float16],
        states: Floats | None,
    ) -> dict[str, npt.NDArray[Any]]:
        """What the upper graph of an extractive reader takes; with states (1, n, d) it does not look at the bits."""
        return {
            "question_states": question.states,
            "question_ids": question.ids,
            "ids": np.array([ids], dtype=np.int64),
            "bits": bits[None],
            "scale": scale[None],
            "states": np.zeros((1, 1, self.manifest.hidden_size), np.float32) if states is None else states,
            "exact": np.array([states is not None]),
        }

    def _survey(self, inputs: dict[str, npt.NDArray[Any]]) -> Survey:
        joint, relevance = self.run(UPPER, ["joint", "relevance"], inputs)
        return Survey(inputs["ids"], joint, float(relevance[0]))

    def span_logits(self, question: EncodedQuestion, survey: Survey) -> tuple[Floats, Floats]:
        """The other upper layers and the span head -> start and end logits (n,) of a surveyed passage; 0: no answer."""
        inputs: dict[str, npt.NDArray[Any]] = {"joint": survey.joint, "question_ids": question.ids, "ids": survey.ids}
        start, end = self.run(SPAN, ["start", "end"], inputs)
        return start[0], end[0]

    @property
    def before(self) -> list[int]:
        """The special tokens before a text."""
        return self._frame[:-1]

    @property
    def end(self) -> int:
        """The special token that ends each part of a text, and an answer."""
        return self._frame[-1]

    @cached_property
    def _frame(self) -> list[int]:
        before, end = FRAMES[self.manifest.reader]
        ids = []
        for token in (*before, end):
            number = self.tokenizer.token_to_id(token)
            if number is None:
                raise ModelError(f"{self.folder / TOKENIZER} has no {token}: export the bundle again")
            ids.append(int(number))
        return ids


def devices() -> dict[str, str]:
    """Device name -> provider, of every one that the installed ONNX Runtime offers: cpu, cuda, coreml, ..."""
    import onnxruntime

    offered = [provider for provider in onnxruntime.get_available_providers() if provider not in REMOTE]
    return {provider.removesuffix("ExecutionProvider").lower(): provider for provider in offered}
