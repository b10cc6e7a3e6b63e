"""MariaDB, RabbitMQ, memcached and etcd: private instances on loopback."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
from contextlib import suppress
from pathlib import Path

from tests.openstack.lab import layout
from tests.openstack.lab.layout import Layout, Port
from tests.openstack.lab.namespaces import Namespaces
from tests.openstack.lab.processes import LabError, Processes

MARIADB, RABBITMQ, EPMD, MEMCACHED = "mariadb", "rabbitmq", "epmd", "memcached"
ETCD = "etcd"
ORDER = (MARIADB, EPMD, RABBITMQ, MEMCACHED, ETCD)
# Debian's wrapper changes to the user `rabbitmq`; this is what it calls.
_RABBITMQ_SERVER = Path("/usr/lib/rabbitmq/bin/rabbitmq-server")
_USERS = (
    "CREATE USER IF NOT EXISTS 'openstack'@'{host}' IDENTIFIED BY '{password}';"
    "GRANT ALL ON *.* TO 'openstack'@'{host}';"
)


def listens(port: int) -> bool:
    """Tell whether something accepts connections on a loopback port."""
    with socket.socket() as probe:
        probe.settimeout(5.0)
        return probe.connect_ex(("127.0.0.1", port)) == 0


class Infrastructure:
    """Starts them, each if it does not run."""

    def __init__(self, lab: Layout, processes: Processes, namespaces: Namespaces) -> None:
        self._lab = lab
        self._processes = processes
        self._namespaces = namespaces
        self._socket = lab.run / "mariadb.sock"

    def start(self) -> None:
        """Start all and wait until all answer."""
        self._require_free_ports()
        self._start_mariadb()
        self.start_rabbitmq()
        self._start_memcached()
        self._start_etcd()
        self._processes.wait_ready(MARIADB, self._mariadb_answers)
        self.sql("".join(
            _USERS.format(host=host, password=layout.PASSWORD)
            for host in ("localhost", "127.0.0.1")
        ))  # fmt: skip
        self._processes.wait_ready(RABBITMQ, lambda: listens(Port.RABBITMQ))
        self._processes.wait_ready(MEMCACHED, lambda: listens(Port.MEMCACHED))
        self._processes.wait_ready(ETCD, lambda: listens(Port.ETCD))

    def _require_free_ports(self) -> None:
        if self._processes.names():
            # Whoever runs may hold them; each service reports what it cannot get.
            holders = {MARIADB: Port.MARIADB, RABBITMQ: Port.RABBITMQ,
                       MEMCACHED: Port.MEMCACHED, ETCD: Port.ETCD}  # fmt: skip
            ports = {port for name, port in holders.items() if not self._processes.running(name)}
        else:
            ports = set(Port)
        taken = sorted(port for port in ports if listens(port))
        if taken:
            raise LabError(
                f"loopback ports {', '.join(map(str, map(int, taken)))} are taken: is the lab of "
                "another working copy running? End it there with `make openstack-stop`"
            )

    def _run(self, name: str, command: list[str | Path], extra: dict[str, str]) -> None:
        if not self._processes.running(name):
            line = self._namespaces.command(command)
            self._processes.start(name, line, self._lab.environment() | extra)

    def _start_mariadb(self) -> None:
        data = self._lab.state / "mariadb"
        if not data.exists():
            self._install_mariadb(data)
        self._run(
            MARIADB,
            ["mariadbd", "--no-defaults", "--user=root", f"--datadir={data}",
             f"--socket={self._socket}", f"--pid-file={self._lab.run / 'mariadbd.own-pid'}",
             "--bind-address=127.0.0.1", f"--port={int(Port.MARIADB)}", "--max-connections=1000",
             "--innodb-buffer-pool-size=256M", "--skip-log-bin",
             # A crash of the machine may cost the lab its last second: it is a lab.
             "--innodb-flush-log-at-trx-commit=0", "--character-set-server=utf8mb3"],
            {},
        )  # fmt: skip

    def _install_mariadb(self, data: Path) -> None:
        """Make an empty server; the rename makes a half-made one impossible."""
        fresh = data.with_suffix(".new")
        shutil.rmtree(fresh, ignore_errors=True)
        result = subprocess.run(
            ["mariadb-install-db", "--no-defaults", "--user=root", f"--datadir={fresh}",
             "--auth-root-authentication-method=normal"],
            env=self._lab.environment(), capture_output=True, text=True, check=False,
        )  # fmt: skip
        if result.returncode != 0:
            raise LabError(f"mariadb-install-db failed: {result.stdout}{result.stderr}")
        fresh.rename(data)

    def start_rabbitmq(self) -> None:
        """Start RabbitMQ, and the port mapper that it would start for itself otherwise."""
        home = self._lab.state / "rabbitmq"
        settings = self._lab.etc / "rabbitmq"
        settings.mkdir(exist_ok=True)
        (settings / "enabled_plugins").write_text("[].\n")
        (settings / "rabbitmq.conf").write_text("loopback_users.guest = true\n")
        mapper = {"ERL_EPMD_ADDRESS": "127.0.0.1", "ERL_EPMD_PORT": str(int(Port.EPMD))}
        self._run(EPMD, ["epmd", "-port", str(int(Port.EPMD)), "-address", "127.0.0.1"], mapper)
        self._processes.wait_ready(EPMD, lambda: listens(Port.EPMD))
        self._run(
            RABBITMQ,
            [_RABBITMQ_SERVER],
            mapper | {
                "HOME": str(home),
                "RABBITMQ_NODENAME": "lab@localhost",
                "RABBITMQ_NODE_IP_ADDRESS": "127.0.0.1",
                "RABBITMQ_NODE_PORT": str(int(Port.RABBITMQ)),
                "RABBITMQ_DIST_PORT": str(int(Port.RABBITMQ_CLUSTER)),
                "RABBITMQ_MNESIA_BASE": str(home),
                "RABBITMQ_LOG_BASE": str(self._lab.log),
                "RABBITMQ_PID_FILE": str(self._lab.run / "rabbitmq.own-pid"),
                "RABBITMQ_CONFIG_FILE": str(settings / "rabbitmq"),
                "RABBITMQ_ENABLED_PLUGINS_FILE": str(settings / "enabled_plugins"),
                # The script then becomes the server, instead of waiting for it.
                "RUNNING_UNDER_SYSTEMD": "true",
                # One scheduler: by default it spins on all cores, and the machine has few.
                "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS":
                    "+S 1:1 +sbwt none -kernel inet_dist_use_interface {127,0,0,1}",
            },
        )  # fmt: skip

    def restart_rabbitmq(self) -> None:
        """Kill RabbitMQ with SIGKILL and start it again."""
        self._processes.kill(RABBITMQ, signal.SIGKILL)
        self.start_rabbitmq()
        self._processes.wait_ready(RABBITMQ, lambda: listens(Port.RABBITMQ))

    def _start_memcached(self) -> None:
        self._run(
            MEMCACHED,
            ["memcached", "-u", "root", "-l", "127.0.0.1", "-p", str(int(Port.MEMCACHED)),
             "-m", "64"],
            {},
        )  # fmt: skip

    def _start_etcd(self) -> None:
        client, peers = (f"http://127.0.0.1:{int(port)}" for port in (Port.ETCD, Port.ETCD_PEERS))
        options = {
            "data-dir": str(self._lab.state / "etcd"),
            "listen-client-urls": client,
            "advertise-client-urls": client,
            "listen-peer-urls": peers,
            "initial-advertise-peer-urls": peers,
            "initial-cluster": f"default={peers}",
            # As doc/domains.md says.
            "max-txn-ops": "4096",
            "auto-compaction-mode": "periodic",
            "auto-compaction-retention": "1h",
            "logger": "zap",
        }
        self._run(ETCD, ["etcd", *(f"--{key}={value}" for key, value in options.items())], {})

    def flush_memcached(self) -> None:
        """Forget all that is cached: after a wipe, cached ids name nothing any more."""
        with socket.create_connection(("127.0.0.1", int(Port.MEMCACHED)), 60) as connection:
            connection.sendall(b"flush_all\r\nquit\r\n")
            with suppress(ConnectionResetError):
                while connection.recv(4096):
                    pass

    def _client(self, program: str) -> list[str]:
        return [program, "--no-defaults", "--user=root", f"--socket={self._socket}"]

    def _mariadb_answers(self) -> bool:
        command = [*self._client("mariadb-admin"), "ping"]
        return subprocess.run(command, capture_output=True, check=False).returncode == 0

    def sql(self, statements: str) -> str:
        """Perform SQL as the database's administrator; return what it prints."""
        result = subprocess.run(
            [*self._client("mariadb"), "--batch", "--skip-column-names"],
            input=statements, capture_output=True, text=True, env=os.environ, check=False,
        )  # fmt: skip
        if result.returncode != 0:
            raise LabError(f"MariaDB refused {statements[:200]!r}: {result.stderr}")
        return result.stdout

    def load(self, dump: Path) -> None:
        """Perform a dump's statements."""
        with dump.open("rb") as file:
            result = subprocess.run(
                self._client("mariadb"), stdin=file, capture_output=True, text=True, check=False
            )
        if result.returncode != 0:
            raise LabError(f"MariaDB could not load {dump}: {result.stderr}; remove that file")

    def dump(self, databases: tuple[str, ...], path: Path) -> None:
        """Write databases into a file that ``load`` takes."""
        temporary = path.with_suffix(".new")
        with temporary.open("wb") as file:
            command = [*self._client("mariadb-dump"), "--add-drop-database", "--databases"]
            subprocess.run([*command, *databases], stdout=file, check=True)
        temporary.rename(path)
