"""Stores of any size: real passages first, then variants that are read like real ones; and the picture of figures."""

from __future__ import annotations

import os
from pathlib import Path
from xml.etree import ElementTree

import numpy as np

from app.assistant import Assistant
from app.bundle import Bundle
from benchmarks.scale import PANELS, indexed_into, plot
from benchmarks.synthetic import fill, fill_from
from store.tokens import TokenStore
from tests.conftest import new_store, run_index


def test_a_store_is_filled_with_another_ones_passages_then_with_variants(
    store: TokenStore, notes: Path, bundle: Bundle, tmp_path: Path
) -> None:
    (notes / "boiler.md").write_text("# Boiler\n\nThe boiler was serviced in the cellar by Hansen on 14 March 2024.\n")
    (notes / "port.md").write_text("The staging database listens on port 5433 of the second machine.\n")
    run_index(store, bundle, notes)
    count = store.counts().passages
    with new_store(tmp_path / "filled.db", bundle) as filled:
        fill_from(filled, bundle, store, 3 * count)
        assert filled.counts().passages == 3 * count
        real = store.passages(store.codes()[0].tolist())
        made = filled.passages(filled.codes()[0].tolist())
        assert [(p.heading, p.text) for p in made[:count]] == [(p.heading, p.text) for p in real]
        texts = [p.text for p in made]
        assert len(set(texts)) == 3 * count
        assert [p.tokens for p in made] == 3 * [p.tokens for p in real]
        assert [len(bundle.tokenize(text).ids) for text in texts] == [p.tokens for p in made]
        for at, passage in enumerate(made):
            assert filled.stored_bytes(passage.id) == store.stored_bytes(real[at % count].id)
        codes = np.unpackbits(filled.codes()[1], axis=1).reshape(3, count, -1)
        assert np.array_equal(codes[0], np.unpackbits(store.codes()[1], axis=1))
        turned = (codes[1:] != codes[0]).mean(axis=2)
        assert (turned > 0.05).all()
        assert (turned < 0.3).all()
        answer = Assistant(filled, bundle).ask("Which port does the staging database listen on?")
    assert answer.answer is not None
    assert "5433" in answer.answer


def test_a_made_up_store_is_read_like_a_real_one(bundle: Bundle, tmp_path: Path) -> None:
    with new_store(tmp_path / "filled.db", bundle) as filled:
        fill(filled, bundle, 60)
        assert filled.counts().passages == 60
        assert Assistant(filled, bundle).ask("what is it?").candidates


def test_the_plot_has_a_curve_for_every_figure(tmp_path: Path) -> None:
    names = [name for panel in PANELS.values() for name in panel]
    plot(tmp_path / "scale.svg", [10, 1000], [dict.fromkeys(names, value) for value in (2.0, 70.0)])
    root = ElementTree.parse(tmp_path / "scale.svg").getroot()
    curves = root.findall("{http://www.w3.org/2000/svg}polyline")
    assert len(curves) == len(names)
    assert all(len(curve.get("points", "").split()) == 2 for curve in curves)
    known = [name for name in names if name != "index"]
    plot(tmp_path / "scale.svg", [10, 1000], [dict.fromkeys(known, value) for value in (2.0, 70.0)])
    root = ElementTree.parse(tmp_path / "scale.svg").getroot()
    assert len(root.findall("{http://www.w3.org/2000/svg}polyline")) == len(known)


def test_notes_are_indexed_into_a_copy(bundle: Bundle, notes: Path, tmp_path: Path) -> None:
    (notes / "port.md").write_text("The staging database listens on port 5433 of the second machine.\n")
    with new_store(tmp_path / "filled.db", bundle) as filled:
        fill(filled, bundle, 60)
    assert indexed_into(tmp_path / "filled.db", notes, dict(os.environ)) > 0
    assert [path.name for path in tmp_path.iterdir() if path.suffix == ".db"] == ["filled.db"]
    with TokenStore.open(tmp_path / "filled.db", bundle.manifest.fingerprint) as filled:
        assert filled.counts().passages == 60
