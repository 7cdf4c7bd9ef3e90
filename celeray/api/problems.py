"""Every error of the API as an RFC 9457 problem document, with an id and without a traceback."""

from __future__ import annotations

import logging
import uuid
from http import HTTPStatus
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from redis import RedisError
from starlette.exceptions import HTTPException

from celeray.api.headers import SAFE_HEADERS
from celeray.scheduler.errors import (
    NothingLearnedError,
    OperatorInputError,
    PauseUnsupportedError,
    RequirementError,
    UnknownQueueError,
    UnknownSubjectError,
)
from celeray.scheduler.explanations.reading import NothingPublishedError
from celeray.scheduler.status_store import UnreadableStatusError

MEDIA_TYPE = "application/problem+json"
logger = logging.getLogger(__name__)


class Problem(Exception):  # noqa: N818 - the standard's word for it
    """Raised by a route; becomes the response.

    Attributes:
        status: the HTTP status.
        detail: a sentence for the reader.
        headers: of the response.
        more: members beside those of the standard.
    """

    def __init__(
        self, status: int, detail: str, *, headers: dict[str, str] | None = None, **more: Any
    ) -> None:
        super().__init__(detail)
        self.status = status
        self.detail = detail
        self.headers = headers
        self.more = more


def document(status: int, detail: str, **more: Any) -> dict[str, Any]:
    """The members of a problem document. `instance` is its id, under which the log has the cause."""
    return {
        "type": "about:blank",
        "title": HTTPStatus(status).phrase,
        "status": status,
        "detail": detail,
        "instance": f"urn:uuid:{uuid.uuid4()}",
        **more,
    }


def response(status: int, detail: str, *, headers: dict[str, str] | None = None, **more: Any) -> JSONResponse:
    """A problem document as a response."""
    content = document(status, detail, **more)
    return JSONResponse(content, status_code=status, media_type=MEDIA_TYPE, headers=headers)


def response_to(problem: Problem) -> JSONResponse:
    """A raised problem as a response."""
    return response(problem.status, problem.detail, headers=problem.headers, **problem.more)


def install(app: FastAPI) -> None:
    """Make every error of `app` a problem document."""
    app.add_exception_handler(Problem, _problem)
    app.add_exception_handler(HTTPException, _http_error)
    app.add_exception_handler(RequestValidationError, _invalid)
    app.add_exception_handler(UnknownQueueError, _unknown)
    app.add_exception_handler(UnknownSubjectError, _unknown)
    app.add_exception_handler(NothingLearnedError, _unknown)
    app.add_exception_handler(PauseUnsupportedError, _unsupported)
    app.add_exception_handler(OperatorInputError, _bad_input)
    app.add_exception_handler(RequirementError, _bad_input)
    app.add_exception_handler(NothingPublishedError, _nothing_published)
    app.add_exception_handler(RedisError, _no_redis)
    app.add_exception_handler(UnreadableStatusError, _unreadable)
    app.add_exception_handler(Exception, _defect)


async def _problem(_: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, Problem)
    return response_to(error)


async def _unknown(_: Request, error: Exception) -> JSONResponse:
    return response(HTTPStatus.NOT_FOUND, str(error))


async def _unsupported(_: Request, error: Exception) -> JSONResponse:
    return response(HTTPStatus.CONFLICT, str(error))


async def _bad_input(_: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, OperatorInputError | RequirementError)
    errors = [{"parameter": error.key, "detail": f"expected {error.bound}"}]
    return response(HTTPStatus.UNPROCESSABLE_ENTITY, str(error), errors=errors)


async def _http_error(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, HTTPException)
    detail = str(error.detail)
    if error.status_code == HTTPStatus.NOT_FOUND:
        detail = f"no such path: {request.url.path}"
    elif error.status_code == HTTPStatus.METHOD_NOT_ALLOWED:
        detail = f"{request.method} is not allowed on {request.url.path}"
    return response(error.status_code, detail, headers=dict(error.headers or {}))


async def _invalid(_: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, RequestValidationError)
    errors = [
        {"parameter": ".".join(map(str, item["loc"][1:] or item["loc"])), "detail": item["msg"]}
        for item in error.errors()
    ]
    detail = "; ".join(f"{item['parameter']}: {item['detail']}" for item in errors)
    return response(HTTPStatus.UNPROCESSABLE_ENTITY, detail, errors=errors)


async def _nothing_published(_: Request, error: Exception) -> JSONResponse:
    return response(HTTPStatus.SERVICE_UNAVAILABLE, str(error), headers={"Retry-After": "2"})


async def _no_redis(_: Request, error: Exception) -> JSONResponse:
    made = document(HTTPStatus.SERVICE_UNAVAILABLE, "Redis does not answer, so nothing is known")
    logger.warning("%s: %s", made["instance"], error)
    return JSONResponse(made, status_code=made["status"], media_type=MEDIA_TYPE, headers={"Retry-After": "2"})


async def _unreadable(_: Request, error: Exception) -> JSONResponse:
    made = document(
        HTTPStatus.SERVICE_UNAVAILABLE, "a bridge of an incompatible version writes to this Redis"
    )
    logger.error("%s: %s", made["instance"], error)
    return JSONResponse(made, status_code=made["status"], media_type=MEDIA_TYPE)


async def _defect(_: Request, error: Exception) -> JSONResponse:
    made = document(
        HTTPStatus.INTERNAL_SERVER_ERROR, "a defect of celeray; its log has the cause under this id"
    )
    logger.error("%s", made["instance"], exc_info=error)
    # Starlette answers this one outside of every middleware.
    return JSONResponse(made, status_code=made["status"], media_type=MEDIA_TYPE, headers=SAFE_HEADERS)
