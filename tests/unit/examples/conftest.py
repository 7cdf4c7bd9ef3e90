"""The example app is no part of the package: it is imported from the repository, as the demo does it."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[3]))

from examples.auteur.film import Folders


@pytest.fixture
def folders(tmp_path: Path) -> Folders:
    return Folders.under(tmp_path)
