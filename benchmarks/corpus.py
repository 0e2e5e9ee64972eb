"""
The contexts of question files as notes, so that open questions are asked through the program itself.

    python -m benchmarks.corpus OUT train.jsonl.gz validation.jsonl.gz --source squad
    btr-assistant --store squad.db index OUT
    btr-assistant --store squad.db eval validation.jsonl.gz --open --without --every 10

Writes each different context once, as OUT/NUMBER/TITLE.txt: the title becomes the note's title, as `eval` takes it from
a row when the context is given.
"""

from __future__ import annotations

import argparse
import gzip
import json
from pathlib import Path


def main() -> None:
    """Write the notes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("questions", type=Path, nargs="+")
    parser.add_argument("--source", default="", help="only rows whose source starts with this")
    options = parser.parse_args()
    seen: set[str] = set()
    for path in options.questions:
        opener = gzip.open if path.suffix == ".gz" else open
        with opener(path, "rt", encoding="utf-8") as lines:
            for row in map(json.loads, lines):
                if row["context"] in seen or not row.get("source", "").startswith(options.source):
                    continue
                seen.add(row["context"])
                title = " ".join((row.get("title") or "context").replace("_", " ").replace("/", " ").split())
                folder = options.out / f"{len(seen):06d}"
                folder.mkdir(parents=True, exist_ok=True)
                (folder / f"{title[:100]}.txt").write_bytes(row["context"].encode())
    print(f"{len(seen):,} contexts in {options.out}")


if __name__ == "__main__":
    main()
