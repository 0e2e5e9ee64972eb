"""
The command line: each command parses, calls once, prints. Answers go to stdout, talk to stderr.

Exit codes: 0 answered or done, 1 nothing found or not in your notes, 2 usage or configuration, 3 store, 4 bundle,
5 finished but some files failed, 70 a bug of ours, 130 interrupted. Slow imports stand inside the command that needs
them.
"""

from __future__ import annotations

import io
import json
import os
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

import click

from app import __version__
from app.display import plain, short
from app.places import Places, resolve
from store.errors import BtrError, UsageError

if TYPE_CHECKING:
    from app.assistant import Answer, SearchResult, Source
    from app.evaluation import Examination
    from app.indexer import Progress

NOTHING_FOUND, FILES_FAILED, BUG, INTERRUPTED = 1, 5, 70, 130

_CONTEXT = {"help_option_names": ["-h", "--help"], "max_content_width": 100}


@click.group(invoke_without_command=True, context_settings=_CONTEXT)
@click.option("--store", metavar="FILE", help="The store to use (default: in your data folder).")
@click.option("--bundle", metavar="FOLDER", help="The model to use (default: the embedded one).")
@click.option("--device", metavar="NAME", help="cpu, or an accelerator that ONNX Runtime offers here (default: cpu).")
@click.version_option(__version__, prog_name="btr-assistant")
@click.pass_context
def cli(context: click.Context, store: str | None, bundle: str | None, device: str | None) -> None:
    """Answers questions from your own notes, offline. Without a command: opens the chat.

    \b
    btr-assistant index ~/notes
    btr-assistant ask "when was the boiler serviced?"
    btr-assistant
    """
    context.color = False if os.environ.get("NO_COLOR") else None
    context.obj = resolve(store, bundle, device)
    if context.invoked_subcommand is None:
        if not _on_terminal():
            raise UsageError("the chat needs a terminal: use btr-assistant ask 'your question' in a pipe")
        from app.assistant import Assistant
        from app.chat import run_chat

        run_chat(lambda: Assistant.open(context.obj))


@cli.command()
@click.argument("paths", nargs=-1, required=True, metavar="PATH...")
@click.option("-q", "--quiet", is_flag=True, help="Print nothing but failures.")
@click.pass_obj
def index(places: Places, paths: tuple[str, ...], quiet: bool) -> None:
    """Encode folders of notes; again for what is new, changed or gone.

    Read: Markdown, text, reStructuredText, Org, HTML, PDF, Word, Jupyter notebooks, e-mail (docs/formats.md).

    Example: btr-assistant index ~/notes
    """
    from app.bundle import Bundle
    from app.documents import check_root
    from app.indexer import index as run
    from app.indexer import writer_lock
    from store.tokens import TokenStore

    roots = [check_root(Path(path)) for path in paths]
    bundle = Bundle.open(places.bundle, places.device)
    with (
        writer_lock(places.lock),
        TokenStore.create(places.store, bundle.manifest.fingerprint, bundle.manifest.name) as store,
    ):
        show = _ProgressLine(sys.stderr, quiet)
        try:
            report = run(store, bundle, roots, show)
        except KeyboardInterrupt:
            raise KeyboardInterrupt("every note finished so far is kept, run it again to go on") from None
        finally:
            show.end()
    for path, reason in [*report.warnings, *report.failed]:
        click.echo(f"{plain(path)} {reason}", err=True)
    if not quiet:
        pace = f", {report.tokens / report.seconds:,.0f} tokens/s" if report.tokens and report.seconds else ""
        click.echo(
            f"{report.notes:,} notes: {report.indexed:,} indexed, {report.unchanged:,} unchanged, "
            f"{report.removed:,} removed, {len(report.failed):,} failed; "
            f"{report.tokens:,} tokens in {report.seconds:.1f} s{pace}",
            err=True,
        )
    if report.failed:
        sys.exit(FILES_FAILED)


@cli.command()
@click.argument("question", required=False)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
@click.option("--batch", metavar="FILE", help="Answer every line of a file (- for standard input) as JSON lines.")
@click.option("-n", "--passages", default=20, show_default=True, type=click.IntRange(1, 100), help="Passages to read.")
@click.pass_obj
def ask(places: Places, question: str | None, as_json: bool, batch: str | None, passages: int) -> None:
    """Answer a question from your notes, with its source.

    Example: btr-assistant ask "when was the boiler serviced?"
    """
    if (question is None) == (batch is None):
        raise UsageError("give a question or --batch FILE: btr-assistant ask 'when was the boiler serviced?'")
    from app.assistant import Assistant, check_question

    if batch is not None:
        with _open_lines(batch) as lines, Assistant.open(places) as assistant:
            for line in _questions(lines):
                print_json(assistant.ask(line, passages).to_json(), indent=None)
                sys.stdout.flush()
        return
    assert question is not None
    check_question(question)
    with Assistant.open(places) as assistant:
        answer = assistant.ask(question, passages)
    if as_json:
        print_json(answer.to_json())
    else:
        _print_answer(answer)
    if answer.abstained:
        sys.exit(NOTHING_FOUND)


@cli.command()
@click.argument("query")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
@click.option("-n", "--limit", default=10, show_default=True, type=click.IntRange(1, 1000), help="Passages to list.")
@click.pass_obj
def search(places: Places, query: str, as_json: bool, limit: int) -> None:
    """List the passages closest to some words, without reading them.

    Example: btr-assistant search "boiler pressure valve"
    """
    from app.assistant import SCHEMA_VERSION, Assistant, check_question

    check_question(query)
    with Assistant.open(places) as assistant:
        results = assistant.search(query, limit)
    if as_json:
        rows = [asdict(result) for result in results]
        print_json({"schema_version": SCHEMA_VERSION, "query": query.strip(), "results": rows})
    for result in () if as_json else results:
        click.secho(_place(result), fg="cyan", nl=False)
        click.secho(f"  {plain(result.heading)}", dim=True)
        click.echo("    " + " ".join(plain(result.text).split())[:200])
    if not results:
        if not as_json:
            click.echo("Nothing found.", err=True)
        sys.exit(NOTHING_FOUND)


@cli.command()
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
@click.option("--failed", is_flag=True, help="List the files that could not be indexed, and why.")
@click.pass_obj
def status(places: Places, as_json: bool, failed: bool) -> None:
    """Show what is indexed and how much room it takes.

    Example: btr-assistant status
    """
    from app.assistant import SCHEMA_VERSION
    from store.bundle import read_manifest
    from store.tokens import TokenStore

    manifest = read_manifest(places.bundle)
    with TokenStore.open(places.store, manifest.fingerprint) as store:
        counts, sources, failures = store.counts(), store.sources(), store.failures()
    if as_json:
        listed = {"failures": [{"path": path, "reason": reason} for path, reason in failures]} if failed else {}
        print_json(
            {
                "schema_version": SCHEMA_VERSION,
                "notes": counts.notes,
                "passages": counts.passages,
                "tokens": counts.tokens,
                "failed": counts.failed,
                "store_bytes": counts.store_bytes,
                "bytes_per_token": round(counts.bytes_per_token, 2),
                "model": manifest.name,
                "sources": sources,
                **listed,
            }
        )
        return
    if failed:
        for path, reason in failures:
            click.echo(f"{plain(path)} {reason}")
        return
    click.echo(f"notes      {counts.notes:,} ({counts.failed:,} failed)")
    click.echo(f"passages   {counts.passages:,}")
    click.echo(f"tokens     {counts.tokens:,}, {counts.bytes_per_token:.1f} bytes each (bits, scales, passage codes)")
    click.echo(f"store      {places.store}, {counts.store_bytes / 1e6:.1f} MB with the notes' text and search index")
    click.echo(f"model      {manifest.name} ({manifest.reader}, {manifest.fingerprint})")
    for source in sources:
        click.echo(f"source     {source}")


@cli.command("eval")
@click.argument("questions", metavar="FILE", type=click.Path(path_type=Path))
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
@click.option("-n", "--passages", default=20, show_default=True, type=click.IntRange(1, 100), help="Passages to read.")
@click.option("--every", default=1, show_default=True, type=click.IntRange(1), help="Ask every n-th question only.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object a reader.")
@click.pass_obj
def evaluate(
    places: Places,
    questions: Path,
    opened: bool,
    without: bool,
    readers: tuple[str, ...],
    passages: int,
    every: int,
    as_json: bool,
) -> None:
    """Measure answers to questions whose answers are known: JSONL or SQuAD's format.

    Example: btr-assistant eval my-questions.jsonl --open
    """
    if without and not opened:
        raise UsageError("--without needs --open: an article can only be left out of a store")
    from app.evaluation import summary

    with _examination(places, questions, opened, every) as examination:
        for name in readers:
            outcomes = examination.ask(name, passages, without, _Counter(sys.stderr))
            figures = summary(outcomes, name, examination.calibration, opened)
            if as_json:
                print_json(figures, indent=None)
            else:
                _print_figures(figures)


@cli.command()
@click.argument("questions", metavar="FILE", type=click.Path(path_type=Path), required=False)
@click.option("-n", "--passages", default=20, show_default=True, type=click.IntRange(1, 100), help="Passages to read.")
@click.option("--every", default=1, show_default=True, type=click.IntRange(1), help="Ask every n-th question only.")
@click.option("--dry-run", is_flag=True, help="Print the calibration, keep the old one.")
@click.option("--reset", is_flag=True, help="Go back to the bundle's own calibration.")
@click.pass_obj
def calibrate(places: Places, questions: Path | None, passages: int, every: int, dry_run: bool, reset: bool) -> None:
    """Fit confidence and "not in your notes" to your own questions (JSONL: question, answers).

    Each question is asked over the store, and again without the notes that answer it.

    Example: btr-assistant calibrate my-questions.jsonl
    """
    from app.calibration import SETTING, fit
    from app.indexer import writer_lock
    from store.tokens import TokenStore

    if (questions is None) != reset:
        raise UsageError("give a FILE of questions, or --reset: btr-assistant calibrate my-questions.jsonl")
    if questions is None:
        with writer_lock(places.lock), TokenStore.open(places.store) as store:
            store.put_setting(SETTING, None)
        click.echo("the bundle's own calibration is used again", err=True)
        return
    with _examination(places, questions, opened=True, every=every) as examination:
        outcomes = examination.ask("binarized", passages, True, _Counter(sys.stderr))
        try:
            calibration = fit([outcome.observation for outcome in outcomes])
        except ValueError as error:
            raise UsageError(f"{error}: add questions to {questions}") from error
        for name, value in asdict(calibration).items():
            click.echo(f"{name:<12} {value:g}")
    if not dry_run:
        with writer_lock(places.lock), TokenStore.open(places.store) as store:
            store.put_setting(SETTING, calibration.to_json())


@contextmanager
def _examination(places: Places, questions: Path, opened: bool, every: int) -> Iterator[Examination]:
    """The questions of a file over an open bundle and, if asked for, the store."""
    from app.bundle import Bundle
    from app.evaluation import Examination, load_questions

    chosen = load_questions(questions)[::every]
    bundle = Bundle.open(places.bundle, places.device)
    if not opened:
        yield Examination(chosen, bundle, None)
        return
    from store.tokens import TokenStore

    with TokenStore.open(places.store, bundle.manifest.fingerprint) as store:
        yield Examination(chosen, bundle, store)


def _print_figures(figures: dict[str, Any]) -> None:
    """A reader's figures for a person."""
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


def _on_terminal() -> bool:
    return sys.stdin.isatty() and sys.stdout.isatty()


def print_json(value: dict[str, Any], indent: int | None = 2) -> None:
    """One JSON object on stdout; escaped where stdout could not hold every character."""
    utf8 = (sys.stdout.encoding or "").lower().replace("-", "") == "utf8"
    click.echo(json.dumps(value, ensure_ascii=not utf8, indent=indent))


def _print_answer(answer: Answer) -> None:
    if answer.answer is None:
        click.echo("Not in your notes.")
        if answer.sources:
            click.echo("Closest passages:")
        for source in answer.sources:
            click.echo(f"  {_place(source)}  {plain(source.heading)}{_stale(source)}")
    else:
        source = answer.sources[0]
        click.secho(plain(answer.answer), bold=True)
        click.echo()
        quote, (first, last) = plain(source.quote), source.marked
        click.echo("  " + quote[:first], nl=False)
        click.secho(f"[{quote[first:last]}]", bold=True, nl=False)
        click.echo(quote[last:])
        click.echo(f"  {_place(source)}  {plain(source.heading)}{_stale(source)}")
    timings = answer.timings_ms
    click.echo(
        f"  confidence {answer.confidence:.0%} · {timings.total:.0f} ms: retrieve {timings.retrieve:.0f}, "
        f"load {timings.load:.0f}, read {timings.read:.0f}"
    )


def _place(found: Source | SearchResult) -> str:
    """Where something stands: a page, in a file that has them, else a line."""
    return f"{short(found.path)}, page {found.page}" if found.page is not None else f"{short(found.path)}:{found.line}"


def _stale(source: Source) -> str:
    return "  (changed since it was indexed)" if source.stale else ""


def _open_lines(name: str) -> TextIO:
    if name == "-":
        return io.TextIOWrapper(sys.stdin.buffer, encoding="utf-8-sig")
    try:
        return Path(name).open(encoding="utf-8-sig")
    except OSError as error:
        raise UsageError(f"cannot read {name} ({error.strerror}): give a file with one question a line") from error


def _questions(lines: TextIO) -> Iterator[str]:
    """One question a line, or one JSON object with `question` a line; blank lines are left out."""
    number = 0
    try:
        for number, line in enumerate(lines, start=1):
            text = line.strip()
            if text:
                yield _question(text, number)
    except UnicodeDecodeError as error:
        raise UsageError(f"the questions are not UTF-8 after line {number}: save them as UTF-8") from error


def _question(text: str, number: int) -> str:
    from app.assistant import check_question

    if text.startswith("{"):
        try:
            text = json.loads(text)["question"]
        except (ValueError, KeyError, RecursionError) as error:
            raise UsageError(f"line {number} is no JSON object with a question: correct it") from error
        if not isinstance(text, str):
            raise UsageError(f"line {number} has a question that is no text: correct it")
    try:
        return check_question(text)
    except UsageError as error:
        raise UsageError(f"line {number}: {error}") from error


class _ProgressLine:
    """Index progress on one line of a terminal; silent in a pipe."""

    def __init__(self, stream: TextIO, quiet: bool) -> None:
        self._stream = stream
        self._on = stream.isatty() and not quiet
        self._shown = 0.0

    def __call__(self, progress: Progress) -> None:
        last = progress.done == progress.total
        if not self._on or (progress.seconds - self._shown < 0.1 and not last):
            return
        self._shown = progress.seconds
        left = round(progress.seconds_left)
        self._stream.write(
            f"\r\x1b[K{progress.done:,} of {progress.total:,} notes · {progress.notes_per_second:,.0f} notes/s · "
            f"{left // 60}:{left % 60:02d} left"
        )
        self._stream.flush()

    def end(self) -> None:
        """Leave the line."""
        if self._on:
            self._stream.write("\r\x1b[K")
            self._stream.flush()


class _Counter:
    """ "12 of 400 questions" on one line of a terminal; silent in a pipe."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def __call__(self, done: int, total: int) -> None:
        if self._stream.isatty():
            self._stream.write(f"\r\x1b[K{done:,} of {total:,} questions" if done < total else "\r\x1b[K")
            self._stream.flush()


def main() -> None:
    """The `btr-assistant` command: errors a person can act on become one sentence and an exit code."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")  # a terminal or pipe that lacks a character still gets the rest
    try:
        sys.exit(cli.main(prog_name="btr-assistant", standalone_mode=False) or 0)
    except BtrError as error:
        click.echo(f"btr-assistant: {error}", err=True)
        sys.exit(error.exit_code)
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except (click.Abort, KeyboardInterrupt) as interrupt:
        cause = interrupt.__cause__ or interrupt.__context__ or interrupt
        click.echo("; ".join(["btr-assistant: interrupted", *map(str, cause.args)]), err=True)
        sys.exit(INTERRUPTED)
    except Exception:  # not 1, which means "not in your notes"
        traceback.print_exc()
        click.echo("btr-assistant: this is a bug, please report it with the lines above", err=True)
        sys.exit(BUG)
