"""The program `vstorage-daemon`: hosts the engine and serves the control API.

Signals: SIGTERM and SIGINT finish the requests at work, move what the write buffer holds to the
backend, and end; SIGHUP reads the configuration again (options marked mutable). Killing it with
SIGKILL is safe: the next start recovers.
"""

from __future__ import annotations

import dataclasses
import fcntl
import json
import logging
import os
import resource
import signal
import sys
import uuid
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path

from oslo_config import cfg
from oslo_log import log

from ovs_daemon import options
from ovs_daemon.backend import boot_of_kernel, identity_of_buffers, identity_of_folder
from ovs_daemon.control.api import Api
from ovs_daemon.control.domains import domain_of
from ovs_daemon.control.dtl import DtlDesk
from ovs_daemon.control.edge_link import EdgeLink
from ovs_daemon.control.host import Host, Membership, Settings
from ovs_daemon.control.liveness import Liveness
from ovs_daemon.control.osds import OsdLink, specs_of
from ovs_daemon.control.preset_use import spec_of
from ovs_daemon.control.recovery import recover
from ovs_daemon.control.server import ControlServer
from ovs_daemon.control.share import Share
from ovs_daemon.control.steward import Steward
from ovs_daemon.control.stopping import put_away
from ovs_daemon.control.store import Store
from ovs_daemon.control.tokens import load_key
from ovs_daemon.control.topology import Alive
from ovs_daemon.control.upkeep import Pace, UpkeepLink
from ovs_daemon.control.verbs import Verbs
from ovs_daemon.edge import EdgeClient
from ovs_daemon.engine import EngineClient
from ovs_daemon.errors import Code, VStorageError
from ovs_daemon.keys import load_keys
from ovs_daemon.metrics.figures import Gatherer
from ovs_daemon.metrics.server import MetricsServer
from ovs_daemon.notify import notify
from ovs_daemon.policy.model import DtlMode, Role
from ovs_daemon.policy.ownership import Home
from ovs_daemon.registry import open_registry
from ovs_daemon.rpc.events import make_events
from ovs_daemon.rpc.server import RpcServer, make_server

LOG = logging.getLogger(__name__)

_SIGNALS = {signal.SIGTERM, signal.SIGINT, signal.SIGHUP}


class _Mutable:
    """The options that SIGHUP changes.

    oslo.config checks a changed value only when it is read, and by then the old one is gone; so
    good values are kept here, and a wrong one is refused while the signal is handled.
    """

    def __init__(self, conf: cfg.ConfigOpts) -> None:
        self._conf = conf
        self.check_interval_s: float = conf.edge.check_interval
        self.upkeep = _upkeep(conf)

    def reload(self) -> None:
        """Read the files again; raises cfg.Error, ValueError or OSError and keeps what was."""
        changed = self._conf.mutate_config_files()
        upkeep = _upkeep(self._conf)
        self.check_interval_s = self._conf.edge.check_interval
        self.upkeep = upkeep
        names = ", ".join(sorted(f"{group or 'DEFAULT'}.{name}" for group, name in changed))
        LOG.info("configuration read again; changed: %s", names or "nothing")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run until told to stop; returns the exit status."""
    # Threads inherit the mask, so that signals reach nobody but `_wait`.
    signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)
    try:
        conf = options.load(sys.argv[1:] if arguments is None else arguments)
        log.setup(conf, "vstorage")
        _raise_file_limit()
        _run(conf)
    except VStorageError as failure:
        print(f"vstorage-daemon: {failure}", file=sys.stderr)
        return 1
    return 0


def _raise_file_limit() -> None:
    """Take all the files that this process may have: a volume in use has some of its own."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == hard:
        return
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    except (OSError, ValueError) as failure:
        LOG.warning("at most %d files can be open: %s", soft, failure)


def _run(conf: cfg.ConfigOpts) -> None:
    state_dir, run_dir = Path(conf.state_dir), options.run_dir(conf)
    _make_folders(state_dir, run_dir)
    lock = _claim(state_dir)
    registry = open_registry(conf.registry.url)
    store = Store(registry)
    key = cluster_key(conf)
    engine = start_engine(conf, store)
    edge = EdgeClient(run_dir / "edge.sock")
    settings = Settings(
        node=conf.host,
        run_dir=run_dir,
        sco_size=conf.engine.sco_size,
        socket_owner=options.socket_owner(conf),
        socket_mode=options.socket_mode(conf),
        domain=conf.domain,
        availability_zone=conf.availability_zone,
        membership=_membership(conf, state_dir, engine, store.cluster_id()),
        dtl_mode=DtlMode(conf.dtl.mode),
        cluster_key=key,
        preset=None if _in_folder(conf) else conf.alba.preset,
        home=_home(conf),
        buffer_dir=Path(conf.engine.buffer_dir),
        dtl_dir=None if conf.dtl.listen is None else Path(conf.dtl.dir),
    )
    host = Host(store, engine, edge, settings)
    me = Alive(conf.host, settings.membership.instance, host.now())
    # Nobody takes over what has no log elsewhere, so that a node for itself needs no lease.
    shared = conf.dtl.listen is not None
    renewed = engine.extend_lease if shared else None
    liveness = Liveness(store, me, conf.registry.lease_ttl, renewed)
    # Before anything is changed: another host may live under this name.
    liveness.begin()
    liveness.start()
    if shared:
        host.guard = liveness
    events = make_events(conf)
    mutable = _Mutable(conf)
    link = EdgeLink(host, lambda: mutable.check_interval_s)
    tell = None if events is None else events.tell
    osds = OsdLink(host, conf.osd.server, conf.alba.shared)
    upkeep = UpkeepLink(host, conf.alba.shared, lambda: mutable.upkeep)
    steward = Steward(
        host,
        lambda: shared,
        tell,
        changed=link.wake,
        osds=osds,
        upkeep=upkeep,
        at_once=conf.engine.openings_at_once,
    )
    desk = DtlDesk(host, steward.fenced, steward.recorded) if shared else None
    if desk is not None:
        # An engine that opens volumes may ask at once.
        desk.start()
    # Before volumes are opened: their objects may be on these.
    osds.tend()
    recover(host, conf.engine.openings_at_once)
    verbs = Verbs(host, lambda: edge.reachable)
    server = ControlServer(Api(verbs), run_dir / "control.sock", options.control_group(conf))
    rpc = _rpc_server(conf, host, verbs, Share(host, lambda: liveness.held))
    metrics = _metrics_server(conf, host)
    # The first look before anybody can ask: a ready daemon has told the Edge what to serve.
    link.check()
    link.start()
    server.start()
    if rpc is not None:
        rpc.start()
    if metrics is not None:
        metrics.start()
    steward.start()
    LOG.info("ready: version %s on %s", _release(), run_dir)
    notify("READY=1")
    _wait(mutable)
    notify("STOPPING=1")
    LOG.info("stopping: the write buffer is moved to the backend")
    if rpc is not None:
        rpc.stop()
    if metrics is not None:
        metrics.stop()
    server.stop()
    link.stop()
    steward.stop()
    put_away(host, conf.engine.openings_at_once)
    engine.shutdown(drain=True)
    if desk is not None:
        desk.stop()
    if events is not None:
        events.stop()
    # Last: until here nobody else may believe that this node is gone.
    liveness.stop()
    edge.close()
    registry.close()
    os.close(lock)
    LOG.info("stopped")


def _rpc_server(conf: cfg.ConfigOpts, host: Host, verbs: Verbs, share: Share) -> RpcServer | None:
    """What listens on the message bus; None where none is configured, or nothing is to be asked.

    A node that only attaches makes no volumes: what Cinder asks of its Domain must not get there.
    """
    node = host.store.node(conf.host)
    if node is not None and Role.ROUTER not in node.roles:
        LOG.info("not listening on the message bus: without the role router there is no need")
        return None
    domain = domain_of(host)
    name = conf.domain if domain is None else domain.name
    return make_server(conf, verbs, name, share.refusal)


def _metrics_server(conf: cfg.ConfigOpts, host: Host) -> MetricsServer | None:
    """What Prometheus asks; None where nobody shall."""
    listen = conf.metrics.listen
    return None if listen is None else MetricsServer(Gatherer(host).gather, listen)


def _upkeep(conf: cfg.ConfigOpts) -> Pace:
    alba = conf.alba
    return Pace(
        repair_rate=alba.repair_rate,
        scrub_rate=alba.scrub_rate,
        rebalance_rate=alba.rebalance_rate,
        repair_delay=alba.repair_delay,
        survey_interval=alba.survey_interval,
        scrub_interval=alba.scrub_interval,
        rebalance_from=alba.rebalance_from,
    )


def cluster_key(conf: cfg.ConfigOpts) -> bytes | None:
    """The cluster's key; made when it is missing on a node whose registry is its own.

    :raises VStorageError: ``bad_request``, it is needed and cannot be used
    """
    path = Path(conf.cluster_key_file)
    key = load_key(path, may_make=not conf.registry.url.startswith("etcd:"))
    needed = conf.alba.shared or conf.osd.server is not None or conf.edge.listen is not None
    if key is None and needed:
        raise VStorageError(
            Code.BAD_REQUEST,
            f"use the cluster key {path}",
            "there is no such file, and [edge] listen, [alba] shared and [osd] server need it to "
            "know who belongs to the cluster",
            "copy it from another node; on the first node: "
            f"(umask 077; openssl rand -hex 32 > {path})",
        )
    return key


def start_engine(conf: cfg.ConfigOpts, store: Store) -> EngineClient:
    """Start the native engine.

    :param store: knows the cluster, and the presets that were created
    :raises VStorageError: the extension is missing, or an engine code
    """
    what = "start the engine"
    try:
        from ovs_daemon import _native
    except ImportError as missing:
        raise VStorageError(
            Code.INTERNAL, what, str(missing), "install the built wheel, or run 'make build'"
        ) from missing
    configuration = options.engine_config(conf, store.cluster_id())
    if conf.alba.shared:
        specs = specs_of(store.all_osds())
        configuration["alba"]["osds"] = [dataclasses.asdict(spec) for spec in specs]
    if "alba" in configuration:
        preset = store.preset(conf.alba.preset)
        if preset is not None:
            configuration["alba"]["preset"] = spec_of(preset)
        configuration["alba"]["keys"] = load_keys(conf)
    try:
        return EngineClient(_native.Engine(json.dumps(configuration)), _native.EngineError)
    except _native.EngineError as failure:
        raise VStorageError.from_native(*failure.args) from failure


def _make_folders(state_dir: Path, run_dir: Path) -> None:
    try:
        state_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        # Guests run as another user and must pass through to their sockets.
        for folder in (run_dir, run_dir / "nbd", run_dir / "direct"):
            folder.mkdir(mode=0o755, parents=True, exist_ok=True)
    except OSError as failure:
        raise VStorageError(
            Code.INTERNAL,
            "make the daemon's folders",
            str(failure),
            "correct state_dir and run_dir, or the rights of the folders above them",
        ) from failure


def _membership(
    conf: cfg.ConfigOpts, state_dir: Path, engine: EngineClient, cluster: str
) -> Membership:
    addresses = dict(conf.addresses)
    if conf.dtl.listen is not None:
        # The engine knows the port that it took; an address that others can use may be given.
        listening = engine.status().get("dtl_server") or {}
        addresses.setdefault("dtl", str(listening.get("address", conf.dtl.listen)))
    if conf.edge.listen is not None:
        addresses.setdefault("edge_tcp", conf.edge.listen)
    return Membership(
        domain_configured=options.domain_configured(conf),
        recovery_domain=conf.recovery_domain,
        roles=tuple(Role(role) for role in conf.roles),
        addresses=tuple(sorted(addresses.items())),
        release=_release(),
        instance=_instance(state_dir),
        backend=_backend(conf, cluster),
    )


def _backend(conf: cfg.ConfigOpts, cluster: str) -> str:
    """Identity of the backend. OSDs of the registry are the cluster's; folders are one node's own,
    whatever becomes of its disks."""
    folder = options.engine_config(conf).get("backend_dir")
    if folder is not None:
        return identity_of_folder(Path(folder))
    return f"alba:{cluster if conf.alba.shared else conf.host}"


def _home(conf: cfg.ConfigOpts) -> Home:
    """What this node's write buffers rest on."""
    folder = Path(conf.engine.buffer_dir)
    return Home(boot_of_kernel(), identity_of_buffers(folder))


def _in_folder(conf: cfg.ConfigOpts) -> bool:
    """Whether objects are stored in a folder, not on OSDs."""
    return "backend_dir" in options.engine_config(conf)


def _release() -> str:
    return metadata.version("open-vstorage")


def _instance(state_dir: Path) -> str:
    """What tells this host from another one of the same name, made once."""
    path = state_dir / "instance"
    try:
        return path.read_text().strip()
    except FileNotFoundError:
        made = str(uuid.uuid4())
        path.write_text(f"{made}\n")
        return made


def _claim(state_dir: Path) -> int:
    """Be the only daemon on this state; the lock goes with the process, however it ends."""
    path = state_dir / "daemon.lock"
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as taken:
        os.close(descriptor)
        raise VStorageError(
            Code.BUSY,
            f"use the state in {state_dir}",
            "another vstorage-daemon uses it",
            "stop that one, or give this one its own state_dir and run_dir",
        ) from taken
    return descriptor


def _wait(mutable: _Mutable) -> None:
    """Return when it is time to stop."""
    while signal.sigwait(_SIGNALS) == signal.SIGHUP:
        notify("RELOADING=1")
        try:
            mutable.reload()
        except (cfg.Error, ValueError, OSError) as failure:
            LOG.error("the configuration stays as it was: %s", failure)
        notify("READY=1")
