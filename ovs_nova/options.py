"""Options of section [ovs] in nova.conf, cinder.conf and wherever else a host attaches volumes."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from oslo_config import cfg

#: overrides the option in processes whose configuration is not ours to edit
RUN_DIRS_VARIABLE = "VSTORAGE_RUN_DIRS"

OPTS = [
    cfg.ListOpt(
        "run_dirs",
        default=["/run/vstorage"],
        help="Run directories of the vstorage daemons on this host. The environment variable "
        "VSTORAGE_RUN_DIRS (separated by colons) goes before it.",
    ),
    cfg.StrOpt(
        "attach_as",
        default="nbd",
        choices=[
            ("nbd", "over NBD on a unix socket: live migration and everything else works"),
            ("file", "as a file; libvirt refuses to migrate such a server live"),
        ],
        help="How servers get their volumes. Read by nova-compute.",
    ),
    cfg.IntOpt(
        "reconnect_delay",
        default=600,
        min=0,
        help="Seconds for which a server's requests wait when the Edge process restarts, where "
        "libvirt can pass that to QEMU; others fail such requests at once. Read by nova-compute.",
    ),
    cfg.BoolOpt(
        "finish_interrupted",
        default=True,
        help="Whether nova-compute, when it starts, finishes or undoes what a killed one has left "
        "half done of attaching and detaching volumes. It needs the credentials of section "
        "[cinder]. Read by nova-compute.",
    ),
]


def list_opts() -> list[tuple[str, list[Any]]]:
    """All options by group, for oslo-config-generator."""
    return [("ovs", list(OPTS))]


def register(conf: cfg.ConfigOpts = cfg.CONF) -> cfg.ConfigOpts:
    """Make the options known; again is fine."""
    conf.register_opts(OPTS, group="ovs")
    return conf


def run_dirs() -> list[Path]:
    """Where this host's daemons may be found, in order."""
    given = os.environ.get(RUN_DIRS_VARIABLE)
    names = given.split(":") if given else register().ovs.run_dirs
    return [Path(name) for name in names if name]
