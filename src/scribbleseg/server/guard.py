"""Who may speak to the page's server: browsers on this machine that were opened with the key, and nobody else."""

import re
import secrets
from urllib.parse import parse_qs

from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

LOCAL = re.compile(r"(127\.0\.0\.1|localhost|\[::1\])(:\d{1,5})?", re.IGNORECASE)
"""The names of this machine in a Host header; any port, for one may be forwarded. Another name is a sign that a page of
somebody else was made to point here (DNS rebinding)."""

HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob:; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-store",
}
"""The headers of every answer: the page runs its own scripts alone, speaks to its server alone, and is not framed."""

NO_KEY = "Open the address that `scribbleseg annotate` printed in the terminal: it carries the key to this page.\n"


class Guard:
    """Passes on requests that come from this machine, from the page itself, and with the key or its cookie.

    Args:
        app: what is guarded.
        cookie: the name of the cookie; servers on two ports share their cookies, so each needs its own.

    Attributes:
        key: the key, which the address of the page carries (`?key=...`); new with every start.
    """

    def __init__(self, app: ASGIApp, cookie: str) -> None:
        self.app, self.cookie = app, cookie
        self.key, self._session = secrets.token_urlsafe(24), secrets.token_urlsafe(24)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answers one request, or refuses it."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        headers = {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in scope["headers"]}
        new = self._has_key(scope)
        refused = _foreign(headers) or ("" if new or self._has_cookie(headers) else NO_KEY)

        async def send_guarded(message: Message) -> None:
            if message["type"] == "http.response.start":
                extra = dict(HEADERS)
                if new and not refused:
                    extra["Set-Cookie"] = f"{self.cookie}={self._session}; Path=/; HttpOnly; SameSite=Strict"
                added = [(name.lower().encode(), value.encode()) for name, value in extra.items()]
                message["headers"] = [*message.get("headers", []), *added]
            await send(message)

        answer = PlainTextResponse(refused, status_code=403) if refused else self.app
        await answer(scope, receive, send_guarded)

    def _has_key(self, scope: Scope) -> bool:
        given = parse_qs(scope["query_string"].decode("latin-1")).get("key", [""])
        return scope["path"] == "/" and secrets.compare_digest(given[0].encode(), self.key.encode())

    def _has_cookie(self, headers: dict[str, str]) -> bool:
        for pair in headers.get("cookie", "").split(";"):  # whatever other programs on this machine put there
            name, _, value = pair.strip().partition("=")
            if name == self.cookie and secrets.compare_digest(value.encode(), self._session.encode()):
                return True
        return False


def _foreign(headers: dict[str, str]) -> str:
    """Why a request is not one of the page itself; "" where it is."""
    host = headers.get("host", "")
    if not LOCAL.fullmatch(host):
        return "This page answers to 127.0.0.1 and localhost alone.\n"
    origin = headers.get("origin")
    if origin is not None and origin.lower() != f"http://{host}".lower():
        return "Another page's request is not answered.\n"
    if headers.get("sec-fetch-site", "none") not in ("none", "same-origin"):
        return "Another page's request is not answered.\n"
    return ""
