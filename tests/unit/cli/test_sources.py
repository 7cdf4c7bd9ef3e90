"""The token of the command line goes to the API that was named, and nowhere else."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

from celeray.cli.lazy import CliError
from celeray.cli.sources import RestSource, read_token


@contextmanager
def server(seen: list[str | None], location: str | None = None) -> Iterator[str]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            seen.append(self.headers["Authorization"])
            self.send_response(302 if location else 404)
            if location:
                self.send_header("Location", f"{location}{self.path}")
            self.end_headers()

        def log_message(self, *_: object) -> None: ...

    with HTTPServer(("127.0.0.1", 0), Handler) as made:
        thread = threading.Thread(target=made.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield f"http://127.0.0.1:{made.server_port}"
        made.shutdown()
        thread.join()


def test_a_redirect_does_not_take_the_token_along() -> None:
    elsewhere: list[str | None] = []
    named: list[str | None] = []
    with server(elsewhere) as other, server(named, other) as url, pytest.raises(CliError, match="404"):
        RestSource(url, "secret").status()
    assert named == ["Bearer secret"]
    assert elsewhere == [None]


@pytest.mark.parametrize("content", ["", "\n", "two words", "two\nlines", "tö"])
def test_a_file_without_one_token(tmp_path: Path, content: str) -> None:
    path = tmp_path / "token"
    path.write_text(content)
    with pytest.raises(CliError, match="--token-file"):
        read_token(str(path))
    path.write_text("celeray_0_x\n")
    assert read_token(str(path)) == "celeray_0_x"
