"""Free TCP ports on loopback."""

from __future__ import annotations

import errno
import random
import socket
from collections.abc import Collection

HOST = "127.0.0.1"

RANGE = range(20_000, 32_000)
"""Below Linux's ephemeral range (32768 on), so that no outgoing connection takes a stopped server's port."""


def is_free(port: int, host: str = HOST) -> bool:
    """Whether a server could listen on `port` now."""
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            if error.errno in (errno.EADDRINUSE, errno.EACCES):
                return False
            raise
    return True


def free_port(avoid: Collection[int] = (), host: str = HOST) -> int:
    """A port that nothing listens on and that is not in `avoid`; picked at random so that two seekers rarely meet."""
    while True:
        port = random.choice(RANGE)
        if port not in avoid and is_free(port, host):
            return port
