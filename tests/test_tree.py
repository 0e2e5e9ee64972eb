"""Which files are notes: ignore rules as git has them, links read once, nothing fetched from a cloud."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from app.tree import IN_A_CLOUD, LINK_LOOP, LINK_OUT, check_root, scan
from store.errors import UsageError


def found(root: Path) -> list[str]:
    return [str(Path(file.path).relative_to(root)) for file in scan(root).files]


def write(folder: Path, name: str, data: str | bytes = "text") -> Path:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data.encode() if isinstance(data, str) else data)
    return path


def hole(path: Path, size: int = 1000) -> None:
    """A file with a size and no content, as cloud clients leave it."""
    with path.open("wb") as file:
        file.truncate(size)
    if path.stat().st_blocks:
        pytest.skip("this file system keeps no holes")


def test_notes_are_found_by_suffix_in_a_fixed_order(notes: Path) -> None:
    for name in ("b.md", "a.txt", "sub/c.markdown", "sub/D.MD", "picture.png", "noext", "e.md.bak"):
        write(notes, name, "text")
    assert found(notes) == ["a.txt", "b.md", "sub/D.MD", "sub/c.markdown"]


def test_hidden_files_and_folders_are_skipped(notes: Path) -> None:
    for name in (".hidden.md", ".obsidian/workspace.md", "sub/.git/x.md", "seen.md"):
        write(notes, name, "text")
    assert found(notes) == ["seen.md"]


def test_a_hidden_root_is_read_when_it_is_asked_for(tmp_path: Path) -> None:
    write(tmp_path, ".vault/a.md", "text")
    assert found(tmp_path / ".vault") == ["a.md"]


def test_names_with_spaces_signs_and_emoji_are_found(notes: Path) -> None:
    names = ["# 1.md", "100%_done.md", "a b.md", "cafe\u0301.md", "café.md", "new\nline.md", "🐝.md"]
    for name in names:
        write(notes, name, "text")
    assert sorted(found(notes)) == sorted(names)


def test_a_linked_note_is_read_once_and_links_out_of_the_root_are_reported(notes: Path, tmp_path: Path) -> None:
    outside = write(tmp_path, "secret.md", "text")
    write(notes, "b.md", "text")
    write(notes, ".hidden/c.md", "text")
    (notes / "a.md").symlink_to(notes / "b.md")
    (notes / "c1.md").symlink_to(notes / ".hidden" / "c.md")
    (notes / "c2.md").symlink_to("c1.md")
    (notes / "outside.md").symlink_to(outside)
    (notes / "picture.png").symlink_to(outside)
    (notes / "away").symlink_to(tmp_path, target_is_directory=True)
    assert found(notes) == ["b.md", "c1.md"]
    assert scan(notes).skipped == [(str(notes / "away"), LINK_OUT), (str(notes / "outside.md"), LINK_OUT)]


def test_linked_folders_inside_the_root_are_not_walked_again(notes: Path) -> None:
    write(notes, "sub/a.md", "text")
    (notes / "sub" / "loop").symlink_to(notes, target_is_directory=True)
    (notes / "again").symlink_to(notes / "sub", target_is_directory=True)
    assert found(notes) == ["sub/a.md"]
    assert scan(notes).skipped == []


def test_a_root_that_is_a_link_is_followed(notes: Path, tmp_path: Path) -> None:
    write(notes, "a.md", "text")
    (notes / "b.md").symlink_to("a.md")
    link = tmp_path / "link"
    link.symlink_to(notes, target_is_directory=True)
    assert found(link) == ["a.md"]


def test_links_that_lead_round_are_reported_and_not_followed(notes: Path) -> None:
    (notes / "loop.md").symlink_to("loop.md")
    (notes / "ping.md").symlink_to("pong.md")
    (notes / "pong.md").symlink_to("ping.md")
    assert found(notes) == []
    assert scan(notes).skipped == [(str(notes / name), LINK_LOOP) for name in ("loop.md", "ping.md", "pong.md")]


def test_a_link_that_leads_nowhere_is_left_to_who_reads_it(notes: Path) -> None:
    (notes / "gone.md").symlink_to(notes / "nothing.md")
    assert found(notes) == ["gone.md"]


def test_a_folder_named_as_a_note_is_walked(notes: Path) -> None:
    write(notes, "folder.md/a.md", "text")
    assert found(notes) == ["folder.md/a.md"]


def test_a_folder_that_cannot_be_listed_is_told_from_an_empty_one(notes: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(notes, "a.md", "text")
    write(notes, "locked/b.md", "text")
    scandir = os.scandir

    def refuse(path: str) -> Iterator[os.DirEntry[str]]:
        if Path(path).name == "locked":
            raise PermissionError(13, "Permission denied", path)
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refuse)
    assert found(notes) == ["a.md"]
    assert [folder for folder, _ in scan(notes).unlisted] == [str(notes / "locked")]


def test_a_root_may_be_one_file(notes: Path) -> None:
    path = write(notes, "a.md", "text")
    assert [file.path for file in scan(check_root(path)).files] == [str(path)]


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("nowhere", "does not exist: give a folder of notes"),
        ("x" * 5000, "does not exist: give a folder of notes"),
        ("~no-such-user-here/notes", "does not exist: give a folder of notes"),
        ("picture.png", r"\.mbox files or a folder"),
    ],
)
def test_a_root_that_cannot_be_read_is_refused(
    notes: Path, monkeypatch: pytest.MonkeyPatch, name: str, says: str
) -> None:
    monkeypatch.chdir(notes)
    write(notes, "picture.png", b"\x89PNG")
    with pytest.raises(UsageError, match=says):
        check_root(Path(name))


def test_a_root_becomes_absolute(notes: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (notes / "a.md").write_text("Alpha.")
    monkeypatch.chdir(notes)
    assert check_root(Path()) == notes
    assert check_root(Path("..", notes.name)) == notes


def test_an_empty_or_missing_root_may_be_given_where_deletions_are_allowed(notes: Path) -> None:
    for path in (notes, notes / "nowhere"):
        with pytest.raises(UsageError, match="--allow-deletions"):
            check_root(path)
        assert check_root(path, may_be_gone=True) == path


def test_a_root_that_is_not_there_is_told_from_an_empty_one(notes: Path) -> None:
    assert scan(notes / "nowhere").missing
    assert not scan(notes).missing


# ignore rules


def test_ignored_notes_and_folders_are_left_out(notes: Path) -> None:
    for name in (
        "a.md",
        "draft.md",
        "build/b.md",
        "sub/build/c.md",
        "sub/draft.md",
        "sub/d.md",
        "top.md",
        "sub/top.md",
    ):
        write(notes, name)
    write(notes, ".gitignore", "# comment\n\ndraft.md\nbuild/\n/top.md\n")
    assert found(notes) == ["a.md", "sub/d.md", "sub/top.md"]


def test_the_nearer_rule_and_the_later_line_win(notes: Path) -> None:
    for name in ("a.md", "keep.md", "sub/a.md", "sub/keep.md", "sub/deep/a.md"):
        write(notes, name)
    write(notes, ".gitignore", "*.md\n!keep.md\n")
    write(notes, "sub/.gitignore", "!a.md\nkeep.md\n")
    write(notes, "sub/deep/.gitignore", "/a.md\n")
    assert found(notes) == ["keep.md", "sub/a.md"]


def test_a_note_of_an_ignored_folder_cannot_be_taken_back(notes: Path) -> None:
    write(notes, "old/a.md")
    write(notes, "old/.gitignore", "!a.md\n")
    write(notes, ".gitignore", "old/\n!old/a.md\n")
    assert found(notes) == []


def test_btrignore_has_the_last_word_in_its_folder(notes: Path) -> None:
    for name in ("notes/a.md", "private/b.md", "c.md"):
        write(notes, name)
    write(notes, ".gitignore", "notes/\n")
    write(notes, ".btrignore", "!notes/\nprivate/\n")
    assert found(notes) == ["c.md", "notes/a.md"]


def test_lines_that_are_no_rules_are_passed_over(notes: Path) -> None:
    for name in ("a.md", "b.md"):
        write(notes, name)
    write(notes, ".gitignore", b"\xff\xfe\n!\n\\\n[z-a]\nb.md\n")
    assert found(notes) == ["a.md"]


@pytest.mark.skipif(shutil.which("git") is None, reason="git is not installed")
def test_rules_mean_what_they_mean_to_git(notes: Path) -> None:
    names = [
        f"{folder}{name}.md"
        for folder in ("", "a/", "a/b/", "c/", "c/a/", "x y/")
        for name in ("one", "two", "# 1", "[z]")
    ]
    for name in names:
        write(notes, name)
    write(notes, ".gitignore", "two.md\n!a/b/two.md\n/c/*\n!/c/a/\na/**/one.md\n\\# 1.md\nx\\ y/\n")
    write(notes, "a/.gitignore", "!one.md\n\\[z\\].md\n")
    write(notes, "a/b/.gitignore", "*\n!two.md\n")
    subprocess.run(["git", "init", "-q", str(notes)], check=True)
    listed = subprocess.run(
        ["git", "-C", str(notes), "ls-files", "-zco", "--exclude-per-directory=.gitignore", "*.md"],
        capture_output=True,
        check=True,
    )
    assert sorted(found(notes)) == sorted(os.fsdecode(listed.stdout).split("\0")[:-1])


# clouds


def test_a_note_that_is_in_a_cloud_is_reported_and_not_read(notes: Path) -> None:
    write(notes, "a.md")
    write(notes, "empty.md", "")
    hole(notes / "b.md")
    write(notes, ".c.md.icloud", b"bplist00")
    write(notes, ".d.png.icloud", b"bplist00")
    tree = scan(notes)
    assert found(notes) == ["a.md", "empty.md"]
    assert sorted(tree.skipped) == [(str(notes / "b.md"), IN_A_CLOUD), (str(notes / "c.md"), IN_A_CLOUD)]
    assert tree.placeholders == {str(notes / "b.md"), str(notes / "c.md")}


def test_a_folder_with_nothing_but_placeholders_is_a_folder_of_notes(notes: Path) -> None:
    write(notes, ".c.md.icloud", b"bplist00")
    assert check_root(notes) == notes
