"""Server-sent events: what happens, from any point on, to any number of listeners, each at its own pace."""

from __future__ import annotations

import asyncio
import json
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from fastapi.responses import StreamingResponse

from rltune.service.engine import Engine
from rltune.service.errors import CLOSED, Refused
from rltune.service.ledger import KEPT_EVENTS, Event
from rltune.service.web.security import Caller

BEAT_S = 15.0
"""Of silence, then a comment: neither side takes the other for dead."""
PAGE = 500
"""Events that are read from disk at once."""
FORGOTTEN = "forgotten"
"""Of an event that stands for older ones which are not kept any more: up to its own number, after ``after``."""
RETRY_MS = 2000
"""After so long a client that lost its connection asks again."""


class Feed:
    """Events of an engine. Listeners hold nothing but the number of the last event they have: none can fill the memory."""

    def __init__(self, engine: Engine) -> None:
        self.engine, self.open, self.closing = engine, 0, False
        self._recent: deque[Event] = deque(maxlen=KEPT_EVENTS)
        self._loop: asyncio.AbstractEventLoop | None = None
        self._news: asyncio.Event | None = None
        self._closed: asyncio.Event | None = None

    def begin(self, loop: asyncio.AbstractEventLoop) -> None:
        """Listen to the engine, in this event loop."""
        self._loop, self._news, self._closed = loop, asyncio.Event(), asyncio.Event()
        self.engine.listeners.append(self._from_engine)

    def end(self) -> None:
        """All streams end."""
        self.closing = True
        if self._closed is not None:
            self._closed.set()
        if self._from_engine in self.engine.listeners:
            self.engine.listeners.remove(self._from_engine)
        self._wake()

    def _from_engine(self, news: list[Event]) -> None:
        assert self._loop is not None
        if not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._take, news)

    def _take(self, news: list[Event]) -> None:
        self._recent.extend(news)
        self._wake()

    def _wake(self) -> None:
        if self._news is not None:
            self._news.set()
            self._news = asyncio.Event()

    async def closed(self) -> None:
        """Until the service goes down."""
        assert self._closed is not None
        await self._closed.wait()

    @property
    def last(self) -> int:
        """Number of the newest event that is on disk, as far as it has come here."""
        return self._recent[-1].seq if self._recent else self.engine.ledger.last_event

    async def changed(self, since: int, seconds: float) -> bool:
        """Wait for news after number ``since``; False: there were none in so long."""
        assert self._news is not None
        if self.closing or (self._recent and self._recent[-1].seq > since):
            # It came while the disk was read.
            return True
        try:
            await asyncio.wait_for(self._news.wait(), seconds)
        except TimeoutError:
            return False
        return True

    async def after(self, seq: int, read: Callable[..., Any]) -> list[Event]:
        """Up to `PAGE` events after number ``seq``; ``read`` runs what reads the disk in another thread."""
        if self._recent and self._recent[0].seq <= seq + 1:
            # Numbers never skip.
            first = max(0, seq + 1 - self._recent[0].seq)
            return [self._recent[k] for k in range(first, min(len(self._recent), first + PAGE))]
        rows = await read(
            lambda: self.engine.store.read("SELECT * FROM events WHERE seq > ? ORDER BY seq LIMIT ?", (seq, PAGE))
        )
        page = [event_of(row) for row in rows]
        if page and page[0].seq > seq + 1:
            # Who asks for what is gone must not take what is left for all there was.
            gone = Event(page[0].seq - 1, page[0].at_s, FORGOTTEN, None, None, {"after": seq})
            page = [gone, *page[: PAGE - 1]]
        return page

    def check(self, most: int) -> None:
        """`Refused` (503) where no more streams may be open."""
        if self.closing:
            raise Refused(503, CLOSED)
        if self.open >= most:
            raise Refused(503, f"{most} streams are open, more may not be; close some, or ask without following")

    @contextmanager
    def counted(self) -> Iterator[None]:
        """One of the streams that are open."""
        self.open += 1
        try:
            yield
        finally:
            self.open -= 1


def event_of(row: Mapping[str, Any]) -> Event:
    """From a row of the table."""
    return Event(row["seq"], row["at_s"], row["what"], row["job"], row["tenant"], json.loads(row["data"]))


def described(event: Event, wall: Callable[[float], float | None]) -> dict[str, Any]:
    """An event for clients."""
    return {
        "seq": event.seq,
        "at_s": wall(event.at_s),
        "what": event.what,
        "job": event.job,
        "tenant": event.tenant,
        **event.data,
    }


async def event_stream(
    feed: Feed,
    since: int,
    wanted: Callable[[Event], bool],
    read: Callable[..., Any],
    wall: Callable[[float], float | None],
) -> AsyncIterator[str]:
    """Events after number ``since`` as server-sent events, for as long as the client listens."""
    with feed.counted():
        yield f"retry: {RETRY_MS}\n\n"
        while not feed.closing:
            page = await feed.after(since, read)
            for event in page:
                since = event.seq
                if wanted(event):
                    yield message(described(event, wall), event.what, event.seq)
            if not page and not await feed.changed(since, BEAT_S) and not feed.closing:
                yield ": nothing new\n\n"


def message(data: Any, what: str | None = None, number: int | None = None) -> str:
    """One server-sent event; ``data`` becomes one line of JSON."""
    head = "" if number is None else f"id: {number}\n"
    head += "" if what is None else f"event: {what.replace(' ', '_')}\n"
    return f"{head}data: {json.dumps(data)}\n\n"


def stream(body: AsyncIterator[str]) -> StreamingResponse:
    """As an answer that no proxy keeps back."""
    return StreamingResponse(body, media_type="text/event-stream", headers={"X-Accel-Buffering": "no"})


def visible(caller: Caller, job: str | None, what: str | None) -> Callable[[Event], bool]:
    """Which events a caller gets: their own, those of everybody, of these the ones asked for."""

    def wanted(event: Event) -> bool:
        if event.what == FORGOTTEN:
            return True
        return caller.sees(event.tenant) and (job is None or event.job == job) and (what is None or event.what == what)

    return wanted
