"""Whether the files that a configuration names can be worked with: certificates, keys, model bundles.

Nothing is changed; `StartError` names the setting.
"""

from __future__ import annotations

from dicomnode.errors import StartError
from dicomnode.settings.config import Config


def check_certificates(config: Config) -> None:
    """Load the files of [tls] as the listener and the callers do; `StartError` when one cannot be used."""
    from dicomnode.network.tls import acceptor_context, client_context

    if config.network.tls:
        acceptor_context(config.tls)
    calls_with_tls = any(entry.tls for entry in (*config.peers, *config.destinations))
    if calls_with_tls or (config.audit.syslog_host and config.audit.syslog_tls):
        client_context(config.tls)


def check_bundles(config: Config) -> None:
    """Read every bundle that a study may be answered with; `StartError` when one cannot be used.

    Noticed later, it would refuse every study into the PACS.
    """
    from dicomnode.answer import build_recipe
    from pipeline.errors import BundleError

    try:
        build_recipe(config)
    except BundleError as problem:
        raise StartError(f"pipeline.lesion_model, pipeline.brain_model: {problem}") from None


def check_files(config: Config) -> None:
    """Check everything that the node would only notice at its start."""
    check_certificates(config)
    check_bundles(config)
