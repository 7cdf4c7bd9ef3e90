"""Fields of a trace or node list as values, or an error that names file, line, column, value and bound."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from celeray.scheduler.errors import ConfigurationError


class TraceError(ConfigurationError):
    """A trace, a history or a node list can't be read.

    Attributes:
        path: the file.
        line: from 1; 0: the file as a whole.
        column: or key; empty: the line as a whole.
        value: what is there.
        bound: what would have been accepted, in words.
    """

    def __init__(self, path: str, line: int, column: str, value: Any, bound: str) -> None:
        super().__init__(path, line, column, value, bound)
        self.path = path
        self.line = line
        self.column = column
        self.value = value
        self.bound = bound

    def __str__(self) -> str:
        where = f"{self.path}:{self.line}" if self.line else self.path
        return f"{where}: {f'{self.column}={self.value!r}: ' if self.column else ''}{self.bound}"


@dataclass(frozen=True, slots=True)
class Row:
    """One line of a file, by the names of its columns or keys."""

    path: str
    line: int
    values: Mapping[str, Any]

    def error(self, column: str, bound: str) -> TraceError:
        return TraceError(self.path, self.line, column, self.values.get(column), bound)

    def text(self, column: str, default: str | None = None) -> str:
        """A text, trimmed. Where there is none: the default, or an error where that is None."""
        value = self.values.get(column, default)
        if not isinstance(value, str) or (default is None and not value.strip()):
            raise self.error(column, "expected a text")
        return value.strip()

    def whole(self, column: str, *, least: int = 0, default: int | None = None) -> int:
        """A whole number of `least` or more."""
        value = self.values.get(column)
        if value in (None, "") and default is not None:
            return default
        try:
            number = int(value) if isinstance(value, int | str) and not isinstance(value, bool) else None
        except ValueError:
            number = None
        if number is None or number < least:
            raise self.error(column, f"expected a whole number, at least {least}")
        return number

    def seconds(self, column: str) -> float | None:
        """A number of seconds; None where the field is empty or missing."""
        value = self.values.get(column)
        if value in (None, ""):
            return None
        try:
            number = float(value) if isinstance(value, int | float | str) else None
        except ValueError:
            number = None
        if number is None or isinstance(value, bool) or not abs(number) < 1e15:
            raise self.error(column, "expected seconds")
        return number

    def texts(self, column: str) -> tuple[str, ...]:
        """A list of texts; empty where there is none."""
        value = self.values.get(column) or ()
        if not isinstance(value, Sequence) or isinstance(value, str):
            raise self.error(column, "expected a list of texts")
        if not all(isinstance(item, str) for item in value):
            raise self.error(column, "expected a list of texts")
        return tuple(value)


def begins_with(path: Path, *marks: str) -> bool:
    """Whether the file's first character that is no space is one of them.

    Raises:
        TraceError: the file can't be read.
    """
    return _text_of(path).lstrip().startswith(marks)


def csv_rows(path: Path, columns: Sequence[str]) -> Iterator[Row]:
    """The lines of a CSV file with a header that has at least these columns.

    Raises:
        TraceError: it can't be read, a column is missing, or a line has another number of fields.
    """
    reader = csv.reader(_text_of(path).splitlines())
    header = [name.strip() for name in next(reader, [])]
    for column in columns:
        if column not in header:
            raise TraceError(str(path), 1, "", header, f"no column {column!r}; expected {', '.join(columns)}")
    for fields in reader:
        if not fields:
            continue
        if len(fields) != len(header):
            message = f"{len(fields)} fields, and the header has {len(header)}"
            raise TraceError(str(path), reader.line_num, "", fields, message)
        yield Row(str(path), reader.line_num, dict(zip(header, fields, strict=True)))


def json_line_rows(path: Path) -> Iterator[Row]:
    """The lines of a file with one JSON object a line; empty lines are left out.

    Raises:
        TraceError: it can't be read, or a line is no JSON object.
    """
    for number, line in enumerate(_text_of(path).splitlines(), start=1):
        if line.strip():
            yield Row(str(path), number, _object(path, number, line))


def _object(path: Path, number: int, line: str) -> Mapping[str, Any]:
    try:
        value = json.loads(line)
    except ValueError as error:
        raise TraceError(str(path), number, "", line, f"no JSON: {error}") from error
    if not isinstance(value, dict):
        raise TraceError(str(path), number, "", value, "expected a JSON object")
    return value


def json_document(path: Path) -> Any:
    """The file's one JSON value.

    Raises:
        TraceError: it can't be read, or is no JSON.
    """
    try:
        return json.loads(_text_of(path))
    except ValueError as error:
        line = getattr(error, "lineno", 0)
        raise TraceError(str(path), line, "", None, f"no JSON: {error}") from error


def _text_of(path: Path) -> str:
    try:
        return path.read_text("utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise TraceError(str(path), 0, "", None, f"can't be read: {error}") from error
