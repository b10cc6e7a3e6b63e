"""The RPC server: listens on the message bus for as long as the daemon runs.

The daemon is ready without the bus: a thread of its own waits for the broker, for ever if need be,
and oslo.messaging connects again by itself when it was lost later.

It listens twice: on the topic of this node, always; and on that of its Domain, where the bus gives
calls to all its nodes in turns, as long as this node can do what is asked there (`share.py`).
"""

from __future__ import annotations

import contextlib
import importlib
import logging
import threading
from collections.abc import Callable

import oslo_messaging
from oslo_config import cfg

from ovs_daemon.control.verbs import Verbs
from ovs_daemon.errors import Code, VStorageError
from ovs_daemon.rpc.contract import EXCHANGE, node_topic, topic
from ovs_daemon.rpc.endpoint import SLOW_WAITING, Endpoint

LOG = logging.getLogger(__name__)

# How long a node may take calls that it cannot answer, or none that it could, seconds.
_LOOK_S = 1.0
# How long the end waits until no more calls of the Domain can come, seconds.
_DEAF_S = 5.0
# Modules of oslo.messaging and the groups of options that they register for themselves.
_GLOBAL_OPTIONS = (
    ("oslo_messaging._metrics.client", "oslo_messaging_metrics"),
    ("oslo_messaging._tracing.client", "oslo_messaging_tracing"),
)


class RpcServer:
    """Serves the verbs on this node's topic, and on that of its Domain.

    :param transport: of the message bus; closed by :meth:`stop`
    :param node: name of this node, by which it can be called alone
    :param threads: calls that are worked on at a time; those that are slow have as many again
    :param refusal: why this node is to take no share of the Domain's calls, for now; None: it is
    """

    def __init__(
        self,
        transport: oslo_messaging.RPCTransport,
        verbs: Verbs,
        domain: str,
        node: str,
        threads: int,
        refusal: Callable[[], str | None] = lambda: None,
    ) -> None:
        self._transport = transport
        # Slow calls, at work and waiting, take a thread each, and never one of the others'.
        self._pool = threads + threads + SLOW_WAITING
        self._endpoint = Endpoint(verbs, threads)
        self._domain, self._node = domain, node
        self._refusal = refusal
        self._refused: str | None = None
        self._guard = threading.Condition()
        self._stopping = threading.Event()
        self._listening = threading.Event()
        self._own = self._make(node_topic(domain, node))
        self._shared: oslo_messaging.MessageHandlingServer | None = None
        # How many listen on the Domain's topic: one that was closed does for a moment.
        self._ears = 0
        # What was closed, and has calls at work still.
        self._closing: list[threading.Thread] = []
        self._thread = threading.Thread(target=self._run, name="rpc", daemon=True)

    def start(self) -> None:
        """Begin to listen as soon as there is a broker."""
        self._thread.start()

    def wait_listening(self, timeout_s: float | None = None) -> bool:
        """Whether calls are taken; waits for it that long."""
        return self._listening.wait(timeout_s)

    @property
    def takes_share(self) -> bool:
        """Whether it gets calls of its Domain, or may still until it has stopped listening."""
        return self._ears > 0

    def stop(self) -> None:
        """Answer the calls at work, take no more, and close the connection.

        A thread that still waits for its first broker is left behind: oslo.messaging cannot be
        told to give up, the endpoint refuses whatever it may yet hear, and it ends with the
        process.
        """
        with self._guard:
            self._stopping.set()
            listening = self._listening.is_set()
        if listening:
            self._own.stop()
            self._close_share()
            with self._guard:
                # Another node gets what comes from now on, rather than a refusal from this one.
                self._guard.wait_for(lambda: self._ears == 0, _DEAF_S)
        # Before the servers are waited for: each call that only waits would still be performed.
        self._endpoint.refuse()
        if listening:
            self._own.wait()
            for closing in self._closing:
                closing.join()
        self._endpoint.close()
        if listening:
            self._transport.cleanup()

    def look(self) -> None:
        """Take a share of the Domain's calls, or none: what the thread does again and again."""
        refusal = self._refusal()
        if refusal is None and self._shared is None:
            self._open_share()
        elif refusal is not None:
            if refusal != self._refused:
                LOG.warning("taking no share of what Domain %s is asked: %s", self._domain, refusal)
            self._close_share()
        self._refused = refusal

    def _open_share(self) -> None:
        shared = self._make(topic(self._domain))
        # Waits for the broker, however long, while this daemon may be told to stop.
        shared.start(override_pool_size=self._pool)
        with self._guard:
            self._shared = shared
            self._ears += 1
            late = self._stopping.is_set()
        LOG.info("taking a share of what Domain %s is asked", self._domain)
        if late:
            self._close_share()

    def _close_share(self) -> None:
        with self._guard:
            shared, self._shared = self._shared, None
            self._closing = [one for one in self._closing if one.is_alive()]
            if shared is None:
                return
            # Its calls at work may take long, and it may be wanted again before they are done.
            closing = threading.Thread(target=self._close, args=(shared,), name="rpc-closing")
            closing.daemon = True
            self._closing.append(closing)
            closing.start()

    def _close(self, shared: oslo_messaging.MessageHandlingServer) -> None:
        shared.stop()
        with self._guard:
            self._ears -= 1
            self._guard.notify_all()
        shared.wait()

    def _make(self, name: str) -> oslo_messaging.MessageHandlingServer:
        return oslo_messaging.get_rpc_server(
            self._transport,
            oslo_messaging.Target(exchange=EXCHANGE, topic=name, server=self._node),
            [self._endpoint],
            access_policy=oslo_messaging.ExplicitRPCAccessPolicy,
        )

    def _run(self) -> None:
        LOG.info("connecting to the message bus")
        try:
            self._own.start(override_pool_size=self._pool)
            self.look()
        except Exception:
            # What is wrong stays wrong until somebody changes the configuration.
            LOG.exception("cannot listen on the message bus: Cinder cannot reach this node")
            return
        with self._guard:
            self._listening.set()
            late = self._stopping.is_set()
        LOG.info("listening on the message bus")
        if late:
            self._close_share()
            self._own.stop()
            return
        while not self._stopping.wait(_LOOK_S):
            try:
                self.look()
            except Exception:
                if not self._stopping.is_set():
                    # Without this thread it takes calls that it cannot answer, or none for ever.
                    LOG.exception("it is looked at again whether calls are taken; report this")


def make_server(
    conf: cfg.ConfigOpts,
    verbs: Verbs,
    domain: str,
    refusal: Callable[[], str | None] = lambda: None,
) -> RpcServer | None:
    """The server that the configuration asks for; None when it names no bus.

    :param domain: the Domain for which this node answers
    :param refusal: as :class:`RpcServer` has it
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
    return RpcServer(transport, verbs, domain, conf.host, conf.rpc.threads, refusal)


def make_transport(conf: cfg.ConfigOpts, url: object) -> oslo_messaging.RPCTransport:
    """A transport that works on a configuration of its own, whichever oslo.messaging it is.

    oslo.messaging 18 reads options at every call that it has registered on the global
    configuration only; without them a server would take calls and never answer.
    """
    for module, group in _GLOBAL_OPTIONS:
        with contextlib.suppress(ImportError):
            conf.register_opts(getattr(importlib.import_module(module), group), group=group)
    return oslo_messaging.get_rpc_transport(conf, url=url)
