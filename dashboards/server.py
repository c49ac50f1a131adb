"""Serve the dashboard on this machine."""

from __future__ import annotations

import errno
import logging
import os
import socket
from collections.abc import Callable

from werkzeug.serving import BaseWSGIServer, make_server

from gradscope.dashboards.app import create_app
from gradscope.errors import GradscopeError, InvalidValueError
from gradscope.runs import Run, Runs

_LOG = logging.getLogger(__name__)
NEARBY = 100
"""Ports that are tried for one to suggest."""


def bound(host: str, port: int) -> socket.socket:
    """Return a socket bound to an address.

    Raises:
        InvalidValueError: The port is no port number.
        GradscopeError: The port is taken, or the address is not of this machine.
    """
    if not 0 <= port <= 65535:
        raise InvalidValueError(f"port must lie between 0 and 65535, not {port}")
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    # Without it, a dashboard restarted at once would find its own port taken for a minute.
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
        listener.listen()
    except OSError as error:
        listener.close()
        raise GradscopeError(_refusal(host, port, error)) from None
    return listener


def free_port(host: str, after: int) -> int | None:
    """Return the first free port of an address above ``after``, of the next hundred; None where all are taken."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    for port in range(after + 1, min(after + NEARBY, 65535) + 1):
        with socket.socket(family, socket.SOCK_STREAM) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((host, port))
            except OSError:
                continue
            return port
    return None


def _refusal(host: str, port: int, error: OSError) -> str:
    if error.errno == errno.EADDRINUSE:
        other = f", such as port {free}" if (free := free_port(host, port)) else ""
        return f"port {port} of {host} is taken; choose another one{other}, or stop what uses it"
    if isinstance(error, PermissionError):
        return f"port {port} of {host} needs more rights; choose another one, such as port 8050"
    return f"cannot listen on port {port} of {host}: {error.strerror or error}"


def build_server(
    source: str | os.PathLike[str] | Run | Runs, host: str = "127.0.0.1", port: int = 8050
) -> BaseWSGIServer:
    """Return the server of a dashboard, bound and ready for ``serve_forever``; port 0 takes a free one."""
    listener = bound(host, port)
    try:
        app = create_app(source)
        # werkzeug would end the process when it cannot bind; it is given a socket that is bound already.
        number = listener.getsockname()[1]
        return make_server(host, number, app.server, threaded=True, fd=listener.fileno())
    finally:
        listener.close()


def serve(
    path: str | os.PathLike[str] | Run | Runs,
    host: str = "127.0.0.1",
    port: int = 8050,
    *,
    ready: Callable[[str], None] | None = None,
) -> None:
    """Serve the dashboard of a run, or of a folder of runs, until interrupted.

    Args:
        path: Folder of a run or of runs, a Run, or Runs.
        host: Address to listen on; the default is reached from this machine only.
        port: Port; 0 takes a free one.
        ready: Called with the address of the dashboard once it answers.

    Raises:
        RunFormatError: There is no such folder.
        GradscopeError: The port is taken; the message names another.
    """
    server = build_server(path, host, port)
    # One line for every request would bury what the user wants to see.
    logging.getLogger("werkzeug").setLevel(logging.WARNING)
    shown = f"[{host}]" if ":" in host else host
    address = f"http://{shown}:{server.port}/"
    _LOG.info("dashboard of %s on %s", path, address)
    if ready is not None:
        ready(address)
    try:
        server.serve_forever()
    except KeyboardInterrupt:
        _LOG.info("dashboard stopped")
    finally:
        server.server_close()
