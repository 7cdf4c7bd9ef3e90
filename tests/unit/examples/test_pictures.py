"""The tasks on single pictures: analysis, processing, thumbnails."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from examples.auteur.analysis import analyze_scene, extract_metadata
from examples.auteur.film import Folders
from examples.auteur.pictures import Source, crop_to, open_rgb, sample, to_image, to_pixels
from examples.auteur.processing import apply_style_transfer, back_project, posterise, run_upscaling
from examples.auteur.thumbnails import create_preview, generate_thumbnail

RED = (200, 30, 30)


def picture(folder: Path, image: Image.Image, name: str = "plain.png") -> str:
    folder.mkdir(parents=True, exist_ok=True)
    image.save(folder / name)
    return str(folder / name)


def test_analysis_of_a_plain_picture(tmp_path: Path) -> None:
    found = analyze_scene(picture(tmp_path, Image.new("RGB", (40, 30), RED)))

    assert np.abs(np.array(found["palette"][0]) - RED).max() <= 2
    assert (found["contrast"], found["sharpness"]) == (0, 0)


def test_analysis_of_a_photograph() -> None:
    found = analyze_scene(str(sample("china")))

    assert found["brightness"] == pytest.approx(145, abs=3)
    assert len(found["palette"]) == 5
    assert set(found["ran"]) == {"node", "pid", "cuda_visible_devices", "warm"}


def test_metadata_of_a_photograph() -> None:
    found = extract_metadata({"path": str(sample("flower"))})

    assert (found["format"], found["width"], found["height"], found["frames"]) == ("JPEG", 640, 427, 1)
    assert sum(found["histogram"]) == 640 * 427
    assert len(found["sha256"]) == 64


def test_metadata_reads_exif(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x010E] = "a plain picture"
    path = tmp_path / "plain.jpg"
    Image.new("RGB", (8, 8)).save(path, exif=exif)

    assert extract_metadata(str(path))["exif"] == {"ImageDescription": "a plain picture"}


@pytest.mark.parametrize("factor", [2, 3])
def test_upscaling_goes_back_to_its_source(folders: Folders, factor: int) -> None:
    made = run_upscaling(str(sample("flower")), folders.work, factor=factor)

    assert (made["width"], made["height"]) == (640 * factor, 427 * factor)
    assert made["error"] < 3
    assert open_rgb(Path(made["path"])).size == (640 * factor, 427 * factor)


def test_back_projection_is_better_than_bicubic_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    small = to_pixels(open_rgb(sample("china")).crop((100, 50, 228, 178)))
    _, error = back_project(small, 2)
    monkeypatch.setattr("examples.auteur.processing.BACK_PROJECTIONS", 0)
    _, plain = back_project(small, 2)

    assert error < plain / 2


def test_style_transfer_moves_the_colours(folders: Folders) -> None:
    source, style = sample("china"), sample("flower")
    made = apply_style_transfer(str(source), folders.work, style="flower", levels=8, strength=1.0)

    result = open_rgb(Path(made["path"]))
    assert len(np.unique(np.asarray(result)[:, :, 0])) <= 8
    assert distance(result, open_rgb(style)) < distance(open_rgb(source), open_rgb(style)) / 2


def distance(one: Image.Image, other: Image.Image) -> float:
    """Between the mean colours."""
    means = [to_pixels(image).mean((0, 1)) for image in (one, other)]
    return float(np.abs(means[0] - means[1]).mean())


def test_posterise_keeps_the_ends() -> None:
    assert posterise(np.array([0.0, 100.0, 255.0], dtype=np.float32), 2).tolist() == [0, 0, 255]


@pytest.mark.parametrize(
    ("task", "options", "bound"),
    [
        (run_upscaling, {"factor": 5}, "2, 3 or 4"),
        (apply_style_transfer, {"levels": 1}, "2 to 256"),
        (apply_style_transfer, {"strength": 1.5}, "0 to 1"),
        (apply_style_transfer, {"style": "van gogh"}, "one of"),
    ],
)
def test_bad_options_are_refused_with_their_bound(
    folders: Folders, task: Any, options: dict[str, Any], bound: str
) -> None:
    with pytest.raises(ValueError, match=bound):
        task(str(sample("china")), folders.work, **options)


@pytest.mark.parametrize(("size", "expected"), [((640, 427), (160, 107)), ((100, 400), (40, 160))])
def test_thumbnails_keep_their_shape(
    folders: Folders, tmp_path: Path, size: tuple[int, int], expected: tuple[int, int]
) -> None:
    made = generate_thumbnail(picture(tmp_path, Image.new("RGB", size, RED)), folders.work)

    assert (made["width"], made["height"]) == expected


def test_preview_shows_frames_from_all_over_the_film(folders: Folders, tmp_path: Path) -> None:
    shades = [Image.new("RGB", (32, 18), (shade, shade, shade)) for shade in range(0, 240, 30)]
    film: Source = str(tmp_path / "film.gif")
    shades[0].save(film, save_all=True, append_images=shades[1:])

    made = create_preview(film, folders.work)

    assert made["frames"] == 4
    sheet = to_pixels(open_rgb(Path(made["path"])))
    columns = [sheet[:, 240 * index + 120, 0].mean() for index in range(4)]
    assert columns == pytest.approx([0, 60, 120, 180], abs=4)


def test_preview_of_a_still_has_one_frame(folders: Folders) -> None:
    assert create_preview(str(sample("china")), folders.work)["frames"] == 1


def test_pixels_survive_the_way_there_and_back() -> None:
    image = crop_to(open_rgb(sample("china")), 1.0)

    assert image.size == (427, 427)
    assert to_image(to_pixels(image)).tobytes() == image.tobytes()
    assert to_image(np.full((1, 1, 3), 300, dtype=np.float32)).getpixel((0, 0)) == (255, 255, 255)


def test_an_unknown_sample_is_refused() -> None:
    with pytest.raises(ValueError, match="one of"):
        sample("moon")
