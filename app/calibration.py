"""
When to answer: span scores become a confidence, and a confidence below the threshold becomes "not in your notes".

A question's best spans compete with each other and with no answer in one softmax, with a temperature because a reader
that saw two passages in training is too sure over twenty. The three numbers come with the bundle, fitted on validation
questions; `btr-assistant calibrate` fits them on a person's own and keeps them in the store.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass

import numpy as np
import numpy.typing as npt

from store.bundle import Manifest
from store.errors import StoreError

SETTING = "calibration"
"""Key in the store's settings."""


@dataclass(frozen=True)
class Calibration:
    """Three numbers between a span's score and "not in your notes"."""

    null_logit: float
    """Score of no answer."""
    temperature: float
    """Scores are divided by it."""
    threshold: float
    """Smallest confidence that is given as an answer."""

    def probabilities(self, scores: Sequence[float]) -> list[float]:
        """Scores of the passages' best spans -> probability of each against the others and no answer."""
        return [float(p) for p in _softmax(np.array([scores]), self.null_logit, self.temperature)[0]]

    def to_json(self) -> str:
        """As the store keeps it."""
        return json.dumps(asdict(self))


@dataclass(frozen=True)
class Observation:
    """How one question went: what `fit` learns from."""

    scores: Sequence[float]
    """Of the passages' best spans, best first."""
    same: Sequence[bool]
    """Which of them are the best one's answer."""
    right: bool
    """The best span is a right answer."""


def of_manifest(manifest: Manifest) -> Calibration:
    """The calibration that a bundle comes with."""
    return Calibration(manifest.null_logit, manifest.temperature, manifest.threshold)


def from_json(text: str) -> Calibration:
    """
    The calibration that a store keeps.

    Raises:
        StoreError: If it is not one.
    """
    try:
        calibration = Calibration(**json.loads(text))
        if not all(type(value) in (int, float) for value in asdict(calibration).values()):
            raise TypeError("not numbers")
    except (ValueError, TypeError) as error:
        raise StoreError(
            f"the store's calibration is damaged ({error}): run btr-assistant calibrate --reset"
        ) from error
    return calibration


def fit(observations: Sequence[Observation]) -> Calibration:
    """
    The calibration under which the observed rights and wrongs are likeliest, and the threshold that parts them best.

    Null logit and temperature minimise the cross-entropy of "the best answer is right" against its confidence, on a
    grid that is then refined around its best point; the threshold maximises the mean of two shares: right answers
    that are given, wrong ones that are held back.

    Raises:
        ValueError: If all observations are right, or none is: there is nothing to part.
    """
    right = np.array([observation.right for observation in observations])
    if right.all() or not right.any():
        raise ValueError("a calibration needs questions that are answered right and questions that are not")
    width = max(len(observation.scores) for observation in observations)
    scores = np.full((len(right), width), -np.inf)
    same = np.zeros((len(right), width), dtype=bool)
    for row, observation in enumerate(observations):
        scores[row, : len(observation.scores)] = observation.scores
        same[row, : len(observation.same)] = observation.same

    def confidence(null: float, temperature: float) -> npt.NDArray[np.float64]:
        sure: npt.NDArray[np.float64] = np.where(same, _softmax(scores, null, temperature), 0.0).sum(axis=1)
        return sure

    def cross_entropy(null: float, temperature: float) -> float:
        p = np.clip(confidence(null, temperature), 1e-6, 1 - 1e-6)
        return float(-np.log(np.where(right, p, 1 - p)).mean())

    nulls, temperatures = np.linspace(-10.0, 30.0, 41), np.geomspace(0.5, 16.0, 21)
    for _ in range(3):
        _, null, temperature = min((cross_entropy(n, t), n, t) for n in nulls for t in temperatures)
        step, ratio = (nulls[1] - nulls[0]) / 2, (temperatures[1] / temperatures[0]) ** 0.5
        nulls = np.linspace(null - 2 * step, null + 2 * step, 9)
        temperatures = np.geomspace(temperature / ratio**2, temperature * ratio**2, 9)
    null, temperature = round(float(null), 2), round(float(temperature), 3)
    sure = confidence(null, temperature)
    thresholds = np.arange(0.05, 0.96, 0.01)
    given = [(sure[right] >= t).mean() + (sure[~right] < t).mean() for t in thresholds]
    return Calibration(null, temperature, round(float(thresholds[int(np.argmax(given))]), 2))


def _softmax(scores: npt.NDArray[np.float64], null: float, temperature: float) -> npt.NDArray[np.float64]:
    """Scores (q, p) -> probabilities (q, p) beside the null option's."""
    logits = np.concatenate([np.full((len(scores), 1), null), scores], axis=1) / temperature
    odds = np.exp(logits - logits.max(axis=1, keepdims=True))
    shares: npt.NDArray[np.float64] = odds / odds.sum(axis=1, keepdims=True)
    return shares[:, 1:]
