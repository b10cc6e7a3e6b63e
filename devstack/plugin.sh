#!/bin/bash
# DevStack plugin: a node (vstorage-daemon and vstorage-edge) and a Cinder backend for each zone.
#
# DevStack sources this file with the words of its phase, and calls the functions *_cinder_backend_ovs
# by their names for each `ovs:ZONE` in CINDER_ENABLED_BACKENDS.

OVS_PLUGIN_DIR=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)

_OVS_XTRACE=$(set +o | grep xtrace)
set +o xtrace

# The program NAME where pip has put it.
function _ovs_program {
    echo "$(get_python_exec_prefix)/$1"
}

function _ovs_run_dirs {
    local zone dirs=""
    for zone in ${OVS_ZONES//,/ }; do
        dirs+="${dirs:+,}$OVS_RUN_DIR/$zone"
    done
    echo "$dirs"
}

function install_ovs {
    if ! command -v cargo >/dev/null; then
        die $LINENO "open-vstorage needs Rust: install it with rustup, or set PATH to it"
    fi
    setup_develop "$OVS_PLUGIN_DIR"
}

# The configuration of a zone's node.
function configure_ovs_node {
    local zone=$1
    local conf="$OVS_CONF_DIR/vstorage-$zone.conf"
    sudo install -d -o "$STACK_USER" "$OVS_CONF_DIR"
    sudo install -d -m 0755 "$OVS_RUN_DIR/$zone"
    sudo install -d -m 0700 "$OVS_STATE_DIR/$zone/buffer"
    rm -f "$conf"
    iniset "$conf" DEFAULT host "$(hostname)-$zone"
    iniset "$conf" DEFAULT domain "$zone"
    iniset "$conf" DEFAULT availability_zone "$zone"
    iniset "$conf" DEFAULT state_dir "$OVS_STATE_DIR/$zone"
    iniset "$conf" DEFAULT run_dir "$OVS_RUN_DIR/$zone"
    # Cinder and Nova run as this user and attach through the daemon.
    iniset "$conf" DEFAULT control_group "$(id -gn "$STACK_USER")"
    iniset "$conf" DEFAULT debug "$ENABLE_DEBUG_LOG_LEVEL"
    iniset "$conf" engine buffer_dir "$OVS_STATE_DIR/$zone/buffer"
    # On one machine the real backend: nine folders that stand for three Domains of three nodes.
    iniset "$conf" alba embedded true
    iniset "$conf" nbd socket_owner "$OVS_SOCKET_OWNER"
    iniset "$conf" rpc transport_url "$(get_transport_url)"
}

function start_ovs_node {
    local zone=$1
    local conf="$OVS_CONF_DIR/vstorage-$zone.conf"
    # As root: the node mounts volumes as files and gives sockets to QEMU's user.
    run_process "vstorage-daemon-$zone" "$(_ovs_program vstorage-daemon) --config-file $conf" \
        root root
    run_process "vstorage-edge-$zone" "$(_ovs_program vstorage-edge) --run-dir $OVS_RUN_DIR/$zone" \
        root root
}

# Called by Cinder with the name of the backend, which is that of the zone.
function configure_cinder_backend_ovs {
    local zone=$1
    iniset "$CINDER_CONF" "$zone" volume_driver ovs_cinder.driver.OVSVolumeDriver
    # One name, so that one volume type serves all zones.
    iniset "$CINDER_CONF" "$zone" volume_backend_name "$OVS_VOLUME_TYPE"
    iniset "$CINDER_CONF" "$zone" backend_availability_zone "$zone"
    iniset "$CINDER_CONF" "$zone" ovs_domain "$zone"
}

# Called before cinder-volume starts: its driver needs the node.
function init_cinder_backend_ovs {
    start_ovs_node "$1"
}

function cleanup_cinder_backend_ovs {
    sudo rm -rf "${OVS_STATE_DIR:?}/$1" "${OVS_RUN_DIR:?}/$1"
    sudo rm -f "$OVS_CONF_DIR/vstorage-$1.conf"
}

# In every process that attaches; nova-cpu.conf is made from nova.conf when nova-compute starts.
function configure_ovs_clients {
    local dirs
    dirs=$(_ovs_run_dirs)
    iniset "$CINDER_CONF" ovs run_dirs "$dirs"
    # cinder-backup attaches, too: this is how the connector gets into it.
    iniadd "$CINDER_CONF" oslo_messaging_notifications driver open_vstorage
    if is_service_enabled n-cpu; then
        iniset "$NOVA_CONF" ovs run_dirs "$dirs"
    fi
}

function create_ovs_volume_type {
    openstack --os-region-name="$REGION_NAME" volume type show "$OVS_VOLUME_TYPE" >/dev/null 2>&1 ||
        openstack --os-region-name="$REGION_NAME" volume type create \
            --property volume_backend_name="$OVS_VOLUME_TYPE" "$OVS_VOLUME_TYPE"
}

function configure_ovs_tempest {
    iniset "$TEMPEST_CONFIG" volume storage_protocol ovs
    iniset "$TEMPEST_CONFIG" volume vendor_name "Open vStorage"
    iniset "$TEMPEST_CONFIG" volume backend_names "$OVS_VOLUME_TYPE"
    iniset "$TEMPEST_CONFIG" volume manage_snapshot_ref "source-name,snapshot-%s"
    iniset "$TEMPEST_CONFIG" volume-feature-enabled volume_revert True
    iniset "$TEMPEST_CONFIG" volume-feature-enabled consistency_group True
    iniset "$TEMPEST_CONFIG" volume-feature-enabled manage_volume True
    iniset "$TEMPEST_CONFIG" volume-feature-enabled manage_snapshot True
    iniset "$TEMPEST_CONFIG" compute-feature-enabled volume_multiattach True
}

function stop_ovs {
    local zone
    for zone in ${OVS_ZONES//,/ }; do
        stop_process "vstorage-edge-$zone"
        stop_process "vstorage-daemon-$zone"
    done
}

function _ovs_each_zone {
    local zone
    for zone in ${OVS_ZONES//,/ }; do
        "$@" "$zone"
    done
}

case "${1:-} ${2:-}" in
    "stack pre-install")
        # Packages are in devstack/files/bindep.txt, which DevStack reads.
        ;;
    "stack install")
        install_ovs
        ;;
    "stack post-config")
        _ovs_each_zone configure_ovs_node
        configure_ovs_clients
        ;;
    "stack extra")
        create_ovs_volume_type
        ;;
    "stack test-config")
        configure_ovs_tempest
        ;;
    "unstack "*)
        stop_ovs
        ;;
    "clean "*)
        _ovs_each_zone cleanup_cinder_backend_ovs
        ;;
esac

$_OVS_XTRACE
unset _OVS_XTRACE
