"""What a writer asks of the kernel about its socket."""

from __future__ import annotations

import fcntl
import socket
import struct
import sys
import termios
from contextlib import suppress

import trio


def untaken_bytes(descriptor: int) -> int:
    """With our kernel, and not with the client's yet; 0 where the kernel does not report it."""
    try:
        return int.from_bytes(fcntl.ioctl(descriptor, termios.TIOCOUTQ, bytes(4)), sys.byteorder)
    except OSError:
        return 0


def reset(tcp: trio.socket.SocketType) -> None:
    """Close with an RST instead of a half frame, and without lingering for what is not sent."""
    with suppress(OSError):
        tcp.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    tcp.close()
