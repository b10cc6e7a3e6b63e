"""One suite for every registry driver: what ovs_daemon/registry/driver.py promises."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from ovs_daemon.errors import VStorageError
from ovs_daemon.registry import (
    Absent,
    Conflict,
    Create,
    Delete,
    Operation,
    Registry,
    Unchanged,
    Update,
    open_registry,
    retry,
)
from ovs_daemon.registry.memory import MemoryRegistry
from tests.support.etcd import Etcd

DRIVERS = ("memory", "sqlite", "etcd")
PERSISTENT = ("sqlite", "etcd")


def url(driver: str, request: pytest.FixtureRequest, folder: Path) -> str:
    match driver:
        case "etcd":
            # Folders have names of their own, and so has what is stored for a test.
            etcd: Etcd = request.getfixturevalue("etcd")
            return etcd.url(str(folder))
        case "sqlite":
            return f"sqlite://{folder}/sub/registry.sqlite"
    return "memory://"


@pytest.fixture(params=DRIVERS)
def registry(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Registry]:
    opened = open_registry(url(request.param, request, tmp_path))
    yield opened
    opened.close()


@pytest.fixture(params=PERSISTENT)
def persistent_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    return url(request.param, request, tmp_path)


def version(registry: Registry, kind: str, ident: str) -> int:
    record = registry.get(kind, ident)
    assert record is not None
    return record.version


def test_get_of_nothing_is_none(registry: Registry) -> None:
    assert registry.get("volume", "a") is None
    assert registry.list("volume") == []


def test_create_get_and_list(registry: Registry) -> None:
    body = {"size": 2**63, "name": "Zoë", "parent": None, "tags": ["x", {"y": 1.5}]}
    stored = registry.commit([Create("volume", "b", body), Create("node", "n", {})])
    registry.commit([Create("volume", "a", {})])
    record = registry.get("volume", "b")
    assert record is not None
    assert (record.kind, record.ident, record.version, record.body) == ("volume", "b", stored, body)
    assert [one.ident for one in registry.list("volume")] == ["a", "b"]
    assert [one.ident for one in registry.list("node")] == ["n"]


def test_kinds_do_not_mix(registry: Registry) -> None:
    registry.commit([Create("volume", "a", {"is": "volume"})])
    registry.commit(
        [Create("volume/a", "", {"is": "odd"}), Create("snapshot", "a", {"is": "snap"})]
    )
    found = [registry.get(kind, ident) for kind, ident in (("volume", "a"), ("snapshot", "a"))]
    assert [one.body["is"] for one in found if one] == ["volume", "snap"]


def test_update_swaps_and_raises_the_version(registry: Registry) -> None:
    first = registry.commit([Create("volume", "a", {"epoch": 1})])
    second = registry.commit([Update("volume", "a", first, {"epoch": 2})])
    assert second > first
    record = registry.get("volume", "a")
    assert record is not None
    assert (record.version, record.body) == (second, {"epoch": 2})


def test_a_version_never_comes_back(registry: Registry) -> None:
    first = registry.commit([Create("volume", "a", {"life": 1})])
    registry.commit([Delete("volume", "a", first)])
    second = registry.commit([Create("volume", "a", {"life": 2})])
    assert second > first
    with pytest.raises(Conflict):
        registry.commit([Update("volume", "a", first, {"life": 3})])


@pytest.mark.parametrize(
    "failing",
    [
        lambda seen: Create("volume", "a", {}),
        lambda seen: Update("volume", "a", seen - 1, {}),
        lambda seen: Update("volume", "none", seen, {}),
        lambda seen: Delete("volume", "a", seen - 1),
        lambda seen: Delete("volume", "none", seen),
        lambda seen: Unchanged("volume", "a", seen - 1),
        lambda seen: Unchanged("volume", "none", seen),
        lambda seen: Absent("volume", "a"),
    ],
)
@pytest.mark.parametrize("place", ["first", "last"])
def test_a_failed_condition_changes_nothing(
    registry: Registry, failing: Callable[[int], Operation], place: str
) -> None:
    registry.commit([Create("volume", "z", {})])
    seen = registry.commit(
        [Create("volume", "a", {"keep": True}), Create("node", "n", {"keep": 1})]
    )
    others: list[Operation] = [
        Create("volume", "new", {}),
        Update("node", "n", seen, {"keep": 2}),
        Delete("volume", "z", version(registry, "volume", "z")),
    ]
    bad = failing(seen)
    before = [registry.list(kind) for kind in ("volume", "node")]
    with pytest.raises(Conflict) as caught:
        registry.commit([bad, *others] if place == "first" else [*others, bad])
    assert caught.value.operation == bad
    assert (caught.value.found is None) == (bad.ident == "none")
    assert [registry.list(kind) for kind in ("volume", "node")] == before


def test_conditions_alone(registry: Registry) -> None:
    seen = registry.commit([Create("volume", "a", {})])
    registry.commit(
        [Unchanged("volume", "a", seen), Absent("volume", "b"), Create("volume", "c", {})]
    )
    assert version(registry, "volume", "a") == seen


def test_what_there_is_room_for_is_taken(registry: Registry) -> None:
    assert registry.has_room(1000)
    registry.commit([Create("volume", str(number), {}) for number in range(1000)])


def test_one_record_twice_is_refused(registry: Registry) -> None:
    with pytest.raises(ValueError, match="twice"):
        registry.commit([Create("volume", "a", {}), Absent("volume", "a")])
    assert registry.list("volume") == []


def test_what_is_no_json_is_refused_whole(registry: Registry) -> None:
    with pytest.raises(TypeError):
        registry.commit([Create("volume", "a", {}), Create("volume", "b", {"set": {1}})])
    assert registry.list("volume") == []


def test_bodies_are_not_shared(registry: Registry) -> None:
    body = {"list": [1]}
    registry.commit([Create("volume", "a", body)])
    body["list"].append(2)
    read = registry.get("volume", "a")
    assert read is not None
    read.body["list"].append(3)
    again = registry.get("volume", "a")
    assert again is not None
    assert again.body == {"list": [1]}


def test_threads_lose_no_increment(registry: Registry) -> None:
    registry.commit([Create("counter", "c", {"n": 0}), Create("counter", "mirror", {"n": 0})])
    threads, rounds = 6, 15

    def increment() -> None:
        counter, mirror = registry.get("counter", "c"), registry.get("counter", "mirror")
        assert counter is not None
        assert mirror is not None
        number = {"n": counter.body["n"] + 1}
        registry.commit(
            [
                Update("counter", "c", counter.version, number),
                Update("counter", "mirror", mirror.version, number),
            ]
        )

    def work() -> None:
        for _ in range(rounds):
            while True:
                try:
                    increment()
                    break
                except Conflict:
                    continue

    workers = [threading.Thread(target=work) for _ in range(threads)]
    torn: list[object] = []
    for worker in workers:
        worker.start()
    while any(worker.is_alive() for worker in workers):
        numbers = {record.body["n"] for record in registry.list("counter")}
        if len(numbers) != 1:
            torn.append(numbers)
    for worker in workers:
        worker.join()
    assert torn == [], "a list showed one half of a transaction"
    counter = registry.get("counter", "c")
    assert counter is not None
    assert counter.body["n"] == threads * rounds


def test_only_one_of_many_creates(registry: Registry) -> None:
    start = threading.Barrier(6)
    won: list[int] = []
    lost: list[int] = []

    def create(number: int) -> None:
        start.wait()
        try:
            registry.commit([Create("name", "volume/x", {"by": number})])
            won.append(number)
        except Conflict:
            lost.append(number)

    workers = [threading.Thread(target=create, args=(number,)) for number in range(6)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert (len(won), len(lost)) == (1, 5)
    record = registry.get("name", "volume/x")
    assert record is not None
    assert record.body == {"by": won[0]}


def test_what_was_committed_is_there_after_opening_again(persistent_url: str) -> None:
    first = open_registry(persistent_url)
    seen = first.commit([Create("volume", "a", {"size": 1})])
    first.close()
    second = open_registry(persistent_url)
    record = second.get("volume", "a")
    assert record is not None
    assert (record.version, record.body) == (seen, {"size": 1})
    assert second.commit([Update("volume", "a", seen, {"size": 2})]) > seen
    second.close()


WRITER = """
import sys
from ovs_daemon.registry import Create, Update, open_registry
registry = open_registry(sys.argv[1])
seen = registry.commit([Create("pair", "a", {"n": 0}), Create("pair", "b", {"n": 0})])
number = 0
while True:
    number += 1
    body = {"n": number, "padding": "x" * 20000}
    seen = registry.commit([Update("pair", "a", seen, body), Update("pair", "b", seen, body)])
    print(number, flush=True)
"""


@pytest.mark.parametrize("lines", [1, 7, 30])
def test_a_killed_writer_leaves_whole_transactions(persistent_url: str, lines: int) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", WRITER, persistent_url], stdout=subprocess.PIPE, text=True
    ) as writer:
        assert writer.stdout is not None
        said = [int(writer.stdout.readline()) for _ in range(lines)]
        writer.kill()
        said += [int(line) for line in writer.stdout.read().split("\n")[:-1]]
    registry = open_registry(persistent_url)
    pair = [record.body["n"] for record in registry.list("pair")]
    registry.close()
    assert pair[0] == pair[1], "half a transaction"
    assert pair[0] in (said[-1], said[-1] + 1), "an acknowledged transaction is missing"


def test_another_process_sees_it_at_once(persistent_url: str) -> None:
    reader = """
import sys
from ovs_daemon.registry import open_registry
registry = open_registry(sys.argv[1])
for line in sys.stdin:
    print(registry.get("volume", "a").body["n"], flush=True)
"""
    registry = open_registry(persistent_url)
    seen = registry.commit([Create("volume", "a", {"n": 0})])
    with subprocess.Popen(
        [sys.executable, "-c", reader, persistent_url],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as other:
        assert other.stdin is not None
        assert other.stdout is not None
        for number in range(1, 6):
            seen = registry.commit([Update("volume", "a", seen, {"n": number})])
            other.stdin.write("?\n")
            other.stdin.flush()
            assert int(other.stdout.readline()) == number
        other.stdin.close()
    registry.close()


def test_unknown_driver_is_explained() -> None:
    with pytest.raises(VStorageError) as caught:
        open_registry("etcetera://host")
    assert caught.value.code == "registry"
    assert "etcetera" in str(caught.value)


def test_unusable_file_is_explained(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("this is no folder")
    with pytest.raises(VStorageError) as caught:
        open_registry(f"sqlite://{tmp_path}/file/registry.sqlite")
    assert caught.value.code == "registry"
    (tmp_path / "text.sqlite").write_text("this is no database " * 100)
    with pytest.raises(VStorageError) as caught:
        open_registry(f"sqlite://{tmp_path}/text.sqlite")
    assert "text.sqlite" in caught.value.what


def test_a_newer_schema_is_refused(tmp_path: Path) -> None:
    import sqlite3

    open_registry(f"sqlite://{tmp_path}/r.sqlite").close()
    with sqlite3.connect(tmp_path / "r.sqlite") as connection:
        connection.execute("PRAGMA user_version = 99")
    connection.close()
    with pytest.raises(VStorageError, match="newer"):
        open_registry(f"sqlite://{tmp_path}/r.sqlite")


def test_retry_gives_up_with_the_object_named() -> None:
    def attempt() -> None:
        raise Conflict(Absent("volume", "a"), 3)

    with pytest.raises(VStorageError) as caught:
        retry("open volume 'a'", attempt)
    assert caught.value.code == "busy"
    assert "volume/a" in caught.value.why


KEYS = st.sampled_from([("volume", "a"), ("volume", "b"), ("node", "a")])


class AgainstModel(RuleBasedStateMachine):
    """Any sequence of transactions does what a plain dictionary does."""

    def __init__(self) -> None:
        super().__init__()
        self.registry: Registry = MemoryRegistry()
        self.model: dict[tuple[str, str], tuple[int, int]] = {}
        self.stale: dict[tuple[str, str], int] = {}

    @rule(
        plan=st.lists(
            st.tuples(KEYS, st.sampled_from("cudxa"), st.booleans()),
            min_size=1,
            max_size=3,
            unique_by=lambda step: step[0],
        ),
        value=st.integers(0, 9),
    )
    def commit(self, plan: list[tuple[tuple[str, str], str, bool]], value: int) -> None:
        operations: list[Operation] = []
        holds = True
        for key, verb, stale in plan:
            found = self.model.get(key)
            seen = self.stale.get(key, 0) if stale or found is None else found[0]
            match verb:
                case "c":
                    operations.append(Create(*key, {"v": value}))
                    holds &= found is None
                case "a":
                    operations.append(Absent(*key))
                    holds &= found is None
                case "u":
                    operations.append(Update(*key, seen, {"v": value}))
                    holds &= found is not None and found[0] == seen
                case "d":
                    operations.append(Delete(*key, seen))
                    holds &= found is not None and found[0] == seen
                case _:
                    operations.append(Unchanged(*key, seen))
                    holds &= found is not None and found[0] == seen
        if not holds:
            with pytest.raises(Conflict):
                self.registry.commit(operations)
            return
        revision = self.registry.commit(operations)
        for key, verb, _ in plan:
            if verb in "cu":
                if key in self.model:
                    self.stale[key] = self.model[key][0]
                self.model[key] = (revision, value)
            elif verb == "d":
                self.stale[key] = self.model.pop(key)[0]

    @invariant()
    def same(self) -> None:
        for kind in ("volume", "node"):
            found = {one.ident: (one.version, one.body["v"]) for one in self.registry.list(kind)}
            assert found == {key[1]: value for key, value in self.model.items() if key[0] == kind}


class SqliteAgainstModel(AgainstModel):
    """The same for the file."""

    def __init__(self) -> None:
        super().__init__()
        import tempfile

        self.folder = tempfile.TemporaryDirectory()
        self.registry = open_registry(f"sqlite://{self.folder.name}/r.sqlite")

    def teardown(self) -> None:
        self.registry.close()
        self.folder.cleanup()


TestMemoryAgainstModel = AgainstModel.TestCase
TestSqliteAgainstModel = SqliteAgainstModel.TestCase
TestMemoryAgainstModel.settings = settings(max_examples=150, stateful_step_count=20, deadline=None)
TestSqliteAgainstModel.settings = settings(max_examples=15, stateful_step_count=12, deadline=None)


@given(ident=st.text(max_size=40), text=st.text(max_size=200))
@settings(max_examples=50, deadline=None)
def test_any_text_survives_memory(ident: str, text: str) -> None:
    registry = MemoryRegistry()
    registry.commit([Create("name", ident, {"text": text})])
    record = registry.get("name", ident)
    assert record is not None
    assert record.body == {"text": text}
