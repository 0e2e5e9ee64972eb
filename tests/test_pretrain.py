"""Span corruption as T5 does it, and a checkpoint that the next step takes."""

import json
import random
import shutil
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch

from export.data import load_tokenizer
from export.graft import _set_biases, counterparts, grafted_t5, grafted_tokenizer
from export.losses import attention_to_same
from export.pretrain import SENTINELS as SENTINEL_TOKENS
from export.pretrain import (
    Pretrainer,
    Pretraining,
    Shape,
    corrupt,
    kept_places,
    pretrain,
    random_spans,
    recurring_spans,
)
from export.reader import load_bert
from export.t5 import FullT5, load_t5
from store.bundle import file_hash
from store.errors import ExportError
from tests.tiny import CONTEXT, checkpoint, pickle_weights

SENTINELS = list(range(900, 1000))
RECIPE = Pretraining(Shape(200, 32, 64, 4, 2, 2), steps=4, batch=4, window=32, recurring=0.5)


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
        spans = recurring_spans(ids, rng, 400)
        assert sum(end - first for first, end in spans) <= round(0.15 * len(ids))
        assert all(b + 1 <= c for (_, b), (c, _) in pairwise(spans))
        for first, end in spans:
            span = ids[first:end]
            assert len(span) >= 2
            assert max(span) >= 400
            assert any(ids[at : at + len(span)] == span for at in range(first - len(span) + 1))
    assert recurring_spans([450, 451, 7, 8, 450, 451, 452, 450, *range(500, 530)], rng, 400) == [(4, 6)]
    assert recurring_spans([5, 6, 450, 5, 6], rng, 400) == []  # common tokens alone
    (only,) = recurring_spans([450] * 20, rng, 400)
    assert only[1] - only[0] == 2
    assert only[0] >= 2  # it does not reach into the place that it repeats


@pytest.mark.parametrize("length", [2, 7, 40])
def test_a_token_that_is_left_is_found_where_it_stands_now(length: int) -> None:
    ids = list(range(10, 10 + length))
    spans = random_spans(length, len(SENTINELS), random.Random(length))
    read, _ = corrupt(ids, spans, SENTINELS)
    places = kept_places(length, spans)
    assert [ids[before] for before, _ in places] == [token for token in read[:-1] if token < 900]
    assert all(ids[before] == read[now] for before, now in places)


def texts(path: Path) -> Path:
    rng = random.Random(0)
    words = CONTEXT.split()
    rows = [{"text": " ".join(rng.choices(words, k=40))} for _ in range(60)]
    path.write_text("\n".join(map(json.dumps, rows)))
    return path


def test_a_stopped_run_goes_on_to_the_same_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = [texts(tmp_path / "texts.jsonl")]
    figures = pretrain(data, tmp_path / "whole", RECIPE, eval_every=10, save_every=2)
    assert figures["held_out_corruption"] > 0
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


def test_the_loss_is_that_of_the_whole_model(tmp_path: Path) -> None:
    data = [texts(tmp_path / "texts.jsonl")]
    pretrain(data, tmp_path / "out", replace(RECIPE, steps=1))
    t5 = load_t5(tmp_path / "out").eval()
    trainer = Pretrainer.__new__(Pretrainer)
    trainer.reader, trainer.recipe, trainer.step = FullT5(t5), RECIPE, 0
    trainer.device, trainer.sentinels, trainer.common = torch.device("cpu"), list(range(3, 103)), 150
    ids = np.load(tmp_path / "out" / "tokens.npy")[:96].reshape(3, 32).tolist()
    batch = trainer._corrupted(ids, random.Random(0))
    with torch.no_grad():
        expected = t5(
            input_ids=batch.ids,
            attention_mask=(batch.ids != 0).long(),
            labels=batch.targets.masked_fill(batch.targets == 0, -100),
        ).loss
        assert torch.allclose(trainer._losses(batch)["corruption"], expected, atol=1e-5)
        trainer.recipe = replace(RECIPE, copying=2.0)
        mask = (batch.ids != 0).long()
        read = t5(input_ids=batch.ids, attention_mask=mask, labels=batch.targets, output_attentions=True)
        looked = read.cross_attentions[-1].mean(1)
        assert torch.allclose(
            trainer._losses(batch)["copying"], 2 * attention_to_same(looked, batch.ids, batch.targets), atol=1e-4
        )


def test_the_decoder_has_its_own_learning_rate(tmp_path: Path) -> None:
    """With a rate of 0 encoder and words stay what they are."""
    data, like = [texts(tmp_path / "texts.jsonl")], checkpoint(tmp_path / "bert")
    recipe = replace(RECIPE, steps=3, encoder_lr=0.0)
    pretrain(data, tmp_path / "out", recipe, like=like)
    before = grafted_t5(load_bert(like), counterparts(load_tokenizer(tmp_path / "out"), like), 2, 2, WORDS).state_dict()
    after = load_t5(tmp_path / "out").state_dict()
    same = {name for name in before if torch.allclose(before[name], after[name])}
    table = "encoder.block.0.layer.0.SelfAttention.relative_attention_bias.weight"
    assert table not in same  # learns as fast as the decoder: Adam's steps are small for what may be 8
    heads = [name for name in before if "encoder" in name and "SelfAttention" in name]  # in another text's order
    assert {name for name in before if name.startswith("encoder.")} - set(heads) <= same
    assert any(name.startswith("decoder.block.1") and name not in same for name in before)


def test_all_of_the_text_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("export.pretrain._TOKENIZED_AT_ONCE", 7)
    data = [texts(tmp_path / "texts.jsonl")]
    pretrain(data, tmp_path / "out", replace(RECIPE, steps=1))
    ids = np.load(tmp_path / "out" / "tokens.npy")
    assert (ids == 1).sum() == 60  # each text ends with </s>


def test_a_folder_keeps_to_the_text_and_the_vocabulary_it_began_with(tmp_path: Path) -> None:
    data, other = [texts(tmp_path / "texts.jsonl")], [texts(tmp_path / "other.jsonl")]
    other[0].write_text(data[0].read_text().replace("boiler", "stove"))
    pretrain(data, tmp_path / "out", replace(RECIPE, steps=1))
    (tmp_path / "out" / "last.pt").unlink()  # as if stopped before the first checkpoint
    like = checkpoint(tmp_path / "bert")
    for files, recipe, start in (
        (other, RECIPE, None),
        (data, replace(RECIPE, shape=replace(RECIPE.shape, vocabulary=210)), None),
        (data, RECIPE, like),
    ):
        with pytest.raises(ExportError, match="other text or another tokenizer"):
            pretrain(files, tmp_path / "out", replace(recipe, steps=1), like=start)


def test_a_bert_or_a_device_that_cannot_be_used_is_named(tmp_path: Path) -> None:
    data, like = [texts(tmp_path / "texts.jsonl")], checkpoint(tmp_path / "bert")
    with pytest.raises(ExportError, match="reads 510 tokens"):
        pretrain(data, tmp_path / "out", replace(RECIPE, window=511), like=like)
    with pytest.raises(ExportError, match="device nothing is not present"):
        pretrain(data, tmp_path / "out", RECIPE, "nothing")
    (like / "model.safetensors").unlink()
    with pytest.raises(ExportError, match=r"holds no model\.safetensors"):
        pretrain(data, tmp_path / "out", RECIPE, like=like)
    (checkpoint(tmp_path / "other") / "tokenizer.json").write_text("{}")
    with pytest.raises(ExportError, match=r"other/tokenizer\.json is damaged"):
        pretrain(data, tmp_path / "out", RECIPE, like=tmp_path / "other")
    assert not (tmp_path / "out").exists()


def test_a_bert_whose_weights_are_a_pickle_can_be_begun_as(tmp_path: Path) -> None:
    data, like = [texts(tmp_path / "texts.jsonl")], checkpoint(tmp_path / "bert")
    pickle_weights(like)
    pretrain(data, tmp_path / "out", replace(RECIPE, steps=1), like=like)
    record = json.loads((tmp_path / "out" / "text.json").read_text())
    assert record["like"] == file_hash(like / "pytorch_model.bin")


def test_text_that_cannot_be_used_is_named(tmp_path: Path) -> None:
    with pytest.raises(ExportError, match=r"none\.jsonl does not exist"):
        pretrain([tmp_path / "none.jsonl"], tmp_path / "out", RECIPE)
    (tmp_path / "odd.jsonl").write_text('{"words": 1}')
    with pytest.raises(ExportError, match=r"odd\.jsonl:1 has neither text nor context"):
        pretrain([tmp_path / "odd.jsonl"], tmp_path / "out", RECIPE)


# a T5 that begins as a BERT

WORDS = torch.arange(103, 119).view(2, 8)


def test_it_has_the_berts_words_under_a_t5s_special_tokens(tmp_path: Path) -> None:
    folder = checkpoint(tmp_path / "bert")
    tokenizer, old = grafted_tokenizer(folder, SENTINEL_TOKENS), load_tokenizer(folder)
    assert [tokenizer.id_to_token(i) for i in (0, 1, 2, 3, 103)] == ["<pad>", "</s>", "<unk>", "<extra_id_0>", "the"]
    ours, theirs = (
        tokenizer.encode("The boilered tree, planted."),
        old.encode("The boilered tree, planted.", add_special_tokens=False),
    )
    assert [t.replace("[UNK]", "<unk>") for t in [*theirs.tokens, "</s>"]] == ours.tokens
    assert counterparts(tokenizer, folder)[ours.ids].tolist() == [*theirs.ids, old.token_to_id("[SEP]")]
    assert tokenizer.decode(ours.ids) == "the boilered tree, planted."
    assert tokenizer.encode("the <extra_id_7>").ids[:2] == [103, 10]
    own = counterparts(tokenizer, folder)
    assert [int(i) for i in own[:3]] == [old.token_to_id(token) for token in ("[PAD]", "[SEP]", "[UNK]")]
    words = json.loads((folder / "tokenizer.json").read_text())
    words["model"]["vocab"] |= {f"[unused{at}]": old.get_vocab_size() + at for at in range(120)}
    (folder / "tokenizer.json").write_text(json.dumps(words))
    wider = grafted_tokenizer(folder, SENTINEL_TOKENS)
    assert wider.get_vocab() == tokenizer.get_vocab()
    sentinels = [wider.token_to_id(token) for token in SENTINEL_TOKENS]
    unused = sorted(i for token, i in load_tokenizer(folder).get_vocab().items() if token.startswith("[unused"))
    assert counterparts(wider, folder)[sentinels].tolist() == unused[:100]  # in every run the same


def test_its_first_layer_reads_as_the_berts_does(tmp_path: Path) -> None:
    """Without what a T5 has not, positions and biases, the first attention block adds the same."""
    folder = checkpoint(tmp_path / "bert")
    bert, ids = load_bert(folder), counterparts(grafted_tokenizer(folder, SENTINEL_TOKENS), folder)
    layer, embedding = bert.encoder.layer[0].attention, bert.embeddings
    with torch.no_grad():
        embedding.position_embeddings.weight.zero_()
        vectors = embedding.word_embeddings.weight  # such that their norm is the same by the root mean square
        vectors += embedding.token_type_embeddings.weight[0]
        vectors -= vectors.mean(1, keepdim=True)
        embedding.token_type_embeddings.weight.zero_()
    t5 = grafted_t5(bert, ids, 3, 1, WORDS).eval()
    words = torch.arange(103, len(ids))[None, :20]
    with torch.no_grad():
        states = t5.shared(words)
        assert torch.allclose(states, embedding(ids[words]), atol=1e-5)
        theirs = layer.output.dense(layer.self(embedding(ids[words]))[0])
        block = t5.encoder.block[0].layer[0]
        ours = block(states, position_bias=torch.zeros(1, 2, 20, 20))[0] - states
    assert torch.allclose(ours, theirs, atol=1e-3)


def test_its_decoder_begins_as_the_berts_top_layers_and_passes_on_what_it_looks_at(tmp_path: Path) -> None:
    folder = checkpoint(tmp_path / "bert")
    bert = load_bert(folder)
    ids = counterparts(grafted_tokenizer(folder, SENTINEL_TOKENS), folder)
    t5 = grafted_t5(bert, ids, 3, 2, WORDS).eval()
    asked, read = torch.randn(2, 3, 32), torch.randn(2, 1, 32)  # of one token there is no choice
    for block, layer in zip(t5.decoder.block, t5.encoder.block[1:], strict=True):
        with torch.no_grad():
            looking = block.layer[1]
            passed = looking(asked, read, position_bias=torch.zeros(1, 2, 3, 1))[0] - asked
            own, theirs = (
                one.layer[-1](one.layer[0](asked, position_bias=torch.zeros(1, 2, 3, 3))[0]) for one in (block, layer)
            )
        assert torch.allclose(passed, read.expand_as(passed), atol=1e-6)
        assert torch.allclose(own, theirs, atol=1e-5)
    assert len(grafted_t5(bert, ids, 3, 5, WORDS).decoder.block) == 5  # more than the BERT has


def test_layers_beyond_the_berts_begin_as_copies_of_its_top_ones(tmp_path: Path) -> None:
    folder = checkpoint(tmp_path / "bert")
    bert, ids = load_bert(folder), counterparts(grafted_tokenizer(folder, SENTINEL_TOKENS), folder)
    made = grafted_t5(bert, ids, 5, 1, WORDS).encoder.block
    copies = [
        [all(torch.equal(a, b) for a, b in zip(one.layer[1].parameters(), two.layer[1].parameters(), strict=True))
         for two in made] for one in made
    ]  # fmt: skip
    assert [[at for at, same in enumerate(row) if same] for row in copies] == [[0], [1, 3], [2, 4], [1, 3], [2, 4]]


def test_it_attends_by_distance_as_the_bert_does(tmp_path: Path) -> None:
    """Of a single layer the biases are its heads' own, in the decoder those to what was before."""
    folder = checkpoint(tmp_path / "bert")
    bert, ids = load_bert(folder), counterparts(grafted_tokenizer(folder, SENTINEL_TOKENS), folder)
    bert.encoder.layer = bert.encoder.layer[:1]
    with torch.no_grad():
        bert.embeddings.position_embeddings.weight *= 30
        t5, states = grafted_t5(bert, ids, 1, 1, WORDS), bert.embeddings(ids[WORDS])
        own, distances = bert.encoder.layer[0].attention.self, range(-7, 8)
        for stack, bidirectional in ((t5.encoder, True), (t5.decoder, False)):
            attention = stack.block[0].layer[0].SelfAttention
            buckets = attention._relative_position_bucket(torch.tensor(distances), bidirectional, 32, 128).tolist()
            for head in range(2):
                of = slice(16 * head, 16 * head + 16)
                logits = own.query(states)[..., of] @ own.key(states)[..., of].mT / 4
                logits = logits - logits.mean(-1, keepdim=True)
                for distance, bucket in zip(distances, buckets, strict=True):
                    if distance <= 0 or bidirectional:
                        found = logits.diagonal(distance, 1, 2).mean().clamp(-8, 8)
                        assert torch.isclose(attention.relative_attention_bias.weight[bucket, head], found, atol=1e-3)


def test_heads_that_attend_alike_share_a_row_of_biases(tmp_path: Path) -> None:
    """Two layers whose heads are the same in the other order: in the T5 they are the same ones."""
    folder = checkpoint(tmp_path / "bert")
    bert, ids = load_bert(folder), counterparts(grafted_tokenizer(folder, SENTINEL_TOKENS), folder)
    pull = torch.randn(1, 2, 15)
    t5 = grafted_t5(bert, ids, 2, 1, WORDS)
    orders = _set_biases(t5.encoder.block[0], torch.cat([pull, pull.flip(1)]))
    assert [order.tolist() for order in orders] in ([[0, 1], [1, 0]], [[1, 0], [0, 1]])
    weight = t5.encoder.block[0].layer[0].SelfAttention.relative_attention_bias.weight
    assert torch.allclose(weight[:8], pull[0][orders[0], :8].flip(1).t(), atol=1e-5)  # 0, 1, 2, ... before


def test_it_learns_from_the_bert(tmp_path: Path) -> None:
    data, like = [texts(tmp_path / "texts.jsonl")], checkpoint(tmp_path / "bert")
    recipe = replace(RECIPE, shape=replace(RECIPE.shape, layers=4), steps=1, lr=0.0, batch=8)
    before = pretrain(data, tmp_path / "before", recipe, like=like)
    after = pretrain(data, tmp_path / "after", replace(recipe, steps=40, lr=1e-2), like=like)
    assert 0 < after["held_out_states"] < 0.7 * before["held_out_states"]
    assert after["held_out_corruption"] < before["held_out_corruption"]
    assert after["held_out_corruption_recurring"] < before["held_out_corruption_recurring"]
    t5 = load_t5(tmp_path / "after")
    assert (t5.config.num_layers, t5.config.num_decoder_layers, t5.config.d_model) == (4, 2, 32)
    first = replace(recipe, steps=2, lr=1e-2, imitating=2)  # no step that the decoder takes part in
    pretrain(data, tmp_path / "first", first, like=like)
    begun, imitated = (load_t5(tmp_path / name).state_dict() for name in ("before", "first"))
    same = {name for name in begun if torch.equal(begun[name], imitated[name])}
    assert {name for name in begun if name.startswith("decoder.block")} <= same
    assert "encoder.block.0.layer.0.SelfAttention.q.weight" not in same
    with pytest.raises(ExportError, match="give one with --like"):
        pretrain(data, tmp_path / "other", first)
    (tmp_path / "bert" / "config.json").write_text(json.dumps({"model_type": "gpt2"}))
    with pytest.raises(ExportError, match="gpt2"):
        pretrain(data, tmp_path / "other", recipe, like=like)
