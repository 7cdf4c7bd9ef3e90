"""Reading and writing pictures, and naming what a task hands to the next one."""

from __future__ import annotations

import hashlib
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

SAMPLES = ("china", "flower")
WIDESCREEN = 16 / 9

Pixels = NDArray[np.float32]
Source = str | dict[str, Any]


def sample(name: str) -> Path:
    """Path of one of the two photographs (640 x 427) that scikit-learn ships.

    Raises:
        ValueError: the name is not one of `SAMPLES`.
    """
    if name not in SAMPLES:
        raise ValueError(f"sample={name!r}: one of {SAMPLES}")
    return Path(str(files("sklearn.datasets") / "images" / f"{name}.jpg"))


def path_of(source: Source) -> Path:
    """The picture that `source` names: a path, or the answer of the task before, which has one."""
    return Path(source["path"] if isinstance(source, dict) else source)


def open_rgb(path: Path) -> Image.Image:
    """The picture (the first frame of a film), in RGB and out of its file."""
    with Image.open(path) as image:
        return image.convert("RGB")


def to_pixels(image: Image.Image) -> Pixels:
    """Height x width x channels, 0 to 255."""
    return np.asarray(image, dtype=np.float32)


def to_image(pixels: Pixels, mode: str = "RGB") -> Image.Image:
    """The inverse of `to_pixels`; values outside of 0 to 255 are clipped. `mode` names the three channels."""
    return Image.merge(mode, Image.fromarray(pixels.round().clip(0, 255).astype(np.uint8)).split())


def crop_to(image: Image.Image, ratio: float) -> Image.Image:
    """The middle of the picture with the given width to height."""
    width, height = image.size
    wanted = (min(width, round(height * ratio)), min(height, round(width / ratio)))
    left, top = (width - wanted[0]) // 2, (height - wanted[1]) // 2
    return image.crop((left, top, left + wanted[0], top + wanted[1]))


def output(work: str, source: Path, suffix: str, extension: str) -> Path:
    """Where a task writes: `work/<stem of the source>-<suffix>.<extension>`. Makes the folder."""
    folder = Path(work)
    folder.mkdir(parents=True, exist_ok=True)
    return folder / f"{source.stem}-{suffix}.{extension}"


def sha256(path: Path) -> str:
    """Hex digest of the file's content."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
