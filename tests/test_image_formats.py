"""Every place that names the formats of image files names those of the list."""

import re
from pathlib import Path

import pytest
from hyperdraw.sources import find_inputs

from models.inputs.image_formats import FORMATS, NAMES, SIGNATURE_BYTES, SUFFIXES, recognize
from tests import ROOT
from tests.pictures import draw_image, encode
from training.data.image_tree import search

UNSEEN = "TIFF"
"""The format that browsers do not show."""


def test_the_list_is_complete() -> None:
    assert NAMES == "PNG, JPEG, WebP, GIF, BMP, TIFF or AVIF"
    assert len(set(SUFFIXES)) == len(SUFFIXES)
    for known in FORMATS:
        content = encode(draw_image("RGB"), known.name)
        assert recognize(content) == recognize(content[:SIGNATURE_BYTES]) == known.name
    assert recognize(b"") is recognize(b"BM and other words that texts may begin with") is None


@pytest.mark.parametrize("path", ["client/hyperdraw/__main__.py", "training/images_command.py", "docs/train.md"])
def test_texts_name_all_formats(path: str) -> None:
    assert NAMES in re.sub(r"\s+", " ", (ROOT / path).read_text())


@pytest.mark.parametrize("path", ["docs/serve.md", "client/README.md"])
def test_guides_name_all_formats(path: str) -> None:
    assert NAMES.replace(" or ", " and ") in re.sub(r"\s+", " ", (ROOT / path).read_text())


def test_the_page_lets_choose_what_browsers_show() -> None:
    page, script = ((ROOT / "service" / "static" / name).read_text() for name in ("index.html", "pixels.js"))
    shown = [known for known in FORMATS if known.name != UNSEEN]
    assert f'accept="{",".join(known.media_type for known in shown)}"' in page
    assert f"Choose a {NAMES.replace(f', {UNSEEN}', '')} file." in script


def test_folders_are_searched_for_all_of_them(tmp_path: Path) -> None:
    """By the client by the ends of their names, and by a training by their first bytes, too."""
    for suffix in SUFFIXES:
        (tmp_path / f"picture{suffix.upper()}").write_bytes(b"")
    assert len(find_inputs(str(tmp_path))) == len(SUFFIXES)
    for known in FORMATS:
        (tmp_path / known.name).write_bytes(encode(draw_image("RGB"), known.name))
    assert len(search(tmp_path).images) == len(SUFFIXES) + len(FORMATS)
