"""The smallest real reader: a random BERT of 3 layers, its tokenizer and a few questions, made on the spot."""

import json
from pathlib import Path

import torch
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from transformers import BertConfig, BertModel

from export.recipe import Recipe, make_recipe

WORDS = (
    "the a boiler was serviced on march by hansen garden pear tree planted in november staging database listens port "
    "5433 1 2 3 4 5 who when where what which is of and heating house ##s ##ed . , ? : -"
).split()
RECIPE: Recipe = make_recipe(
    {
        "split": {"split_layer": 1, "upper_layers": 2, "bits": 16, "code_bits": 32, "match_rank": 4},
        "full": {"steps": 6},
        "decomposed": {"steps": 6, "sentences_every": 2},
        "binarized": {"steps": 6, "sentences_every": 2},
        "data": {"window": 40, "pair_tokens": 64},
        "retrieval": {"epochs": 2},
    },
    "tests",
)
"""Every step, as short as it goes."""
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


def bundle(folder: Path) -> Path:
    """A bundle of the smallest reader: it loads in no time, and its answers mean nothing."""
    from export.bundle import make_bundle
    from export.train import train

    folder.mkdir(parents=True, exist_ok=True)
    data = [questions(folder / "train.jsonl")]
    train(checkpoint(folder / "bert"), data, data, folder / "run", RECIPE)
    make_bundle(folder / "run", folder / "bundle", "tiny", precision="float32")
    return folder / "bundle"
