"""`celeray.require`: requirements for one call."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest
from celery import Celery, group

import celeray
from celeray.scheduler.errors import RequirementError

app = Celery("film", broker="memory://", set_as_current=False)


@app.task(
    shared=False, name="film.generate", resource_requirements={"gpu": 2, "vram_gb": 12, "vram_gb_max": 16}
)
def generate(*args: Any) -> None: ...


def header(signature: Any) -> Any:
    return signature.options["headers"]["resource_requirements"]


def test_of_a_task() -> None:
    signature = celeray.require(generate, vram_gb=16)
    assert header(signature) == {"vram_gb": 16}
    assert signature.task == "film.generate"


def test_of_a_signature_it_is_a_copy_and_merged() -> None:
    first = generate.s(1).set(
        headers={"resource_requirements": {"vram_gb": 13, "cpus": 2}, "trace": "x"}, priority=3
    )
    second = celeray.require(first, vram_mb=14_000)
    assert header(first) == {"vram_gb": 13, "cpus": 2}
    assert header(second) == {"vram_mb": 14_000, "cpus": 2}
    assert second.options["headers"]["trace"] == "x"
    assert second.options["priority"] == 3
    assert second.args == (1,)


def test_of_a_group_it_is_for_each_member() -> None:
    assert header(celeray.require(group(generate.s(1), generate.s(2)), cpus=1)) == {"cpus": 1}


def test_contradictions_with_the_declaration_are_refused_at_once() -> None:
    with pytest.raises(RequirementError, match="vram_gb_max=16"):
        celeray.require(generate, vram_gb=20)
    with pytest.raises(RequirementError, match="vram_gb_max=16"):
        celeray.require(generate.s(), vram_gb=20)


def test_unknown_keys_are_refused() -> None:
    with pytest.raises(RequirementError, match="unknown key"):
        celeray.require(generate, gpus=1)


def test_anything_else_is_refused() -> None:
    with pytest.raises(TypeError, match="task or signature"):
        celeray.require("film.generate", vram_gb=1)


def test_importing_celeray_loads_nothing() -> None:
    code = (
        "import sys, celeray; print([m for m in ('celery', 'pydantic', 'redis', 'ray') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_the_package_lists_its_names() -> None:
    assert {"install", "require", "Settings", "__version__"} <= set(dir(celeray))
    assert celeray.__version__
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        celeray.nothing  # noqa: B018
