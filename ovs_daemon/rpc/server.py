"""The RPC server: listens on the message bus for as long as the daemon runs.

The daemon is ready without the bus: a thread of its own waits for the broker, for ever if need be,
and oslo.messaging connects again by itself when it was lost later.
"""

from __future__ import annotations

import contextlib
import importlib
import logging
import threading

import oslo_messaging
from oslo_config import cfg

from ovs_daemon.control.verbs import Verbs
from ovs_daemon.errors import Code, VStorageError
from ovs_daemon.rpc.contract import EXCHANGE, topic
from ovs_daemon.rpc.endpoint import Endpoint

LOG = logging.getLogger(__name__)

# Modules of oslo.messaging and the groups of options that they register for themselves.
_GLOBAL_OPTIONS = (
    ("oslo_messaging._metrics.client", "oslo_messaging_metrics"),
    ("oslo_messaging._tracing.client", "oslo_messaging_tracing"),
)


class RpcServer:
    """Serves the verbs on the topic of a Domain.

    :param transport: of the message bus; closed by :meth:`stop`
    :param node: name of this node, by which it can be called alone
    :param threads: calls that are worked on at a time
    """

    def __init__(
        self,
        transport: oslo_messaging.RPCTransport,
        verbs: Verbs,
        domain: str,
        node: str,
        threads: int,
    ) -> None:
        self._transport = transport
        self._threads = threads
        self._endpoint = Endpoint(verbs)
        self._guard = threading.Lock()
        self._stopping = False
        self._listening = threading.Event()
        self._server = oslo_messaging.get_rpc_server(
            transport,
            oslo_messaging.Target(exchange=EXCHANGE, topic=topic(domain), server=node),
            [self._endpoint],
            access_policy=oslo_messaging.ExplicitRPCAccessPolicy,
        )
        self._thread = threading.Thread(target=self._listen, name="rpc-connect", daemon=True)

    def start(self) -> None:
        """Begin to listen as soon as there is a broker."""
        self._thread.start()

    def wait_listening(self, timeout_s: float | None = None) -> bool:
        """Whether calls are taken; waits for it that long."""
        return self._listening.wait(timeout_s)

    def stop(self) -> None:
        """Answer the calls at work, take no more, and close the connection.

        A thread that still waits for its first broker is left behind: oslo.messaging cannot be
        told to give up, the endpoint refuses whatever it may yet hear, and it ends with the
        process.
        """
        with self._guard:
            self._stopping = True
            listening = self._listening.is_set()
        if listening:
            self._server.stop()
            self._server.wait()
        self._endpoint.close()
        if listening:
            self._transport.cleanup()

    def _listen(self) -> None:
        LOG.info("connecting to the message bus")
        try:
            self._server.start(override_pool_size=self._threads)
        except Exception:
            # What is wrong stays wrong until somebody changes the configuration.
            LOG.exception("cannot listen on the message bus: Cinder cannot reach this node")
            return
        with self._guard:
            self._listening.set()
            late = self._stopping
        LOG.info("listening on the message bus")
        if late:
            self._server.stop()


def make_server(conf: cfg.ConfigOpts, verbs: Verbs, domain: str) -> RpcServer | None:
    """The server that the configuration asks for; None when it names no bus.

    :param domain: the Domain for which this node answers
    :raises VStorageError: ``bad_request``, the bus's URL cannot be used
    """
    try:
        # Also registers the option of [DEFAULT], whose default names no bus.
        url = oslo_messaging.TransportURL.parse(conf, conf.rpc.transport_url)
        if str(url) == "rabbit:///":
            return None
        transport = make_transport(conf, url)
    except (oslo_messaging.InvalidTransportURL, oslo_messaging.DriverLoadFailure) as failure:
        raise VStorageError(
            Code.BAD_REQUEST,
            "use the option [rpc] transport_url",
            str(failure),
            "give a URL such as rabbit://USER:PASSWORD@HOST:5672/VHOST",
        ) from failure
    return RpcServer(transport, verbs, domain, conf.host, conf.rpc.threads)


def make_transport(conf: cfg.ConfigOpts, url: object) -> oslo_messaging.RPCTransport:
    """A transport that works on a configuration of its own, whichever oslo.messaging it is.

    oslo.messaging 18 reads options at every call that it has registered on the global
    configuration only; without them a server would take calls and never answer.
    """
    for module, group in _GLOBAL_OPTIONS:
        with contextlib.suppress(ImportError):
            conf.register_opts(getattr(importlib.import_module(module), group), group=group)
    return oslo_messaging.get_rpc_transport(conf, url=url)
