"""
When to answer: span scores become a confidence, and a confidence below the threshold becomes "not in your notes".

A question's best spans compete with each other and with no answer in one softmax, with a temperature because a reader
that saw two passages in training is too sure over twenty. The three numbers come with the bundle, fitted on validation
questions; `btr-assistant calibrate` fits them on a person's own and keeps them in the store.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass

import numpy as np
import numpy.typing as npt

from store.bundle import GRAPHS, Manifest, check_calibration
from store.errors import StoreError

ENOUGH = 10
"""Observations of either kind that a calibration is fitted to."""
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

    def bar(self) -> float:
        """The score from which a span that has no rival is given as an answer; infinite if none or any would be."""
        if not 0 < self.threshold < 1:
            return math.inf if self.threshold else -math.inf
        return self.null_logit + self.temperature * math.log(self.threshold / (1 - self.threshold))

    def confidences(self, answers: Sequence[str], scores: Sequence[float]) -> dict[str, float]:
        """
        Answer in lower case -> the probability of all spans that read so, in the order in which they come.

        Answers are the best spans of different passages, best first, with their scores.
        """
        shares: dict[str, float] = {}
        for answer, share in zip(answers, self.probabilities(scores), strict=True):
            shares[answer.casefold()] = shares.get(answer.casefold(), 0.0) + share
        return {answer: min(1.0, share) for answer, share in shares.items()}

    def to_json(self, manifest: Manifest) -> str:
        """As the store keeps it, with the reader that it was fitted to."""
        return json.dumps({**asdict(self), "reader": _reader(manifest)})


@dataclass(frozen=True)
class Observation:
    """How one question went: what `fit` learns from."""

    answers: Sequence[str]
    """The passages' best spans, best first."""
    scores: Sequence[float]
    """Theirs."""
    right: bool
    """The best span is a right answer."""


def in_force(kept: str | None, manifest: Manifest) -> Calibration:
    """
    What a store keeps, if it was fitted to this reader; else what the bundle comes with.

    Raises:
        StoreError: If the store's is damaged.
    """
    own = Calibration(manifest.null_logit, manifest.temperature, manifest.threshold)
    if kept is None:
        return own
    try:
        values = json.loads(kept)
        reader = values.pop("reader")
        calibration = Calibration(**values)
        check_calibration(**asdict(calibration))
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise StoreError(
            f"the store's calibration is damaged ({error}): run btr-assistant calibrate --reset"
        ) from error
    return calibration if reader == _reader(manifest) else own


def _reader(manifest: Manifest) -> str:
    """What tells readers over the same bits apart."""
    return " ".join(manifest.files[name][:16] for name in GRAPHS[manifest.reader][1:])


def fit(observations: Sequence[Observation]) -> Calibration:
    """
    The calibration under which the observed rights and wrongs are likeliest, and the threshold that parts them best.

    Null logit and temperature minimise the cross-entropy of "the best answer is right" against its confidence, on a
    grid that is then refined around its best point; the threshold maximises the mean of two shares: right answers
    that are given, wrong ones that are held back.

    Raises:
        ValueError: If fewer than `ENOUGH` are right, or wrong: three numbers cannot be told from them.
    """
    right = np.array([observation.right for observation in observations])
    if min(right.sum(), (~right).sum()) < ENOUGH:
        raise ValueError(
            f"{right.sum():,} questions are answered right and {(~right).sum():,} are not, "
            f"a calibration needs at least {ENOUGH} of either"
        )
    width = max(len(observation.scores) for observation in observations)
    scores = np.full((len(right), width), -np.inf)
    same = np.zeros((len(right), width), dtype=bool)
    for row, observation in enumerate(observations):
        scores[row, : len(observation.scores)] = observation.scores
        same[row, : len(observation.answers)] = [
            answer.casefold() == observation.answers[0].casefold() for answer in observation.answers
        ]

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
    given = np.array([(sure[right] >= t).mean() + (sure[~right] < t).mean() for t in thresholds])
    best = np.flatnonzero(np.isclose(given, given.max()))
    return Calibration(null, temperature, round(float(thresholds[best[len(best) // 2]]), 2))


def _softmax(scores: npt.NDArray[np.float64], null: float, temperature: float) -> npt.NDArray[np.float64]:
    """Scores (q, p) -> probabilities (q, p) beside the null option's."""
    logits = np.concatenate([np.full((len(scores), 1), null), scores], axis=1) / temperature
    odds = np.exp(logits - logits.max(axis=1, keepdims=True))
    shares: npt.NDArray[np.float64] = odds / odds.sum(axis=1, keepdims=True)
    return shares[:, 1:]
