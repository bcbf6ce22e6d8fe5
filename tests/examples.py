"""Examples of checkpoints, made for tests."""

from models.examples import Example, ExampleEntry
from tests.pictures import draw_image, encode


def make_example(file: str = "stroke.png", caption: str = "a stroke", kind: str = "PNG") -> Example:
    """A bright stroke on black."""
    entry = ExampleEntry(file, caption, source="drawn for the tests", licence="Apache-2.0")
    return Example(entry, encode(draw_image(), kind))
