"""Options of a Cinder backend section, and of cinder-backup.

`list_opts` is the entry point for oslo-config-generator.
"""

from __future__ import annotations

from typing import Any

from cinder.volume import configuration
from oslo_config import cfg

VOLUME_OPTS = [
    cfg.StrOpt(
        "ovs_domain",
        default="default",
        help="The Domain whose volumes this backend section offers: the option domain of "
        "its nodes' vstorage-daemon. One section for each Domain.",
    ),
    cfg.StrOpt(
        "ovs_transport_url",
        secret=True,
        help="The message bus on which the Domain's daemons listen, such as "
        "rabbit://USER:PASSWORD@HOST:5672/VHOST. Not set: Cinder's own.",
    ),
    cfg.FloatOpt(
        "ovs_rpc_timeout",
        default=60.0,
        min=1.0,
        help="Seconds to wait for a daemon's answer before it counts as not there.",
    ),
    cfg.BoolOpt(
        "ovs_online_extend",
        default=False,
        help="Whether attached volumes may be extended. The daemon and the Edge can; set it "
        "where all compute hosts can follow (see doc/openstack.md).",
    ),
]


def list_opts() -> list[tuple[str, list[Any]]]:
    """All options by group."""
    return [(configuration.SHARED_CONF_GROUP, list(VOLUME_OPTS))]


def register(conf: cfg.ConfigOpts) -> None:
    """Let every backend section have the options; repeating it is harmless."""
    conf.register_opts(VOLUME_OPTS, group=configuration.SHARED_CONF_GROUP)
