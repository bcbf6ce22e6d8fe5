"""Asks a service about all images in a folder, from as many machines as a Ray cluster has; writes Parquet files."""

from typing import Annotated, Any

import ray
import typer
from hyperdraw import Classification, Client

BATCH_SIZE = 64


class Predict:
    """Asks about batches of images, with one connection."""

    def __init__(self, url: str, **wanted: Any) -> None:
        self._client = Client(url, timeout=600, retries=20)  # the service says when it is too busy
        self._wanted = wanted

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        """Adds answers to paths."""
        answer = self._client.predict(list(batch["bytes"]), **self._wanted)
        assert isinstance(answer, Classification)
        flags = {flag: found.flagged for flag, found in answer.flags.items()}
        entropy = answer.uncertainty.predictive_entropy
        return {"path": batch["path"], "label": answer.labels, "predictive_entropy": entropy, **flags}


def main(
    folder: Annotated[str, typer.Argument(help="Folder, or a place that Ray reads, such as s3://bucket/images.")],
    out: Annotated[str, typer.Argument(help="Folder for the answers.")],
    model: Annotated[str, typer.Option(help="A classifier.")],
    url: Annotated[str, typer.Option(help="Address of the service.")] = "http://127.0.0.1:8000",
    seed: Annotated[int, typer.Option(help="Seed of the networks: the same ones answer about all images.")] = 0,
    workers: Annotated[int, typer.Option(min=1, help="Clients that ask at the same time.")] = 4,
) -> None:
    """Predict all images in a folder."""
    files = ray.data.read_binary_files(folder, include_paths=True)
    clients = ray.data.ActorPoolStrategy(size=workers)
    wanted = {"url": url, "model": model, "seed": seed}
    answers = files.map_batches(
        Predict,
        batch_size=BATCH_SIZE,
        compute=clients,
        num_cpus=0,  # they wait for the service
        fn_constructor_kwargs=wanted,
    )
    answers.write_parquet(out)


if __name__ == "__main__":
    typer.run(main)
