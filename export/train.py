"""
Train a split reader: task loss with shared normalisation, binarizer from `binarize_from` on, retrieval head.

One schedule, one run: the first part trains with float states, then the binarizer's constants are fitted on the
states of that moment and the rest trains through the signs (method: BTR section 3.1, initialise from data). The
retrieval head learns the sentence embeddings of the untouched checkpoint, rotated so that its signs are even; at the
end, on the finished lower encoder, it learns to find each question's passage among others, through the signs (BPR).

A run is a folder: `last.pt` (everything needed to go on), `log.jsonl`, and the result in `reader.safetensors`,
`split.json`, `config.json`, `tokenizer.json`, `train.json`. The same command on a folder with a `last.pt` goes on where
it stopped, on CPU or GPU alike.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.nn import functional as F
from tqdm import tqdm

from export.binarizer import SignSTE, rms
from export.data import Batch, Passage, batches, load_passages, load_tokenizer
from export.reader import SplitConfig, SplitReader, build, load_bert, mean_state, run_layers
from store.bundle import file_hash
from store.errors import ExportError


@dataclass(frozen=True)
class TrainConfig:
    """How long and how hard; what is trained is `SplitConfig`'s."""

    steps: int = 2600
    pair_tokens: int = 4096
    window: int = 144
    negatives: float = 0.1
    """Share of questions with one more passage, and again of questions with only a wrong one."""
    lr: float = 2e-4
    head_lr: float = 1e-3
    """For what starts from nothing or is fitted: heads, binarizer, shared-token embedding."""
    warmup: float = 0.03
    weight_decay: float = 0.01
    binarize_from: float = 0.6
    """Share of the steps after which passages are read through their signs."""
    teacher_every: int = 3
    """Distil the sentence embeddings at every n-th step."""
    retrieval_passages: int = 6000
    """Passages, with their questions, for the retrieval head's last stage."""
    retrieval_epochs: int = 30
    seed: int = 0


def task_loss(batch: Batch, start: Tensor, end: Tensor) -> Tensor:
    """
    Cross-entropy of start and end over all tokens of a question's passages and the null option (logit 0).

    Logits (N, n) are relative to each passage's null logit, so they add up over passages.
    """
    total = torch.zeros((), device=start.device)
    questions = batch.gold_pair.shape[0]
    answered = batch.gold_pair >= 0
    gold = batch.gold_pair.clamp(min=0)
    for logits, target in ((start, batch.start), (end, batch.end)):
        per_pair = torch.logsumexp(logits.float(), dim=1)
        table = per_pair.new_full((questions, 3), -1e4)
        table[:, 2] = 0.0
        table = table.index_put((batch.pair_question, batch.slot), per_pair)
        at = target.clamp(max=logits.shape[1] - 1)
        right = torch.where(answered, logits.float()[gold, at], 0.0)
        total = total + (torch.logsumexp(table, dim=1) - right).mean()
    return total / 2


def body_states(h: Tensor, batch: Batch) -> Tensor:
    """Lower states (P, L, d) -> those of the body alone (P, n, d)."""
    at = batch.body_start[:, None] + torch.arange(batch.body_ids.shape[1], device=h.device)[None]
    at = at.clamp(max=h.shape[1] - 1)
    return torch.gather(h, 1, at[..., None].expand(-1, -1, h.shape[2]))


def read_batch(reader: SplitReader, batch: Batch, binarized: bool) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """One batch -> start and end logits (N, n), lower states of passages (P, L, d) and questions (Q, q, d)."""
    h_p = reader.lower(batch.passage_ids, batch.passage_ids != 0)
    h_q = reader.lower(batch.question_ids, batch.question_ids != 0)
    bodies = body_states(h_p, batch)
    start, end = reader.read(
        h_q[batch.pair_question],
        batch.question_ids[batch.pair_question],
        bodies[batch.pair_passage],
        batch.body_ids[batch.pair_passage],
        batch.body_mask[batch.pair_passage],
        binarized,
    )
    return start, end, h_p, h_q


class Trainer:
    """A run: its reader, optimiser, position, and the folder that holds them."""

    def __init__(
        self, checkpoint: Path, out: Path, split: SplitConfig, config: TrainConfig, device: str, data: list[str]
    ) -> None:
        self.out, self.config, self.device = out, config, torch.device(device)
        self.checkpoint = checkpoint
        self.inputs = {
            "checkpoint": checkpoint.resolve().name,
            "sha256": file_hash(checkpoint / "model.safetensors"),
            "data": data,
        }
        self.reader = build(checkpoint, split).to(self.device)
        teacher = load_bert(checkpoint)
        self.teacher = teacher.to(self.device).eval().requires_grad_(False)
        generator = torch.Generator().manual_seed(config.seed)
        d, c = teacher.config.hidden_size, split.code_bits
        self.rotation = torch.linalg.qr(torch.randn(max(d, c), max(d, c), generator=generator))[0][:d, :c]
        self.rotation = self.rotation.to(self.device)
        fresh = [p for n, p in self.reader.named_parameters() if p.requires_grad and self._is_fresh(n)]
        old = [p for n, p in self.reader.named_parameters() if p.requires_grad and not self._is_fresh(n)]
        groups = [{"params": old, "lr": config.lr}, {"params": fresh, "lr": config.head_lr}]
        self.optimizer = torch.optim.AdamW(groups, weight_decay=config.weight_decay, fused=True)
        self.scheduler = torch.optim.lr_scheduler.LambdaLR(self.optimizer, self._rate)
        self.step = 0
        self.binarized = False
        self.retrieves = False
        """Whether the retrieval head has had its last stage."""

    @staticmethod
    def _is_fresh(name: str) -> bool:
        return not name.startswith(("lower.", "upper.layers."))

    def _rate(self, step: int) -> float:
        warm = max(1, int(self.config.steps * self.config.warmup))
        return min((step + 1) / warm, max(0.0, (self.config.steps - step) / max(1, self.config.steps - warm)))

    def resume(self) -> None:
        """Go on from the folder's last checkpoint, if there is one."""
        last = self.out / "last.pt"
        if not last.is_file():
            return
        state = torch.load(last, map_location=self.device, weights_only=True)
        theirs = {**state["config"], "steps": self.config.steps}  # a run may be made longer or shorter
        ours = (asdict(self.config), self.reader.config.to_json(), self.inputs)
        if (theirs, state["split"], state["inputs"]) != ours:
            raise ExportError(f"{last} was made with other options or data: give another folder, or the same ones")
        self.reader.load_state_dict(state["reader"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.scheduler.load_state_dict(state["scheduler"])
        self.step, self.binarized, self.retrieves = state["step"], state["binarized"], state["retrieves"]

    def save(self) -> None:
        """Write the checkpoint and the reader, each in one replace: a kill leaves the previous ones."""
        state: dict[str, Any] = {
            "reader": self.reader.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "scheduler": self.scheduler.state_dict(),
            "step": self.step,
            "binarized": self.binarized,
            "retrieves": self.retrieves,
            "config": asdict(self.config),
            "split": self.reader.config.to_json(),
            "inputs": self.inputs,
        }
        torch.save(state, self.out / "last.pt.new")
        (self.out / "last.pt.new").replace(self.out / "last.pt")
        save_reader(self.reader, self.checkpoint, self.out)

    def run(self, train: list[Passage], dev: list[Passage], eval_every: int, save_every: int) -> dict[str, float]:
        """Train to the last step; returns the last dev figures."""
        config = self.config
        figures: dict[str, float] = {}
        bar = tqdm(total=config.steps, initial=self.step, unit="step", smoothing=0.05, disable=None)
        mean = 0.0
        for batch in self._batches(train):
            if not self.binarized and self.step >= config.binarize_from * config.steps:
                self._fit_binarizer(train)
            loss = self._step(batch)
            mean = loss if not mean else 0.98 * mean + 0.02 * loss
            bar.update()
            bar.set_postfix(loss=f"{mean:.3f}", bits="on" if self.binarized else "off")
            if self.step % eval_every == 0 or self.step == config.steps:
                figures = evaluate(self.reader, dev, self.binarized, self.device)
                self._log({"step": self.step, "loss": round(mean, 4), "bits": self.binarized, **figures})
                tqdm.write(f"step {self.step}: loss {mean:.3f}, dev {figures}")
            if self.step % save_every == 0 or self.step == config.steps:
                self.save()
        bar.close()
        if not self.retrieves:
            train_retrieval(self.reader, train, self.config, self.device)
            self.retrieves = True
            self.save()
        return figures or evaluate(self.reader, dev, self.binarized, self.device)

    def _batches(self, train: list[Passage]) -> Iterator[Batch]:
        """Batches from the run's own position on, epoch after epoch, up to the last step."""
        epoch, seen = 0, 0
        while True:
            for batch in batches(train, self.config.pair_tokens, self.config.negatives, self.config.seed + epoch):
                seen += 1
                if seen <= self.step:
                    continue
                if self.step >= self.config.steps:
                    return
                yield to_device(batch, self.device)
            epoch += 1

    def _step(self, batch: Batch) -> float:
        self.reader.train()
        with torch.autocast(self.device.type, torch.bfloat16, enabled=_fast_bfloat16(self.device)):
            start, end, h_p, h_q = read_batch(self.reader, batch, self.binarized)
            loss = task_loss(batch, start, end)
            if self.step % self.config.teacher_every == 0:
                for h, ids in ((h_p, batch.passage_ids), (h_q, batch.question_ids)):
                    loss = loss + self._retrieval_loss(h, ids)
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.reader.parameters(), 1.0)
        self.optimizer.step()
        self.scheduler.step()
        self.step += 1
        return float(loss.detach())

    def _retrieval_loss(self, h: Tensor, ids: Tensor) -> Tensor:
        """1 - cosine between the code before its signs and the rotated sentence embedding of the checkpoint."""
        with torch.no_grad():
            target = sentence_embedding(self.teacher, ids) @ self.rotation
        return (1 - F.cosine_similarity(self.reader.retrieval(h, ids != 0).float(), target.float())).mean()

    @torch.no_grad()
    def _fit_binarizer(self, train: list[Passage], tokens: int = 200_000) -> None:
        states, ids, seen = [], [], 0
        for batch in batches(train, self.config.pair_tokens, 0.0, self.config.seed + 1000):
            batch = to_device(batch, self.device)
            h = body_states(self.reader.lower(batch.passage_ids, batch.passage_ids != 0), batch)
            states.append(h[batch.body_mask].float().cpu())
            ids.append(batch.body_ids[batch.body_mask].cpu())
            seen += len(ids[-1])
            if seen >= tokens:
                break
        self.reader.cpu().fit_binarizer(torch.cat(states), torch.cat(ids))
        self.reader.to(self.device)
        self.binarized = True

    def _log(self, row: dict[str, Any]) -> None:
        with (self.out / "log.jsonl").open("a") as log:
            log.write(json.dumps({**row, "time": round(time.time())}) + "\n")


def _fast_bfloat16(device: torch.device) -> bool:
    """Whether bfloat16 products are faster than float32 here: on a GPU, or on a CPU with AMX or AVX512-BF16."""
    return device.type != "cpu" or bool(torch.cpu._is_amx_tile_supported() or torch.cpu._is_avx512_bf16_supported())


def sentence_embedding(bert: torch.nn.Module, ids: Tensor) -> Tensor:
    """Mean of the last states, normalised, (B, L) -> (B, d): what sentence-transformers computes."""
    mask = ids != 0
    h = run_layers(bert.encoder.layer, bert.embeddings(input_ids=ids), mask)  # type: ignore[arg-type,operator,union-attr]
    return F.normalize(mean_state(h, mask), dim=-1)


@torch.no_grad()
def evaluate(reader: SplitReader, dev: list[Passage], binarized: bool, device: torch.device) -> dict[str, float]:
    """
    Token-level exact match and F1 of the best span in the gold passage, on passages held out.

    A quick figure to steer by: the reported ones come from the exported graphs and the answers' text.
    """
    reader.eval()
    exact = overlap = count = 0.0
    for batch in batches(dev, 8192, 0.0, 0):
        batch = to_device(batch, device)
        start, end, _, _ = read_batch(reader, batch, binarized)
        scores = start[:, :, None] + end[:, None, :]
        spans = torch.ones_like(scores[0], dtype=torch.bool).triu().tril(29)
        best = torch.where(spans, scores, -1e9).flatten(1).argmax(1)
        width = start.shape[1]
        for s, e, a, b in zip(best // width, best % width, batch.start, batch.end, strict=True):
            common = max(0, int(min(e, b) - max(s, a)) + 1)
            overlap += 2 * common / int((e - s + 1) + (b - a + 1))
            exact += bool(s == a and e == b)
            count += 1
    return {"em": round(100 * exact / count, 2), "f1": round(100 * overlap / count, 2)}


def train_retrieval(reader: SplitReader, train: list[Passage], config: TrainConfig, device: torch.device) -> None:
    """
    Teach the retrieval head alone to find each question's passage among a few hundred others.

    The lower encoder is finished, so each text is encoded once; the loss is cross-entropy over the passages of a batch,
    float question code against signs of the passage code (BPR), as the program will score them.
    """
    reader.eval()
    pooled_p, pooled_q, owner = [], [], []
    seen = 0
    with torch.no_grad():
        for batch in batches(train, 4 * config.pair_tokens, 0.0, config.seed):
            batch = to_device(batch, device)
            for ids, pooled in ((batch.passage_ids, pooled_p), (batch.question_ids, pooled_q)):
                pooled.append(mean_state(reader.lower(ids, ids != 0), ids != 0))
            owner.append(batch.pair_passage + seen)
            seen += len(batch.passage_ids)
            if seen >= config.retrieval_passages:
                break
    p, q, own = torch.cat(pooled_p), torch.cat(pooled_q), torch.cat(owner)
    head = reader.retrieval.dense
    optimizer = torch.optim.AdamW(head.parameters(), lr=config.head_lr, weight_decay=config.weight_decay)
    generator = torch.Generator().manual_seed(config.seed)
    for _ in tqdm(range(config.retrieval_epochs), unit="epoch", desc="retrieval", disable=None):
        for chosen in torch.randperm(len(q), generator=generator).split(256):
            chosen = chosen.to(device)
            passages, target = torch.unique(own[chosen], return_inverse=True)
            code = head(p[passages])
            signs = SignSTE.apply(code / rms(code))
            similarity = F.normalize(head(q[chosen]), dim=-1) @ signs.T  # up to sqrt(c), about 20
            loss = F.cross_entropy(similarity, target)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()


def to_device(batch: Batch, device: torch.device) -> Batch:
    """The same batch on another device."""
    return Batch(**{name: value.to(device) for name, value in vars(batch).items()})


def save_reader(reader: SplitReader, checkpoint: Path, out: Path) -> None:
    """Write `reader.safetensors`, `split.json`, `config.json` and `tokenizer.json`: what `load_reader` needs."""
    tensors = {name: value.detach().cpu().contiguous() for name, value in reader.state_dict().items()}
    save_file(tensors, out / "reader.safetensors.new")
    (out / "reader.safetensors.new").replace(out / "reader.safetensors")
    (out / "split.json").write_text(json.dumps(reader.config.to_json(), indent=2) + "\n")
    (out / "config.json").write_text(reader.bert_config.to_json_string())
    (out / "tokenizer.json").write_bytes((checkpoint / "tokenizer.json").read_bytes())


def load_reader(run: Path) -> SplitReader:
    """
    The trained reader of a run folder.

    Raises:
        ExportError: If the folder is not a training run.
    """
    from transformers import BertConfig, BertModel

    if not (run / "train.json").is_file():
        raise ExportError(f"{run} holds no finished run: give the same `btr-export train` command until it ends")
    config = BertConfig.from_json_file(run / "config.json")
    config._attn_implementation = "sdpa"
    config.hidden_dropout_prob = config.attention_probs_dropout_prob = 0.0
    reader = SplitReader(BertModel(config), SplitConfig(**json.loads((run / "split.json").read_text())))
    reader.load_state_dict(load_file(run / "reader.safetensors"))
    return reader.eval()


def train(
    checkpoint: Path,
    files: list[Path],
    validation: list[Path],
    out: Path,
    split: SplitConfig,
    config: TrainConfig,
    device: str = "cpu",
    dev_passages: int = 200,
    eval_every: int = 250,
    save_every: int = 250,
) -> dict[str, float]:
    """
    Train a split reader from a checkpoint folder into a run folder; goes on where a stopped run was.

    Raises:
        ExportError: If an input cannot be used, or the folder holds a run with other options.
    """
    for name in ("config.json", "model.safetensors", "tokenizer.json"):
        if not (checkpoint / name).is_file():
            raise ExportError(f"{checkpoint} holds no {name}: give a checkpoint folder with a fast tokenizer")
    torch.manual_seed(config.seed)
    out.mkdir(parents=True, exist_ok=True)
    tokenizer = load_tokenizer(checkpoint)
    trainer = Trainer(checkpoint, out, split, config, device, [path.name for path in files])
    trainer.resume()
    train_set = load_passages(files, tokenizer, config.window)
    dev_set = load_passages(validation, tokenizer, config.window)
    dev_set = dev_set[:: max(1, len(dev_set) // dev_passages)][:dev_passages]
    figures = trainer.run(train_set, dev_set, eval_every, save_every)
    record = {
        **trainer.inputs,
        "config": asdict(config),
        "dev": {"passages": len(dev_set), **figures},
    }
    (out / "train.json").write_text(json.dumps(record, indent=2) + "\n")
    return figures
