"""OpenStack's side for servers: how a host attaches volumes.

* `connector`: the os-brick connector of protocol ``OVS``, which asks this host's daemon;
* `volume_driver`: Nova's libvirt volume driver, with `disk` for the XML and `grow` for servers
  whose volume grows under them;
* `recovery`: finishes what a killed nova-compute has left, as `interrupted` decides;
* `registration`: puts both into upstream's tables; `vif_hook` and `notify_hook` are the doors by
  which unmodified services load it.
"""
