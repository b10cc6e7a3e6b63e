"""Presets on the command line, through the control API and the real engine's judgement."""

from __future__ import annotations

from tests.support.command_line import Run, answer


def test_a_preset_lives(run: Run) -> None:
    words = ("preset", "create", "mine", "--policy", "4+2,c=5,x=1,domains=3,local=1")
    made = answer(run, *words, "--policy", "2+1,c=3,x=1", "--fragment-size", "1M")
    assert (made["name"], made["fragment_size"], made["sco_size"]) == ("mine", 1 << 20, 64 << 20)
    assert [policy["domains"] for policy in made["policies"]] == [3, 1]
    assert made["policies"][0]["survives_domain_and_disk"] is True
    assert answer(run, "preset", "show", "mine") == made
    listed = answer(run, "preset", "list")
    assert [one["name"] for one in listed][-1] == "mine"
    assert [one["shipped"] for one in listed] == [True] * (len(listed) - 1) + [False]
    status, _, err = run(*words)
    assert status == 1
    assert "there is already a preset 'mine'" in err
    assert answer(run, "preset", "delete", "mine")["deleted"] is True
    status, _, err = run("preset", "show", "mine")
    assert status == 1
    assert "there is no preset 'mine'" in err


def test_compression_and_encryption(run: Run) -> None:
    words = ("--policy", "2+1,c=3,x=1", "--compression", "zstd", "--encryption", "aes-256-gcm")
    made = answer(run, "preset", "create", "safe", *words)
    assert (made["compression"], made["encryption"]) == ("zstd", "aes-256-gcm")
    assert made["cache_on_write"] is False
    assert answer(run, "preset", "show", "default")["compression"] == "none"
    status, out, _ = run("preset", "list")
    assert status == 0
    assert "aes-256-gcm" in out
    volume = answer(run, "volume", "create", "vol1", "1G", "--preset", "safe")
    assert volume["preset"] == "safe"
    assert answer(run, "volume", "clone", "vol1", "vol2")["preset"] == "safe"
    clone = answer(run, "volume", "clone", "vol1", "vol3", "--preset", "one-domain")
    assert clone["preset"] == "one-domain"
    status, _, err = run("preset", "delete", "safe")
    assert status == 1
    assert "2 volumes use it, one is 'vol1'" in err


def test_objects_may_be_brought_to_the_cache_when_they_are_put(run: Run) -> None:
    words = ("--policy", "2+1,c=3,x=1", "--cache-on-write")
    made = answer(run, "preset", "create", "warm", *words)
    assert made["cache_on_write"] is True
    assert answer(run, "preset", "show", "warm")["cache_on_write"] is True
    listed = {one["name"]: one["cache_on_write"] for one in answer(run, "preset", "list")}
    assert listed["warm"] is True
    assert listed["default"] is False


def test_shipped_presets_stay(run: Run) -> None:
    for words in (
        ("preset", "delete", "default"),
        ("preset", "create", "default", "--policy", "2+1,c=3,x=1"),
    ):
        status, _, err = run(*words)
        assert status == 1, err


def test_what_makes_no_sense_is_refused_with_the_reason(run: Run) -> None:
    status, _, err = run("preset", "create", "bad", "--policy", "4+2,c=4,x=1")
    assert status == 1
    assert "cannot create preset 'bad': its policy 1 cannot be: c must be over k" in err
    status, _, err = run("preset", "create", "bad", "--policy", "2+1,c=3,x=1", "--sco-size", "3M")
    assert status == 1
    assert "sco_size of 3145728 bytes is no power of two" in err
    assert "bad" not in [one["name"] for one in answer(run, "preset", "list")]


def test_a_cluster_is_judged(run: Run) -> None:
    found = answer(run, "preset", "check", "default", "--cluster", "3x3x1")
    assert found["policy"]["notation"] == "4+2 over 3 Domains, 1 local"
    assert found["number"] == 3
    assert len(found["shortages"]) == 2
    nodes = [word for node in ("a/n1", "a/n2", "b/n3") for word in ("--node", f"{node}=4")]
    status, out, _ = run("preset", "check", "two-domains", *nodes)
    assert status == 0
    assert "none can be used" in out
    assert "policy 4: it needs 6 disks, at most 2 of them on one node" in out


def test_tables_show_what_counts(run: Run) -> None:
    status, out, _ = run("preset", "show", "default")
    assert status == 0
    assert "16+8 over 3 Domains, 2 local, c=18, x=2; overhead 1.88; survives any 8 disks" in out
    status, out, _ = run("preset", "list")
    assert status == 0
    assert "4 MiB" in out
    assert "16+4 over 1 Domain" in out
