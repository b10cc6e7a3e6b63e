"""The cluster map: one record per node, volume and snapshot, changed by compare-and-swap."""

from ovs_daemon.registry.driver import (
    Absent,
    Conflict,
    Create,
    Delete,
    Operation,
    Record,
    Registry,
    Unchanged,
    Update,
    open_registry,
    retry,
)

__all__ = [
    "Absent",
    "Conflict",
    "Create",
    "Delete",
    "Operation",
    "Record",
    "Registry",
    "Unchanged",
    "Update",
    "open_registry",
    "retry",
]
