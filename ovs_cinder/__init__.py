"""OpenStack's side for volumes: the Cinder driver comes with the next issue."""
