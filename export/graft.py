"""
A T5 that begins as a BERT: its word pieces, word vectors and encoder layers, for where no T5 checkpoint can be had.

The two shapes differ. BERT normalises after a block, by mean and variance, and has biases and a table of positions; T5
normalises before a block, by the root mean square alone, and has neither, but a bias by distance on attention. What can
be taken over is put where it does most nearly the same:

    word vectors    LN(word + first segment + mean position)      attention       W_q / sqrt(d_k), W_k, W_v, W_o
    norm before     the gain of the LN that BERT has there        feed-forward    W_1, W_2, the same activation
    bias            how much more than others a head attends to tokens at a distance, on a few texts

T5 has one table of biases for all layers. The order of a layer's heads is free, so heads that attend by distance alike
share a row of it, the row being their mean.

Layers beyond the BERT's begin as copies of its top ones, and so does the decoder. What it has of its own, attention to
what was read, begins as their attention with W_v = W_o = I, under a head that is sharp enough: what it looks at it
writes. So copying, which a reader does most, need not be learnt; where to look is.

It is a start, not the same function: `export.pretrain` then has the lower layers' states point where BERT's do.
"""

from __future__ import annotations

import re
from pathlib import Path

import torch
from scipy.optimize import linear_sum_assignment
from tokenizers import Tokenizer, decoders, models, processors
from torch import Tensor, nn
from transformers import BertModel, T5Config, T5ForConditionalGeneration
from transformers.models.bert.modeling_bert import BertLayer
from transformers.models.t5.modeling_t5 import T5Attention, T5Block

from export.data import load_tokenizer
from export.t5 import EOS

_SHARP = 4.0
"""Weight of the decoder's last norm: with 1 the logits of words this long would hardly differ."""
_STRONGEST = 8.0
"""A bias beyond it decides alone where to look, and so does this one."""
_ROUNDS = 20
"""Of putting heads in order and taking their mean: far more than change anything."""
_LEFT_OUT = re.compile(r"\[(unused\d+|PAD|UNK|CLS|SEP|MASK)\]")


def grafted_tokenizer(checkpoint: Path, sentinels: list[str]) -> Tokenizer:
    """The word pieces of a BERT checkpoint under a T5's special tokens: padding 0, </s> 1, <unk> 2, the sentinels."""
    old = load_tokenizer(checkpoint)
    vocabulary = old.get_vocab()
    pieces = sorted((piece for piece in vocabulary if not _LEFT_OUT.fullmatch(piece)), key=vocabulary.__getitem__)
    special = ["<pad>", "</s>", "<unk>", *sentinels]
    tokens = {token: i for i, token in enumerate([*special, *pieces])}
    tokenizer = Tokenizer(models.WordPiece(tokens, unk_token="<unk>"))
    tokenizer.normalizer, tokenizer.pre_tokenizer = old.normalizer, old.pre_tokenizer
    tokenizer.decoder = decoders.WordPiece()
    tokenizer.add_special_tokens(special)
    tokenizer.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", EOS)])
    return tokenizer


def counterparts(tokenizer: Tokenizer, checkpoint: Path) -> Tensor:
    """
    A grafted tokenizer's ids -> the checkpoint's (V,): </s> is [SEP], sentinels are words that it has and never saw.

    A checkpoint without such words has [UNK] for all of them.
    """
    old = load_tokenizer(checkpoint).get_vocab()
    ids = torch.full((tokenizer.get_vocab_size(),), old["[UNK]"])
    unused = iter(sorted(i for token, i in old.items() if token.startswith("[unused")))
    special = {"<pad>": old["[PAD]"], "</s>": old["[SEP]"], "<unk>": old["[UNK]"]}
    for token, i in sorted(tokenizer.get_vocab().items(), key=lambda item: item[1]):
        known = special.get(token, old.get(token))
        ids[i] = next(unused, old["[UNK]"]) if known is None else known
    return ids


@torch.no_grad()
def grafted_t5(
    bert: BertModel, ids: Tensor, layers: int, decoder_layers: int, text: Tensor
) -> T5ForConditionalGeneration:
    """
    A T5 with the words `ids` (V,) and layers of a BERT; those of its decoder beyond the BERT's are random.

    On `text` (B, L), the T5's ids, it is seen how the BERT attends by distance.
    """
    shape = bert.config
    config = T5Config(
        vocab_size=len(ids),
        d_model=shape.hidden_size,
        d_kv=shape.hidden_size // shape.num_attention_heads,
        d_ff=shape.intermediate_size,
        num_layers=layers,
        num_decoder_layers=decoder_layers,
        num_heads=shape.num_attention_heads,
        feed_forward_proj=shape.hidden_act,
        decoder_start_token_id=0,
    )
    t5 = T5ForConditionalGeneration(config)
    words = bert.embeddings
    position = words.position_embeddings.weight.mean(0)
    vectors = words.word_embeddings.weight[ids] + words.token_type_embeddings.weight[0] + position
    t5.shared.weight.copy_(words.LayerNorm(vectors))
    own, pull = list(bert.encoder.layer), pulls(bert, ids[text])
    gains = [words.LayerNorm.weight, *(layer.output.LayerNorm.weight for layer in own)]
    made_of = [at if at < len(own) else max(0, len(own) - (layers - at)) for at in range(layers)]
    orders = _set_biases(t5.encoder.block[0], pull[made_of])
    for block, at, order in zip(t5.encoder.block, made_of, orders, strict=True):
        _graft(block, own[at], gains[at], order)
    t5.encoder.final_layer_norm.weight.copy_(gains[made_of[-1] + 1])
    taken = min(decoder_layers, len(own))
    orders = _set_biases(t5.decoder.block[0], pull[-taken:])
    for block, layer, gain, order in zip(
        t5.decoder.block[-taken:], own[-taken:], gains[-taken - 1 : -1], orders, strict=True
    ):
        _graft(block, layer, gain, order)
        looking = block.layer[1]
        looking.layer_norm.weight.copy_(gain)
        beside = block.layer[0].SelfAttention
        looking.EncDecAttention.q.weight.copy_(beside.q.weight)
        looking.EncDecAttention.k.weight.copy_(beside.k.weight)
        for passed in (looking.EncDecAttention.v, looking.EncDecAttention.o):
            torch.nn.init.eye_(passed.weight)
    t5.decoder.final_layer_norm.weight.fill_(_SHARP)
    return t5


@torch.no_grad()
def pulls(bert: BertModel, text: Tensor) -> Tensor:
    """
    Attention logits of a BERT's heads by distance on texts (B, L): (layers, heads, 2 L - 1), from L - 1 before on.

    Means over the texts, each token's logits being taken less their own mean.
    """
    found, heads = [], bert.config.num_attention_heads
    states = bert(input_ids=text, output_hidden_states=True).hidden_states
    for layer, read in zip(bert.encoder.layer, states[:-1], strict=True):
        q, k = (
            dense(read).unflatten(-1, (heads, -1)) for dense in (layer.attention.self.query, layer.attention.self.key)
        )
        logits = torch.einsum("bihd,bjhd->hij", q, k) / (len(text) * q.shape[-1] ** 0.5)
        logits -= logits.mean(-1, keepdim=True)
        length = text.shape[1]
        found.append(torch.stack([logits.diagonal(at, 1, 2).mean(-1) for at in range(1 - length, length)], dim=1))
    return torch.stack(found)


@torch.no_grad()
def _set_biases(first: T5Block, pull: Tensor) -> list[Tensor]:
    """Give a stack's first block the biases of all its layers (layers, heads, 2 L - 1): each layer's order of heads."""
    attention, farthest = first.layer[0].SelfAttention, pull.shape[-1] // 2
    bucket = T5Attention._relative_position_bucket(
        torch.arange(-farthest, farthest + 1),
        not attention.is_decoder,
        attention.relative_attention_num_buckets,
        attention.relative_attention_max_distance,
    )
    known = torch.arange(len(bucket)) <= farthest if attention.is_decoder else torch.ones_like(bucket, dtype=torch.bool)
    of = nn.functional.one_hot(bucket[known], attention.relative_attention_num_buckets).float()
    rows = (pull[..., known] @ of / of.sum(0).clamp(min=1)).clamp(-_STRONGEST, _STRONGEST)
    table = rows[rows.var(-1).sum(-1).argmax()]
    for _ in range(_ROUNDS):
        apart = [torch.cdist(table, row).square() for row in rows]
        orders = [torch.from_numpy(linear_sum_assignment(one.numpy())[1]) for one in apart]
        table = torch.stack([row[order] for row, order in zip(rows, orders, strict=True)]).mean(0)
    attention.relative_attention_bias.weight.copy_(table.t())
    return orders


def _graft(block: T5Block, layer: BertLayer, gain: Tensor, order: Tensor) -> None:
    """A BERT layer as a T5's self-attention, first of a block's layers, and feed-forward block, the last of them."""
    attention, own = block.layer[0], layer.attention.self
    attention.layer_norm.weight.copy_(gain)
    looking, size = attention.SelfAttention, attention.SelfAttention.key_value_proj_dim
    rows = (order[:, None] * size + torch.arange(size)).flatten()
    looking.q.weight.copy_(own.query.weight[rows] / size**0.5)
    looking.k.weight.copy_(own.key.weight[rows])
    looking.v.weight.copy_(own.value.weight[rows])
    looking.o.weight.copy_(layer.attention.output.dense.weight[:, rows])
    forward = block.layer[-1]
    forward.layer_norm.weight.copy_(layer.attention.output.LayerNorm.weight)
    forward.DenseReluDense.wi.weight.copy_(layer.intermediate.dense.weight)
    forward.DenseReluDense.wo.weight.copy_(layer.output.dense.weight)
