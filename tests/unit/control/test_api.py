"""The control API through its client, over a real unix socket; then with malformed requests."""

from __future__ import annotations

import os
import socket
import stat
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from ovs_daemon.client import Client
from ovs_daemon.control.api import Api
from ovs_daemon.control.server import ControlServer
from ovs_daemon.control.verbs import Verbs
from ovs_daemon.errors import VStorageError
from tests.support.api_server import serving
from tests.support.house import House
from tests.unit.control.test_volumes import GIB, refused


@pytest.fixture
def run_dir(house: House) -> Iterator[Path]:
    with serving(house) as folder:
        yield folder


@pytest.fixture
def client(run_dir: Path) -> Iterator[Client]:
    made = Client(run_dir / "control.sock")
    yield made
    made.close()


@pytest.fixture
def raw(run_dir: Path) -> Iterator[httpx.Client]:
    transport = httpx.HTTPTransport(uds=str(run_dir / "control.sock"))
    with httpx.Client(transport=transport, base_url="http://vstorage") as made:
        yield made


def test_only_the_owner_may_connect(run_dir: Path) -> None:
    mode = (run_dir / "control.sock").stat().st_mode
    assert stat.S_ISSOCK(mode)
    assert stat.S_IMODE(mode) == 0o600


def test_a_volumes_life(client: Client) -> None:
    made = client.create_volume("web1", GIB)
    assert (made["name"], made["size"], made["state"]) == ("web1", GIB, "available")
    assert made["attached"] is None
    assert client.list_volumes() == [made]
    shown = client.show_volume("web1")
    assert shown.pop("counters")["uuid"] == made["uuid"]
    assert shown == made
    assert client.show_volume(made["uuid"])["name"] == "web1"
    assert client.resize_volume("web1", 2 * GIB)["size"] == 2 * GIB
    attached = client.attach_volume("web1")
    assert attached["attached"] == "edge"
    assert attached["uri"] == f"nbd+unix:///?socket={attached['socket']}"
    assert client.detach_volume("web1")["uri"] is None
    assert client.delete_volume("web1") is True
    assert client.delete_volume(made["uuid"]) is False
    assert client.list_volumes() == []


def test_snapshots_and_clones(client: Client) -> None:
    client.create_volume("web1", GIB)
    snapshot = client.create_snapshot("web1", "monday")
    assert (snapshot["name"], snapshot["volume"], snapshot["size"]) == ("monday", "web1", GIB)
    clone = client.create_volume("web2", None, "web1", "monday")
    assert clone["parent"]["volume"] == "web1"
    assert clone["parent"]["snapshot"] == "monday"
    (listed,) = client.list_snapshots("web1")
    assert listed == {**snapshot, "clones": 1}
    assert client.list_snapshots() == [listed]
    assert client.revert_volume("web1", "monday")["name"] == "web1"
    assert client.delete_snapshot("web1", "monday") is True
    assert client.list_snapshots() == []
    assert client.delete_volume("web1") is True
    assert [one["name"] for one in client.list_volumes()] == ["web2"]
    hidden = client.list_volumes(everything=True)[0]
    assert (hidden["name"], hidden["state"]) == ("web1", "hidden")
    assert client.set_template("web2", True)["template"] is True
    assert client.attach_volume("web2", "direct", read_only=True)["attached"] == "direct"


def test_status(client: Client) -> None:
    client.create_volume("web1", GIB)
    status = client.status()
    assert status["node"] == "node1"
    assert status["findings"] == []
    assert [one["name"] for one in status["volumes"]] == ["web1"]
    assert status["buffer_free_bytes"] == 1 << 30


def test_errors_arrive_whole(client: Client) -> None:
    with pytest.raises(VStorageError) as caught:
        client.show_volume("nope")
    assert caught.value.to_dict() == {
        "code": "unknown_volume",
        "what": "show volume 'nope'",
        "why": "there is no volume 'nope'",
        "fix": "'vstorage volume list' shows the volumes",
    }


@pytest.mark.parametrize("name", ["", "a/b", "/", "../volumes", "a b", "%2e", "ü", "?all=true"])
def test_odd_names_are_unknown_volumes(client: Client, name: str) -> None:
    with refused("unknown_volume"):
        client.show_volume(name)


def test_nobody_listens(tmp_path: Path) -> None:
    with refused("daemon_unavailable"):
        Client(tmp_path / "control.sock").status()


def test_engine_errors_pass_with_their_code(client: Client, house: House) -> None:
    house.engine.fail = {"create_volume"}
    with refused("io"):
        client.create_volume("web1", GIB)


def test_the_api_says_its_versions(raw: httpx.Client) -> None:
    assert raw.get("/").json() == {"versions": ["v1"]}


@pytest.mark.parametrize(
    ("method", "path", "body", "status"),
    [
        ("POST", "/v1/volumes", b"{", 400),
        ("POST", "/v1/volumes", b"[]", 400),
        ("POST", "/v1/volumes", b'"x"', 400),
        ("POST", "/v1/volumes", b"\xff\xfe", 400),
        ("POST", "/v1/volumes", b"", 400),
        ("POST", "/v1/volumes", b'{"name": "a"}', 400),
        ("POST", "/v1/volumes", b'{"name": 1, "size": 4096}', 400),
        ("POST", "/v1/volumes", b'{"name": "a", "size": "4096"}', 400),
        ("POST", "/v1/volumes", b'{"name": "a", "size": true}', 400),
        ("POST", "/v1/volumes", b'{"name": "a", "size": 4096.0}', 400),
        ("POST", "/v1/volumes", b'{"name": "a", "size": 4096, "colour": "red"}', 400),
        ("POST", "/v1/volumes", b'{"name": "a", "from": "b"}', 400),
        ("POST", "/v1/volumes", b'{"name": "a", "from": {}}', 400),
        ("POST", "/v1/volumes", b'{"name": "a", "from": {"volume": "b"}}', 404),
        ("PATCH", "/v1/volumes/web1", b"{}", 400),
        ("PATCH", "/v1/volumes/web1", b'{"size": 8192, "template": true}', 400),
        ("PATCH", "/v1/volumes/web1", b'{"template": "yes"}', 400),
        ("PUT", "/v1/volumes/web1/attachment", b'{"mode": "scsi"}', 400),
        ("DELETE", "/v1/volumes/web1?cascade=yes", b"", 400),
        ("DELETE", "/v1/volumes/nope", b"", 404),
        ("GET", "/v2/volumes", b"", 404),
        ("GET", "/v1/volumes/web1/nothing", b"", 404),
        ("POST", "/v1/volumes/web1", b"", 405),
        ("POST", "/v1/volumes", b'{"name": "' + b"x" * (2 << 20) + b'"}', 413),
    ],
)
def test_bad_requests(
    raw: httpx.Client, client: Client, method: str, path: str, body: bytes, status: int
) -> None:
    client.create_volume("web1", GIB)
    response = raw.request(method, path, content=body)
    assert response.status_code == status
    error: dict[str, Any] = response.json()["error"]
    assert all(error[part] for part in ("code", "what", "why", "fix"))
    assert [one["name"] for one in client.list_volumes()] == ["web1"]


@pytest.mark.parametrize(
    "garbage",
    [b"\x00" * 100, b"GET\r\n\r\n", b"GET / HTTP/9.9\r\n\r\n", b"POST /v1/volumes HTTP/1.1\r\n"],
)
def test_garbage_harms_nobody_else(run_dir: Path, client: Client, garbage: bytes) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as stranger:
        stranger.connect(str(run_dir / "control.sock"))
        stranger.sendall(garbage)
        stranger.shutdown(socket.SHUT_WR)
        client.create_volume("web1", GIB)
        stranger.recv(65536)


def test_a_bug_is_an_answer(client: Client, house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken() -> None:
        raise ZeroDivisionError("boom")

    with monkeypatch.context() as patch:
        patch.setattr(house.host.store, "volumes", broken)
        with refused("internal"):
            client.list_volumes()
    assert client.list_volumes() == []


def test_many_at_once(run_dir: Path, house: House) -> None:
    """Different volumes side by side; one volume's verbs take turns and the loser is told why."""
    outcomes: list[str] = []

    def work(number: int) -> None:
        client = Client(run_dir / "control.sock")
        client.create_volume(f"own{number}", GIB)
        client.create_snapshot(f"own{number}", "s")
        try:
            client.create_volume("contested", GIB)
            outcomes.append("won")
        except VStorageError as failure:
            outcomes.append(failure.code)
        client.create_volume(f"clone{number}", None, "own0" if number % 2 else f"own{number}")
        client.delete_volume(f"clone{number}")
        client.delete_volume(f"own{number}", cascade=True)
        client.close()

    first = Client(run_dir / "control.sock")
    first.create_volume("keeper", GIB)
    workers = [threading.Thread(target=work, args=(2 * number,)) for number in range(6)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert sorted(outcomes) == ["duplicate_name"] * 5 + ["won"]
    assert sorted(one["name"] for one in first.list_volumes(True)) == ["contested", "keeper"]
    first.close()


def test_the_socket_may_be_shared_with_a_group(house: House, tmp_path: Path) -> None:
    path = tmp_path / "control.sock"
    server = ControlServer(Api(Verbs(house.host, lambda: True)), path, group=os.getgid())
    server._server.expiration_interval = 0.01
    server.start()
    assert path.stat().st_mode & 0o777 == 0o660
    assert path.stat().st_gid == os.getgid()
    server.stop()
