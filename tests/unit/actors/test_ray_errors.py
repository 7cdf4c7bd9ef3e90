"""Ray's errors: which of them mean that Ray is away."""

from __future__ import annotations

import pytest
from ray import _raylet
from ray.exceptions import GetTimeoutError, LocalRayletDiedError, ObjectStoreFullError, RpcError

from celeray.actors.ray_errors import DEADLINE_EXCEEDED, UNAVAILABLE, describe, is_connection_error


def test_the_codes_are_rays() -> None:
    codes = (_raylet.GRPC_STATUS_CODE_DEADLINE_EXCEEDED, _raylet.GRPC_STATUS_CODE_UNAVAILABLE)  # type: ignore[attr-defined]

    assert codes == (DEADLINE_EXCEEDED, UNAVAILABLE)


@pytest.mark.parametrize(
    "error",
    [
        RpcError("away", UNAVAILABLE),
        RpcError("slow", DEADLINE_EXCEEDED),
        LocalRayletDiedError(),
        ConnectionResetError(),
    ],
)
def test_ray_is_away(error: Exception) -> None:
    assert is_connection_error(error)


@pytest.mark.parametrize(
    "error",
    [
        RpcError("too large", _raylet.GRPC_STATUS_CODE_RESOURCE_EXHAUSTED),  # type: ignore[attr-defined]
        ValueError("an option"),
        GetTimeoutError("an agent"),
        ObjectStoreFullError("a payload"),
        FileNotFoundError("a requirements file"),
    ],
)
def test_an_error_about_what_was_asked(error: Exception) -> None:
    assert not is_connection_error(error)


def test_colours_are_taken_out_of_the_text() -> None:
    assert describe(ValueError("\x1b[36mred\x1b[39m ")) == "ValueError: red"
    assert describe(ValueError()) == "ValueError"
