"""HOST:PORT as options and log lines write it."""

import errno
import socket

from trapline.errors import UsageError


def split(address: str) -> tuple[str, int]:
    """Host and port of `HOST:PORT`; an IPv6 host loses its brackets."""
    host, _, port = address.rpartition(":")
    return host.strip("[]"), int(port)


def joined(host: str, port: int) -> str:
    """`HOST:PORT`, an IPv6 host in brackets."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def check_free(flag: str, address: str) -> None:
    """Tries whether `address` can be listened on: gRPC says only that it cannot, this says why.

    Raises:
        UsageError: The port is taken on any address of the host, or the host is not this machine's.
    """
    host, port = split(address)
    refused: OSError | None = None
    free = False
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except OSError as error:
        raise UsageError(cannot_listen(flag, address, error)) from error
    for family, kind, protocol, _, place in found:
        try:
            with socket.socket(family, kind, protocol) as probe:
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                probe.bind(place)
                probe.listen(1)
            free = True
        except OSError as error:
            # A machine without IPv6 still has a `localhost` with an IPv6 address: one that works is enough.
            refused = error
            if error.errno == errno.EADDRINUSE:
                free = False
                break
    if refused is not None and not free:
        raise UsageError(cannot_listen(flag, address, refused)) from refused


def cannot_listen(flag: str, address: str, error: OSError) -> str:
    """The sentence for an address that cannot be listened on."""
    if error.errno == errno.EADDRINUSE:
        return f"{flag}: {address} is in use by another program; stop that one or name another port"
    if isinstance(error, socket.gaierror):
        return f"{flag}: the host of {address} is not known; name an address of this machine"
    return f"{flag}: cannot listen on {address} ({error.strerror}); name an address of this machine and a free port"
