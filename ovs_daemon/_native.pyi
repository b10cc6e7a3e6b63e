"""The engine as the daemon sees it (Rust, `ovs_daemon/native/py`).

Every method blocks until the engine has done the work, releases the GIL, may be called from any
thread and raises EngineError. Sizes are bytes, UUIDs are the canonical 36 characters.
"""

__version__: str

class EngineError(Exception):
    """args = (code, what, why, fix): a stable code in upper case, what could not be done with
    which object ("cannot ..."), why it failed, what to do about it."""

class Engine:
    def __init__(self, config_json: str) -> None:
        """Start the shard threads.

        Keys: buffer_dir, run_dir (paths), backend_dir (path) or alba ({"osds": [{"path",
        "domain", "node"} of a folder, or {"osd": UUID, "address", "domain", "node"} behind a
        server, which needs cluster and cluster_key_file], "preset": name or object, "reserve":
        bytes, "keys": [{"name", "key": 64 hexadecimal digits}], that of new objects first}),
        shards (threads), sco_size
        (bytes of data in a SCO), buffer_size (bytes of write buffer a volume may fill; ingest is
        throttled as it fills), reserve (bytes that stay free on the disk of the write buffer),
        checkpoint_scos (SCOs between two checkpoints), compaction_bytes_per_s, socket_owner
        ("uid:gid" or null), socket_mode (integer), nbd_tcp ("address:port" or null), cluster (UUID
        of the cluster, or null: what belongs to another one is refused), dtl_listen ("address:port"
        where this engine keeps the unsaved tails of other nodes' volumes, or null; port 0 takes a
        free one, `status` says which), dtl_dir (where it keeps them), edge_listen ("address:port"
        where it serves Edges of other hosts, or null; needs cluster_key_file), cluster_key_file
        (path of the key that their attach tokens are signed with, or null).
        """

    def create_volume(self, spec_json: str) -> None:
        """{"uuid", "size", "epoch", "parent": {"volume", "snapshot"} | null, "sco_size",
        "preset": object | null}.

        A preset that no object could be put with now is refused (BAD_PRESET). Repeating it is
        harmless.
        """

    def open_volume(self, spec_json: str) -> str:
        """{"uuid", "size", "epoch", "read_only", "ancestors": [uuid, oldest first],
        "parent": {"volume", "snapshot"} | null, "snapshots": [uuid], "sco_size",
        "dtl": {"mode": "sync"|"async"|"none", "node", "address", "state"} | null,
        "preset": object | null (the backend's own),
        "qos": an object as `set_qos` takes it | null, "followers": [{"node", "address"}],
        "term": of the lease, for which it is opened, else refused (LEASE) | null,
        "generation": of its attachments, as for `shut_out`; 0 without}
        -> {"size", "recovered": {"replayed_scos", "cut_bytes",
        "map": "loaded"|"warm"|"warm_refused"}}.

        A map that this engine has followed while another node owned the volume is used ("warm") if
        the log is the one that it belongs to; else the last checkpoint is loaded.

        The epoch is one that the registry has just raised for this opening. The DTL's state is what
        the registry has recorded ("in_sync", "degraded", "catching_up", "standalone"). One that was
        never opened starts as "degraded". When it is "in_sync", `fetch_tail` with this epoch has to
        come first (TAIL_NOT_FETCHED otherwise).
        """

    def set_dtl(self, uuid: str, dtl_json: str) -> None:
        """Pair an open volume with another DTL node, or change its mode: the object of
        `open_volume`, or "null".

        The registry must have recorded node, mode and state before, and the state must not be
        "in_sync". Events of before that were not answered are void.
        """

    def set_followers(self, uuid: str, spec_json: str) -> None:
        """{"followers": [{"node", "address"}], "parent": {"volume", "snapshot"} | null}.

        Have other nodes (the address of their DTL) follow the map of an open volume, and no others.
        """

    def retain_followed(self, uuids_json: str) -> None:
        """[uuid]: forget the maps of all other volumes that this engine follows."""

    def next_event(self, timeout_s: float) -> str | None:
        """The next thing that the daemon has to decide or to know; None after the timeout.

        {"id", "kind": "dtl_state", "uuid", "epoch", "node", "address", "from", "to"}: record the
        state "to" in the registry (compare-and-swap on owner, epoch and DTL node) and tell the
        outcome with `answer_event`. Until then, on the way from "in_sync" to "degraded", writes
        wait. Try again until the outcome is certain; record what is recorded already is a success.

        {"id", "kind": "fenced", "uuid", "epoch", "why": "newer_epoch"|"swap_refused"|"lease"}: the
        volume stopped: it answers nobody any more. No answer is awaited. `close_volume` lets go of
        it without touching its data.
        """

    def event_stands(self, id: int) -> bool:
        """Whether anybody waits for the answer: nobody does once the volume was paired anew. To be
        asked before the registry is changed, where no pairing can come between."""

    def answer_event(self, id: int, accepted: bool) -> None:
        """Whether the registry accepted. A refusal stops the volume at once: it is another's."""

    def fetch_tail(self, request_json: str) -> str:
        """{"uuid", "epoch", "address", "keep_local"} -> {"sequence", "scos", "bytes", "source":
        "dtl"|"local"}. Before `open_volume` of a volume that the registry calls "in_sync".

        Makes the DTL node refuse every older epoch from now on, for ever, and puts what it holds in
        place of what this node's write buffer has of the volume, which is not open here.
        keep_local: this node was the last owner; if the DTL node lost power and so may lack what
        was acknowledged, the longer of the two is taken instead of DTL_SUSPECT being raised.

        Errors: DTL_UNREACHABLE (nothing has changed, or the fence is up: repeat it), DTL_FENCED (a
        newer epoch was there first), DTL_SUSPECT (the node lost power, or does not know the volume:
        what it holds may be too little. Give the volume back to the node that served it last, as
        "degraded"; anything else is a person's decision), DTL_DAMAGED.
        """

    def drop_tail(self, request_json: str) -> None:
        """{"uuid", "epoch", "address"}: the DTL node forgets the volume: after a deletion, or on
        the former node after a new one is in sync. Repeating it is harmless."""

    def clear_buffer(self, uuid: str) -> None:
        """Removes what the write buffer has of a volume that is not open, for good: all of it is on
        the backend, or belongs to a former owner's time. Repeating it is harmless."""

    def extend_lease(self, end_ns: int, term: int) -> None:
        """This node's lease in the registry ends at that moment, in nanoseconds of CLOCK_BOOTTIME
        (count from before the request that renewed it). Never called: no lease is needed. When it
        ends every open volume is fenced, since another node may own it by then; so is what is open
        when another term begins, which is one after the lease was over."""

    def osd_roll(self, address: str) -> str:
        """[{"osd": UUID, "domain", "node", "role": "capacity"|"cache"}]: what the OSD server at
        "ADDRESS:PORT" has of this cluster. Needs cluster and cluster_key_file. Error:
        OSD_SERVER."""

    def set_osds(self, osds_json: str) -> None:
        """[{"osd", "address", "domain", "node", "standing": "member" unless given, "leaving",
        "sealed", "lost" or "removed"}]: makes OSDs behind servers part of the backend, and tells
        where those are by now that are, and how they stand. One that is missing stays as it was.
        When it returns no put counts any more what an OSD answered that is lost. Error: NO_ALBA,
        the backend is a directory."""

    def set_caches(self, osds_json: str) -> None:
        """[{"osd", "address", "domain", "node"}]: the cache tier, OSDs of role cache in this node's
        Domain, in place of those of before; [] for none. Error: NO_ALBA."""

    def osd_states(self) -> str:
        """[{"osd": UUID, "name", "reachable", "why" or null, "release" of its server, "" when it
        tells none, or null, "total", "free": bytes or null}] of the backend's OSDs, then of those
        of its cache tier; [] when it is a directory."""

    def osd_releases(self) -> str:
        """{UUID of an OSD: release of its server, "" when it tells none} of the OSDs of the backend
        and its cache tier that are reached, as they said it; asks nobody."""

    def set_upkeep(self, orders_json: str) -> None:
        """{"domains": [name] | null (all), "heard": {UUID of an OSD that is lost, of which every
        node has heard that: version of its record}, "repair_bytes_per_s", "scrub_bytes_per_s" (0:
        only when asked for), "delay_s", "every_s", "scrub_every_s", "rebalance_bytes_per_s" (0, or
        left out: only when asked for), "rebalance_from": difference between a Domain's fullest and
        emptiest disk, of their sizes, at which it begins (left out: 0.1)}: look after the
        erasure-coded backend like this from now on. Error: NO_ALBA, it is a directory."""

    def start_upkeep(self, kind: str) -> None:
        """Do it now: "repair" (look at all objects and mend them), "scrub" (read everything) or
        "rebalance" (move fragments to emptier disks). Returns at once; `upkeep` counts. Error:
        NO_ALBA."""

    def upkeep(self) -> str:
        """{"doing": "idle"|"looking"|"repairing"|"scrubbing"|"rebalancing", "done", "of": objects
        of that, or bytes of a rebalancing, "surveys", "repairs", "scrubs", "rebalances": how many
        have ended, "surveyed_at", "scrubbed_at": seconds
        since 1970 or 0, "objects", "by_safety": {how many more fragments may be lost: objects},
        "unknown": objects of which it cannot be told, "missing": fragments, "to_mend": objects,
        "repaired" and "scrubbed" since the start: {"fragments" stored, "damaged", "bytes",
        "bytes_between_domains"}, "rebalanced": the same, and "trimmed": copies that were there
        twice and are deleted, "spread": {Domain that is rebalanced here: difference between its
        fullest and its emptiest disk, of their sizes}, "collected": fragments of
        cut-off puts that were removed,
        "domains": those that are mended here or null (all), "leaving": {UUID: {"standing", "next":
        how it may stand next or null, "heard": version or null, "alone": fragments that no other
        OSD has, "short": objects with too few fragments elsewhere, "hidden": whether something
        could not be seen, each null if it is not known, "why": or null}} of the OSDs there that
        leave, "failures": looks and scrubs that could not be ended,
        "wire": {Domain: {"sent", "received", "fragments"}} of the OSD servers there: bytes in all,
        and of both those of fragments, "cache": null (no cache tier) or {"hits", "misses": reads of
        fragments, "late": not answered in time, "passed": not asked since the OSD was late before,
        "damaged": the cache's disk gave other bytes, "hit_bytes", "fills": blocks brought there,
        "fill_bytes", "left_out": blocks that were not, since others were on their way, "osds":
        [{"osd", "name", "reachable", and of what reaches it: "hits", "misses", "hit_bytes",
        "admitted", "evicted", "damaged", "refused": blocks, "bytes" in use, "size": at most}]}: the
        reads of this node, and what the OSDs have done for all, "why": the last failure or null};
        null when the backend is a directory."""

    def settle_volume(self, uuid: str) -> None:
        """Bring what an open volume has now to the backend, and into a checkpoint, while it is
        served."""

    def close_volume(self, uuid: str, moved_to: str | None = None, /) -> bool:
        """Bring everything of an open volume to the backend, then stop serving it. False: it was
        stopped (fenced, or the lease was over) before everything was there, or it was to be moved
        and the backend took too long: the rest is in the write buffer.

        moved_to: "address:port" where its Edges are told to look for it; they do so at once.
        """

    def delete_volume(self, uuid: str) -> None:
        """Delete it with its data, open or not; a missing one is fine, one with clones refused."""

    def resize_volume(self, uuid: str, size: int) -> None:
        """Make an open volume larger."""

    def create_snapshot(self, uuid: str, snapshot_uuid: str) -> None:
        """Keep the present content; durable on return. Repeating it is harmless."""

    def delete_snapshot(self, uuid: str, snapshot_uuid: str) -> None:
        """Forget a snapshot; a missing one is fine."""

    def revert_volume(self, uuid: str, snapshot_uuid: str) -> None:
        """Make a snapshot's content the present one. Repeating it is harmless."""

    def export_nbd(self, uuid: str, name: str) -> str:
        """Serve the volume in this process on <run_dir>/direct/<uuid>.sock; returns that path."""

    def unexport_nbd(self, uuid: str) -> None: ...
    def shut_out(self, uuid: str, generation: int) -> None:
        """Edge sessions whose tokens are of an earlier generation of the volume's attachments end,
        and are let in no more; what this process serves over NBD ends, if this generation is new.

        Returns when nothing of them can happen any more; BUSY when that takes longer than 5 s.
        """

    def set_qos(self, uuid: str, limits_json: str) -> None:
        """{"read_iops", "write_iops", "total_iops", "read_bytes_s", "write_bytes_s",
        "total_bytes_s", "burst_s"}: what is missing is unlimited.

        They last until the volume is closed.
        """

    def snapshot_group(self, members_json: str) -> None:
        """[[volume uuid, snapshot uuid], ...]: snapshots of open volumes at one instant.

        All or none; repeating it is harmless.
        """

    def diff_snapshots(self, uuid: str, from_uuid: str | None, to_uuid: str) -> str:
        """[[offset, length], ...] in bytes: where two snapshots of an open volume may differ.

        Sorted, merged, multiples of 4096. Without ``from_uuid`` all that was ever written.
        """

    @staticmethod
    def describe_preset(preset_json: str) -> str:
        """{"name", "policies": [{"k", "m", "c", "x", "domains", "local"}], "fragment_size",
        "sco_size", "compression"?, "encryption"?, "cache_on_write"?} (doc/presets.md) -> the
        same with what each policy promises: "notation", "overhead", "survives_disks",
        "survives_node", "survives_domain", "survives_domain_and_disk", "disk_repair_local",
        "node_repair_local", "repair_reads".

        Raises BAD_PRESET with what is wrong. Pure, as are the next two.
        """

    @staticmethod
    def judge_preset(preset_json: str, cluster_json: str) -> str:
        """A preset and [{"domain", "node", "disks"}] -> {"policy": the first one that this cluster
        satisfies, described, or null, "number": from 1, "shortages": [why not those before]}."""

    @staticmethod
    def shipped_presets() -> str:
        """[preset]: those that come with the program."""

    def status(self) -> str:
        """{"volumes": [{"uuid", "size", "mapped_bytes", "map_ram_bytes", "buffer_bytes",
        "scos_buffered", "scos_uploading", "throttle_us", "writes", "reads", "write_bytes",
        "read_bytes", "flushes", "read_time_us" of all reads together, "write_time_us" of all
        writes, trims and flushes together, "state",
        "dtl": {"mode", "state", "node", "address", "connected", "lag_batches", "lag_bytes"},
        "opened": "loaded"|"warm"|"warm_refused", "followers": [{"node", "address",
        "state": "apart"|"beginning"|"unable"|"following", "lag_batches", "lag_bytes",
        "trouble"}]}],
        "followed": [{"uuid", "epoch", "state", "sequence", "mapped_bytes", "map_ram_bytes",
        "trouble"}],
        "dtl_server": {"address", "volumes", "bytes"} | null,
        "findings": [{"code", "severity", "object", "why", "fix"}], "buffer_free_bytes",
        "backend_total_bytes", "backend_free_bytes", ...}."""

    def shutdown(self, drain: bool) -> None:
        """Stop; with drain, first upload what the write buffer holds and store checkpoints."""
