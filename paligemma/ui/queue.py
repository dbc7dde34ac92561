"""The queue of requests: gradio's own, with fair places, and unharmed by clients that do not read.

Gradio 6.31 keeps the messages of 2,000 sessions, and its queue ends for good when it has one for a
session beyond them. This queue drops the messages of a session only when no request of it waits or
runs, ends requests whose answer nobody reads, and gives each client a share of the places.
"""

import asyncio
import json
import uuid
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from ipaddress import ip_address, ip_network
from time import monotonic
from typing import Any

import gradio as gr
from fastapi import HTTPException, Request
from gradio.block_function import BlockFunction
from gradio.context import LocalContext
from gradio.data_classes import PredictBodyInternal
from gradio.queueing import Event, Queue
from gradio.server_messages import EventMessage, ProcessCompletedMessage

MAX_WAITING = 64  # requests of all clients
MAX_SESSIONS = 1000  # whose messages are kept
UNREAD_SECONDS = 10  # after which a client that does not read has gone
KEEP_SECONDS = 60  # for the messages of a request that has ended
SWEEP_SECONDS = 1
STALLED_SECONDS = 60  # without a sweep, after which the queue counts as stopped
MAX_SESSION_NAME = 100  # characters; a browser's session has a dozen, a program's 36


@dataclass(frozen=True)
class Limits:
    """What one request and one client may take of the app.

    max_seconds: of a request's use of the model; None for no limit
    per_session: requests of one session that wait or run
    per_address: the same, of one network address; None for no limit
    log_requests: print a line of JSON for each request, without its contents
    """

    max_seconds: float | None = None
    per_session: int = 8
    per_address: int | None = None
    log_requests: bool = False


PRIVATE_LIMITS = Limits()
PUBLIC_LIMITS = Limits(max_seconds=120, per_address=12, log_requests=True)


def add_queue(demo: gr.Blocks, limits: Limits) -> None:
    """Give a finished page its queue; what waits in it cannot be called directly."""
    demo.queue(max_size=MAX_WAITING, api_open=False)
    demo._queue = RequestQueue(demo, limits)


class _MessagesOfSessions(dict[str, "SessionMessages"]):
    """Gradio's streams delete the messages of their session at the end, whether they are there."""

    def __delitem__(self, session: str) -> None:
        self.pop(session, None)


class SessionMessages(asyncio.Queue):
    """The messages to one session, and for how long nobody has read them."""

    def __init__(self) -> None:
        super().__init__()
        self._readers, self._last_read = 0, monotonic()

    async def get(self) -> EventMessage:
        self._readers += 1
        try:
            return await super().get()
        finally:
            self._readers -= 1
            self._last_read = monotonic()

    @property
    def unread_seconds(self) -> float:
        """0 while a client waits for the next message."""
        return 0.0 if self._readers else monotonic() - self._last_read


class RequestQueue(Queue):
    """Gradio's queue for one page, within `limits`."""

    def __init__(self, demo: gr.Blocks, limits: Limits) -> None:
        super().__init__(
            live_updates=True,
            concurrency_count=demo.max_threads,
            update_intervals=1,
            max_size=MAX_WAITING,
            blocks=demo,
        )
        self.limits = limits
        self.pending_messages_per_session = _MessagesOfSessions()  # pyright: ignore
        self.ANALYTICS_MAX_EVENTS = 1  # gradio's record of each request and its session
        self._num_tokens: Counter[str] = Counter()  # by event
        self._statuses: dict[str, str] = {}
        self._runs: set[asyncio.Task] = set()
        self._last_sweep = monotonic()

    @property
    def is_working(self) -> bool:
        """Whether requests that join are answered in time."""
        return not self.stopped and monotonic() - self._last_sweep < STALLED_SECONDS

    def start(self) -> None:
        super().start()
        self._last_sweep = monotonic()
        self._sweeping = asyncio.get_running_loop().create_task(self._sweep_regularly())

    def compute_analytics_summary(self, records: list) -> dict:
        return self.cached_event_analytics_summary  # empty: gradio would compute it for everybody

    async def push(self, body: PredictBodyInternal, request: Request, username: str | None):
        """Let a request wait. Raises HTTPException, with a sentence, for one that may not."""
        if body.fn_index not in self.blocks.fns:
            raise HTTPException(404, "This page has no such function.")
        if body.session_hash is None:
            body.session_hash = uuid.uuid4().hex
        if len(body.session_hash) > MAX_SESSION_NAME:
            raise HTTPException(400, f"A session has at most {MAX_SESSION_NAME} characters.")
        self._check_places(body.session_hash, request)
        if len(self.pending_messages_per_session) >= MAX_SESSIONS:
            await self.sweep()
        self.pending_messages_per_session.setdefault(body.session_hash, SessionMessages())
        return await super().push(body, request, username)

    def _check_places(self, session: str, request: Request) -> None:
        """Raise HTTPException if the client has all the places that it may have."""
        events = list(self.event_ids_to_events.values())  # they wait or run
        taken = sum(event.session_hash == session for event in events)
        if taken >= self.limits.per_session:
            raise HTTPException(
                429, f"You have {taken} requests here already: wait for one of them, or stop it."
            )
        if self.limits.per_address is None:
            return
        address = client_address(request)
        taken = sum(client_address(event.request) == address for event in events)
        if taken >= self.limits.per_address:
            raise HTTPException(
                429,
                f"There are {taken} requests from your network address already: try again soon.",
            )

    def send_message(self, event: Event, event_message: EventMessage) -> None:
        """Send a message to the event's session; without a session, its client has gone."""
        if isinstance(event_message, ProcessCompletedMessage):
            self._statuses[event._id] = "success" if event_message.success else "error"
        messages = self.pending_messages_per_session.get(event.session_hash)
        if messages is None:
            event.alive = False
        if messages is not None and event.alive:
            event_message.event_id = event._id
            messages.put_nowait(event_message)

    async def process_events(
        self, events: list[Event], batch: bool, begin_time: float, fn: BlockFunction
    ) -> None:
        """Run a request. When it is cancelled, its place stays taken until it has really ended.

        Gradio would let the next one call the model while the thread of this one still does.
        """
        run = asyncio.create_task(self._run(events, batch, begin_time, fn))
        self._runs.add(run)
        run.add_done_callback(self._runs.discard)
        try:
            await asyncio.shield(run)
        except asyncio.CancelledError:
            for event in events:
                event.alive = False
            raise

    async def _run(
        self, events: list[Event], batch: bool, begin_time: float, fn: BlockFunction
    ) -> None:
        start = monotonic()
        try:
            await super().process_events(events, batch, begin_time, fn)
        finally:
            for event in events:
                self.event_ids_to_events.pop(event._id, None)
                record = self._record(event, fn, start)
                if self.limits.log_requests:
                    print(json.dumps(record), flush=True)

    async def reset_iterators(self, event_id: str) -> None:
        """Drop a request's iterator, which /cancel may do too while this waits for the lock."""
        with suppress(KeyError):
            await super().reset_iterators(event_id)

    def _record(self, event: Event, fn: BlockFunction, start: float) -> dict[str, Any]:
        """What is logged of a request: nothing that the client sent."""
        status = self._statuses.pop(event._id, "cancelled")
        return {
            "time": datetime.now(UTC).isoformat(timespec="milliseconds"),
            "request": name_in_log(fn),
            "status": status if event.alive else "cancelled",
            "waited_s": round(start - event.enqueue_time, 3),
            "ran_s": round(monotonic() - start, 3),
            "tokens": self._num_tokens.pop(event._id, 0),
        }

    async def _sweep_regularly(self) -> None:
        while not self.stopped:
            await self.sweep()
            self._last_sweep = monotonic()
            await asyncio.sleep(SWEEP_SECONDS)

    async def sweep(self) -> None:
        """End the requests of clients that have gone, and drop the messages that nobody reads."""
        busy = {event.session_hash for event in list(self.event_ids_to_events.values())}
        unread = {
            session: messages.unread_seconds
            for session, messages in self.pending_messages_per_session.items()
        }
        for session in busy:
            if unread.get(session, 0) > UNREAD_SECONDS:
                await self.clean_events(session_hash=session)
                self._drop(session)
        idle = sorted(unread.keys() - busy, key=lambda session: unread[session])
        for number, session in enumerate(idle):
            if number >= MAX_SESSIONS - len(busy) - 1 or unread[session] > KEEP_SECONDS:
                self._drop(session)

    def _drop(self, session: str) -> None:
        self.pending_messages_per_session.pop(session, None)
        self.pending_event_ids_session.pop(session, None)


def name_in_log(function: BlockFunction) -> str:
    """A function's name in the API, or that of its handler, where it is the page's own."""
    if function.api_visibility != "private":
        return str(function.api_name)
    handler = function.fn.func if isinstance(function.fn, partial) else function.fn
    return getattr(handler, "__name__", str(function.name))


def client_address(request: Request) -> str:
    """The network address that a request comes from; of IPv6, the /64 that one client has.

    Behind proxies it is the last forwarded address outside private networks: a client can write
    what it likes before that one, but not after.
    """
    peer = request.client.host if request.client else ""
    address = peer
    for hop in reversed([*request.headers.get("x-forwarded-for", "").split(","), peer]):
        with suppress(ValueError):
            found = ip_address(hop.strip())
            found = getattr(found, "ipv4_mapped", None) or found
            address = str(ip_network(f"{found}/64", strict=False) if found.version == 6 else found)
            if found.is_private:
                continue
        break
    return address


def current_event() -> tuple[RequestQueue, Event] | None:
    """The event whose handler calls this, and its queue; None outside a request in the queue."""
    blocks, event_id = LocalContext.blocks.get(None), LocalContext.event_id.get(None)
    queue = getattr(blocks, "_queue", None)
    if not isinstance(queue, RequestQueue) or event_id is None:
        return None
    event = queue.event_ids_to_events.get(event_id)
    return event and (queue, event)


def client_has_gone() -> bool:
    """Whether nobody waits any more for the answer of the handler that calls this."""
    current = current_event()
    return current is not None and not current[1].alive


def report_tokens(count: int) -> None:
    """Count generated tokens for the log of the request whose handler calls this."""
    if current := current_event():
        queue, event = current
        queue._num_tokens[event._id] += count
