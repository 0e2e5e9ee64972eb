"""Dry runs: what would be done is what then is done, and the text shown is the text encoded."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from app.bundle import Bundle
from app.indexer import SPEED, index
from app.preview import ASSUMED_SPEED, encoded_text, forecast
from store.errors import UsageError
from store.tokens import TokenStore
from tests.conftest import SAMPLE_NOTES, contents, run_index
from tests.test_indexer import write


def test_the_forecast_of_a_first_run_comes_true(store: TokenStore, bundle: Bundle) -> None:
    found = forecast(None, bundle, [str(SAMPLE_NOTES)])
    report = run_index(store, bundle, SAMPLE_NOTES)
    assert (found.tokens, len(found.plan.encode), found.failed) == (report.tokens, report.indexed, [])
    counts = store.counts()
    assert 0 < counts.encoded_bytes < found.store_bytes < 4 * counts.encoded_bytes
    assert not found.measured
    assert found.minutes == pytest.approx(report.tokens / (ASSUMED_SPEED * bundle.threads) / 60)


def test_the_forecast_of_a_later_run_comes_true_and_changes_nothing(
    notes: Path, store: TokenStore, bundle: Bundle
) -> None:
    write(notes, a="Alpha.", b="Beta.", c="Gamma.", old__d="Delta.")
    run_index(store, bundle, notes)
    write(notes, a="Alpha, edited.", new="Epsilon.")
    (notes / "b.md").unlink()
    (notes / "old").rename(notes / "moved")
    (notes / "bad.md").write_bytes(b"\0")
    before = contents(store.path)
    found = forecast(store, bundle, [str(notes)])
    assert contents(store.path) == before
    report = index(store, bundle, [notes])
    assert (found.tokens, len(found.failed)) == (report.tokens, len(report.failed))
    assert (len(found.plan.encode) - 1, len(found.plan.changed)) == (report.indexed, 1)
    assert (len(found.plan.gone), len(found.plan.moves)) == (report.removed, report.moved)


def test_minutes_are_at_the_speed_of_the_last_long_run(notes: Path, store: TokenStore, bundle: Bundle) -> None:
    write(notes, a="Alpha.")
    run_index(store, bundle, notes)
    assert store.setting(SPEED) is None  # too little to tell
    write(notes, b="A sentence of several words. " * 400)
    run_index(store, bundle, notes)
    speed = store.setting(SPEED)
    assert speed is not None and float(speed) > 0
    write(notes, c="Gamma.")
    found = forecast(store, bundle, [str(notes)])
    assert (found.measured, found.speed) == (True, float(speed))


@pytest.fixture
def long_heading(notes: Path) -> Iterator[Path]:
    words = " ".join(f"word{i}" for i in range(60))
    (notes / "a.md").write_text(
        f"---\ntags: [x]\n---\n# Top\n\n## {words}\n\n### Below\n\nThe text, {'on and on ' * 200}"
    )
    yield notes / "a.md"


def test_the_text_shown_is_the_text_encoded(long_heading: Path, store: TokenStore, bundle: Bundle) -> None:
    shown = list(encoded_text(bundle, long_heading))
    run_index(store, bundle, long_heading.parent)
    passages = store.passages([int(i) for i in store.codes()[0]])
    assert len(shown) > 2
    assert [(line, text) for line, _, text in shown] == [(p.line, p.text) for p in passages]
    limit = bundle.manifest.heading_tokens
    for passage, (_, heading, text) in zip(passages, shown, strict=True):
        assert len(bundle.tokenizer.encode(heading, add_special_tokens=False).ids) <= limit
        as_stored, as_shown = (bundle.encode_passage(h, text) for h in (passage.heading, heading))
        assert (as_stored.bits, as_stored.code) == (as_shown.bits, as_shown.code)
    assert shown[-1][1] == "Top > Below"  # the level that is too long is left out
    assert "tags" not in shown[0][2]


def test_a_heading_that_is_too_long_alone_is_shown_as_far_as_it_is_read(bundle: Bundle) -> None:
    heading = " ".join(f"word{i}" for i in range(60))
    shown = bundle.heading_text(heading)
    assert heading.startswith(shown) and 0 < len(shown) < len(heading)


@pytest.mark.parametrize(("name", "says"), [("nowhere.md", "is gone"), ("a.png", "is not a note that can be read")])
def test_a_file_that_cannot_be_shown_is_one_sentence(notes: Path, bundle: Bundle, name: str, says: str) -> None:
    (notes / "a.png").write_bytes(b"x")
    with pytest.raises(UsageError, match=says):
        list(encoded_text(bundle, notes / name))
