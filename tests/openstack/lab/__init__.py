"""A whole OpenStack on this machine, beside two nodes of ours: `make openstack`.

The services are the real ones, from PyPI and Debian. All listens on loopback on ports of its own,
all state lies in ``build/openstack``, all processes run in mount namespaces of their own and are
ended by the pids that were recorded when they were started: nothing else on the machine is touched.

    python -m tests.openstack.lab start | stop | status | wipe
    python -m tests.openstack.lab restart NAME...
    python -m tests.openstack.lab exec COMMAND...
"""
