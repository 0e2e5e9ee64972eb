"""
A run: the three steps of training, full reader, decomposed reader, binarized reader (BTR section 3.2).

Each step is a folder of the run and starts from the reader of the step before, or of another run:

    RUN/full        task
    RUN/decomposed  task, the full reader's states and logits; the retrieval head learns sentence embeddings
    RUN/binarized   task, the decomposed or full reader's logits and states, recovery; constants fitted on data before

and the run itself ends with the retrieval head's last stage. The same command on a stopped run goes on where it was, on
CPU or GPU alike; a step is trained again only where its recipe, those before it, its data or its start have changed.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Collection, Sequence
from dataclasses import asdict, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from tqdm import tqdm
from transformers import BertModel, T5ForConditionalGeneration

from export.checkpoint import weights_hash
from export.data import Passage, answerable, load_passages, load_tokenizer
from export.full import FullReader, whole
from export.hub import name_of
from export.reader import SplitConfig, SplitReader, check_split
from export.recipe import STARTS, STEPS, Recipe
from export.retrieval import SentenceTeacher, train_retrieval
from export.saved import (
    AnyReader,
    check_files,
    check_finished,
    load_checkpoint,
    load_full,
    load_reader,
    save_reader,
    split_reader,
)
from export.step import Trainer, fast_bfloat16, present, read_full, span_overlaps, to_device
from export.t5 import FullT5, SplitT5
from store.bundle import TOKENIZER, file_hash
from store.errors import ExportError
from store.runs import common_ids

_INPUTS = ("checkpoint", "sha256", "data", *STARTS)
"""What a step is made from, besides its recipe."""
AGREED = 0.5
"""Token-level F1 from which the full reader agrees with a noisy answer."""


@torch.no_grad()
def agreed(full: FullReader, passages: Sequence[Passage], device: torch.device) -> list[list[int]]:
    """The numbers of those questions of each passage whose answer the full reader finds there."""
    full = full.to(device).eval()
    kept: list[list[int]] = [[] for _ in passages]
    bar = tqdm(total=sum(bool(p.questions) for p in passages), unit="passage", disable=None, desc="agreed")
    for numbers, batch in answerable(passages, 8192):
        batch = to_device(batch, device)
        with torch.autocast(device.type, torch.bfloat16, enabled=fast_bfloat16(device)):
            overlaps = iter(span_overlaps(read_full(full, batch), batch))
        for number in numbers:
            found = [next(overlaps) for _ in passages[number].questions]
            kept[number] = [place for place, overlap in enumerate(found) if overlap >= AGREED]
        bar.update(len(numbers))
    return kept


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
            found = _full_start(start_full)
            if found != start_full:
                return load_full(found)
            split = load_reader(found)
            if not (isinstance(split, SplitReader) and isinstance(model, BertModel)):
                raise ExportError(f"{start_full} has no full reader, and only a BERT's split reader makes one")
            return whole(split, model)
        return FullReader(model) if isinstance(model, BertModel) else FullT5(model)
    if step == "binarized" and recipe.decomposed.steps:
        start = out / "decomposed"
    if start is not None:
        reader = split_reader(model, recipe.split)
        kept = {n: v for n, v in load_file(start / "reader.safetensors").items() if not n.startswith("binarizer.")}
        reader.load_state_dict(kept, strict=False)
        return reader
    if not recipe.full.steps:
        return split_reader(model, recipe.split)
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
    The full step starts from the checkpoint or, if given, from the full reader of the run `start_full`, or the layers
    of its split one where it has no other; the decomposed step from the full reader or, if given, from the finished
    split reader of the run `start`; the binarized step from the decomposed reader or, constants and all, from the run
    `start_binarized`. Where that run has a full and a decomposed reader, the binarized step alone is trained, taught by
    those. The steps after the full one also learn from the files `retrieved`, where the full reader agrees with
    their answers.

    Returns:
        The dev figures of each step.

    Raises:
        ExportError: If an input cannot be used, or the folder holds a run by another recipe or of other data.
    """
    where = present(device)
    check_files(checkpoint)
    model, tokenizer = load_checkpoint(checkpoint), load_tokenizer(checkpoint)
    if tokenizer.get_vocab_size() > model.config.vocab_size:
        raise ExportError(
            f"{checkpoint} has a tokenizer of {tokenizer.get_vocab_size():,} tokens and weights of "
            f"{model.config.vocab_size:,}: give a whole checkpoint folder"
        )
    _check_family(model, recipe)
    out.mkdir(parents=True, exist_ok=True)
    if start_binarized is not None:
        recipe = _go_on(start_binarized, out, recipe)
    has = {step for step in STEPS if recipe.step(step).steps or (out / step).is_symlink()}
    _check_teachers(recipe, has)
    if retrieved and not (isinstance(model, BertModel) and "full" in has):
        raise ExportError("the answers of --retrieved are noisy: only a BERT's full step can say which to learn from")
    torch.manual_seed(recipe.data.seed)
    train_set = _passages(checkpoint, tuple(files), recipe.data.window)
    brief = any(recipe.step(step).short for step in STEPS)
    short_set = _passages(checkpoint, tuple(files), recipe.data.short_window) if brief else ()
    dev_set = _passages(checkpoint, tuple(validation), recipe.data.window)
    dev_set = dev_set[:: max(1, len(dev_set) // dev_passages)][:dev_passages]
    inputs = {
        "checkpoint": name_of(checkpoint),
        "sha256": weights_hash(checkpoint),
        "data": {path.name: file_hash(path) for path in files},
    }
    if start_full is not None:
        inputs["start_full"] = file_hash(_full_start(start_full) / "reader.safetensors")
    if start is not None and not _same_shape(load_reader(start).config, recipe.split):
        raise ExportError(f"{start} has a reader of another shape: set the same [split], or start from another run")
    begun: dict[str, Any] = {"start": file_hash(start / "reader.safetensors")} if start is not None else {}
    if retrieved:
        begun["retrieved"] = {path.name: file_hash(path) for path in retrieved}
    retrieved_set = _passages(checkpoint, tuple(retrieved), recipe.data.window) if retrieved else ()
    gone_on = {} if start_binarized is None else {"start_binarized": file_hash(start_binarized / "reader.safetensors")}

    def made_from(step: str) -> dict[str, Any]:
        return {**inputs, **(begun if step != "full" else {}), **(gone_on if step == "binarized" else {})}

    common = torch.from_numpy(common_ids(tokenizer.get_vocab()))
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
            full = load_full(out / "full") if step != "full" and "full" in has else None
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
        tokenizer.save(str(out / TOKENIZER))
        record = {**inputs, "recipe": asdict(recipe), "dev": figures}
        (out / "train.json").write_text(json.dumps(record, indent=2) + "\n")
    return figures


def _full_start(run: Path) -> Path:
    """The folder of the reader that a full step starts from in another run: its full one's or, without it, its own."""
    folder = run / "full" if (run / "full").exists() else run
    check_finished(folder)
    return folder


def _go_on(run: Path, out: Path, recipe: Recipe) -> Recipe:
    """Let the run `out` have the readers of another run's first two steps, if any; what is left to train."""
    if load_reader(run).config != recipe.split:
        raise ExportError(f"{run} has a reader of another shape: set the same [split]")
    if not any((run / step).exists() for step in STEPS[:2]):
        return recipe
    for step in STEPS[:2]:
        theirs, ours = (run / step).resolve(), out / step
        if theirs.exists() and not ours.is_symlink() and not ours.exists():
            ours.symlink_to(theirs)
        if ours.exists() and ours.resolve() != theirs:
            raise ExportError(f"{ours} is not of {run}: give another folder")
    return replace(recipe, full=replace(recipe.full, steps=0), decomposed=replace(recipe.decomposed, steps=0))


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


def _check_teachers(recipe: Recipe, has: Collection[str]) -> None:
    """See that each step's teacher is among the readers that the run `has`."""
    for step in STEPS:
        config = recipe.step(step)
        if not config.steps:
            continue
        if step == "binarized" and config.teacher == "decomposed" and "decomposed" not in has:
            raise ExportError(
                "[binarized] learns from the decomposed reader, which [decomposed] steps = 0 leaves out: "
                "set binarized.teacher='full'"
            )
        known = ("full", "decomposed") if step == "binarized" else ("full",)
        if config.teacher not in known:
            raise ExportError(f"[{step}] teacher is {config.teacher!r}: it can be {' or '.join(map(repr, known))}")
        if config.teacher != "full" and config.tokens and config.share < 1:
            raise ExportError(f"[{step}] share is of the full reader's attention: set it to 1 for another teacher")


def _check_family(model: BertModel | T5ForConditionalGeneration, recipe: Recipe) -> None:
    """See that the model can be split so, and that no step has a setting that only the other family's heeds."""
    if isinstance(model, BertModel):
        check_split(model.config, recipe.split)
        ours, theirs, foreign = "a BERT", "a generative reader", ("copying", "merging")
    else:
        SplitT5(model, recipe.split)
        ours, theirs, foreign = "a T5", "an extractive reader", ("early", "sentences", "rounded")
    for step in STEPS:
        for name in foreign:
            if getattr(recipe.step(step), name):
                raise ExportError(f"[{step}] {name} is for {theirs}: leave it out for {ours}")


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
