"""Changes to pictures. The smaller GPU tasks: queue gpu.processing."""

from __future__ import annotations

from typing import Any

import numpy as np
from PIL import Image

from examples.auteur.app import app
from examples.auteur.pictures import Pixels, Source, open_rgb, output, path_of, sample, to_image, to_pixels
from examples.auteur.ran import ran

BACK_PROJECTIONS = 3


@app.task(name="auteur.run_upscaling", resource_requirements={"gpu": True, "vram_gb": 4})
def run_upscaling(source: Source, work: str, factor: int = 2) -> dict[str, Any]:
    """The picture `factor` times as large, by iterative back-projection (Irani and Peleg, 1991).

    Returns its `path` and `error`: the RMSE between the source and the result scaled down again, 0 to 255.

    Raises:
        ValueError: `factor` is not 2 to 4.
    """
    if factor not in (2, 3, 4):
        raise ValueError(f"factor={factor!r}: 2, 3 or 4")
    path = path_of(source)
    small = to_pixels(open_rgb(path))
    large, error = back_project(small, factor)
    target = output(work, path, f"x{factor}", "png")
    to_image(large).save(target, compress_level=1)
    return {
        "path": str(target),
        "width": large.shape[1],
        "height": large.shape[0],
        "error": round(error, 3),
        "ran": ran("run_upscaling"),
    }


def back_project(small: Pixels, factor: int) -> tuple[Pixels, float]:
    """Enlarge so that scaling down again gives the source; the remaining error comes as RMSE."""
    height, width = small.shape[:2]
    size = (width * factor, height * factor)
    large = _resize(small, size)
    for _ in range(BACK_PROJECTIONS):
        large = large + _resize(small - _resize(large, (width, height)), size)
    large = large.clip(0, 255)
    residue = small - _resize(large, (width, height))
    return large, float(np.sqrt(np.mean(residue**2)))


def _resize(pixels: Pixels, size: tuple[int, int]) -> Pixels:
    """Bicubic, channel by channel in 32-bit floats, since 8 bits would lose the small residues."""
    planes = (Image.fromarray(np.ascontiguousarray(pixels[:, :, index])) for index in range(pixels.shape[2]))
    return np.stack([np.asarray(plane.resize(size, Image.Resampling.BICUBIC)) for plane in planes], axis=2)


@app.task(name="auteur.apply_style_transfer", resource_requirements={"gpu": True, "vram_gb": 6})
def apply_style_transfer(
    source: Source, work: str, style: str = "flower", levels: int = 12, strength: float = 0.6
) -> dict[str, Any]:
    """The picture in the colours of `style` (a sample's name), posterised to `levels` a channel.

    Mean and deviation of each YCbCr channel move to the style's (Reinhard and others, 2001) by `strength`.

    Raises:
        ValueError: `levels` is not 2 to 256, or `strength` not 0 to 1.
    """
    if not 2 <= levels <= 256:
        raise ValueError(f"levels={levels!r}: 2 to 256")
    if not 0 <= strength <= 1:
        raise ValueError(f"strength={strength!r}: 0 to 1")
    path = path_of(source)
    picture, model = open_rgb(path), open_rgb(sample(style))
    styled = transfer_colours(
        to_pixels(picture.convert("YCbCr")), to_pixels(model.convert("YCbCr")), strength
    )
    rgb = to_pixels(to_image(styled, "YCbCr").convert("RGB"))
    target = output(work, path, f"in-{style}", "png")
    to_image(posterise(rgb, levels)).save(target, compress_level=1)
    return {"path": str(target), "style": style, "levels": levels, "ran": ran("apply_style_transfer")}


def transfer_colours(picture: Pixels, style: Pixels, strength: float) -> Pixels:
    """Move mean and deviation of each channel to the style's: not at all for `strength` 0, wholly for 1."""
    axes = (0, 1)
    mean, deviation = picture.mean(axes), picture.std(axes) + 1e-6
    moved = (picture - mean) / deviation * style.std(axes) + style.mean(axes)
    mixed: Pixels = picture + strength * (moved - picture)
    return mixed


def posterise(pixels: Pixels, levels: int) -> Pixels:
    """Round each channel to `levels` values, evenly from 0 to 255."""
    step = 255 / (levels - 1)
    rounded: Pixels = (pixels / step).round() * step
    return rounded
