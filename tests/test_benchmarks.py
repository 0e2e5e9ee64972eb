"""The accuracy benchmark's scoring, against known cases."""

import pytest

from benchmarks.accuracy import f1, normalise


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("The Boiler!", "boiler"),
        ("  a  cat,  an owl ", "cat owl"),
        ("theatre", "theatre"),
        ("5,433", "5433"),
        ("the", ""),
    ],
)
def test_normalisation_is_squads(text: str, expected: str) -> None:
    assert normalise(text) == expected


@pytest.mark.parametrize(
    ("predicted", "reference", "expected"),
    [
        ("14 March 2024", "on 14 March 2024", 6 / 7),
        ("Hansen", "hansen.", 1.0),
        ("Hansen", "Priya", 0.0),
        ("the", "a", 1.0),
        ("", "Priya", 0.0),
        ("cat cat", "cat", 2 / 3),
    ],
)
def test_f1_is_token_overlap(predicted: str, reference: str, expected: float) -> None:
    assert f1(predicted, reference) == pytest.approx(expected)
