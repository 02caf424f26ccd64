"""`dicomnode users`: who may log in to the pages."""

from __future__ import annotations

import sys
from pathlib import Path

import typer

from dicomnode.commands.terminal import console, print_rows
from dicomnode.errors import ConfigError
from dicomnode.settings.config import Config


def add(config: Config, file: Path | None, name: str, role: str) -> None:
    """Add a user, or give one another password and role."""
    from dicomnode.web.users import UserRole, write_user

    if role.upper() not in UserRole.__members__:
        raise ConfigError([f"--role: {role!r} is none of reader, operator, administrator"])
    path = _users_file(config, file)
    password = (
        typer.prompt("Password", hide_input=True, confirmation_prompt=True)
        if sys.stdin.isatty()
        else sys.stdin.readline().rstrip("\n")
    )
    write_user(path, name, UserRole[role.upper()], password)
    console.print(f"{name} may log in as {role.lower()}; {path}", highlight=False)


def remove(config: Config, file: Path | None, name: str) -> None:
    """Take a user away."""
    from dicomnode.web.users import remove_user

    remove_user(_users_file(config, file), name)
    console.print(f"{name} may not log in any more", highlight=False)


def show(config: Config, file: Path | None, as_json: bool) -> None:
    """Print the users and their roles."""
    from dicomnode.web.users import read_users

    users = read_users(_users_file(config, file)).values()
    print_rows(("name", "role"), [[user.name, user.role.name.lower()] for user in users], as_json)


def _users_file(config: Config, file: Path | None) -> Path:
    path = file or config.web.users
    if path is None:
        raise ConfigError(["web.users is not set; give --file"])
    return path
