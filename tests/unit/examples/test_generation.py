"""Title cards are read back by the real model; films move."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from examples.auteur.analysis import analyze_scene
from examples.auteur.film import Folders
from examples.auteur.generation import (
    FILM_SIZE,
    FRAMES_PER_SHOT,
    UnreadableTitleError,
    generate_image,
    generate_video,
)
from examples.auteur.pictures import sample


def test_the_model_reads_the_title_and_is_warm_the_second_time(folders: Folders) -> None:
    scene = analyze_scene(str(sample("china")))

    first = generate_image(scene, "SUMMER PALACE", folders.work)
    second = generate_image(scene, "Night 1024", folders.work)

    assert first["read"].replace(" ", "") == "SUMMERPALACE"
    assert second["read"].replace(" ", "") == "Night1024"
    assert second["ran"]["warm"] is True
    assert second["load_s"] == 0
    with Image.open(second["path"]) as card:
        assert card.size == (640, 360)


def test_a_title_that_the_model_cannot_read_fails(folders: Folders) -> None:
    scene = analyze_scene(str(sample("flower")))

    # Longer than the band can show: each letter is about a pixel wide.
    with pytest.raises(UnreadableTitleError, match="the model read"):
        generate_image(scene, "illegible " * 60, folders.work)


def test_a_title_without_letters_is_refused(folders: Folders) -> None:
    with pytest.raises(ValueError, match="at least one letter"):
        generate_image({"path": str(sample("china")), "palette": [[0, 0, 0]]}, " - ", folders.work)


def test_a_film_pans_over_every_shot(folders: Folders) -> None:
    shots = [{"path": str(sample("china"))}, {"path": str(sample("flower"))}]

    made = generate_video(shots, "test", folders.work)

    assert made["frames"] == 2 * FRAMES_PER_SHOT
    assert Path(made["path"]).name == "test-film.webp"
    with Image.open(made["path"]) as film:
        assert (film.n_frames, film.size) == (made["frames"], FILM_SIZE)
        first = np.asarray(film.convert("RGB"), dtype=int)
        film.seek(FRAMES_PER_SHOT - 1)
        assert np.abs(first - np.asarray(film.convert("RGB"))).mean() > 5


def test_a_film_of_nothing_is_refused(folders: Folders) -> None:
    with pytest.raises(ValueError, match="at least one"):
        generate_video([], "test", folders.work)
