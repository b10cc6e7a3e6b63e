"""qemu-img on a volume's NBD socket."""

from __future__ import annotations

import os

from cinder import utils as cinder_utils


def run(uri: str, command: str, *arguments: str) -> None:
    """Run a command of qemu-img that opens a volume.

    :param uri: of the volume's NBD export on a unix socket
    :raises ProcessExecutionError: it failed
    """
    # The daemon gives guests' sockets to the hypervisor's user; who is not in its group asks
    # rootwrap, whose filters for cinder-volume allow qemu-img.
    as_root = not os.access(socket_of(uri), os.R_OK | os.W_OK)
    cinder_utils.execute("qemu-img", command, *arguments, run_as_root=as_root)


def socket_of(uri: str) -> str:
    """The unix socket of an NBD export."""
    return uri.partition("socket=")[2]


def option(value: str) -> str:
    """A value within QEMU's lists of options, where a comma begins the next one."""
    return value.replace(",", ",,")
