#!/bin/sh
# Makes constraints.txt anew: the newest versions that a fresh virtual environment takes, of all
# that is needed here together, so that one set serves the programs, the tests and the lab's cloud.
set -eu
cd "$(dirname "$0")/.."
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"${PYTHON:-python3}" -m venv "$folder"
"$folder/bin/pip" install -q -U pip setuptools
tools/requirements.sh dev openstack lab > "$folder/wanted.txt"
"$folder/bin/pip" install -q -r "$folder/wanted.txt"
{
    echo "# Every Python package that the project is built, run and tested with, pinned. Made from"
    echo "# a fresh virtual environment by \`make lock\`. \`make install\` takes from it what building"
    echo "# and the unit tests need, \`make openstack\` the rest."
    "$folder/bin/pip" freeze --all | grep -v '^pip=='
} > constraints.txt
