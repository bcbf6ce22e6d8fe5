"""Examples of checkpoints: what is read, and what is refused."""

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from models.checkpoint_files import CheckpointError
from models.examples import FOLDER, LIST_FILE, MAX_BYTES, MOST_EXAMPLES, load_examples, save_examples
from models.inputs.image import ImageSpec
from models.inputs.vector import VectorSpec
from tests import ROOT
from tests.examples import make_example
from tests.pictures import draw_image, encode, forge_png

SPEC = ImageSpec(channels=1, height=8, width=8, mean=(0.5,), std=(0.5,))
EXAMPLES = [
    make_example(),
    make_example("photo.jpg", "a stroke, as a photograph", "JPEG"),
    make_example("web.webp", "a “stroke” — again", "WebP"),
]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    save_examples(tmp_path, EXAMPLES)
    return tmp_path / FOLDER


def list_files(folder: Path, *names: str) -> None:
    entry = {"caption": "a", "source": "b", "licence": "c"}
    (folder / LIST_FILE).write_text(json.dumps([{"file": name, **entry} for name in names]))


def test_what_is_saved_is_loaded_in_order(folder: Path) -> None:
    assert load_examples(folder.parent, SPEC) == tuple(EXAMPLES)
    assert [example.media_type for example in EXAMPLES] == ["image/png", "image/jpeg", "image/webp"]
    assert json.loads((folder / LIST_FILE).read_text())[0] == {
        "file": "stroke.png",
        "caption": "a stroke",
        "source": "drawn for the tests",
        "licence": "Apache-2.0",
    }


def test_others_take_their_place(folder: Path) -> None:
    save_examples(folder.parent, EXAMPLES[:1])
    assert load_examples(folder.parent, SPEC) == tuple(EXAMPLES[:1])
    assert {path.name for path in folder.iterdir()} == {LIST_FILE, "stroke.png"}


def test_examples_are_optional(tmp_path: Path) -> None:
    assert load_examples(tmp_path, SPEC) == ()
    (tmp_path / FOLDER).mkdir()
    assert load_examples(tmp_path, SPEC) == ()


def link(name: str, target: str) -> Callable[[Path], None]:
    def act(folder: Path) -> None:
        (folder / name).rename(folder / "away")
        (folder / name).symlink_to(target)

    return act


def move_away(folder: Path) -> None:
    away = folder.with_name("elsewhere")
    folder.rename(away)
    folder.symlink_to(away)


def put_pipe(folder: Path) -> None:
    (folder / "stroke.png").unlink()
    os.mkfifo(folder / "stroke.png")


def write_outside(folder: Path, name: str) -> None:
    (folder.parent / "secret.png").write_bytes(encode(draw_image()))
    list_files(folder, name)


def set_first(**values: Any) -> Callable[[Path], object]:
    def change(folder: Path) -> None:
        first, *others = json.loads((folder / LIST_FILE).read_text())
        (folder / LIST_FILE).write_text(json.dumps([first | values, *others]))

    return change


def put(name: str, content: bytes) -> Callable[[Path], object]:
    return lambda folder: (folder / name).write_bytes(content)


HOSTILE: dict[str, tuple[Callable[[Path], object], str, str]] = {
    "a path upwards": (lambda f: write_outside(f, "../secret.png"), LIST_FILE, "0.file: String should match"),
    "an absolute path": (lambda f: list_files(f, "/etc/passwd"), LIST_FILE, "0.file: String should match"),
    "a hidden file": (lambda f: list_files(f, ".secret.png"), LIST_FILE, "0.file: String should match"),
    "a path of Windows": (lambda f: list_files(f, "..\\secret.png"), LIST_FILE, "0.file: String should match"),
    "a name that is too long": (lambda f: list_files(f, "a" * 97 + ".png"), LIST_FILE, "at most 100 characters"),
    "a name with a line break": (lambda f: list_files(f, "stroke.png\n"), LIST_FILE, "0.file: String should match"),
    "a link out of the folder": (link("stroke.png", "/etc/hostname"), "stroke.png", "a link, not a file of its own"),
    "a link within the folder": (link("stroke.png", "photo.jpg"), "stroke.png", "a link"),
    "a link to a device": (link("stroke.png", "/dev/zero"), "stroke.png", "a link"),
    "a list that is a link": (link(LIST_FILE, "away"), LIST_FILE, "a link"),
    "a folder that is a link": (move_away, FOLDER, "is a link; examples must be in a folder of the checkpoint"),
    "a pipe": (put_pipe, "stroke.png", "not a regular file"),
    "a missing file": (lambda f: (f / "stroke.png").unlink(), "stroke.png", "No such file"),
    "too many": (lambda f: list_files(f, *["stroke.png"] * (MOST_EXAMPLES + 1)), LIST_FILE, f"at most {MOST_EXAMPLES}"),
    "the same twice": (lambda f: list_files(f, "stroke.png", "stroke.png"), LIST_FILE, "lists stroke.png more than"),
    "too many bytes": (
        lambda f: os.truncate(f / "stroke.png", MAX_BYTES + 1),
        "stroke.png",
        f"larger than {MAX_BYTES}",
    ),
    "a list of too many bytes": (lambda f: os.truncate(f / LIST_FILE, 2**40), LIST_FILE, "larger than 65536 bytes"),
    "too many pixels": (
        put("stroke.png", forge_png(50_000, 50_000)),
        "stroke.png",
        "too large: 50,000 × 50,000",
    ),
    "not an image": (put("stroke.png", b"<script>alert(1)</script>"), "stroke.png", "is not a PNG, JPEG or WebP file"),
    "no format for browsers": (put("stroke.png", encode(draw_image(), "TIFF")), "stroke.png", "is not a PNG"),
    "half an image": (
        put("stroke.png", encode(draw_image())[:99]),
        "stroke.png",
        "the model cannot take it: the image",
    ),
    "transparency": (
        put("stroke.png", encode(Image.new("RGBA", (9, 9), (9, 9, 9, 9)))),
        "stroke.png",
        "has transparent pixels",
    ),
    "another format": (put("stroke.png", encode(draw_image(), "JPEG")), "stroke.png", "must end with .jpg"),
    "an unknown field": (set_first(script="x"), LIST_FILE, "0.script: Unexpected"),
    "no licence": (set_first(licence=""), LIST_FILE, "0.licence: String should match"),
    "a caption without end": (set_first(caption="a" * 301), LIST_FILE, "0.caption: String should have at most 300"),
    "a caption of several lines": (set_first(caption="a\nb"), LIST_FILE, "0.caption: String should match"),
    "no JSON": (put(LIST_FILE, b"\xff"), LIST_FILE, "Invalid JSON"),
    "no list": (put(LIST_FILE, b"{}"), LIST_FILE, "valid array"),
    "deep JSON": (put(LIST_FILE, b"[" * 60_000), LIST_FILE, "Invalid JSON"),
}


@pytest.mark.parametrize("case", HOSTILE)
def test_what_is_hostile_is_refused_with_file_and_reason(folder: Path, case: str) -> None:
    act, file, reason = HOSTILE[case]
    act(folder)
    with pytest.raises(CheckpointError) as caught:
        load_examples(folder.parent, SPEC)
    assert caught.value.path.name == file
    assert reason in caught.value.reason


def test_a_model_of_numbers_has_no_examples(folder: Path) -> None:
    with pytest.raises(CheckpointError, match="lists images, but the model takes none"):
        load_examples(folder.parent, VectorSpec(names=("x",), mean=(0.0,), std=(2.0,)))


def test_the_pages_own_examples_have_the_same_form() -> None:
    shipped = load_examples(ROOT / "service" / "static", SPEC)
    assert len(shipped) == 6
    assert {example.entry.file for example in shipped} == {
        path.name for path in (ROOT / "service" / "static" / FOLDER).glob("*.png")
    }
