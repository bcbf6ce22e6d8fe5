"""The versions of a model: which of the checkpoints in its folder answer, under which names, and for whom.

`versions.json` in the folder says so. All services that share the folder follow it, and it survives restarts. Without
it, the folder is one checkpoint, which is the stable version.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

from models.checkpoint_files import MAX_JSON_BYTES, parse_json, read_bounded, write_file
from models.model import Model
from service.checkpoint_files import VERSIONS_FILE, is_there
from service.engine.engine import ServedModel
from service.errors import ServiceError
from service.names import check_name

ITSELF = "."
"""The model's folder, where it is a checkpoint itself."""

NAMING = (
    'Name a candidate by PATCH /v1/models/MODEL/traffic, such as {"candidate": "v2"}, or in a terminal by '
    "hyperdraw traffic MODEL --candidate FOLDER."
)
"""How to name a candidate."""

Role = Literal["stable", "candidate", "previous"]
"""The names of versions. Any other name is a digest."""

SHORTEST_DIGEST = 12
"""Fewest characters of a digest that name a version; so many are shown in tables."""


def _check_folder(folder: str) -> str:
    if folder != ITSELF and (folder.startswith(".") or "/" in folder or "\\" in folder or check_name(folder)):
        raise ValueError("a version must be the name of a folder in the model's folder, or . for that itself")
    return folder


VersionFolder = Annotated[str, Field(max_length=255), AfterValidator(_check_folder)]
Share = Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)]


class Versions(BaseModel):
    """The content of a model's `versions.json`."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    stable: VersionFolder = ITSELF
    """Folder of the version that answers by default."""
    candidate: VersionFolder | None = None
    """Folder of the version that may take its place."""
    previous: VersionFolder | None = None
    """Folder of the version that was stable before the last promotion."""
    share: Share = 0.0
    """Share of the clients to whom the candidate answers, unless they name a version or a seed."""
    shadow: bool = False
    """Whether the candidate is asked what the stable version has answered, in idle time."""

    @model_validator(mode="after")
    def _check(self) -> "Versions":
        if self.candidate == self.stable or self.previous in (self.stable, self.candidate or self.stable):
            raise ValueError("stable, candidate and previous must be different folders")
        if self.candidate is None and (self.share or self.shadow):
            raise ValueError("share and shadow need a candidate")
        return self

    @property
    def loaded(self) -> tuple[str, ...]:
        """Folders of the versions that are loaded, at most two: the stable one, and the candidate or else the previous
        one, so that a promotion can be taken back at once."""
        second = self.candidate or self.previous
        return (self.stable, second) if second else (self.stable,)

    def list_roles(self) -> dict[Role, str]:
        """Folders by the names of the versions, the stable one first."""
        named: dict[Role, str | None] = {
            "stable": self.stable,
            "candidate": self.candidate,
            "previous": self.previous,
        }
        return {role: folder for role, folder in named.items() if folder is not None}

    def list_chosen(self, before: "Versions") -> list[str]:
        """Folders whose versions get a place or requests by a change, so that they must be sound. One that loses its
        place, or its requests, need not be.

        Args:
            before: the versions before the change.
        """
        stable = [self.stable] if self.stable != before.stable else []
        if self.candidate is None or self.candidate == before.stable:
            return stable
        chosen = self.candidate != before.candidate or self.share > 0 or self.shadow
        return [*stable, self.candidate] if chosen else stable

    def promote(self) -> "Versions":
        """The candidate takes the place of the stable version.

        Raises:
            ServiceError: 409 if there is no candidate.
        """
        if self.candidate is None:
            raise ServiceError(409, "no_candidate", "There is no candidate to promote.", NAMING)
        return Versions(stable=self.candidate, previous=self.stable)

    def roll_back(self) -> "Versions":
        """The previous version takes the place of the stable one, which becomes a candidate that gets no requests.

        Raises:
            ServiceError: 409 if nothing was promoted.
        """
        if self.previous is None:
            hint = "Only a promotion can be taken back. Name the version that you want as candidate, and promote it."
            raise ServiceError(409, "no_previous", "There is no previous version.", hint)
        return Versions(stable=self.previous, candidate=self.stable)

    def chooses_candidate(self, model: str, client: str) -> bool:
        """Whether a client is among those to whom the candidate answers.

        It depends only on the names, so all services agree on it, also after a restart. Who is among them stays among
        them when the share grows.

        Args:
            model: name of the model.
            client: name of the client or of its request.
        """
        digest = hashlib.sha256("\n".join((model, self.candidate or "", client)).encode()).digest()
        return int.from_bytes(digest[:8]) < self.share * 2**64


def read_versions(folder: Path) -> Versions:
    """The versions in a model's folder.

    Raises:
        CheckpointError: if `versions.json` cannot be read, or is not valid.
        OSError: if it cannot be determined whether there is one.
    """
    path = folder / VERSIONS_FILE
    if not is_there(path):
        return Versions()
    versions: Versions = parse_json(path, read_bounded(path, MAX_JSON_BYTES), Versions)
    return versions


def write_versions(name: str, folder: Path, versions: Versions) -> None:
    """Replaces the `versions.json` of a model atomically.

    Raises:
        ServiceError: 409 if it cannot be written.
    """
    content = versions.model_dump_json(exclude_none=True)
    try:
        write_file(folder / VERSIONS_FILE, f"{content}\n".encode())
    except OSError as error:
        message = f"{VERSIONS_FILE} of {name} cannot be written: {error.strerror}."
        hint = f"Write {content} to it where that is possible. Services that watch the folder follow."
        raise ServiceError(409, "not_writable", message, hint) from error


@dataclass(frozen=True)
class Served:
    """The versions of a model that are loaded."""

    versions: Versions
    models: Mapping[str, ServedModel]
    """Models by their folders: the stable one, and the other if it could be loaded."""

    @property
    def stable(self) -> ServedModel:
        """The version that answers by default."""
        return self.models[self.versions.stable]

    @property
    def roles(self) -> dict[Role, ServedModel]:
        """Loaded versions by their names, the stable one first."""
        folders = self.versions.list_roles()
        return {role: self.models[folder] for role, folder in folders.items() if folder in self.models}

    @property
    def candidate(self) -> ServedModel | None:
        """The candidate, if there is one and it could be loaded."""
        return self.roles.get("candidate")

    def find(self, version: str) -> ServedModel | None:
        """The version with a name, or whose digest begins so, if it is loaded."""
        begins = len(version) >= SHORTEST_DIGEST
        for role, model in self.roles.items():
            if version == role or (begins and model.version.startswith(version)):
                return model
        return None


def find_difference(stable: ServedModel, other: ServedModel) -> str | None:
    """Why another version cannot take the place of the stable one before its clients, if so. It completes a sentence
    that begins with "it"."""
    if other.version == stable.version:
        return "is the stable version, too"
    if isinstance(stable, Model) and isinstance(other, Model):
        if stable.input.coding != other.input.coding:
            return "takes other inputs than the stable version"
        if stable.task.outputs != other.task.outputs:
            return "has other outputs than the stable version"
        flags = [set(model.calibration.flags if model.calibration else ()) for model in (stable, other)]
        lacking = " and ".join(sorted(flags[0] - flags[1]))
        return f"was not calibrated to raise {lacking}, as the stable version was" if lacking else None
    return None if stable.input.kind == other.input.kind else "takes other inputs than the stable version"
