"""What a picture shows, and what its file says about itself. CPU work: queue cpu.analysis."""

from __future__ import annotations

from typing import Any

import numpy as np
from PIL import ExifTags, Image

from examples.auteur.app import app
from examples.auteur.pictures import Source, open_rgb, path_of, sha256, to_pixels
from examples.auteur.ran import ran

PALETTE_SIZE = 5
HISTOGRAM_BINS = 8


@app.task(name="auteur.analyze_scene")
def analyze_scene(source: Source) -> dict[str, Any]:
    """Palette (most frequent colour first), brightness, contrast and sharpness of a picture.

    Brightness and contrast are mean and standard deviation of luminance, 0 to 255; sharpness is the mean
    absolute Laplacian.
    """
    path = path_of(source)
    image = open_rgb(path)
    luminance = to_pixels(image.convert("L"))
    inner = luminance[1:-1, 1:-1]
    neighbours = luminance[:-2, 1:-1] + luminance[2:, 1:-1] + luminance[1:-1, :-2] + luminance[1:-1, 2:]
    return {
        "path": str(path),
        "palette": palette(image),
        "brightness": round(float(luminance.mean()), 2),
        "contrast": round(float(luminance.std()), 2),
        "sharpness": round(float(np.abs(4 * inner - neighbours).mean()), 2),
        "ran": ran("analyze_scene"),
    }


def palette(image: Image.Image) -> list[list[int]]:
    """The picture's main colours as RGB, most frequent first (median cut)."""
    quantized = image.quantize(PALETTE_SIZE)
    colours = np.array(quantized.getpalette()).reshape(-1, 3)
    counts = np.bincount(np.asarray(quantized).ravel(), minlength=len(colours))
    return [[int(part) for part in colours[index]] for index in np.argsort(-counts)[:PALETTE_SIZE]]


@app.task(name="auteur.extract_metadata")
def extract_metadata(source: Source) -> dict[str, Any]:
    """Format, size, frames, EXIF, checksum and luminance histogram of a picture or film file."""
    path = path_of(source)
    with Image.open(path) as image:
        frames = int(getattr(image, "n_frames", 1))
        exif = {ExifTags.TAGS.get(tag, str(tag)): str(value) for tag, value in image.getexif().items()}
        histogram, _ = np.histogram(np.asarray(image.convert("L")), bins=HISTOGRAM_BINS, range=(0, 256))
        described = {"format": image.format, "width": image.width, "height": image.height, "frames": frames}
    return {
        "path": str(path),
        **described,
        "bytes": path.stat().st_size,
        "sha256": sha256(path),
        "exif": exif,
        "histogram": [int(count) for count in histogram],
        "ran": ran("extract_metadata"),
    }
