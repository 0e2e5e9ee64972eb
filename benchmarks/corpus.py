"""
The contexts of question files, or articles, as notes, so that open questions are asked through the program itself.

    python -m benchmarks.corpus OUT train.jsonl.gz validation.jsonl.gz --source squad
    python -m benchmarks.corpus OUT-MORE simplewiki.jsonl.gz --every 20
    btr-assistant --store squad.db index OUT OUT-MORE
    btr-assistant --store squad.db eval validation.jsonl.gz --open --without --every 10

With `--halves`, also the questions of every other context as val-a.jsonl, to choose settings on, and the others
as val-b.jsonl, to report.

Writes each different context or text once, as OUT/NUMBER/TITLE.txt: the title becomes the note's title, as `eval` takes
it from a row when the context is given.
"""

from __future__ import annotations

import argparse
import gzip
import json
from itertools import islice
from pathlib import Path


def write_note(out: Path, number: int, title: str, text: str) -> None:
    """One note as OUT/NUMBER/TITLE.txt, unless it is there; what a file name cannot have is left out of the title."""
    name = " ".join(title.replace("_", " ").replace("/", " ").split()).lstrip(".")
    folder = out / f"{number:06d}"
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name.encode()[:100].decode(errors='ignore') or 'untitled'}.txt"
    data = text.encode()
    if not path.is_file() or path.stat().st_size != len(data):  # as it is where a killed run stopped
        path.write_bytes(data)


def main() -> None:
    """Write the notes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("rows", type=Path, nargs="+", help="JSONL with context or text, and title")
    parser.add_argument("--source", default="", help="only rows whose source starts with this")
    parser.add_argument("--every", type=int, default=1, help="only one row of so many")
    parser.add_argument("--halves", type=Path, help="folder for val-a.jsonl and val-b.jsonl")
    options = parser.parse_args()
    seen: dict[str, int] = {}
    halves: tuple[list[str], list[str]] = ([], [])
    for path in options.rows:
        opener = gzip.open if path.suffix == ".gz" else open
        with opener(path, "rt", encoding="utf-8") as lines:
            for row in map(json.loads, islice(lines, 0, None, options.every)):
                if not row.get("source", "").startswith(options.source):
                    continue
                text = row.get("context") or row["text"]
                known = text in seen
                number = seen.setdefault(text, len(seen))
                if options.halves:
                    halves[number % 2].append(json.dumps(row) + "\n")
                if not known:
                    write_note(options.out, len(seen), row.get("title") or "context", text)
    for name, rows in zip("ab", halves, strict=True):
        if options.halves:
            (options.halves / f"val-{name}.jsonl").write_text("".join(rows))
    print(f"{len(seen):,} notes in {options.out}")


if __name__ == "__main__":
    main()
