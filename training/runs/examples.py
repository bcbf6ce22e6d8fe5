"""Examples of a model of a user's own images: some of its test images."""

import re
from pathlib import Path

from models.examples import MAX_BYTES, MAX_PIXELS, Example, ExampleEntry, save_examples
from models.inputs.image import ImageSpec
from models.inputs.pixels import encode_image
from models.tasks.classification import Classification
from training.data.image_folders import ImageFolder
from training.progress import announce, warn

MOST = 6


def write_examples(directory: Path, images: ImageFolder) -> None:
    """Writes the first test image of each of up to six classes into a checkpoint, at the size that the networks see."""
    test, spec, task = images.dataset.test, images.dataset.input, images.dataset.task
    assert isinstance(spec, ImageSpec)
    assert isinstance(task, Classification)
    source = _fit(f"the folder {images.name.rsplit('@', 1)[0]}")
    labels = test.labels.tolist()
    examples = [
        Example(
            ExampleEntry(
                f"{number}.png", _fit(f"a test image of {task.classes[label]}"), source, "that of the folder's images"
            ),
            encode_image(test.inputs[labels.index(label)]),
        )
        for number, label in enumerate(sorted(set(labels))[:MOST])
    ]
    if spec.height * spec.width > MAX_PIXELS or any(len(example.content) > MAX_BYTES for example in examples):
        warn("the test images are too large to be examples, so the checkpoint has none")
        return
    save_examples(directory, examples)
    announce(
        f"put {len(examples)} test images into the checkpoint, which the service shows as examples; --no-examples "
        "leaves them out"
    )


def _fit(text: str) -> str:
    """The text as a line that is short enough."""
    return re.sub(r"[\x00-\x1f\x7f-\x9f]", " ", text)[:300]
