"""
One step of training: its losses, its batches, its teachers, and the folder that it goes on from (BTR section 3.2).

Its folder has `last.pt` (everything needed to go on), `log.jsonl` and the reader; `train.json` says that it is done.
"""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.rnn import pad_sequence
from torch.overrides import TorchFunctionMode
from tqdm import tqdm
from transformers.models.bert.modeling_bert import BertLayer

from export.data import Batch, Passage, batches
from export.full import FullReader, gather
from export.graphs import OutlierLinear
from export.losses import copying_loss, early_loss, logit_distillation, recovery_loss, task_loss, token_distillation
from export.reader import Reading, SplitReader
from export.recipe import Recipe, StepConfig
from export.retrieval import SentenceTeacher
from export.saved import AnyReader, save_reader
from export.t5 import EOS, FullT5, Generation, SplitT5
from store.errors import ExportError


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
    reader: SplitReader | SplitT5,
    batch: Batch,
    binarized: bool,
    bare: Tensor | None = None,
    ratio: Tensor | None = None,
) -> tuple[Reading | Generation, Tensor, Tensor, Tensor, Tensor | None]:
    """
    Reading of a batch's pairs, lower states of passages and questions, body states, restored ones if binarized.

    The tokens of the mask `bare` (P, n) are restored without vectors of their own; a T5 merges tokens at a `ratio` ().
    """
    h_p = reader.lower(batch.passage_ids, batch.passage_ids != 0)
    h_q = reader.lower(batch.question_ids, batch.question_ids != 0)
    bodies = body_states(h_p, batch)
    restored = reader.binarize(bodies, batch.body_ids, bare) if binarized else None
    merging = () if ratio is None else (ratio,)
    reading = reader.read_pairs(h_q, bodies if restored is None else restored, batch, *merging)
    return reading, h_p, h_q, bodies, restored


class MatmulAttention(TorchFunctionMode):
    """
    Attention by batched products where a gradient has to come back in bfloat16 on a CPU.

    PyTorch's fused kernel needs four times as long there for its backward pass: 200 ms a layer and 4,096 tokens for 40.
    """

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is F.scaled_dot_product_attention and args[0].requires_grad and args[0].device.type == "cpu":
            return _attention(*args, **(kwargs or {}))
        return func(*args, **(kwargs or {}))


def _attention(
    q: Tensor, k: Tensor, v: Tensor, attn_mask: Tensor, dropout_p: float = 0.0, is_causal: bool = False
) -> Tensor:
    """Queries (B, H, T, D), keys and values (B, H, S, D), additive mask (B, 1, 1, S) -> (B, H, T, D)."""
    assert not dropout_p and not is_causal
    scores = torch.baddbmm(q.new_zeros(1), q.flatten(0, 1), k.flatten(0, 1).mT, beta=0, alpha=q.shape[-1] ** -0.5)
    mask = attn_mask.clamp(min=torch.finfo(q.dtype).min).to(q.dtype)
    weights = (scores.unflatten(0, q.shape[:2]) + mask).softmax(-1).to(v.dtype)
    return (weights.flatten(0, 1) @ v.flatten(0, 1)).unflatten(0, q.shape[:2])


def round_inputs(reader: nn.Module) -> None:
    """
    Let a reader's BERT layers see what the products of int8 graphs see: inputs in 256 steps from a text's least to its
    largest, the few largest channels of the feed-forward blocks apart (`export.graphs.OutlierLinear`). Gradients pass.

    Weights stay as they are: what rounding does to them is the same for every text, and small.
    """

    def rounded(dense: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor]:
        x = inputs[0]
        with torch.no_grad():
            rest = x
            if dense in apart:
                rest = x.clone()
                rest[..., x.abs().flatten(0, -2).amax(0).topk(OutlierLinear.channels).indices] = 0
            low, high = rest.amin((1, 2), keepdim=True).clamp(max=0), rest.amax((1, 2), keepdim=True).clamp(min=0)
            width = ((high - low) / 255).clamp(min=1e-6)
            off = (rest / width).round_().mul_(width).sub_(rest)
        return (x + off,)

    layers = [layer for layer in reader.modules() if isinstance(layer, BertLayer)]
    apart = {block.dense for layer in layers for block in (layer.intermediate, layer.output)}
    for layer in layers:
        for dense in layer.modules():
            if isinstance(dense, nn.Linear):
                dense.register_forward_pre_hook(rounded)


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
        if self.config.rounded:
            round_inputs(self.reader)
        self.sentences, self._short = sentences, short
        self._common = common.to(device) if common is not None else None
        named = [(n, p) for n, p in reader.named_parameters() if p.requires_grad]
        groups = [
            {"params": [p for n, p in named if not self._has_head_rate(n)], "lr": self.config.lr},
            {"params": [p for n, p in named if self._has_head_rate(n)], "lr": self.config.head_lr},
        ]
        self.optimizer = torch.optim.AdamW(groups, weight_decay=self.config.weight_decay, fused=True)
        self.scheduler = torch.optim.lr_scheduler.LambdaLR(self.optimizer, self._rate)
        self.averaged: dict[str, Tensor] = {}
        """The mean of the weights after each of the last steps so far."""
        self.step = 0
        self.seconds = 0.0
        """Wall time of the training steps so far."""

    def _has_head_rate(self, name: str) -> bool:
        """Whether a parameter learns at the heads' rate: those that were not in the checkpoint."""
        return not name.startswith(
            ("lower.", "upper.layers.", "upper.norm.", "upper.table.", "embeddings.", "layers.", "t5.")
        )

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
        self.averaged = state.get("averaged", {})  # checkpoints from before there was averaging have none
        return True

    def save(self) -> None:
        """Write the checkpoint and the reader, each in one replace: a kill leaves the previous ones."""
        state: dict[str, Any] = {
            "reader": self.reader.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "scheduler": self.scheduler.state_dict(),
            "step": self.step,
            "seconds": self.seconds,
            "averaged": self.averaged,
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
            self._average()
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

    @torch.no_grad()
    def _average(self) -> None:
        """Take the weights after a step into the mean of the last ones, which the last step leaves the reader with."""
        last = round(self.config.average * self.config.steps)
        taken = self.step - (self.config.steps - last)
        if taken < 1:
            return
        for name, weight in self.reader.named_parameters():
            self.averaged.setdefault(name, weight.detach().clone()).lerp_(weight, 1 / taken)
            if taken == last:
                weight.copy_(self.averaged[name])

    def _evaluate(self, dev: Sequence[Passage]) -> dict[str, float]:
        common = self._common if self.config.bare == 1 else None
        figures = evaluate(self.reader, dev, self.name == "binarized", self.device, common)
        if self.config.exact:
            exact = evaluate(self.reader, dev, False, self.device)
            figures |= {f"exact_{name}": value for name, value in exact.items()}
        return figures

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
        fast = fast_bfloat16(self.device)
        attention = MatmulAttention() if fast else nullcontext()
        with torch.autocast(self.device.type, torch.bfloat16, enabled=fast), attention:
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
            read = read_full(self.reader, batch)
            return {"task": task_loss(batch, read), **self._copying(read)}
        self.reader.binarizer.anneal(self.step)
        exact = int((self.step + 1) * config.exact) - int(self.step * config.exact)
        reading, h_p, h_q, bodies, restored = read_split(
            self.reader,
            batch,
            self.name == "binarized" and not exact,
            self._bare(batch, self.step),
            self._ratio(),
        )
        losses = {"task": task_loss(batch, reading), **self._copying(reading)}
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

    def _ratio(self) -> Tensor | None:
        """The ratio () at which this step merges tokens; None where it does not."""
        if not self.config.merging or self.step % 2 == 0:
            return None
        drawn = torch.rand((), generator=torch.Generator().manual_seed(self.step))
        return (self.config.merging * drawn).to(self.device)

    def _copying(self, reading: Reading | Generation) -> dict[str, Tensor]:
        if not self.config.copying:
            return {}
        assert isinstance(reading, Generation)
        return {"copying": self.config.copying * copying_loss(reading)}

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


def fast_bfloat16(device: torch.device) -> bool:
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


def to_device(batch: Batch, device: torch.device) -> Batch:
    """The same batch on another device."""
    return Batch(**{name: value.to(device) for name, value in vars(batch).items()})
