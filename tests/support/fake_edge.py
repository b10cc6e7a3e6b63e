"""A twin of the Edge process: the same calls as `ovs_daemon.edge.EdgeClient`, no sockets."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ovs_daemon.edge import EdgeClient, EdgeUnavailable
from ovs_daemon.errors import Code, VStorageError


class FakeEdge(EdgeClient):
    """:param up: whether it answers; one that does not has ``gone`` or only hangs"""

    def __init__(self) -> None:
        super().__init__(Path("/run/vstorage/edge.sock"))
        self.up = True
        self.gone = True
        #: what it says of its release; None: it tells none, as those of earlier releases did
        self.says: str | None = None
        self.served: dict[str, dict[str, Any]] = {}
        #: volumes whose guests' connections were closed, in order
        self.dropped: list[str] = []
        #: what it says of a detach: whether all has ended that guests had asked for
        self.detached: dict[str, Any] = {"confirmed": True}
        #: what it was told about where volumes are, in order
        self.retargeted: list[dict[str, Any]] = []

    def restart(self) -> None:
        """It comes back knowing nothing."""
        self.up = True
        self.served.clear()

    def _call(self, what: str, request: dict[str, Any]) -> dict[str, Any]:
        if not self.up:
            raise EdgeUnavailable(what, Path("edge.sock"), "the test stopped it", self.gone)
        if request["op"] == "attach":
            self.served[request["volume"]] = request
        elif request["op"] == "detach":
            if self.served.pop(request["volume"], None) is None:
                raise VStorageError(Code.UNKNOWN_VOLUME, what, "this Edge does not serve it", "")
            self.dropped.append(request["volume"])
            return {"ok": True, **self.detached}
        elif request["op"] == "retarget":
            self.retargeted.append(request)
        elif request["op"] == "drop":
            self.dropped.append(request["volume"])
        elif request["op"] == "ping" and self.says is not None:
            return {"ok": True, "release": self.says}
        elif request["op"] == "list":
            return {
                "ok": True,
                "volumes": [{"volume": uuid, "state": "serving"} for uuid in self.served],
            }
        return {"ok": True}


def generation_of(token: str) -> int:
    """The generation of a volume's attachments that a token carries."""
    return int.from_bytes(bytes.fromhex(token)[16:24], "little")
