"""Span corruption as T5 does it, and a checkpoint that the next step takes."""

import json
import random
import shutil
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from export.pretrain import Pretrainer, Pretraining, Shape, corrupt, pretrain, random_spans, recurring_spans
from export.t5 import load_t5
from store.errors import ExportError
from tests.tiny import CONTEXT

SENTINELS = list(range(900, 1000))
RECIPE = Pretraining(Shape(200, 32, 64, 4, 2), steps=4, batch=4, window=32, recurring=0.5)


@pytest.mark.parametrize("length", [2, 7, 40, 256])
def test_what_is_read_and_what_is_written_make_the_window_again(length: int) -> None:
    ids = list(range(10, 10 + length))
    read, written = corrupt(ids, random_spans(length, len(SENTINELS), random.Random(length)), SENTINELS)
    assert read[-1] == written[-1] == 1
    spans: dict[int, list[int]] = {}
    for token in written[:-1]:
        if token >= 900:
            spans[token] = []
        else:
            spans[list(spans)[-1]].append(token)
    assert [t for one in read[:-1] for t in (spans[one] if one >= 900 else [one])] == ids
    assert sum(map(len, spans.values())) == max(1, round(0.15 * length))
    assert list(spans) == SENTINELS[: len(spans)]


def test_recurring_spans_stand_in_the_window_a_second_time() -> None:
    rng = random.Random(0)
    for _ in range(50):
        ids = [rng.choice([5, 6, 450, 460, 470]) for _ in range(60)]
        spans = recurring_spans(ids, rng)
        assert sum(end - first for first, end in spans) <= round(0.15 * len(ids))
        assert all(b + 1 <= c for (_, b), (c, _) in pairwise(spans))
        for first, end in spans:
            span = ids[first:end]
            assert len(span) >= 2
            assert max(span) >= 400
            assert any(ids[at : at + len(span)] == span for at in range(first - len(span) + 1))
    assert recurring_spans([450, 451, 7, 8, 450, 451, 452, 450, *range(500, 530)], rng) == [(4, 6)]
    assert recurring_spans([5, 6, 450, 5, 6], rng) == []  # common tokens alone
    (only,) = recurring_spans([450] * 20, rng)
    assert only[1] - only[0] == 2
    assert only[0] >= 2  # it does not reach into the place that it repeats


def texts(path: Path) -> Path:
    rng = random.Random(0)
    words = CONTEXT.split()
    rows = [{"text": " ".join(rng.choices(words, k=40))} for _ in range(60)]
    path.write_text("\n".join(map(json.dumps, rows)))
    return path


def test_a_stopped_run_goes_on_to_the_same_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = [texts(tmp_path / "texts.jsonl")]
    figures = pretrain(data, tmp_path / "whole", RECIPE, eval_every=10, save_every=2)
    assert figures["held_out"] > 0
    (tmp_path / "run").mkdir()  # learning a vocabulary is not the same twice; a stopped run keeps its own
    shutil.copyfile(tmp_path / "whole" / "tokenizer.json", tmp_path / "run" / "tokenizer.json")
    honest, taken = Pretrainer._step, []

    def stopping(self: Pretrainer, batch: object) -> dict[str, float]:
        if len(taken) == 3:
            raise KeyboardInterrupt
        taken.append(batch)
        return honest(self, batch)

    monkeypatch.setattr(Pretrainer, "_step", stopping)
    with pytest.raises(KeyboardInterrupt):
        pretrain(data, tmp_path / "run", RECIPE, eval_every=10, save_every=2)
    monkeypatch.undo()
    pretrain(data, tmp_path / "run", RECIPE, eval_every=10, save_every=2)
    whole, resumed = (load_t5(tmp_path / name).state_dict() for name in ("whole", "run"))
    assert all(np.allclose(whole[name], resumed[name], atol=1e-6) for name in whole)
    with pytest.raises(ExportError, match="another recipe or data"):
        pretrain(data, tmp_path / "run", replace(RECIPE, lr=0.1))


def test_text_that_cannot_be_used_is_named(tmp_path: Path) -> None:
    with pytest.raises(ExportError, match=r"none\.jsonl does not exist"):
        pretrain([tmp_path / "none.jsonl"], tmp_path / "out", RECIPE)
    (tmp_path / "odd.jsonl").write_text('{"words": 1}')
    with pytest.raises(ExportError, match=r"odd\.jsonl:1 has neither text nor context"):
        pretrain([tmp_path / "odd.jsonl"], tmp_path / "out", RECIPE)
