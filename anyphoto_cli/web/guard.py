"""Who may talk to the editor: this machine's browser, with the token of this start, from the editor's own page.

A page of another site can make a browser send requests to 127.0.0.1, and a name of another site can be made to point
there. So the Host must be ours, requests that change something must come from our own page (Origin), and all of them
carry a token that only who started the editor has seen. Bodies are small or refused.
"""

from __future__ import annotations

import asyncio
import hmac
from collections.abc import Awaitable, Callable, MutableMapping
from http.cookies import CookieError, SimpleCookie
from typing import Any
from urllib.parse import parse_qs, urlencode

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

COOKIE = "anyphoto_editor"
"""First part of its name; the port follows: browsers send cookies to every port of a host."""
HOST = "127.0.0.1"
UPLOADS = "/api/references"
MOST_UPLOAD, MOST_JSON = 20 * 2**20, 2**20
"""Bytes of a body."""
SLOWEST_S = 30.0
"""A body that is not there by then is given up."""
_HEADERS = (
    (b"content-security-policy", b"default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data: blob:;"
     b" connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"),
    (b"x-content-type-options", b"nosniff"), (b"referrer-policy", b"no-referrer"), (b"cache-control", b"no-store"),
    (b"cross-origin-resource-policy", b"same-origin"), (b"cross-origin-opener-policy", b"same-origin"),
)  # fmt: skip


class TooLarge(Exception):
    """The body is larger than it may be. Raised to `app` while it reads."""


class Guard:
    """ASGI: lets through what may pass to `app`, which answers at `port` of 127.0.0.1."""

    def __init__(self, app: App, token: str, port: int) -> None:
        self._app, self._token, self._cookie = app, token, f"{COOKIE}_{port}"
        self._hosts = frozenset(f"{name}:{port}" for name in (HOST, "localhost"))

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One request."""
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return
        if scope["type"] != "http":
            await send({"type": "websocket.close", "code": 1008})
            return
        headers = _single(scope["headers"])
        refusal = self._refusal(scope, headers) if headers is not None else (400, "a header is there twice")
        if headers is None or refusal is not None:
            await _drain(receive)
            await _answer(send, *(refusal or (400, "")))
            return
        if scope["method"] == "GET" and scope["path"] == "/" and b"token=" in scope["query_string"]:
            await self._welcome(send)
            return
        await self._pass_on(scope, receive, send)

    def _refusal(self, scope: Scope, headers: dict[bytes, bytes]) -> tuple[int, str] | None:
        host = headers.get(b"host", b"").decode("latin-1").lower()
        if host not in self._hosts:
            return 403, "this editor answers to 127.0.0.1 alone"
        origin = headers.get(b"origin")
        if origin is not None and origin.decode("latin-1").lower() != f"http://{host}":
            return 403, "this request comes from another page"
        if origin is None and scope["method"] not in ("GET", "HEAD"):
            return 403, "this request does not say which page it comes from"
        if headers.get(b"sec-fetch-site", b"same-origin") not in (b"same-origin", b"none"):
            return 403, "this request comes from another site"
        if not self._knows_token(scope, headers):
            return 401, "open the address that anyphoto printed: it carries the token of this start"
        if _declared(headers) > _most(scope["path"]):
            return 413, f"larger than {_most(scope['path']) // 2**20} MB"
        return None

    def _knows_token(self, scope: Scope, headers: dict[bytes, bytes]) -> bool:
        given = ""
        if scope["method"] == "GET" and scope["path"] == "/":
            asked = parse_qs(scope["query_string"].decode("latin-1"), max_num_fields=8)
            given = asked.get("token", [""])[0]
        if not given:
            given = _cookie(self._cookie, headers.get(b"cookie", b"").decode("latin-1"))
        return hmac.compare_digest(given.encode("utf-8", "replace"), self._token.encode())

    async def _welcome(self, send: Send) -> None:
        """Token into a cookie, and out of the address, the history and the screen."""
        cookie = f"{self._cookie}={self._token}; Path=/; HttpOnly; SameSite=Strict"
        more = [(b"location", b"/"), (b"set-cookie", cookie.encode())]
        await send({"type": "http.response.start", "status": 303, "headers": [*more, *_HEADERS]})
        await send({"type": "http.response.body", "body": b""})

    async def _pass_on(self, scope: Scope, receive: Receive, send: Send) -> None:
        """With a cap on the body and our headers on the answer. `app` answers to TooLarge and TimeoutError."""
        most, read = _most(scope["path"]), 0
        finished = int(scope["method"] in ("GET", "HEAD"))

        async def capped() -> MutableMapping[str, Any]:
            nonlocal read, finished
            if finished:
                return await receive()  # waits for the browser to go away: that may take as long as it likes
            message = await asyncio.wait_for(receive(), SLOWEST_S)
            read += len(message.get("body", b""))
            finished = int(not message.get("more_body", False))
            if read > most:
                raise TooLarge
            return message

        async def with_headers(message: MutableMapping[str, Any]) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message.get("headers", []), *_HEADERS]
            await send(message)

        await self._app(scope, capped, with_headers)


def address(port: int, token: str) -> str:
    """What to open."""
    return f"http://{HOST}:{port}/?{urlencode({'token': token})}"


def _single(headers: Any) -> dict[bytes, bytes] | None:
    """None where one that we rely on is there twice: which of the two would hold?"""
    found: dict[bytes, bytes] = {}
    for name, value in headers:
        if name in found and name in (b"host", b"origin", b"content-length", b"cookie"):
            return None
        found[name] = value
    return found


def _most(path: str) -> int:
    return MOST_UPLOAD + 2**16 if path == UPLOADS else MOST_JSON


def _declared(headers: dict[bytes, bytes]) -> int:
    text = headers.get(b"content-length", b"0")
    return int(text) if text.isdigit() else 0


def _cookie(name: str, text: str) -> str:
    try:
        return SimpleCookie(text)[name].value
    except (CookieError, KeyError):
        return ""


async def _drain(receive: Receive) -> None:
    """Read what a browser is still sending, up to a limit: who is hung up on never reads why."""
    read = 0
    try:
        async with asyncio.timeout(SLOWEST_S):
            while read <= 2 * MOST_UPLOAD:
                message = await receive()
                read += len(message.get("body", b""))
                if message["type"] != "http.request" or not message.get("more_body", False):
                    return
    except TimeoutError:
        return


async def _answer(send: Send, status: int, told: str) -> None:
    body = told.encode()
    headers = [(b"content-type", b"text/plain; charset=utf-8"), (b"content-length", str(len(body)).encode()),
               (b"connection", b"close"), *_HEADERS]  # fmt: skip
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
