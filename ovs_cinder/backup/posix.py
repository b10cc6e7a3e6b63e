"""Differential backups into a folder, such as a mounted NFS export."""

from __future__ import annotations

from cinder import interface
from cinder.backup.drivers import posix

from ovs_cinder.backup.differential import DifferentialBackup
from ovs_nova import registration

# cinder-backup attaches the volumes; os-brick must know our protocol in its process.
registration.register_connector()


@interface.backupdriver
class OVSPosixBackupDriver(DifferentialBackup, posix.PosixBackupDriver):
    """Cinder's posix driver, which reads only what was written or has changed."""
