"""The command line against the control API of a host of twins."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from ovs_daemon.cli.app import main
from tests.support.command_line import Run, answer
from tests.support.house import House

GIB = 1 << 30


def test_create_list_show_delete(run: Run) -> None:
    made = answer(run, "volume", "create", "web1", "1GiB")
    assert (made["name"], made["size"]) == ("web1", GIB)
    assert answer(run, "volume", "list") == [made]
    assert answer(run, "volume", "show", "web1")["uuid"] == made["uuid"]
    assert answer(run, "volume", "delete", "web1") == {"volume": "web1", "deleted": True}
    assert answer(run, "volume", "delete", made["uuid"])["deleted"] is False
    assert answer(run, "volume", "list") == []


@pytest.mark.parametrize(
    ("text", "size"),
    [("1G", GIB), ("1GiB", GIB), ("512M", GIB // 2), ("1.5g", 3 * GIB // 2), ("8192", 8192)],
)
def test_sizes(run: Run, text: str, size: int) -> None:
    assert answer(run, "volume", "create", "web1", text)["size"] == size


def test_tables_are_for_people(run: Run) -> None:
    run("volume", "create", "web1", "1GiB")
    status, out, _ = run("volume", "list")
    assert status == 0
    assert "web1" in out
    assert "1 GiB" in out
    status, out, _ = run("volume", "show", "web1")
    assert status == 0
    assert "64 MiB" in out
    assert json.loads(run("volume", "list", "-f", "json")[1])[0]["size"] == GIB


def test_rename_limit_group_diff(run: Run) -> None:
    for name in ("web1", "web2"):
        answer(run, "volume", "create", name, "1GiB")
    assert answer(run, "volume", "rename", "web2", "db1")["name"] == "db1"
    limited = answer(
        run, "volume", "limit", "web1", "--read-iops", "100", "--total-bytes-s", "1MiB"
    )
    assert limited["limits"] == {"read_iops": 100, "total_bytes_s": 1 << 20}
    assert answer(run, "volume", "limit", "web1")["limits"] is None
    taken = answer(run, "snapshot", "group", "monday", "web1", "db1")
    assert [(one["volume"], one["name"]) for one in taken] == [
        ("web1", "monday"),
        ("db1", "monday"),
    ]
    assert answer(run, "snapshot", "rename", "web1", "monday", "first")["name"] == "first"
    assert answer(run, "volume", "snapshot", "web1", "second")["name"] == "second"
    assert answer(run, "snapshot", "diff", "web1", "second") == []
    assert answer(run, "snapshot", "diff", "web1", "second", "--since", "first") == []
    status, _, error = run("snapshot", "group", "second", "web1", "db1")
    assert (status, "already has a snapshot" in error) == (1, True)


@pytest.mark.parametrize("place", ["before", "after"])
def test_json_anywhere(run: Run, place: str) -> None:
    words = ["volume", "create", "web1", "1GiB"]
    status, out, _ = run(*(["--json", *words] if place == "before" else [*words, "--json"]))
    assert status == 0
    assert json.loads(out)["name"] == "web1"


def test_snapshot_clone_revert_template(run: Run) -> None:
    answer(run, "volume", "create", "web1", "1GiB")
    assert answer(run, "volume", "snapshot", "web1", "monday")["name"] == "monday"
    assert answer(run, "volume", "create", "c1", "--from", "web1@monday")["size"] == GIB
    assert answer(run, "volume", "create", "c2", "2GiB", "--from", "web1")["size"] == 2 * GIB
    clone = answer(run, "volume", "clone", "web1@monday", "c3", "--size", "3GiB")
    assert (clone["size"], clone["parent"]["snapshot"]) == (3 * GIB, "monday")
    assert answer(run, "volume", "resize", "web1", "4GiB")["size"] == 4 * GIB
    assert answer(run, "volume", "revert", "web1", "monday")["size"] == 4 * GIB
    assert [one["clones"] for one in answer(run, "snapshot", "list", "web1")] == [2]
    assert answer(run, "snapshot", "delete", "web1", "monday")["deleted"] is True
    assert answer(run, "snapshot", "list") == []
    assert answer(run, "volume", "set", "--template", "c1")["template"] is True
    assert answer(run, "volume", "set", "--no-template", "c1")["template"] is False
    assert len(answer(run, "volume", "list", "--all")) == 4


def test_attach_prints_the_uri_alone(run: Run) -> None:
    made = answer(run, "volume", "create", "web1", "1GiB")
    status, out, _ = run("volume", "attach", "web1")
    assert (status, out) == (0, f"nbd+unix:///?socket=/run/vstorage/nbd/{made['uuid']}.sock\n")
    assert answer(run, "volume", "detach", "web1")["attached"] is None
    assert answer(run, "volume", "attach", "web1", "--direct")["attached"] == "direct"
    assert run("volume", "detach", "web1")[1] == "volume web1 detached\n"


def test_holders_at_the_command_line(run: Run) -> None:
    answer(run, "volume", "create", "web1", "1GiB")
    made = answer(run, "volume", "attach", "web1", "--holder", "vm1", "--reconnects")
    status, _, complaint = run("volume", "attach", "web1")
    assert status == 1
    assert "by vm1 (edge)" in complaint
    shared = answer(run, "volume", "attach", "--file", "web1", "--shared")
    assert shared["uri"].endswith(f"/volumes/{made['uuid']}")
    assert [one["holder"] for one in shared["attachments"]] == ["local", "vm1"]
    answer(run, "volume", "detach", "web1")
    status, _, complaint = run("volume", "detach", "web1")
    assert "give --holder vm1" in complaint
    taken = answer(run, "volume", "attach", "web1", "--preempt")
    assert [one["holder"] for one in taken["attachments"]] == ["local"]
    answer(run, "volume", "set", "--multi-attach", "web1")
    assert answer(run, "volume", "attach", "web1", "--holder", "vm1")["multi_attach"]
    assert answer(run, "volume", "detach", "web1", "--everybody")["attached"] is None


@pytest.mark.parametrize(
    ("words", "code"),
    [
        (["volume", "show", "nope"], "unknown_volume"),
        (["volume", "delete", "nope"], "unknown_volume"),
        (["volume", "attach", "nope"], "unknown_volume"),
        (["volume", "create", "web1", "1GiB"], "duplicate_name"),
        (["volume", "create", "new", "1000"], "bad_size"),
        (["volume", "create", "new", "much"], "bad_size"),
        (["volume", "create", "new"], "bad_size"),
        (["volume", "create", "new", "65TiB"], "bad_size"),
        (["volume", "create", "a@b", "1GiB"], "bad_request"),
        (["volume", "create", "new", "--from", "web1@nope"], "unknown_snapshot"),
        (["volume", "resize", "web1", "4KiB"], "bad_size"),
        (["snapshot", "delete", "web1", "nope"], "unknown_snapshot"),
        (["volume", "import", "web1", "/nonexistent.img"], "tool_failed"),
        (["volume", "import", "nope", "/nonexistent.img"], "unknown_volume"),
    ],
)
def test_errors(run: Run, words: list[str], code: str) -> None:
    answer(run, "volume", "create", "web1", "1GiB")
    status, out, err = run("--json", *words)
    assert (status, out) == (1, "")
    error = json.loads(err)["error"]
    assert error["code"] == code
    status, out, err = run(*words)
    assert (status, out) == (1, "")
    assert err == f"vstorage: cannot {error['what']}: {error['why']}\n  {error['fix']}\n"


def test_no_daemon(run: Run, tmp_path: Path) -> None:
    status, _, err = run("--run-dir", str(tmp_path), "volume", "list")
    assert status == 1
    assert "start vstorage-daemon" in err


def test_status_shows_the_worst_first(run: Run, house: House) -> None:
    made = answer(run, "volume", "create", "web1", "1GiB")
    assert "all is well" in run("status")[1]
    house.engine.findings = [
        {"code": "slow", "severity": "warning", "object": "disk", "why": "slow", "fix": "wait"},
        {
            "code": "bad",
            "severity": "critical",
            "object": made["uuid"],
            "why": "bad",
            "fix": "mend",
        },
    ]
    lines = run("status")[1].splitlines()
    assert lines[0] == "CRITICAL volume web1: bad"
    assert lines[1].strip() == "mend"
    assert lines[2] == "WARNING  disk: slow"
    assert any("web1" in line and "1 GiB" in line for line in lines[4:])
    assert answer(run, "status")["findings"][0]["code"] == "bad"


def test_status_shows_what_compression_saves(run: Run, house: House) -> None:
    assert "compressed" not in run("status")[1]
    house.engine.sealed = {"plain_bytes": 0, "stored_bytes": 0}
    assert "compressed" not in run("status")[1]
    house.engine.sealed = {"plain_bytes": 8 << 20, "stored_bytes": 3 << 20}
    assert "since the start: 8 MiB became 3 MiB (38 %)" in run("status")[1]


def test_wrong_use_has_its_own_status(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        run("volume", "create")
    assert caught.value.code == 2
    assert run("volume", "explode")[0] == 2


def test_help_lists_every_command(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["--help"])
    assert not caught.value.code
    out = capsys.readouterr().out
    for verb in ("volume create", "volume import", "snapshot list", "status"):
        assert verb in out
