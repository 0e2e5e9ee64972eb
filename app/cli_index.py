"""
The commands that keep the store in step with the notes: index, sources, watch, cleanup, and status, which tells of it.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

import click

from app import complete
from app.cli_base import (
    FILES_FAILED,
    REFUSED,
    and_questions,
    confirm,
    json_option,
    pass_places,
    print_json,
    yes_option,
)
from app.display import many, plain, short
from app.places import Places
from store.errors import UsageError

if TYPE_CHECKING:
    from app.bundle import Bundle
    from app.indexer import Change, Progress, Report

_NO_FOLDER = "no folder is known yet: give one, btr-assistant index ~/notes"
_MOST_LISTED = 20
"""Files that an index run names of those that it did not read."""


@click.command()
@click.argument("paths", nargs=-1, metavar="[PATH]...", shell_complete=complete.files)
@click.option("-q", "--quiet", is_flag=True, help="Print nothing but failures.")
@click.option(
    "--dry-run", is_flag=True, help="Say what would be done, how long it would take and how large it would be."
)
@click.option(
    "--show",
    metavar="FILE",
    shell_complete=complete.files,
    help="With --dry-run: the text of one note exactly as it will be encoded.",
)
@click.option("--allow-deletions", is_flag=True, help="Go on though more than a third of a folder's notes are gone.")
@json_option
@pass_places
def index(
    places: Places,
    paths: tuple[str, ...],
    quiet: bool,
    dry_run: bool,
    show: str | None,
    allow_deletions: bool,
    as_json: bool,
) -> None:
    """Read folders of notes; again, what changed since.

    Read: Markdown, text, reStructuredText, Org, HTML, PDF, Word, Jupyter notebooks, e-mail (docs/formats.md).

    Without PATH: every folder that was indexed or added before. What .gitignore or .btrignore ignores is left out.

    Example: btr-assistant index ~/notes
    """
    if show is not None and not dry_run:
        raise UsageError("--show needs --dry-run: btr-assistant index --dry-run --show FILE")
    from app.bundle import Bundle
    from app.indexer import index as run
    from app.indexer import writing
    from app.interrupts import heeding_interrupts
    from app.tree import check_root

    roots = [str(check_root(Path(path), allow_deletions)) for path in paths]
    bundle = Bundle.open(places.bundle, places.device)
    if show is not None:
        _print_encoded(bundle, Path(show), as_json)
        return
    if dry_run:
        _print_forecast(places, bundle, roots, allow_deletions, as_json)
        return
    if not roots and not places.store.is_file():
        raise UsageError(_NO_FOLDER)
    with writing(places.store, places.lock, bundle.manifest) as store:
        roots = roots or [source.root for source in store.sources()]
        if not roots:
            raise UsageError(_NO_FOLDER)
        line = _ProgressLine(sys.stderr, quiet)
        try:
            with heeding_interrupts() as check:
                report = run(store, bundle, roots, line, allow_deletions=allow_deletions, check=check)
        except KeyboardInterrupt:
            raise KeyboardInterrupt("every note finished so far is kept, run it again to go on") from None
        finally:
            line.end()
    if as_json:
        print_json(_report_json(report))
    _print_report(report, quiet or as_json)
    if report.refused:
        sys.exit(REFUSED)
    if report.failed:
        sys.exit(FILES_FAILED)


def _report_json(report: Report) -> dict[str, Any]:
    """What an index run did, as `index --json` prints it."""
    lists = ("failed", "warnings", "skipped")
    return {
        **{name: value for name, value in asdict(report).items() if name not in (*lists, "refused")},
        **{name: _reasons("path", getattr(report, name)) for name in lists},
        "refused": _reasons("source", report.refused),
    }


def _reasons(of: str, pairs: Iterable[tuple[str, str]]) -> list[dict[str, str]]:
    return [{of: name, "reason": reason} for name, reason in pairs]


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
        f"{many(report.notes, 'note')}: {report.indexed:,} indexed, {report.unchanged:,} unchanged, {moved}{restored}"
        f"{report.removed:,} removed, {len(report.failed):,} failed; "
        f"{report.tokens:,} tokens in {report.seconds:.1f} s{pace}",
        err=True,
    )


def _print_forecast(places: Places, bundle: Bundle, roots: list[str], allow_deletions: bool, as_json: bool) -> None:
    from contextlib import nullcontext

    from app.preview import forecast
    from store.tokens import TokenStore
    from store.upkeep import identify

    exists = places.store.is_file() and not identify(places.store).empty
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
    if as_json:
        print_json(
            {
                "notes": len(plan.owners),
                "new": new,
                "changed": changed,
                "moved": moved,
                "restored": restored,
                "removed": len(plan.gone),
                "unchanged": unchanged,
                "tokens": found.tokens,
                "minutes": round(found.minutes, 2),
                "tokens_per_second": round(found.speed, 1),
                "measured": found.measured,
                "store_bytes": round(found.store_bytes),
                "failed": _reasons("path", found.failed),
                "skipped": _reasons("path", plan.skipped),
                "refused": _reasons("source", plan.refused),
            }
        )
        if plan.refused:
            sys.exit(REFUSED)
        return
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


def _print_encoded(bundle: Bundle, path: Path, as_json: bool) -> None:
    from app.preview import encoded_text

    encoded = list(encoded_text(bundle, path))
    if as_json:
        rows = [{"line": line, "heading": heading, "text": text} for line, heading, text in encoded]
        print_json({"path": str(path), "passages": rows})
        return
    for line, heading, text in encoded:
        click.secho(f"{short(str(path))}:{line}  {plain(heading)}", bold=True)
        click.echo("\n".join(plain(part) for part in text.splitlines()))
        click.echo()


@click.group()
def sources() -> None:
    """List, add or remove the folders that are kept in step.

    Example: btr-assistant sources add ~/notes
    """


@sources.command("list")
@json_option
@pass_places
def sources_list(places: Places, as_json: bool) -> None:
    """List the sources with how many notes of each are indexed.

    Example: btr-assistant sources list
    """
    from store.bundle import read_manifest
    from store.tokens import TokenStore

    with TokenStore.open(places.store, read_manifest(places.bundle).fingerprint) as store:
        rows: list[dict[str, Any]] = [
            {"path": source.root, "notes": source.notes, "present": os.path.lexists(source.root)}
            for source in store.sources()
        ]
    if as_json:
        print_json({"sources": rows})
    for row in () if as_json else rows:
        missing = "" if row["present"] else "  (not there now)"
        click.echo(f"{plain(row['path'])}  {many(row['notes'], 'note')}{missing}")


@sources.command("add")
@click.argument("path", shell_complete=complete.files)
@json_option
@pass_places
def sources_add(places: Places, path: str, as_json: bool) -> None:
    """Add a folder or file, to be indexed by the next run.

    Example: btr-assistant sources add ~/notes
    """
    from app.indexer import writing
    from app.tree import check_root
    from store.bundle import read_manifest

    root = str(check_root(Path(path)))
    with writing(places.store, places.lock, read_manifest(places.bundle)) as store:
        store.add_source(root)
        known = [source.root for source in store.sources()]
    if as_json:
        print_json({"path": root, "sources": known})
        return
    click.echo(f"added {plain(root)}: run btr-assistant index to encode it", err=True)


@sources.command("remove")
@click.argument("path", shell_complete=complete.sources)
@yes_option
@click.option("--dry-run", is_flag=True, help="Say what would be forgotten.")
@json_option
@pass_places
def sources_remove(places: Places, path: str, yes: bool, dry_run: bool, as_json: bool) -> None:
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
        held = store.only_in(root)
        notes = sum(not document.deleted for document in held)
        questions = len(store.lost_turns(document.path for document in held))
    if root not in known:
        raise UsageError(f"{root} is no source: btr-assistant sources list shows them")
    if dry_run:
        if as_json:
            print_json({"path": root, "notes": notes, "questions": questions, "removed": False})
            return
        what = f"{many(notes, 'note')}{and_questions(questions)} would be forgotten"
        click.echo(f"{plain(root)}: {what}. Nothing was changed.", err=True)
        return
    what = f"{many(notes, 'note')} of {root}{and_questions(questions)}"
    confirm(
        yes, f"{what} would be forgotten", f"Forget {what}? The files stay.", "add --yes, or --dry-run to look first"
    )
    with writing(places.store, places.lock, manifest) as store:
        questions = store.remove_source(root)
        store.vacuum()
    if as_json:
        print_json({"path": root, "notes": notes, "questions": questions, "removed": True})
        return
    click.echo(f"forgot {many(notes, 'note')} of {plain(root)}{and_questions(questions)}", err=True)


@click.command()
@click.option("--dry-run", is_flag=True, help="List the deleted notes that would be removed.")
@json_option
@pass_places
def cleanup(places: Places, dry_run: bool, as_json: bool) -> None:
    """Remove deleted notes from the store for good.

    Example: btr-assistant cleanup --dry-run
    """
    from app.indexer import writing
    from store.bundle import read_manifest
    from store.tokens import TokenStore

    manifest = read_manifest(places.bundle)
    with TokenStore.open(places.store, manifest.fingerprint) as store:
        deleted = [document.path for document in store.documents() if document.deleted]
        questions = len(store.lost_turns(deleted))
    if dry_run:
        if as_json:
            print_json({"notes": deleted, "questions": questions, "freed_bytes": None})
            return
        for path in deleted:
            click.echo(plain(path))
        what = f"{many(len(deleted), 'deleted note')}{and_questions(questions)} would be removed"
        click.echo(f"{what}. Nothing was changed.", err=True)
        return
    with writing(places.store, places.lock, manifest) as store:
        before = store.counts().store_bytes
        questions = store.purge()
        store.vacuum()
        freed = max(before - store.counts().store_bytes, 0)
    if as_json:
        print_json({"notes": deleted, "questions": questions, "freed_bytes": freed})
        return
    what = f"{many(len(deleted), 'deleted note')}{and_questions(questions)} removed"
    click.echo(f"{what}, {freed / 1e6:.1f} MB freed", err=True)


@click.command()
@click.option(
    "--every",
    metavar="MINUTES",
    default=10.0,
    show_default=True,
    type=click.FloatRange(min=0.1),
    help="Minutes between rescans.",
)
@click.option(
    "--debounce",
    metavar="SECONDS",
    default=1.0,
    show_default=True,
    type=click.FloatRange(0.05, 60),
    help="Seconds of quiet before a change is read.",
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object a change (docs/json.md).")
@pass_places
def watch(places: Places, every: float, debounce: float, as_json: bool) -> None:
    """Index notes as they change, until Ctrl-C.

    Looks at all sources first, and again every few minutes. One line for each change.

    Example: btr-assistant watch
    """
    from functools import partial

    from app.bundle import Bundle
    from app.interrupts import heeding_interrupts
    from app.watch import Watch, file_events

    bundle = Bundle.open(places.bundle, places.device)
    tell = _print_change if as_json else None
    watching = Watch(places.store, places.lock, bundle, partial(click.echo, err=True), 60 * every, tell=tell)
    roots = watching.sources()
    if not roots:
        raise UsageError(_NO_FOLDER)
    click.echo(f"watching {', '.join(short(root) for root in roots)}: Ctrl-C ends", err=True)
    with heeding_interrupts() as check:

        def events(roots: Sequence[str]) -> Iterator[set[str]]:
            for paths in file_events(roots, debounce):
                check()
                yield paths

        watching.run(events)


def _print_change(change: Change) -> None:
    print_json({"what": change.what, "path": change.path, "detail": change.detail}, indent=None)
    sys.stdout.flush()


@click.command()
@json_option
@click.option("--failed", is_flag=True, help="List the files that could not be indexed, and why.")
@click.option("--deleted", is_flag=True, help="List the deleted notes that are kept until cleanup.")
@pass_places
def status(places: Places, as_json: bool, failed: bool, deleted: bool) -> None:
    """Show what is indexed and how much room it takes.

    Example: btr-assistant status
    """
    from app.compaction import ratios_of
    from app.size import alternatives, lines, parts, word_index
    from store.bundle import read_manifest
    from store.tokens import TokenStore

    manifest = read_manifest(places.bundle)
    with TokenStore.open(places.store, manifest.fingerprint) as store:
        counts, failures = store.counts(), store.failures()
        roots = [source.root for source in store.sources()]
        gone = [document.path for document in store.documents() if document.deleted] if deleted else []
        ratios = ratios_of(store, manifest)
    if as_json:
        listed = {"failures": _reasons("path", failures)} if failed else {}
        listed_deleted = {"deleted_notes": gone} if deleted else {}
        print_json(
            {
                "notes": counts.notes,
                "passages": counts.passages,
                "tokens": counts.tokens,
                "failed": counts.failed,
                "deleted": counts.deleted,
                "store_bytes": counts.store_bytes,
                "bytes_per_token": round(counts.bytes_per_token, 2),
                "bytes_per_token_parts": parts(counts),
                "bytes_per_token_instead": alternatives(counts, manifest),
                "word_index_bytes_per_token": word_index(counts),
                "offline_ratio": max(ratios, default=None),
                "model": manifest.name,
                "sources": roots,
                **listed,
                **listed_deleted,
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
    own, instead = lines(counts, manifest)
    click.echo(f"tokens     {counts.tokens:,}")
    click.echo(f"a token    {own}")
    click.echo(f"instead    {instead}")
    if ratios:
        left = counts.stored_passages - counts.compressed
        again = f", {many(left, 'passage')} not yet: run btr-assistant compact" if left else ""
        how = f"with ratio {max(ratios):g}" if max(ratios) else "common words keep no vector"
        click.echo(f"compacted  {how}{again}")
    click.echo(f"store      {places.store}, {counts.store_bytes / 1e6:.1f} MB with the notes' text and search index")
    click.echo(f"model      {manifest.name} ({manifest.reader}, {manifest.fingerprint})")
    for root in roots:
        click.echo(f"source     {root}")


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
            f"\r\x1b[K{progress.done:,} of {many(progress.total, 'note')} · {progress.notes_per_second:,.0f} notes/s · "
            f"{left // 60}:{left % 60:02d} left"
        )
        self._stream.flush()

    def end(self) -> None:
        """Leave the line."""
        if self._on:
            self._stream.write("\r\x1b[K")
            self._stream.flush()


COMMANDS = (index, sources, watch, status, cleanup)
