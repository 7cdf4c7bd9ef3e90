"""The main job as one canvas, run eagerly, and what its tasks ask for."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from celeray.scheduler.settings import DEFAULT_ROUTES
from examples.auteur.app import app
from examples.auteur.film import Folders, film, look_now, retake, thumbnail_for_user
from examples.auteur.pictures import sample


@pytest.fixture
def eager() -> Iterator[None]:
    before = {
        key: app.conf[key]
        for key in ("task_always_eager", "task_eager_propagates", "task_store_eager_result")
    }
    app.conf.update(task_always_eager=True, task_eager_propagates=True, task_store_eager_result=False)
    yield
    app.conf.update(before)


def test_the_app_has_the_eleven_tasks_of_the_route_map() -> None:
    app.loader.import_default_modules()
    own = {name.rpartition(".")[2] for name in app.tasks if name.startswith("auteur.")}

    assert own == set(DEFAULT_ROUTES)


def test_gpu_tasks_ask_for_their_vram() -> None:
    asked = {
        name: app.tasks[name].resource_requirements["vram_gb"]
        for name in app.tasks
        if name.startswith("auteur.") and getattr(app.tasks[name], "resource_requirements", None)
    }

    assert asked == {
        "auteur.generate_image": 12,
        "auteur.generate_video": 40,
        "auteur.apply_style_transfer": 6,
        "auteur.run_upscaling": 4,
    }


@pytest.mark.usefixtures("eager")
def test_the_whole_film(folders: Folders) -> None:
    answer = film("test", folders).apply_async().get()

    kept = {path.name for path in Path(folders.library).iterdir()}
    assert kept == {"manifest.json", "test-film.webp", "test-film-thumbnail.jpg", "test-film-preview.jpg"}
    assert len(answer["objects"]) == 3
    assert answer["removed"] >= 9
    assert not list(Path(folders.work).iterdir())


@pytest.mark.usefixtures("eager")
def test_single_calls_with_their_flags(folders: Folders) -> None:
    path = str(sample("china"))

    assert look_now(path).get()["width"] == 640
    assert thumbnail_for_user(path, folders.work).get()["width"] == 160
    assert retake({"path": path, "palette": [[10, 20, 30]]}, "RETAKE", folders).get()["read"] == "RETAKE"
