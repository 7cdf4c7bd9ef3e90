"""Who may call what: one table of every route, and the middleware that holds it.

A request that the table does not name never reaches a route, so a new one is closed until it is listed here. Tokens are
checked before any of a body is read.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Sequence
from http import HTTPStatus
from typing import NamedTuple

from starlette.datastructures import Headers
from starlette.requests import Request
from starlette.routing import compile_path
from starlette.types import ASGIApp, Receive, Scope, Send

from celeray.api import problems
from celeray.api.buckets import Buckets, address_key
from celeray.api.guard import check_bind
from celeray.api.problems import Problem
from celeray.api.token_file import TokenFile
from celeray.api.tokens import Role, Token, matching
from celeray.scheduler.clock import Clock, SystemClock
from celeray.scheduler.errors import ConfigurationError
from celeray.scheduler.settings import Settings

FAILURES_BURST, FAILURES_INTERVAL_S = 10, 6.0
"""Wrong tokens from one address: ten, then ten a minute."""
WRITES_BURST, WRITES_INTERVAL_S = 60, 1.0
"""Writes of one token."""
CHALLENGE = 'Bearer realm="celeray"'
logger = logging.getLogger(__name__)


class Rule(NamedTuple):
    """One route, and the role that it needs."""

    method: str
    path: str
    """As the route is declared."""
    role: Role | None
    """None: everybody, always."""
    asks: bool = False
    """A POST that changes nothing: what is asked does not fit into a URL."""

    @property
    def reads(self) -> bool:
        """Whether it changes nothing."""
        return self.method == "GET" or self.asks

    @property
    def may_be_open(self) -> bool:
        """Whether it only reads what is open on loopback."""
        return self.reads and self.role is Role.VIEWER


RULES = (
    # Whoever restarts processes has no token, and learns yes or no.
    Rule("GET", "/healthz", None),
    Rule("GET", "/readyz", None),
    Rule("GET", "/metrics", Role.VIEWER),
    Rule("GET", "/openapi.json", Role.VIEWER),
    Rule("GET", "/docs", Role.VIEWER),
    Rule("GET", "/docs/{asset}", Role.VIEWER),
    Rule("GET", "/v1/status", Role.VIEWER),
    Rule("GET", "/v1/queues", Role.VIEWER),
    Rule("GET", "/v1/queues/{name}", Role.VIEWER),
    Rule("POST", "/v1/queues/{name}/pause", Role.OPERATOR),
    Rule("POST", "/v1/queues/{name}/resume", Role.OPERATOR),
    Rule("GET", "/v1/devices", Role.VIEWER),
    Rule("POST", "/v1/devices/{uuid}/drain", Role.OPERATOR),
    Rule("POST", "/v1/devices/{uuid}/undrain", Role.OPERATOR),
    Rule("GET", "/v1/nodes", Role.VIEWER),
    Rule("POST", "/v1/nodes/{name}/drain", Role.OPERATOR),
    Rule("POST", "/v1/nodes/{name}/undrain", Role.OPERATOR),
    Rule("GET", "/v1/limits", Role.VIEWER),
    Rule("GET", "/v1/tenants", Role.VIEWER),
    Rule("GET", "/v1/tasks", Role.VIEWER),
    Rule("GET", "/v1/tasks/{task_id}", Role.VIEWER),
    Rule("GET", "/v1/tasks/{task_id}/explain", Role.VIEWER),
    Rule("POST", "/v1/explain", Role.VIEWER, asks=True),
    Rule("GET", "/v1/learned", Role.VIEWER),
    Rule("POST", "/v1/learned/reset", Role.OPERATOR),
    Rule("GET", "/v1/dead-letters", Role.VIEWER),
    # It shows the task's arguments, which viewers see nowhere.
    Rule("GET", "/v1/dead-letters/{letter_id}", Role.OPERATOR),
    Rule("POST", "/v1/dead-letters/redrive", Role.OPERATOR),
    Rule("POST", "/v1/dead-letters/discard", Role.OPERATOR),
    Rule("GET", "/v1/audit", Role.ADMIN),
)


class Access:
    """ASGI middleware. Leaves the token, or None, as `request.state.token`."""

    def __init__(
        self,
        app: ASGIApp,
        *,
        tokens: TokenFile,
        reads_need_token: bool,
        rules: Sequence[Rule] = RULES,
        clock: Clock | None = None,
    ) -> None:
        self._app = app
        self._tokens = tokens
        self._reads_need_token = reads_need_token
        self._rules = [(compile_path(rule.path)[0], rule) for rule in rules]
        self._clock = clock or SystemClock()
        self._failures = Buckets(FAILURES_BURST, FAILURES_INTERVAL_S)
        self._writes = Buckets(WRITES_BURST, WRITES_INTERVAL_S)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            try:
                rule = self.rule(scope["method"], scope["path"])
                scope.setdefault("state", {})["token"] = self._admitted(rule, scope)
            except Problem as problem:
                await problems.response_to(problem)(scope, receive, send)
                return
        elif scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1008})
            return
        await self._app(scope, receive, send)

    def rule(self, method: str, path: str) -> Rule:
        """The rule for a request.

        Raises:
            Problem: the table names no such path, or not with the method.
        """
        there = [rule for pattern, rule in self._rules if pattern.match(path)]
        if not there:
            raise Problem(HTTPStatus.NOT_FOUND, f"no such path: {path}")
        for rule in there:
            if rule.method == method:
                return rule
        allowed = ", ".join(sorted({rule.method for rule in there}))
        raise Problem(
            HTTPStatus.METHOD_NOT_ALLOWED, f"{method} is not allowed on {path}", headers={"Allow": allowed}
        )

    def _admitted(self, rule: Rule, scope: Scope) -> Token | None:
        """The token that allows the request. None: it needs none, and brought none.

        Raises:
            Problem: it is not allowed.
        """
        sent = Headers(scope=scope).getlist("authorization")
        is_open = rule.may_be_open and not self._reads_need_token
        if rule.role is None or (is_open and not sent):
            return None
        tokens = self._configured()
        if not tokens and not is_open:
            raise _no_tokens()
        if not sent:
            raise _unauthorized(f"{rule.path} needs a token: send Authorization: Bearer TOKEN")
        token = matching(tokens, _bearer(sent), self._clock.time())
        if token is None:
            raise self._failed(rule, scope)
        if not token.role.covers(rule.role):
            raise _forbidden(token, rule.role)
        self._count_write(rule, token)
        return token

    def _configured(self) -> tuple[Token, ...]:
        try:
            return self._tokens.tokens()
        except ConfigurationError as error:
            problem = Problem(
                HTTPStatus.SERVICE_UNAVAILABLE, "the file of the API's tokens can't be used; its log says why"
            )
            logger.error("%s", error)
            raise problem from error

    def _failed(self, rule: Rule, scope: Scope) -> Problem:
        """For a token that is wrong. A right one is never refused for the wrong ones of its neighbours."""
        host = str((scope.get("client") or ("unknown", 0))[0])
        if wait_s := self._failures.take(address_key(host), self._clock.monotonic()):
            return _too_many("wrong tokens from this address", wait_s)
        logger.warning("a wrong token from %s for %s %s", host, rule.method, rule.path)
        return _unauthorized("the token is unknown, wrong or expired", error="invalid_token")

    def _count_write(self, rule: Rule, token: Token) -> None:
        if not rule.reads and (wait_s := self._writes.take(token.id, self._clock.monotonic())):
            raise _too_many("writes with this token", wait_s)


def check_start(settings: Settings, clock: Clock | None = None) -> None:
    """Return if the API may be served with these settings.

    Raises:
        ConfigurationError: it would listen for others unasked; everything needs a token and there is none that is
            valid; or the file of the tokens can't be used.
    """
    check_bind(settings.api_host, allow_remote=settings.api_allow_remote)
    tokens = TokenFile(settings.tokens_file).tokens()
    now = (clock or SystemClock()).time()
    if settings.reads_need_token and all(token.expired(now) for token in tokens):
        key = "api_allow_remote" if settings.api_allow_remote else "api_read_requires_token"
        raise ConfigurationError(
            f"{key}=true: every request needs a token, and {settings.tokens_file} has none that is valid; "
            "make one with `celeray token create --role viewer`"
        )


def said_by(request: Request) -> str:
    """Who changes something, as the audit trail names it. Of a route that needs a token."""
    return f"token:{request.state.token.id}"


def _bearer(sent: Sequence[str]) -> str:
    """The token of the one Authorization header. Empty, which no token is: there is none, or more than one."""
    found = re.fullmatch(r"bearer +([A-Za-z0-9._~+/=-]{1,200})", sent[0].strip(), re.IGNORECASE)
    return found[1] if found and len(sent) == 1 else ""


def _unauthorized(detail: str, error: str | None = None) -> Problem:
    challenge = f'{CHALLENGE}, error="{error}"' if error else CHALLENGE
    return Problem(HTTPStatus.UNAUTHORIZED, detail, headers={"WWW-Authenticate": challenge})


def _forbidden(token: Token, needed: Role) -> Problem:
    challenge = f'{CHALLENGE}, error="insufficient_scope", scope="{needed}"'
    detail = f"token {token.id} has role {token.role}; this needs {needed}"
    return Problem(HTTPStatus.FORBIDDEN, detail, headers={"WWW-Authenticate": challenge})


def _no_tokens() -> Problem:
    return Problem(
        HTTPStatus.FORBIDDEN,
        "no token is configured, so this API only reads; `celeray token create --role operator`, on its machine and "
        "with its settings, makes one, and no restart is needed",
    )


def _too_many(what: str, wait_s: float) -> Problem:
    headers = {"Retry-After": str(max(1, round(wait_s + 0.5)))}
    return Problem(HTTPStatus.TOO_MANY_REQUESTS, f"too many {what}", headers=headers)
