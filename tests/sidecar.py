"""What an older mesh has in a pod, as far as SIDECAR_QUIT_URL sees it."""

from __future__ import annotations

import contextlib
import socket
import ssl
import threading
from collections.abc import Callable
from dataclasses import dataclass, field

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nOK"

Answer = Callable[[socket.socket], None]


def says(answer: bytes) -> Answer:
    """Answer each request with these bytes."""
    return lambda client: client.sendall(answer)


ACCEPTS = says(OK)


@dataclass
class Sidecar:
    """A small server on a port of its own; ``answer`` is what it does with a request that it has read."""

    answer: Answer = ACCEPTS
    tls: ssl.SSLContext | None = None
    requests: list[str] = field(default_factory=list)
    listener: socket.socket = field(default_factory=lambda: socket.create_server(("127.0.0.1", 0)))

    @property
    def port(self) -> int:
        """Where it listens."""
        return int(self.listener.getsockname()[1])

    @property
    def url(self) -> str:
        """What asks it to end."""
        return f"http://127.0.0.1:{self.port}/quitquitquit"

    def serve(self) -> None:
        """Until the listener is closed."""
        with contextlib.suppress(OSError):
            while True:
                client, _ = self.listener.accept()
                threading.Thread(target=self._one, args=(client,), daemon=True).start()

    def _one(self, client: socket.socket) -> None:
        with contextlib.suppress(OSError), contextlib.ExitStack() as closing:
            if self.tls:
                client = self.tls.wrap_socket(client, server_side=True)
            closing.enter_context(client)
            head = b""
            while b"\r\n\r\n" not in head:
                if not (data := client.recv(1 << 16)):
                    return
                head += data
            self.requests.append(head.decode())
            self.answer(client)
