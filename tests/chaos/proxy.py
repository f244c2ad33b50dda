"""A TCP proxy between runs and their server, which can do to a connection what networks do."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
import threading
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

T = TypeVar("T")
_CHUNK = 1 << 14
_AT_ONCE = struct.pack("ii", 1, 0)  # SO_LINGER: close() sends RST


class Pair:
    """One connection of a client, and ours to the server on its behalf."""

    def __init__(self, client: socket.socket, server: socket.socket) -> None:
        self.client = client
        self.server = server
        self.tasks: list[asyncio.Task[None]] = []
        self.ended = 0  # directions

    @property
    def port(self) -> int:
        """The port that the server sees: it tells which session this is."""
        return int(self.server.getsockname()[1])

    def cut(self) -> None:
        """Both ends get an RST."""
        loop = asyncio.get_running_loop()
        for one in (self.client, self.server):
            if one.fileno() >= 0:
                loop.remove_reader(one)  # before the number is another socket's
                loop.remove_writer(one)
                with contextlib.suppress(OSError):
                    one.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _AT_ONCE)
                one.close()
        for task in self.tasks:
            task.cancel()


class Line:
    """A port of its own for one run, and what befalls the connections through it."""

    def __init__(self, proxy: Proxy, listener: socket.socket) -> None:
        self._proxy = proxy
        self._listener = listener
        self.port: int = listener.getsockname()[1]
        self.pairs: list[Pair] = []  # whose both ends are there
        self._all: set[Pair] = set()  # and those that one end has left
        self.met = 0  # chunks that were dropped, held back or slowed down
        self._tasks: set[asyncio.Task[None]] = set()
        self._flowing = asyncio.Event()
        self._flowing.set()
        self._dropping = False
        self._delay_s = 0.0

    # Called from the thread of the round:

    @property
    def live(self) -> int:
        """How many connections there are."""
        return len(self.pairs)

    @property
    def ports(self) -> frozenset[int]:
        """The client ports that the server sees of them."""
        return self._proxy.run(self._ports)

    def reset(self) -> int:
        """Cut all connections; how many there were."""
        return self._proxy.run(self._reset)

    def stall(self) -> None:
        """Hold everything back, until ``heal``."""
        self._proxy.run(self._flowing.clear)

    def slow(self, delay_s: float) -> None:
        """Let every chunk wait, until ``heal``."""
        self._proxy.run(lambda: setattr(self, "_delay_s", delay_s))

    def drop(self) -> None:
        """Swallow everything, as for a node that vanished. ``heal`` cuts what was dropped from."""
        self._proxy.run(lambda: setattr(self, "_dropping", True))

    def heal(self) -> int:
        """Forward as usual again; how many chunks had met the fault."""
        return self._proxy.run(self._heal)

    # In the thread of the proxy:

    def _ports(self) -> frozenset[int]:
        return frozenset(pair.port for pair in self.pairs)

    def _reset(self) -> int:
        pairs, self.pairs = self.pairs, []
        for pair in pairs:
            self._all.discard(pair)
            pair.cut()
        return len(pairs)

    def _heal(self) -> int:
        if self._dropping:
            self._dropping = False
            self._reset()  # what was swallowed is gone for good; keep-alive finds that out in the end
        self._delay_s = 0.0
        self._flowing.set()
        met, self.met = self.met, 0
        return met

    async def serve(self) -> None:
        """Accept until the listener is closed."""
        loop = asyncio.get_running_loop()
        with contextlib.suppress(OSError):
            while True:
                client, _ = await loop.sock_accept(self._listener)
                self._spawn(self._connect(client))

    def _spawn(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def _connect(self, client: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        server = socket.socket()
        pair = Pair(client, server)
        for one in (client, server):
            one.setblocking(False)
            one.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        try:
            await loop.sock_connect(server, self._proxy.target)
        except OSError:
            pair.cut()  # nobody listens there: the client sees it at once
            return
        self.pairs.append(pair)
        self._all.add(pair)
        pair.tasks = [
            self._spawn(self._pump(pair, client, server)),
            self._spawn(self._pump(pair, server, client)),
        ]

    async def _pump(self, pair: Pair, source: socket.socket, sink: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        with contextlib.suppress(OSError):
            while data := await loop.sock_recv(source, _CHUNK):
                if self._dropping:
                    self.met += 1
                    continue
                if not self._flowing.is_set():
                    self.met += 1
                    await self._flowing.wait()
                if self._delay_s:
                    self.met += 1
                    await asyncio.sleep(self._delay_s)
                await loop.sock_sendall(sink, data)
        if self._dropping:
            return  # the other side does not learn of it
        if pair in self.pairs:
            self.pairs.remove(pair)
        pair.ended += 1
        with contextlib.suppress(OSError):
            sink.shutdown(socket.SHUT_WR)  # a server in a statement sees this only after it, as without a proxy
        if pair.ended == 2:
            self._all.discard(pair)
            for one in (pair.client, pair.server):
                one.close()

    def close(self) -> None:
        """End everything."""
        loop = asyncio.get_running_loop()
        loop.remove_reader(self._listener)
        self._listener.close()
        for pair in self._all:
            pair.cut()
        self._all.clear()
        for task in self._tasks:
            task.cancel()


class Proxy:
    """The lines to one server, served by one thread."""

    def __init__(self, host: str, port: int) -> None:
        self.target = (host, port)
        self._loop = asyncio.new_event_loop()
        self._lines: list[Line] = []
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()

    def run(self, call: Callable[[], T]) -> T:
        """Call this in the proxy's thread."""

        async def calling() -> T:
            return call()

        return asyncio.run_coroutine_threadsafe(calling(), self._loop).result(30)

    def line(self) -> Line:
        """A new line."""
        listener = socket.socket()
        listener.bind(("127.0.0.1", 0))
        listener.listen(64)
        listener.setblocking(False)

        def opened() -> Line:
            line = Line(self, listener)
            line._spawn(line.serve())
            return line

        self._lines.append(self.run(opened))
        return self._lines[-1]

    def clear(self) -> None:
        """Close all lines: a round is over."""
        for line in self._lines:
            self.run(line.close)
        self._lines.clear()

    def close(self) -> None:
        """End the thread."""
        self.clear()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)
