"""Span corruption as T5 does it, and a checkpoint that the next step takes."""

import json
import random
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from export.pretrain import Pretrainer, Pretraining, Shape, corrupt, pretrain
from export.t5 import load_t5
from store.errors import ExportError
from tests.tiny import CONTEXT

SENTINELS = list(range(900, 1000))
RECIPE = Pretraining(Shape(200, 32, 64, 4, 2), steps=4, batch=4, window=32)


@pytest.mark.parametrize("length", [2, 7, 40, 256])
def test_what_is_read_and_what_is_written_make_the_window_again(length: int) -> None:
    ids = list(range(10, 10 + length))
    read, written = corrupt(ids, SENTINELS, random.Random(length))
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
