"""`make openstack-tempest`: Tempest's volume tests against the lab, with a list of skips.

Prints the counts and every failure; status 0 if nothing failed.

    python -m tests.openstack.tempest_run [REGEX]
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

from tests.openstack.lab import guest_image, layout, network, registration
from tests.openstack.lab.cloud import Cloud
from tests.openstack.lab.configuration import render
from tests.openstack.lab.layout import SECTIONS, Port
from tests.openstack.lab.processes import LabError

SKIPS = Path(__file__).with_name("tempest_skips.txt")
DEFAULT_REGEX = (
    r"^(tempest\.api\.volume|tempest\.scenario\.test_volume_boot_pattern"
    r"|tempest\.scenario\.test_encrypted_cinder_volumes|cinder_tempest_plugin)\."
)
ALTERNATIVE_IMAGE = "tiny-alt"
_CONCURRENCY = 2


class Tempest:
    """A workspace of Tempest for the lab."""

    def __init__(self, cloud: Cloud) -> None:
        self._lab = cloud.lab
        self._folder = cloud.lab.root / "tempest"
        self._sdk = registration.connect(cloud.lab)

    def _environment(self) -> dict[str, str]:
        return self._lab.environment() | {"TEMPEST_CONFIG_DIR": str(self._folder / "etc")}

    def prepare(self) -> None:
        """Make the workspace anew, with the configuration of this cloud."""
        shutil.rmtree(self._folder, ignore_errors=True)
        self._folder.mkdir(parents=True)
        command = ["tempest", "init", "--workspace-path", str(self._folder / "workspaces.yaml"),
                   str(self._folder)]  # fmt: skip
        subprocess.run(
            command, cwd=self._folder.parent, env=self._environment(), check=True,
            capture_output=True,
        )  # fmt: skip
        disk = guest_image.build(self._lab.cache)
        registered = registration.Registration(self._lab)
        registered.image(ALTERNATIVE_IMAGE, disk)
        extensions = ",".join(sorted(one.alias for one in self._sdk.network.extensions()))
        values = {
            "log": self._folder,
            "state": self._lab.state,
            "password": layout.PASSWORD,
            "keystone": int(Port.KEYSTONE),
            "region": layout.REGION,
            "image": self._sdk.image.find_image(registration.IMAGE).id,
            "image_alt": self._sdk.image.find_image(ALTERNATIVE_IMAGE).id,
            "image_file": disk,
            "network": self._sdk.network.find_network(network.NETWORK).id,
            "network_name": network.NETWORK,
            "backend_names": ",".join(dict.fromkeys(one.backend_name for one in SECTIONS)),
            "network_extensions": extensions,
        }
        (self._folder / "etc/tempest.conf").write_text(render("tempest.conf", values))

    def run(self, regex: str) -> int:
        """Run the tests whose names match; return the exit status."""
        command = ["tempest", "run", "--regex", regex, "--exclude-list", str(SKIPS),
                   "--concurrency", str(_CONCURRENCY)]  # fmt: skip
        child = subprocess.Popen(
            command, cwd=self._folder, env=self._environment(), stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT, text=True,
        )  # fmt: skip
        assert child.stdout is not None
        with (self._folder / "output.txt").open("w") as log:
            for line in child.stdout:
                log.write(line)
                if re.search(r"\.\.\. (ok|FAILED|SKIPPED)| - (Passed|Skipped|Failed):", line):
                    print(line, end="", flush=True)
        status = child.wait()
        self._report(status)
        return status

    def _report(self, status: int) -> None:
        text = (self._folder / "output.txt").read_text()
        counts = {
            word: int(found.group(1)) if (found := re.search(rf" - {word}: (\d+)", text)) else 0
            for word in ("Passed", "Skipped", "Failed")
        }
        listed = sum(
            1 for line in SKIPS.read_text().splitlines() if line and not line.startswith("#")
        )
        if status != 0:
            print(f"what failed, and why, is in {self._folder / 'output.txt'}")
        print(f"tempest: {counts['Passed']} passed, {counts['Failed']} failed, "
              f"{counts['Skipped']} skipped; {listed} expressions in {SKIPS.name}")  # fmt: skip
        if counts["Passed"] == 0:
            raise LabError("Tempest ran no test")


def main() -> int:
    """Run what the command line names, or all of it."""
    try:
        tempest = Tempest(Cloud(layout.default()))
        tempest.prepare()
        return tempest.run(sys.argv[1] if len(sys.argv) > 1 else DEFAULT_REGEX)
    except LabError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
