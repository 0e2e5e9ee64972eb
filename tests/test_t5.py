"""T5 in two halves: what a split, bits and merging may change, and what they may not."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from transformers import LongT5Config, T5Config, T5ForConditionalGeneration

from export.binarizer import NormBinarizer, rms
from export.data import Batch, batches, load_passages, load_tokenizer
from export.merging import bias_by_distance, bias_in_order
from export.reader import SplitConfig
from export.saved import load_checkpoint
from export.t5 import FullT5, SplitT5, biases, fuse, load_t5
from store.errors import ExportError
from tests.tiny import CONTEXT, checkpoint, questions, t5_checkpoint

SPLIT = SplitConfig(split_layer=2, upper_layers=1, binarizer="norm", bits=32, code_bits=32, match_rank=0)


@pytest.fixture(scope="module", params=["t5", "t5-v1_1"])
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    modern = request.param == "t5-v1_1"
    made = t5_checkpoint(tmp_path_factory.mktemp("t5") / "t5", gated=modern, tied=not modern)
    questions(made / "train.jsonl")
    return made


def one_batch(folder: Path, **settings: float) -> Batch:
    passages = load_passages([folder / "train.jsonl"], load_tokenizer(folder), window=40)
    return next(iter(batches(passages, 4096, 0, **settings)))


def random_ids(rows: int, length: int) -> torch.Tensor:
    return torch.randint(3, 60, (rows, length), generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("split_layer", [1, 2])
def test_lower_then_upper_layers_on_one_text_are_the_whole_encoder(folder: Path, split_layer: int) -> None:
    """Cut into question and passage only above the split: positions and biases go on where they stopped."""
    whole = T5ForConditionalGeneration.from_pretrained(folder).encoder.eval()
    reader = SplitT5(load_t5(folder), replace(SPLIT, split_layer=split_layer, upper_layers=3 - split_layer)).eval()
    ids = random_ids(2, 30)
    ids[1, 22:] = 0
    mask = ids != 0
    with torch.no_grad():
        h = reader.lower(ids, mask)
        split = reader.upper(h[:, :7], mask[:, :7], h[:, 7:], mask[:, 7:])
        expected = whole(ids, attention_mask=mask.long()).last_hidden_state
    assert torch.allclose(split[mask], expected[mask], atol=1e-5)
    assert expected.std() > 0.1


def test_a_question_padded_in_a_batch_is_no_gap_before_the_passage(folder: Path) -> None:
    reader = SplitT5(load_t5(folder), SPLIT).eval()
    q, p = torch.randn(1, 5, 32), torch.randn(1, 9, 32)
    padded = torch.cat([q, torch.randn(1, 3, 32)], dim=1)
    with torch.no_grad():
        alone = reader.upper(q, torch.ones(1, 5, dtype=torch.bool), p, torch.ones(1, 9, dtype=torch.bool))
        q_mask = torch.arange(8)[None] < 5
        together = reader.upper(padded, q_mask, p, torch.ones(1, 9, dtype=torch.bool))
    assert torch.allclose(together[:, 8:], alone[:, 5:], atol=1e-5)


def test_states_that_are_signs_already_come_back_as_they_were() -> None:
    """h = s b / w with mean(1 / w^2) = 1 is what a layernorm w turns into b itself: floats and bits agree."""
    generator = torch.Generator().manual_seed(0)
    w = torch.rand(64, generator=generator) + 0.5
    w = w * torch.where(torch.rand(64, generator=generator) > 0.5, 1.0, -1.0)
    w = w * (1 / w**2).mean().sqrt()
    b = torch.where(torch.randn(3, 9, 64, generator=generator) > 0, 1.0, -1.0)
    h = torch.tensor([0.5, 20.0, 300.0])[:, None, None] * b / w
    u = w * h * torch.rsqrt(h.pow(2).mean(-1, keepdim=True) + 1e-6)
    assert torch.allclose(u, b, atol=1e-4)
    binarizer = NormBinarizer(64, 64)
    binarizer.below(w)
    assert torch.allclose(binarizer(h, h), h, rtol=1e-4)


def test_the_gain_is_as_long_as_suits_the_states_best() -> None:
    torch.manual_seed(0)
    w, h = torch.rand(64) + 0.5, torch.randn(200, 64) * (torch.rand(64) * 3) ** 2
    plain, fitted = NormBinarizer(64, 64), NormBinarizer(64, 64)
    plain.below(w)
    fitted.below(w, h)
    ratio = fitted.gain / plain.gain
    assert torch.allclose(ratio, ratio[:1].expand(64))
    with torch.no_grad():
        best = (fitted(h, h) - h).pow(2).sum()
        for factor in (0.9, 1.1):
            fitted.gain.mul_(factor)
            assert (fitted(h, h) - h).pow(2).sum() > best
            fitted.gain.div_(factor)
    assert best < 0.9 * (plain(h, h) - h).pow(2).sum()


def test_bits_reach_attention_as_the_signs_after_the_layernorm_times_one_factor(folder: Path) -> None:
    reader = SplitT5(load_t5(folder), SPLIT).eval()
    norm = reader.upper.layers[0].layer[0].layer_norm
    ids = random_ids(2, 12)
    with torch.no_grad():
        h = reader.lower(ids, ids != 0)
        restored = reader.binarize(h, ids)
        seen, signs = norm(restored), torch.sign(norm(h))
    factor = (seen * signs).mean()
    assert torch.allclose(seen, factor * signs, rtol=1e-3)
    assert torch.allclose(rms(restored) / rms(h), (1 / factor).expand(2, 12, 1), rtol=1e-3)


def test_the_position_bias_is_that_of_transformers(folder: Path) -> None:
    t5 = load_t5(folder)
    attention = t5.encoder.block[0].layer[0].SelfAttention
    size = torch.ones(1, 50)
    with torch.no_grad():
        distances = biases(attention.relative_attention_bias, t5.config)
        ours = bias_by_distance(distances, torch.arange(50)[None], size)
        assert torch.allclose(ours, attention.compute_bias(50, 50), atol=1e-6)
        size[0, 3] = 4.0
        heavier = bias_by_distance(distances, torch.arange(50)[None], size)
        assert torch.allclose((heavier - ours)[..., 3], torch.log(torch.tensor(4.0)), atol=1e-5)
        for length in (1, 2, 50, 300):  # farther than the farthest distance too
            size = torch.ones(2, length)
            size[1, length // 2 :] = 0
            in_order = bias_in_order(distances, size)
            assert torch.equal(in_order, bias_by_distance(distances, torch.arange(length).expand(2, -1), size))
            assert torch.allclose(in_order[0], attention.compute_bias(length, length)[0], atol=1e-6)


def test_the_full_reader_is_transformers_t5_over_the_passages_of_a_question(folder: Path) -> None:
    """Fusion-in-Decoder by hand: each passage through the encoder, states side by side, labels shifted."""
    t5 = T5ForConditionalGeneration.from_pretrained(folder).eval()
    reader = FullT5(load_t5(folder)).eval()
    batch = one_batch(folder, second=1.0, others=2)
    with torch.no_grad():
        generation = reader.read_batch(batch, attention=True)
        lengths = (batch.answer_ids != 0).sum(1).tolist()
        assert len(set(lengths)) > 1  # some are padded
        own = generation.logits.split(lengths)
        for question in range(len(batch.question_ids)):
            encoded = []
            for pair in (batch.pair_question == question).nonzero()[:, 0]:
                q, p = batch.question_ids[question], batch.passage_ids[batch.pair_passage[pair]]
                ids = torch.cat([q[q != 0], p[p != 0]])[None]
                encoded.append(t5.encoder(ids).last_hidden_state)
            states = torch.cat(encoded, dim=1)
            labels = batch.answer_ids[question][batch.answer_ids[question] != 0][None]
            expected = t5(encoder_outputs=(states,), labels=labels).logits[0]
            assert torch.allclose(own[question], expected, atol=1e-4)
    assert generation.attention is not None
    assert (generation.attention.sum(1) > 0).all() and (generation.attention.sum(1) < 1).all()


def test_a_code_is_of_directions_so_no_long_state_outweighs_the_others(folder: Path) -> None:
    """Before a layernorm a state's length says nothing, and half precision has no room for some."""
    torch.manual_seed(0)
    head = SplitT5(load_t5(folder), SPLIT).retrieval
    h, mask = torch.randn(2, 5, 32), torch.ones(2, 5, dtype=torch.bool)
    lengths = torch.tensor([1, 1e3, 1, 1e6, 1e-2])[None, :, None]
    with torch.no_grad():
        head.weight.weight.normal_()
    assert torch.allclose(head(h * lengths, mask), head(h, mask), atol=1e-4)
    assert torch.allclose(head(head.level(h * lengths).half().float(), mask), head(h, mask), atol=1e-2)


def test_several_passages_stand_next_to_the_right_one(folder: Path) -> None:
    batch = one_batch(folder, second=1.0, others=2)
    assert set(batch.slot.bincount(minlength=3).tolist()[1:]) != {0}
    assert int(one_batch(folder, unanswerable=1.0, second=1.0, others=2).slot.max()) >= 1
    pairs = list(zip(batch.pair_question.tolist(), batch.pair_passage.tolist(), strict=True))
    assert len(set(pairs)) == len(pairs)
    marks, whole = fuse(batch.pair_passage[:, None, None].float(), torch.ones(len(pairs), 1, dtype=torch.bool), batch)
    for question in range(len(batch.question_ids)):
        assert marks[question][whole[question]][:, 0].tolist() == [p for q, p in pairs if q == question]


def test_an_answer_that_no_passage_holds_is_the_empty_one(folder: Path) -> None:
    assert (one_batch(folder, unanswerable=1.0).answer_ids == 1).all()
    tokenizer = load_tokenizer(folder)
    answers = {tokenizer.decode(row.tolist()) for row in one_batch(folder).answer_ids}
    assert answers == {"4 march", "hansen", "november", "5433"}


def test_merging_leaves_the_layers_less_to_read_and_padding_as_it_is(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """0.36 of a row's passage tokens go, as if 0.2 did in each of two layers; what is padded changes nothing of it."""
    reader = SplitT5(load_t5(folder), replace(SPLIT, split_layer=1, upper_layers=2)).eval()
    upper, honest, lengths = reader.upper, reader.upper.run, []
    generator = torch.Generator().manual_seed(3)
    q, p = torch.randn(2, 4, 32, generator=generator), torch.randn(2, 20, 32, generator=generator)
    p_mask = torch.arange(20)[None] < torch.tensor([[20], [11]])
    whole = torch.ones(2, 4, dtype=torch.bool)
    padded = torch.arange(4)[None] < torch.tensor([[4], [2]])

    def watched(states: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
        lengths.append(states.shape[1])
        return honest(states, bias)

    monkeypatch.setattr(upper, "run", watched)
    with torch.no_grad():
        none, plain = upper(q, whole, p, p_mask, torch.tensor(0.0)), upper(q, whole, p, p_mask)
        assert torch.allclose(none[0], plain[0], atol=1e-5)
        for q_mask in (whole, padded):
            states, asked = upper(q, q_mask, p, p_mask, torch.tensor(0.2)), q_mask[1].sum()
            alone = upper(q[1:, :asked], q_mask[1:, :asked], p[1:, :11], p_mask[1:, :11], torch.tensor(0.2))
            assert torch.allclose(states[1][torch.cat([q_mask, p_mask], dim=1)[1]], alone[0], atol=1e-5)
            assert not torch.allclose(states[0], plain[0], atol=1e-3)
        with pytest.raises(AssertionError, match="behind a padded question"):
            upper(q, padded, p, p_mask, torch.tensor(0.0))
    assert lengths == [24, 24, 4 + 20 - 7, 4 + 11 - 3, 4 + 20 - 7, 2 + 11 - 3]


def test_tokens_that_stand_on_both_sides_are_marked_in_units_of_their_own_length(folder: Path) -> None:
    reader = SplitT5(load_t5(folder), replace(SPLIT, match_rank=4)).eval()
    q_ids, p_ids = torch.tensor([[5, 6, 1, 0]]), torch.tensor([[7, 6, 8, 6]])
    q, p = torch.randn(1, 4, 32), torch.randn(1, 4, 32)
    p_mask = torch.tensor([[True, True, True, False]])  # the last 6 is padding
    with torch.no_grad():
        marked_q, marked_p = reader.upper.match(q, q_ids, p, p_ids, p_mask, reader.match_factors)
        _, longer = reader.upper.match(q, q_ids, 3 * p, p_ids, p_mask, reader.match_factors)
    assert (marked_q != q).any(-1).tolist() == [[False, True, False, False]]
    assert (marked_p != p).any(-1).tolist() == [[False, True, False, False]]
    assert torch.allclose(longer, 3 * marked_p, atol=1e-5)


def test_another_architecture_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ExportError, match="is a bert checkpoint, the generative reader needs a t5"):
        load_t5(checkpoint(tmp_path / "bert"))
    with pytest.raises(ExportError, match=r"holds no config\.json"):
        load_t5(tmp_path)
    LongT5Config().save_pretrained(tmp_path)
    with pytest.raises(ExportError, match="is a longt5 checkpoint: give a bert or a t5"):
        load_checkpoint(tmp_path)
    (tmp_path / "config.json").write_text('{"model_type": "of next year"}')
    with pytest.raises(ExportError, match="is a of next year checkpoint: give a bert or a t5"):
        load_checkpoint(tmp_path)


@pytest.mark.parametrize(
    ("changed", "sentence"),
    [
        ({"split_layer": 4}, "does not fit 3 layers"),
        ({"split_layer": 0}, "split layer 0 "),
        ({"bits": 40}, "at most the hidden size 32"),
        ({"upper_layers": 0}, "1 to 3 below and above"),
        ({"binarizer": "odd"}, "there is no binarizer 'odd'"),
        ({"lower_width": 8}, "lower_width is the extractive reader's"),
    ],
)
def test_a_split_that_cannot_be_is_refused(folder: Path, changed: dict[str, object], sentence: str) -> None:
    with pytest.raises(ExportError, match=sentence):
        SplitT5(load_t5(folder), replace(SPLIT, **changed))


def test_a_hidden_size_that_is_no_whole_bytes_is_refused() -> None:
    t5 = T5ForConditionalGeneration(T5Config(vocab_size=50, d_model=36, d_kv=8, d_ff=16, num_layers=3, num_heads=2))
    with pytest.raises(ExportError, match="a hidden size of 36: need a multiple of 8"):
        SplitT5(t5, SPLIT)


def test_a_t5_text_has_no_cls_and_ends_each_part(folder: Path) -> None:
    tokenizer = load_tokenizer(folder)
    (passage,) = [p for p in load_passages([folder / "train.jsonl"], tokenizer, 40) if p.article == "staging"]
    assert passage.head[-1] == 1 and passage.head[0] != 1
    assert tokenizer.decode(load_passages([folder / "train.jsonl"], tokenizer, 40)[0].body) == CONTEXT.lower()
