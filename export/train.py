"""
The three steps of training: full reader, decomposed reader, binarized reader (BTR section 3.2).

Each step is a folder of the run, starts from the reader of the step before and learns from the full reader:

    RUN/full        task
    RUN/decomposed  task, the full reader's states and logits; the retrieval head learns sentence embeddings
    RUN/binarized   task, the full reader's logits, recovery of the states; constants fitted on data before

and the run itself ends with the retrieval head's last stage. A step's folder has `last.pt` (everything needed to go
on), `log.jsonl` and the reader. The same command on a stopped run goes on where it was, on CPU or GPU alike.
"""

from __future__ import annotations

import json
import shutil
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, load_model, save_model
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from tqdm import tqdm
from transformers import BertConfig, BertModel, T5Config, T5ForConditionalGeneration

from export.data import Batch, Passage, batches, load_passages, load_tokenizer
from export.full import FullReader, gather
from export.losses import early_loss, logit_distillation, recovery_loss, task_loss, token_distillation
from export.reader import Reading, SplitConfig, SplitReader, check_split, load_bert
from export.recipe import STEPS, Recipe, StepConfig, make_recipe
from export.retrieval import SentenceTeacher, train_retrieval
from export.t5 import EOS, FullT5, Generation, SplitT5, load_t5, model_type, without_dropout
from store.bundle import file_hash
from store.errors import ExportError
from store.runs import common_ids

AnyReader = FullReader | SplitReader | FullT5 | SplitT5
_INPUTS = ("checkpoint", "sha256", "data", "start_full", "start", "start_binarized", "retrieved")
"""What a step is made from, besides its recipe."""
AGREED = 0.5
"""Token-level F1 from which the full reader agrees with a noisy answer."""


def body_states(h: Tensor, batch: Batch) -> Tensor:
    """Lower states (P, L, d) -> those of the body alone (P, n, d)."""
    at = batch.body_start[:, None] + torch.arange(batch.body_ids.shape[1], device=h.device)[None]
    return gather(h, at.clamp(max=h.shape[1] - 1))


def read_full(reader: FullReader | FullT5, batch: Batch, attention: bool = False) -> Reading | Generation:
    """What the full reader makes of a batch's pairs."""
    if isinstance(reader, FullT5):
        return reader.read_batch(batch, attention)
    q, p = batch.pair_question, batch.pair_passage
    return reader(batch.question_ids[q], batch.passage_ids[p], batch.body_start[p], batch.body_mask[p], attention)


def read_split(
    reader: SplitReader | SplitT5, batch: Batch, binarized: bool, bare: Tensor | None = None
) -> tuple[Reading | Generation, Tensor, Tensor, Tensor, Tensor | None]:
    """
    Reading of a batch's pairs, lower states of passages and questions, body states, restored ones if binarized.

    The tokens of the mask `bare` (P, n) are restored without vectors of their own.
    """
    h_p = reader.lower(batch.passage_ids, batch.passage_ids != 0)
    h_q = reader.lower(batch.question_ids, batch.question_ids != 0)
    bodies = body_states(h_p, batch)
    restored = reader.binarize(bodies, batch.body_ids, bare) if binarized else None
    reading = reader.read_pairs(h_q, bodies if restored is None else restored, batch)
    return reading, h_p, h_q, bodies, restored


class Trainer:
    """One step of a run: its reader, its teachers, optimiser, position, and the folder that holds them."""

    def __init__(
        self,
        folder: Path,
        step: str,
        reader: AnyReader,
        teacher: AnyReader | None,
        sentences: SentenceTeacher | None,
        recipe: Recipe,
        inputs: dict[str, Any],
        device: torch.device,
        short: Sequence[Passage] = (),
        common: Tensor | None = None,
    ) -> None:
        """`short` are the short windows of the same texts, `common` (V,) says which ids are common words."""
        self.folder, self.name, self.recipe, self.inputs, self.device = folder, step, recipe, inputs, device
        self.config: StepConfig = recipe.step(step)
        self.reader = reader.to(device)
        self.teacher = teacher.to(device).eval().requires_grad_(False) if teacher is not None else None
        self.sentences, self._short = sentences, short
        self._common = common.to(device) if common is not None else None
        named = [(n, p) for n, p in reader.named_parameters() if p.requires_grad]
        groups = [
            {"params": [p for n, p in named if not _is_fresh(n)], "lr": self.config.lr},
            {"params": [p for n, p in named if _is_fresh(n)], "lr": self.config.head_lr},
        ]
        self.optimizer = torch.optim.AdamW(groups, weight_decay=self.config.weight_decay, fused=True)
        self.scheduler = torch.optim.lr_scheduler.LambdaLR(self.optimizer, self._rate)
        self.step = 0
        self.seconds = 0.0
        """Wall time of the training steps so far."""

    def _rate(self, step: int) -> float:
        warm = max(1, int(self.config.steps * self.config.warmup))
        return min((step + 1) / warm, max(0.0, (self.config.steps - step) / max(1, self.config.steps - warm)))

    def resume(self) -> bool:
        """Go on from the folder's last checkpoint; false where there is none."""
        last = self.folder / "last.pt"
        if not last.is_file():
            return False
        state = torch.load(last, map_location=self.device, weights_only=True)
        if (state["recipe"], state["inputs"]) != (self.recipe.upto(self.name), self.inputs):
            raise ExportError(f"{last} was made with another recipe or data: give another folder, or the same ones")
        self.reader.load_state_dict(state["reader"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.scheduler.load_state_dict(state["scheduler"])
        self.step, self.seconds = state["step"], state["seconds"]
        return True

    def save(self) -> None:
        """Write the checkpoint and the reader, each in one replace: a kill leaves the previous ones."""
        state: dict[str, Any] = {
            "reader": self.reader.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "scheduler": self.scheduler.state_dict(),
            "step": self.step,
            "seconds": self.seconds,
            "recipe": self.recipe.upto(self.name),
            "inputs": self.inputs,
        }
        torch.save(state, self.folder / "last.pt.new")
        (self.folder / "last.pt.new").replace(self.folder / "last.pt")
        save_reader(self.reader, self.folder)

    def run(self, train: Sequence[Passage], dev: Sequence[Passage], eval_every: int, save_every: int) -> None:
        """Train to the last step and write the step's record."""
        config = self.config
        if not self.resume() and self.name == "binarized" and "start_binarized" not in self.inputs:
            self._fit_binarizer(train)
        figures: dict[str, float] = {}
        bar = tqdm(total=config.steps, initial=self.step, unit="step", smoothing=0.05, disable=None, desc=self.name)
        mean: dict[str, float] = {}
        for batch in self._batches(train):
            began = time.monotonic()
            losses = self._step(batch)
            self.seconds += time.monotonic() - began
            mean |= {name: 0.98 * mean.get(name, value) + 0.02 * value for name, value in losses.items()}
            bar.update()
            bar.set_postfix({name: f"{value:.3f}" for name, value in mean.items()})
            if self.step % eval_every == 0 or self.step == config.steps:
                figures = self._evaluate(dev)
                rounded = {name: round(value, 4) for name, value in mean.items()}
                self._log({"step": self.step, "seconds": round(self.seconds), **rounded, **figures})
            if self.step % save_every == 0 or self.step == config.steps:
                self.save()
        bar.close()
        figures = figures or self._evaluate(dev)
        record = {
            **self.inputs,
            "recipe": self.recipe.upto(self.name),
            "seconds": round(self.seconds),
            "dev": {"passages": len(dev), **figures},
        }
        (self.folder / "train.json").write_text(json.dumps(record, indent=2) + "\n")

    def _evaluate(self, dev: Sequence[Passage]) -> dict[str, float]:
        common = self._common if self.config.bare == 1 else None
        return evaluate(self.reader, dev, self.name == "binarized", self.device, common)

    def _batches(self, train: Sequence[Passage]) -> Iterator[Batch]:
        """Batches from the step's own position on, epoch after epoch, up to its last."""
        data, config = self.recipe.data, self.config
        before = self.inputs.get("start_binarized", "")  # what a reader goes on with, it has not just read
        seen = epoch = 0
        for passages, last in ((self._short, int(config.short * config.steps)), (train, config.steps)):
            while seen < last:
                seed = f"{data.seed} {self.name} {epoch}{before}"
                for batch in batches(passages, data.pair_tokens, seed, config.unanswerable, config.second, data.others):
                    seen += 1
                    if seen > self.step:
                        yield to_device(batch, self.device)
                    if seen >= last:
                        break
                epoch += 1

    def _step(self, batch: Batch) -> dict[str, float]:
        self.reader.train()
        with torch.autocast(self.device.type, torch.bfloat16, enabled=_fast_bfloat16(self.device)):
            losses = self._losses(batch)
            loss = torch.stack(list(losses.values())).sum()
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.reader.parameters(), 1.0, error_if_nonfinite=True)
        self.optimizer.step()
        self.scheduler.step()
        self.step += 1
        return {name: float(value.detach()) for name, value in losses.items()}

    def _losses(self, batch: Batch) -> dict[str, Tensor]:
        """The step's losses by name, each times its weight."""
        config = self.config
        if isinstance(self.reader, FullReader | FullT5):
            return {"task": task_loss(batch, read_full(self.reader, batch))}
        self.reader.binarizer.anneal(self.step)
        reading, h_p, h_q, bodies, restored = read_split(
            self.reader, batch, self.name == "binarized", self._bare(batch, self.step)
        )
        losses = {"task": task_loss(batch, reading)}
        if config.early:
            losses["early"] = config.early * early_loss(batch, reading)
        if self.teacher is not None and (config.tokens or config.logits):
            teacher = self._taught(batch, self.teacher)
            mask = batch.body_mask[batch.pair_passage]
            if config.tokens:
                losses["tokens"] = config.tokens * token_distillation(reading, teacher, mask, config.share)
            if config.logits:
                losses["logits"] = config.logits * logit_distillation(reading, teacher, config.temperature)
        if restored is not None and config.recovery:
            losses["recovery"] = config.recovery * recovery_loss(
                bodies, restored, batch.body_mask, self.reader.pre_norm
            )
        if self.sentences is not None and config.sentences and self.step % config.sentences_every == 0:
            pairs = ((h_p, batch.passage_ids), (h_q, batch.question_ids))
            losses["sentences"] = (
                config.sentences
                * torch.stack([self.sentences.loss(self.reader.retrieval(h, ids != 0), ids) for h, ids in pairs]).sum()
            )
        return losses

    @torch.no_grad()
    def _taught(self, batch: Batch, teacher: AnyReader) -> Reading | Generation:
        """What the teacher makes of a batch."""
        if isinstance(teacher, SplitReader | SplitT5):
            return read_split(teacher, batch, False)[0]
        return read_full(teacher, batch, attention=bool(self.config.tokens) and self.config.share < 1)

    def _bare(self, batch: Batch, seed: int) -> Tensor | None:
        """The common words (P, n) of the passages that are read without theirs; the same ones for a seed."""
        if not self.config.bare or self._common is None:
            return None
        drawn = torch.rand(len(batch.body_ids), generator=torch.Generator().manual_seed(seed))
        return self._common[batch.body_ids] & (drawn < self.config.bare).to(self.device)[:, None]

    @torch.no_grad()
    def _fit_binarizer(self, train: Sequence[Passage], tokens: int = 100_000) -> None:
        """Fit the binarizer's constants on the decomposed reader's states."""
        assert isinstance(self.reader, SplitReader | SplitT5)
        states: list[Tensor] = []
        ids: list[Tensor] = []
        bare: list[Tensor] = []
        data, seen = self.recipe.data, 0
        for number, batch in enumerate(batches(train, data.pair_tokens, data.seed + 500)):
            batch = to_device(batch, self.device)
            h = body_states(self.reader.lower(batch.passage_ids, batch.passage_ids != 0), batch)
            drawn = self._bare(batch, number)
            states.extend(h.float().cpu())
            ids.extend(batch.body_ids.cpu())
            bare.extend((torch.zeros_like(batch.body_mask) if drawn is None else drawn).cpu())
            seen += int(batch.body_mask.sum())
            if seen >= tokens:
                break
        self.reader.cpu()
        padded = [pad_sequence(each, batch_first=True) for each in (states, ids, bare)]
        self.reader.fit_binarizer(*padded, edge=train[0].head[-1])
        self.reader.to(self.device)

    def _log(self, row: dict[str, Any]) -> None:
        tqdm.write(f"{self.name}: {row}")
        with (self.folder / "log.jsonl").open("a") as log:
            log.write(json.dumps(row) + "\n")


def _is_fresh(name: str) -> bool:
    """Whether a parameter was not in the checkpoint."""
    return not name.startswith(
        ("lower.", "upper.layers.", "upper.norm.", "upper.table.", "embeddings.", "layers.", "t5.")
    )


def _fast_bfloat16(device: torch.device) -> bool:
    """Whether bfloat16 products are faster than float32 here: on a GPU, or on a CPU with AMX or AVX512-BF16."""
    return device.type != "cpu" or bool(torch.cpu._is_amx_tile_supported() or torch.cpu._is_avx512_bf16_supported())


@torch.no_grad()
def evaluate(
    reader: AnyReader, dev: Sequence[Passage], binarized: bool, device: torch.device, common: Tensor | None = None
) -> dict[str, float]:
    """
    Token-level exact match and F1 on passages held out: of the best span in the gold passage, or of what is written.

    The ids that `common` (V,) names are read without their bits.

    A quick figure to steer by: the reported ones come from the exported graphs and the answers' text.
    """
    reader.eval()
    exact = overlap = count = 0.0
    for batch in batches(dev, 8192, 0):
        batch = to_device(batch, device)
        if isinstance(reader, FullReader | FullT5):
            reading = read_full(reader, batch)
        else:
            bare = None if common is None else common[batch.body_ids]
            reading = read_split(reader, batch, binarized, bare)[0]
        if isinstance(reading, Generation):
            for written, wanted in zip(reader.generate(reading.encoded, reading.mask), reading.answers, strict=True):
                said, right = ([i for i in row.tolist() if i > EOS] for row in (written, wanted))
                shared = (Counter(said) & Counter(right)).total()
                overlap += 2 * shared / (len(said) + len(right))
                exact += said == right
                count += 1
            continue
        overlaps = span_overlaps(reading, batch)
        overlap += sum(overlaps)
        exact += overlaps.count(1.0)
        count += len(overlaps)
    return {"em": round(100 * exact / count, 2), "f1": round(100 * overlap / count, 2)}


def span_overlaps(reading: Reading, batch: Batch) -> list[float]:
    """Token-level F1 of the best span of each question, of a batch where every question has one pair."""
    scores = reading.start[:, :, None] + reading.end[:, None, :]
    spans = torch.ones_like(scores[0], dtype=torch.bool).triu().tril(29)
    best = torch.where(spans, scores, -1e9).flatten(1).argmax(1)
    width = reading.start.shape[1]
    first, last = best // width, best % width
    common = (torch.minimum(last, batch.end) - torch.maximum(first, batch.start) + 1).clamp(min=0)
    lengths = (last - first + 1) + (batch.end - batch.start + 1)
    found: list[float] = (2 * common / lengths).tolist()
    return found


@torch.no_grad()
def agreed(full: FullReader, passages: Sequence[Passage], device: torch.device) -> list[list[int]]:
    """The numbers of those questions of each passage whose answer the full reader finds there."""
    full = full.to(device).eval()
    kept = []
    for passage in tqdm(passages, unit="passage", disable=None, desc="agreed"):
        overlaps = []
        if passage.questions:
            batch = to_device(next(batches([passage], 1, 0)), device)
            overlaps = span_overlaps(read_full(full, batch), batch)
        kept.append([number for number, overlap in enumerate(overlaps) if overlap >= AGREED])
    return kept


def to_device(batch: Batch, device: torch.device) -> Batch:
    """The same batch on another device."""
    return Batch(**{name: value.to(device) for name, value in vars(batch).items()})


def save_reader(reader: AnyReader, folder: Path) -> None:
    """Write `reader.safetensors`, `config.json` and, of a split reader, `split.json`: what `load_reader` needs."""
    save_model(reader, str(folder / "reader.safetensors.new"))
    (folder / "reader.safetensors.new").replace(folder / "reader.safetensors")
    (folder / "config.json").write_text(reader.model_config.to_json_string())
    if isinstance(reader, SplitReader | SplitT5):
        (folder / "split.json").write_text(json.dumps(reader.config.to_json(), indent=2) + "\n")


def _empty(folder: Path) -> BertModel | T5ForConditionalGeneration:
    if not (folder / "train.json").is_file():
        raise ExportError(f"{folder} holds no finished run: give the same `btr-export train` command until it ends")
    if model_type(folder) == "t5":
        return without_dropout(T5ForConditionalGeneration(T5Config.from_json_file(folder / "config.json")))
    config = BertConfig.from_json_file(folder / "config.json")
    config._attn_implementation = "sdpa"
    config.hidden_dropout_prob = config.attention_probs_dropout_prob = 0.0
    return BertModel(config)


def load_reader(folder: Path) -> SplitReader | SplitT5:
    """
    The split reader of a finished run, or of its decomposed step.

    Raises:
        ExportError: If the folder holds no finished training.
    """
    model = _empty(folder)
    if not (folder / "split.json").is_file():
        raise ExportError(f"{folder} holds a full reader: give the run's folder, which holds the split one")
    split = make_recipe({"split": json.loads((folder / "split.json").read_text())}, str(folder / "split.json")).split
    reader = _split(model, split)
    load_model(reader, str(folder / "reader.safetensors"))
    return reader.eval()


def _split(model: BertModel | T5ForConditionalGeneration, split: SplitConfig) -> SplitReader | SplitT5:
    return SplitReader(model, split) if isinstance(model, BertModel) else SplitT5(model, split)


def load_full(folder: Path) -> FullReader | FullT5:
    """
    The full reader of a run's first step.

    Raises:
        ExportError: If the folder holds no finished training.
    """
    model = _empty(folder)
    reader = FullReader(model) if isinstance(model, BertModel) else FullT5(model)
    load_model(reader, str(folder / "reader.safetensors"))
    return reader.eval()


def load_checkpoint(checkpoint: Path) -> BertModel | T5ForConditionalGeneration:
    """
    A checkpoint of either family from a folder, without dropout.

    Raises:
        ExportError: If the folder holds none.
    """
    return load_t5(checkpoint) if model_type(checkpoint) == "t5" else load_bert(checkpoint)


def _start(
    step: str,
    checkpoint: Path,
    out: Path,
    recipe: Recipe,
    start_full: Path | None,
    start: Path | None,
    start_binarized: Path | None,
) -> AnyReader:
    """The reader that a step starts from: the one of the step before, that of another run, or the checkpoint."""
    if step == "binarized" and start_binarized is not None:
        return load_reader(start_binarized)
    model = load_checkpoint(checkpoint)
    if step == "full":
        if start_full is not None:
            return load_full(start_full / "full")
        return FullReader(model) if isinstance(model, BertModel) else FullT5(model)
    if step == "binarized" and recipe.decomposed.steps:
        start = out / "decomposed"
    if start is not None:
        reader = _split(model, recipe.split)
        kept = {n: v for n, v in load_file(start / "reader.safetensors").items() if not n.startswith("binarizer.")}
        reader.load_state_dict(kept, strict=False)
        return reader
    if not recipe.full.steps:
        return _split(model, recipe.split)
    full = load_full(out / "full")
    if isinstance(full, FullT5):
        return SplitT5(full.t5, recipe.split)
    bert = model
    bert.embeddings.load_state_dict(full.embeddings.state_dict())
    bert.encoder.layer.load_state_dict(full.layers.state_dict())
    reader = SplitReader(bert, recipe.split)
    for head in (reader.upper.span, reader.upper.early):
        head.load_state_dict(full.span.state_dict())
    return reader


def present(device: str) -> torch.device:
    """
    A device by its name.

    Raises:
        ExportError: If it is not there.
    """
    try:
        where = torch.device(device)
        torch.empty(0, device=where)
    except (RuntimeError, AssertionError) as error:
        raise ExportError(f"device {device} is not present: use --device cpu") from error
    return where


def check_files(checkpoint: Path) -> None:
    """
    See that a checkpoint folder is whole.

    Raises:
        ExportError: If a file is missing.
    """
    for name in ("config.json", "model.safetensors", "tokenizer.json"):
        if not (checkpoint / name).is_file():
            raise ExportError(f"{checkpoint} holds no {name}: give a checkpoint folder with a fast tokenizer")


def train(
    checkpoint: Path,
    files: Sequence[Path],
    validation: Sequence[Path],
    out: Path,
    recipe: Recipe,
    device: str = "cpu",
    share: Path | None = None,
    start_full: Path | None = None,
    start: Path | None = None,
    start_binarized: Path | None = None,
    retrieved: Sequence[Path] = (),
    dev_passages: int = 200,
    eval_every: int = 200,
    save_every: int = 100,
) -> dict[str, Any]:
    """
    Train a reader from a checkpoint folder into a run folder by the recipe; goes on where a stopped run was.

    Steps that the run `share` has finished by the same recipe on the same data are taken from it, not trained again.
    The full step starts from the checkpoint or, if given, from the full reader of the run `start_full`; the decomposed
    step from the full reader or, if given, from the finished split reader of the run `start`; the binarized step goes
    on, constants and all, from that of `start_binarized`, if given, in another order. The steps after the full one also
    learn from the files `retrieved`, where the full reader agrees with their answers.

    Returns:
        The dev figures of each step.

    Raises:
        ExportError: If an input cannot be used, or the folder holds a run by another recipe or of other data.
    """
    where = present(device)
    check_files(checkpoint)
    model = load_checkpoint(checkpoint)
    if isinstance(model, BertModel):
        check_split(model.config, recipe.split)
    else:
        _check_generative(model, recipe)
    _check_teachers(recipe)
    if retrieved and not (isinstance(model, BertModel) and recipe.full.steps):
        raise ExportError("the answers of --retrieved are noisy: only a BERT's full step can say which to learn from")
    torch.manual_seed(recipe.data.seed)
    out.mkdir(parents=True, exist_ok=True)
    train_set = _passages(checkpoint, tuple(files), recipe.data.window)
    brief = any(recipe.step(step).short for step in STEPS)
    short_set = _passages(checkpoint, tuple(files), recipe.data.short_window) if brief else ()
    dev_set = _passages(checkpoint, tuple(validation), recipe.data.window)
    dev_set = dev_set[:: max(1, len(dev_set) // dev_passages)][:dev_passages]
    inputs = {
        "checkpoint": checkpoint.resolve().name,
        "sha256": file_hash(checkpoint / "model.safetensors"),
        "data": {path.name: file_hash(path) for path in files},
    }
    if start_full is not None:
        load_full(start_full / "full")
        inputs["start_full"] = file_hash(start_full / "full" / "reader.safetensors")
    if start is not None and not _same_shape(load_reader(start).config, recipe.split):
        raise ExportError(f"{start} has a reader of another shape: set the same [split], or start from another run")
    begun: dict[str, Any] = {"start": file_hash(start / "reader.safetensors")} if start is not None else {}
    if retrieved:
        begun["retrieved"] = {path.name: file_hash(path) for path in retrieved}
    retrieved_set = _passages(checkpoint, tuple(retrieved), recipe.data.window) if retrieved else ()

    if start_binarized is not None and load_reader(start_binarized).config != recipe.split:
        raise ExportError(f"{start_binarized} has a reader of another shape: set the same [split]")
    gone_on = {} if start_binarized is None else {"start_binarized": file_hash(start_binarized / "reader.safetensors")}

    def made_from(step: str) -> dict[str, Any]:
        return {**inputs, **(begun if step != "full" else {}), **(gone_on if step == "binarized" else {})}

    common = torch.from_numpy(common_ids(load_tokenizer(checkpoint).get_vocab()))
    sentences = None
    if isinstance(model, BertModel):
        sentences = SentenceTeacher(model.to(where), recipe.split.code_bits, recipe.data.seed)
    figures = {}
    last: Path | None = None
    for step in STEPS:
        if not recipe.step(step).steps:
            continue
        last = folder = out / step
        own = (folder / "last.pt").exists() or (folder / "train.json").exists()
        if folder.is_symlink() and not _finished(folder, recipe.upto(step), made_from(step)):
            raise ExportError(f"{folder} is shared with another run, which has changed: give another folder")
        if share is not None and not own and _finished(share / step, recipe.upto(step), made_from(step)):
            shutil.rmtree(folder, ignore_errors=True)
            folder.symlink_to((share / step).resolve())
        if not _finished(folder, recipe.upto(step), made_from(step)):
            folder.mkdir(exist_ok=True)
            full = load_full(out / "full") if step != "full" and recipe.full.steps else None
            more = retrieved_set if step != "full" else ()
            if more:
                assert isinstance(full, FullReader)
                key = {"retrieved": begun["retrieved"], "window": recipe.data.window}
                more = _consistent(out / "full", full, more, key, where)
            brief_set = (*short_set, *more) if short_set else ()
            reader = _start(step, checkpoint, out, recipe, start_full, start, start_binarized)
            teacher = load_reader(out / "decomposed") if recipe.step(step).teacher == "decomposed" else full
            trainer = Trainer(
                folder, step, reader, teacher, sentences, recipe, made_from(step), where, brief_set, common
            )
            trainer.run((*train_set, *more), dev_set, eval_every, save_every)
        figures[step] = json.loads((folder / "train.json").read_text())["dev"]
    if last is None or last.name == "full":
        return figures
    inputs = made_from("binarized")
    if not _finished(out, asdict(recipe), inputs):
        reader = load_reader(last)
        train_retrieval(reader, train_set, recipe, where)
        save_reader(reader, out)
        shutil.copyfile(checkpoint / "tokenizer.json", out / "tokenizer.json")
        record = {**inputs, "recipe": asdict(recipe), "dev": figures}
        (out / "train.json").write_text(json.dumps(record, indent=2) + "\n")
    return figures


def _consistent(
    folder: Path, full: FullReader, passages: Sequence[Passage], key: dict[str, Any], device: torch.device
) -> list[Passage]:
    """
    Passages with a noisy answer -> those with the answers that the full reader agrees with, and their negatives.

    What it agrees with is found once for a key and kept in its folder, in `agreed.json`: runs that share the reader
    share this too.
    """
    key = {"reader": file_hash(folder / "reader.safetensors"), "passages": len(passages), **key}
    path = folder / "agreed.json"
    found = json.loads(path.read_text()) if path.is_file() else {}
    if found.get("key") != key:
        found = {"key": key, "kept": agreed(full, passages, device)}
        path.write_text(json.dumps(found))
    articles: dict[str, list[Passage]] = {}
    for passage, kept in zip(passages, found["kept"], strict=True):
        left = replace(passage, questions=[passage.questions[number] for number in kept])
        articles.setdefault(passage.article, []).append(left)
    return [passage for group in articles.values() if any(p.questions for p in group) for passage in group]


def _check_teachers(recipe: Recipe) -> None:
    for step in STEPS:
        config = recipe.step(step)
        if not config.steps:
            continue
        if step == "binarized" and config.teacher == "decomposed" and not recipe.decomposed.steps:
            raise ExportError(
                "[binarized] learns from the decomposed reader, which [decomposed] steps = 0 leaves out: "
                "set binarized.teacher='full'"
            )
        known = ("full", "decomposed") if step == "binarized" else ("full",)
        if config.teacher not in known:
            raise ExportError(f"[{step}] teacher is {config.teacher!r}: it can be {' or '.join(map(repr, known))}")
        if config.teacher != "full" and config.tokens and config.share < 1:
            raise ExportError(f"[{step}] share is of the full reader's attention: set it to 1 for another teacher")


def _check_generative(t5: T5ForConditionalGeneration, recipe: Recipe) -> None:
    SplitT5(t5, recipe.split)
    for step in STEPS:
        for loss in ("early", "sentences"):
            if getattr(recipe.step(step), loss):
                raise ExportError(f"[{step}] {loss} is a loss of the extractive reader: leave it 0 for a T5")


@lru_cache(maxsize=4)
def _passages(checkpoint: Path, files: tuple[Path, ...], window: int) -> Sequence[Passage]:
    """A study trains on the same files many times: they are read and tokenized once."""
    return load_passages(files, load_tokenizer(checkpoint), window)


def _same_shape(ours: SplitConfig, theirs: SplitConfig) -> bool:
    """Whether two split readers differ in their binarizers at most."""
    return replace(ours, binarizer=theirs.binarizer, bits=theirs.bits) == theirs


def _finished(folder: Path, recipe: dict[str, Any], inputs: dict[str, Any]) -> bool:
    """Whether a step's folder, or a run's, is complete and by this recipe from these inputs."""
    if not (folder / "train.json").is_file():
        return False
    record = json.loads((folder / "train.json").read_text())
    return record["recipe"] == recipe and all(record.get(name) == inputs.get(name) for name in _INPUTS)
