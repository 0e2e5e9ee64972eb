"""
The generative reader in torch: T5 as Fusion-in-Decoder, whole and split (BTR sections 2 and 3).

    full:     question </s> heading </s> body </s>  --all encoder layers-->  states
    passage:  heading </s> body </s>  --lower-->  h (body tokens only)  --binarizer-->  bits, scale
    question: question </s>           --lower-->  h, full precision
    split:    question states + restored passage states  --upper-->  states
    reading:  the states of all passages of a question, one after another  --decoder-->  answer </s>

T5 is pre-layernorm: what attention reads is u = w h r, r = rsqrt(mean(h^2) + eps), and h itself runs on. The signs are
those of u, after the layernorm; the token's variance mean(h^2) is kept, as the scale sqrt(mean(h^2)) = 1 / r. Where u
is its own sign b, h = b / (r w), so

    h~ = b / (r w) = scale * sign(h) * g,   g = 1 / |w|

since sign(u) = sign(w) sign(h). Of real states, which have channels far larger than others, that is too long: g starts
as the multiple of it that suits them best (`NormBinarizer.below`), and is trained; eps is left out, nothing beside a
variance. The layernorm above gives w h~ r~, which is b times one factor for all channels and tokens: the bits reach
attention as they are, and the scale reaches the residual stream.

Shared tokens are marked as the extractive reader marks them (`export.reader`), with `match_rank`; the paper's T5 has no
such thing, and its default is 0. Positions are counted through question and passage, and one table of relative position
biases serves both sides of the split. The empty answer is "not in the passages", so log p(answer) - log p(empty)
compares as a span's score does.
"""

from __future__ import annotations

import copy
import json
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn
from transformers import T5Config, T5ForConditionalGeneration
from transformers.modeling_outputs import BaseModelOutput
from transformers.models.t5.modeling_t5 import T5Attention, T5Stack

from export.binarizer import NormBinarizer, make_binarizer
from export.checkpoint import load_weights
from export.data import MAX_ANSWER, Batch
from export.full import gather, join
from export.merging import REACH, bias_by_distance, bias_in_order, bias_of_merged, merge_passage, unmerge
from export.reader import Matching, PassageEncoder, RetrievalHead, SplitConfig, check_split
from store.errors import ExportError

EOS = 1
"""Of every T5: the id of </s>."""


@dataclass
class Generation:
    """What a generative reader makes of a batch: Q questions, N question-passage pairs, n body tokens."""

    logits: Tensor
    """(W, V) of each of the answers' W tokens, after those before it."""
    states: Tensor
    """(N, n, d) last encoder states of the bodies."""
    encoded: Tensor
    """(Q, T, d) what the decoder read."""
    mask: Tensor
    """(Q, T) true on tokens."""
    answers: Tensor
    """(Q, a) the batch's."""
    looked: Tensor
    """(Q, a, T) attention that each answer token pays, in the decoder's last layer, mean over its heads."""
    read_ids: Tensor
    """(Q, T) the tokens that the decoder read, padded with 0."""
    attention: Tensor | None = None
    """(N, n) attention that the question pays to each token, where it was asked for."""


def biases(table: nn.Embedding, config: T5Config) -> Tensor:
    """The biases of all distances from the farthest before to the farthest after (2 R + 1, heads)."""
    farthest = config.relative_attention_max_distance  # beyond it all distances share a bucket
    distances = torch.arange(-farthest, farthest + 1, device=table.weight.device)
    found: Tensor = table(
        T5Attention._relative_position_bucket(distances, True, config.relative_attention_num_buckets, farthest)
    )
    return found


class T5Lower(nn.Module):
    """Layers 1..k on one text alone."""

    def __init__(self, encoder: T5Stack, layers: int) -> None:
        super().__init__()
        self.config = encoder.config
        self.words = encoder.embed_tokens
        self.layers = nn.ModuleList(encoder.block[:layers])
        self.table = encoder.block[0].layer[0].SelfAttention.relative_attention_bias

    def embed(self, words: Tensor) -> Tensor:
        """Word embeddings (B, L, d) -> the first layer's input: the same."""
        return words

    def run(self, states: Tensor, mask: Tensor) -> Tensor:
        """The layers alone: (B, L, d) -> hidden states (B, L, d)."""
        bias = bias_in_order(biases(self.table, self.config), mask.to(states.dtype))
        for layer in self.layers:
            states = layer(states, position_bias=bias)[0]
        return states

    def forward(self, ids: Tensor, mask: Tensor) -> Tensor:
        """Token ids (B, L), mask (B, L) true on tokens -> hidden states (B, L, d)."""
        return self.run(self.words(ids), mask)


class T5Upper(Matching):
    """Layers k+1..n on question and passage together, then the encoder's last layernorm."""

    pre_norm = True

    def __init__(self, encoder: T5Stack, layers: int, match_rank: int = 0) -> None:
        super().__init__()
        self.config = encoder.config
        self.layers = nn.ModuleList(copy.deepcopy(layer) for layer in encoder.block[-layers:])
        first = self.layers[0].layer[0].SelfAttention
        if first.has_relative_attention_bias:  # it is the lower encoder's first layer too, and the table is one
            first.relative_attention_bias = encoder.block[0].layer[0].SelfAttention.relative_attention_bias
        self.table = encoder.block[0].layer[0].SelfAttention.relative_attention_bias
        self.norm = encoder.final_layer_norm
        self.make_match(encoder.config.d_model, match_rank)

    def forward(self, q: Tensor, q_mask: Tensor, p: Tensor, p_mask: Tensor, ratio: Tensor | None = None) -> Tensor:
        """
        Question states q (B, Q, d), passage states p (B, n, d), their masks -> joint states (B, Q + n, d).

        With a `ratio` () the layers read as many fewer of the passage's tokens as if each left 1 - ratio of them, but
        all are merged before the first layer and at most every second: a merge costs as much as a third of a layer.
        At a ratio of 0 no question may be padded.
        """
        states, size = torch.cat([q, p], dim=1), torch.cat([q_mask, p_mask], dim=1).to(q.dtype)
        at = torch.arange(p.shape[1], device=p.device) + q_mask.sum(1, keepdim=True)
        position = torch.cat([torch.arange(q.shape[1], device=q.device).expand_as(q_mask), at], dim=1)
        distances = biases(self.table, self.config)
        if ratio is None:
            return self.norm(self.run(states, bias_by_distance(distances, position, size)))
        if not torch.jit.is_tracing():
            assert ratio > 0 or bool(q_mask.all()), "behind a padded question positions are not in order"
        share = 1 - (1 - ratio) ** len(self.layers)
        with torch.autocast(states.device.type, enabled=False):  # positions and means need their digits
            merged, size, position, group = merge_passage(states.float(), size, position, q, share, REACH)
        read = self.run(merged, bias_of_merged(distances, position, size, share))
        return self.norm(unmerge(states, merged, read, group, share))

    def run(self, states: Tensor, bias: Tensor) -> Tensor:
        """The layers alone: (B, L, d), biases (B, heads, L, L) -> (B, L, d)."""
        for layer in self.layers:
            states = layer.layer[0](states, position_bias=bias)[0]
            states = layer.layer[-1](states)
        return states


class Decoding(nn.Module):
    """The half that both generative readers share: T5's decoder over the states of all passages of a question."""

    t5: T5ForConditionalGeneration

    @property
    def model_config(self) -> T5Config:
        """The checkpoint's configuration."""
        return self.t5.config

    def write(self, encoded: Tensor, mask: Tensor, answer_ids: Tensor) -> tuple[Tensor, Tensor]:
        """
        States (Q, T, d), mask (Q, T), answers (Q, a) -> logits (W, V), attention (Q, a, T) to what is read.

        Logits are of the answers' W tokens, each after those before it: the vocabulary is large, and most places of the
        shorter answers are padding. Attention is the last layer's, mean over its heads.
        """
        read = self.t5.decoder(
            input_ids=self.t5._shift_right(answer_ids),
            encoder_hidden_states=encoded,
            encoder_attention_mask=mask.long(),
            use_cache=False,
            output_attentions=True,
        )
        states = read.last_hidden_state[answer_ids != 0]
        if self.t5.config.tie_word_embeddings:
            states = states * self.t5.model_dim**-0.5
        return self.t5.lm_head(states), read.cross_attentions[-1].mean(1)

    @torch.no_grad()
    def generate(self, encoded: Tensor, mask: Tensor, beams: int = 1) -> Tensor:
        """States (Q, T, d), mask (Q, T) -> the likeliest written answers (Q, a) by greedy or beam search, no start."""
        return self.t5.generate(
            encoder_outputs=BaseModelOutput(encoded),
            attention_mask=mask.long(),
            max_new_tokens=MAX_ANSWER + 1,
            min_new_tokens=1,  # of the empty answer only the chance is asked for, as of a span reader's null
            num_beams=beams,
            do_sample=False,
        )[:, 1:]


class FullT5(Decoding):
    """Unsplit Fusion-in-Decoder: question and passage together through every encoder layer."""

    def __init__(self, t5: T5ForConditionalGeneration) -> None:
        super().__init__()
        self.t5 = t5

    def read_batch(self, batch: Batch, attention: bool = False) -> Generation:
        """What the reader makes of a batch; with `attention` also what the question attends to in the last layer."""
        q, p = batch.pair_question, batch.pair_passage
        ids, segment, body = join(
            batch.question_ids[q], batch.passage_ids[p], batch.body_start[p], batch.body_ids.shape[1], dropped=0
        )
        mask = ids != 0
        states, weights = self.encode(ids)
        encoded, whole = fuse(states, mask, batch)
        logits, looked = self.write(encoded, whole, batch.answer_ids)
        read = side_by_side(ids, batch)
        generation = Generation(logits, gather(states, body), encoded, whole, batch.answer_ids, looked, read)
        if attention:
            asked = (mask & (segment == 0)).to(weights.dtype)[:, :, None]
            paid = (weights.mean(1) * asked).sum(1) / asked.sum(1)
            generation.attention = torch.gather(paid, 1, body) * batch.body_mask[p]
        return generation

    def encode(self, ids: Tensor) -> tuple[Tensor, Tensor]:
        """Joint texts (N, T) -> last states (N, T, d) and the last layer's attention (N, heads, T, T)."""
        encoder = self.t5.encoder
        mask = ids != 0
        table = encoder.block[0].layer[0].SelfAttention.relative_attention_bias
        states = encoder.embed_tokens(ids)
        bias = bias_in_order(biases(table, encoder.config), mask.to(states.dtype))
        for layer in encoder.block[:-1]:
            states = layer(states, position_bias=bias)[0]
        states, _, weights = encoder.block[-1](states, position_bias=bias, output_attentions=True)
        return encoder.final_layer_norm(states), weights


class SplitT5(PassageEncoder, Decoding):
    """Lower encoder, binarizer, retrieval head, upper encoder and decoder."""

    pre_norm = True

    def __init__(self, t5: T5ForConditionalGeneration, config: SplitConfig) -> None:
        super().__init__()
        if config.lower_width:
            raise ExportError("lower_width is the extractive reader's: leave it 0 for a T5")
        check_split(t5.config, config)
        self.config = config
        self.upper = T5Upper(t5.encoder, config.upper_layers, config.match_rank)
        self.lower = T5Lower(t5.encoder, config.split_layer)
        d = t5.config.d_model
        self.binarizer = make_binarizer(config.binarizer, d, config.bits)
        if isinstance(self.binarizer, NormBinarizer):
            self.binarizer.below(self.upper.layers[0].layer[0].layer_norm.weight)
        self.retrieval = RetrievalHead(d, config.code_bits, self.pre_norm)
        t5.encoder.block, t5.encoder.final_layer_norm = nn.ModuleList(), nn.Identity()
        self.t5 = t5
        """Without its encoder's layers: the words, the decoder and the head."""

    def fit_binarizer(self, h: Tensor, ids: Tensor, bare: Tensor | None = None, edge: int = -1) -> None:
        """Fit the binarizer's constants on passages' states (P, L, d) and ids (P, L) with 0 as padding."""
        super().fit_binarizer(h, ids, bare, edge)
        if isinstance(self.binarizer, NormBinarizer):
            self.binarizer.below(self.upper.layers[0].layer[0].layer_norm.weight, h[ids != 0])

    def read_pairs(self, h_q: Tensor, p: Tensor, batch: Batch, ratio: Tensor | None = None) -> Generation:
        """
        Lower states of the questions (Q, q, d), states of the bodies (P, n, d) -> Generation over the pairs.

        At a `ratio` () the upper layers read merged tokens, of each passage alone.
        """
        at, of = batch.pair_question, batch.pair_passage
        q_ids, p_ids, p_mask = batch.question_ids[at], batch.body_ids[of], batch.body_mask[of]
        states = self.read(h_q[at], q_ids, p[of], p_ids, p_mask, ratio)
        encoded, whole = fuse(states, torch.cat([q_ids != 0, p_mask], dim=1), batch)
        logits, looked = self.write(encoded, whole, batch.answer_ids)
        read = side_by_side(torch.cat([q_ids, p_ids], dim=1), batch)
        return Generation(logits, states[:, h_q.shape[1] :], encoded, whole, batch.answer_ids, looked, read)


def fuse(states: Tensor, mask: Tensor, batch: Batch) -> tuple[Tensor, Tensor]:
    """States (N, L, d), masks (N, L) of the pairs -> those of a question's passages side by side (Q, S L, ...)."""
    return side_by_side(states, batch), side_by_side(mask, batch)


def side_by_side(each: Tensor, batch: Batch) -> Tensor:
    """What the pairs' tokens have (N, L, ...) -> that of a question's passages, one after another (Q, S L, ...)."""
    questions, slots = len(batch.question_ids), int(batch.slot.max()) + 1
    put = each.new_zeros(questions, slots, *each.shape[1:]).index_put((batch.pair_question, batch.slot), each)
    return put.flatten(1, 2)


def load_t5(checkpoint: Path) -> T5ForConditionalGeneration:
    """
    A T5-family checkpoint (t5, t5-v1_1, flan-t5) from a folder, without dropout.

    Raises:
        ExportError: If the folder holds no whole checkpoint, or one of another architecture.
    """
    if model_type(checkpoint) != "t5":
        raise ExportError(f"{checkpoint} is a {model_type(checkpoint)} checkpoint, the generative reader needs a t5")
    return without_dropout(load_weights(T5ForConditionalGeneration, checkpoint))


def without_dropout(t5: T5ForConditionalGeneration) -> T5ForConditionalGeneration:
    """The same model, its dropout set to 0 everywhere."""
    for module in t5.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
        if isinstance(module, T5Attention):
            module.dropout = 0.0
    return t5


def model_type(folder: Path) -> str:
    """
    The architecture that a checkpoint's `config.json` names.

    Raises:
        ExportError: If there is none.
    """
    path = folder / "config.json"
    if not path.is_file():
        raise ExportError(f"{folder} holds no config.json: give a checkpoint folder")
    try:
        return str(json.loads(path.read_text())["model_type"])
    except (ValueError, KeyError, TypeError) as error:
        raise ExportError(f"{path} names no model_type: give a whole checkpoint folder") from error
