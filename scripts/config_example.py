"""Write config/dicomnode.toml from dicomnode/settings/config.py: `python -m scripts.config_example`.

In the file a line `# text` is help; a line `#key = value` is a setting that is off. No table is open, so
that tables can be appended.
"""

from __future__ import annotations

import json
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from dicomnode.settings.config import Config, table_of
from dicomnode.settings.reload import needs_restart

TARGET = Path(__file__).resolve().parent.parent / "config" / "dicomnode.toml"

HEADER = """\
# Configuration of dicomnode. Every setting is here with its default, and all are off: the file is valid as it
# is. A line "# text" is help. A line "#key = value" is a setting: take the # away, and the one of its
# "#[table]", and give it your value.
# Or write your own tables at the end of the file; what you do not change you may delete.
# `systemctl reload dicomnode` takes changes over while the node runs, but for those that need a restart,
# which say so.
# `dicomnode config check --config FILE` names every problem with its key; `dicomnode doctor --config FILE`
# tries it out.
# Written from dicomnode/settings/config.py by `python -m scripts.config_example`.
"""

# What stands in the file where a setting has no default of its own.
EXAMPLES: dict[str, Any] = {
    "peers.ae_title": "MODALITY1",
    "peers.hosts": ["192.0.2.10", "198.51.100.0/24"],
    "peers.certificates": ["mr1.radiology.example", "sha256:" + 64 * "0"],
    "peers.host": "192.0.2.10",
    "peers.port": 104,
    "destinations.url": "https://pacs.example/dicom-web",
    "destinations.secret_file": "/run/credentials/dicomnode.service/pacs-secret",
    "destinations.name": "pacs",
    "destinations.ae_title": "PACS",
    "destinations.host": "192.0.2.20",
    "destinations.port": 104,
    "destinations.calling_ae_title": "DICOMNODE",
    "destinations.tls_name": "pacs.radiology.example",
    "destinations.tls_fingerprint": "sha256:" + 64 * "0",
    "tls.certificate": "/etc/dicomnode/tls/node.pem",
    "tls.key": "/etc/dicomnode/tls/node.key",
    "tls.key_password_file": "/run/credentials/dicomnode.service/tls-key-password",
    "tls.authorities": "/etc/dicomnode/tls/authorities.pem",
    "tls.revoked": "/etc/dicomnode/tls/revoked.pem",
    "audit.syslog_host": "audit.example",
    "rules.name": "stroke-unit",
    "rules.calling_ae": ["MODALITY1"],
    "rules.called_ae": ["DICOMNODE"],
    "rules.station": "mr[12]",
    "rules.institution": "stroke",
    "rules.body_part": "head|brain",
    "rules.study_description": "stroke",
    "rules.series_description": "flair",
    "rules.minimum_age": 18,
    "rules.maximum_age": 120,
    "rules.hours": "22:00-06:00",
    "rules.lesion_model": "stroke-lesion-ensemble",
    "rules.brain_model": "brain-extractor-3mm",
    "rules.threshold": 0.5,
    "rules.peak": 0.9,
    "rules.minimum_volume_mm3": 50.0,
    "rules.destinations": ["pacs"],
    "rules.objects": ["auto"],
    "rules.segmentation": "binary",
    "rules.report": "auto",
    "rules.pictures": "auto",
    "rules.notify": ["mail"],
    "notifications.name": "mail",
    "notifications.addresses_file": "/run/credentials/dicomnode.service/addresses",
    "notifications.rules": ["stroke-unit"],
    "network.more_ae_titles": ["STROKE_URGENT"],
    "selection.rules.use": "t1",
    "selection.rules.series_description": "mprage|t1.*3d",
    "compute.certificate": "/etc/dicomnode/dask/node.pem",
    "compute.key": "/etc/dicomnode/dask/node.key",
    "compute.authorities": "/etc/dicomnode/dask/authority.pem",
    "web.users": "/etc/dicomnode/users",
    "web.trusted_proxies": ["127.0.0.1"],
    "web.hosts": ["dicomnode.radiology.example"],
    "web.viewer_url": "https://pacs.example/viewer?StudyInstanceUIDs={StudyInstanceUID}",
    "pipeline.models": "/opt/dicomnode/models",
    "pipeline.atlas": "/etc/dicomnode/arteries.nii.gz",
    "pipeline.cache": "/var/lib/dicomnode/cache",
    "pipeline.threshold": 0.5,
    "pipeline.peak": 0.9,
    "pipeline.minimum_volume_mm3": 50.0,
}


def render() -> str:
    """Return the whole file."""
    return HEADER + "".join(f"{line}\n" for line in _table(Config, ""))


def _table(model: type[BaseModel], name: str) -> Iterator[str]:
    """Give the lines of one table: its own settings, then the tables below it (TOML's order)."""
    fields = model.model_fields
    for key, field in fields.items():
        if table_of(field) is None:
            yield from _setting(f"{name}.{key}".lstrip("."), key, field)
    for key, field in fields.items():
        below = table_of(field)
        if below is None:
            continue
        full = f"{name}.{key}".lstrip(".")
        yield ""
        yield from _help(below.__doc__ or "")
        yield f"#[[{full}]]" if field.default == () else f"#[{full}]"
        yield from _table(below, full)


def _setting(full: str, key: str, field: FieldInfo) -> Iterator[str]:
    restart = " A change needs a restart." if needs_restart(full) else ""
    yield from _help(f"{field.description or ''}{restart}")
    default = field.default
    if field.is_required() or (default in {None, (), "", 0} and full in EXAMPLES):
        yield f"#{key} = {_toml(EXAMPLES[full])}"
    else:
        yield f"#{key} = {_toml(default)}"


def _help(text: str) -> list[str]:
    return textwrap.wrap(" ".join(text.split()), 120, initial_indent="# ", subsequent_indent="# ")


def _toml(value: Any) -> str:
    if isinstance(value, Path):
        return json.dumps(str(value))
    # JSON's strings, numbers, booleans and arrays are TOML's, too.
    return json.dumps(list(value) if isinstance(value, tuple) else value, ensure_ascii=False)


if __name__ == "__main__":
    TARGET.write_text(render(), encoding="utf-8")
    print(f"wrote {TARGET}")
