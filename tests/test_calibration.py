"""Scores become a confidence that means something, on numbers small enough to do by hand and on drawn ones."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.calibration import Calibration, Observation, fit, from_json, of_manifest
from store.errors import StoreError

floats = st.floats(-50, 50)


@given(st.lists(floats, min_size=1, max_size=20), floats, st.floats(0.1, 20))
def test_probabilities_share_one_with_no_answer(scores: list[float], null_logit: float, temperature: float) -> None:
    shares = Calibration(null_logit, temperature, 0.5).probabilities(scores)
    assert all(0 <= share <= 1 for share in shares)
    assert sum(shares) <= 1 + 1e-9


def test_a_span_at_the_null_logit_is_as_likely_as_no_answer() -> None:
    calibration = Calibration(2.5, 1.0, 0.5)
    assert calibration.probabilities([2.5]) == [0.5]
    assert calibration.probabilities([2.5, 2.5]) == pytest.approx([1 / 3, 1 / 3])
    assert calibration.probabilities([]) == []


def test_temperature_divides_every_score() -> None:
    odds = math.exp((7.0 - 1.0) / 3)
    assert Calibration(1.0, 3.0, 0.5).probabilities([7.0]) == pytest.approx([odds / (1 + odds)])


def drawn(null: float, temperature: float, count: int = 4000) -> list[Observation]:
    """Observations of a reader whose confidence under these two numbers is exactly right."""
    rng = np.random.default_rng(0)
    observations = []
    for scores in np.sort(rng.normal(8, 6, (count, 5)))[:, ::-1]:
        share = Calibration(null, temperature, 0.5).probabilities(list(scores))[0]
        observations.append(Observation(list(scores), [True, *[False] * 4], bool(rng.random() < share)))
    return observations


@pytest.mark.parametrize(("null", "temperature"), [(8.0, 1.0), (12.0, 3.0), (0.0, 5.0)])
def test_a_fit_finds_the_numbers_that_made_the_observations(null: float, temperature: float) -> None:
    found = fit(drawn(null, temperature))
    assert found.null_logit == pytest.approx(null, abs=1.5)
    assert found.temperature == pytest.approx(temperature, rel=0.25)


def test_confidence_after_a_fit_is_the_share_that_is_right() -> None:
    observations = drawn(12.0, 3.0)
    found = fit(observations)
    sure = np.array([found.probabilities(o.scores)[0] for o in observations])
    right = np.array([o.right for o in observations])
    for low in np.arange(0.0, 1.0, 0.2):
        band = (sure >= low) & (sure < low + 0.2)
        assert right[band].mean() == pytest.approx(sure[band].mean(), abs=0.06)


def test_the_threshold_parts_right_from_wrong() -> None:
    """All rights score 9, all wrongs 1: any threshold between their confidences will do."""
    found = fit([Observation([9.0], [True], True)] * 20 + [Observation([1.0], [True], False)] * 20)
    assert found.probabilities([1.0])[0] < found.threshold <= found.probabilities([9.0])[0]


@pytest.mark.parametrize("right", [True, False])
def test_observations_of_one_kind_fit_nothing(right: bool) -> None:
    with pytest.raises(ValueError, match="answered right and questions that are not"):
        fit([Observation([1.0], [True], right)] * 3)


def test_a_calibration_survives_the_store_and_damage_is_named() -> None:
    calibration = Calibration(3.25, 2.0, 0.4)
    assert from_json(calibration.to_json()) == calibration
    for text in ("", "[]", "{}", '{"null_logit": "1", "temperature": 1, "threshold": 1}', '{"x": 1}'):
        with pytest.raises(StoreError, match="calibrate --reset"):
            from_json(text)


def test_a_bundle_comes_with_one(bundle) -> None:  # type: ignore[no-untyped-def]
    manifest = bundle.manifest
    assert of_manifest(manifest) == Calibration(manifest.null_logit, manifest.temperature, manifest.threshold)
