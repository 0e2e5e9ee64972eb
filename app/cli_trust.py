"""
The commands by which a person sees that the program keeps its promises: doctor, verify, backup, restore, forget; and
compact, which makes the store smaller.

They end with 0 when everything holds, and with 3 when a check fails. What asks before it acts does so on a terminal
only; in a pipe it wants --yes.
"""

from __future__ import annotations

import os
import sys
from dataclasses import asdict
from pathlib import Path
from shlex import quote
from typing import TYPE_CHECKING, Any

import click

from app import complete
from app.cli_base import Counter, and_questions, confirm, json_option, pass_places, print_json, yes_option
from app.display import many, plain
from app.places import Places
from store.errors import StoreError, UsageError

if TYPE_CHECKING:
    from app.offline import Evidence
    from store.upkeep import Finding

_MOST_LISTED = 20


@click.command()
@json_option
@click.option("--offline-proof", is_flag=True, help="Also index and ask in a process that can open no socket.")
@pass_places
def doctor(places: Places, as_json: bool, offline_proof: bool) -> None:
    """Say what is wrong, and what puts it right; change nothing.

    Example: btr-assistant doctor --offline-proof
    """
    from app.doctor import examine
    from app.offline import prove

    checks = []
    for check in examine(places):
        checks.append(check)
        if not as_json:
            _print_check(check.name, check.ok, check.detail, check.fix)
    if offline_proof and not as_json:
        click.echo("index, ask and search run with every socket refused: about 20 seconds", err=True)
    evidence = prove(places.bundle, places.device) if offline_proof else None
    ok = all(check.ok for check in checks) and (evidence is None or evidence.holds)
    if as_json:
        offline = None if evidence is None else {"ok": evidence.holds, **asdict(evidence)}
        rows = [asdict(check) for check in checks]
        print_json({"ok": ok, "checks": rows, "offline": offline})
    elif evidence is not None:
        _print_evidence(evidence)
    if not ok:
        sys.exit(StoreError.exit_code)


def _print_check(name: str, ok: bool, detail: str, fix: str = "") -> None:
    click.secho(f"{'ok' if ok else 'failed':<7}", fg="green" if ok else "red", nl=False)
    click.echo(f"{name:<12} {plain(detail)}{f': {plain(fix)}' if fix else ''}")


def _print_evidence(evidence: Evidence) -> None:
    tried = f"{len(evidence.sockets)} sockets attempted"
    if evidence.sockets:
        tried += f" ({', '.join(sorted(set(evidence.sockets)))})"
    native = "" if evidence.open_sockets is None else f", {evidence.open_sockets} sockets among its open files"
    kernel = ", and the kernel refused them to machine code" if evidence.kernel else ""
    _print_check(
        "offline",
        evidence.holds,
        f"{tried}, {len(evidence.processes)} processes attempted{native}; "
        f"ran {', '.join(evidence.ran) or 'nothing to its end'} over made-up notes, every socket refused{kernel}"
        + (f"; {evidence.failed}" if evidence.failed else ""),
        "" if evidence.holds else "report this as a bug, with this line",
    )


@click.command()
@json_option
@click.option("--reencode", metavar="N", type=click.IntRange(0), default=0, help="Also encode N passages again.")
@click.option("--rebuild-search", is_flag=True, help="First make the search index anew from the passages.")
@pass_places
def verify(places: Places, as_json: bool, reencode: int, rebuild_search: bool) -> None:
    """Check every page and row of the store, and the model's files.

    Example: btr-assistant verify --reencode 20
    """
    from app.bundle import Bundle
    from app.indexer import writer_lock
    from app.verify import findings
    from app.verify import reencode as encode_again
    from store.bundle import read_manifest
    from store.tokens import TokenStore

    manifest = read_manifest(places.bundle)
    with TokenStore.open(places.store, manifest.fingerprint):
        pass  # of another schema or bundle it cannot be judged
    if rebuild_search:
        with writer_lock(places.lock), TokenStore.open(places.store, manifest.fingerprint) as store:
            store.rebuild_search()
    found = list(findings(places.store, places.bundle, manifest, places.lock))
    if reencode and not any(finding.problems for finding in found):
        with TokenStore.open(places.store, manifest.fingerprint) as store:
            count, same = encode_again(store, Bundle.open(places.bundle, places.device), reencode)
            found.append(same)
        if not as_json:
            click.echo(f"{count:,} passages of unchanged notes were encoded again", err=True)
    ok = not any(finding.problems for finding in found)
    if as_json:
        rows = [{"name": f.what, "ok": not f.problems, "problems": f.problems} for f in found]
        print_json({"ok": ok, "checks": rows})
    for finding in () if as_json else found:
        _print_finding(finding, places)
    if not ok:
        sys.exit(StoreError.exit_code)


def _print_finding(finding: Finding, places: Places) -> None:
    if not finding.problems:
        _print_check(finding.what, True, "as it should be")
    fix = f"btr-assistant restore BACKUP, or move {quote(str(places.store))} away and index again"
    if finding.what == "search index":
        fix = "btr-assistant verify --rebuild-search"
    for problem in finding.problems:
        _print_check(finding.what, False, problem, "" if finding.what == "bundle" else fix)


@click.command()
@click.argument("file", shell_complete=complete.files)
@json_option
@pass_places
def backup(places: Places, file: str, as_json: bool) -> None:
    """Copy the store into a new FILE, at any time.

    Example: btr-assistant backup notes-backup.db
    """
    from store.upkeep import back_up

    if not places.store.exists():
        raise StoreError(
            f"there is nothing to back up, {places.store} does not exist: run btr-assistant index FOLDER first"
        )
    target = _path(file)
    size = back_up(places.store, target)
    if as_json:
        print_json({"file": str(target), "bytes": size})
        return
    click.echo(f"{plain(str(target))}: {size / 1e6:.1f} MB, it holds the text of your notes", err=True)


@click.command()
@click.argument("file", shell_complete=complete.files)
@yes_option
@json_option
@pass_places
def restore(places: Places, file: str, yes: bool, as_json: bool) -> None:
    """Put a backup in the store's place.

    The store that was there is kept beside it.

    Example: btr-assistant restore notes-backup.db
    """
    from app.indexer import writer_lock
    from store import upkeep
    from store.bundle import read_manifest

    manifest, source = read_manifest(places.bundle), _path(file)
    if os.path.realpath(source) == os.path.realpath(places.store):
        raise UsageError(f"{source} is the store itself: give a file that btr-assistant backup made")
    upkeep.check_usable(source, manifest.fingerprint)
    kept = upkeep.beside(places.store, upkeep.KEPT)
    if os.path.lexists(places.store):
        lost = f", the one kept as {kept} is removed" if os.path.lexists(kept) else ""
        confirm(yes, f"{source} would take the place of {places.store}{lost}", f"Replace {places.store}{lost}?")
    with writer_lock(places.lock):
        replaced = upkeep.restore(source, places.store, manifest.fingerprint, manifest.name)
    if as_json:
        print_json({"store": str(places.store), "kept": str(replaced) if replaced else None})
        return
    click.echo(f"restored {plain(str(places.store))}: run btr-assistant index for what changed since", err=True)
    if replaced:
        click.echo(f"the store that was there is kept as {plain(str(replaced))}", err=True)


@click.command()
@click.option(
    "--ratio",
    metavar="R",
    type=click.FloatRange(0, 1, max_open=True),
    help="Share of the other tokens that is merged into a neighbour (default: 0, or as before).",
)
@click.option("--dry-run", is_flag=True, help="Say how small the store would be.")
@json_option
@pass_places
def compact(places: Places, ratio: float | None, dry_run: bool, as_json: bool) -> None:
    """Make the store smaller, at some cost in answers.

    Stopwords and punctuation keep no vector; with --ratio, neighbouring tokens that say nearly the same share one.
    docs/results.md says what that costs. It cannot be undone but by indexing anew.

    Notes indexed later are treated likewise. The chat and other readers can stay open.

    Example: btr-assistant compact --dry-run
    """
    from contextlib import nullcontext

    from app.bundle import Bundle
    from app.compaction import RATIO, ratios_of
    from app.compaction import compact as run
    from app.indexer import writer_lock
    from app.interrupts import heeding_interrupts
    from store.tokens import TokenStore

    bundle = Bundle.open(places.bundle, places.device)
    with TokenStore.open(places.store, bundle.manifest.fingerprint):
        pass  # what cannot be used is said before it is locked
    with (
        nullcontext() if dry_run else writer_lock(places.lock),
        TokenStore.open(places.store, bundle.manifest.fingerprint) as store,
    ):
        ratio = max(ratios_of(store, bundle.manifest), default=RATIO) if ratio is None else ratio
        counter = Counter(sys.stderr, "passages")
        try:
            with heeding_interrupts() as check:

                def progress(done: int, total: int) -> None:
                    check()
                    counter(done, total)

                done = run(store, bundle, ratio, progress, dry_run)
        except KeyboardInterrupt:
            raise KeyboardInterrupt("every passage finished so far is kept, run it again to go on") from None
    freed = None if dry_run else max(done.before.store_bytes - done.after.store_bytes, 0)
    if as_json:
        print_json(
            {
                "ratio": ratio,
                "passages": done.changed,
                "bytes_per_token": round(done.after.bytes_per_token, 2),
                "bytes_per_token_before": round(done.before.bytes_per_token, 2),
                "freed_bytes": freed,
            }
        )
        return
    per_token = f"{done.before.bytes_per_token:.1f} -> {done.after.bytes_per_token:.1f} bytes a token"
    if freed is None:
        click.echo(f"ratio {ratio:g}: {many(done.changed, 'passage')} would shrink, {per_token}")
        click.echo("Nothing was changed.", err=True)
        return
    click.echo(f"ratio {ratio:g}: {many(done.changed, 'passage')}, {per_token}, {freed / 1e6:.1f} MB freed", err=True)


@click.command()
@click.argument("paths", nargs=-1, required=True, metavar="PATH...", shell_complete=complete.files)
@yes_option
@click.option("--dry-run", is_flag=True, help="List the notes that would be forgotten.")
@click.option("--ignore", "ignored", is_flag=True, help="Append a line to .btrignore, so that index leaves it out.")
@json_option
@pass_places
def forget(places: Places, paths: tuple[str, ...], yes: bool, dry_run: bool, ignored: bool, as_json: bool) -> None:
    """Remove notes for good, and prove that nothing is left.

    The store's file is searched for every piece of their text.

    Deleted notes are forgotten too. The files themselves stay, and the next index takes them in again unless they are
    ignored.

    Example: btr-assistant forget ~/notes/diary --ignore
    """
    from app.forget import choose, ignore, questions_of, rule_for
    from app.forget import forget as run
    from app.indexer import writing
    from store.bundle import read_manifest
    from store.tokens import TokenStore
    from store.upkeep import KEPT, beside

    manifest = read_manifest(places.bundle)
    with TokenStore.open(places.store, manifest.fingerprint) as store:
        chosen = choose(store, paths)
        rules = [(path, *rule_for(path, store)) for path in chosen.paths]
        questions = questions_of(store, chosen) if dry_run or not yes else 0
    listed = [*(document.path for document in chosen.documents), *chosen.failed]
    if dry_run and as_json:
        print_json({"notes": listed, "questions": questions})
        return
    if dry_run or not yes:
        for path in listed if dry_run else listed[:_MOST_LISTED]:
            click.echo(plain(path), err=not dry_run)
        if len(listed) > _MOST_LISTED and not dry_run:
            click.echo(f"and {len(listed) - _MOST_LISTED:,} more", err=True)
    notes = many(len(chosen.documents), "note")
    what = f"{notes}{and_questions(questions)}"
    if dry_run:
        click.echo(f"{what} would be forgotten. Nothing was changed.", err=True)
        return
    confirm(yes, f"{what} would be forgotten", f"Forget {what}? The files stay.")
    with writing(places.store, places.lock, manifest) as store:
        applied = [(path, file, line, ignored and ignore(path, file, line)) for path, file, line in rules]
        proof = run(store, choose(store, paths))
    if as_json:
        rows: list[dict[str, Any]] = [
            {"path": path, "file": str(file), "line": line, "ignored": done} for path, file, line, done in applied
        ]
        print_json({"notes": len(chosen.documents), **asdict(proof), "rules": rows})
    else:
        shared = f" ({proof.shared:,} more are in other notes too)" if proof.shared else ""
        what = f"{notes}{and_questions(proof.questions)}"
        click.echo(
            f"forgot {what}: {proof.left:,} of {proof.searched:,} snippets found in the file, "
            f"{proof.file_bytes / 1e6:.1f} MB searched{shared}"
        )
    for path, file, line, done in applied:
        _say_rule(path, file, line, done, ignored)
    copy = beside(places.store, KEPT)
    if copy.exists():
        click.echo(f"{plain(str(copy))} was kept by restore and may still hold them: remove it", err=True)
    if proof.left:
        click.echo("close the chat and other commands, then run btr-assistant cleanup", err=True)
        sys.exit(StoreError.exit_code)


def _say_rule(path: str, file: Path, line: str, done: bool, asked: bool) -> None:
    """What becomes of the file in the next index run."""
    if done:
        click.echo(f"{plain(str(file))} has the line {plain(line)}: index leaves {plain(path)} out", err=True)
    elif asked:
        click.echo(
            f"{plain(path)} is not ignored in spite of {plain(str(file))}: another rule has the last word", err=True
        )
    elif os.path.lexists(path):
        click.echo(
            f"{plain(path)} stays on disk and the next index takes it in again: add the line {plain(line)} to "
            f"{plain(str(file))} to prevent that (--ignore does)",
            err=True,
        )


def _path(text: str) -> Path:
    return Path(os.path.abspath(os.path.expanduser(text)))


COMMANDS = (doctor, verify, backup, restore, compact, forget)
