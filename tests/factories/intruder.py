"""A local user without the certificate who tries to run a program through Dask: `intruder.py UID MARKER PORT...`; prints what got in."""

import asyncio
import os
import socket
import ssl
import sys
from pathlib import Path

from distributed import rpc
from distributed.protocol.pickle import dumps
from distributed.security import Security

PATIENCE_S = 3


def leave_marker(path: str) -> None:
    """Show that a function of the intruder's ran."""
    with Path(path).open("a") as marker:
        marker.write("here\n")


async def call(address: str, security: Security | None, marker: str) -> bool:
    """Whether a part of Dask says who it is; where it does, a function is run in it."""
    arguments = security.get_connection_args("client") if security else None
    server = rpc(address, timeout=PATIENCE_S, connection_args=arguments)
    try:
        await asyncio.wait_for(server.identity(), PATIENCE_S)
        for handler in (server.run_function, server.run):
            try:
                await asyncio.wait_for(
                    handler(function=dumps(leave_marker), args=dumps((marker,)), kwargs=dumps({})), PATIENCE_S
                )
            except Exception:  # noqa: BLE001  a scheduler has the first, a worker and a nanny the second
                continue
    except Exception:  # noqa: BLE001  whatever it is, it did not get in
        return False
    return True


def speaks(port: int, *, tls: bool) -> bool:
    """Whether a port answers an HTTP request, or a client of TLS that shows no certificate."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    try:
        with socket.create_connection(("127.0.0.1", port), PATIENCE_S) as plain:
            channel = context.wrap_socket(plain) if tls else plain
            channel.sendall(b"GET /info/main/workers.html HTTP/1.0\r\n\r\n")
            return b"HTTP/1" in channel.recv(4096)
    except OSError:
        return False


def main() -> None:
    """Try every port in every way."""
    uid, marker, *ports = sys.argv[1:]
    # Whatever is imported late lies where another user may not read.
    asyncio.run(call("tcp://127.0.0.1:1", None, marker))
    certificate = Security.temporary()
    if os.getuid() == 0:
        os.setresuid(int(uid), int(uid), int(uid))
    for port in map(int, ports):
        ways = {
            "tcp": asyncio.run(call(f"tcp://127.0.0.1:{port}", None, marker)),
            "tls": asyncio.run(call(f"tls://127.0.0.1:{port}", certificate, marker)),
            "http": speaks(port, tls=False),
            "https": speaks(port, tls=True),
        }
        sys.stdout.writelines(f"{port}/{way}\n" for way, got_in in ways.items() if got_in)
    sys.stdout.flush()
    # Connections that a server leaves half open must not hold up the end.
    os._exit(0)


if __name__ == "__main__":
    main()
