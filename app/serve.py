"""
The chat in a browser: textual-serve's server, let in by a token only.

textual-serve lets in everybody who can reach its port, and any web page can make a browser reach a port of its own
machine. So there is a token on the loopback address too: the link that is printed holds it, and is exchanged for a
cookie that no other site can send and no script can read. Pages of other names (DNS rebinding) and sockets opened by
other pages are refused. The page is ours, for textual-serve's loads a font from the network; its policy allows none.

This is the one module that listens. There is no TLS here: beyond the loopback address, put it behind something that has
it.
"""

from __future__ import annotations

import asyncio
import hmac
import html
import ipaddress
import logging
import secrets
import shlex
import subprocess
import sys
from collections.abc import Callable
from typing import Any
from urllib.parse import quote, urlsplit

import textual_serve.server
from aiohttp import web
from aiohttp.typedefs import Handler, Middleware
from textual_serve.app_service import AppService
from textual_serve.server import Server

from app.places import Places
from store.errors import UsageError

SHORTEST_TOKEN = 16
PATIENCE = 5.0
"""Seconds that a chat is given to end."""
_LOOPBACK_NAMES = {"localhost", "127.0.0.1", "::1"}
_NOBODY = "open the link that btr-assistant serve printed: it holds the token\n"
_PAGE = """\
<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<title>btr-assistant</title>
<link rel="stylesheet" href="/static/css/xterm.css">
<style>
html, body {{ margin: 0; height: 100%; background: #121212; color: #e0e0e0; font-family: monospace; }}
#terminal {{ position: absolute; inset: 0; }}
#closed {{ display: none; padding: 2em; }}
body.-closed #closed {{ display: block; }}
body.-closed #terminal {{ display: none; }}
</style>
</head>
<body>
<div id="terminal" class="textual-terminal" data-font-size="{font_size}"></div>
<p id="closed">The chat has ended. <a href="/">Open it again</a></p>
<script nonce="{nonce}">
document.getElementById("terminal").dataset.sessionWebsocketUrl =
  location.origin.replace(/^http/, "ws") + "/ws";
</script>
<script src="/static/js/textual.js"></script>
</body>
</html>
"""


def is_loopback(host: str) -> bool:
    """Whether an address to listen at can be reached from this machine only."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def check_address(host: str, allow_remote: bool, token: str | None) -> str:
    """
    The token to ask for at an address: the one that was given, or on the loopback address a new one.

    Raises:
        UsageError: If the address is another one and --allow-remote or the token is missing, or the token is short.
    """
    if not is_loopback(host) and not (allow_remote and token):
        raise UsageError(
            f"{host} can be reached from other machines, and without encryption: add --allow-remote and set "
            "BTR_ASSISTANT_TOKEN to a token of your own, or leave --host out"
        )
    if token is not None and len(token) < SHORTEST_TOKEN:
        raise UsageError(f"the token has {len(token)} characters, {SHORTEST_TOKEN} are needed: give a longer one")
    return token or secrets.token_urlsafe(24)


def chat_command(places: Places) -> str:
    """The shell command that opens the chat over the same places; nothing is imported from the current folder."""
    flags = ["--store", str(places.store), "--bundle", str(places.bundle), "--device", places.device]
    words = [sys.executable, "-P", "-c", "from app.cli import main; main()", *flags]
    return subprocess.list2cmdline(words) if sys.platform == "win32" else shlex.join(words)


class Chat(AppService):
    """textual-serve's process of one page, waited for: Ctrl-C would leave it to a closed loop."""

    async def stop(self) -> None:
        await super().stop()
        if self._process is not None:
            try:
                await asyncio.wait_for(self._process.wait(), PATIENCE)
            except TimeoutError:
                self._process.kill()
                await self._process.wait()


textual_serve.server.AppService = Chat  # type: ignore[attr-defined]  # it has no other way to be told


class GuardedServer(Server):
    """textual-serve with a door."""

    def __init__(self, command: str, host: str, port: int, token: str, announce: Callable[[str], None]) -> None:
        super().__init__(command, host=host, port=port, title="btr-assistant")
        self._token, self._session, self._announce = token, secrets.token_urlsafe(32), announce
        self._cookie = f"btr-assistant-{port}"  # cookies do not know ports
        self._pages: set[asyncio.Task[Any]] = set()
        """Those that are open."""

    @property
    def link(self) -> str:
        """Where the chat opens."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"http://{host}:{self.port}/?token={quote(self._token)}"

    def listen(self) -> None:
        """
        Serve until Ctrl-C.

        Raises:
            UsageError: If the address cannot be listened at.
        """
        logging.basicConfig(level=logging.WARNING, format="%(message)s")
        try:
            web.run_app(
                self._make_app(),
                host=self.host,
                port=self.port,
                access_log=None,
                print=lambda _: self._announce(self.link),  # called once it listens
            )
        except OSError as error:
            raise UsageError(
                f"cannot listen at {self.host} port {self.port} ({error.strerror or error}): give another --port"
            ) from error

    async def handle_websocket(self, request: web.Request) -> web.WebSocketResponse:
        task = asyncio.current_task()
        assert task is not None
        self._pages.add(task)
        try:
            return await super().handle_websocket(request)
        finally:
            self._pages.discard(task)

    async def on_shutdown(self, app: web.Application) -> None:
        """End what is open; aiohttp would wait a minute for somebody to close the page."""
        pages = set(self._pages)
        for page in pages:
            page.cancel()
        if pages:
            await asyncio.wait(pages, timeout=2 * PATIENCE)

    async def on_startup(self, app: web.Application) -> None:
        pass  # no banner

    async def _make_app(self) -> web.Application:
        app = await super()._make_app()
        app.middlewares.append(self._door)
        app.on_response_prepare.append(self._restrict)
        return app

    @property
    def _door(self) -> Middleware:
        @web.middleware
        async def door(request: web.Request, handler: Handler) -> web.StreamResponse:
            if is_loopback(self.host) and urlsplit(f"//{request.host}").hostname not in {*_LOOPBACK_NAMES, self.host}:
                return web.Response(status=403, text="this name is not served here\n")
            origin = request.headers.get("Origin")
            if origin is not None and urlsplit(origin).netloc != request.host:
                return web.Response(status=403, text="another page may not open the chat\n")
            given = request.query.get("token")
            if given is not None:
                if not _same(given, self._token):
                    return web.Response(status=401, text=_NOBODY)
                into = web.HTTPSeeOther("/")  # so that the token stays in no history and no referrer
                into.set_cookie(
                    self._cookie, self._session, httponly=True, samesite="Strict", secure=request.secure, path="/"
                )
                return into
            if not _same(request.cookies.get(self._cookie, ""), self._session):
                return web.Response(status=401, text=_NOBODY)
            return await handler(request)

        return door

    async def _restrict(self, request: web.Request, response: web.StreamResponse) -> None:
        """What a browser may do with anything from here: nothing elsewhere."""
        nonce = request.get("nonce", "")
        script = f"script-src 'self' 'nonce-{nonce}'" if nonce else "script-src 'none'"
        response.headers.update(
            {
                "Content-Security-Policy": (
                    f"default-src 'none'; {script}; style-src 'self' 'unsafe-inline'; img-src 'self' data:; "
                    f"font-src 'self' data:; connect-src 'self' ws://{request.host} wss://{request.host}; "
                    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
                ),
                "Referrer-Policy": "no-referrer",
                "X-Content-Type-Options": "nosniff",
                "Cache-Control": "no-store",
            }
        )

    async def handle_index(self, request: web.Request) -> web.Response:
        nonce = request["nonce"] = secrets.token_urlsafe(16)
        size = request.query.get("fontsize", "16")
        page = _PAGE.format(nonce=html.escape(nonce), font_size=size if size.isdecimal() else "16")
        return web.Response(text=page, content_type="text/html")


def _same(given: str, expected: str) -> bool:
    return hmac.compare_digest(given.encode(errors="replace"), expected.encode())
