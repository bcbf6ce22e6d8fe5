"""hyperdraw on Ray Serve: each replica builds the app with an engine of its own, and answers as the service alone does.

Settings are environment variables, as in `deploy/ray/config.yaml`. Nothing of Ray's batches requests, as its batches
wait and the engine's do not; and nothing spreads models over replicas, as the catalog holds all of them.
"""

import math

from fastapi import FastAPI
from ray import serve
from ray.serve.config import AutoscalingContext

from models.memory import keep_freed_memory
from models.processors import choose_threads
from service.app import create_app
from service.settings import Settings, read_settings

WAITING_COST = "waiting_cost"

COST_PER_REPLICA = 20_000
"""Inputs × networks that may wait for each replica, about half a second of work for two cores."""


class HyperDraw:
    """A replica."""

    def __serve_build_asgi_app__(self) -> FastAPI:
        settings: Settings = read_settings({})
        keep_freed_memory()
        choose_threads(settings.threads)
        self._app = create_app(settings)
        return self._app

    def check_health(self) -> None:
        """Tells Ray to replace this replica if its device has stopped responding."""
        if fault := self._app.state.engine.fault:
            raise RuntimeError(fault)

    def record_autoscaling_stats(self) -> dict[str, float]:
        """What waits, for `scale`."""
        return {WAITING_COST: float(self._app.state.engine.admission.amount)}


def scale(context: AutoscalingContext) -> tuple[int, dict[str, object]]:
    """As many replicas as the waiting work needs, within the limits of the configuration."""
    waiting = sum(context.aggregated_metrics.get(WAITING_COST, {}).values())
    wanted = math.ceil(waiting / COST_PER_REPLICA)
    return min(max(wanted, context.capacity_adjusted_min_replicas), context.capacity_adjusted_max_replicas), {}


application = serve.deployment(serve.ingress()(HyperDraw)).bind()
