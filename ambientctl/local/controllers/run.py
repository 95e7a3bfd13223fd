"""All controllers of the one-machine mesh, in one nursery."""

from __future__ import annotations

import trio

from ambientctl.local.apiserver.core.cluster import Cluster
from ambientctl.local.controllers import (
    daemon_sets,
    deployments,
    endpoint_slices,
    endpoints,
    garbage,
    namespaces,
    replica_sets,
    scheduler,
)
from ambientctl.local.controllers.loop import run_controller


async def run_controllers(
    cluster: Cluster,
    ca_pem: str,
    *,
    task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Run every controller until cancelled; ``ca_pem`` is the API server's CA."""
    controllers = (
        namespaces.controller(ca_pem),
        deployments.CONTROLLER,
        replica_sets.CONTROLLER,
        daemon_sets.CONTROLLER,
        scheduler.CONTROLLER,
        endpoint_slices.CONTROLLER,
        endpoints.CONTROLLER,
        garbage.controller(),
        garbage.POD_CONTROLLER,
    )
    async with trio.open_nursery() as nursery:
        for controller in controllers:
            nursery.start_soon(run_controller, cluster, controller)
        task_status.started()
