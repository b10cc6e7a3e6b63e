#!/bin/sh
# Prints what setup.cfg asks for, one requirement a line: install_requires and the extras that are
# named, for example `tools/requirements.sh dev openstack`.
set -eu
cd "$(dirname "$0")/.."
for list in install_requires "$@"; do
    sed -n "/^$list =/,/^[^ ]/p" setup.cfg | sed -n 's/^    //p'
done
