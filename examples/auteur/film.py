"""The main job: a film of title cards, as one canvas over GPU, CPU and IO queues.

analyse -> generate -> upscale -> style     a chain a shot, the shots side by side (a chord)
  -> film                                   the chord's body, on the GPU again
  -> thumbnail | preview | metadata         a group, which the next one waits for (a second chord)
  -> store -> upload -> clean up
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from celery import chain, group
from celery.result import AsyncResult

from examples.auteur.analysis import analyze_scene, extract_metadata
from examples.auteur.generation import generate_image, generate_video
from examples.auteur.pictures import sample
from examples.auteur.processing import apply_style_transfer, run_upscaling
from examples.auteur.storage import cleanup_temp_files, save_to_storage, upload_to_cloud
from examples.auteur.thumbnails import create_preview, generate_thumbnail

AHEAD: dict[str, Any] = {"priority_task": True}
WAITED_FOR: dict[str, Any] = {"user_initiated": True}


@dataclass(frozen=True, slots=True)
class Folders:
    """Where a film is made and kept. Every node must see them."""

    work: str
    library: str
    bucket: str

    @classmethod
    def under(cls, root: Path) -> Folders:
        return cls(*(str(root / name) for name in ("work", "library", "bucket")))


def shot(name: str, title: str, style: str, folders: Folders) -> Any:
    """One sample, from the photograph to the styled title card."""
    return chain(
        analyze_scene.s(str(sample(name))),
        generate_image.s(title, folders.work),
        run_upscaling.s(folders.work, factor=2),
        apply_style_transfer.s(folders.work, style=style),
    )


def film(name: str, folders: Folders) -> Any:
    """The whole job. Its result is what `cleanup_temp_files` returns: the objects that were kept."""
    shots = group(
        shot("china", "SUMMER PALACE", "flower", folders),
        shot("flower", "THE DAHLIA", "china", folders),
    )
    views = group(
        generate_thumbnail.s(folders.work),
        create_preview.s(folders.work),
        extract_metadata.s(),
    )
    return chain(
        shots,
        generate_video.s(name, folders.work),
        views,
        save_to_storage.s(folders.library),
        upload_to_cloud.s(folders.bucket),
        cleanup_temp_files.s(folders.work),
    )


def look_now(path: str) -> AsyncResult[Any]:
    """Ahead of everything: a `priority_task` goes to the queue that CPU workers and the bridge both serve."""
    result: AsyncResult[Any] = extract_metadata.apply_async((path,), headers=AHEAD)
    return result


def thumbnail_for_user(path: str, work: str) -> AsyncResult[Any]:
    """Someone is waiting for this one: `user_initiated` raises its priority by two on its own queue."""
    result: AsyncResult[Any] = generate_thumbnail.apply_async((path, work), headers=WAITED_FOR)
    return result


def retake(scene: dict[str, Any], title: str, folders: Folders) -> AsyncResult[Any]:
    """Another title card of the scene: finds the model of the first one warm."""
    result: AsyncResult[Any] = generate_image.delay(scene, title, folders.work)
    return result
