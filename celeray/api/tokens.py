"""Tokens of the API: what one is, how it is made, and how one that was sent is checked. Pure but for the randomness.

A token is `celeray_ID_SECRET`: the id names it in lists, logs and the audit trail, the secret is 256 random bits. Only
the SHA-256 of the whole is kept; a slow hash would add nothing, since nobody can guess 256 bits.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
from collections.abc import Sequence
from enum import StrEnum

from pydantic import BaseModel, ConfigDict, Field

PREFIX = "celeray"
ID_BYTES = 4
SECRET_BYTES = 32
NOBODYS_DIGEST = hashlib.sha256(secrets.token_bytes(SECRET_BYTES)).hexdigest()
"""Compared with where the id is unknown, so that both answers take the same time."""


class Role(StrEnum):
    """What a token may do. Each role may do what those before it may."""

    VIEWER = "viewer"
    """Read."""
    OPERATOR = "operator"
    """Pause and resume queues."""
    ADMIN = "admin"
    """Read the audit trail."""

    def covers(self, needed: Role) -> bool:
        """Whether this role may do what `needed` may."""
        order = list(Role)
        return order.index(self) >= order.index(needed)


class Token(BaseModel):
    """A token as it is kept: without its secret."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    id: str = Field(pattern=r"^[0-9a-f]{8}$")
    role: Role
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")
    """Of the whole token, in hex."""
    created_at: float
    """Seconds since the epoch."""
    expires_at: float
    """Seconds since the epoch; from then on it is as if it never was."""
    note: str = Field(default="", max_length=200)
    """Whose it is."""

    def expired(self, now: float) -> bool:
        return now >= self.expires_at


def mint(role: Role, *, now: float, valid_s: float, note: str = "") -> tuple[Token, str]:
    """A new token, and the text that its owner sends. The text is nowhere else."""
    token_id, secret = secrets.token_hex(ID_BYTES), secrets.token_urlsafe(SECRET_BYTES)
    text = f"{PREFIX}_{token_id}_{secret}"
    token = Token(
        id=token_id, role=role, sha256=digest(text), created_at=now, expires_at=now + valid_s, note=note
    )
    return token, text


def matching(tokens: Sequence[Token], text: str, now: float) -> Token | None:
    """The token that was sent. None: unknown, wrong or expired, which a caller can't tell apart."""
    parts = text.split("_", 2)
    token_id = parts[1] if len(parts) == 3 else ""
    found = next((token for token in tokens if token.id == token_id), None)
    same = hmac.compare_digest(digest(text), found.sha256 if found else NOBODYS_DIGEST)
    return found if same and found is not None and not found.expired(now) else None


def digest(text: str) -> str:
    """What is kept of a token."""
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()
