"""A run becomes a bundle that the program can use, and a graph that differs becomes nothing."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch

import export.bundle
from app.baselines import FloatSplitReader, FullReader
from app.bundle import Bundle, Survey
from app.places import EMBEDDED_BUNDLE
from app.reader import PassageBits
from export.binarizer import rms
from export.bundle import Calibration, make_bundle
from export.data import load_tokenizer
from export.full import whole
from export.graphs import LowerGraph, Table
from export.reader import SplitConfig, SplitReader, load_bert, run_layers
from export.recipe import StepConfig
from export.saved import load_full, load_reader, save_reader
from export.train import train
from export.unpack import unpack
from store.bundle import FULL, LOWER, MANIFEST, SPAN, SPLIT_LOWER, SPLIT_UPPER, UPPER, file_hash, read_manifest, verify
from store.codec import pack, token_arrays
from store.errors import ExportError, ModelError
from tests.tiny import CONTEXT, RECIPE, checkpoint, pickle_weights, questions


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("export")
    data = [questions(folder / "train.jsonl")]
    train(checkpoint(folder / "bert"), data, data, folder / "run", RECIPE)
    return folder / "run"


@pytest.fixture(scope="module")
def floats(run: Path) -> Path:
    make_bundle(run, run.parent / "float32", "tiny", precision="float32", baselines=True)
    return run.parent / "float32"


def test_the_float_bundle_reads_as_the_torch_reader_does(run: Path, floats: Path) -> None:
    """Twins over the whole path: text -> lower.onnx -> bytes -> upper.onnx against torch on the same question."""
    assert_twins(run, floats)


def test_a_single_upper_layer_reads_as_the_torch_reader_does(run: Path, tmp_path: Path) -> None:
    data = [run.parent / "train.jsonl"]
    single = replace(RECIPE, split=replace(RECIPE.split, split_layer=2, upper_layers=1))
    train(run.parent / "bert", data, data, tmp_path / "run", single)
    make_bundle(tmp_path / "run", tmp_path / "float32", "tiny", precision="float32")
    assert_twins(tmp_path / "run", tmp_path / "float32")


def assert_twins(run: Path, floats: Path) -> None:
    """A float bundle's span logits are its run's."""
    reader, bundle = load_reader(run), Bundle.open(floats)
    encoded = bundle.encode_passage("heating", CONTEXT)
    bits, scale = token_arrays(encoded.bits, encoded.scale, encoded.tokens)
    ids = bundle.tokenize(CONTEXT).ids
    bare = np.arange(len(ids)) % 3 == 0
    scale = np.where(bare, np.float16(0), scale)
    question = bundle.encode_question("when was the boiler serviced?")
    restored_logits = bundle.span_logits(question, bundle.survey(question, ids, bits, scale))
    head = bundle.tokenizer.encode("heating", add_special_tokens=False).ids
    whole = torch.tensor([[2, *head, 3, *ids, 3]])
    with torch.no_grad():
        h = reader.lower(whole, whole != 0)[:, len(head) + 2 : -1]
        q_ids = torch.from_numpy(question.ids)
        p_ids = torch.tensor([ids])
        mask = torch.ones_like(p_ids, dtype=torch.bool)
        h_q = reader.lower(q_ids, q_ids != 0)
        restored = reader.binarize(h, p_ids, torch.from_numpy(bare)[None])
        from_bits = reader.read(h_q, q_ids, restored, p_ids, mask)
        from_states = reader.read(h_q, q_ids, h, p_ids, mask)
    seen = bundle.span_logits(question, bundle.look(question, ids, "heating"))
    for found, expected in ((restored_logits, from_bits), (seen, from_states)):
        for logits, own in zip(found, (expected.start, expected.end), strict=True):
            off = np.abs(logits - own[0].numpy()).mean()  # int8 tables and float16 scales stand between them
            assert off < 0.4 * logits.std()
    assert np.abs(seen[0] - from_states.start[0].numpy()).mean() < np.abs(seen[0] - restored_logits[0]).mean() / 3


def test_the_early_head_says_what_the_best_span_below_the_last_layer_scores(run: Path, floats: Path) -> None:
    reader, bundle = load_reader(run), Bundle.open(floats)
    encoded = bundle.encode_passage("heating", CONTEXT)
    bits, scale = token_arrays(encoded.bits, encoded.scale, encoded.tokens)
    question, ids = bundle.encode_question("who?"), bundle.tokenize(CONTEXT).ids
    with torch.no_grad():
        joint = torch.from_numpy(bundle.survey(question, ids, bits, scale).joint)
        q = question.ids.shape[1]
        logits = reader.upper.early(torch.cat([joint[:, :1], joint[:, q:]], dim=1))[0]
        expected = (logits[1:] - logits[:1]).amax(0).sum()
    assert bundle.survey(question, ids, bits, scale).relevance == pytest.approx(float(expected), abs=1e-4)


def test_the_baselines_read_as_the_readers_of_their_steps_do(run: Path, floats: Path) -> None:
    """Twins: full.onnx against step 1 in torch, split-lower.onnx and split-upper.onnx against step 2."""
    bundle = Bundle.open(floats)
    question, ids = bundle.encode_question("when was the boiler serviced?"), bundle.tokenize(CONTEXT).ids
    passage = PassageBits(CONTEXT, np.zeros((len(ids), 2), np.uint8), np.zeros(len(ids), np.float16), "heating")
    q_ids = torch.from_numpy(question.ids)
    before, after = bundle.surround("heating")
    whole, body = torch.tensor([[*before, *ids, *after]]), torch.ones(1, len(ids), dtype=torch.bool)
    with torch.no_grad():
        expected = load_full(run / "full")(q_ids, whole, torch.tensor([len(before)]), body)
        found = [(FullReader(bundle).logits(question, passage, ids), expected)]
        split = load_reader(run / "decomposed")
        states = split.lower(whole, whole != 0)[:, len(before) : -1]
        expected = split.read(split.lower(q_ids, q_ids != 0), q_ids, states, torch.tensor([ids]), body)
        found.append((FloatSplitReader(bundle).logits(question, passage, ids), expected))
    for logits, own in found:
        for one, other in zip(logits, (own.start, own.end), strict=True):
            assert np.abs(one - other[0].numpy()).max() < 0.2 * one.std()  # int8 tables stand between them


def test_passages_padded_together_read_as_they_do_alone(floats: Path) -> None:
    assert_padding_says_nothing(floats)


def assert_padding_says_nothing(floats: Path) -> None:
    """A passage reads the same beside a longer one, some of its tokens without vectors, whatever padding holds."""
    bundle = Bundle.open(floats)
    rng = np.random.default_rng(0)
    q = bundle.encode_question("which port?")
    ids = rng.integers(5, 30, (2, 9))
    ids[1, 6:] = 0
    bits = rng.integers(0, 256, (2, 9, 2), dtype=np.uint8)
    scale = rng.random((2, 9)).astype(np.float16)
    scale[:, ::4] = 0
    states = rng.normal(size=(2, 9, bundle.manifest.hidden_size)).astype(np.float32)
    texts = {"question_states": q.states, "question_ids": q.ids, "ids": ids, "bits": bits, "scale": scale}
    for exact in (False, True):  # the longer passage is read the other way
        inputs = {**texts, "states": states, "exact": np.array([not exact, exact])}
        joint, relevance = bundle.run(UPPER, ["joint", "relevance"], inputs)
        together, _ = bundle.run(SPAN, ["start", "end"], {"joint": joint, "question_ids": q.ids, "ids": ids})
        own = states[1:, :6] if exact else None
        inputs = bundle.upper_inputs(q, ids[1, :6].tolist(), bits[1, :6], scale[1, :6], own)
        first, early = bundle.run(UPPER, ["joint", "relevance"], inputs)
        alone, _ = bundle.span_logits(q, Survey(ids[1:, :6], first, 0.0))
        assert np.allclose(together[1, :6], alone, atol=1e-4)
        assert relevance[1] == pytest.approx(early[0], abs=1e-4)
        assert (together[1, 6:] < -1000).all()


def test_the_int8_bundle_is_checked_against_the_float_one_and_smaller(run: Path, tmp_path: Path) -> None:
    manifest = make_bundle(run, tmp_path / "int8", "tiny")
    assert manifest.measured["parity"]["int8"]["bit_agreement"] > 0.9
    assert read_manifest(tmp_path / "int8") == manifest
    verify(tmp_path / "int8", manifest)
    assert {path.name for path in (tmp_path / "int8").iterdir()} == {
        LOWER, UPPER, SPAN, "tokenizer.json", "manifest.json"
    }  # fmt: skip


@pytest.mark.parametrize(("kind", "bare", "ratio"), [("sign", 0.0, None), ("gain", 1.0, 0)])
def test_variants_without_ids_export_without_a_base_table(
    run: Path, tmp_path: Path, kind: str, bare: float, ratio: float | None
) -> None:
    data = [run.parent / "train.jsonl"]
    split = SplitConfig(split_layer=1, upper_layers=2, binarizer=kind, bits=32, code_bits=32, match_rank=0)
    recipe = replace(RECIPE, split=split, binarized=replace(RECIPE.binarized, bare=bare))
    train(run.parent / "bert", data, data, tmp_path / "run", recipe, share=run)
    manifest = make_bundle(tmp_path / "run", tmp_path / "sign", "sign", precision="float32")
    assert manifest.offline_ratio == ratio  # a reader that was trained without common words' bits asks for none
    bundle = Bundle.open(tmp_path / "sign")
    encoded = bundle.encode_passage("heating", CONTEXT)
    bits, scale = token_arrays(encoded.bits, encoded.scale, encoded.tokens)
    assert bits.shape[1] * 8 == 32
    question = bundle.encode_question("which port?")
    start, _ = bundle.span_logits(question, bundle.survey(question, bundle.tokenize(CONTEXT).ids, bits, scale))
    assert np.isfinite(start).all()


def test_a_run_that_goes_on_has_the_baselines_of_the_one_before(run: Path, tmp_path: Path) -> None:
    data = [run.parent / "train.jsonl"]
    recipe = replace(RECIPE, binarized=replace(RECIPE.binarized, steps=1))
    train(run.parent / "bert", data, data, tmp_path / "run", recipe, start_binarized=run)
    manifest = make_bundle(tmp_path / "run", tmp_path / "both", precision="float32", baselines=True)
    assert {FULL, SPLIT_LOWER, SPLIT_UPPER} <= set(manifest.files)
    assert manifest.provenance["start_binarized"] == file_hash(run / "reader.safetensors")
    (tmp_path / "run" / "decomposed").unlink()
    with pytest.raises(ExportError, match="no full or no decomposed step to compare with"):
        make_bundle(tmp_path / "run", tmp_path / "none", baselines=True)
    assert not (tmp_path / "none").exists()


@pytest.mark.parametrize("kind", ["neighbours", "context"])
def test_a_base_that_sees_neighbours_is_the_same_at_index_and_question_time(
    run: Path, tmp_path: Path, kind: str
) -> None:
    """The lower graph sees [SEP] around a passage, the upper graph the passage alone: neither counts it."""
    data = [run.parent / "train.jsonl"]
    recipe = replace(RECIPE, split=replace(RECIPE.split, binarizer=kind), binarized=replace(RECIPE.binarized, bare=0.5))
    train(run.parent / "bert", data, data, tmp_path / "run", recipe, share=run)
    reader, ids = load_reader(tmp_path / "run"), [5, 9, 14, 7]
    assert int(reader.binarizer.edge) == 3
    scatter(tmp_path / "run", reader)
    make_bundle(tmp_path / "run", tmp_path / "float32", kind, precision="float32")
    assert_twins(tmp_path / "run", tmp_path / "float32")
    assert_padding_says_nothing(tmp_path / "float32")
    make_bundle(tmp_path / "run", tmp_path / "int8", kind)
    rounded = [n.name for n in onnx.load(tmp_path / "int8" / LOWER).graph.node if n.op_type == "MatMulInteger"]
    assert rounded
    assert not [name for name in rounded if any(part in name for part in ("predict", "reduce", "around"))]
    whole, body = torch.tensor([[2, 11, 3, *ids, 3]]), torch.tensor([ids])
    with torch.no_grad():
        signs, scale, _ = reader.encode(whole, whole != 0)
        base = reader.binarizer.base(reader.features(body))
        restored = reader.binarizer.restore(signs[:, 3:-1], scale[:, 3:-1, None], base)
        assert torch.allclose(restored, reader.binarize(reader.lower(whole, whole != 0)[:, 3:-1], body), atol=1e-5)


@pytest.mark.parametrize("kind", ["residual", "context"])
def test_a_bundle_becomes_a_run_again(run: Path, tmp_path: Path, kind: str) -> None:
    """All weights of float graphs, those of int8 ones within their steps; and training goes on from it."""
    data = [run.parent / "train.jsonl"]
    recipe = replace(RECIPE, split=replace(RECIPE.split, binarizer=kind, lower_width=48))
    train(run.parent / "bert", data, data, tmp_path / "run", recipe)
    scatter(tmp_path / "run", load_reader(tmp_path / "run"))
    for precision, far in (("float32", 0.001), ("int8", 0.03)):
        make_bundle(tmp_path / "run", tmp_path / precision, precision=precision)
        manifest = unpack(tmp_path / precision, run.parent / "bert", tmp_path / f"{precision}-run")
        ours, theirs = (load_reader(tmp_path / name).state_dict() for name in (f"{precision}-run", "run"))
        for name, value in theirs.items():
            if name == "lower.embeddings.token_type_embeddings.weight":
                value, ours[name] = value[0], ours[name][0]  # nothing reads the second
            off = (ours[name].float() - value.float()).norm() / value.float().norm().clamp(min=1e-6)
            assert off < (0.06 if "match_in" in name else far), (name, off)  # solved for from an int8 table
    goes_on = replace(recipe, binarized=replace(recipe.binarized, lr=0.0, head_lr=0.0))
    start = tmp_path / "int8-run"
    starts = {"start_full": start, "start": start, "start_binarized": start}
    figures = train(run.parent / "bert", data, data, tmp_path / "next", goes_on, **starts)
    assert list(figures) == ["full", "decomposed", "binarized"]
    last, first = (load_reader(folder).state_dict() for folder in (tmp_path / "next" / "binarized", start))
    assert all(torch.equal(last[name], value) for name, value in first.items())
    again = make_bundle(tmp_path / "next", tmp_path / "again", baselines=True)
    assert again.provenance["start_full"] == file_hash(start / "reader.safetensors")
    assert json.loads((start / "train.json").read_text())["unpacked"] == manifest.fingerprint


def test_a_bundle_of_a_checkpoint_whose_weights_are_a_pickle_is_unpacked(
    run: Path, floats: Path, tmp_path: Path
) -> None:
    bert, bundle = shutil.copytree(run.parent / "bert", tmp_path / "bert"), shutil.copytree(floats, tmp_path / "bundle")
    pickle_weights(bert)
    with pytest.raises(ExportError, match="was not made from"):
        unpack(bundle, bert, tmp_path / "out")
    said = json.loads((bundle / MANIFEST).read_text())
    said["provenance"]["checkpoint_sha256"] = file_hash(bert / "pytorch_model.bin")
    (bundle / MANIFEST).write_text(json.dumps(said))
    unpack(bundle, bert, tmp_path / "out")
    assert load_reader(tmp_path / "out").config == load_reader(run).config


def test_what_cannot_be_unpacked_is_said(run: Path, floats: Path, tmp_path: Path) -> None:
    bert = run.parent / "bert"
    with pytest.raises(ExportError, match="is not empty: give another folder"):
        unpack(floats, bert, run)
    with pytest.raises(ExportError, match="was not made from"):
        unpack(EMBEDDED_BUNDLE, bert, tmp_path / "out")
    with pytest.raises(ModelError, match="is not a bundle"):
        unpack(run, bert, tmp_path / "out")
    others = shutil.copytree(floats, tmp_path / "others")
    said = json.loads((others / MANIFEST).read_text())
    for split in ({"split_layer": 2}, {"upper_layers": 1}, {"lower_width": 16}, {"bits": 8}, None):
        recipe = {"split": said["provenance"]["recipe"]["split"] | split} if split else None
        trained = {key: value for key, value in said["provenance"].items() if key != "recipe"}
        changed = said | {"provenance": trained | ({"recipe": recipe} if recipe else {})}
        (others / MANIFEST).write_text(json.dumps(changed))
        with pytest.raises(
            ExportError, match="only bundles made here" if split is None else "only those of this version"
        ):
            unpack(others, bert, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_full_reader_of_a_split_ones_layers_reads_as_they_do(run: Path) -> None:
    """Its lower layers' units that narrow ones lack say nothing: on one text both compute the same."""
    bert = load_bert(run.parent / "bert")
    split = SplitReader(load_bert(run.parent / "bert"), SplitConfig(1, 2, lower_width=40, bits=16))
    full, ids = whole(split, bert), torch.tensor([[2, 9, 11, 3, 14, 7, 3]])
    assert full.layers[0].intermediate.dense.out_features == 64
    mask = ids != 0
    states = run_layers(full.layers, full.embeddings(input_ids=ids), mask)
    assert torch.allclose(states, run_layers(split.upper.layers, split.lower(ids, mask), mask), atol=1e-5)
    with pytest.raises(ExportError, match="2 layers makes no full one of 3"):
        whole(SplitReader(load_bert(run.parent / "bert"), SplitConfig(1, 1, bits=16)), bert)


def test_the_layers_of_a_bundle_are_a_checkpoint(run: Path, tmp_path: Path) -> None:
    """Of the BERT's own shape, and they read as the full reader does that training would start from."""
    data = [run.parent / "train.jsonl"]
    train(
        run.parent / "bert", data, data, tmp_path / "run", replace(RECIPE, split=replace(RECIPE.split, upper_layers=2))
    )
    make_bundle(tmp_path / "run", tmp_path / "bundle", precision="float32")
    unpack(tmp_path / "bundle", run.parent / "bert", tmp_path / "layers", layers_alone=True)
    unpack(tmp_path / "bundle", run.parent / "bert", tmp_path / "unpacked")
    full = whole(load_reader(tmp_path / "unpacked"), load_bert(run.parent / "bert"))
    ids = torch.tensor([[2, 9, 11, 3, 14, 7, 3]])
    bert = load_bert(tmp_path / "layers")
    states = run_layers(full.layers, full.embeddings(input_ids=ids), ids != 0)
    assert torch.allclose(bert(input_ids=ids).last_hidden_state, states, atol=1e-5)
    assert load_tokenizer(tmp_path / "layers").get_vocab() == load_tokenizer(run.parent / "bert").get_vocab()
    with pytest.raises(ExportError, match="is not empty"):
        unpack(tmp_path / "bundle", run.parent / "bert", tmp_path / "layers", layers_alone=True)


def scatter(run: Path, reader: SplitReader) -> None:
    """Random constants for a run's binarizer: so few words leave nothing to binarize."""
    with torch.no_grad():
        for constant in reader.binarizer.parameters():
            constant.copy_(0.1 * torch.randn(constant.shape, generator=torch.Generator().manual_seed(5)))
    save_reader(reader, run)


def test_bits_are_packed_in_the_graph_as_the_codec_packs_them(run: Path) -> None:
    reader = load_reader(run)
    graph = LowerGraph(reader, export.bundle.vocabulary_tables(reader)).eval()
    ids = torch.randint(5, 30, (1, 12), generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        out = graph(ids)
        features = reader.binarizer.features(graph.tables["words"](ids), ids != 0)
        y = reader.binarizer.project(out["states"], reader.binarizer.base(features))
    assert np.array_equal(out["bits"].numpy(), pack(y.numpy()))
    assert torch.allclose(out["scale"], rms(y)[..., 0])


def test_a_table_keeps_its_rows_within_half_a_step() -> None:
    weight = torch.randn(50, 16, generator=torch.Generator().manual_seed(0)) * torch.logspace(-3, 1, 50)[:, None]
    table = Table(weight)
    step = weight.abs().amax(1, keepdim=True) / 127
    assert ((table(torch.arange(50)) - weight).abs() <= 0.6 * step).all()


def test_a_parity_failure_writes_nothing_and_says_by_how_much(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(export.bundle, "MIN_BIT_AGREEMENT", 1.01)
    with pytest.raises(ExportError, match=r"int8 graphs differ too much: \d+\.\d+% of the bits equal"):
        make_bundle(run, tmp_path / "out", "tiny")
    assert list(tmp_path.iterdir()) == []


def test_a_graph_that_computes_something_else_is_caught(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Optimum's validation sees a graph whose values moved after it was traced."""
    honest = export.bundle.export_models

    def sabotaged(parts: dict, *args: object, **kwargs: object) -> object:
        done = honest(parts, *args, **kwargs)
        with torch.no_grad():
            parts["span"][0].reader.upper.span.bias += torch.tensor([0.5, 0.0])
            parts["span"][0].reader.upper.span.weight *= 1.5
        return done

    monkeypatch.setattr(export.bundle, "export_models", sabotaged)
    with pytest.raises(ExportError, match="differ from the reader, nothing was written"):
        make_bundle(run, tmp_path / "out", "tiny")
    assert list(tmp_path.iterdir()) == []


def test_an_existing_folder_is_never_overwritten(run: Path, tmp_path: Path) -> None:
    with pytest.raises(ExportError, match="exists: give a new folder"):
        make_bundle(run, tmp_path, "tiny")


def test_a_run_without_bits_and_a_single_step_are_refused(run: Path, tmp_path: Path) -> None:
    data = [run.parent / "train.jsonl"]
    train(run.parent / "bert", data, data, tmp_path / "run", replace(RECIPE, binarized=StepConfig(steps=0)), share=run)
    for folder in (tmp_path / "run", run / "decomposed"):
        with pytest.raises(ExportError, match="is not a whole run with a binarized step"):
            make_bundle(folder, tmp_path / "out", "tiny")


def test_what_an_extractive_reader_does_not_do_is_refused(run: Path, tmp_path: Path) -> None:
    with pytest.raises(ExportError, match="merges nothing as it reads: leave out --ratio"):
        make_bundle(run, tmp_path / "out", "tiny", ratio=0.2)
    assert not (tmp_path / "out").exists()


def test_a_calibration_that_cannot_be_is_refused(run: Path, tmp_path: Path) -> None:
    for calibration in (Calibration(float("nan"), 1, 0.5), Calibration(0, 0, 0.5), Calibration(0, 1, 2)):
        with pytest.raises(ExportError, match="what btr-assistant calibrate prints"):
            make_bundle(run, tmp_path / "out", "tiny", calibration=calibration)


def test_a_folder_that_is_no_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ExportError, match="holds no finished run"):
        make_bundle(tmp_path, tmp_path / "out", "tiny")
