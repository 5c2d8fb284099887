"""What the processes of a job have printed. Ray keeps it in files on the nodes; its dashboard serves it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any, Final

from sage_flow.errors import ClusterError
from sage_flow.executors.ray.answers import ClusterSilent, answered

__all__ = ["api_server", "dashboard_url", "has_dashboard", "job_logs"]

_MOST_ACTORS: Final = 10_000
_LOGS_S: Final = 120.0  # seconds for a process of the cluster to start and to fetch them
_MARKS: Final = (":job_id:", ":actor_name:", ":task_name:")  # Ray's own lines in these files


def job_logs(job_id: str, namespace: str) -> dict[str, str]:
    """Return the stdout, then the stderr, of each actor of a job, by name. Raises ClusterError without a dashboard."""
    import ray

    if ray.util.client.ray.is_connected():  # only processes of the cluster can surely reach the dashboard
        asked = ray.remote(num_cpus=0)(_job_logs).remote(job_id, namespace)
        try:
            told: dict[str, str] = ray.get(asked, timeout=_LOGS_S)
        except ray.exceptions.GetTimeoutError:
            raise ClusterSilent("the process of the cluster that fetches the logs", _LOGS_S) from None
        return told
    return _job_logs(job_id, namespace)


def dashboard_url() -> str:
    """Return the address of the dashboard of the connected cluster. Raises ClusterError if it has none."""
    found = _dashboard()
    if not found:
        raise ClusterError(
            "Ray's dashboard serves the logs, and this cluster runs without one: start the cluster with"
            ' `ray start --head --include-dashboard=true`, with "ray[default]" installed'
        )
    return f"http://{found}"


def has_dashboard() -> bool:
    """Whether the cluster has a dashboard. Raises ClusterError if it does not answer."""
    return bool(_dashboard())


def _dashboard() -> str:
    from ray._private import ray_constants
    from ray.experimental import internal_kv

    find = partial(
        internal_kv._internal_kv_get,
        ray_constants.DASHBOARD_ADDRESS.encode(),
        namespace=ray_constants.KV_NAMESPACE_DASHBOARD,
    )
    return (answered(find, "the GCS of the cluster") or b"").decode()


@contextmanager
def api_server(url: str) -> Iterator[None]:
    """Let Ray's clients use this address, by the variable of the environment that would override an argument."""
    name = "RAY_API_SERVER_ADDRESS"
    before = os.environ.get(name)
    os.environ[name] = url
    try:
        yield
    finally:
        if before is None:
            del os.environ[name]
        else:
            os.environ[name] = before


def _job_logs(job_id: str, namespace: str) -> dict[str, str]:
    from ray.util.state import list_actors
    from ray.util.state.exception import RayStateApiException

    url = dashboard_url()
    try:
        with api_server(url):
            actors = list_actors(
                filters=[("ray_namespace", "=", namespace)], limit=_MOST_ACTORS, raise_on_missing_output=False
            )
        mine = [actor for actor in actors if (actor.name or "").startswith(f"{job_id}/")]
        mine.sort(key=lambda actor: str(actor.actor_id))
        return {actor.name: _printed(actor.actor_id) for actor in mine if actor.pid}
    except (RayStateApiException, OSError) as error:  # Ray gives each request 30 s
        raise ClusterError(f"Ray's dashboard at {url} does not serve the logs: {error}") from None


def _printed(actor_id: str) -> str:
    return "".join(line for suffix in ("out", "err") for line in _lines(actor_id, suffix))


def _lines(actor_id: str, suffix: str) -> list[str]:
    import ray
    from ray.util.state import get_log

    address: Any = ray.get_runtime_context().gcs_address
    content = "".join(get_log(address=address, actor_id=actor_id, suffix=suffix, errors="replace"))
    return [line for line in content.splitlines(keepends=True) if not line.startswith(_MARKS)]
