"""OpenStack's side for volumes: the Cinder volume driver and the Cinder backup driver."""
