"""Texts while they are written: iterators of symbols, for both clients."""

from collections.abc import AsyncGenerator, Generator
from types import TracebackType
from typing import Self

from hyperdraw.texts import Symbol, TextEvents, TextHead


class _Text:
    """What is known of a text, from its head on."""

    def __init__(self, head: TextHead, events: TextEvents) -> None:
        self.model = head.model
        self.version = head.version
        """SHA-256 of the checkpoint."""
        self.seed = head.seed
        """The same seed, version and parameters give the same text."""
        self.members = head.members
        """The networks that write together, among those of the seed."""
        self.prompt_tokens = head.prompt_tokens
        """Number of the prompt's characters."""
        self.unknown = head.unknown
        """Characters of the prompt that the model does not know."""
        self._events = events
        self._texts: list[str] = []

    @property
    def finish_reason(self) -> str | None:
        """Why the text has ended: `stop` for a stop string, `length` for the limit. None before the end."""
        return self._events.finish_reason

    def _take(self, symbol: TextHead | Symbol) -> Symbol:
        assert isinstance(symbol, Symbol)
        self._texts.append(symbol.text)
        return symbol


class TextStream(_Text):
    """An iterator of the symbols of a text, each of which arrives when it is written.

    As a context manager, or by `close`, it ends the work of the service when it is left early.
    """

    def __init__(self, events: TextEvents, symbols: Generator[TextHead | Symbol]) -> None:
        """Waits for the head."""
        head = next(symbols)
        assert isinstance(head, TextHead)
        super().__init__(head, events)
        self._symbols = symbols

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> Symbol:
        return self._take(next(self._symbols))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Ends the work of the service, if the text is not complete."""
        self._symbols.close()

    def read(self) -> str:
        """Waits for the rest, and returns the whole text, without the prompt."""
        for _ in self:
            pass
        return "".join(self._texts)


class AsyncTextStream(_Text):
    """An asynchronous iterator of the symbols of a text. It has the methods of `TextStream`, to be awaited."""

    def __init__(self, head: TextHead, events: TextEvents, symbols: AsyncGenerator[TextHead | Symbol]) -> None:
        super().__init__(head, events)
        self._symbols = symbols

    @classmethod
    async def open(cls, events: TextEvents, symbols: AsyncGenerator[TextHead | Symbol]) -> Self:
        """Waits for the head."""
        head = await anext(symbols)
        assert isinstance(head, TextHead)
        return cls(head, events, symbols)

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Symbol:
        return self._take(await anext(self._symbols))

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Ends the work of the service, if the text is not complete."""
        await self._symbols.aclose()

    async def read(self) -> str:
        """Waits for the rest, and returns the whole text, without the prompt."""
        async for _ in self:
            pass
        return "".join(self._texts)
