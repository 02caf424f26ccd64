"""The file of users: a line a user, `name:role:argon2 hash`; roles and what each may do.

Rules for this file:
1. A password is never stored, logged or quoted.
2. A name that is not in the file costs as long as a wrong password.
"""

from __future__ import annotations

import os
import re
import stat
import threading
from dataclasses import dataclass
from enum import IntEnum
from pathlib import Path

from argon2 import PasswordHasher
from argon2.exceptions import InvalidHashError, VerificationError

from dicomnode.errors import NodeError, StartError

SHORTEST_PASSWORD = 10
_LONGEST_PASSWORD = 1024
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@-]{0,63}")
_HASHER = PasswordHasher()
# Verified in place of the hash of a name that is not there.
_NOBODY = _HASHER.hash("nobody has this password")


class UserRole(IntEnum):
    """What a user may do; each role may also do what the ones before it may."""

    READER = 1
    OPERATOR = 2
    ADMINISTRATOR = 3


@dataclass(frozen=True)
class User:
    """Somebody who may log in."""

    name: str
    role: UserRole
    password_hash: str


class Users:
    """The users of a file; a changed file counts from the next question on. Thread-safe.

    Raises
    ------
    StartError
        The file is absent, can be read by other users, or has a line that is none.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lock = threading.Lock()
        self._version = _version(path)
        self._users = read_users(path)

    def find(self, name: str) -> User | None:
        """Return the user of a name; None when there is none (any more)."""
        with self._lock:
            try:
                version = _version(self._path)
                if version != self._version:
                    self._users, self._version = read_users(self._path), version
            except StartError:
                # Half written, or taken away: nobody is let in until it is right again.
                return None
            return self._users.get(name)

    def check(self, name: str, password: str) -> User | None:
        """Return the user whose name and password these are, else None; takes a tenth of a second."""
        user = self.find(name)
        try:
            _HASHER.verify(_NOBODY if user is None else user.password_hash, password[:_LONGEST_PASSWORD])
        except (VerificationError, InvalidHashError):
            return None
        return user


def read_users(path: Path) -> dict[str, User]:
    """Return the users of a file by name; `StartError` names the line that is wrong."""
    try:
        status = path.stat()
        text = path.read_text(encoding="utf-8")
    except OSError as problem:
        raise StartError(f"web.users: {path}: {problem.strerror}; `dicomnode users add` makes it") from None
    except UnicodeDecodeError:
        raise StartError(f"web.users: {path} is not UTF-8 text") from None
    if status.st_mode & (stat.S_IRWXO | stat.S_IWGRP):
        raise StartError(f"web.users: {path} is open to other users; chmod 0600 it")
    users = {}
    for number, line in enumerate(text.splitlines(), start=1):
        if line.strip() and not line.startswith("#"):
            user = _read_line(line)
            if user is None or user.name in users:
                raise StartError(
                    f"web.users: {path}: line {number} is not name:role:hash, or names a user again"
                )
            users[user.name] = user
    return users


def write_user(path: Path, name: str, role: UserRole, password: str) -> None:
    """Add a user, or change one; the file is replaced as a whole.

    Raises
    ------
    NodeError
        The name or the password is not allowed.
    """
    if not _NAME.fullmatch(name):
        raise NodeError(f"{name!r}: a name has 1 to 64 letters, digits and . _ @ -")
    if not SHORTEST_PASSWORD <= len(password) <= _LONGEST_PASSWORD:
        raise NodeError(f"a password has at least {SHORTEST_PASSWORD} characters")
    users = read_users(path) if path.exists() else {}
    users[name] = User(name, role, _HASHER.hash(password))
    _write(path, users)


def remove_user(path: Path, name: str) -> None:
    """Take a user away; every session of the user ends with the next page. `NodeError` when there is none."""
    users = read_users(path)
    if users.pop(name, None) is None:
        raise NodeError(f"{path}: there is no user {name!r}")
    _write(path, users)


def _write(path: Path, users: dict[str, User]) -> None:
    text = "".join(f"{user.name}:{user.role.name.lower()}:{user.password_hash}\n" for user in users.values())
    partial = path.with_name(f".{path.name}.partial")
    handle = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | getattr(os, "O_CLOEXEC", 0), 0o600)
    with os.fdopen(handle, "w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    if path.exists() and hasattr(os, "getuid"):
        # `users add` is often called by root, and the service has to go on reading the file.
        before = path.stat()
        partial.chmod(stat.S_IMODE(before.st_mode))
        if (before.st_uid, before.st_gid) != (os.getuid(), os.getgid()) and os.getuid() == 0:
            os.chown(partial, before.st_uid, before.st_gid)
    partial.replace(path)


def _read_line(line: str) -> User | None:
    name, _, rest = line.strip().partition(":")
    role, _, password_hash = rest.partition(":")
    if not _NAME.fullmatch(name) or role.upper() not in UserRole.__members__:
        return None
    if not password_hash.startswith("$argon2id$"):
        return None
    return User(name, UserRole[role.upper()], password_hash)


def _version(path: Path) -> tuple[int, int, int]:
    try:
        status = path.stat()
    except OSError as problem:
        raise StartError(f"web.users: {path}: {problem.strerror}") from None
    return status.st_mtime_ns, status.st_size, status.st_ino
