"""Serves the figures over HTTP, as Prometheus asks for them: GET /metrics."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from cheroot import wsgi
from prometheus_client import CollectorRegistry, ProcessCollector, make_wsgi_app
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from ovs_daemon.errors import Code, VStorageError
from ovs_daemon.metrics.families import families
from ovs_daemon.metrics.figures import Figures

_PATH = "/metrics"
# One that asks, and one that came while the first was answered.
_THREADS = 2


class _Node(Collector):
    """Asks the node anew for each answer."""

    def __init__(self, gather: Callable[[], Figures]) -> None:
        self._gather = gather

    def describe(self) -> Iterable[Metric]:
        """Nothing: nobody else is in this registry, so no name can be taken twice."""
        return ()

    def collect(self) -> Iterator[Metric]:
        """All families as they are now."""
        return families(self._gather())


class MetricsServer:
    """Serves until told to stop.

    :param gather: gives the figures of the moment
    :param listen: ADDRESS:PORT
    :raises VStorageError: ``bad_request``, it cannot listen there
    """

    def __init__(self, gather: Callable[[], Figures], listen: str) -> None:
        registry = CollectorRegistry()
        registry.register(_Node(gather))
        # Memory, CPU, open files and the start of this process, under Prometheus' own names.
        ProcessCollector(registry=registry)
        self._answer: Any = make_wsgi_app(registry)
        self._server = wsgi.Server(_address(listen), self._app, numthreads=_THREADS)
        self._thread = threading.Thread(target=self._server.serve, name="metrics", daemon=True)
        try:
            self._server.prepare()
        except OSError as failure:
            raise _bad(listen, str(failure)) from failure

    @property
    def port(self) -> int:
        """Where it listens, if port 0 was asked for."""
        return int(self._server.bind_addr[1])

    def start(self) -> None:
        """Begin to answer."""
        self._thread.start()

    def stop(self) -> None:
        """Finish the answer at work, give no more."""
        self._server.stop()
        self._thread.join()

    def _app(self, environ: dict[str, Any], start: Any) -> Iterable[bytes]:
        if environ.get("PATH_INFO") != _PATH:
            start("404 Not Found", [("Content-Type", "text/plain; charset=utf-8")])
            return [f"there is only {_PATH}\n".encode()]
        answer: Iterable[bytes] = self._answer(environ, start)
        return answer


def _address(listen: str) -> tuple[str, int]:
    host, _, port = listen.rpartition(":")
    if not host or not port.isdigit() or int(port) > 0xFFFF:
        raise _bad(listen, "it is not ADDRESS:PORT")
    return host.strip("[]"), int(port)


def _bad(listen: str, why: str) -> VStorageError:
    return VStorageError(
        Code.BAD_REQUEST,
        f"serve figures at {listen!r}",
        why,
        "correct the option [metrics] listen: an address of this host, and a port that is free",
    )
