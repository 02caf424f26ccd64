"""What every table of the configuration is: frozen, and strict about its keys."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, ConfigDict, StringConstraints

AETitle = Annotated[
    str,
    StringConstraints(strip_whitespace=True, min_length=1, max_length=16, pattern=r"^[\x20-\x5b\x5d-\x7e]+$"),
]


class Section(BaseModel):
    """A table of the TOML file: frozen, and an unknown key is a problem."""

    model_config = ConfigDict(frozen=True, extra="forbid", validate_default=True)
