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


def end_if_unacknowledged(tcp: trio.socket.SocketType, within_s: float) -> None:
    """Have the kernel end the connection once the peer has taken nothing of what waits for it for so long
    (RFC 5482). Does nothing where the kernel has no such option: then it retries for about 15 minutes."""
    if (option := getattr(socket, "TCP_USER_TIMEOUT", None)) is not None:
        with suppress(OSError):
            tcp.setsockopt(socket.IPPROTO_TCP, option, round(within_s * 1000))


def reset(tcp: trio.socket.SocketType) -> None:
    """Close with an RST instead of a half frame, and without lingering for what is not sent."""
    with suppress(OSError):
        tcp.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    tcp.close()
