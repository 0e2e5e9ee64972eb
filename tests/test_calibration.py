"""Scores become a confidence that means something, on numbers small enough to do by hand and on drawn ones."""

import json
import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.bundle import Bundle
from app.calibration import Calibration, Observation, fit, in_force
from store.bundle import UPPER
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


@given(floats, st.floats(0.1, 20), st.floats(0.01, 0.99))
def test_a_lone_span_at_the_bar_has_just_the_confidence_that_is_given(null: float, heat: float, least: float) -> None:
    calibration = Calibration(null, heat, least)
    assert calibration.probabilities([calibration.bar()]) == pytest.approx([least])
    assert (replace(calibration, threshold=0).bar(), replace(calibration, threshold=1).bar()) == (-math.inf, math.inf)


def drawn(null: float, temperature: float, count: int = 4000) -> list[Observation]:
    """Observations of a reader whose confidence under these two numbers is exactly right."""
    rng = np.random.default_rng(0)
    observations = []
    for scores in np.sort(rng.normal(8, 6, (count, 5)))[:, ::-1]:
        share = Calibration(null, temperature, 0.5).probabilities(list(scores))[0]
        observations.append(Observation("abcde", list(scores), bool(rng.random() < share)))
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
    found = fit([Observation(["a"], [9.0], True)] * 20 + [Observation(["a"], [1.0], False)] * 20)
    low, high = found.probabilities([1.0])[0], found.probabilities([9.0])[0]
    assert low + 0.1 < found.threshold < high - 0.1  # in the middle of what parts them, not on its edge


@pytest.mark.parametrize("right", [True, False])
def test_observations_of_one_kind_fit_nothing(right: bool) -> None:
    with pytest.raises(
        ValueError, match=r"are answered right and .* are not, a calibration needs at least 10 of either"
    ):
        fit([Observation(["a"], [1.0], right)] * 30 + [Observation(["a"], [1.0], not right)] * 9)


def test_spans_that_read_alike_are_one_answer() -> None:
    calibration = Calibration(0.0, 1.0, 0.5)
    shares = calibration.probabilities([2.0, 1.0, 0.5])
    found = calibration.confidences(["Hansen", "Priya", "hansen"], [2.0, 1.0, 0.5])
    assert found == {"hansen": pytest.approx(shares[0] + shares[2]), "priya": pytest.approx(shares[1])}
    assert calibration.confidences([], []) == {}
    assert max(calibration.confidences(["a"] * 20, [50.0] * 20).values()) <= 1


def test_a_calibration_survives_the_store_and_damage_is_named(bundle: Bundle) -> None:
    calibration = Calibration(3.25, 2.0, 0.4)
    kept = calibration.to_json(bundle.manifest)
    assert in_force(kept, bundle.manifest) == calibration
    values = json.loads(kept)
    for change in ({"null_logit": "1"}, {"temperature": 0}, {"threshold": math.nan}, {"threshold": 2}, {"more": 1}):
        with pytest.raises(StoreError, match="calibrate --reset"):
            in_force(json.dumps({**values, **change}), bundle.manifest)
    for text in ("", "[]", "{}", "3"):
        with pytest.raises(StoreError, match="calibrate --reset"):
            in_force(text, bundle.manifest)


def test_a_bundle_comes_with_one_that_holds_until_another_is_fitted_to_its_reader(bundle: Bundle) -> None:
    manifest = bundle.manifest
    own = Calibration(manifest.null_logit, manifest.temperature, manifest.threshold)
    assert in_force(None, manifest) == own
    other = replace(manifest, files={**manifest.files, UPPER: "f" * 64})
    assert in_force(Calibration(1.0, 1.0, 0.9).to_json(other), manifest) == own
