"""The OpenAPI document of the HTTP door, as a running coordinator serves it."""

import json
from typing import cast

from treedraft.coordinator.http.app import make_app
from treedraft.coordinator.http.hosts import AllowedHosts
from treedraft.coordinator.settings import HttpSettings
from treedraft.coordinator.use_cases import UseCases
from treedraft.telemetry.metrics import Metrics


def openapi_page() -> str:
    """Return docs/api/openapi.json."""
    # Routes are only described here, so what they would call is not there.
    nothing = cast(UseCases, None)
    app = make_app(
        HttpSettings(),
        nothing,
        Metrics("coordinator").registry,
        lambda: True,
        hosts=AllowedHosts(()),
    )
    return json.dumps(app.openapi(), indent=1, ensure_ascii=False, sort_keys=True) + "\n"
