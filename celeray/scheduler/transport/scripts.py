"""The Lua scripts, each with the shared beginning before it. Called by digest; loaded again after SCRIPT FLUSH."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from functools import cache
from importlib.resources import files
from typing import Any

import redis

Argument = str | bytes | int | float
TRANSPORT = "celeray.scheduler.transport"


def refused_as_replica(error: Exception) -> bool:
    """Whether the server refused to write. Inside of a script, Redis before 7 says so somewhere in another error."""
    return isinstance(error, redis.exceptions.ReadOnlyError) or "-READONLY" in str(error)


class Script:
    """One script: for a client that waits for the reply, and for a connection that reads it later."""

    def __init__(self, *texts: str) -> None:
        self.source = "\n".join(texts).encode()
        self.digest = hashlib.sha1(self.source, usedforsecurity=False).hexdigest()

    def __call__(self, client: Any, keys: Sequence[str], args: Sequence[Argument]) -> Any:
        """Run it and wait. Raises `redis.RedisError`; `ReadOnlyError` where the server is a master no more."""
        try:
            try:
                return client.evalsha(self.digest, len(keys), *keys, *args)
            except redis.exceptions.NoScriptError:
                return client.eval(self.source, len(keys), *keys, *args)
        except redis.exceptions.ResponseError as error:
            if refused_as_replica(error):
                raise redis.exceptions.ReadOnlyError(str(error)) from error
            raise

    def command(
        self, keys: Sequence[str], args: Sequence[Argument], *, loaded: bool = True
    ) -> tuple[Argument, ...]:
        """As a command to send; with `loaded` false it carries the source, which loads it."""
        name, script = ("EVALSHA", self.digest) if loaded else ("EVAL", self.source)
        return (name, script, len(keys), *keys, *args)


@cache
def script(name: str, package: str = TRANSPORT, shared: tuple[str, ...] = ()) -> Script:
    """The script of a package's `lua/NAME.lua`, after the transport's lease.lua and the package's own shared parts."""
    own = files(package) / "lua"
    parts = [files(TRANSPORT) / "lua" / "lease.lua", *(own / f"{part}.lua" for part in (*shared, name))]
    return Script(*(part.read_text("utf-8") for part in parts))
