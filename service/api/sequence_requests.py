"""A request to a model of sequences, whatever these consist of."""

import asyncio
from collections.abc import Coroutine, Sequence
from contextlib import ExitStack, aclosing
from dataclasses import dataclass
from typing import Any

from fastapi import Request

from models.sequences.frozen import Outlook
from models.sequences.live import LiveSequence
from models.sequences.model import SequenceModel
from service.api.asking import Deadline, check_members, choose_size, find_exchange, wait_for
from service.api.sequence_schemas import NetworkParameters, SequenceParameters
from service.api.streams import explaining_nonsense, follow_all
from service.engine.ensembles import choose_seed
from service.engine.streams import Stream
from service.errors import ServiceError
from service.operation.access import charge
from service.parts import Parts


@dataclass(frozen=True)
class SequenceRequest:
    """A request to a model of sequences."""

    request: Request
    parts: Parts
    model: SequenceModel
    timeout: float | None
    deadline: Deadline

    def choose_networks(self, asked: NetworkParameters) -> tuple[int, list[int]]:
        """The seed and the members that answer.

        Raises:
            ServiceError: 422 if they do not exist, or their weights cannot change as requested.
        """
        if isinstance(asked, SequenceParameters) and asked.changes and not self.model.changes_weights:
            message = f"The weights of {self.model.name}, an LSTM, do not change."
            raise ServiceError(422, "invalid_parameter", message, "Leave out changes.")
        seed = choose_seed() if asked.seed is None else asked.seed
        if asked.member is not None:
            check_members(self.model, asked.member + 1)
            return seed, [asked.member]
        return seed, list(range(choose_size(self.model, asked.ensemble_size, self.parts.settings.max_ensemble_size)))

    async def open_streams(self, sequences: Sequence[LiveSequence], patient: bool = False) -> list[Stream]:
        """Lets sequences go on, all or none, and charges the key for all that they may become.

        Args:
            sequences: of the model.
            patient: whether they pause while the client is slow.

        Raises:
            ServiceError: 429 or 422 if the key may not use so much.
            OverloadedError: if too many sequences are live.
        """
        await self._charge(sequences)
        return self._open_streams(sequences, patient)

    def _open_streams(self, sequences: Sequence[LiveSequence], patient: bool = False) -> list[Stream]:
        streams = list[Stream]()
        with ExitStack() as undoing:
            for sequence in sequences:
                stream = self.parts.engine.write(self.model, sequence, self.client, patient=patient)
                undoing.callback(stream.future.cancel)
                streams.append(stream)
            undoing.pop_all()
        return streams

    async def look_ahead(self, sequences: Sequence[LiveSequence]) -> list[Outlook]:
        """What the networks of sequences, which keep their states, say when they have read them.

        Raises:
            ServiceError: as `wait_for`, and 500 for outputs that are not finite.
            OverloadedError: if too many sequences are live.
        """
        found = list[Outlook]()

        async def read() -> None:
            await self._charge(sequences)
            streams = self._open_streams([each for each in sequences if each.length])
            async with aclosing(follow_all(streams)) as news:
                async for _ in news:
                    pass
            for sequence in sequences:
                with explaining_nonsense(self.model):
                    found.append(await asyncio.wrap_future(self.parts.engine.look_ahead(self.model, sequence)))

        await self.wait_for(read())
        return found

    async def _charge(self, sequences: Sequence[LiveSequence]) -> None:
        """Charges the key for sequences. The networks also say what comes after an empty one."""
        await charge(self.request, sum(max(1, each.length) * len(each.networks) for each in sequences))

    async def wait_for(self, work: Coroutine[Any, Any, None]) -> None:
        """Waits for the work on an answer that is sent as a whole.

        Raises:
            ServiceError: 499 if the client leaves, 503 if the service is shutting down, 504 after the deadline, and
                what the work raises.
        """
        await wait_for(asyncio.ensure_future(work), self.request, self.deadline)

    @property
    def stream_deadline(self) -> Deadline | None:
        """The deadline of an answer that is sent in events, if the client has named one."""
        return None if self.timeout is None else Deadline(self.timeout, self.deadline.start)

    @property
    def client(self) -> str:
        """Name of the client, for its share of what may be live."""
        return find_exchange(self.request).client
