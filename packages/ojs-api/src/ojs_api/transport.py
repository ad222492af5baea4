"""One system call per answer: the header of a response waits for its body."""

from __future__ import annotations

import asyncio
from typing import Any


class JoinedWrites:
    """A transport that sends together what is written in one turn of the event loop.

    uvicorn writes the header and the body of an answer one after the other, and each write would be a system call of
    its own, a packet of its own, and a chance for another thread to take the interpreter. Here the first write waits
    for the next one, but no longer than the loop takes to come round; so an interim answer or the header of a stream is
    not held.
    """

    __slots__ = ("_held", "_loop", "_transport")

    def __init__(self, transport: asyncio.Transport, loop: asyncio.AbstractEventLoop) -> None:
        self._transport = transport
        self._loop = loop
        self._held = b""

    def write(self, data: bytes) -> None:
        """Send what is held together with `data`; hold `data` if nothing is."""
        if self._held:
            held, self._held = self._held, b""
            self._transport.write(held + data)
        elif data:
            self._held = data
            self._loop.call_soon(self.flush)

    def flush(self) -> None:
        """Send what is held."""
        if self._held:
            held, self._held = self._held, b""
            self._transport.write(held)

    def is_closing(self) -> bool:
        """Return whether the transport is closed or about to be; asked of every connection once a second."""
        return self._transport.is_closing()

    def close(self) -> None:
        """Send what is held, then close."""
        self.flush()
        self._transport.close()

    def write_eof(self) -> None:
        """Send what is held, then end the stream."""
        self.flush()
        self._transport.write_eof()

    def __getattr__(self, name: str) -> Any:  # noqa: ANN401 - everything else is the transport's
        return getattr(self._transport, name)
