"""The smallest real reader: a random BERT of 3 layers, its tokenizer and a few questions, made on the spot."""

import io
import json
from dataclasses import replace
from pathlib import Path

import torch
from safetensors.torch import load_file
from sentencepiece import SentencePieceTrainer
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors
from transformers import BertConfig, BertModel, T5Config, T5ForConditionalGeneration

from export.recipe import GENERATIVE, STEPS, Recipe, make_recipe

WORDS = (
    "the a boiler was serviced on march by hansen garden pear tree planted in november staging database listens port "
    "5433 1 2 3 4 5 who when where what which is of and heating house ##s ##ed . , ? : -"
).split()
RECIPE: Recipe = make_recipe(
    {
        "split": {
            "split_layer": 1,
            "upper_layers": 2,
            "bits": 16,
            "code_bits": 32,
            "match_rank": 4,
            "binarizer": "residual",
        },
        "full": {"steps": 6},
        "decomposed": {"steps": 6, "sentences_every": 2},
        "binarized": {"steps": 6, "sentences_every": 2, "teacher": "full", "tokens": 0.0, "share": 0.5, "bare": 0.0},
        "data": {"window": 40, "pair_tokens": 64},
        "retrieval": {"epochs": 2},
    },
    "tests",
)
"""
Every step, as short as it goes.

So few words would be told by the ids beside them: nothing would be left to binarize, so the base sees a token's own.
"""
torch.set_num_threads(1)  # at this size a second thread costs more than it brings

CONTEXT = "The boiler was serviced on 4 march by hansen. The pear tree was planted in november."


def checkpoint(folder: Path) -> Path:
    """A checkpoint folder as `btr-export train` takes it."""
    folder.mkdir(parents=True)
    specials = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    vocabulary = {word: i for i, word in enumerate([*specials, *WORDS])}
    tokenizer = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    tokenizer.enable_truncation(128)  # as published checkpoints have it: whoever uses it must switch it off
    tokenizer.enable_padding(length=128)
    tokenizer.save(str(folder / "tokenizer.json"))
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=len(vocabulary),
        hidden_size=32,
        num_hidden_layers=3,
        num_attention_heads=2,
        intermediate_size=64,
        max_position_embeddings=512,
        initializer_range=0.3,
    )
    BertModel(config).save_pretrained(folder)
    return folder


def pickle_weights(folder: Path) -> None:
    """Let a checkpoint have its weights as older ones do, in pytorch_model.bin."""
    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()


def t5_checkpoint(folder: Path, gated: bool = False, tied: bool = True, layers: int = 3) -> Path:
    """A T5 checkpoint: as the first ones, or gated and untied as t5-v1_1 and flan-t5 are."""
    folder.mkdir(parents=True)
    pieces = [(f"▁{word}", -2.0) for word in WORDS] + [(c, -6.0) for c in "▁abcdefghijklmnopqrstuvwxyzT0123456789.,?:-"]
    known = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0)]
    tokenizer = Tokenizer(models.Unigram([*known, *dict(pieces).items()], unk_id=2, byte_fallback=False))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Metaspace(), pre_tokenizers.Punctuation("isolated")]
    )
    tokenizer.decoder = decoders.Metaspace()
    tokenizer.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    tokenizer.add_special_tokens(["<pad>", "</s>", "<unk>"])
    tokenizer.enable_truncation(64)
    tokenizer.save(str(folder / "tokenizer.json"))
    torch.manual_seed(0)
    config = T5Config(
        vocab_size=tokenizer.get_vocab_size(),
        d_model=32,
        d_kv=8,
        d_ff=64,
        num_layers=layers,
        num_decoder_layers=2,
        num_heads=4,
        feed_forward_proj="gated-gelu" if gated else "relu",
        tie_word_embeddings=tied,
        relative_attention_num_buckets=16,
        relative_attention_max_distance=20,
        decoder_start_token_id=0,
    )
    t5 = T5ForConditionalGeneration(config)
    with torch.no_grad():
        for name, weight in t5.named_parameters():  # a random T5 is next to the identity: make its parts count
            if "relative_attention_bias" in name:
                weight.normal_()
            elif name.endswith("layer_norm.weight"):
                weight.uniform_(0.3, 1.5)
    t5.save_pretrained(folder)
    return folder


def hub_t5(folder: Path) -> Path:
    """The same as the hub has t5-v1_1: spiece.model, and a pytorch_model.bin with room for more words than it knows."""
    t5_checkpoint(folder, gated=True, tied=False)
    t5 = T5ForConditionalGeneration.from_pretrained(folder)
    t5.resize_token_embeddings(192)
    t5.save_pretrained(folder)
    pickle_weights(folder)
    pieces = io.BytesIO()
    texts = [CONTEXT, "The staging database listens on port 5433.", "who serviced the boiler?", "T .,?:-", *WORDS]
    SentencePieceTrainer.train(
        sentence_iterator=iter(texts * 20),
        model_writer=pieces,
        model_type="unigram",
        vocab_size=70,
        pad_id=0,
        eos_id=1,
        unk_id=2,
        bos_id=-1,
        minloglevel=2,
    )
    (folder / "spiece.model").write_bytes(pieces.getvalue())
    (folder / "tokenizer.json").unlink()
    return folder


def questions(path: Path) -> Path:
    """A JSONL of answerable questions on two passages of one article and one of another."""
    rows = [
        ("heating", CONTEXT, "when was the boiler serviced?", "4 march"),
        ("heating", CONTEXT, "who serviced the boiler?", "hansen"),
        ("heating", CONTEXT + " The house is heated.", "when was the tree planted?", "november"),
        ("staging", "The staging database listens on port 5433.", "which port?", "5433"),
    ]
    with path.open("w") as lines:
        for title, context, question, answer in rows:
            span = {"text": answer, "answer_start": context.index(answer)}
            lines.write(
                json.dumps({"title": title, "context": context, "question": question, "answers": [span]}) + "\n"
            )
    return path


T5_RECIPE: Recipe = make_recipe(
    {
        "split": {"split_layer": 2, "upper_layers": 1, "bits": 32, "code_bits": 32, "match_rank": 4},
        "full": {"steps": 6, "lr": 1e-3},
        "decomposed": {"steps": 6, "lr": 1e-3},
        "binarized": {"steps": 6, "lr": 1e-3},
        "data": {"window": 40, "pair_tokens": 64, "others": 2},
        "retrieval": {"epochs": 2},
    },
    "tests",
    GENERATIVE,
)
"""The same for a T5."""
SHORT: Recipe = replace(T5_RECIPE, **{step: replace(T5_RECIPE.step(step), steps=1) for step in STEPS})
"""One step of each kind, to see that it can be."""


def bundle(folder: Path) -> Path:
    """A bundle of the smallest reader: it loads in no time, and its answers mean nothing."""
    from export.bundle import make_bundle
    from export.train import train

    folder.mkdir(parents=True, exist_ok=True)
    data = [questions(folder / "train.jsonl")]
    train(checkpoint(folder / "bert"), data, data, folder / "run", RECIPE)
    make_bundle(folder / "run", folder / "bundle", "tiny", precision="float32")
    return folder / "bundle"


def generative(folder: Path) -> Path:
    """A folder with a run of the smallest T5, which learnt `questions` by heart, and its float32 bundle."""
    from export.bundle import make_bundle
    from export.train import train

    data = [questions(folder / "train.jsonl")]
    steps = {
        step: replace(T5_RECIPE.step(step), steps=count, lr=6e-3, head_lr=6e-3)
        for step, count in (("full", 100), ("decomposed", 20), ("binarized", 30))
    }
    recipe = replace(T5_RECIPE, **steps, data=replace(T5_RECIPE.data, pair_tokens=512))
    train(t5_checkpoint(folder / "t5"), data, data, folder / "run", recipe, eval_every=1000, save_every=1000)
    make_bundle(folder / "run", folder / "float32", precision="float32", baselines=True)
    return folder
