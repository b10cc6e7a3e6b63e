#!/bin/sh
# Makes constraints.txt anew: the newest versions that a fresh virtual environment takes.
set -eu
cd "$(dirname "$0")/.."
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"${PYTHON:-python3}" -m venv "$folder"
"$folder/bin/pip" install -q -U pip setuptools
# What setup.cfg asks for: the lines of install_requires and of the extra `dev`.
sed -n '/^install_requires/,/^$/p; /^dev =/,/^$/p' setup.cfg | sed -n 's/^    //p' \
    > "$folder/wanted.txt"
"$folder/bin/pip" install -q -r "$folder/wanted.txt"
{
    echo "# Every Python package that the project is built, run and tested with, pinned. Made from"
    echo "# a fresh virtual environment by \`make lock\`; \`make install\` installs exactly these."
    "$folder/bin/pip" freeze --all | grep -v '^pip=='
} > constraints.txt
