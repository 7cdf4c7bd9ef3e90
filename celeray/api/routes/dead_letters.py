"""`/v1/dead-letters`: parked messages, listed, shown, sent again and discarded."""

from __future__ import annotations

from http import HTTPStatus
from typing import Annotated, Any

from fastapi import APIRouter, Query
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, ConfigDict, Field
from starlette.requests import Request

from celeray.api.access import said_by
from celeray.api.problems import Problem
from celeray.api.snapshots import Snapshots
from celeray.scheduler.clock import Clock
from celeray.scheduler.letters.discard import Discard, Discarded
from celeray.scheduler.letters.record import LetterDetail, LetterState
from celeray.scheduler.letters.redrive import RATE_MAX, REDRIVE_WHY, Redrive, Redriven, RedriveTerms
from celeray.scheduler.letters.selecting import Selection
from celeray.scheduler.letters.store import LetterFilter, LetterPage, Letters

PAGE_MAX = 500
REDRIVE_MAX_S = 20.0
"""A rate that would take longer is refused: the client would not wait for the answer."""


class ChosenLetters(BaseModel):
    """Which letters: `ids`, a `filter` that is not empty, or `all`."""

    model_config = ConfigDict(extra="forbid")

    ids: tuple[str, ...] | None = Field(default=None, max_length=1000)
    filter: LetterFilter | None = None
    all: bool = False
    dry_run: bool = False
    """Only count."""

    @property
    def selection(self) -> Selection:
        """As a redrive or discard takes it."""
        return Selection(ids=self.ids, filter=self.filter, all=self.all)


class LetterEdits(BaseModel):
    """What the messages shall say instead."""

    model_config = ConfigDict(extra="forbid")

    request: dict[str, Any] | None = Field(default=None, max_length=50)
    """Resource requirements, over those that each message carries."""


class RedriveRequest(ChosenLetters):
    """The body of a redrive."""

    rate: float | None = Field(default=None, gt=0, le=RATE_MAX)
    """Letters a second at most."""
    queue: str | None = None
    """Another queue to send to."""
    priority: int | None = Field(default=None, ge=1, le=10)
    """Another priority, 10 most urgent."""
    edits: LetterEdits = LetterEdits()
    why: str = REDRIVE_WHY
    """1 to 500 characters on one line."""


class DiscardRequest(ChosenLetters):
    """The body of a discard."""

    why: str
    """1 to 500 characters on one line."""


def router(snapshots: Snapshots, clock: Clock) -> APIRouter:
    """The routes over the letters of one broker."""
    routes = APIRouter(prefix="/v1/dead-letters", tags=["operators"])
    letters = Letters(snapshots.store.client, snapshots.store.keys)
    redrive, discard = Redrive(letters, snapshots.settings, clock), Discard(letters, clock)

    @routes.get("")
    def get_dead_letters(
        queue: Annotated[str | None, Query(max_length=500)] = None,
        task: Annotated[str | None, Query(max_length=500)] = None,
        task_id: Annotated[str | None, Query(max_length=500)] = None,
        reason: Annotated[str | None, Query(max_length=500)] = None,
        exception: Annotated[str | None, Query(max_length=500)] = None,
        state: LetterState = LetterState.PARKED,
        since: Annotated[float | None, Query(allow_inf_nan=False)] = None,
        until: Annotated[float | None, Query(allow_inf_nan=False)] = None,
        limit: Annotated[int, Query(ge=1, le=PAGE_MAX)] = 50,
        cursor: Annotated[str | None, Query(max_length=1000)] = None,
    ) -> LetterPage:
        """Dead letters, the newest first, without the tasks' arguments.

        `task` and `exception` are patterns with *, ? and [...]; `state` shows also what is sent again, or was.
        """
        chosen = LetterFilter(
            queue=queue,
            task=task,
            task_id=task_id,
            reason=reason,
            exception=exception,
            state=state,
            since=since,
            until=until,
        )
        try:
            return letters.page(chosen, limit, cursor)
        except ValueError as error:
            raise RequestValidationError([{"loc": ("query", "cursor"), "msg": str(error)}]) from error

    @routes.get("/{letter_id}")
    def get_dead_letter(letter_id: str) -> LetterDetail:
        """One dead letter with its body, headers and properties, and its bytes."""
        found = letters.get(letter_id)
        if found is None:
            raise Problem(
                HTTPStatus.NOT_FOUND,
                f"no dead letter {letter_id!r}: it was sent again, discarded or forgotten, or never was",
            )
        return found

    @routes.post("/redrive")
    def redrive_dead_letters(body: RedriveRequest, request: Request) -> Redriven:
        """Send dead letters again: the original bytes, to the queue that they came from."""
        _check_rate(letters, body)
        terms = RedriveTerms(
            dry_run=body.dry_run,
            rate=body.rate,
            queue=body.queue,
            priority=body.priority,
            request=body.edits.request,
        )
        done = redrive.run(body.selection, terms, by=said_by(request), why=body.why)
        snapshots.forget()
        return done

    @routes.post("/discard")
    def discard_dead_letters(body: DiscardRequest, request: Request) -> Discarded:
        """Forget dead letters for good."""
        done = discard.run(body.selection, by=said_by(request), why=body.why, dry_run=body.dry_run)
        snapshots.forget()
        return done

    return routes


def _check_rate(letters: Letters, body: RedriveRequest) -> None:
    if body.rate is None or body.dry_run:
        return
    count = len(body.selection.resolve(letters))
    if count / body.rate > REDRIVE_MAX_S:
        message = (
            f"{count} letters would take more than {REDRIVE_MAX_S:g} s; `celeray dead-letters redrive` waits"
        )
        raise RequestValidationError([{"loc": ("body", "rate"), "msg": message}])
