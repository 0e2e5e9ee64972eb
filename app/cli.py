"""
The command line: each command parses, calls once, prints. Answers go to stdout, talk to stderr.

Exit codes: 0 answered or done, 1 nothing found or not in your notes, 2 usage or configuration, or a source that was
left as it is because too much of it is gone, 3 store, 4 bundle, 5 finished but some files failed, 70 a bug of ours,
130 interrupted. Slow imports stand inside the command that needs them.
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
from app.cli_trust import COMMANDS
from app.display import plain, short
from app.places import Places, resolve
from store.errors import BtrError, UsageError

if TYPE_CHECKING:
    from app.assistant import Answer, Assistant, SearchResult, Source
    from app.bundle import Bundle
    from app.evaluation import Examination
    from app.indexer import Progress, Report
    from store.scope import Scope

NOTHING_FOUND, REFUSED, FILES_FAILED, BUG, INTERRUPTED = 1, 2, 5, 70, 130
_MOST_LISTED = 20
"""Files that an index run names of those that it did not read."""

_CONTEXT = {"help_option_names": ["-h", "--help"], "max_content_width": 100}


@click.group(invoke_without_command=True, context_settings=_CONTEXT)
@click.option("--store", metavar="FILE", help="The store to use (default: in your data folder).")
@click.option("--bundle", metavar="FOLDER", help="The model to use (default: the embedded one).")
@click.option("--device", metavar="NAME", help="cpu, or an accelerator that ONNX Runtime offers here (default: cpu).")
@click.option("--no-rescan", is_flag=True, help="Open the chat without looking for notes that changed.")
@click.version_option(__version__, prog_name="btr-assistant")
@click.pass_context
def cli(context: click.Context, store: str | None, bundle: str | None, device: str | None, no_rescan: bool) -> None:
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

        run_chat(lambda: Assistant.open(context.obj), lock=None if no_rescan else context.obj.lock)


for command in COMMANDS:
    cli.add_command(command)


@cli.command()
@click.argument("paths", nargs=-1, metavar="[PATH]...")
@click.option("-q", "--quiet", is_flag=True, help="Print nothing but failures.")
@click.option(
    "--dry-run", is_flag=True, help="Say what would be done, how long it would take and how large it would be."
)
@click.option("--show", metavar="FILE", help="With --dry-run: the text of one note exactly as it will be encoded.")
@click.option("--allow-deletions", is_flag=True, help="Go on though more than a third of a folder's notes are gone.")
@click.pass_obj
def index(
    places: Places, paths: tuple[str, ...], quiet: bool, dry_run: bool, show: str | None, allow_deletions: bool
) -> None:
    """Encode folders of notes; again for what is new, changed, moved or gone.

    Read: Markdown, text, reStructuredText, Org, HTML, PDF, Word, Jupyter notebooks, e-mail (docs/formats.md).

    Without PATH: every folder that was indexed or added before. What .gitignore or .btrignore ignores is left out.

    Example: btr-assistant index ~/notes
    """
    if show is not None and not dry_run:
        raise UsageError("--show needs --dry-run: btr-assistant index --dry-run --show FILE")
    from app.bundle import Bundle
    from app.indexer import index as run
    from app.indexer import writing
    from app.tree import check_root

    roots = [str(check_root(Path(path), allow_deletions)) for path in paths]
    bundle = Bundle.open(places.bundle, places.device)
    if show is not None:
        _print_encoded(bundle, Path(show))
        return
    if dry_run:
        _print_forecast(places, bundle, roots, allow_deletions)
        return
    if not roots and not places.store.is_file():
        raise UsageError(_NO_FOLDER)
    with writing(places.store, places.lock, bundle.manifest) as store:
        roots = roots or [source.root for source in store.sources()]
        if not roots:
            raise UsageError(_NO_FOLDER)
        line = _ProgressLine(sys.stderr, quiet)
        try:
            report = run(store, bundle, roots, line, allow_deletions=allow_deletions)
        except KeyboardInterrupt:
            raise KeyboardInterrupt("every note finished so far is kept, run it again to go on") from None
        finally:
            line.end()
    _print_report(report, quiet)
    if report.refused:
        sys.exit(REFUSED)
    if report.failed:
        sys.exit(FILES_FAILED)


_NO_FOLDER = "no folder is known yet: give one, btr-assistant index ~/notes"


def _print_report(report: Report, quiet: bool) -> None:
    for path, reason in [*report.warnings, *report.failed]:
        click.echo(f"{plain(path)} {reason}", err=True)
    for _, sentence in report.refused:
        click.echo(f"btr-assistant: {plain(sentence)}", err=True)
    if quiet or (report.refused and not report.notes):
        return
    for path, reason in report.skipped[:_MOST_LISTED]:
        click.echo(f"{plain(path)} {reason}", err=True)
    if len(report.skipped) > _MOST_LISTED:
        click.echo(f"and {len(report.skipped) - _MOST_LISTED:,} more like these", err=True)
    pace = f", {report.tokens / report.seconds:,.0f} tokens/s" if report.tokens and report.seconds else ""
    moved = f"{report.moved:,} moved, " if report.moved else ""
    restored = f"{report.restored:,} restored, " if report.restored else ""
    click.echo(
        f"{report.notes:,} notes: {report.indexed:,} indexed, {report.unchanged:,} unchanged, {moved}{restored}"
        f"{report.removed:,} removed, {len(report.failed):,} failed; "
        f"{report.tokens:,} tokens in {report.seconds:.1f} s{pace}",
        err=True,
    )


def _print_forecast(places: Places, bundle: Bundle, roots: list[str], allow_deletions: bool) -> None:
    from contextlib import nullcontext

    from app.preview import forecast
    from store.tokens import TokenStore

    exists = places.store.is_file()
    with TokenStore.open(places.store, bundle.manifest.fingerprint) if exists else nullcontext() as store:
        roots = roots or [source.root for source in (store.sources() if store else [])]
        if not roots:
            raise UsageError(_NO_FOLDER)
        found = forecast(store, bundle, roots, allow_deletions)
    plan = found.plan
    changed, moved = len(plan.changed), sum(move.renamed for move in plan.moves)
    restored = sum(move.document.deleted and not move.renamed for move in plan.moves)
    unchanged = plan.unchanged + len(plan.moves) - moved - restored
    for path, reason in [*found.failed, *plan.skipped]:
        click.echo(f"{plain(path)} {reason}", err=True)
    for _, sentence in plan.refused:
        click.echo(f"btr-assistant: {plain(sentence)}", err=True)
    new = len(plan.encode) - changed - len(found.failed)
    click.echo(
        f"notes      {len(plan.owners):,}: {new:,} new, {changed:,} changed, "
        f"{moved:,} moved, {restored:,} restored, {len(plan.gone):,} removed, {unchanged:,} unchanged, "
        f"{len(found.failed):,} cannot be read"
    )
    click.echo(f"to encode  {found.tokens:,} tokens")
    how = "measured in the last long run" if found.measured else "assumed, nothing was measured here yet"
    click.echo(f"time       {found.minutes:.1f} minutes at {found.speed:,.0f} tokens/s ({how})")
    click.echo(f"room       {found.store_bytes / 1e6:.1f} MB, with the notes' text and search index")
    click.echo("Nothing was changed.", err=True)
    if plan.refused:
        sys.exit(REFUSED)


def _print_encoded(bundle: Bundle, path: Path) -> None:
    from app.preview import encoded_text

    for line, heading, text in encoded_text(bundle, path):
        click.secho(f"{short(str(path))}:{line}  {plain(heading)}", bold=True)
        click.echo("\n".join(plain(part) for part in text.splitlines()))
        click.echo()


@cli.group()
def sources() -> None:
    """Folders and files that are kept in step: list, add, remove.

    Example: btr-assistant sources add ~/notes
    """


@sources.command("list")
@click.pass_obj
def sources_list(places: Places) -> None:
    """List the sources with how many notes of each are indexed.

    Example: btr-assistant sources list
    """
    from store.bundle import read_manifest
    from store.tokens import TokenStore

    with TokenStore.open(places.store, read_manifest(places.bundle).fingerprint) as store:
        for source in store.sources():
            missing = "" if os.path.lexists(source.root) else "  (not there now)"
            click.echo(f"{plain(source.root)}  {source.notes:,} notes{missing}")


@sources.command("add")
@click.argument("path")
@click.pass_obj
def sources_add(places: Places, path: str) -> None:
    """Add a folder or file, to be indexed by the next run.

    Example: btr-assistant sources add ~/notes
    """
    from app.indexer import writing
    from app.tree import check_root
    from store.bundle import read_manifest

    root = str(check_root(Path(path)))
    with writing(places.store, places.lock, read_manifest(places.bundle)) as store:
        store.add_source(root)
    click.echo(f"added {plain(root)}: run btr-assistant index to encode it", err=True)


@sources.command("remove")
@click.argument("path")
@click.option("-y", "--yes", is_flag=True, help="Do not ask.")
@click.option("--dry-run", is_flag=True, help="Say what would be forgotten.")
@click.pass_obj
def sources_remove(places: Places, path: str, yes: bool, dry_run: bool) -> None:
    """Forget a source: its notes leave the store, the files stay.

    Example: btr-assistant sources remove ~/notes
    """
    from app.indexer import writing
    from app.tree import check_root
    from store.bundle import read_manifest
    from store.tokens import TokenStore

    root, manifest = str(check_root(Path(path), may_be_gone=True)), read_manifest(places.bundle)
    with TokenStore.open(places.store, manifest.fingerprint) as store:
        known = {source.root for source in store.sources()}
        notes = len(store.only_in(root))
    if root not in known:
        raise UsageError(f"{root} is no source: btr-assistant sources list shows them")
    if dry_run:
        click.echo(f"{plain(root)}: {notes:,} notes would be forgotten. Nothing was changed.", err=True)
        return
    if not yes:
        if not _on_terminal():
            raise UsageError(f"{notes:,} notes of {root} would be forgotten: add --yes, or --dry-run to look first")
        click.confirm(f"Forget {notes:,} notes of {plain(root)}? The files stay.", abort=True, err=True)
    with writing(places.store, places.lock, manifest) as store:
        store.remove_source(root)
        store.compact()
    click.echo(f"forgot {notes:,} notes of {plain(root)}", err=True)


@cli.command()
@click.option("--dry-run", is_flag=True, help="List the deleted notes that would be removed.")
@click.pass_obj
def cleanup(places: Places, dry_run: bool) -> None:
    """Remove deleted notes from the store for good, and give their room back.

    Example: btr-assistant cleanup --dry-run
    """
    from app.indexer import writing
    from store.bundle import read_manifest
    from store.tokens import TokenStore

    manifest = read_manifest(places.bundle)
    with TokenStore.open(places.store, manifest.fingerprint) as store:
        deleted = [document.path for document in store.documents() if document.deleted]
    if dry_run:
        for path in deleted:
            click.echo(plain(path))
        click.echo(f"{len(deleted):,} deleted notes would be removed. Nothing was changed.", err=True)
        return
    with writing(places.store, places.lock, manifest) as store:
        before = store.counts().store_bytes
        store.purge()
        store.compact()
        freed = max(before - store.counts().store_bytes, 0)
    click.echo(f"{len(deleted):,} deleted notes removed, {freed / 1e6:.1f} MB freed", err=True)


@cli.command()
@click.option(
    "--every", default=10.0, show_default=True, type=click.FloatRange(min=0.1), help="Minutes between rescans."
)
@click.option("--debounce", default=1.0, show_default=True, type=click.FloatRange(0.05, 60), help="Seconds of quiet.")
@click.pass_obj
def watch(places: Places, every: float, debounce: float) -> None:
    """Keep the store in step while notes are worked on, until Ctrl-C.

    Looks at all sources first, and again every few minutes. One line for each change.

    Example: btr-assistant watch
    """
    from functools import partial

    from app.bundle import Bundle
    from app.watch import Watch, file_events

    bundle = Bundle.open(places.bundle, places.device)
    watching = Watch(places.store, places.lock, bundle, partial(click.echo, err=True), 60 * every)
    roots = watching.sources()
    if not roots:
        raise UsageError(_NO_FOLDER)
    click.echo(f"watching {', '.join(short(root) for root in roots)}: Ctrl-C ends", err=True)
    watching.run(partial(file_events, debounce=debounce))


_SCOPE = click.option(
    "--in",
    "--scope",
    "filters",
    multiple=True,
    metavar="FILTER",
    help='Only notes with: folder:work tag:idea author:"Jane" date:2025-01..2025-03 -tag:private',
)


def _scope(filters: tuple[str, ...]) -> Scope:
    from app.scope import parse_scope
    from store.scope import EVERYTHING

    return parse_scope(" ".join(filters)) if filters else EVERYTHING


@cli.command()
@click.argument("question", required=False)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
@click.option("--batch", metavar="FILE", help="Answer every line of a file (- for standard input) as JSON lines.")
@click.option("-n", "--passages", default=20, show_default=True, type=click.IntRange(1, 100), help="Passages to read.")
@_SCOPE
@click.pass_obj
def ask(
    places: Places, question: str | None, as_json: bool, batch: str | None, passages: int, filters: tuple[str, ...]
) -> None:
    """Answer a question from your notes, with its source.

    Example: btr-assistant ask "when was the boiler serviced?"
    """
    if (question is None) == (batch is None):
        raise UsageError("give a question or --batch FILE: btr-assistant ask 'when was the boiler serviced?'")
    from app.assistant import Assistant, check_question

    scope = _scope(filters)
    if batch is not None:
        with _open_lines(batch) as lines, Assistant.open(places) as assistant:
            for line in _questions(lines):
                print_json(assistant.ask(line, passages, scope=scope).to_json(), indent=None)
                sys.stdout.flush()
        return
    assert question is not None
    check_question(question)
    with Assistant.open(places) as assistant:
        answer = assistant.ask(question, passages, scope=scope)
        _warn_if_empty(assistant, scope)
    if as_json:
        print_json(answer.to_json())
    else:
        _print_answer(answer)
    if answer.abstained:
        sys.exit(NOTHING_FOUND)


def _warn_if_empty(assistant: Assistant, scope: Scope) -> None:
    if scope and not assistant.count_notes(scope):
        click.echo(f"No notes match {plain(scope.text)}.", err=True)


@cli.command()
@click.argument("query")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
@click.option("-n", "--limit", default=10, show_default=True, type=click.IntRange(1, 1000), help="Passages to list.")
@_SCOPE
@click.pass_obj
def search(places: Places, query: str, as_json: bool, limit: int, filters: tuple[str, ...]) -> None:
    """List the passages closest to some words, without reading them.

    Example: btr-assistant search "boiler pressure valve"
    """
    from app.assistant import SCHEMA_VERSION, Assistant, check_question

    check_question(query)
    scope = _scope(filters)
    with Assistant.open(places) as assistant:
        results = assistant.search(query, limit, scope)
        _warn_if_empty(assistant, scope)
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
@click.option("--deleted", is_flag=True, help="List the deleted notes that are kept until cleanup.")
@click.pass_obj
def status(places: Places, as_json: bool, failed: bool, deleted: bool) -> None:
    """Show what is indexed and how much room it takes.

    Example: btr-assistant status
    """
    from app.assistant import SCHEMA_VERSION
    from store.bundle import read_manifest
    from store.tokens import TokenStore

    manifest = read_manifest(places.bundle)
    with TokenStore.open(places.store, manifest.fingerprint) as store:
        counts, failures = store.counts(), store.failures()
        roots = [source.root for source in store.sources()]
        gone = [document.path for document in store.documents() if document.deleted] if deleted else []
    if as_json:
        listed = {"failures": [{"path": path, "reason": reason} for path, reason in failures]} if failed else {}
        print_json(
            {
                "schema_version": SCHEMA_VERSION,
                "notes": counts.notes,
                "passages": counts.passages,
                "tokens": counts.tokens,
                "failed": counts.failed,
                "deleted": counts.deleted,
                "store_bytes": counts.store_bytes,
                "bytes_per_token": round(counts.bytes_per_token, 2),
                "model": manifest.name,
                "sources": roots,
                **listed,
            }
        )
        return
    if failed:
        for path, reason in failures:
            click.echo(f"{plain(path)} {reason}")
        return
    if deleted:
        for path in gone:
            click.echo(plain(path))
        return
    click.echo(f"notes      {counts.notes:,} ({counts.failed:,} failed)")
    if counts.deleted:
        click.echo(f"deleted    {counts.deleted:,}, kept until btr-assistant cleanup")
    click.echo(f"passages   {counts.passages:,}")
    click.echo(f"tokens     {counts.tokens:,}, {counts.bytes_per_token:.1f} bytes each (bits, scales, passage codes)")
    click.echo(f"store      {places.store}, {counts.store_bytes / 1e6:.1f} MB with the notes' text and search index")
    click.echo(f"model      {manifest.name} ({manifest.reader}, {manifest.fingerprint})")
    for root in roots:
        click.echo(f"source     {root}")


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
@click.option("--finish", type=click.IntRange(1), help="Passages that the binarized reader reads to the end.")
@click.option("--ratio", type=click.FloatRange(0, 0.5), help="Share of tokens that a generative reader merges.")
@click.option("--beams", type=click.IntRange(1, 16), help="Answers that a generative reader follows at once.")
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
    finish: int | None,
    ratio: float | None,
    beams: int | None,
    every: int,
    as_json: bool,
) -> None:
    """Measure answers to questions whose answers are known: JSONL or SQuAD's format.

    Example: btr-assistant eval my-questions.jsonl --open
    """
    if without and not opened:
        raise UsageError("--without needs --open: an article can only be left out of a store")
    from app.evaluation import summary

    with _examination(places, questions, opened, every, finish, ratio, beams) as examination:
        for name in readers:
            examination.reader(name)  # one that is missing is told before the others are measured
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
            store.put_setting(SETTING, calibration.to_json(examination.bundle.manifest))


@contextmanager
def _examination(
    places: Places,
    questions: Path,
    opened: bool,
    every: int,
    finish: int | None = None,
    ratio: float | None = None,
    beams: int | None = None,
) -> Iterator[Examination]:
    """The questions of a file over an open bundle and, if asked for, the store."""
    from app.bundle import Bundle
    from app.evaluation import Examination, load_questions

    chosen = load_questions(questions)
    bundle = Bundle.open(places.bundle, places.device)
    if not opened:
        yield Examination(chosen, bundle, None, every, finish, ratio, beams)
        return
    from store.tokens import TokenStore

    with TokenStore.open(places.store, bundle.manifest.fingerprint) as store:
        yield Examination(chosen, bundle, store, every, finish, ratio, beams)


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
