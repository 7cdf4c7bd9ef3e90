"""A neural model that reads text in pictures: PP-OCRv4, whose weights rapidocr-onnxruntime carries.

The model stays in a module global, so an executor that is used again has it warm. It runs on the GPU where
onnxruntime was built with CUDA (package onnxruntime-gpu), and on the CPU otherwise.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image

_model: Any = None


@dataclass(frozen=True, slots=True)
class Reading:
    """What the model read, and what that took."""

    text: str
    confidence: float
    """The lowest of the lines', 0 to 1; 0 where nothing was read."""
    load_s: float
    """Seconds to load the model; 0 where it was warm."""
    run_s: float
    warm: bool
    device: str
    """cuda or cpu: where the model's arithmetic was done."""


def read_text(image: Image.Image) -> Reading:
    """Read all lines of text, top to bottom, joined by a blank."""
    begin = time.perf_counter()
    warm = _model is not None
    model = _load()
    loaded = time.perf_counter()
    bgr = np.ascontiguousarray(np.asarray(image.convert("RGB"))[:, :, ::-1])
    lines, _ = model(bgr)
    run_s = time.perf_counter() - loaded
    rows = sorted(lines or [], key=lambda line: line[0][0][1])
    return Reading(
        text=" ".join(str(row[1]) for row in rows),
        confidence=round(min((float(row[2]) for row in rows), default=0.0), 3),
        load_s=0.0 if warm else round(loaded - begin, 3),
        run_s=round(run_s, 3),
        warm=warm,
        device="cuda" if _has_cuda() else "cpu",
    )


def _load() -> Any:
    global _model
    if _model is None:
        # Imported here: it costs half a second, and only the tasks that read need it.
        from rapidocr_onnxruntime import RapidOCR

        cuda = _has_cuda()
        _model = RapidOCR(det_use_cuda=cuda, cls_use_cuda=cuda, rec_use_cuda=cuda)
    return _model


def _has_cuda() -> bool:
    import onnxruntime

    return "CUDAExecutionProvider" in onnxruntime.get_available_providers()
