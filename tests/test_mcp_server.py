"""The notes over the Model Context Protocol: a real client, a real process, and nothing outside the scope."""

from __future__ import annotations

import os
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("mcp")

from mcp import StdioServerParameters
from mcp.client.session import ClientSession
from mcp.client.stdio import stdio_client

from app.places import Places
from tests.conftest import Run
from tests.test_commands import check, documented

ROOT = Path(__file__).parent.parent
QUESTION = "When was the boiler serviced?"


@asynccontextmanager
async def client(places: Places, *arguments: str) -> AsyncIterator[ClientSession]:
    """A client of `btr-assistant mcp` in a process of its own."""
    program = ["-c", "from app.cli import main; main()", "--store", str(places.store), "mcp", *arguments]
    environment = dict(os.environ) | {"PYTHONPATH": str(ROOT)}
    parameters = StdioServerParameters(command=sys.executable, args=program, env=environment)
    async with stdio_client(parameters) as (read, write), ClientSession(read, write) as session:
        await session.initialize()
        yield session


async def call(session: ClientSession, tool: str, **arguments: Any) -> dict[str, Any]:
    """What a tool answers."""
    result = await session.call_tool(tool, arguments)
    assert not result.is_error, result.content
    assert result.structured_content is not None
    return dict(result.structured_content)


async def refusal(session: ClientSession, tool: str, **arguments: Any) -> str:
    """The sentence with which a tool refuses."""
    result = await session.call_tool(tool, arguments)
    assert result.is_error
    assert result.structured_content is None
    (content,) = result.content
    return str(content.text)


@pytest.mark.asyncio
async def test_a_client_searches_asks_and_reads_a_source(sample: Places) -> None:
    async with client(sample) as session:
        tools = (await session.list_tools()).tools
        assert [tool.name for tool in tools] == ["ask", "search", "read_source"]
        assert all(tool.annotations and tool.annotations.read_only_hint for tool in tools)
        assert not (await session.list_resources()).resources

        answer = await call(session, "ask", question=QUESTION)
        check(answer, documented()["ask"])
        assert answer["answer"] == "14 March 2024"
        assert (await call(session, "ask", question="Who won the football world cup in 1998?"))["answer"] is None

        found = await call(session, "search", query=" boiler ", limit=2)
        check(found, documented()["search"])
        assert (found["query"], len(found["results"])) == ("boiler", 2)

        path = answer["sources"][0]["path"]
        note = await call(session, "read_source", path=path)
        assert (note["path"], note["stale"], note["more"]) == (path, False, False)
        assert any("14 March 2024" in passage["text"] for passage in note["passages"])
        below = await call(session, "read_source", path=path, first_line=note["passages"][1]["line"], limit=1)
        assert below["passages"] == note["passages"][1:2]
        assert below["more"] is (len(note["passages"]) > 2)

        assert "the question is empty" in await refusal(session, "ask", question=" ")
        assert "is no filter" in await refusal(session, "search", query="boiler", scope="folder")


@pytest.mark.asyncio
async def test_nothing_outside_the_scope_is_searched_asked_or_read(sample: Places) -> None:
    notes = sample.store.parent / "notes"
    async with client(sample, "--in", "folder:house") as session:
        found = await call(session, "search", query="staging database port", limit=100)
        assert found["results"]
        assert all(Path(result["path"]).parent == notes / "house" for result in found["results"])
        for wider in ("folder:work", "-folder:house", f"folder:{notes}/work"):
            assert (await call(session, "search", query="staging", scope=wider))["results"] == []
            assert (await call(session, "ask", question="Which port?", scope=wider))["sources"] == []
        assert (await call(session, "read_source", path=f"{notes}/house/heating.md"))["passages"]
        for outside in (f"{notes}/work/staging.md", f"{notes}/house/../work/staging.md", "/etc/passwd", "", "%"):
            assert "is no note that can be read here" in await refusal(session, "read_source", path=outside)


@pytest.mark.asyncio
async def test_a_note_that_became_a_link_is_not_followed(run: Run, notes: Path, tmp_path: Path, sample: Places) -> None:
    (tmp_path / "secret.txt").write_text("The safe opens with 4711.")
    (notes / "a.md").write_text("The ladder stands behind the shed.")
    store = tmp_path / "linked.db"
    assert run("--store", store, "index", notes).code == 0
    (notes / "a.md").unlink()
    (notes / "a.md").symlink_to(tmp_path / "secret.txt")
    async with client(Places(store, sample.bundle, "cpu", tmp_path)) as session:
        note = await call(session, "read_source", path=str(notes / "a.md"))
        assert note["stale"] is True
        assert [passage["text"] for passage in note["passages"]] == ["The ladder stands behind the shed."]


def test_what_is_wrong_is_said_before_anything_is_served(run: Run, own_sample: Places, tmp_path: Path) -> None:
    outcome = run("mcp", "--in", "folder")
    assert (outcome.code, outcome.out) == (2, "")
    outcome = run("--store", tmp_path / "none.db", "mcp")
    assert (outcome.code, outcome.out) == (3, "")


def test_without_the_extra_it_says_what_to_install(
    run: Run, own_sample: Places, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delitem(sys.modules, "app.mcp_server", raising=False)
    monkeypatch.setitem(sys.modules, "mcp.server.mcpserver", None)
    outcome = run("mcp")
    assert (outcome.code, outcome.out) == (2, "")
    assert "pip install 'btr-assistant[mcp]'" in outcome.err
