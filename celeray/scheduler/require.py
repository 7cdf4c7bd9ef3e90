"""`celeray.require(task, vram_gb=20).delay(x)`: requirements for one call."""

from __future__ import annotations

from typing import Any

from celery.canvas import Signature

from celeray.scheduler import requests


def require(task_or_signature: Any, **keys: Any) -> Signature:
    """A signature of the task, or a copy of the signature, that asks for `keys` besides what it asked for before.

    Args:
        task_or_signature: a Celery task or signature. Neither is changed.
        keys: as in `resource_requirements`.

    Raises:
        RequirementError: a key is unknown, a value can't be understood, or they contradict what the task declares.
        TypeError: neither a task nor a signature.
    """
    if isinstance(task_or_signature, Signature):
        signature = task_or_signature.clone()
    elif hasattr(task_or_signature, "signature") and hasattr(task_or_signature, "apply_async"):
        signature = task_or_signature.signature()
    else:
        raise TypeError(f"require takes a Celery task or signature, not {task_or_signature!r}")
    headers = dict(signature.options.get("headers") or {})
    merged = requests.merge_raw(keys, headers.get(requests.HEADER) or {})
    requests.effective_request(merged, _declared(task_or_signature), None)
    return signature.set(headers={**headers, requests.HEADER: merged})


def _declared(task_or_signature: Any) -> Any:
    """The task's own requirements, where this process knows the task."""
    if not isinstance(task_or_signature, Signature):
        return getattr(task_or_signature, requests.HEADER, None)
    task = task_or_signature.app._tasks.get(task_or_signature.task)
    return getattr(task, requests.HEADER, None)
