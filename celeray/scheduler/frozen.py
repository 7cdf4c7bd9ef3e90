"""The base of values that Redis keeps and REST shows."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict


class Frozen(BaseModel):
    """Never changes. A reader ignores fields that a newer writer added."""

    model_config = ConfigDict(frozen=True, extra="ignore")
