"""A Celery app with celeray on it whose tasks tell what they see of their message. Configured by the environment."""

from __future__ import annotations

import os
from typing import Any

from celery import Celery

import celeray

app = Celery("front", broker=os.environ["FRONT_REDIS_URL"], backend=os.environ["FRONT_REDIS_URL"])
app.conf.task_inherit_parent_priority = os.environ.get("FRONT_INHERIT") == "1"
if lease_s := os.environ.get("FRONT_LEASE_S"):
    app.conf.broker_transport_options = {"lease_s": float(lease_s)}
celeray.install(app)


@app.task(shared=False, name="front.seen", bind=True)
def seen(self: Any, *args: Any, **kwargs: Any) -> dict[str, Any]:
    """Priority and queue."""
    info = self.request.delivery_info
    return {"priority": info["priority"], "queue": info["routing_key"], "retries": self.request.retries}


@app.task(shared=False, name="front.retried", bind=True, default_retry_delay=0)
def retried(self: Any, times: int) -> list[int]:
    """The priority after so many retries."""
    if self.request.retries < times:
        raise self.retry(countdown=0)
    return [self.request.delivery_info["priority"], self.request.retries]


@app.task(shared=False, name="front.replaced", bind=True)
def replaced(self: Any) -> Any:
    return self.replace(seen.s())


@app.task(shared=False, name="front.parent", bind=True)
def parent(self: Any, headers: dict[str, Any] | None = None) -> str:
    """The id of a task that it calls without any priority."""
    return str(seen.apply_async(headers=headers).id)


@app.task(shared=False, name="front.kind")
def kind(value: Any) -> str:
    return type(value).__name__


@app.task(shared=False, name="front.repeat")
def repeat(text: str, times: int) -> str:
    return text * times


@app.task(shared=False, name="front.generate_image", resource_requirements={"vram_gb": 12})
def generate_image() -> None: ...
