"""New pictures and films. The large GPU tasks: queue gpu.generation.

`generate_image` draws a title card over a scene and has a neural model read it back: a card whose title can't
be read is no title card. Loading that model is what a warm executor saves.
"""

from __future__ import annotations

import re
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from examples.auteur.app import app
from examples.auteur.pictures import WIDESCREEN, crop_to, open_rgb, output, path_of
from examples.auteur.ran import ran
from examples.auteur.reader import read_text

CARD_SIZE = (640, 360)
BAND = 0.3
"""Height of the band that carries the title, as a part of the card's."""
FILM_SIZE = (480, 270)
FRAMES_PER_SHOT = 10
FRAME_MS = 80
ZOOM = 1.25
IMAGE_DESCRIPTION = 0x010E
"""EXIF tag."""


class UnreadableTitleError(ValueError):
    """The model read something else than what the card says."""


@app.task(name="auteur.generate_image", resource_requirements={"gpu": True, "vram_gb": 12})
def generate_image(scene: dict[str, Any], title: str, work: str) -> dict[str, Any]:
    """A title card over the analysed scene, in the scene's own colours, read back by the model.

    The scene must carry no text of its own: the whole card is read.

    Raises:
        ValueError: the title has no letter or digit.
        UnreadableTitleError: the model's reading differs from the title in a letter or digit.
    """
    if not _letters(title):
        raise ValueError(f"title={title!r}: at least one letter or digit")
    path = path_of(scene)
    card = draw_card(open_rgb(path), title, scene["palette"])
    reading = read_text(card)
    if _letters(reading.text) != _letters(title):
        raise UnreadableTitleError(f"title={title!r}: the model read {reading.text!r}")
    target = output(work, path, "card", "jpg")
    exif = Image.Exif()
    exif[IMAGE_DESCRIPTION] = title
    card.save(target, quality=92, exif=exif)
    return {
        "path": str(target),
        "title": title,
        "read": reading.text,
        "confidence": reading.confidence,
        "load_s": reading.load_s,
        "run_s": reading.run_s,
        "model_on": reading.device,
        "ran": ran("generate_image", warm=reading.warm),
    }


def draw_card(scene: Image.Image, title: str, palette: list[list[int]]) -> Image.Image:
    """The scene in widescreen with the title in a band below, dark and light after the scene's palette."""
    card = crop_to(scene, WIDESCREEN).resize(CARD_SIZE, Image.Resampling.LANCZOS)
    width, height = CARD_SIZE
    top = round(height * (1 - BAND))
    darkest = min(palette, key=sum)
    draw = ImageDraw.Draw(card)
    draw.rectangle((0, top, width, height), fill=tuple(part // 4 for part in darkest))
    font = _font_to_fit(draw, title, width * 0.9, height * BAND * 0.6)
    draw.text((width / 2, (top + height) / 2), title, font=font, anchor="mm", fill=(245, 245, 235))
    return card


def _font_to_fit(draw: ImageDraw.ImageDraw, title: str, width: float, height: float) -> Any:
    font = ImageFont.load_default(size=height)
    length = draw.textlength(title, font=font)
    return font if length <= width else ImageFont.load_default(size=height * width / length)


def _letters(text: str) -> str:
    """Letters and digits alone, in lower case: the model does not promise blanks and case."""
    return re.sub(r"[\W_]", "", text).casefold()


@app.task(name="auteur.generate_video", resource_requirements={"gpu": True, "vram_gb": 40})
def generate_video(shots: list[dict[str, Any]], name: str, work: str) -> dict[str, Any]:
    """An animated WebP: a slow pan and zoom over each of the shots' pictures, one after the other.

    Raises:
        ValueError: there is no shot.
    """
    if not shots:
        raise ValueError("shots=[]: at least one")
    frames = [frame for shot in shots for frame in pan_and_zoom(open_rgb(path_of(shot)))]
    target = output(work, path_of(shots[0]).with_stem(name), "film", "webp")
    frames[0].save(target, save_all=True, append_images=frames[1:], duration=FRAME_MS, loop=0, quality=75)
    return {
        "path": str(target),
        "frames": len(frames),
        "duration_ms": len(frames) * FRAME_MS,
        "ran": ran("generate_video"),
    }


def pan_and_zoom(picture: Image.Image) -> list[Image.Image]:
    """`FRAMES_PER_SHOT` frames: from the whole picture to its right half's middle, `ZOOM` times larger."""
    picture = crop_to(picture, WIDESCREEN)
    width, height = picture.size
    frames = []
    for progress in np.linspace(0.0, 1.0, FRAMES_PER_SHOT):
        scale = 1 + (ZOOM - 1) * progress
        size = (width / scale, height / scale)
        left, top = (width - size[0]) * progress, (height - size[1]) / 2
        box = (left, top, left + size[0], top + size[1])
        frames.append(picture.resize(FILM_SIZE, Image.Resampling.BICUBIC, box=box))
    return frames
