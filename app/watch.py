"""
Notes kept in step while they are worked on: what changes is indexed as soon as it has been quiet for a moment.

Events say only where to look; what became of the notes is found out as in any other run. All sources are looked at
again every few minutes, because events get lost on network disks, in sleep, and when a disk comes back. The writer's
lock is held only while something is written, so that `index` and the chat get their turn, and waited for when it is
theirs.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

from app.bundle import Bundle
from app.display import plain, short
from app.indexer import Change, index, writing
from app.tree import IGNORE_FILES, is_note
from store.errors import BusyError
from store.tokens import TokenStore, is_inside

MOST_LISTED = 20
"""Files that are named of those that were not read."""
TICK = 1.0
"""Seconds after which a quiet watch looks at the clock."""


class Watch:
    """Indexes what changes, and tells in one line each what it did."""

    def __init__(
        self,
        store: Path,
        lock: Path,
        bundle: Bundle,
        say: Callable[[str], None],
        every: float,
        clock: Callable[[], float] = time.monotonic,
        *,
        tell: Callable[[Change], None] | None = None,
    ) -> None:
        """`say` is given sentences; `tell` every change in place of its sentence."""
        self._store, self._lock, self._bundle = store, lock, bundle
        self._say, self._every, self._clock = say, every, clock
        self._listener = tell
        self._due: set[str] = set()
        """Sources to be looked at."""
        self._said: set[str] = set()
        """What is said once, until it changes."""

    def sources(self) -> list[str]:
        """Every source of the store."""
        with TokenStore.open(self._store, self._bundle.manifest.fingerprint) as store:
            return [source.root for source in store.sources()]

    def run(self, events: Callable[[Sequence[str]], Iterable[set[str]]]) -> None:
        """Follow events, which are sets of paths, empty ones where nothing happened, until they end."""
        while True:
            roots = self.sources()
            self._due.update(roots)
            self.sync()
            looked, watching = self._clock(), False
            for paths in events(roots):
                if not watching:  # what changed before the first event could come
                    self._due.update(roots)
                    watching = True
                for path in paths:
                    over = [root for root in roots if is_inside(path, root)]
                    if matters(path, over):
                        self._due.update(over or roots)
                self.sync()
                if self._clock() - looked >= self._every:
                    break  # look at everything, and at what sources there are now
            else:
                return

    def sync(self) -> None:
        """Index those that are due and are sources still; they stay due while it is not their turn."""
        if not self._due:
            return
        try:
            with writing(self._store, self._lock, self._bundle.manifest) as store:
                due = self._due.intersection(source.root for source in store.sources())
                report = index(store, self._bundle, sorted(due), tell=self._tell)
        except BusyError as error:
            self._say_once({str(error)})
            return
        self._due.clear()
        skipped = {f"{short(path)} {why}" for path, why in report.skipped[:MOST_LISTED]}
        self._say_once({why for _, why in report.refused} | skipped)

    def _tell(self, change: Change) -> None:
        if self._listener is not None:
            self._listener(change)
            return
        line = f"{change.what} {short(change.path)}" + (f"  {plain(change.detail)}" if change.detail else "")
        if change.what != "failed":
            self._say(line)
        elif line not in self._said:
            self._said.add(line)
            self._say(line)

    def _say_once(self, lines: set[str]) -> None:
        for line in sorted(lines - self._said):
            self._say(line)
        self._said |= lines


def matters(path: str, roots: Sequence[str]) -> bool:
    """
    Whether a change at a path below some roots can concern a note: editors and version control write a lot that does
    not. Hidden is what is hidden below every root: one may be a hidden folder of another.
    """
    name = Path(path).name
    if roots and all(_is_hidden(path, root) for root in roots):
        return False
    if name in IGNORE_FILES or is_note(name) or name.endswith(".icloud"):
        return True
    return not name.startswith(".") and not Path(path).is_file()  # a folder, or what was one


def _is_hidden(path: str, root: str) -> bool:
    """Whether a path stands in a hidden folder below a root."""
    return any(folder.startswith(".") for folder in Path(path[len(root) :]).parts[:-1])


def file_events(roots: Sequence[str], debounce: float) -> Iterator[set[str]]:
    """The paths that changed under some roots, once they have been quiet for some seconds; forever."""
    there = [root for root in roots if Path(root).exists()]
    while not there:
        time.sleep(TICK)
        yield set()
    from watchfiles import watch

    for changes in watch(
        *there,
        watch_filter=None,
        debounce=int(10_000 * debounce),  # at the latest, however busy they are
        step=int(1000 * debounce),
        rust_timeout=int(1000 * TICK),
        yield_on_timeout=True,
        ignore_permission_denied=True,
    ):
        yield {path for _, path in changes}
