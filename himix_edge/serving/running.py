"""A socket and uvicorn around the application, until someone ends it."""

import ipaddress
import os
import socket
from collections.abc import Callable

import uvicorn
from starlette.types import ASGIApp

from himix_edge.errors import InputError

KEPT_OPEN = 32  # connections beside those whose requests wait or are answered


def is_this_machine(host: str) -> bool:
    """Whether nothing but this machine reaches an address."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host.lower() == "localhost"


def listen(host: str, port: int) -> socket.socket:
    """A socket that accepts connections; port 0 takes a free one. Raises InputError for one that cannot be had.

    It says that it is TCP's, or asyncio would let the kernel hold small answers back (Nagle) for 40 ms.
    """
    try:
        family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
        place = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
        try:
            if os.name == "posix":  # elsewhere it would take a port that is in use
                place.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            place.bind(address)
            place.listen(128)
        except BaseException:
            place.close()
            raise
        return place
    except (OSError, UnicodeError) as error:  # UnicodeError: a name that no host can have
        reason = getattr(error, "strerror", None) or error
        raise InputError(f"{host}, port {port}: {reason}; give another with --host or --port") from None


def serve(app: ASGIApp, place: socket.socket, most_requests: int, started: Callable[[uvicorn.Server], None]) -> None:
    """Answer until SIGINT or SIGTERM, which then take their usual course.

    Args:
        app: the application.
        place: where it listens.
        most_requests: that may wait or be answered; further connections are told to come later.
        started: is given the server, whose `should_exit` ends it.
    """
    config = uvicorn.Config(
        app, log_config=None, log_level="critical", access_log=False, server_header=False, http="h11", ws="none",
        limit_concurrency=most_requests + KEPT_OPEN, timeout_keep_alive=30, timeout_graceful_shutdown=5, lifespan="on",
    )  # fmt: skip
    server = uvicorn.Server(config)
    started(server)
    server.run(sockets=[place])
