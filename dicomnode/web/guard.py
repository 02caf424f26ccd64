"""The guard around every page: who asks, from where, by which name.

It puts headers on every answer and limits on every body.

It is the outermost layer (ASGI), so that no page, static file or error leaves without it.
"""

from __future__ import annotations

import hmac
import ipaddress
import re
from collections.abc import Awaitable, Callable, MutableMapping, Sequence
from http.cookies import CookieError, SimpleCookie
from typing import Any
from urllib.parse import urlsplit

import structlog
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

from dicomnode.errors import where
from dicomnode.settings.web import WebSettings
from dicomnode.web.sessions import new_browser_token
from dicomnode.web.site import Site, Visitor
from dicomnode.web.users import UserRole

log = structlog.get_logger()

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

LOCAL_USER = "local"
# Where the body is a file of an upload and no form.
_FILE_PATH = re.compile(r"/uploads/[0-9a-f]{32}/files")
_LARGEST_FORM_BYTES = 64 * 1024
_LOCAL_HOSTS = ("localhost", "127.0.0.1", "::1")
_SAFE = ("GET", "HEAD")
_HEADERS = {
    "content-security-policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; "
    "connect-src 'self'; form-action 'self'; frame-ancestors 'none'; base-uri 'none'",
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    # Not "no-referrer": a browser then calls the origin of our own forms "null".
    "referrer-policy": "same-origin",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "permissions-policy": "camera=(), geolocation=(), microphone=()",
    "cache-control": "no-store",
}
_HSTS = "max-age=31536000"


class BodyTooLarge(HTTPException):
    """A request has more bytes than it may have."""

    def __init__(self, limit_bytes: int) -> None:
        super().__init__(413, f"The request is larger than {max(1, limit_bytes // 2**20)} MiB.")


class Guard:
    """Wraps the pages.

    Parameters
    ----------
    app
        The pages.
    site
        Sessions, users and settings.
    """

    def __init__(self, app: App, site: Site) -> None:
        self._app, self._site = app, site
        self._settings = site.config.web

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http":
            if scope["type"] == "lifespan":
                await self._app(scope, receive, send)
            return
        headers = {key.decode("latin-1"): text.decode("latin-1") for key, text in scope["headers"]}
        address, is_secure = origin_of(scope, headers, self._settings)
        answer = _Answer(send, is_secure)
        refusal = self._refusal(scope, headers, is_secure)
        if refusal:
            await answer.say(403, refusal)
            return
        visitor, cookie = self._visitor(headers, address, is_secure)
        scope.setdefault("state", {})["visitor"] = visitor
        scope["state"]["cookie_name"] = _cookie_name(is_secure)
        scope["state"]["is_secure"] = is_secure
        answer.cookie = cookie
        try:
            await self._app(scope, _limited(receive, headers, self._body_limit(scope["path"])), answer)
        except ClientDisconnect:
            log.info("browser_hung_up")
        except Exception as bug:  # noqa: BLE001  a page that fails must not show or log what it worked on
            log.error("page_failed", where=where(bug), error=type(bug).__name__)  # noqa: TRY400
            await answer.say(500, "This page failed. The log names where; please report it.")

    def _refusal(self, scope: Scope, headers: dict[str, str], is_secure: bool) -> str:
        """Return why a request is refused before anything looks at it, or nothing."""
        host = urlsplit(f"//{headers.get('host', '')}").hostname or ""
        names = self._settings.hosts or (() if self._settings.login else _LOCAL_HOSTS)
        if names and host not in {name.lower() for name in names}:
            return "These pages are not known by this name; an administrator can add it to web.hosts."
        through_proxy = _in_networks((scope.get("client") or ("",))[0], self._settings.trusted_proxies)
        if not is_secure and (through_proxy or not self._settings.is_local):
            return "These pages are served by HTTPS only."
        if scope["method"] not in _SAFE:
            origin, site = headers.get("origin"), headers.get("sec-fetch-site", "same-origin")
            if site not in ("same-origin", "none"):
                return "This was asked for by another site."
            if origin is not None and urlsplit(origin).netloc.lower() != headers.get("host", "").lower():
                return "This was asked for by another site."
        return ""

    def _visitor(self, headers: dict[str, str], address: str, is_secure: bool) -> tuple[Visitor, str]:
        """Return who asks, and the cookie to be set where the browser has none."""
        token = _read_cookie(headers.get("cookie", ""), _cookie_name(is_secure))
        new_cookie = ""
        if not token:
            token = new_browser_token()
            new_cookie = cookie_text(_cookie_name(is_secure), token, is_secure)
        if not self._settings.login:
            return Visitor(LOCAL_USER, UserRole.ADMINISTRATOR, address, token), new_cookie
        now, by_hand = self._site.now(), "x-live" not in headers
        session = self._site.sessions.use(token, now, by_hand=by_hand)
        user = self._site.users.find(session.user_name) if session and self._site.users else None
        if user is None:
            return Visitor("", None, address, token), new_cookie
        return Visitor(user.name, user.role, address, token), new_cookie

    def _body_limit(self, path: str) -> int:
        is_file = _FILE_PATH.fullmatch(path) is not None
        return self._settings.upload_maximum_mb * 2**20 if is_file else _LARGEST_FORM_BYTES


class _Answer:
    """Sends an answer with the guard's headers; knows whether it began."""

    def __init__(self, send: Send, is_secure: bool) -> None:
        self._send, self._is_secure, self._began = send, is_secure, False
        self.cookie = ""

    async def __call__(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self._began = True
            present = {key.decode("latin-1").lower() for key, _ in message.get("headers", ())}
            extra = dict(_HEADERS) | ({"strict-transport-security": _HSTS} if self._is_secure else {})
            if self.cookie and "set-cookie" not in present:
                extra["set-cookie"] = self.cookie
            added = [(key.encode(), text.encode()) for key, text in extra.items() if key not in present]
            message = {**message, "headers": [*message.get("headers", ()), *added]}
        await self._send(message)

    async def say(self, status: int, sentence: str) -> None:
        """Answer with a sentence, unless an answer began already."""
        if self._began:
            return
        body = f"{sentence}\n".encode()
        headers = [
            (b"content-type", b"text/plain; charset=utf-8"),
            (b"content-length", str(len(body)).encode()),
        ]
        await self({"type": "http.response.start", "status": status, "headers": headers})
        await self({"type": "http.response.body", "body": body})


def cookie_text(name: str, token: str, is_secure: bool) -> str:
    """Return the Set-Cookie header of a token."""
    return f"{name}={token}; Path=/; HttpOnly; SameSite=Lax{'; Secure' if is_secure else ''}"


def origin_of(scope: Scope, headers: dict[str, str], settings: WebSettings) -> tuple[str, bool]:
    """Return the address that asks and whether HTTPS was spoken; a proxy is believed when it is trusted."""
    peer = (scope.get("client") or ("",))[0]
    if not _in_networks(peer, settings.trusted_proxies):
        return peer, scope["scheme"] == "https"
    # The last address is the one that our proxy saw; those before it are what a browser claims.
    address = headers.get("x-forwarded-for", "").rpartition(",")[2].strip() or peer
    is_secure = hmac.compare_digest(headers.get("x-forwarded-proto", "").lower().encode(), b"https")
    return address[:64], is_secure


def _in_networks(address: str, networks: Sequence[str]) -> bool:
    try:
        parsed = ipaddress.ip_address(address)
    except ValueError:
        return False
    return any(parsed in ipaddress.ip_network(network, strict=False) for network in networks)


def _cookie_name(is_secure: bool) -> str:
    # The prefix makes browsers refuse one that another name of the domain, or plain HTTP, set.
    return "__Host-dicomnode" if is_secure else "dicomnode"


def _read_cookie(header: str, name: str) -> str:
    try:
        cookies = SimpleCookie(header[:4096])
    except CookieError:
        return ""
    text = cookies[name].value if name in cookies else ""
    return text if 20 <= len(text) <= 100 and text.isascii() else ""


def _limited(receive: Receive, headers: dict[str, str], limit: int) -> Receive:
    """Return a `receive` that raises when the body is longer than it may be.

    The length is counted by the header and by the bytes.
    """
    declared = headers.get("content-length", "0")
    count = 0

    async def counted() -> Message:
        nonlocal count
        if declared.isdigit() and int(declared) > limit:
            raise BodyTooLarge(limit)
        message = await receive()
        count += len(message.get("body", b""))
        if count > limit:
            raise BodyTooLarge(limit)
        return message

    return counted
