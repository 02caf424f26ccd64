"""Whether the certificates, keys, bundles and atlas of a configuration can be worked with.

Nothing is changed; `StartError` names the setting.
"""

from __future__ import annotations

from dicomnode.errors import StartError
from dicomnode.settings.config import Config
from dicomnode.settings.rules import settings_by_rule


def check_certificates(config: Config) -> None:
    """Load the files of [tls] as the listener and the callers do; `StartError` when one cannot be used."""
    from dicomnode.network.tls import acceptor_context, client_context

    if config.network.tls:
        acceptor_context(config.tls)
    calls_with_tls = [peer.tls for peer in config.peers] + [entry.tls for entry in config.destinations]
    if any(calls_with_tls) or (config.audit.syslog_host and config.audit.syslog_tls):
        client_context(config.tls)


def check_bundles(config: Config) -> None:
    """Read every bundle and atlas that a study may be answered with; `StartError` when one cannot be used.

    Noticed later, it would refuse every study into the PACS.
    """
    from dicomnode.answer import build_recipe
    from pipeline.errors import BundleError
    from pipeline.measure.regions.territories import AtlasError

    answered_by = [("pipeline", config)]
    answered_by += [
        (f"rules, {rule.name}", settings_by_rule(config, rule))
        for rule in config.rules
        if rule.pipeline != "none"
    ]
    for key, settings in answered_by:
        try:
            build_recipe(settings)
        except BundleError as problem:
            raise StartError(f"{key}: lesion_model, brain_model: {problem}") from None
        except AtlasError as problem:
            raise StartError(f"pipeline.atlas: {problem}") from None


def check_files(config: Config) -> None:
    """Check everything that the node would only notice at its start."""
    from dicomnode.notifications.addresses import check_addresses

    check_certificates(config)
    check_addresses(config.notifications)
    check_bundles(config)
