"""A sidecar that would keep the pod alive is told to end, by the last act of a run.

Imported only where there is one to tell. It is called by ``http.client`` and not by ``urllib``, which would send
it through the proxy that the environment names, and follow a redirect.
"""

from __future__ import annotations

import base64
import http.client
import os
import threading
from pathlib import Path
from urllib.parse import unquote, urlsplit, urlunsplit

from .events import SidecarNotStopped
from .url import without_login

PATIENCE_S = 3.0  # all of it: what is left of the pod's grace period behind STOP_GRACE is short
_HINT = (
    "The pod runs until its sidecar ends: look what listens there. A native sidecar (an init container with"
    " restartPolicy: Always) ends by itself."
)
_PROGRAM = b"alembic-job"


def stop(url: str) -> SidecarNotStopped | None:
    """POST to it, once. What went wrong, if anything did; never raises."""
    if _is_guest():
        return None
    said: list[str] = []
    # A thread, since neither a name look-up nor an answer that comes byte by byte has an end of its own.
    call = threading.Thread(target=lambda: said.append(_post(url)), daemon=True)
    call.start()
    call.join(PATIENCE_S)
    problem = said[0] if said else f"did not answer within {PATIENCE_S:g} s"
    return SidecarNotStopped(error=f"{without_login(url)} {problem}.", hint=_HINT) if problem else None


def _post(url: str) -> str:
    """What went wrong, as the end of a sentence; empty when nothing did."""
    parts = urlsplit(url)
    kind = http.client.HTTPSConnection if parts.scheme == "https" else http.client.HTTPConnection
    headers = {"Connection": "close"}
    if parts.username is not None:
        login = f"{unquote(parts.username)}:{unquote(parts.password or '')}"
        headers["Authorization"] = f"Basic {base64.b64encode(login.encode()).decode()}"
    try:
        connection = kind(parts.hostname or "", parts.port, timeout=PATIENCE_S)
        connection.request("POST", urlunsplit(("", "", parts.path or "/", parts.query, "")), b"", headers)
        status = connection.getresponse().status
    except TimeoutError:
        return f"did not answer within {PATIENCE_S:g} s"
    except ConnectionResetError:  # or an end before any answer
        return "closed the connection without an answer"
    except http.client.HTTPException:
        return "answered with something else than HTTP"
    except Exception as error:
        return f"cannot be reached: {getattr(error, 'strerror', None) or type(error).__name__}"
    return "" if 200 <= status < 300 else f"answered {status}"  # noqa: PLR2004


def _is_guest() -> bool:
    """Whether ``kubectl exec`` brought this process into a container whose own run, PID 1, still needs the sidecar.

    Not so where the pod's containers share a process namespace: there PID 1 is the pod's, and not of this program.
    """
    pid = os.getpid()
    try:
        while pid > 1:
            pid = int(Path(f"/proc/{pid}/stat").read_text(errors="replace").rpartition(")")[2].split()[1])
        return pid == 0 and _PROGRAM in Path("/proc/1/cmdline").read_bytes()
    except OSError:
        return False
