"""Where `status` and `get` read: the REST API, or Redis itself. Both give the same models."""

from __future__ import annotations

import json
import urllib.error
import urllib.request
from collections.abc import Callable
from http import HTTPStatus
from pathlib import Path
from typing import Any, Protocol, TypeVar
from urllib.parse import quote, urlencode, urlsplit

from pydantic import BaseModel, ValidationError
from redis import RedisError

from celeray.api.explained import TaskExplanation, read_explanation
from celeray.api.results import ResultMeta, ResultReader
from celeray.api.task_detail import TaskDetail, combined
from celeray.cli.lazy import EXIT_FAILED, EXIT_UNREACHABLE, EXIT_USAGE, CliError
from celeray.cli.options import Place
from celeray.scheduler.audit import AuditPage, AuditTrail
from celeray.scheduler.clock import SystemClock
from celeray.scheduler.explanations.answers import DryRun
from celeray.scheduler.explanations.reading import DryRunBody, NothingPublishedError, dry_run
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
    seen_by,
    task_page,
)
from celeray.scheduler.status import ClusterStatus, TaskState
from celeray.scheduler.tenant_overview import TenantList, tenants

M = TypeVar("M", bound=BaseModel)
T = TypeVar("T")
TIMEOUT_S = 10.0


class AnswerError(CliError):
    """The API answered with an error."""

    def __init__(self, message: str, exit_code: int, status: int) -> None:
        """
        Args:
            status: of HTTP.
        """
        super().__init__(message, exit_code)
        self.status = status


class Source(Protocol):
    """What the commands show. Everything raises `CliError` with exit code 69 when nobody answers."""

    def status(self) -> ClusterStatus: ...

    def queues(self) -> QueueList: ...

    def devices(self) -> DeviceList: ...

    def nodes(self) -> NodeList: ...

    def limits(self) -> LimitList: ...

    def tenants(self) -> TenantList: ...

    def learned(self) -> LearnedList: ...

    def tasks(self, *, state: str | None, queue: str | None, limit: int) -> TaskPage: ...

    def task(self, task_id: str) -> TaskDetail | None:
        """One task. None: neither a bridge nor a stored result knows it."""
        ...

    def explain(self, task_id: str) -> TaskExplanation | None:
        """Why a task waits. None: as above, and no letter knows it either."""
        ...

    def dry_run(self, body: DryRunBody) -> DryRun: ...

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

    def tenants(self) -> TenantList:
        return self._get("/v1/tenants", TenantList)

    def learned(self) -> LearnedList:
        return self._get("/v1/learned", LearnedList)

    def tasks(self, *, state: str | None, queue: str | None, limit: int) -> TaskPage:
        given = {"state": state, "queue": queue, "limit": limit}
        query = urlencode({key: value for key, value in given.items() if value is not None}, quote_via=quote)
        return self._get(f"/v1/tasks?{query}", TaskPage)

    def task(self, task_id: str) -> TaskDetail | None:
        return self._found(f"/v1/tasks/{quote(task_id, safe='')}", TaskDetail)

    def explain(self, task_id: str) -> TaskExplanation | None:
        return self._found(f"/v1/tasks/{quote(task_id, safe='')}/explain", TaskExplanation)

    def dry_run(self, body: DryRunBody) -> DryRun:
        return self._get("/v1/explain", DryRun, body.model_dump_json(exclude_none=True).encode())

    def audit(self, limit: int) -> AuditPage:
        return self._get(f"/v1/audit?limit={limit}", AuditPage)

    def dead_letters(self, chosen: LetterFilter, *, limit: int, cursor: str | None) -> LetterPage:
        given = {**chosen.model_dump(), "limit": limit, "cursor": cursor}
        query = urlencode({key: value for key, value in given.items() if value is not None}, quote_via=quote)
        return self._get(f"/v1/dead-letters?{query}", LetterPage)

    def dead_letter(self, letter_id: str) -> LetterDetail | None:
        return self._get(f"/v1/dead-letters/{quote(letter_id, safe='')}", LetterDetail)

    def _found(self, path: str, model: type[M]) -> M | None:
        try:
            return self._get(path, model)
        except AnswerError as error:
            if error.status == HTTPStatus.NOT_FOUND:
                return None
            raise

    def _get(self, path: str, model: type[M], body: bytes | None = None) -> M:
        """The answer to a GET, or to a POST where there is a body of JSON."""
        headers = {"Accept": "application/json"} | ({"Content-Type": "application/json"} if body else {})
        request = urllib.request.Request(self._url + path, data=body, headers=headers)  # noqa: S310
        if self._token:
            request.add_unredirected_header("Authorization", f"Bearer {self._token}")
        try:
            with urllib.request.urlopen(request, timeout=TIMEOUT_S) as response:  # noqa: S310 - checked above
                return model.model_validate_json(response.read())
        except urllib.error.HTTPError as error:
            code = EXIT_UNREACHABLE if error.code == 503 else EXIT_FAILED
            raise AnswerError(f"{self._url}: {error.code} {_detail(error)}", code, error.code) from error
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

    def __init__(self, place: Place, version: str, results_url: str | None = None) -> None:
        """
        Args:
            results_url: of the result backend, where `place` has no app that names it. None: nothing is read there.
        """
        self._place = place
        self._version = version
        self._results_url = results_url

    def status(self) -> ClusterStatus:
        return cluster_status(self._overview(), self._place.settings, self._version)

    def queues(self) -> QueueList:
        return QueueList(queues=queue_statuses(self._overview(), self._place.settings))

    def devices(self) -> DeviceList:
        return DeviceList(devices=devices(self._overview()))

    def nodes(self) -> NodeList:
        return NodeList(nodes=nodes(self._overview()))

    def tenants(self) -> TenantList:
        return TenantList(tenants=tenants(self._overview(), self._place.settings))

    def limits(self) -> LimitList:
        store = self._place.store
        return _answered(lambda: read_limits(store.client, store.keys))

    def learned(self) -> LearnedList:
        store, settings = self._place.store, self._place.settings
        return _answered(lambda: read_learned(store.client, store.keys, settings, SystemClock().time()))

    def tasks(self, *, state: str | None, queue: str | None, limit: int) -> TaskPage:
        overview = self._overview()
        wanted = None if state is None else TaskState(state)
        found = self._place.store.recent_tasks(limit=limit + 1, state=wanted, queue=queue)
        return task_page(found, overview, limit)

    def task(self, task_id: str) -> TaskDetail | None:
        overview = self._overview()
        run = _answered(lambda: self._place.store.read_task(task_id))
        result = _answered(lambda: self._result(task_id))
        return combined(task_id, run and seen_by(overview, run), result)

    def explain(self, task_id: str) -> TaskExplanation | None:
        overview, store = self._overview(), self._place.store
        return _answered(lambda: read_explanation(task_id, store, overview, self._results()))

    def dry_run(self, body: DryRunBody) -> DryRun:
        bridges, now = self._overview().bridges, SystemClock().time()
        try:
            return _answered(lambda: dry_run(self._place.store, bridges, self._place.settings, body, now))
        except NothingPublishedError as error:
            raise CliError(str(error), EXIT_UNREACHABLE) from error

    def _result(self, task_id: str) -> ResultMeta | None:
        results = self._results()
        return None if results is None else results.read(task_id)

    def _results(self) -> ResultReader | None:
        app = self._place.app
        if app is None and self._results_url is None:
            return None
        return ResultReader.from_url(self._results_url or "") if app is None else ResultReader(app)

    def audit(self, limit: int) -> AuditPage:
        store = self._place.store
        return _answered(lambda: AuditTrail(store.client, store.keys).page(limit))

    def dead_letters(self, chosen: LetterFilter, *, limit: int, cursor: str | None) -> LetterPage:
        try:
            return _answered(lambda: self._letters().page(chosen, limit, cursor))
        except ValueError as error:
            raise CliError(str(error), EXIT_USAGE) from error

    def dead_letter(self, letter_id: str) -> LetterDetail | None:
        return _answered(lambda: self._letters().get(letter_id))

    def _letters(self) -> Letters:
        return Letters(self._place.store.client, self._place.store.keys)

    def _overview(self) -> Overview:
        place = self._place
        return _answered(lambda: read_overview(place.store, place.settings, SystemClock().time()))


def _answered(read: Callable[[], T]) -> T:
    try:
        return read()
    except RedisError as error:
        raise CliError(f"Redis does not answer: {error}", EXIT_UNREACHABLE) from error
