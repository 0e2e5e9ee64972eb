"""
The recipe: how long and how hard each of the three steps trains (BTR section 3.2), and what shape comes out.

A recipe file is TOML with the tables below; what it leaves out keeps its default, and what it misspells is refused:

    [split]        bits = 128
    [full]         steps = 2000
    [decomposed]   steps = 1000      logits = 1.0
    [binarized]    steps = 600
    [data]         window = 144
    [retrieval]    epochs = 30
"""

from __future__ import annotations

import math
import tomllib
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from export.reader import SplitConfig
from store.bundle import MOST_MERGED
from store.errors import ExportError

STEPS = ("full", "decomposed", "binarized")
STARTS = ("start_full", "start", "start_binarized", "retrieved")
"""What a run's record says it had besides checkpoint and data: readers that steps start from, and more data."""
_RANGES = {
    "split_layer": (1, math.inf),
    "upper_layers": (1, math.inf),
    "share": (0.01, 1),
    "warmup": (0, 1),
    "temperature": (0.01, 100),
    "lr": (0, 1),
    "head_lr": (0, 1),
    "sentences_every": (1, math.inf),
    "window": (16, 400),
    "short_window": (16, 400),
    "short": (0, 1),
    "bare": (0, 1),
    "average": (0, 1),
    "exact": (0, 1),
    "merging": (0, MOST_MERGED),
    "pair_tokens": (64, math.inf),
    "unanswerable": (0, 0.5),
    "second": (0, 1),
    "others": (1, 100),
    "passages": (1, math.inf),
    "epochs": (1, math.inf),
}
"""What a number may be; from 0 on where nothing is said."""
_TASK_ONLY = (
    "steps",
    "lr",
    "head_lr",
    "warmup",
    "weight_decay",
    "unanswerable",
    "second",
    "short",
    "average",
    "rounded",
    "copying",
)
"""The settings that the full step heeds: its only losses are the task's and copying."""
_LATER = (
    *(("teacher", "full"), ("rounded", False), ("others", 1)),
    *((name, 0.0) for name in ("average", "exact", "copying", "merging")),
)
"""Settings that came later, as they were before: the records of older runs lack them."""


@dataclass(frozen=True)
class StepConfig:
    """One step. A weight of 0 leaves its loss out; 0 steps leave the step out."""

    steps: int = 1000
    lr: float = 1.5e-4
    head_lr: float = 1e-3
    """For what starts from nothing or is fitted: heads, binarizer, shared-token embedding."""
    warmup: float = 0.03
    weight_decay: float = 0.01
    unanswerable: float = 0.1
    """Share of questions that see only a passage without the answer: theirs is the null option."""
    second: float = 0.1
    """Share of questions that see such passages next to the right one."""
    short: float = 0.0
    """Share of the steps, the first ones, that read short windows: twice as many questions a second."""
    average: float = 0.0
    """Share of the steps, the last ones, over whose weights the reader's own are averaged."""
    rounded: bool = False
    """Whether the products' inputs are rounded as those of int8 graphs are, so that the reader learns to bear it."""
    teacher: str = "full"
    """Whose states and logits it learns from: the full reader's, or in the binarized step the decomposed one's."""
    tokens: float = 0.0
    """Weight of the query-aware passage token distillation."""
    share: float = 0.5
    """Share of a passage's tokens that it looks at: those that the teacher's question attends to most; 1 is all."""
    logits: float = 0.0
    """Weight of the logit distillation."""
    temperature: float = 2.0
    recovery: float = 0.0
    """Weight of the passage representation recovery."""
    bare: float = 0.0
    """Share of the passages whose common words are restored without their bits, as in a compacted store."""
    exact: float = 0.0
    """Share of the steps that read the passages' own states, not those restored: what a second look reads."""
    merging: float = 0.0
    """Highest runtime ratio that a generative reader meets: every second step merges tokens, at one drawn up to it."""
    copying: float = 0.0
    """Weight of a generative reader's copying loss: its decoder is to look at the tokens that it writes."""
    early: float = 0.5
    """Weight of the early span head's task loss."""
    sentences: float = 1.0
    """Weight of the retrieval head's distillation."""
    sentences_every: int = 3
    """Distil the sentence embeddings at every n-th step."""


@dataclass(frozen=True)
class DataConfig:
    """What a batch is made of."""

    window: int = 144
    """Longest passage, tokens."""
    short_window: int = 64
    """The same in the steps that read short windows."""
    pair_tokens: int = 4096
    """Padded question-passage tokens a batch."""
    seed: int = 0
    """Decides the order of the batches: a run that goes on from another run's reader wants one of its own."""
    others: int = 1
    """Most passages next to the right one."""


@dataclass(frozen=True)
class FusionData(DataConfig):
    """The same for Fusion-in-Decoder, which reads many passages at once; those of the batch are drawn from."""

    window: int = 320
    others: int = 9


@dataclass(frozen=True)
class RetrievalConfig:
    """The retrieval head's last stage, on the finished lower encoder."""

    passages: int = 6000
    epochs: int = 30
    lr: float = 1e-3


@dataclass(frozen=True)
class Recipe:
    """Everything that decides a run but its data."""

    split: SplitConfig = field(default_factory=SplitConfig)
    full: StepConfig = field(default_factory=lambda: StepConfig(steps=2000))
    decomposed: StepConfig = field(default_factory=lambda: StepConfig(steps=1200, tokens=1.0, logits=1.0))
    binarized: StepConfig = field(
        default_factory=lambda: StepConfig(
            steps=800, lr=1e-4, teacher="decomposed", tokens=1.0, share=1.0, logits=1.0, recovery=1.0, bare=1.0
        )
    )
    data: DataConfig = field(default_factory=DataConfig)
    retrieval: RetrievalConfig = field(default_factory=RetrievalConfig)

    def step(self, name: str) -> StepConfig:
        """The configuration of the step of this name."""
        config: StepConfig = getattr(self, name)
        return config

    def upto(self, name: str) -> dict[str, Any]:
        """What decides the weights at the end of a step: its own table, those before it, data and shape."""
        known: dict[str, Any] = {"data": _as_before(self.data)}
        for step in STEPS[: STEPS.index(name) + 1]:
            known[step] = _as_before(self.step(step))
        known["full"] = {k: v for k, v in known["full"].items() if k in _TASK_ONLY}
        shape = asdict(self.split)
        if name == "decomposed":
            shape = {k: v for k, v in shape.items() if k not in ("binarizer", "bits")}
        return known if name == "full" else {**known, "split": shape}


def _as_before(config: StepConfig | DataConfig) -> dict[str, Any]:
    """A table as it was recorded before there were the settings that came later, where they are as they were."""
    return {name: value for name, value in asdict(config).items() if (name, value) not in _LATER}


_PAPER = StepConfig(steps=20_000, lr=6e-5, warmup=0.01, unanswerable=0.1, second=0.9, early=0.0, sentences=0.0)
GENERATIVE = Recipe(
    split=SplitConfig(split_layer=9, upper_layers=3, binarizer="norm", match_rank=0),
    full=_PAPER,
    decomposed=replace(_PAPER, tokens=1.0),
    binarized=replace(_PAPER, recovery=1.0),
    data=FusionData(),
)
"""The default for a T5: the paper's settings for T5-base."""


def default_recipe(model_type: str) -> Recipe:
    """The recipe of an architecture, before anything is set."""
    return GENERATIVE if model_type == "t5" else Recipe()


def load_recipe(path: Path | None, settings: Sequence[str] = (), default: Recipe | None = None) -> Recipe:
    """
    A recipe from a TOML file, then from settings "table.name=value", over a default.

    Raises:
        ExportError: If the file is missing, something is not TOML, or names what no recipe has.
    """
    tables: dict[str, Any] = {}
    if path is not None:
        try:
            tables = tomllib.loads(path.read_text(encoding="utf-8"))
        except OSError as error:
            raise ExportError(f"{path} cannot be read ({error.strerror}): give a recipe file") from error
        except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
            raise ExportError(f"{path} is not TOML ({error}): correct it") from error
    for setting in settings:
        try:
            ((table, values),) = tomllib.loads(setting).items()
            tables.setdefault(table, {}).update(values)
        except (tomllib.TOMLDecodeError, ValueError, TypeError, AttributeError) as error:
            raise ExportError(f"{setting!r} is no setting: write table.name=value, a text in quotes") from error
    return make_recipe(tables, str(path) if path else "the recipe", default)


def make_recipe(tables: dict[str, Any], origin: str, default: Recipe | None = None) -> Recipe:
    """
    A recipe from tables of settings, over a default.

    Raises:
        ExportError: If a table or a setting is unknown, or a value has the wrong type.
    """
    default = default or Recipe()
    parts = {}
    known = {f.name for f in fields(Recipe)}
    for table, settings in tables.items():
        if table not in known or not isinstance(settings, dict):
            raise ExportError(f"{origin} has no table [{table}] to set: the tables are {', '.join(sorted(known))}")
        base = getattr(default, table)
        values = asdict(base)
        for name, value in settings.items():
            if name not in values:
                raise ExportError(f"{origin}: [{table}] has no setting {name}: it has {', '.join(values)}")
            wanted = type(values[name])
            if wanted is float and type(value) is int:
                value = float(value)
            low, high = _RANGES.get(name, (0, math.inf))
            if type(value) is wanted and wanted is not str and not low <= value <= high:
                raise ExportError(f"{origin}: [{table}] {name} must be {low:g} to {high:g}, not {value!r}")
            if type(value) is not wanted:
                raise ExportError(f"{origin}: [{table}] {name} must be {wanted.__name__}, not {value!r}")
            values[name] = value
        parts[table] = type(base)(**values)
    return replace(default, **parts)
