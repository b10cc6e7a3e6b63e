"""OpenStack's side for servers: the os-brick connector and the Nova volume driver come with the
next issue."""
