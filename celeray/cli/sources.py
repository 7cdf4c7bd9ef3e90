"""Where `status` and `get` read: the REST API, or Redis itself. Both give the same models."""

from __future__ import annotations

import json
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any, Protocol, TypeVar
from urllib.parse import quote, urlencode, urlsplit

from pydantic import BaseModel, ValidationError
from redis import RedisError

from celeray.cli.lazy import EXIT_FAILED, EXIT_UNREACHABLE, EXIT_USAGE, CliError
from celeray.cli.options import Place
from celeray.scheduler.audit import AuditPage, AuditTrail
from celeray.scheduler.clock import SystemClock
from celeray.scheduler.learned.overview import LearnedList, read_learned
from celeray.scheduler.letters.record import LetterDetail
from celeray.scheduler.letters.store import LetterFilter, LetterPage, Letters
from celeray.scheduler.limits.overview import LimitList, read_limits
from celeray.scheduler.overview import (
    DeviceList,
    NodeList,
    Overview,
    QueueList,
    TaskPage,
    cluster_status,
    devices,
    nodes,
    queue_statuses,
    read_overview,
    task_page,
)
from celeray.scheduler.status import ClusterStatus, TaskState

M = TypeVar("M", bound=BaseModel)
TIMEOUT_S = 10.0


class Source(Protocol):
    """What the commands show. Everything raises `CliError` with exit code 69 when nobody answers."""

    def status(self) -> ClusterStatus: ...

    def queues(self) -> QueueList: ...

    def devices(self) -> DeviceList: ...

    def nodes(self) -> NodeList: ...

    def limits(self) -> LimitList: ...

    def learned(self) -> LearnedList: ...

    def tasks(self, *, state: str | None, queue: str | None, limit: int) -> TaskPage: ...

    def audit(self, limit: int) -> AuditPage: ...

    def dead_letters(self, chosen: LetterFilter, *, limit: int, cursor: str | None) -> LetterPage: ...

    def dead_letter(self, letter_id: str) -> LetterDetail | None: ...


class RestSource:
    """Reads the API at `url`.

    Args:
        token: sent where the API asks for one. It goes to this URL only, never along with a redirect.
    """

    def __init__(self, url: str, token: str | None = None) -> None:
        if urlsplit(url).scheme not in ("http", "https"):
            raise CliError(f"--url={url!r}: expected http:// or https://", EXIT_USAGE)
        self._url = url.rstrip("/")
        self._token = token

    def status(self) -> ClusterStatus:
        return self._get("/v1/status", ClusterStatus)

    def queues(self) -> QueueList:
        return self._get("/v1/queues", QueueList)

    def devices(self) -> DeviceList:
        return self._get("/v1/devices", DeviceList)

    def nodes(self) -> NodeList:
        return self._get("/v1/nodes", NodeList)

    def limits(self) -> LimitList:
        return self._get("/v1/limits", LimitList)

    def learned(self) -> LearnedList:
        return self._get("/v1/learned", LearnedList)

    def tasks(self, *, state: str | None, queue: str | None, limit: int) -> TaskPage:
        given = {"state": state, "queue": queue, "limit": limit}
        query = urlencode({key: value for key, value in given.items() if value is not None}, quote_via=quote)
        return self._get(f"/v1/tasks?{query}", TaskPage)

    def audit(self, limit: int) -> AuditPage:
        return self._get(f"/v1/audit?limit={limit}", AuditPage)

    def dead_letters(self, chosen: LetterFilter, *, limit: int, cursor: str | None) -> LetterPage:
        given = {**chosen.model_dump(), "limit": limit, "cursor": cursor}
        query = urlencode({key: value for key, value in given.items() if value is not None}, quote_via=quote)
        return self._get(f"/v1/dead-letters?{query}", LetterPage)

    def dead_letter(self, letter_id: str) -> LetterDetail | None:
        return self._get(f"/v1/dead-letters/{quote(letter_id, safe='')}", LetterDetail)

    def _get(self, path: str, model: type[M]) -> M:
        request = urllib.request.Request(self._url + path, headers={"Accept": "application/json"})  # noqa: S310
        if self._token:
            request.add_unredirected_header("Authorization", f"Bearer {self._token}")
        try:
            with urllib.request.urlopen(request, timeout=TIMEOUT_S) as response:  # noqa: S310 - checked above
                return model.model_validate_json(response.read())
        except urllib.error.HTTPError as error:
            code = EXIT_UNREACHABLE if error.code == 503 else EXIT_FAILED
            raise CliError(f"{self._url}: {error.code} {_detail(error)}", code) from error
        except OSError as error:
            reason = getattr(error, "reason", error)
            raise CliError(
                f"{self._url} does not answer: {reason}; is `celeray up` or `celeray api` running? "
                "--url names another API, --redis-url a Redis",
                EXIT_UNREACHABLE,
            ) from error
        except ValidationError as error:
            raise CliError(f"{self._url} is no celeray API of this version: {error}", EXIT_FAILED) from error


def read_token(path: str) -> str:
    """The token in a file. By file, since command lines and environments are seen by others.

    Raises:
        CliError: the file can't be read, or holds no token.
    """
    try:
        token = Path(path).read_text("ascii").strip()
    except (OSError, ValueError) as error:
        raise CliError(f"--token-file={path}: {error}", EXIT_USAGE) from error
    if not token or not token.isprintable() or " " in token:
        raise CliError(
            f"--token-file={path}: expected one token, as `celeray token create` prints it", EXIT_USAGE
        )
    return token


def _detail(error: urllib.error.HTTPError) -> str:
    try:
        problem: Any = json.loads(error.read())
        return str(problem["detail"])
    except (ValueError, KeyError, TypeError):
        return str(error.reason)


class RedisSource:
    """Reads what the bridges wrote to Redis."""

    def __init__(self, place: Place, version: str) -> None:
        self._place = place
        self._version = version

    def status(self) -> ClusterStatus:
        return cluster_status(self._overview(), self._place.settings, self._version)

    def queues(self) -> QueueList:
        return QueueList(queues=queue_statuses(self._overview(), self._place.settings))

    def devices(self) -> DeviceList:
        return DeviceList(devices=devices(self._overview()))

    def nodes(self) -> NodeList:
        return NodeList(nodes=nodes(self._overview()))

    def limits(self) -> LimitList:
        try:
            return read_limits(self._place.store.client, self._place.store.keys)
        except RedisError as error:
            raise CliError(f"Redis does not answer: {error}", EXIT_UNREACHABLE) from error

    def learned(self) -> LearnedList:
        store = self._place.store
        try:
            return read_learned(store.client, store.keys, self._place.settings, SystemClock().time())
        except RedisError as error:
            raise CliError(f"Redis does not answer: {error}", EXIT_UNREACHABLE) from error

    def tasks(self, *, state: str | None, queue: str | None, limit: int) -> TaskPage:
        overview = self._overview()
        wanted = None if state is None else TaskState(state)
        found = self._place.store.recent_tasks(limit=limit + 1, state=wanted, queue=queue)
        return task_page(found, overview, limit)

    def audit(self, limit: int) -> AuditPage:
        store = self._place.store
        try:
            return AuditTrail(store.client, store.keys).page(limit)
        except RedisError as error:
            raise CliError(f"Redis does not answer: {error}", EXIT_UNREACHABLE) from error

    def dead_letters(self, chosen: LetterFilter, *, limit: int, cursor: str | None) -> LetterPage:
        try:
            return self._letters().page(chosen, limit, cursor)
        except RedisError as error:
            raise CliError(f"Redis does not answer: {error}", EXIT_UNREACHABLE) from error
        except ValueError as error:
            raise CliError(str(error), EXIT_USAGE) from error

    def dead_letter(self, letter_id: str) -> LetterDetail | None:
        try:
            return self._letters().get(letter_id)
        except RedisError as error:
            raise CliError(f"Redis does not answer: {error}", EXIT_UNREACHABLE) from error

    def _letters(self) -> Letters:
        return Letters(self._place.store.client, self._place.store.keys)

    def _overview(self) -> Overview:
        try:
            return read_overview(self._place.store, self._place.settings, SystemClock().time())
        except RedisError as error:
            raise CliError(f"Redis does not answer: {error}", EXIT_UNREACHABLE) from error
