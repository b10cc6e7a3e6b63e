"""A disk on a unix socket, in the XML that Nova writes for libvirt and reads back from it.

Nova's own class of a disk knows hosts by name and port only. It writes nothing for ours, and when
it reads the live XML of one (to find a disk that is to be detached, extended or migrated) it keeps
a host without a name, which it then cannot write again. `install` gives the class the two elements
that are missing:

    <source protocol='nbd'>
      <host transport='unix' socket='PATH'/>
      <reconnect delay='SECONDS'/>        libvirt since 9.1; an older one ignores it
    </source>

The class is changed rather than derived from, because Nova makes disks in many places, by name.
"""

from __future__ import annotations

import functools
from typing import Any

from lxml import etree

_MARK = "_ovs_disk"
_UNIX = "unix"


def install(disk: type[Any]) -> None:
    """Let Nova's class of a disk write and read disks on unix sockets; again is fine."""
    if getattr(disk, _MARK, False):
        return
    disk.source_socket = None
    disk.reconnect_delay = None
    disk.format_dom = _writing(disk.format_dom)
    disk.parse_dom = _reading(disk.parse_dom)
    setattr(disk, _MARK, True)


def _writing(original: Any) -> Any:
    @functools.wraps(original)
    def format_dom(self: Any) -> Any:
        element = original(self)
        source = element.find("source")
        if source is not None and self.source_socket:
            host = etree.Element("host", transport=_UNIX, socket=self.source_socket)
            source.insert(0, host)
            if self.reconnect_delay:
                reconnect = etree.Element("reconnect", delay=str(self.reconnect_delay))
                source.insert(1, reconnect)
        return element

    return format_dom


def _reading(original: Any) -> Any:
    @functools.wraps(original)
    def parse_dom(self: Any, xmldoc: Any) -> None:
        original(self, xmldoc)
        host = xmldoc.find("source/host")
        if host is None or host.get("transport") != _UNIX:
            return
        self.source_socket = host.get("socket")
        self.source_hosts, self.source_ports = [], []
        reconnect = xmldoc.find("source/reconnect")
        delay = None if reconnect is None else reconnect.get("delay")
        self.reconnect_delay = None if delay is None else int(delay)

    return parse_dom
