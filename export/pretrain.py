"""
A T5 from nothing but text: tokenizer, random weights, span corruption, for where no T5 checkpoint can be had.

Span corruption is T5's own: 15 % of a window's tokens in spans of 3 on average are taken out, each span replaced by one
sentinel; what is to be written is each sentinel with its span. In a share of the windows the spans are such as stand in
them a second time (as in Splinter, Ram et al. 2021): what is missing is to be found and copied, as a reader does.

Where a BERT checkpoint is at hand, the T5 can begin as one (`export.graft`), and its encoder learns from it: of what is
left of a window the states of all layers but the top ones, which the decoder copies from, are to point where BERT's do
on the whole window; at first, if it is asked for, nothing else. Where text is little, the decoder can be told where to
look too (`export.losses.attention_to_same`): to copy is what takes longest to be learnt from words alone.

The folder that comes out is a checkpoint as `btr-export train` takes it. The same command on a stopped run goes on
where it was.
"""

from __future__ import annotations

import json
import random
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from itertools import islice, pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from torch import Tensor
from torch.nn.functional import cosine_similarity, cross_entropy
from tqdm import tqdm
from transformers import BertModel, T5Config, T5ForConditionalGeneration

from export.checkpoint import weights_hash
from export.data import load_tokenizer, pad, read_texts
from export.full import gather
from export.graft import counterparts, grafted_t5, grafted_tokenizer
from export.losses import attention_to_same
from export.reader import load_bert
from export.recipe import DataConfig, StepConfig
from export.saved import check_files
from export.step import Trainer, present
from export.t5 import EOS, FullT5, model_type, without_dropout
from store.bundle import file_hash
from store.errors import ExportError

SENTINELS = [f"<extra_id_{at}>" for at in range(100)]
NOISE, SPAN = 0.15, 3.0
_TOKENIZER_TEXTS = 20_000
"""Texts that the vocabulary is learnt from: more of them change little and take long."""
_TOKENIZED_AT_ONCE = 1000
"""Texts."""
_COMMON = 300
"""So many tokens from "the" on, in vocabularies that are sorted, are common."""
_STATES = 4.0
"""Weight of BERT's states beside span corruption."""
_FREE = 2
"""Top layers of the BERT whose states are not held to: those hide which token they are of."""
_SEEN = 32
"""Windows on which it is seen how a BERT attends by distance."""
_HELD_OUT = 64
"""Windows that the loss is measured on; no other one reaches into them."""


@dataclass(frozen=True)
class Shape:
    """
    The size of the model; the default is that of t5-v1_1-small but for its vocabulary, about 60 M parameters.

    Of a T5 that begins as a BERT only the numbers of layers count.
    """

    vocabulary: int = 32_000
    d_model: int = 512
    d_ff: int = 1024
    heads: int = 6
    layers: int = 8
    decoder_layers: int = 8


@dataclass(frozen=True)
class Pretraining:
    """Everything that decides a pre-trained T5 but its text; what a `Trainer` asks a recipe."""

    shape: Shape = field(default_factory=Shape)
    steps: int = 20_000
    lr: float = 1e-3
    encoder_lr: float | None = None
    """Of encoder and words, where it is another one."""
    batch: int = 64
    window: int = 256
    """Tokens before corruption."""
    recurring: float = 0.0
    """Share of the windows that lose spans which stand in them a second time."""
    copying: float = 0.0
    """Weight of the copying loss (`export.losses`)."""
    imitating: int = 0
    """So many steps, the first ones, learn a BERT's states alone: each takes half the time, and nothing disturbs it."""
    data: DataConfig = field(default_factory=DataConfig)

    def step(self, name: str) -> StepConfig:
        """The one step's optimiser."""
        rest = self.lr if self.encoder_lr is None else self.encoder_lr
        return StepConfig(steps=self.steps, lr=rest, head_lr=self.lr, warmup=0.02)

    def upto(self, name: str) -> dict[str, Any]:
        """What decides the weights."""
        return asdict(self)


@dataclass
class Corrupted:
    """A batch of corrupted windows, padded with 0."""

    ids: Tensor
    """(B, L)."""
    targets: Tensor
    """(B, a)."""
    whole: Tensor
    """(B, W) before corruption."""
    places: Tensor
    """(B, n, 2) of each token that is left: where it stood in the window, and where it stands now; padded with 0."""


class Pretrainer(Trainer):
    """The trainer's loop, checkpoints and log over windows of text; the decoder has a learning rate of its own."""

    sentinels: Sequence[int]
    common: int
    """Ids below this one are of special and common tokens."""
    bert: BertModel | None = None
    its_ids: Tensor
    """(V,) the BERT's id of each of ours."""
    its_first: int
    """The id of its [CLS]."""

    def _has_head_rate(self, name: str) -> bool:
        return name.startswith("t5.decoder.") or "relative_attention_bias" in name

    def _batches(self, train: np.ndarray) -> Iterator[Corrupted]:
        recipe = self.recipe
        while self.step < recipe.steps:
            rng = random.Random(f"{recipe.data.seed} {self.step}")
            starts = [rng.randrange(len(train) - recipe.window + 1) for _ in range(recipe.batch)]
            yield self._corrupted([train[at : at + recipe.window].tolist() for at in starts], rng)

    def _corrupted(self, windows: Sequence[list[int]], rng: random.Random, recurring: float | None = None) -> Corrupted:
        share = self.recipe.recurring if recurring is None else recurring
        spans = [self._spans(window, rng, share) for window in windows]
        pairs = zip(windows, spans, strict=True)
        rows, targets = zip(*(corrupt(window, gone, self.sentinels) for window, gone in pairs), strict=True)
        left = [kept_places(self.recipe.window, gone) for gone in spans]
        longest = max(map(len, left))
        places = torch.tensor([[*row, *[(0, 0)] * (longest - len(row))] for row in left])
        made = Corrupted(pad(rows), pad(targets), torch.tensor(windows), places)
        return Corrupted(**{name: value.to(self.device) for name, value in vars(made).items()})

    def _spans(self, window: list[int], rng: random.Random, recurring: float) -> list[tuple[int, int]]:
        again = rng.random() < recurring
        spans = recurring_spans(window, rng, self.common) if again else []
        return spans or random_spans(len(window), len(self.sentinels), rng)

    def _losses(self, batch: Corrupted) -> dict[str, Tensor]:
        t5, mask = self.reader.t5, (batch.ids != 0).long()
        read = t5.encoder(input_ids=batch.ids, attention_mask=mask, output_hidden_states=self.bert is not None)
        states_loss = {} if self.bert is None else {"states": _STATES * self._apart(batch, read.hidden_states[1:])}
        if self.step < self.recipe.imitating:
            return states_loss
        logits, looked = self.reader.write(read.last_hidden_state, mask, batch.targets)
        losses = {"corruption": cross_entropy(logits.float(), batch.targets[batch.targets != 0])}
        if self.recipe.copying:
            losses["copying"] = self.recipe.copying * attention_to_same(looked, batch.ids, batch.targets)
        return losses | states_loss

    def _apart(self, batch: Corrupted, layers: Sequence[Tensor]) -> Tensor:
        """1 - cosine between the lower layers' states (B, L, d) and the teacher's, over the tokens that are left."""
        assert self.bert is not None
        ends = self.its_ids.new_tensor([self.its_first, int(self.its_ids[EOS])]).expand(len(batch.whole), -1)
        ids = torch.cat([ends[:, :1], self.its_ids[batch.whole], ends[:, 1:]], dim=1)
        with torch.no_grad():
            theirs = self.bert(input_ids=ids, output_hidden_states=True).hidden_states[1:]
        before, now = batch.places.unbind(-1)
        left = (now != 0).float()  # the first token goes uncounted where it is left: padding says 0 too
        held = list(zip(layers, theirs[: max(1, len(theirs) - _FREE)], strict=False))
        likeness = [cosine_similarity(gather(ours, now), gather(its, before + 1), dim=-1) for ours, its in held]
        return 1 - (torch.stack(likeness).mean(0) * left).sum() / left.sum()

    @torch.no_grad()
    def _evaluate(self, dev: np.ndarray) -> dict[str, float]:
        self.reader.eval()
        size = self.recipe.window
        windows = [dev[at : at + size].tolist() for at in range(0, len(dev) - size + 1, size)]
        found = {}
        for kind, recurring in (("", 0.0), ("_recurring", 1.0)):
            rng = random.Random(0)
            groups = (self._corrupted(windows[at : at + 16], rng, recurring) for at in range(0, len(windows), 16))
            parts = [self._losses(group) for group in groups]
            found |= {
                f"held_out_{name}{kind}": float(np.mean([float(one[name]) for one in parts])) for name in parts[0]
            }
        return {name: round(value, 4) for name, value in found.items()}


def corrupt(ids: list[int], spans: Sequence[tuple[int, int]], sentinels: Sequence[int]) -> tuple[list[int], list[int]]:
    """A window's ids, and (first, end) of its spans in order -> what is read and what is written, ending with </s>."""
    kept, taken, at = [], [], 0
    for sentinel, (first, end) in zip(sentinels, spans, strict=False):
        kept += [*ids[at:first], sentinel]
        taken += [sentinel, *ids[first:end]]
        at = end
    return [*kept, *ids[at:], EOS], [*taken, EOS]


def kept_places(length: int, spans: Sequence[tuple[int, int]]) -> list[tuple[int, int]]:
    """Of each token of a window that its spans leave: where it stood, and where it stands in what `corrupt` makes."""
    places, at, moved = [], 0, 0
    for first, end in [*spans, (length, length)]:
        places += [(place, place + moved) for place in range(at, first)]
        at, moved = end, moved + 1 - (end - first)
    return places


def random_spans(length: int, most: int, rng: random.Random) -> list[tuple[int, int]]:
    """(first, end) of at most so many spans of a window, none at its start or next to another."""
    gone = min(max(1, round(length * NOISE)), length - 1)
    count = max(1, min(round(gone / SPAN), length - gone, most))
    spans, at = [], 0
    for left, out in zip(_parts(length - gone, count, rng), _parts(gone, count, rng), strict=True):
        spans.append((at + left, at + left + out))
        at += left + out
    return spans


def recurring_spans(ids: list[int], rng: random.Random, common: int) -> list[tuple[int, int]]:
    """
    (first, end) of spans that stand in a window a second time, none next to another; no more than is taken at random.

    A span is two tokens or more, as long as both places agree, and not of tokens below the id `common` alone.
    """
    seen: dict[tuple[int, int], int] = {}
    found: list[tuple[int, int]] = []
    at = 0
    while at + 1 < len(ids):
        before, end = seen.get((ids[at], ids[at + 1])), at
        if before is not None:
            while end < len(ids) and before + end - at < at and ids[before + end - at] == ids[end]:
                end += 1
        last = max(end, at + 1)
        for place in range(at, min(last, len(ids) - 1)):
            seen.setdefault((ids[place], ids[place + 1]), place)
        if end - at >= 2 and max(ids[at:end]) >= common:
            found.append((at, end))
        at = last
    rng.shuffle(found)
    chosen: list[tuple[int, int]] = []
    room = round(len(ids) * NOISE)
    for first, end in found:
        if end - first <= room and not any(first <= b and a <= end for a, b in chosen):
            chosen.append((first, end))
            room -= end - first
    return sorted(chosen)


def _parts(total: int, parts: int, rng: random.Random) -> list[int]:
    """Numbers from 1 on with this sum, every way being equally likely."""
    cuts = [0, *sorted(rng.sample(range(1, total), parts - 1)), total]
    return [b - a for a, b in pairwise(cuts)]


def pretrain(
    files: Sequence[Path],
    out: Path,
    recipe: Pretraining,
    device: str = "cpu",
    like: Path | None = None,
    eval_every: int = 200,
    save_every: int = 100,
) -> dict[str, float]:
    """
    Train a T5 from text into a checkpoint folder; goes on where a stopped run was.

    Texts are rows of JSONL with `text` or, in question files, `context`. With `like` the T5 begins as the BERT in that
    folder, and learns from it.

    Returns:
        The losses on text held out.

    Raises:
        ExportError: If an input cannot be used, or the folder holds a run by another recipe or of other text.
    """
    inputs: dict[str, Any] = {"data": {str(path.name): file_hash(path) for path in map(_present, files)}}
    if recipe.shape.d_model % 8:
        raise ExportError(f"a hidden size of {recipe.shape.d_model}: need a multiple of 8")
    if recipe.imitating and like is None:
        raise ExportError("--imitating is of a BERT's states: give one with --like")
    if like is not None and model_type(like) != "bert":
        raise ExportError(f"{like} is a {model_type(like)} checkpoint, a T5 can only begin as a bert")
    where, bert, its_first = present(device), None, 0
    if like is not None:
        check_files(like)
        bert, its_first = load_bert(like), load_tokenizer(like).token_to_id("[CLS]")
        if recipe.window + 2 > bert.config.max_position_embeddings:
            raise ExportError(f"{like} reads {bert.config.max_position_embeddings - 2} tokens: give a smaller --window")
        inputs["like"] = weights_hash(like)
    _begin(out, {**inputs, "vocabulary": recipe.shape.vocabulary})
    tokenizer = _tokenizer(files, out / "tokenizer.json", recipe.shape.vocabulary, like)
    tokens = _tokens(files, tokenizer, out / "tokens.npy")
    held_out = min(_HELD_OUT, len(tokens) // recipe.window // 10) * recipe.window
    if not held_out:
        raise ExportError(f"{len(tokens):,} tokens of text are too few for windows of {recipe.window}: give more text")
    torch.manual_seed(recipe.data.seed)
    ids = torch.zeros(0, dtype=torch.long)
    if like is not None and bert is not None:
        ids = counterparts(tokenizer, like)
        text = torch.from_numpy(tokens[held_out:][: _SEEN * recipe.window].astype(np.int64))
        text = text[: len(text) // recipe.window * recipe.window].view(-1, recipe.window)
        t5 = grafted_t5(bert, ids, recipe.shape.layers, recipe.shape.decoder_layers, text)
    else:
        t5 = T5ForConditionalGeneration(_config(recipe.shape, tokenizer.get_vocab_size()))
    reader = FullT5(without_dropout(t5))
    trainer = Pretrainer(out, "pretrained", reader, None, None, recipe, inputs, where)
    trainer.sentinels = [tokenizer.token_to_id(token) for token in SENTINELS]
    trainer.common = (tokenizer.token_to_id("▁the") or tokenizer.token_to_id("the") or trainer.sentinels[-1]) + _COMMON
    if like is not None and bert is not None:
        trainer.bert, trainer.its_ids = bert.to(where).eval().requires_grad_(False), ids.to(where)
        trainer.its_first = its_first
    trainer.run(tokens[held_out:], tokens[:held_out], eval_every, save_every)
    reader.cpu().t5.save_pretrained(out)
    (out / "reader.safetensors").unlink(missing_ok=True)
    figures: dict[str, float] = json.loads((out / "train.json").read_text())["dev"]
    return figures


def _begin(out: Path, made_from: dict[str, Any]) -> None:
    """Make the folder, and keep in it what its tokenizer and tokens are made from."""
    path = out / "text.json"
    out.mkdir(parents=True, exist_ok=True)
    if path.is_file() and json.loads(path.read_text()) != made_from:
        raise ExportError(
            f"{out} was begun with other text or another tokenizer: give another folder, or the same ones"
        )
    path.write_text(json.dumps(made_from, indent=2) + "\n")


def _config(shape: Shape, vocabulary: int) -> T5Config:
    return T5Config(
        vocab_size=vocabulary,
        d_model=shape.d_model,
        d_kv=64 if shape.d_model >= 384 else shape.d_model // shape.heads,
        d_ff=shape.d_ff,
        num_layers=shape.layers,
        num_decoder_layers=shape.decoder_layers,
        num_heads=shape.heads,
        feed_forward_proj="gated-gelu",
        decoder_start_token_id=0,
    )


def _present(path: Path) -> Path:
    if not path.is_file():
        raise ExportError(f"{path} does not exist: give a JSONL file of texts")
    return path


def _tokenizer(files: Sequence[Path], path: Path, vocabulary: int, like: Path | None) -> Tokenizer:
    """The tokenizer kept at a path, or that of the BERT in a folder, or one learnt from the texts."""
    if path.is_file():
        return Tokenizer.from_file(str(path))
    if like is not None:
        tokenizer = grafted_tokenizer(like, SENTINELS)
        tokenizer.save(str(path))
        return tokenizer
    tokenizer = Tokenizer(models.Unigram())
    tokenizer.normalizer = normalizers.NFKC()
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Metaspace()
    special = ["<pad>", "</s>", "<unk>", *SENTINELS]
    trainer = trainers.UnigramTrainer(vocab_size=vocabulary, special_tokens=special, unk_token="<unk>")
    tokenizer.train_from_iterator(islice((text for _, text in read_texts(files)), _TOKENIZER_TEXTS), trainer)
    tokenizer.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", EOS)])
    tokenizer.save(str(path))
    return tokenizer


def _tokens(files: Sequence[Path], tokenizer: Tokenizer, path: Path) -> np.ndarray:
    """All texts as ids, one after another, each ending with </s>; kept at a path."""
    if path.is_file():
        return np.load(path, mmap_mode="r")
    texts, parts = (text for _, text in tqdm(read_texts(files), unit="text", desc="tokenize", disable=None)), []
    while chunk := list(islice(texts, _TOKENIZED_AT_ONCE)):
        encoded = tokenizer.encode_batch(chunk)
        parts.append(np.concatenate([np.array(one.ids, dtype=np.int32) for one in encoded]))
    if not parts:
        raise ExportError(f"{', '.join(map(str, files))} hold no text: give other files")
    new = path.with_name(f"new-{path.name}")
    np.save(new, np.concatenate(parts))
    new.replace(path)
    return np.load(path, mmap_mode="r")
