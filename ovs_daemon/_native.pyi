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

        Keys: buffer_dir, backend_dir, run_dir (paths), shards (threads), sco_size (bytes of data
        in a SCO), buffer_size (bytes of write buffer a volume may fill; ingest is throttled as it
        fills), reserve (bytes that stay free on the disk of the write buffer), checkpoint_scos
        (SCOs between two checkpoints), compaction_bytes_per_s, socket_owner ("uid:gid" or null),
        socket_mode (integer), nbd_tcp ("address:port" or null).
        """

    def create_volume(self, spec_json: str) -> None:
        """{"uuid", "size", "epoch", "parent": {"volume", "snapshot"} | null, "sco_size"}.

        Repeating it is harmless.
        """

    def open_volume(self, spec_json: str) -> str:
        """{"uuid", "size", "epoch", "read_only", "ancestors": [uuid, oldest first],
        "parent": {"volume", "snapshot"} | null, "snapshots": [uuid], "sco_size"} ->
        {"size", "recovered": {...}}.

        The epoch is one that the registry has just raised for this opening.
        """

    def close_volume(self, uuid: str) -> None:
        """Bring everything of an open volume to the backend, then stop serving it."""

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

    def status(self) -> str:
        """{"volumes": [{"uuid", "size", "mapped_bytes", "map_ram_bytes", "buffer_bytes",
        "scos_buffered", "scos_uploading", "throttle_us", "writes", "reads", "write_bytes",
        "read_bytes", "flushes", "state"}],
        "findings": [{"code", "severity", "object", "why", "fix"}], "buffer_free_bytes",
        "backend_total_bytes", "backend_free_bytes", ...}."""

    def shutdown(self, drain: bool) -> None:
        """Stop; with drain, first upload what the write buffer holds and store checkpoints."""
