"""
The trained reader as graphs: what exactly crosses into ONNX, and the `OnnxConfig` that tells Optimum so.

    lower.onnx   ids (b, n) -> states (b, n, d), bits (b, n, m/8) uint8, scale (b, n), code (b, c)
    upper.onnx   question_states (1, q, d), question_ids (1, q), ids (p, n), bits (p, n, m/8) uint8,
                 scale (p, n) float16, states (p, n or 1, d), exact (p,) bool: true where a passage is read from
                 its states, not from its bits -> joint (p, q + n, d), relevance (p,)
    span.onnx    joint (p, q + n, d), question_ids (1, q), ids (p, n)
                 -> start (p, n), end (p, n), relative to each passage's null logit

and, for measuring against, the readers of the steps before (`btr-export bundle --with-baselines`):

    full.onnx         ids (1, t), segments (1, t) -> start (1, t), end (1, t), relative to the first token's
    split-lower.onnx  ids (b, n) -> states (b, n, d)
    split-upper.onnx  question_states (1, q, d), question_ids (1, q), ids (p, n), states (p, n, d) -> start, end

A generative reader (T5) has the same lower graph, and above it

    upper.onnx    as above with ratio () for states and exact
                  -> encoded (p, t, d)
    cross.onnx    encoded (1, t, d) -> the decoder's cross-attention: past_key_values.I.encoder.key and .value
    decoder.onnx  Optimum's T5 decoder with past, whose first call has a past of length 0; one output more:
                  attention (b, t), what the last token paid to each state, the mean over layers and heads

with baselines full.onnx (ids -> encoded), split-upper.onnx (of states) and a cross and decoder graph each.

The upper encoder is two graphs because a passage that the early span head finds nothing in need not be finished: the
layers after the first and the span head run on the best few.

Token id 0 is padding and masked inside the graphs. Tables over the vocabulary are int8 with one float16 scale a row.
The base W e(id) + c is a table in the upper graph and a product over the word table in the lower one, which has that
table anyway: 12 MB less to ship than two tables. What the base takes from the ids beside a token is treated alike.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from optimum.exporters.onnx import OnnxConfig
from optimum.exporters.onnx.model_configs import T5OnnxConfig
from optimum.utils import DummyInputGenerator, NormalizedConfig
from torch import Tensor, nn
from transformers import T5Config, T5ForConditionalGeneration
from transformers.models.bert.modeling_bert import BertLayer
from transformers.models.t5.modeling_t5 import T5DenseActDense, T5DenseGatedActDense

from export.binarizer import rms
from export.full import FullReader
from export.reader import SplitReader, run_layers
from export.t5 import FullT5, SplitT5


class Table(nn.Module):
    """A float table (V, d) kept as int8 rows with a float16 scale each."""

    def __init__(self, weight: Tensor) -> None:
        super().__init__()
        scale = weight.abs().amax(dim=1, keepdim=True).clamp(min=1e-4) / 127  # less is 0 in float16
        scale = scale.to(torch.float16)
        self.register_buffer("rows", torch.round(weight / scale.float()).clamp(-127, 127).to(torch.int8))
        self.register_buffer("scale", scale)

    def forward(self, ids: Tensor) -> Tensor:
        """ids (...) -> rows (..., d)."""
        return self.rows[ids].float() * self.scale[ids].float()


def vocabulary_tables(reader: SplitReader | SplitT5) -> dict[str, Table]:
    """The word embeddings, the binarizer's base and the shared-token factors, each a table over token ids."""
    words = reader.lower.words.weight.detach()
    tables = {"words": Table(words)}
    tables |= {name: Table(rows.detach()) for name, rows in reader.binarizer.tables(words).items()}
    factors = reader.upper.match_factors(words)
    if factors is not None:
        tables["match"] = Table(factors.detach())
    return tables


class OutlierLinear(nn.Module):
    """
    A product whose few largest inputs go through a product of their own, which stays in float when the rest is int8.

    A few channels of a BERT's feed-forward blocks are five times as large as all others. In one range of 256 steps with
    those they leave the others 50. T5 has such channels too.
    """

    channels = 4

    def __init__(self, dense: nn.Linear, largest: Tensor) -> None:
        """The same product, from the largest magnitude (a,) that each input had."""
        super().__init__()
        top = largest.topk(min(self.channels, len(largest))).indices.sort().values
        rest = torch.ones_like(largest)
        rest[top] = 0
        self.dense = dense
        self.exact = nn.Linear(len(top), dense.out_features, bias=False)
        self.exact.weight = nn.Parameter(dense.weight.detach()[:, top].clone())
        self.register_buffer("top", top)
        self.register_buffer("rest", rest)

    @property
    def weight(self) -> Tensor:
        """The whole product's: T5's blocks ask for its type."""
        return self.dense.weight

    def forward(self, x: Tensor) -> Tensor:
        return self.dense(x * self.rest) + self.exact(x[..., self.top])


@torch.no_grad()
def part_outliers(model: nn.Module, run: Callable[[], object]) -> None:
    """Give those products of a model that need it an `OutlierLinear` each, by what they see in a run, if they run."""
    products = [(block, "dense") for layer in model.modules() if isinstance(layer, BertLayer)
                for block in (layer.intermediate, layer.output)]  # fmt: skip
    products += [(block, name) for block in model.modules()
                 if isinstance(block, T5DenseActDense | T5DenseGatedActDense)
                 for name, part in block.named_children() if isinstance(part, nn.Linear)]  # fmt: skip
    largest: dict[nn.Module, Tensor] = {}

    def look(dense: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        seen = inputs[0].abs().flatten(0, -2).amax(dim=0)
        largest[dense] = torch.maximum(seen, largest[dense]) if dense in largest else seen

    hooks = [getattr(block, name).register_forward_pre_hook(look) for block, name in products]
    run()
    for hook in hooks:
        hook.remove()
    for block, name in products:
        if (dense := getattr(block, name)) in largest:
            setattr(block, name, OutlierLinear(dense, largest[dense]))


class GraphPart(nn.Module):
    """A part of the reader with the checkpoint's configuration, as Optimum wants it."""

    def __init__(self, reader: SplitReader | SplitT5, tables: Mapping[str, Table]) -> None:
        super().__init__()
        self.config = reader.model_config
        self.tables = nn.ModuleDict(dict(tables))
        self.reader = reader

    def embed(self, ids: Tensor) -> Tensor:
        """Token ids (B, L) -> the lower encoder's input (B, L, d), from the int8 word table."""
        return self.reader.lower.embed(self.tables["words"](ids))

    def match_factors(self, ids: Tensor) -> Tensor | None:
        """The shared-token embedding's part of each id, where the reader has one."""
        return self.tables["match"](ids) if "match" in self.tables else None

    def join(self, q: Tensor, q_ids: Tensor, p: Tensor, ids: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Question states (1, q, d), passage states (p, n, d) and their ids -> what the upper encoder takes."""
        passages = ids.shape[0]
        q_ids = q_ids.expand(passages, -1)
        mask = ids != 0
        q, p = self.reader.upper.match(q.expand(passages, -1, -1), q_ids, p, ids, mask, self.match_factors)
        return q, q_ids != 0, p, mask


class LowerGraph(GraphPart):
    """Token ids -> hidden states for a question; bits, scale and code for a passage."""

    def __init__(self, reader: SplitReader | SplitT5, tables: Mapping[str, Table]) -> None:
        super().__init__(reader, tables)
        self.register_buffer("places", 2.0 ** torch.arange(7, -1, -1))

    def forward(self, ids: Tensor) -> dict[str, Tensor]:
        mask = ids != 0
        h = self.reader.lower.run(self.embed(ids), mask)
        binarizer = self.reader.binarizer
        features = binarizer.features(self.tables["words"](ids), binarizer.inner(ids))
        y = binarizer.project(h, binarizer.base(features))
        groups = (y > 0).float().reshape(y.shape[0], y.shape[1], -1, 8)
        bits = (groups * self.places).sum(-1).to(torch.uint8)
        return {"states": h, "bits": bits, "scale": rms(y)[..., 0], "code": self.reader.retrieval(h, mask)}


class StoredPart(GraphPart):
    """A part that unpacks stored bits."""

    def __init__(self, reader: SplitReader | SplitT5, tables: Mapping[str, Table]) -> None:
        super().__init__(reader, tables)
        byte = torch.arange(256)[:, None]
        self.register_buffer("signs", ((byte >> torch.arange(7, -1, -1)) & 1).float() * 2 - 1)

    def restore(self, ids: Tensor, bits: Tensor, scale: Tensor) -> Tensor:
        """Ids (p, n), bits (p, n, m / 8), scale (p, n) -> passage states (p, n, d)."""
        signs = self.signs[bits.long()].flatten(2)
        binarizer = self.reader.binarizer
        rows = {name: table(ids) for name, table in self.tables.items() if name in binarizer.needs}
        base = binarizer.base_of(rows)
        return binarizer.restore(signs, (scale.float() * (ids != 0))[..., None], base)


class UpperGraph(StoredPart):
    """Question states and stored bits -> joint states above the first layer; bits are unpacked in here."""

    def forward(
        self,
        question_states: Tensor,
        question_ids: Tensor,
        ids: Tensor,
        bits: Tensor,
        scale: Tensor,
        states: Tensor,
        exact: Tensor,
    ) -> dict[str, Tensor]:
        p = torch.where(exact[:, None, None], states, self.restore(ids, bits, scale))
        joint, start, end = self.reader.upper.survey(*self.join(question_states, question_ids, p, ids))
        return {"joint": joint, "relevance": start.amax(dim=1) + end.amax(dim=1)}


class SpanGraph(GraphPart):
    """What the upper graph left of a passage -> span logits."""

    def forward(self, joint: Tensor, question_ids: Tensor, ids: Tensor) -> dict[str, Tensor]:
        q_mask = question_ids.expand(ids.shape[0], -1) != 0
        start, end, _ = self.reader.upper.finish(joint, q_mask, ids != 0)
        return {"start": start, "end": end}


class FullGraph(nn.Module):
    """The full reader on one joint text."""

    def __init__(self, reader: FullReader) -> None:
        super().__init__()
        self.config, self.reader = reader.model_config, reader
        self.words = Table(reader.embeddings.word_embeddings.weight.detach())

    def forward(self, ids: Tensor, segments: Tensor) -> dict[str, Tensor]:
        states = self.reader.embeddings(inputs_embeds=self.words(ids), token_type_ids=segments)
        logits = self.reader.span(run_layers(self.reader.layers, states, ids != 0))
        relative = logits - logits[:, :1]
        return {"start": relative[..., 0], "end": relative[..., 1]}


class SplitLowerGraph(GraphPart):
    """The lower encoder of a split reader without bits."""

    def forward(self, ids: Tensor) -> dict[str, Tensor]:
        return {"states": self.reader.lower.run(self.embed(ids), ids != 0)}


class SplitUpperGraph(GraphPart):
    """The upper encoder of a split reader that reads float states (DeFormer)."""

    def forward(self, question_states: Tensor, question_ids: Tensor, ids: Tensor, states: Tensor) -> dict[str, Tensor]:
        reading = self.reader.upper(*self.join(question_states, question_ids, states, ids))
        return {"start": reading.start, "end": reading.end}


class T5UpperGraph(StoredPart):
    """Question states and stored bits -> the encoder's last states, read by layers that see them merged by a ratio."""

    def forward(
        self, question_states: Tensor, question_ids: Tensor, ids: Tensor, bits: Tensor, scale: Tensor, ratio: Tensor
    ) -> dict[str, Tensor]:
        p = self.restore(ids, bits, scale)
        return {"encoded": self.reader.upper(*self.join(question_states, question_ids, p, ids), ratio)}


class T5SplitUpperGraph(GraphPart):
    """The upper encoder of a split T5 that reads float states (DeFormer)."""

    def forward(
        self, question_states: Tensor, question_ids: Tensor, ids: Tensor, states: Tensor, ratio: Tensor
    ) -> dict[str, Tensor]:
        return {"encoded": self.reader.upper(*self.join(question_states, question_ids, states, ids), ratio)}


class T5FullGraph(nn.Module):
    """The full T5's encoder on joint texts."""

    def __init__(self, reader: FullT5) -> None:
        super().__init__()
        self.config, self.reader = reader.model_config, reader

    def forward(self, ids: Tensor) -> dict[str, Tensor]:
        return {"encoded": self.reader.encode(ids)[0]}


class CrossGraph(nn.Module):
    """What the decoder's cross-attention looks up, computed once for all tokens of an answer."""

    def __init__(self, t5: T5ForConditionalGeneration) -> None:
        super().__init__()
        self.config, self.t5 = t5.config, t5

    def forward(self, encoded: Tensor) -> dict[str, Tensor]:
        found = {}
        for at, block in enumerate(self.t5.decoder.block):
            attention = block.layer[1].EncDecAttention
            for name, product in (("key", attention.k), ("value", attention.v)):
                split = product(encoded).unflatten(-1, (attention.n_heads, attention.key_value_proj_dim))
                found[f"past_key_values.{at}.encoder.{name}"] = split.transpose(1, 2)
        return found


class DecoderGraph(nn.Module):
    """T5's decoder as Optimum exports it, and what its cross-attention looked at."""

    def __init__(self, t5: T5ForConditionalGeneration) -> None:
        super().__init__()
        self.config, self.t5 = t5.config, t5

    def forward(
        self, decoder_input_ids: Tensor, attention_mask: Tensor, encoder_outputs: Any, past_key_values: Any = None
    ) -> dict[str, Any]:
        out = self.t5(
            decoder_input_ids=decoder_input_ids,
            attention_mask=attention_mask,
            encoder_outputs=encoder_outputs,
            past_key_values=past_key_values,
            use_cache=True,
            output_attentions=True,
        )
        paid = torch.stack([weights.mean(1)[:, -1] for weights in out.cross_attentions]).mean(0)
        return {"logits": out.logits, "past_key_values": out.past_key_values, "attention": paid}


class _GraphInputs(DummyInputGenerator):
    """Inputs of the right names, shapes and ranges for tracing and validation, seeded."""

    SUPPORTED_INPUT_NAMES = (
        "question_states", "question_ids", "ids", "segments", "bits", "scale", "states", "joint", "encoded", "ratio",
        "exact",
    )  # fmt: skip

    def __init__(self, task: str, normalized_config: NormalizedConfig, **shapes: Any) -> None:
        self.config = normalized_config
        self.passages, self.length, self.question = 3, 24, 9

    def generate(
        self, input_name: str, framework: str = "pt", int_dtype: str = "int64", float_dtype: str = "fp32"
    ) -> Tensor:
        generator = torch.Generator().manual_seed(len(input_name))
        d = self.config.hidden_size
        if input_name in ("ids", "question_ids"):
            rows, length = (self.passages, self.length) if input_name == "ids" else (1, self.question)
            ids = torch.randint(1, self.config.vocab_size, (rows, length), generator=generator)
            if rows > 1:
                ids[-1, -5:] = 0
            return ids
        if input_name == "ratio":
            return torch.tensor(0.2)
        if input_name == "exact":
            return torch.arange(self.passages) % 2 == 1
        if input_name == "segments":
            return torch.ones(self.passages, self.length, dtype=torch.int64)
        if input_name in ("question_states", "states", "joint", "encoded"):
            length = {"states": self.length, "encoded": self.length, "joint": self.question + self.length}.get(
                input_name, self.question
            )
            return torch.randn(1 if input_name == "question_states" else self.passages, length, d, generator=generator)
        if input_name == "bits":
            size = (self.passages, self.length, self.config.btr_bits // 8)
            return torch.randint(0, 256, size, generator=generator, dtype=torch.uint8)
        return torch.rand(self.passages, self.length, generator=generator).to(torch.float16)


_AXES: dict[str, dict[int, str]] = {
    "question_states": {1: "question_length"},
    "question_ids": {1: "question_length"},
    "ids": {0: "passages", 1: "passage_length"},
    "segments": {0: "passages", 1: "passage_length"},
    "bits": {0: "passages", 1: "passage_length"},
    "scale": {0: "passages", 1: "passage_length"},
    "states": {0: "passages", 1: "passage_length"},
    "exact": {0: "passages"},
    "code": {0: "passages"},
    "ratio": {},
    "encoded": {0: "passages", 1: "passage_length"},
    "joint": {0: "passages", 1: "joint_length"},
    "relevance": {0: "passages"},
    "start": {0: "passages", 1: "passage_length"},
    "end": {0: "passages", 1: "passage_length"},
}


class GraphConfig(OnnxConfig):
    """Names and axes of one graph."""

    NORMALIZED_CONFIG_CLASS = NormalizedConfig
    DUMMY_INPUT_GENERATOR_CLASSES = (_GraphInputs,)
    DEFAULT_ONNX_OPSET = 17
    ATOL_FOR_VALIDATION = 1e-3
    input_names: tuple[str, ...]
    output_names: tuple[str, ...]

    @property
    def inputs(self) -> dict[str, dict[int, str]]:
        return {name: _AXES[name] for name in self.input_names}

    @property
    def outputs(self) -> dict[str, dict[int, str]]:
        return {name: _AXES[name] for name in self.output_names}


class LowerOnnxConfig(GraphConfig):
    input_names = ("ids",)
    output_names = ("states", "bits", "scale", "code")


class UpperOnnxConfig(GraphConfig):
    input_names = ("question_states", "question_ids", "ids", "bits", "scale", "states", "exact")
    output_names = ("joint", "relevance")

    @property
    def inputs(self) -> dict[str, dict[int, str]]:
        return {**super().inputs, "states": {0: "passages", 1: "states_length"}}


class SpanOnnxConfig(GraphConfig):
    input_names = ("joint", "question_ids", "ids")
    output_names = ("start", "end")


class FullOnnxConfig(GraphConfig):
    input_names = ("ids", "segments")
    output_names = ("start", "end")


class SplitLowerOnnxConfig(GraphConfig):
    input_names = ("ids",)
    output_names = ("states",)


class SplitUpperOnnxConfig(GraphConfig):
    input_names = ("question_states", "question_ids", "ids", "states")
    output_names = ("start", "end")


class T5UpperOnnxConfig(GraphConfig):
    input_names = ("question_states", "question_ids", "ids", "bits", "scale", "ratio")
    output_names = ("encoded",)

    @property
    def outputs(self) -> dict[str, dict[int, str]]:
        return dict.fromkeys(self.output_names, _AXES["joint"])


class T5SplitUpperOnnxConfig(T5UpperOnnxConfig):
    input_names = ("question_states", "question_ids", "ids", "states", "ratio")


class T5FullOnnxConfig(GraphConfig):
    input_names = ("ids",)
    output_names = ("encoded",)


class CrossOnnxConfig(GraphConfig):
    input_names = ("encoded",)

    @property
    def outputs(self) -> dict[str, dict[int, str]]:
        names = (f"past_key_values.{at}.encoder." for at in range(self._config.num_decoder_layers))
        axes = {0: "passages", 2: "passage_length"}
        return {name + part: axes for name in names for part in ("key", "value")}


class DecoderOnnxConfig(T5OnnxConfig):
    """Optimum's configuration of a T5 decoder with past, with one output more."""

    ATOL_FOR_VALIDATION = 1e-3

    @classmethod
    def of(cls, config: T5Config) -> DecoderOnnxConfig:
        """The configuration of the half that takes a past."""
        whole = cls(config, task="text2text-generation", use_past=True)
        return whole.with_behavior("decoder", use_past=True, use_past_in_inputs=True)

    @property
    def outputs(self) -> dict[str, dict[int, str]]:
        return {**super().outputs, "attention": {0: "batch_size", 1: "encoder_sequence_length"}}
