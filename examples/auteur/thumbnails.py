"""Small pictures of large ones. CPU work: queue cpu.thumbnail."""

from __future__ import annotations

from typing import Any

from PIL import Image

from examples.auteur.app import app
from examples.auteur.pictures import Source, open_rgb, output, path_of
from examples.auteur.ran import ran

THUMBNAIL_SIZE = (160, 160)
PREVIEW_FRAMES = 4
PREVIEW_WIDTH = 240


@app.task(name="auteur.generate_thumbnail")
def generate_thumbnail(source: Source, work: str) -> dict[str, Any]:
    """A JPEG of the picture, or of a film's first frame, within 160 x 160 pixels."""
    path = path_of(source)
    image = open_rgb(path)
    image.thumbnail(THUMBNAIL_SIZE, Image.Resampling.LANCZOS)
    target = output(work, path, "thumbnail", "jpg")
    image.save(target, quality=85, optimize=True)
    return {
        "path": str(target),
        "width": image.width,
        "height": image.height,
        "ran": ran("generate_thumbnail"),
    }


@app.task(name="auteur.create_preview")
def create_preview(source: Source, work: str) -> dict[str, Any]:
    """A contact sheet: up to four frames of a film, evenly spread over it, in one row."""
    path = path_of(source)
    frames = _spread_frames(path)
    height = round(PREVIEW_WIDTH * frames[0].height / frames[0].width)
    sheet = Image.new("RGB", (PREVIEW_WIDTH * len(frames), height))
    for index, frame in enumerate(frames):
        sheet.paste(
            frame.resize((PREVIEW_WIDTH, height), Image.Resampling.LANCZOS), (PREVIEW_WIDTH * index, 0)
        )
    target = output(work, path, "preview", "jpg")
    sheet.save(target, quality=85)
    return {"path": str(target), "frames": len(frames), "ran": ran("create_preview")}


def _spread_frames(path: Any) -> list[Image.Image]:
    with Image.open(path) as film:
        total = int(getattr(film, "n_frames", 1))
        count = min(total, PREVIEW_FRAMES)
        frames = []
        for index in range(count):
            film.seek(index * total // count)
            frames.append(film.convert("RGB"))
    return frames
