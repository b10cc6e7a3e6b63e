"""Databases of the services: made and migrated once, then taken from a dump of just that state."""

from __future__ import annotations

import hashlib
import subprocess
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

from tests.openstack.lab import layout
from tests.openstack.lab.configuration import database_url
from tests.openstack.lab.infrastructure import Infrastructure
from tests.openstack.lab.layout import PROJECT, Layout, Port
from tests.openstack.lab.processes import LabError

NAMES = ("keystone", "glance", "placement", "nova", "nova_api", "nova_cell0", "neutron", "cinder")
_MANAGE_SECONDS_MAX = 600.0


class Databases:
    """Makes what is missing."""

    def __init__(self, lab: Layout, infrastructure: Infrastructure) -> None:
        self._lab = lab
        self._infrastructure = infrastructure

    def ensure(self) -> None:
        """Make all databases if they are not complete."""
        # Written last: a start that was killed while it migrated is done again from the beginning.
        complete = self._lab.state / "databases-complete"
        if complete.exists():
            return
        dump = self._dump()
        if dump.exists():
            self._infrastructure.load(dump)
        else:
            self._migrate()
            self._infrastructure.dump(NAMES, dump)
        self._keystone_keys()
        # Keystone believes its cache: what that knows of databases that are gone is wrong.
        self._infrastructure.flush_memcached()
        self._bootstrap()
        complete.touch()

    def _dump(self) -> Path:
        """A dump fits the versions that made it."""
        versions = hashlib.sha256((PROJECT / "constraints.txt").read_bytes())
        versions.update(repr(NAMES).encode())
        return self._lab.cache / f"databases-{versions.hexdigest()[:12]}.sql"

    def _manage(self, program: str, config: str, *arguments: str) -> str:
        command = [program, "--config-file", str(self._lab.etc / config)]
        if program == "neutron-db-manage":
            ml2 = self._lab.etc / "neutron/plugins/ml2/ml2_conf.ini"
            command += ["--config-file", str(ml2)]
        environment = self._lab.environment()
        path = self._lab.log / f"{program}.out"
        result = subprocess.run(
            [*command, *arguments], capture_output=True, text=True, env=environment,
            timeout=_MANAGE_SECONDS_MAX, check=False,
        )  # fmt: skip
        with path.open("a") as log:
            log.write(f"$ {program} {' '.join(arguments)}\n{result.stdout}{result.stderr}")
        if result.returncode != 0:
            end = "\n".join((result.stdout + result.stderr).splitlines()[-20:])
            raise LabError(f"{program} {' '.join(arguments)} failed, see {path}:\n{end}")
        return result.stdout

    def _migrate(self) -> None:
        self._infrastructure.sql(
            "".join(
                f"DROP DATABASE IF EXISTS {name}; CREATE DATABASE {name} CHARACTER SET utf8mb3;"
                for name in NAMES
            )
        )
        with ThreadPoolExecutor(2) as pool:
            # The longest first, so that both cores have something to do until the end.
            steps: list[Future[Any]] = [
                pool.submit(self._migrate_nova),
                pool.submit(
                    self._manage, "neutron-db-manage", "neutron/neutron.conf", "upgrade", "heads"
                ),
                pool.submit(self._manage, "cinder-manage", "cinder/cinder.conf", "db", "sync"),
                pool.submit(self._manage, "keystone-manage", "keystone/keystone.conf", "db_sync"),
                pool.submit(self._manage, "glance-manage", "glance/glance-api.conf", "db_sync"),
                pool.submit(
                    self._manage, "placement-manage", "placement/placement.conf", "db", "sync"
                ),
            ]
            for step in steps:
                step.result()

    def _migrate_nova(self) -> None:
        config = "nova/nova.conf"
        self._manage("nova-manage", config, "api_db", "sync")
        self._manage(
            "nova-manage", config, "cell_v2", "map_cell0",
            "--database_connection", f"{database_url()}/nova_cell0?charset=utf8",
        )  # fmt: skip
        self._manage("nova-manage", config, "db", "sync")
        self._manage("nova-manage", config, "cell_v2", "create_cell", "--name", "cell1")

    def _keystone_keys(self) -> None:
        for verb in ("fernet_setup", "credential_setup"):
            self._manage(
                "keystone-manage", "keystone/keystone.conf", verb,
                "--keystone-user", "root", "--keystone-group", "root",
            )  # fmt: skip

    def _bootstrap(self) -> None:
        url = f"http://127.0.0.1:{Port.KEYSTONE}/v3/"
        self._manage(
            "keystone-manage", "keystone/keystone.conf", "bootstrap",
            "--bootstrap-password", layout.PASSWORD, "--bootstrap-region-id", layout.REGION,
            "--bootstrap-admin-url", url, "--bootstrap-internal-url", url,
            "--bootstrap-public-url", url,
        )  # fmt: skip

    def discover_hosts(self) -> None:
        """Tell Nova's cell of hypervisors that are new."""
        self._manage("nova-manage", "nova/nova.conf", "cell_v2", "discover_hosts")
