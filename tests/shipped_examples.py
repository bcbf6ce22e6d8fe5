"""The examples of the shipped checkpoints: `python -m tests.shipped_examples` draws and writes them.

MNIST's models get those that the page has for all models of digits. CIFAR-10's models get pictures that are drawn here:
five that all of them recognise, and one of none of their classes.
"""

import io
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

from models.examples import Example, ExampleEntry, load_examples, save_examples
from models.inputs.image import ImageSpec
from tests import ROOT

SIDE, SMALL = 256, 32
"""Width and height in pixels of a picture as it is drawn, and as CIFAR-10's models take it."""

Colour = tuple[int, int, int]


class Shape(NamedTuple):
    """A polygon, or an ellipse within the two corners of a box, of one colour."""

    colour: Colour
    points: Sequence[tuple[float, float]]
    round: bool = False


class Scene(NamedTuple):
    """A picture: shapes, one over the other, on a sky that fades from top to bottom, and on a ground."""

    file: str
    caption: str
    top: Colour
    bottom: Colour
    ground: Colour
    horizon: int
    """Row at which the ground begins; none is seen from `SIDE` on."""
    grain: float
    """Standard deviation of the background's colours, of 255."""
    shapes: Sequence[Shape]


def ellipses(colour: Colour, *boxes: tuple[int, int, int, int]) -> list[Shape]:
    """Ellipses of one colour, by left, top, right and bottom."""
    return [Shape(colour, ((left, top), (right, bottom)), round=True) for left, top, right, bottom in boxes]


def boxes(colour: Colour, *corners: tuple[int, int, int, int]) -> list[Shape]:
    """Rectangles of one colour, by left, top, right and bottom."""
    return [Shape(colour, ((x, y), (right, y), (right, bottom), (x, bottom))) for x, y, right, bottom in corners]


AIRPLANE = [
    Shape((225, 228, 232), ((30, 150), (52, 132), (170, 120), (215, 108), (232, 114), (222, 128), (60, 160))),
    Shape((140, 145, 155), ((60, 158), (180, 142), (222, 128), (150, 152))),
    Shape((200, 60, 50), ((38, 146), (22, 92), (42, 90), (72, 138))),
    Shape((150, 155, 165), ((112, 140), (60, 196), (84, 196), (160, 140))),
    Shape((190, 195, 200), ((130, 124), (118, 86), (132, 86), (164, 120))),
    *ellipses((90, 95, 100), (96, 160, 124, 174)),
]
SHIP = [
    Shape((40, 45, 60), ((22, 140), (236, 134), (214, 180), (46, 180))),
    Shape((150, 45, 40), ((46, 172), (217, 172), (214, 182), (48, 182))),
    *boxes((235, 235, 230), (70, 104, 170, 140)),
    *boxes((220, 222, 222), (88, 80, 150, 106)),
    *boxes((200, 70, 50), (110, 44, 134, 82)),
    *boxes((80, 80, 80), (187, 70, 193, 136)),
    *boxes((60, 70, 90), *((x, 114, x + 8, 124) for x in range(78, 166, 16))),
]
CAR = [
    *ellipses((60, 60, 62), (20, 186, 236, 214)),
    Shape(
        (190, 25, 30),
        ((18, 150), (60, 140), (92, 98), (168, 98), (208, 138), (240, 148), (240, 186), (18, 186)),
    ),
    Shape((60, 75, 90), ((74, 140), (98, 106), (128, 106), (128, 140))),
    Shape((70, 85, 100), ((136, 106), (164, 106), (192, 140), (136, 140))),
    *ellipses((22, 22, 24), (38, 158, 94, 214), (162, 158, 218, 214)),
    *ellipses((165, 168, 172), (52, 172, 80, 200), (176, 172, 204, 200)),
    *boxes((250, 230, 160), (18, 156, 34, 168)),
    *boxes((250, 150, 120), (226, 156, 240, 168)),
]
FROG = [
    *ellipses((60, 90, 30), (30, 150, 110, 220), (146, 150, 226, 220)),
    *ellipses((95, 130, 50), (52, 90, 204, 216)),
    *ellipses((150, 175, 90), (80, 140, 176, 216)),
    *ellipses((95, 130, 50), (62, 60, 194, 150), (60, 44, 108, 92), (148, 44, 196, 92)),
    *ellipses((220, 190, 60), (69, 53, 99, 83), (157, 53, 187, 83)),
    *ellipses((10, 10, 10), (76, 60, 92, 78), (164, 60, 180, 78)),
    *ellipses((95, 130, 50), (50, 196, 100, 226), (156, 196, 206, 226)),
]
HORSE = [
    *ellipses((110, 65, 35), (62, 94, 190, 160)),
    Shape((110, 65, 35), ((166, 110), (192, 60), (216, 62), (206, 130), (180, 146))),
    Shape((110, 65, 35), ((192, 62), (204, 40), (212, 60), (244, 92), (236, 106), (204, 92))),
    Shape((55, 32, 20), ((164, 112), (188, 54), (198, 56), (180, 116))),
    Shape((55, 32, 20), ((68, 108), (44, 120), (40, 176), (54, 170), (62, 130))),
    Shape((55, 32, 20), ((72, 140), (90, 140), (86, 222), (74, 222))),
    *(Shape((110, 65, 35), ((x, 140), (x + 18, 140), (x + 18, 222), (x + 6, 222))) for x in (94, 160, 176)),
]
PETALS = ((190, 128), (172, 172), (128, 190), (84, 172), (66, 128), (84, 84), (128, 66), (172, 84))
FLOWER = [
    *ellipses((235, 90, 150), *((x - 36, y - 36, x + 36, y + 36) for x, y in PETALS)),
    *ellipses((250, 210, 40), (94, 94, 162, 162)),
]

SCENES = (
    Scene("airplane.png", "an airplane", (90, 140, 200), (190, 215, 240), (0, 0, 0), SIDE, 6, AIRPLANE),
    Scene("ship.png", "a ship", (150, 180, 210), (215, 225, 230), (35, 75, 105), 150, 8, SHIP),
    Scene("car.png", "a car", (175, 190, 205), (215, 218, 215), (110, 110, 112), 150, 7, CAR),
    Scene("frog.png", "a frog", (95, 80, 55), (120, 100, 70), (0, 0, 0), SIDE, 16, FROG),
    Scene("horse.png", "a horse", (170, 200, 230), (220, 230, 235), (95, 135, 60), 150, 9, HORSE),
    Scene("flower.png", "a flower, not one of the classes", (60, 120, 50), (40, 90, 40), (0, 0, 0), SIDE, 14, FLOWER),
)

SOURCE, LICENCE = "drawn by hyperdraw's tests/shipped_examples.py", "Apache-2.0"


def draw(scene: Scene) -> Image.Image:
    """A picture at the size that CIFAR-10's models take."""
    fade = np.linspace(0, 1, SIDE)[:, None, None]
    ground = np.broadcast_to(np.array(scene.top) * (1 - fade) + np.array(scene.bottom) * fade, (SIDE, SIDE, 3)).copy()
    ground[scene.horizon :] = scene.ground
    grain = np.random.default_rng(0).normal(0, scene.grain, (SMALL, SMALL, 1))
    grain = grain.repeat(SIDE // SMALL, 0).repeat(SIDE // SMALL, 1)
    image = Image.fromarray(np.clip(ground + grain, 0, 255).astype(np.uint8))
    pen = ImageDraw.Draw(image)
    for shape in scene.shapes:
        (pen.ellipse if shape.round else pen.polygon)(shape.points, fill=shape.colour)
    return image.filter(ImageFilter.GaussianBlur(3)).resize((SMALL, SMALL), Image.Resampling.LANCZOS)


def draw_pictures() -> list[Example]:
    """The examples of CIFAR-10's models."""
    examples = []
    for scene in SCENES:
        file = io.BytesIO()
        draw(scene).save(file, "PNG", optimize=True)
        examples.append(Example(ExampleEntry(scene.file, scene.caption, SOURCE, LICENCE), file.getvalue()))
    return examples


def load_digits() -> Sequence[Example]:
    """The examples of MNIST's models."""
    spec = ImageSpec(channels=1, height=28, width=28, mean=(0.0,), std=(1.0,))
    return load_examples(ROOT / "service" / "static", spec)


def main(folder: Path) -> None:
    """Writes the examples of all checkpoints of images in a folder."""
    for pattern, examples in (("mnist-*", load_digits()), ("cifar10-*", draw_pictures())):
        for directory in folder.glob(pattern):
            save_examples(directory, examples)


if __name__ == "__main__":
    main(ROOT / "checkpoints")
