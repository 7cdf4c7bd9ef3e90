"""What every response of the API carries, and which hosts may be asked: a defence against DNS rebinding.

A page that an attacker's name serves can make a browser ask 127.0.0.1 under that name. So a request must name the API
by an address, by localhost, by a name of this machine, or by one of `api_allowed_hosts`.
"""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import Iterable
from http import HTTPStatus

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from celeray.api import problems
from celeray.api.headers import SAFE_HEADERS
from celeray.scheduler.errors import ConfigurationError


class Guard:
    """ASGI middleware: refuses foreign host names, and adds the headers."""

    def __init__(self, app: ASGIApp, allowed_hosts: Iterable[str] = ()) -> None:
        self._app = app
        self._allowed = {"localhost", socket.gethostname().lower(), *(name.lower() for name in allowed_hosts)}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return

        async def send_guarded(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in SAFE_HEADERS.items():
                    headers.setdefault(name, value)
            await send(message)

        host = _name(Headers(scope=scope).get("host", ""))
        if self.allows(host):
            await self._app(scope, receive, send_guarded)
            return
        detail = f"host {host!r} is none of this API's; set api_allowed_hosts to allow it"
        refusal = problems.response(HTTPStatus.MISDIRECTED_REQUEST, detail)
        await refusal(scope, receive, send_guarded)

    def allows(self, host: str) -> bool:
        """Whether a request may name the API so. Addresses are safe: rebinding needs a name."""
        return host in self._allowed or _is_address(host)


def check_bind(host: str, *, allow_remote: bool) -> None:
    """Return if the API may listen on `host`.

    Raises:
        ConfigurationError: others could reach it, and nobody said that they may.
    """
    if allow_remote or host == "localhost" or (_is_address(host) and ipaddress.ip_address(host).is_loopback):
        return
    raise ConfigurationError(
        f"api_host={host!r}: not a loopback address; set api_allow_remote (--allow-remote) to serve others too. "
        "Every request then needs a token, and a proxy in front has to encrypt"
    )


def _name(header: str) -> str:
    """The host of a Host header, in small letters, without port and brackets."""
    if header.startswith("["):
        return header[1:].partition("]")[0].lower()
    return header.partition(":")[0].lower()


def _is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True
