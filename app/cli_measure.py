"""
The commands that measure answers, and fit confidence to what was measured: eval, calibrate.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from app.cli_base import Counter, json_option, pass_places, passages_option, print_json
from app.places import Places
from store.errors import UsageError

if TYPE_CHECKING:
    from app.evaluation import Examination

_every_option = click.option(
    "--every",
    metavar="N",
    default=1,
    show_default=True,
    type=click.IntRange(1),
    help="Ask every n-th question only.",
)


@click.command("eval")
@click.argument("questions", metavar="[FILE]", type=click.Path(path_type=Path), required=False)
@click.option("--mine", is_flag=True, help="Ask again what was marked in the chat; without FILE.")
@click.option("--rows", is_flag=True, help="With --mine: print those questions as a FILE for eval and calibrate.")
@click.option("--open", "opened", is_flag=True, help="Retrieve from the store; without it, read each row's context.")
@click.option("--without", is_flag=True, help="With --open: ask again over everything but the question's article.")
@click.option(
    "--reader",
    "readers",
    multiple=True,
    default=("binarized",),
    show_default=True,
    type=click.Choice(["binarized", "split", "full"]),
    help="Repeatable; split and full need a bundle made with them.",
)
@passages_option
@click.option("--finish", metavar="N", type=click.IntRange(1), help="Passages that the reader reads to the end.")
@click.option(
    "--looks",
    metavar="N",
    type=click.IntRange(0),
    help="Passages it looks at again without bits, at most; 0: bits alone.",
)
@click.option(
    "--ratio", metavar="R", type=click.FloatRange(0, 0.5), help="Share of tokens that a generative reader merges."
)
@click.option(
    "--beams", metavar="N", type=click.IntRange(1, 16), help="Answers that a generative reader follows at once."
)
@_every_option
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object a reader (docs/json.md).")
@pass_places
def evaluate(
    places: Places,
    questions: Path | None,
    mine: bool,
    rows: bool,
    opened: bool,
    without: bool,
    readers: tuple[str, ...],
    passages: int,
    finish: int | None,
    looks: int | None,
    ratio: float | None,
    beams: int | None,
    every: int,
    as_json: bool,
) -> None:
    """Measure answers to questions whose answers are known.

    FILE is JSONL, a line being {"question": "...", "answers": ["..."]}, or SQuAD's format.

    Example: btr-assistant eval my-questions.jsonl --open
    """
    if mine:
        if questions is not None:
            raise UsageError("--mine brings its own questions: leave the FILE out")
        from app.cli_sessions import evaluate_mine

        evaluate_mine(places, rows, as_json)
        return
    if rows:
        raise UsageError("--rows needs --mine: btr-assistant eval --mine --rows")
    if questions is None:
        raise UsageError("give a FILE of questions, or --mine: btr-assistant eval my-questions.jsonl --open")
    if without and not opened:
        raise UsageError("--without needs --open: an article can only be left out of a store")
    from app.evaluation import summary

    with _examination(places, questions, opened, every, finish, looks, ratio, beams) as examination:
        for name in readers:
            examination.reader(name)  # one that is missing is told before the others are measured
        for name in readers:
            outcomes = examination.ask(name, passages, without, Counter(sys.stderr))
            figures = summary(outcomes, name, examination.calibration, opened)
            if as_json:
                print_json(figures, indent=None)
            else:
                _print_figures(figures)


@click.command()
@click.argument("questions", metavar="FILE", type=click.Path(path_type=Path), required=False)
@passages_option
@_every_option
@click.option("--dry-run", is_flag=True, help="Print the calibration, keep the old one.")
@click.option("--reset", is_flag=True, help="Go back to the bundle's own calibration.")
@json_option
@pass_places
def calibrate(
    places: Places, questions: Path | None, passages: int, every: int, dry_run: bool, reset: bool, as_json: bool
) -> None:
    """Fit confidence and "not in your notes" to your questions.

    Each question of the FILE (as for eval) is asked over the store, and again without the notes that answer it.

    Example: btr-assistant calibrate my-questions.jsonl
    """
    from functools import partial

    from app.calibration import SETTING, fit, in_force
    from app.indexer import writer_lock
    from store.bundle import read_manifest
    from store.tokens import TokenStore

    if (questions is None) != reset:
        raise UsageError("give a FILE of questions, or --reset: btr-assistant calibrate my-questions.jsonl")
    if questions is None:
        with writer_lock(places.lock), TokenStore.open(places.store) as store:
            store.put_setting(SETTING, None)
        if as_json:
            print_json({**asdict(in_force(None, read_manifest(places.bundle))), "kept": True})
            return
        click.echo("the bundle's own calibration is used again", err=True)
        return
    with _examination(places, questions, opened=True, every=every, own_calibration=False) as examination:
        outcomes = examination.ask("binarized", passages, True, Counter(sys.stderr))
        try:
            calibration = fit([outcome.observation for outcome in outcomes])
        except ValueError as error:
            raise UsageError(f"{error}: add questions to {questions}") from error
    if not dry_run:  # minutes of asking are not thrown away because something is being indexed
        with writer_lock(places.lock, partial(click.echo, err=True)), TokenStore.open(places.store) as store:
            store.put_setting(SETTING, calibration.to_json(examination.bundle.manifest))
    figures = asdict(calibration)
    if as_json:
        print_json({**figures, "kept": not dry_run})
    for name, value in () if as_json else figures.items():
        click.echo(f"{name:<12} {value:g}")


@contextmanager
def _examination(
    places: Places,
    questions: Path,
    opened: bool,
    every: int,
    finish: int | None = None,
    looks: int | None = None,
    ratio: float | None = None,
    beams: int | None = None,
    own_calibration: bool = True,
) -> Iterator[Examination]:
    """The questions of a file over an open bundle and, if asked for, the store."""
    from app.bundle import Bundle
    from app.evaluation import Examination, load_questions

    chosen = load_questions(questions)
    bundle = Bundle.open(places.bundle, places.device)
    if not opened:
        yield Examination(chosen, bundle, None, every, finish, looks, ratio, beams)
        return
    from store.tokens import TokenStore

    with TokenStore.open(places.store, bundle.manifest.fingerprint) as store:
        yield Examination(chosen, bundle, store, every, finish, looks, ratio, beams, own_calibration)


def _print_figures(figures: dict[str, Any]) -> None:
    """A reader's figures for a person."""
    if not figures["questions"]:
        click.echo(f"{figures['reader']:<10} no question has an answer that could be found")
        return
    click.echo(
        f"{figures['reader']:<10} {figures['questions']:,} questions, EM {figures['em']:.1f}, F1 {figures['f1']:.1f}, "
        f"p50 / p95 {figures['ms_per_question']['p50']:.0f} / {figures['ms_per_question']['p95']:.0f} ms"
    )
    if figures["recall_at_k"]:
        recall = ", ".join(f"@{k} {share:.1%}" for k, share in figures["recall_at_k"].items())
        click.echo(f"retrieval  recall {recall}, MRR {figures['mrr']:.3f}")
    abstention = figures["abstention"]
    if abstention:
        click.echo(
            f"abstention at confidence {abstention['threshold']:.2f}: answers {abstention['answered']:.1%} of what "
            f"can be answered, refuses {abstention['recall']:.1%} of what cannot "
            f"(precision {abstention['precision']:.1%}), AUROC {abstention['auroc']:.3f}"
        )
    click.echo("coverage   " + " ".join(f"{point['coverage']:>6.0%}" for point in figures["coverage"]))
    click.echo("wrong      " + " ".join(f"{point['risk']:>6.1%}" for point in figures["coverage"]))
    click.echo("confidence " + " ".join(f"{point['confidence']:>6.2f}" for point in figures["coverage"]))


COMMANDS = (evaluate, calibrate)
