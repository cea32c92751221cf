"""Starts the gateway: checks, then one process or several."""

from __future__ import annotations

import logging

from producer.gateway.server import bind, serve
from vqa.gateway_settings import GatewaySettings


def run_gateway() -> int:
    """Serve until a signal; return the exit status. Raises SettingsError."""
    settings = GatewaySettings()
    logging.getLogger().setLevel(logging.INFO)
    # says at each start and end what run_gateway says
    logging.getLogger("uvicorn.error").setLevel(logging.WARNING)
    return serve(settings, bind(settings))
