"""Carries packets between network namespaces, or does not: `python switch.py NAME...`

For each name it makes a namespace that has no name in the system, with one interface ``net0`` (a
TUN device), and carries IPv4 packets between them. The kernel removes the namespaces when this
process and those in them have ended, so nothing can be left over. The faults are made here, not by
modules of the kernel, which a machine may not have.

The first line on stdout is ``{NAME: {"file": N, "address": A}}``: descriptor N of this process is
the namespace. Each line on stdin is all that is wrong from now on,
``{"lost": [[FROM, TO], ...], "late": [[FROM, TO, SECONDS], ...]}``; it is answered by ``{}`` when
it holds. The process ends when stdin does.

Nothing is imported of the project, so that the file can be run as it is.
"""

from __future__ import annotations

import ctypes
import fcntl
import heapq
import itertools
import json
import os
import selectors
import struct
import subprocess
import sys
import time
from pathlib import Path

_CLONE_NEWNET = 0x40000000
_TUNSETIFF = 0x400454CA
_IFF_TUN, _IFF_NO_PI = 0x0001, 0x1000
_INTERFACE = "net0"
_MTU = 9000
_PACKETS_AT_A_TIME = 64
_DESTINATION = slice(16, 20)
_VERSION_4 = 4


def address_of(index: int) -> str:
    """The address of a namespace, by its place among the names."""
    return f"10.77.0.{index + 1}"


class Port:
    """A namespace, made by this thread, which is in it afterwards; and its interface."""

    def __init__(self, index: int) -> None:
        libc = ctypes.CDLL(None, use_errno=True)
        if libc.unshare(_CLONE_NEWNET) != 0:
            error = ctypes.get_errno()
            raise OSError(error, f"unshare: {os.strerror(error)}; run it as root")
        self.address = address_of(index)
        self.packed = bytes(map(int, self.address.split(".")))
        self.tun = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK)
        request = struct.pack("16sH22x", _INTERFACE.encode(), _IFF_TUN | _IFF_NO_PI)
        fcntl.ioctl(self.tun, _TUNSETIFF, request)
        for words in (
            f"address add {self.address}/24 dev {_INTERFACE}",
            f"link set {_INTERFACE} mtu {_MTU} up",
            "link set lo up",
        ):
            subprocess.run(["ip", *words.split()], check=True)
        self.namespace = os.open("/proc/self/ns/net", os.O_RDONLY)


class Switch:
    """Carries packets until it is told to end."""

    def __init__(self, names: list[str]) -> None:
        home = os.open("/proc/self/ns/net", os.O_RDONLY)
        self._ports = {name: Port(index) for index, name in enumerate(names)}
        # What this process does from now on is not done in the last of them.
        libc = ctypes.CDLL(None, use_errno=True)
        if libc.setns(home, _CLONE_NEWNET) != 0:
            raise OSError(ctypes.get_errno(), "setns")
        os.close(home)
        self._by_address = {port.packed: name for name, port in self._ports.items()}
        self._lost: set[tuple[str, str]] = set()
        self._late: dict[tuple[str, str], float] = {}
        self._waiting: list[tuple[float, int, int, bytes]] = []
        self._count = itertools.count()
        self._selector = selectors.DefaultSelector()
        for name, port in self._ports.items():
            self._selector.register(port.tun, selectors.EVENT_READ, name)
        self._selector.register(sys.stdin, selectors.EVENT_READ, None)

    def describe(self) -> dict[str, dict[str, object]]:
        """Where the namespaces are."""
        ports = self._ports.items()
        return {name: {"file": port.namespace, "address": port.address} for name, port in ports}

    def run(self) -> None:
        """Return when stdin ends."""
        while True:
            for key, _ in self._selector.select(self._patience()):
                if key.data is not None:
                    self._carry(key.data, key.fd)
                elif not self._obey():
                    return
            self._deliver()

    def _patience(self) -> float | None:
        if not self._waiting:
            return None
        return max(0.0, self._waiting[0][0] - time.monotonic())

    def _carry(self, name: str, tun: int) -> None:
        for _ in range(_PACKETS_AT_A_TIME):
            try:
                packet = os.read(tun, _MTU)
            except BlockingIOError:
                return
            to = self._by_address.get(packet[_DESTINATION])
            if packet[0] >> 4 != _VERSION_4 or to is None or (name, to) in self._lost:
                continue
            into, late = self._ports[to].tun, self._late.get((name, to))
            if late is None:
                _put(into, packet)
            else:
                entry = (time.monotonic() + late, next(self._count), into, packet)
                heapq.heappush(self._waiting, entry)

    def _deliver(self) -> None:
        now = time.monotonic()
        while self._waiting and self._waiting[0][0] <= now:
            _, _, into, packet = heapq.heappop(self._waiting)
            _put(into, packet)

    def _obey(self) -> bool:
        """Take one line; False when there are no more."""
        line = sys.stdin.readline()
        if not line:
            return False
        wrong = json.loads(line)
        self._lost = {(one, other) for one, other in wrong["lost"]}
        self._late = {(one, other): seconds for one, other, seconds in wrong["late"]}
        print("{}", flush=True)
        return True


def _put(tun: int, packet: bytes) -> None:
    try:
        os.write(tun, packet)
    except OSError:
        # A network may lose packets: of an interface that is full, or is going away.
        return


def main(names: list[str]) -> None:
    """Be the network of these until stdin ends."""
    if not Path("/dev/net/tun").exists():
        raise SystemExit("there is no /dev/net/tun: this kernel, or container, has no TUN devices")
    switch = Switch(names)
    print(json.dumps(switch.describe()), flush=True)
    switch.run()


if __name__ == "__main__":
    main(sys.argv[1:])
