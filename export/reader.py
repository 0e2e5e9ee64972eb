"""
The split reader in torch: a BERT-family checkpoint cut into lower and upper encoder (BTR section 3).

    passage:  [CLS] heading [SEP] body [SEP] --lower--> h (body tokens only) --binarizer--> bits, scale
    question: [CLS] question [SEP]           --lower--> h, full precision
    reading:  question states + restored passage states --upper--> start and end logits

The lower encoder sees the heading, so the body's bits know where they stand at no stored byte. Each passage
is read with the question on its own; logits are relative to the passage's null logit (the question's [CLS]
position), so that spans of several passages are normalised together and "no answer" is the logit 0.

The layers above a split have little room to find which passage words the question repeats, and the ids say it
for nothing: `match_rank` > 0 adds a low-rank embedding of the token id to every token that also stands on the
other side. It helps the split reader learn what a full reader gets from its lower layers.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AutoModel, BertConfig, BertModel, PretrainedConfig

from export.binarizer import KINDS, Binarizer, NeighbourBinarizer, make_binarizer, rms
from export.checkpoint import load_weights
from export.data import Batch
from store.errors import ExportError

MASKED = -1e4
"""Logit of a padded position: finite, so that float16 and int8 graphs never see an infinity."""


@dataclass
class Reading:
    """What a reader makes of N question-passage pairs, over the n body tokens of each passage."""

    start: Tensor
    """(N, n) start logits, relative to the passage's null logit; padded positions are `MASKED`."""
    end: Tensor
    """(N, n) end logits, likewise."""
    states: Tensor
    """(N, n, d) last hidden states."""
    early_start: Tensor | None = None
    """(N, n) start logits of the early span head, which reads what stands below the last layer; split readers only."""
    early_end: Tensor | None = None
    attention: Tensor | None = None
    """(N, n) attention that the question pays to each token, where it was asked for."""


@dataclass(frozen=True)
class SplitConfig:
    """What decides the shape of a split reader."""

    split_layer: int = 3
    """Layers in the lower encoder."""
    upper_layers: int = 3
    """Layers in the upper encoder, initialised from the checkpoint's last ones."""
    lower_width: int = 0
    """Width of the lower layers' feed-forward blocks; 0 keeps the checkpoint's."""
    binarizer: str = "context"
    bits: int = 128
    """m, stored bits per token."""
    code_bits: int = 384
    """Bits of a passage code."""
    match_rank: int = 16
    """Rank of the shared-token embedding; 0 leaves it out."""

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


class LowerEncoder(nn.Module):
    """Layers 1..k on one text alone."""

    def __init__(self, bert: BertModel, layers: int, width: int = 0) -> None:
        super().__init__()
        self.embeddings = bert.embeddings
        self.layers = nn.ModuleList(bert.encoder.layer[:layers])
        if width:
            for layer in self.layers:
                _narrow(layer, width)

    @property
    def words(self) -> nn.Embedding:
        """The static word embeddings."""
        return self.embeddings.word_embeddings

    def embed(self, words: Tensor) -> Tensor:
        """Word embeddings (B, L, d) -> the first layer's input."""
        position = self.embeddings.position_embeddings(torch.arange(words.shape[1], device=words.device))
        segment = self.embeddings.token_type_embeddings.weight[0]
        return self.embeddings.LayerNorm(words + position[None] + segment)

    def run(self, states: Tensor, mask: Tensor) -> Tensor:
        """The layers alone: (B, L, d) -> hidden states (B, L, d)."""
        return run_layers(self.layers, states, mask)

    def forward(self, ids: Tensor, mask: Tensor) -> Tensor:
        """Token ids (B, L), mask (B, L) true on tokens -> hidden states (B, L, d)."""
        return self.run(self.embeddings(input_ids=ids), mask)


class Matching(nn.Module):
    """The shared-token embedding of an upper encoder: low-rank, of the id, for tokens that stand on both sides."""

    match_in: nn.Linear | None
    match_out: nn.Linear | None
    pre_norm = False
    """Whether states stand before a layernorm: the embedding is then in units of each state's own length."""

    def make_match(self, d: int, rank: int) -> None:
        """Begin with one embedding for all ids; a `rank` of 0 leaves it out."""
        self.match_in = nn.Linear(d, rank) if rank else None
        self.match_out = nn.Linear(rank, d, bias=False) if rank else None
        if self.match_in is not None and self.match_out is not None:
            nn.init.ones_(self.match_in.bias)
            nn.init.normal_(self.match_out.weight, std=0.02)

    def match_factors(self, e: Tensor) -> Tensor | None:
        """The id's part of the embedding, e (..., d) -> (..., r); None without one."""
        return None if self.match_in is None else self.match_in(e)

    def match(
        self,
        q: Tensor,
        q_ids: Tensor,
        p: Tensor,
        p_ids: Tensor,
        p_mask: Tensor,
        factors: Callable[[Tensor], Tensor | None],
    ) -> tuple[Tensor, Tensor]:
        """
        Add the embedding to question states q (B, Q, d) and passage states p (B, L, d).

        `factors` is `match_factors` of their ids, (B, Q) and (B, L).
        """
        if self.match_out is None:
            return q, p
        shared_p, shared_q = shared_tokens(p_ids, p_mask, q_ids)
        return self._marked(q, shared_q, factors(q_ids)), self._marked(p, shared_p, factors(p_ids))

    def _marked(self, states: Tensor, shared: Tensor, factors: Tensor | None) -> Tensor:
        if factors is None or self.match_out is None:
            return states
        added = self.match_out(factors * shared[..., None].to(states.dtype))
        return states + (added * rms(states) if self.pre_norm else added)


class UpperEncoder(Matching):
    """Layers k+1..n on question and passage together, then the span head."""

    def __init__(self, bert: BertModel, layers: int, match_rank: int) -> None:
        super().__init__()
        d = bert.config.hidden_size
        self.layers = nn.ModuleList(copy.deepcopy(layer) for layer in bert.encoder.layer[-layers:])
        self.segment = nn.Parameter(torch.zeros(d))
        self.early = nn.Linear(d, 2)
        """Span head above the first layer: says which passages are worth the others."""
        self.span = nn.Linear(d, 2)
        self.make_match(d, match_rank)

    def forward(self, q: Tensor, q_mask: Tensor, p: Tensor, p_mask: Tensor) -> Reading:
        """Question states q (B, Q, d) and passage states p (B, L, d) -> what was read in the passages."""
        states, early_start, early_end = self.survey(q, q_mask, p, p_mask)
        start, end, last = self.finish(states, q_mask, p_mask)
        return Reading(start, end, last, early_start, early_end)

    def survey(self, q: Tensor, q_mask: Tensor, p: Tensor, p_mask: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The first layer -> joint states (B, Q + L, d) and the early span head's start and end (B, L)."""
        states = torch.cat([q, p + self.segment], dim=1)
        mask = torch.cat([q_mask, p_mask], dim=1)
        states = run_layers(self.layers[:1], states, mask)
        return states, *relative_logits(self.early(_null_and_passage(states, q.shape[1])), p_mask)

    def finish(self, states: Tensor, q_mask: Tensor, p_mask: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The other layers over joint states (B, Q + L, d) -> start and end (B, L), last passage states (B, L, d)."""
        mask = torch.cat([q_mask, p_mask], dim=1)
        states = run_layers(self.layers[1:-1], states, mask)
        last = _null_and_passage(states, q_mask.shape[1])  # nobody reads the question's last states
        if len(self.layers) > 1:
            last = run_last_layer(self.layers[-1], last, states, mask)
        return *relative_logits(self.span(last), p_mask), last[:, 1:]


class RetrievalHead(nn.Module):
    """
    Mean of the lower states, weighted by what each says of itself -> a code.

    A passage keeps the signs of its code, a question its floats (BPR). The weights are equal before training.
    """

    def __init__(self, hidden_size: int, code_bits: int, pre_norm: bool = False) -> None:
        """With `pre_norm` each state is brought to length 1 first: before a layernorm the longest ones say least."""
        super().__init__()
        self.weight = nn.Linear(hidden_size, 1, bias=False)
        self.dense = nn.Linear(hidden_size, code_bits)
        self.pre_norm = pre_norm
        nn.init.zeros_(self.weight.weight)

    def level(self, h: Tensor) -> Tensor:
        """Lower states (..., d) as the head reads them; doing it twice changes nothing."""
        return h / rms(h) if self.pre_norm else h

    def forward(self, h: Tensor, mask: Tensor) -> Tensor:
        """Lower states (B, L, d) with their mask (B, L) -> code (B, c), before any sign is taken."""
        h = self.level(h)
        weights = torch.where(mask[..., None], self.weight(h), MASKED).softmax(dim=1)
        return self.dense((h * weights).sum(1))


class PassageEncoder(nn.Module):
    """What split readers of both families share: what passages are stored with, and the way to the upper encoder."""

    lower: nn.Module
    upper: Matching
    binarizer: Binarizer
    retrieval: RetrievalHead
    config: SplitConfig
    pre_norm = False
    """Whether its states stand before a layernorm, so that only their direction compares between tokens."""

    def embed(self, ids: Tensor) -> Tensor:
        """Static word embeddings e(id), (..., d)."""
        return self.lower.words(ids)

    def match_factors(self, ids: Tensor) -> Tensor | None:
        """The shared-token embedding's part of each id, (..., r); None without one."""
        return self.upper.match_factors(self.embed(ids))

    def binarize(self, h: Tensor, ids: Tensor, bare: Tensor | None = None) -> Tensor:
        """
        Passage states (B, L, d) and their ids (B, L) -> what is restored from their signs and scales.

        Where the mask `bare` (B, L) is true there are none, as in padding.
        """
        absent = ids == 0
        return self.binarizer(h, self.features(ids), absent if bare is None else absent | bare)

    @torch.no_grad()
    def fit_binarizer(self, h: Tensor, ids: Tensor, bare: Tensor | None = None, edge: int = -1) -> None:
        """
        Fit the binarizer's constants on passages' states (P, L, d) and ids (P, L) with 0 as padding.

        Tokens of `bare` (P, L) will keep no vector; `edge` is the id that stands around a passage when it is encoded.
        """
        if isinstance(self.binarizer, NeighbourBinarizer):
            self.binarizer.edge.fill_(edge)
        self.binarizer.fit(h, self.features(ids), ids != 0, bare)

    def features(self, ids: Tensor) -> Tensor:
        """What the binarizer predicts states from, for token ids (B, L) with 0 as padding."""
        return self.binarizer.features(self.embed(ids), self.binarizer.inner(ids))

    def read(self, h_q: Tensor, q_ids: Tensor, p: Tensor, p_ids: Tensor, p_mask: Tensor, *more: Any) -> Any:
        """
        Question states (B, Q, d) and ids (B, Q), passage states (B, L, d), ids and mask (B, L) -> what `upper` gives.

        The passage states are the lower encoder's own or, in a binarized reader, those restored from their signs. What
        else `upper` takes comes last.
        """
        q, p = self.upper.match(h_q, q_ids, p, p_ids, p_mask, self.match_factors)
        return self.upper(q, q_ids != 0, p, p_mask, *more)

    @torch.no_grad()
    def encode(self, ids: Tensor, mask: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Passages (B, L) -> signs (B, L, m), scales (B, L) and code (B, c), as the store keeps them."""
        h = self.lower(ids, mask)
        y = self.binarizer.project(h, self.binarizer.base(self.features(ids)))
        return torch.where(y > 0, 1.0, -1.0), rms(y)[..., 0], self.retrieval(h, mask)


class SplitReader(PassageEncoder):
    """Lower encoder, binarizer, retrieval head and upper encoder: everything that is trained."""

    def __init__(self, bert: BertModel, config: SplitConfig) -> None:
        super().__init__()
        check_split(bert.config, config)
        self.config = config
        self.model_config: BertConfig = bert.config
        d = bert.config.hidden_size
        self.upper = UpperEncoder(bert, config.upper_layers, config.match_rank)
        self.lower = LowerEncoder(bert, config.split_layer, config.lower_width)
        self.binarizer: Binarizer = make_binarizer(config.binarizer, d, config.bits)
        self.retrieval = RetrievalHead(d, config.code_bits)
        self.lower.words.weight.requires_grad_(False)  # the base of the bits stays a table of ids

    def read_pairs(self, h_q: Tensor, p: Tensor, batch: Batch) -> Reading:
        """Lower states of the questions (Q, q, d), states of the bodies (P, n, d) -> Reading of a batch's pairs."""
        at, of = batch.pair_question, batch.pair_passage
        reading: Reading = self.read(h_q[at], batch.question_ids[at], p[of], batch.body_ids[of], batch.body_mask[of])
        return reading


def mean_state(h: Tensor, mask: Tensor) -> Tensor:
    """Mean of states (B, L, d) where mask (B, L) is true -> (B, d)."""
    weights = mask[..., None].to(h.dtype)
    return (h * weights).sum(1) / weights.sum(1).clamp(min=1)


def shared_tokens(p_ids: Tensor, p_mask: Tensor, q_ids: Tensor) -> tuple[Tensor, Tensor]:
    """Which passage tokens (B, L) stand in the question and which question tokens (B, Q) in the passage."""
    same = (p_ids[:, :, None] == q_ids[:, None, :]) & p_mask[:, :, None]
    return same.any(dim=2), same.any(dim=1)


def _null_and_passage(states: Tensor, question: int) -> Tensor:
    """Joint states (B, Q + L, d) -> those of the null option and of the passage (B, 1 + L, d)."""
    return torch.cat([states[:, :1], states[:, question:]], dim=1)


def relative_logits(logits: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    """Span logits (B, 1 + L, 2), the null option's first -> start and end (B, L) relative to it, `MASKED` padding."""
    relative = torch.where(mask[..., None], logits[:, 1:] - logits[:, :1], MASKED)
    return relative[..., 0], relative[..., 1]


def run_layers(layers: nn.ModuleList, states: Tensor, mask: Tensor) -> Tensor:
    """Self-attention layers over states (B, L, d), each token attending where mask (B, L) is true."""
    bias = _bias(mask, states)
    for layer in layers:
        states = layer(states, attention_mask=bias)[0]
    return states


def run_last_layer(layer: nn.Module, needed: Tensor, states: Tensor, mask: Tensor) -> Tensor:
    """A self-attention layer for some of its positions: needed (B, N, d) attend to all states (B, L, d)."""
    attended = layer.attention(needed, attention_mask=_bias(mask, states), encoder_hidden_states=states)[0]
    return layer.feed_forward_chunk(attended)


def strongest(layer: nn.Module, width: int) -> Tensor:
    """The `width` units of a layer's feed-forward block with the largest weights in and out, ascending."""
    into, out = layer.intermediate.dense, layer.output.dense
    return (into.weight.norm(dim=1) * out.weight.norm(dim=0)).topk(width).indices.sort().values


def _narrow(layer: nn.Module, width: int) -> None:
    """Keep the strongest units of a layer's feed-forward block alone."""
    into, out = layer.intermediate.dense, layer.output.dense
    kept = strongest(layer, width)
    for name, dense in (("weight", into), ("bias", into)):
        setattr(dense, name, nn.Parameter(getattr(dense, name).detach()[kept].clone()))
    out.weight = nn.Parameter(out.weight.detach()[:, kept].clone())
    into.out_features = out.in_features = width


def _bias(mask: Tensor, states: Tensor) -> Tensor:
    bias = torch.where(mask, 0.0, torch.finfo(states.dtype).min)
    return bias[:, None, None, :].to(states.dtype)


def load_bert(checkpoint: Path) -> BertModel:
    """
    A BERT-family encoder from a folder, without dropout (its random numbers cost more than the products here).

    Raises:
        ExportError: If the folder holds no whole checkpoint, or one of another architecture.
    """
    if not (checkpoint / "config.json").is_file():
        raise ExportError(f"{checkpoint} holds no config.json: give a checkpoint folder")
    bert = load_weights(AutoModel, checkpoint, "sdpa")
    if not isinstance(bert, BertModel):
        raise ExportError(f"{checkpoint} is a {type(bert).__name__}, the extractive reader needs a BertModel")
    for module in bert.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
        if hasattr(module, "dropout_prob"):
            module.dropout_prob = 0.0
    return bert


def check_split(model: PretrainedConfig, config: SplitConfig) -> None:
    """
    Refuse what no split reader can be made of.

    Raises:
        ExportError: If the split layer or the sizes do not fit the checkpoint.
    """
    depth, d = model.num_hidden_layers, model.hidden_size
    if not 1 <= config.split_layer <= depth or not 1 <= config.upper_layers <= depth:
        raise ExportError(
            f"split layer {config.split_layer} + {config.upper_layers} does not fit {depth} layers: "
            f"1 to {depth} below and above"
        )
    widest = getattr(model, "intermediate_size", 0)
    if not 0 <= config.lower_width <= widest:
        raise ExportError(
            f"lower width {config.lower_width} does not fit the checkpoint's feed-forward blocks: "
            f"1 to {widest}, or 0 for that"
        )
    if config.binarizer not in KINDS:
        raise ExportError(f"there is no binarizer {config.binarizer!r}: it is one of {', '.join(KINDS)}")
    if config.code_bits < 8 or config.code_bits % 8:
        raise ExportError(f"{config.code_bits} bits of a passage code: need a multiple of 8")
    if d % 8:
        raise ExportError(f"the checkpoint has a hidden size of {d}: need a multiple of 8")
    if config.bits < 8 or config.bits % 8 or config.bits > d:
        raise ExportError(f"{config.bits} bits per token: need a multiple of 8 and at most the hidden size {d}")
