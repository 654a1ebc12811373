"""How to connect to the measured server: which certificates to trust, how long to wait."""

from __future__ import annotations

import os
import ssl
from collections.abc import Sequence

import httpx

from loadtest.errors import ScenarioError
from loadtest.scenario import Scenario
from loadtest.scenario.fields import filled_headers
from loadtest.target.control import LONGEST_S
from loadtest.wire import Timeouts


def trust(ca_file: str | None) -> ssl.SSLContext:
    """Return the TLS context: it trusts the authorities in the file, else those in SSL_CERT_FILE, else the usual ones."""
    path = ca_file or os.environ.get("SSL_CERT_FILE")
    try:
        return ssl.create_default_context(cafile=path) if path else httpx.create_ssl_context()
    except (OSError, ssl.SSLError) as error:
        raise ScenarioError(f"cannot read certificates from {path}: {error}; give a PEM file.") from None


def control_client(
    context: ssl.SSLContext, connect_timeout: float | None = None, header: Sequence[str] = ()
) -> httpx.Client:
    """Return a client for questions to the control plane; `connect_timeout` in seconds.

    The user's own headers go with every question, in place of ours of that name: a gateway wants them there, too. Raises
    ScenarioError where one needs a variable that is not set.
    """
    limits = httpx.Timeout(LONGEST_S, connect=min(connect_timeout or LONGEST_S, LONGEST_S))
    added = filled_headers(header)
    hooks = {"request": [lambda request: request.headers.update(added)]}
    return httpx.Client(timeout=limits, trust_env=False, verify=context, event_hooks=hooks)


def timeouts_of(scenario: Scenario) -> Timeouts:
    """Return the scenario's limits for one request."""
    return Timeouts(
        connect=scenario.connect_timeout,
        first_token=scenario.first_token_timeout,
        idle=scenario.idle_timeout,
        total=scenario.total_timeout,
    )
