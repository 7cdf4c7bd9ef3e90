"""Runs the API in uvicorn."""

from __future__ import annotations

import socket

import uvicorn
from fastapi import FastAPI

from celeray.scheduler.errors import ConfigurationError

HEADERS_MAX = 64 * 1024
GRACE_S = 3
"""For requests that run while the server is told to end."""


def listen(host: str, port: int) -> socket.socket:
    """A listening socket. Port 0: a free one.

    Raises:
        ConfigurationError: the port is taken, or the address is none of this machine.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
        listener.listen(128)
    except OSError as error:
        listener.close()
        raise ConfigurationError(
            f"api_port={port} on {host}: {error.strerror}; choose another (--port)"
        ) from error
    return listener


def serve(app: FastAPI, listener: socket.socket, *, log_level: str = "warning") -> None:
    """Serve until SIGINT or SIGTERM."""
    config = uvicorn.Config(
        app,
        log_level=log_level,
        access_log=False,
        server_header=False,
        # Whoever is on this machine could name any address there, and failed authentication is counted by address.
        proxy_headers=False,
        h11_max_incomplete_event_size=HEADERS_MAX,
        timeout_graceful_shutdown=GRACE_S,
    )
    uvicorn.Server(config).run(sockets=[listener])
