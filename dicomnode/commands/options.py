"""What several commands share: their options, and the configuration that they load."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from dicomnode.errors import ConfigError
from dicomnode.settings.config import Config, load_config

DEFAULT_CONFIG = Path("/etc/dicomnode/dicomnode.toml")

FilesConfigOption = Annotated[
    Path | None,
    typer.Option(
        "--config",
        "-c",
        envvar="DICOMNODE_CONFIG",
        help="TOML file; without it the defaults: no node is needed here.",
    ),
]
ConfigOption = Annotated[
    Path | None,
    typer.Option(
        "--config",
        "-c",
        envvar="DICOMNODE_CONFIG",
        help=f"TOML file; without it {DEFAULT_CONFIG} when that exists, else the defaults.",
    ),
]
UsersFileOption = Annotated[
    Path | None, typer.Option("--file", help="File of users; without it web.users of the configuration.")
]
ModelOption = Annotated[str | None, typer.Option("--model", help="Lesion bundle: name or name/version.")]
ThresholdOption = Annotated[
    float | None, typer.Option("--threshold", min=0.001, max=0.999, help="Lesion probability threshold.")
]
PeakOption = Annotated[
    float | None,
    typer.Option("--peak", min=0.0, max=0.999, help="What a lesion must somewhere reach; 0: nothing."),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")]


def config_path(config: Path | None) -> Path | None:
    """Return the file of the configuration: the one that is named, else the node's own where it exists."""
    try:
        return config or (DEFAULT_CONFIG if DEFAULT_CONFIG.exists() else None)
    except PermissionError:
        raise ConfigError(
            [
                (
                    f"{DEFAULT_CONFIG}: may not be read by this user; run it as the service user (sudo -u "
                    "dicomnode), or give --config"
                )
            ]
        ) from None


def load(config: Path | None) -> Config:
    """Read the configuration that is named, else the node's own, else take the defaults."""
    path = config_path(config)
    return load_config(path) if path else Config()


def load_for_files(config: Path | None) -> Config:
    """Read the configuration that is named, or the defaults where none is.

    Work on files needs no node, so the node's own configuration is not looked at.
    """
    return load_config(config) if config else Config()
