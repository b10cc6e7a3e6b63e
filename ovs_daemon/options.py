"""The daemon's configuration options and what is derived from them.

`list_opts` is the entry point from which oslo-config-generator makes etc/ovs/vstorage.conf.sample.
"""

from __future__ import annotations

import grp
import os
import pwd
import re
import socket
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from oslo_config import cfg, types
from oslo_log import _options as _log_options
from oslo_log import log

from ovs_daemon.backend import has_identity
from ovs_daemon.errors import Code, VStorageError
from ovs_daemon.policy.model import DtlMode, Role
from ovs_daemon.units import GIB, MIB, format_size, parse_size

# sun_path holds 107 bytes; the longest name below run_dir is "/direct/<36 characters>.sock".
_RUN_DIR_BYTES_MAX = 107 - len("/direct/.sock") - 36


class Size(types.ConfigType):  # type: ignore[misc, unused-ignore]
    """A number of bytes, written with a unit or without ("64MiB")."""

    def __init__(self) -> None:
        super().__init__(type_name="size")

    def __call__(self, value: object) -> int:
        if isinstance(value, int):
            return value
        try:
            return parse_size(str(value))
        except VStorageError as failure:
            raise ValueError(str(failure)) from failure

    def __repr__(self) -> str:
        return "Size"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Size)

    def __hash__(self) -> int:
        return hash(Size)

    def _formatter(self, value: int) -> str:
        return format_size(value).replace(" ", "")


DEFAULT_OPTS = [
    cfg.StrOpt(
        "host",
        default=socket.gethostname(),
        sample_default="localhost",
        help="Name of this node in the registry.",
    ),
    cfg.StrOpt(
        "domain",
        default="default",
        regex=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,62}$",
        help="Name of the Domain in which this node registers when it starts for the first "
        "time: what can fail together, such as a rack, a room or a datacenter. Afterwards "
        "'vstorage node set' changes it.",
    ),
    cfg.StrOpt(
        "recovery_domain",
        help="Name of the Domain whose nodes keep a copy of what this node's volumes have "
        "not yet on the backend, to register with as above. Not set: other nodes of its own "
        "Domain do.",
    ),
    cfg.StrOpt(
        "availability_zone",
        help="OpenStack's availability zone of a Domain that this node makes because the "
        "registry has none. 'vstorage domain set' changes it. A Cinder backend of another "
        "zone refuses to use the Domain.",
    ),
    cfg.ListOpt(
        "roles",
        item_type=types.String(choices=[role.value for role in Role]),
        default=[role.value for role in Role],
        help="What this node does: serve guests (edge), own volumes and keep logs of others "
        "(router), store fragments (osd). Without router it makes no volumes, is given none and no "
        "log, and does not listen on the message bus; without edge Cinder attaches nothing through "
        "it. osd is recorded.",
    ),
    cfg.DictOpt(
        "addresses",
        default={},
        help="Where other nodes reach this one, by use: control, edge_tcp, dtl; such as "
        "dtl:192.0.2.7:6630.",
    ),
    cfg.StrOpt(
        "state_dir", default="/var/lib/vstorage", help="Folder for what must survive a restart."
    ),
    cfg.StrOpt(
        "run_dir",
        default="/run/vstorage",
        help="Folder for sockets: control.sock (the command line), engine.sock and "
        "edge.sock (between engine and Edge), nbd/ and direct/ (guests), volumes/ (files).",
    ),
    cfg.StrOpt(
        "cluster_key_file",
        default="$state_dir/cluster.key",
        help="File with the key by which nodes know attach tokens of each other: the same on all "
        "nodes, at least 32 characters, readable for the daemon alone. A node whose registry is "
        "its own makes it when it is missing; in a cluster it is copied from the first node.",
    ),
    cfg.StrOpt(
        "control_group",
        help="Group (name or number) that may use control.sock besides the daemon's user: the "
        "one of the services that attach volumes, nova-compute and cinder-volume. Who may use it "
        "may do anything to any volume. Not set: nobody.",
    ),
]

REGISTRY_OPTS = [
    cfg.StrOpt(
        "url",
        default="sqlite:///$state_dir/registry.sqlite",
        help="Where the cluster map is kept: sqlite:///PATH, or memory:// to try things "
        "out (forgets everything); in a cluster etcd://HOST:PORT[,HOST:PORT...]/PREFIX with "
        "the options ?timeout=SECONDS&tls=true&ca_cert=FILE&cert=FILE&key=FILE.",
    ),
    cfg.FloatOpt(
        "lease_ttl",
        default=3.0,
        min=1.0,
        max=60.0,
        help="Seconds after a node's last sign of life until others take it for dead. etcd "
        "makes it a whole number of at least 2.",
    ),
]

ALBA_OPTS = [
    cfg.BoolOpt(
        "embedded",
        default=False,
        help="Keep objects erasure-coded in nine folders below state_dir that stand for three "
        "Domains of three nodes: the real backend on one host. A node does so, too, when neither "
        "this nor osd, shared or [engine] backend_dir is set.",
    ),
    cfg.MultiStrOpt(
        "osd",
        default=[],
        help="A folder of this host that keeps fragments, one per disk, as DOMAIN/NODE=PATH; once "
        "for each. With any, objects are erasure-coded over them. For one host; a cluster has "
        "vstorage-osd and the option shared.",
    ),
    cfg.BoolOpt(
        "shared",
        default=False,
        help="Keep objects erasure-coded on the OSDs that the registry knows ('vstorage osd "
        "list'): all nodes of the cluster use the same, and go on with each other's volumes.",
    ),
    cfg.StrOpt(
        "preset",
        default="default",
        help="How the objects of volumes that name no preset are kept: one of those that 'vstorage "
        "preset list' shows.",
    ),
    cfg.StrOpt(
        "key_file",
        help="File of the keys that objects are encrypted with, readable for its owner alone: "
        "lines of a NAME and 64 hexadecimal digits, the key for new objects first. Presets with "
        "encryption need it, or encryption_keys.",
    ),
    cfg.ListOpt(
        "encryption_keys",
        default=[],
        help="Instead of a key_file: names (in Barbican: UUIDs) of 256-bit keys that castellan "
        "fetches as [key_manager] says, the key for new objects first.",
    ),
    cfg.Opt(
        "reserve",
        type=Size(),
        default=GIB,
        help="Bytes that stay free on the disk of each OSD.",
    ),
    cfg.Opt(
        "repair_rate",
        type=Size(),
        default=64 * MIB,
        mutable=True,
        help="Bytes that this node may read and store each second to repair objects.",
    ),
    cfg.FloatOpt(
        "repair_delay",
        default=900.0,
        min=0.0,
        mutable=True,
        help="Seconds after which an OSD that is out of reach is taken for lost, so that what was "
        "on it is computed again and stored on others.",
    ),
    cfg.FloatOpt(
        "survey_interval",
        default=600.0,
        min=1.0,
        mutable=True,
        help="Seconds between two looks at all objects for what has to be repaired; one more when "
        "an OSD is taken for lost.",
    ),
    cfg.Opt(
        "scrub_rate",
        type=Size(),
        default=16 * MIB,
        mutable=True,
        help="Bytes that this node may read each second to compare everything with its checksums; "
        "0: only 'vstorage alba scrub' does it.",
    ),
    cfg.FloatOpt(
        "scrub_interval",
        default=7 * 86400.0,
        min=60.0,
        mutable=True,
        help="Seconds from the end of one scrub to the beginning of the next.",
    ),
    cfg.Opt(
        "rebalance_rate",
        type=Size(),
        default=16 * MIB,
        mutable=True,
        help="Bytes that this node may read and store each second to move fragments to emptier "
        "disks of their Domain; 0: only 'vstorage alba rebalance' does it.",
    ),
    cfg.FloatOpt(
        "rebalance_from",
        default=10.0,
        min=1.0,
        max=100.0,
        mutable=True,
        help="How much fuller, in percent of its size, the fullest disk of a Domain is than its "
        "emptiest one when fragments begin to move. They move until a quarter of it is left.",
    ),
]

OSD_OPTS = [
    cfg.StrOpt(
        "server",
        help="ADDRESS:PORT at which this node's vstorage-osd serves its disks to all nodes, such "
        "as 192.0.2.7:6650. The daemon registers what it serves. Not set: this node has none.",
    ),
]

ENGINE_OPTS = [
    cfg.StrOpt(
        "buffer_dir",
        default="$state_dir/buffer",
        help="Folder of the write buffer, on a fast local disk.",
    ),
    cfg.StrOpt(
        "backend_dir",
        help="Folder in which objects are kept whole, each a file, instead of erasure-coded: for "
        "storage that is safe by itself, such as a file system that all nodes mount. Not set: the "
        "backend of [alba]. Whatever [alba] says of embedded, osd or shared comes first.",
    ),
    cfg.IntOpt(
        "shards",
        default=0,
        min=0,
        max=256,
        help="Threads that serve volumes; 0 makes one per usable CPU.",
    ),
    cfg.Opt(
        "sco_size",
        type=Size(),
        default=64 * MIB,
        help="Data in one SCO of a new volume: a power of two from 1MiB to 256MiB.",
    ),
    cfg.Opt(
        "buffer_size",
        type=Size(),
        default=4 * GIB,
        help="Write buffer that one volume may fill; its writes slow down as it fills.",
    ),
    cfg.Opt(
        "reserve",
        type=Size(),
        default=1 * GIB,
        help="Space that stays free on the write buffer's disk: below it writes wait.",
    ),
    cfg.IntOpt(
        "checkpoint_scos",
        default=16,
        min=1,
        max=65536,
        help="SCOs closed between two checkpoints of a volume's map.",
    ),
    cfg.IntOpt(
        "openings_at_once",
        default=8,
        min=1,
        max=256,
        help="Volumes that this node opens, when it starts or takes over from a node that is dead, "
        "beside each other; a volume and its clones are opened one after the other. So many are "
        "closed beside each other at its orderly end.",
    ),
    cfg.Opt(
        "compaction_rate",
        type=Size(),
        default=64 * MIB,
        help="Bytes a second that background compaction may move, in all.",
    ),
]

DTL_OPTS = [
    cfg.StrOpt(
        "listen",
        help="ADDRESS:PORT at which this node keeps logs for others, and by which it takes part: "
        "its own volumes' logs are kept by others, and others go on with them when it dies. "
        "Set it on all nodes or on none. Not set: every node for itself.",
    ),
    cfg.StrOpt(
        "dir",
        default="$state_dir/dtl",
        help="Folder of the logs that this node keeps for others, on a fast local disk.",
    ),
    cfg.StrOpt(
        "mode",
        default=DtlMode.SYNC.value,
        choices=[mode.value for mode in DtlMode],
        help="Of new volumes: whether a write is acknowledged when another node has it, too "
        "(sync), before (async), or without another node (none).",
    ),
]

NBD_OPTS = [
    cfg.StrOpt(
        "socket_owner",
        help="Owner of guests' sockets as USER:GROUP (names or numbers), such as "
        "libvirt-qemu:kvm. Not set: the daemon's.",
    ),
    cfg.StrOpt(
        "socket_mode",
        default="0660",
        regex=r"^0?[0-7]{3}$",
        help="Permission bits of guests' sockets, octal.",
    ),
    cfg.StrOpt(
        "tcp",
        help="ADDRESS:PORT on which directly attached volumes are also served by name. "
        "Not set: unix sockets only.",
    ),
]

RPC_OPTS = [
    cfg.StrOpt(
        "transport_url",
        secret=True,
        help="The message bus over which Cinder reaches this node, such as "
        "rabbit://USER:PASSWORD@HOST:5672/VHOST. Not set: transport_url of [DEFAULT]; "
        "neither set: Cinder cannot reach it.",
    ),
    cfg.IntOpt(
        "threads",
        default=8,
        min=1,
        max=256,
        help="Requests from the message bus that are worked on at a time, and deletions, which may "
        "have to wait for the backend, besides.",
    ),
]

EDGE_OPTS = [
    cfg.StrOpt(
        "listen",
        help="ADDRESS:PORT on which the engine serves Edges of other hosts over TCP, such as "
        "192.0.2.7:6640, each with an attach token. Not set: only the Edge of this host. Where "
        "others must use another address, edge_tcp in addresses says it.",
    ),
    cfg.FloatOpt(
        "check_interval",
        default=1.0,
        min=0.01,
        max=3600.0,
        mutable=True,
        help="Seconds between two signs of life asked of the Edge process.",
    ),
]

METRICS_OPTS = [
    cfg.StrOpt(
        "listen",
        help="ADDRESS:PORT at which Prometheus finds figures of this node (GET /metrics), such as "
        "127.0.0.1:9750. There is neither a password nor TLS: an address of this host, or of a "
        "network of operators. Not set: nowhere.",
    ),
]

GROUPS: Sequence[tuple[str | None, list[Any]]] = (
    (None, DEFAULT_OPTS),
    ("registry", REGISTRY_OPTS),
    ("alba", ALBA_OPTS),
    ("osd", OSD_OPTS),
    ("engine", ENGINE_OPTS),
    ("dtl", DTL_OPTS),
    ("nbd", NBD_OPTS),
    ("edge", EDGE_OPTS),
    ("rpc", RPC_OPTS),
    ("metrics", METRICS_OPTS),
)


def list_opts() -> list[tuple[str | None, list[Any]]]:
    """All options by group, for oslo-config-generator."""
    return [(group, list(options)) for group, options in GROUPS]


def set_log_defaults() -> None:
    """Log to stderr unless told otherwise; in the daemon and in the sample alike."""
    for _, log_options in _log_options.list_opts():
        if any(option.name == "use_stderr" for option in log_options):
            cfg.set_defaults(log_options, use_stderr=True)


def load(arguments: Sequence[str]) -> cfg.ConfigOpts:
    """Read the command line and the configuration files it names.

    :raises VStorageError: ``bad_request``, a file or value is wrong
    """
    conf = cfg.ConfigOpts()
    log.register_options(conf)
    set_log_defaults()
    for group, options in GROUPS:
        conf.register_opts(options, group=group)
    try:
        conf(list(arguments), project="vstorage", prog="vstorage-daemon")
    except cfg.Error as failure:
        raise _bad("read the configuration", str(failure)) from failure
    return conf


def domain_configured(conf: cfg.ConfigOpts) -> bool:
    """Whether somebody chose the Domain; else it is the default."""
    location = conf.get_location("domain")
    return location is not None and location.location is not cfg.Locations.opt_default


def takes_part(conf: cfg.ConfigOpts) -> bool:
    """Whether this node shares something with others of its cluster."""
    return conf.dtl.listen is not None or conf.alba.shared or conf.osd.server is not None


def engine_config(conf: cfg.ConfigOpts, cluster: str | None = None) -> dict[str, Any]:
    """What the engine is started with; keys, units as in `ovs_daemon/_native.pyi`.

    :param cluster: UUID of the cluster; needed for what nodes share
    :raises VStorageError: ``bad_request``
    """
    engine = conf.engine
    sco_size = engine.sco_size
    if not MIB <= sco_size <= 256 * MIB or sco_size & (sco_size - 1):
        raise _bad(
            "use the option [engine] sco_size",
            f"{format_size(sco_size)} is not a power of two from 1MiB to 256MiB",
        )
    if engine.buffer_size < 4 * sco_size:
        raise _bad(
            "use the option [engine] buffer_size",
            f"{format_size(engine.buffer_size)} is less than four SCOs",
        )
    dtl = {}
    if conf.dtl.listen is not None:
        dtl = {"dtl_listen": conf.dtl.listen, "dtl_dir": conf.dtl.dir}
    return {
        **dtl,
        **({"cluster": cluster} if takes_part(conf) else {}),
        "buffer_dir": engine.buffer_dir,
        **_backend(conf),
        "run_dir": str(run_dir(conf)),
        "shards": engine.shards or len(os.sched_getaffinity(0)),
        "sco_size": sco_size,
        "buffer_size": engine.buffer_size,
        "reserve": engine.reserve,
        "checkpoint_scos": engine.checkpoint_scos,
        "compaction_bytes_per_s": engine.compaction_rate,
        "socket_owner": socket_owner(conf),
        "socket_mode": socket_mode(conf),
        "nbd_tcp": conf.nbd.tcp,
        "edge_listen": conf.edge.listen,
        "cluster_key_file": conf.cluster_key_file,
    }


def _backend(conf: cfg.ConfigOpts) -> dict[str, Any]:
    """The part of the engine's configuration that says where objects go."""
    alba = conf.alba
    osds = [_osd(text) for text in alba.osd]
    if bool(osds) + alba.embedded + alba.shared > 1:
        raise _bad(
            "use the options [alba] embedded, osd and shared", "there can be only one of them"
        )
    folder = _folder(conf)
    if folder is not None:
        return {"backend_dir": folder}
    if alba.shared:
        # Those of the registry come when the engine runs: it goes on without any until then.
        return {"alba": {"osds": [], "preset": alba.preset, "reserve": alba.reserve}}
    if not osds:
        osds = [
            {
                "domain": f"domain{domain}",
                "node": f"node{node}",
                "path": os.path.join(conf.state_dir, "alba", f"domain{domain}", f"node{node}"),
            }
            for domain in (1, 2, 3)
            for node in (1, 2, 3)
        ]
    return {"alba": {"osds": osds, "preset": alba.preset, "reserve": alba.reserve}}


def _folder(conf: cfg.ConfigOpts) -> str | None:
    """The folder in which objects are kept whole; None: they are erasure-coded."""
    alba = conf.alba
    if alba.embedded or alba.osd or alba.shared:
        return None
    if conf.engine.backend_dir is not None:
        return str(conf.engine.backend_dir)
    # Where earlier releases kept them when nothing was said: such a node goes on there.
    before = Path(conf.state_dir) / "backend"
    return str(before) if has_identity(before) else None


def _osd(text: str) -> dict[str, str]:
    place, _, path = text.partition("=")
    domain, _, node = place.partition("/")
    if not (domain and node and path):
        raise _bad("use the option [alba] osd", f"{text!r} is not DOMAIN/NODE=PATH")
    return {"domain": domain, "node": node, "path": path}


def run_dir(conf: cfg.ConfigOpts) -> Path:
    """The folder of sockets.

    :raises VStorageError: ``bad_request``, a socket's path in it would be too long
    """
    path = os.path.abspath(conf.run_dir)
    if len(os.fsencode(path)) > _RUN_DIR_BYTES_MAX:
        raise _bad(
            "use the option run_dir",
            f"{path!r} is longer than {_RUN_DIR_BYTES_MAX} bytes, "
            "so that a socket's path in it would not fit",
        )
    return Path(path)


def socket_mode(conf: cfg.ConfigOpts) -> int:
    """Permission bits of guests' sockets."""
    return int(conf.nbd.socket_mode, 8)


def socket_owner(conf: cfg.ConfigOpts) -> str | None:
    """Owner of guests' sockets as "uid:gid".

    :raises VStorageError: ``bad_request``, there is no such user or group
    """
    text = conf.nbd.socket_owner
    if text is None:
        return None
    match = re.fullmatch(r"([^:]+):([^:]+)", text)
    if match is None:
        raise _bad("use the option [nbd] socket_owner", f"{text!r} is not USER:GROUP")
    user, group = match.groups()
    try:
        uid = int(user) if user.isdigit() else pwd.getpwnam(user).pw_uid
        gid = int(group) if group.isdigit() else grp.getgrnam(group).gr_gid
    except KeyError as unknown:
        raise _bad("use the option [nbd] socket_owner", str(unknown.args[0])) from unknown
    return f"{uid}:{gid}"


def control_group(conf: cfg.ConfigOpts) -> int | None:
    """The gid of those who may use the control socket.

    :raises VStorageError: ``bad_request``, there is no such group
    """
    text = conf.control_group
    if text is None or text.isdigit():
        return None if text is None else int(text)
    try:
        return grp.getgrnam(text).gr_gid
    except KeyError as unknown:
        raise _bad("use the option control_group", str(unknown.args[0])) from unknown


def _bad(what: str, why: str) -> VStorageError:
    return VStorageError(
        Code.BAD_REQUEST,
        what,
        why,
        "correct the configuration file; the sample explains each option",
    )
