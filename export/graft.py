"""
A T5 that begins as a BERT: its word pieces, word vectors and encoder layers, for where no T5 checkpoint can be had.

The two shapes differ. BERT normalises after a block, by mean and variance, and has biases and a table of positions; T5
normalises before a block, by the root mean square alone, and has neither, but a bias by distance on attention. What can
be taken over is put where it does most nearly the same:

    word vectors    LN(word + first segment + mean position)      attention       W_q / sqrt(d_k), W_k, W_v, W_o
    norm before     the gain of the LN that BERT has there        feed-forward    W_1, W_2, the same activation

Layers beyond the BERT's begin as copies of its top ones, and so does the decoder. What it has of its own, attention to
what was read, begins as their attention with W_v = W_o = I, under a head that is sharp enough: what it looks at it
writes. So copying, which a reader does most, need not be learnt; where to look is.

It is a start, not the same function: `export.pretrain` then has the lower layers' states point where BERT's do.
"""

from __future__ import annotations

import re
from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, processors
from torch import Tensor
from transformers import BertModel, T5Config, T5ForConditionalGeneration
from transformers.models.bert.modeling_bert import BertLayer
from transformers.models.t5.modeling_t5 import T5Block

from export.data import load_tokenizer
from export.t5 import EOS

_SHARP = 4.0
"""Weight of the decoder's last norm: with 1 the logits of words this long would hardly differ."""
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
def grafted_t5(bert: BertModel, ids: Tensor, layers: int, decoder_layers: int) -> T5ForConditionalGeneration:
    """A T5 with the words `ids` (V,) and layers of a BERT; those of its decoder beyond the BERT's are random."""
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
    t5.encoder.block[0].layer[0].SelfAttention.relative_attention_bias.weight.zero_()
    own = list(bert.encoder.layer)
    gains = [words.LayerNorm.weight, *(layer.output.LayerNorm.weight for layer in own)]
    made_of = [at if at < len(own) else max(0, len(own) - (layers - at)) for at in range(layers)]
    for block, at in zip(t5.encoder.block, made_of, strict=True):
        _graft(block, own[at], gains[at])
    t5.encoder.final_layer_norm.weight.copy_(gains[made_of[-1] + 1])
    taken = min(decoder_layers, len(own))
    t5.decoder.block[0].layer[0].SelfAttention.relative_attention_bias.weight.zero_()
    for block, layer, gain in zip(t5.decoder.block[-taken:], own[-taken:], gains[-taken - 1 : -1], strict=True):
        _graft(block, layer, gain)
        looking = block.layer[1]
        looking.layer_norm.weight.copy_(gain)
        beside = block.layer[0].SelfAttention
        looking.EncDecAttention.q.weight.copy_(beside.q.weight)
        looking.EncDecAttention.k.weight.copy_(beside.k.weight)
        for passed in (looking.EncDecAttention.v, looking.EncDecAttention.o):
            torch.nn.init.eye_(passed.weight)
    t5.decoder.final_layer_norm.weight.fill_(_SHARP)
    return t5


def _graft(block: T5Block, layer: BertLayer, gain: Tensor) -> None:
    """A BERT layer as a T5's self-attention, first of a block's layers, and feed-forward block, the last of them."""
    attention, own = block.layer[0], layer.attention.self
    attention.layer_norm.weight.copy_(gain)
    attention.SelfAttention.q.weight.copy_(own.query.weight / attention.SelfAttention.key_value_proj_dim**0.5)
    attention.SelfAttention.k.weight.copy_(own.key.weight)
    attention.SelfAttention.v.weight.copy_(own.value.weight)
    attention.SelfAttention.o.weight.copy_(layer.attention.output.dense.weight)
    forward = block.layer[-1]
    forward.layer_norm.weight.copy_(layer.attention.output.LayerNorm.weight)
    forward.DenseReluDense.wi.weight.copy_(layer.intermediate.dense.weight)
    forward.DenseReluDense.wo.weight.copy_(layer.output.dense.weight)
