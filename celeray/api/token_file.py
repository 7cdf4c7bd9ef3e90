"""The file of the API's tokens: read again whenever it changed, written as a whole. Only its owner may read it."""

from __future__ import annotations

import fcntl
import os
import stat
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError, model_validator

from celeray.api.tokens import Token
from celeray.scheduler.errors import ConfigurationError

BYTES_MAX = 1 << 20
OTHERS = 0o077


class _Document(BaseModel):
    model_config = ConfigDict(extra="forbid")

    tokens: tuple[Token, ...] = ()

    @model_validator(mode="after")
    def _ids_are_unique(self) -> _Document:
        ids = [token.id for token in self.tokens]
        if len(set(ids)) < len(ids):
            raise ValueError("an id is there twice")
        return self


class TokenFile:
    """The tokens of a file. Thread-safe."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lock = threading.Lock()
        self._read: tuple[tuple[int, ...], tuple[Token, ...]] | None = None

    def tokens(self) -> tuple[Token, ...]:
        """Every token of the file, expired ones too; none where there is no file.

        Raises:
            ConfigurationError: others may read the file, or it is not what `celeray token` writes.
        """
        with self._lock:
            try:
                state = _state(os.stat(self.path))
                if self._read is None or self._read[0] != state:
                    self._read = self._load()
            except FileNotFoundError:
                self._read = None
                return ()
            except OSError as error:
                self._read = None
                raise ConfigurationError(f"api_tokens_file={self.path}: {error.strerror}") from error
            except ConfigurationError:
                self._read = None
                raise
            return self._read[1]

    def add(self, token: Token) -> None:
        """Add one; the others stay valid.

        Raises:
            ConfigurationError: the file can't be read or written.
        """
        with self._for_writing():
            self._write((*self.tokens(), token))

    def remove(self, token_id: str) -> Token | None:
        """Take one away; it is worthless from the next request on. None: there was none of that id.

        Raises:
            ConfigurationError: the file can't be read or written.
        """
        with self._for_writing():
            before = self.tokens()
            found = next((token for token in before if token.id == token_id), None)
            if found is not None:
                self._write([token for token in before if token is not found])
            return found

    def _load(self) -> tuple[tuple[int, ...], tuple[Token, ...]]:
        # Rights and content are of one open file, so that it can't be exchanged in between.
        with self.path.open("rb") as file:
            status = os.fstat(file.fileno())
            _check_rights(self.path, status)
            content = file.read(BYTES_MAX + 1)
        if len(content) > BYTES_MAX:
            raise ConfigurationError(f"api_tokens_file={self.path}: longer than {BYTES_MAX} bytes")
        try:
            return _state(status), _Document.model_validate_json(content).tokens
        except ValidationError as error:
            # Not with the input: it may hold what somebody took for a place for secrets.
            reasons = "; ".join(
                f"{'.'.join(map(str, item['loc']))}: {item['msg']}"
                for item in error.errors(include_input=False)
            )
            raise ConfigurationError(
                f"api_tokens_file={self.path}: not what `celeray token` writes: {reasons}"
            ) from None

    def _write(self, tokens: Sequence[Token]) -> None:
        partial = self.path.with_name(f".{self.path.name}.partial")
        partial.unlink(missing_ok=True)
        descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            file.write(_Document(tokens=tuple(tokens)).model_dump_json(indent=2))
            file.flush()
            os.fsync(file.fileno())
        partial.replace(self.path)

    @contextmanager
    def _for_writing(self) -> Iterator[None]:
        """One writer at a time, over processes."""
        try:
            self.path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            lock = os.open(self.path.with_name(f".{self.path.name}.lock"), os.O_RDWR | os.O_CREAT, 0o600)
            try:
                fcntl.flock(lock, fcntl.LOCK_EX)
                yield
            finally:
                os.close(lock)
        except OSError as error:
            raise ConfigurationError(f"api_tokens_file={self.path}: {error.strerror}") from error


def _state(status: os.stat_result) -> tuple[int, ...]:
    return status.st_dev, status.st_ino, status.st_mtime_ns, status.st_size, status.st_mode, status.st_uid


def _check_rights(path: Path, status: os.stat_result) -> None:
    rights = stat.S_IMODE(status.st_mode)
    if not stat.S_ISREG(status.st_mode):
        raise ConfigurationError(f"api_tokens_file={path}: no regular file")
    if rights & OTHERS:
        raise ConfigurationError(
            f"api_tokens_file={path}: mode {rights:04o}, so others may use it; chmod 600 {path}"
        )
    if status.st_uid not in (os.geteuid(), 0):
        raise ConfigurationError(
            f"api_tokens_file={path}: owned by user id {status.st_uid}, not by you or root"
        )
