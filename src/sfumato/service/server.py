"""Run the service until a signal ends it."""

from __future__ import annotations

import asyncio
import errno
import socket
import threading
from collections.abc import Callable
from types import FrameType

import uvicorn
from fastapi import FastAPI

from sfumato.errors import ConfigError, ResourceError

NOTICE = 1.0  # seconds in which a server that ends still accepts requests, because clients do not know yet


class Server(uvicorn.Server):
    """A server that tells clients before it ends.

    After SIGTERM or Ctrl-C readiness is denied, and requests are accepted for a moment more. Then no more are accepted,
    and those in progress are answered. A second signal ends it at once.
    """

    def __init__(self, config: uvicorn.Config, announce: Callable[[], object]) -> None:
        super().__init__(config)
        self._announce = announce

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Begin to accept requests, and say so."""
        await super().startup(sockets)
        if self.started:
            self._announce()

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Begin to end."""
        gate = self.config.app.state.gate  # pyright: ignore[reportFunctionMemberAccess, reportAttributeAccessIssue]
        if not gate.open:
            self.force_exit = self.should_exit = True
            return
        gate.open = False
        threading.Timer(NOTICE, self._end).start()

    def _end(self) -> None:
        self.should_exit = True


def listening(host: str, port: int) -> socket.socket:
    """A socket on an address, before the model is loaded.

    Raises:
        ConfigError: If there is no such address.
        ResourceError: If it is in use, or may not be used.
    """
    if not 0 <= port < 1 << 16:
        raise ConfigError(f"port is {port}, expected 0 to 65535")
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        found = socket.socket(family, kind, protocol)
    except OSError as error:
        raise ConfigError(f"host is {host!r}, which is no address of this machine: try 127.0.0.1") from error
    try:
        found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        found.bind(address)
    except OSError as error:
        found.close()
        reason = "is in use" if error.errno == errno.EADDRINUSE else f"cannot be used ({error.strerror})"
        raise ResourceError(f"port {port} of {host} {reason}: choose another one with --port") from error
    return found


def server_of(app: FastAPI, timeout: float, announce: Callable[[], object] = lambda: None) -> Server:
    """A server for an application.

    Args:
        app: The application.
        timeout: Seconds within which requests are answered, at the end too.
        announce: Called when requests are accepted. Default: nothing.
    """
    config = uvicorn.Config(
        app, log_level="warning", access_log=False, server_header=False, timeout_graceful_shutdown=int(timeout) + 5
    )
    return Server(config, announce)


def run(server: Server, listener: socket.socket) -> None:
    """Answer requests until a signal comes, and those in progress after it.

    Args:
        server: The server.
        listener: A bound socket. It is closed.
    """
    with asyncio.Runner(loop_factory=server.config.get_loop_factory()) as runner:
        runner.run(server.serve(sockets=[listener]))
