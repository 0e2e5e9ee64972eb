"""The chat in a browser: who is let in, by real requests to a real server; and what a real browser does there."""

from __future__ import annotations

import asyncio
import base64
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from http.cookies import SimpleCookie
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("textual_serve")

import aiohttp

from app.places import Places
from app.serve import check_address, is_loopback
from store.errors import UsageError
from tests.conftest import Run

ROOT = Path(__file__).parent.parent
BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
_ESCAPES = re.compile(r"\x1b(?:\[[0-9;?]*[ -/]*[@-~]|\][^\x07]*\x07|[@-Z\\-_])")


def free_port() -> int:
    """A port that nobody listens at."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


@pytest.fixture
def serving(own_sample: Places) -> Iterator[tuple[str, subprocess.Popen[str]]]:
    """The link that `btr-assistant serve` prints, and the process; Ctrl-C ends it with 0, without a traceback."""
    port = free_port()
    program = [sys.executable, "-c", "from app.cli import main; main()", "serve", "--port", str(port)]
    environment = dict(os.environ) | {"PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1"}
    running = subprocess.Popen(program, env=environment, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert running.stderr is not None
    try:
        line = running.stderr.readline()
        assert line.startswith(f"The chat is at http://127.0.0.1:{port}/?token="), line + running.stderr.read()
        yield line.split()[-1], running
        running.send_signal(signal.SIGINT)
        assert running.wait(timeout=20) == 0
        assert "Traceback" not in running.stderr.read()
    finally:
        running.kill()
        running.communicate()


@pytest.fixture
def served(serving: tuple[str, subprocess.Popen[str]]) -> str:
    """The link alone."""
    return serving[0]


@asynccontextmanager
async def visitor() -> AsyncIterator[Any]:
    """Somebody with a cookie jar, who follows no redirect on their own."""
    async with aiohttp.ClientSession(cookie_jar=aiohttp.CookieJar(unsafe=True)) as session:
        yield session


async def status(session: Any, url: str, **headers: str) -> int:
    """The status of a request."""
    async with session.get(url, headers=headers, allow_redirects=False) as response:
        return int(response.status)


async def opens(session: Any, url: str, **headers: str) -> int:
    """The status with which a web socket is opened; 101 is success."""
    try:
        async with session.ws_connect(url, headers=headers):
            return 101
    except aiohttp.WSServerHandshakeError as error:
        return int(error.status)


@pytest.mark.asyncio
async def test_only_who_has_the_link_is_let_in(served: str) -> None:
    home = served.partition("?")[0]
    inside = [home, home + "ws", home + "static/js/textual.js", home + "download/x"]
    async with visitor() as session:
        for url in (*inside, home + "?token=", home + "?token=wrong", served + "x"):
            assert await status(session, url) == 401
            assert await status(session, url, Cookie=f"btr-assistant-{home.split(':')[2][:-1]}=guess") == 401
        assert await opens(session, home + "ws") == 401
        assert not session.cookie_jar
        async with session.get(served, allow_redirects=False) as response:
            assert (response.status, response.headers["Location"]) == (303, "/")
            (cookie,) = SimpleCookie(response.headers["Set-Cookie"]).values()
        assert cookie["httponly"] and cookie["samesite"] == "Strict"
        assert cookie.value not in served
        async with session.get(home) as response:
            page, policy = await response.text(), response.headers["Content-Security-Policy"]
        assert (response.status, "default-src 'none'" in policy) == (200, True)
        assert not re.search(r"(?:src|href)=\"(?!/)", page)
        assert await status(session, home + "static/js/textual.js") == 200


@pytest.mark.asyncio
async def test_other_pages_and_other_names_get_nothing_from_a_browser_that_is_let_in(served: str) -> None:
    home = served.partition("?")[0]
    own = home.rstrip("/")
    async with visitor() as session:
        await status(session, served)
        assert await status(session, home) == 200
        assert await status(session, home, Host="evil.example") == 403
        assert await status(session, home, Host="evil.example:80") == 403
        assert await opens(session, home + "ws", Origin="http://evil.example") == 403
        assert await opens(session, home + "ws", Origin="null") == 403
        assert await opens(session, home + "ws", Origin=own.replace("127.0.0.1", "127.0.0.2")) == 403
        assert await opens(session, home + "ws", Origin=own) == 101


@pytest.mark.asyncio
async def test_ctrl_c_ends_it_while_a_page_is_open(serving: tuple[str, subprocess.Popen[str]]) -> None:
    link, server = serving
    async with visitor() as session:
        await status(session, link)
        async with session.ws_connect(link.partition("?")[0] + "ws") as page:
            await page.receive()
            server.send_signal(signal.SIGINT)
            async for _ in page:
                pass
            assert page.closed
    assert await asyncio.to_thread(server.wait, 20) == 0


@pytest.mark.parametrize("host", ["0.0.0.0", "192.168.1.5", "::", "my-laptop", "127.0.0.1.example"])
def test_other_addresses_need_a_flag_and_a_token(run: Run, host: str) -> None:
    for arguments in ([], ["--allow-remote"], ["--token", "a-token-of-my-own"]):
        outcome = run("serve", "--host", host, *arguments)
        assert (outcome.code, outcome.out, outcome.err.count("\n")) == (2, "", 1)
        assert f"{host} can be reached from other machines" in outcome.err
    assert check_address(host, True, "a-token-of-my-own") == "a-token-of-my-own"


def test_the_loopback_address_has_a_token_of_its_own_each_time() -> None:
    assert all(map(is_loopback, ("127.0.0.1", "127.1.2.3", "::1", "localhost")))
    first, second = check_address("127.0.0.1", False, None), check_address("::1", False, None)
    assert len(first) >= 32
    assert first != second
    with pytest.raises(UsageError, match="the token has 5 characters, 16 are needed"):
        check_address("127.0.0.1", False, "short")


def test_a_port_that_is_taken_is_one_sentence(run: Run) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        outcome = run("serve", "--port", str(taken.getsockname()[1]))
    assert (outcome.code, outcome.out, outcome.err.count("\n")) == (2, "", 1)
    assert "give another --port" in outcome.err


def test_without_the_extra_it_says_what_to_install(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "app.serve", raising=False)
    monkeypatch.setitem(sys.modules, "textual_serve.server", None)
    assert "pip install 'btr-assistant[web]'" in run("serve").err


class Browser:
    """A headless Chromium with one page, driven over its DevTools protocol."""

    def __init__(self, socket_: Any) -> None:
        self._socket, self._id = socket_, 0
        self.events: list[dict[str, Any]] = []

    async def send(self, method: str, **params: Any) -> dict[str, Any]:
        """Call a method; events that arrive meanwhile are kept."""
        self._id += 1
        await self._socket.send_json({"id": self._id, "method": method, "params": params})
        while True:
            message = await asyncio.wait_for(self._socket.receive_json(), 60)
            if message.get("id") == self._id:
                return dict(message["result"])
            self.events.append(message)

    async def until(self, words: str, seconds: float = 90) -> None:
        """Wait until the terminal was sent some words."""
        deadline = time.monotonic() + seconds
        while words not in self.screen() and time.monotonic() < deadline:
            await self.send("Runtime.evaluate", expression="0")
            await asyncio.sleep(0.2)
        assert words in self.screen(), self.screen()[-2000:]

    def screen(self) -> str:
        """All that came through web sockets, without escape sequences."""
        frames = [e["params"]["response"] for e in self.events if e["method"] == "Network.webSocketFrameReceived"]
        data = [base64.b64decode(frame["payloadData"]) for frame in frames if frame["opcode"] == 2]
        return _ESCAPES.sub("", b"".join(data).decode(errors="replace"))


@asynccontextmanager
async def browser(folder: Path) -> AsyncIterator[Browser]:
    """A browser with a profile of its own."""
    assert BROWSER is not None
    flags = ["--headless=new", "--no-sandbox", "--disable-gpu", "--no-first-run", "--remote-debugging-port=0"]
    running = subprocess.Popen(
        [BROWSER, *flags, f"--user-data-dir={folder}", "about:blank"],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        deadline = time.monotonic() + 60
        found = folder / "DevToolsActivePort"
        while not (found.is_file() and found.read_text().count("\n")) and time.monotonic() < deadline:
            await asyncio.sleep(0.1)
        port = found.read_text().split()[0]
        async with aiohttp.ClientSession() as session:
            async with session.get(f"http://127.0.0.1:{port}/json") as response:
                pages = json.loads(await response.text())
            (url,) = (page["webSocketDebuggerUrl"] for page in pages if page["type"] == "page")
            async with session.ws_connect(url, max_msg_size=0) as connected:
                yield Browser(connected)
    finally:
        running.terminate()
        running.wait(timeout=20)


@pytest.mark.skipif(BROWSER is None, reason="there is no Chromium here")
@pytest.mark.asyncio
async def test_a_browser_asks_and_talks_to_nobody_else(served: str, tmp_path: Path) -> None:
    async with browser(tmp_path / "profile") as page:
        await page.send("Network.enable")
        await page.send("Log.enable")
        await page.send("Page.navigate", url=served)
        await page.until("Ask your notes")
        await page.until("6 notes")
        await page.send("Runtime.evaluate", expression="document.querySelector('.xterm-helper-textarea').focus()")
        await page.send("Input.insertText", text="When was the boiler serviced?")
        await page.send("Input.dispatchKeyEvent", type="keyDown", key="Enter", code="Enter", windowsVirtualKeyCode=13)
        await page.until("14 March 2024")
        asked = [e["params"]["request"]["url"] for e in page.events if e["method"] == "Network.requestWillBeSent"]
        where = (await page.send("Runtime.evaluate", expression="location.href"))["result"]["value"]
        shown = await page.send("Runtime.evaluate", expression="document.body.className")
    home = served.partition("?")[0]
    assert where == home  # the token is not left in the address
    assert "-first-byte" in shown["result"]["value"]
    assert asked
    assert all(url.startswith((home, "data:")) for url in asked)
    assert not [
        e for e in page.events if e["method"] == "Log.entryAdded" and e["params"]["entry"]["source"] == "security"
    ]
