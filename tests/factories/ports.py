"""What the processes of a node listen on, from the kernel's own tables (proc(5))."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

_LISTEN = "0A"


@dataclass(frozen=True)
class ListeningPort:
    """One listening TCP socket: the address in the kernel's notation, and the port."""

    address: str
    port: int

    @property
    def is_loopback(self) -> bool:
        """Whether only this machine reaches it: 127.0.0.1, in the byte order of the table."""
        return self.address == "0100007F"


def process_tree(pid: int) -> list[int]:
    """Return a process and all that descend from it."""
    tree = [pid]
    for parent in tree:
        for listed in Path(f"/proc/{parent}/task").glob("*/children"):
            tree += [int(child) for child in listed.read_text().split()]
    return tree


def listening_ports(pid: int) -> list[ListeningPort]:
    """Return every TCP port that a process and its descendants listen on."""
    inodes = {inode for process in process_tree(pid) for inode in _socket_inodes(process)}
    rows = [
        row.split()
        for table in ("/proc/net/tcp", "/proc/net/tcp6")
        for row in Path(table).read_text().splitlines()[1:]
    ]
    return [
        ListeningPort(address, int(port, 16))
        for address, port in (row[1].split(":") for row in rows if row[3] == _LISTEN and row[9] in inodes)
    ]


def _socket_inodes(pid: int) -> set[str]:
    inodes = set()
    for link in Path(f"/proc/{pid}/fd").iterdir():
        try:
            target = str(link.readlink())
        except FileNotFoundError:
            continue
        if target.startswith("socket:["):
            inodes.add(target.removeprefix("socket:[").removesuffix("]"))
    return inodes
