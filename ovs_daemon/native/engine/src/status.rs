//! What `status` says.

use format::entry::Uuid;
use format::log::PAGE;
use machines::volume::Stage;
use serde_json::{Value, json};
use volume::{Volume, uuid_text};

/// One volume: figures, and what an operator should know.
pub(crate) fn volume(uuid: &Uuid, volume: &Volume) -> Value {
    let (machine, stats) = (volume.machine(), volume.stats());
    let uuid = uuid_text(uuid);
    let stages =
        |wanted: fn(Stage) -> bool| machine.scos().values().filter(|s| wanted(s.stage)).count();
    let findings: Vec<Value> = volume
        .findings()
        .into_iter()
        .map(|f| {
            let severity = if f.code == "DATA_UNREADABLE" { "critical" } else { "warning" };
            let object = format!("volume {uuid}");
            json!({"code": f.code, "severity": severity, "object": object, "why": f.why, "fix": f.fix})
        })
        .collect();
    let state = match machine.stall() {
        Some(_) => "writes_wait",
        None if volume.throttle_ns() > 0 => "throttled",
        None => "ok",
    };
    json!({
        "uuid": uuid,
        "size": volume.size(),
        "mapped_bytes": machine.map().mapped() * PAGE as u64,
        "map_ram_bytes": machine.map().memory(),
        "buffer_bytes": volume.buffer_bytes(),
        "scos": machine.scos().len(),
        "scos_buffered": stages(|s| s < Stage::Evicted),
        "scos_uploading": stages(|s| matches!(s, Stage::Closed | Stage::Uploading)),
        "throttle_us": volume.throttle_ns() / 1000,
        "reads": stats.reads,
        "writes": stats.writes,
        "read_bytes": stats.read_bytes,
        "write_bytes": stats.write_bytes,
        "trims": stats.trims,
        "flushes": stats.flushes,
        "batches": stats.batches,
        "checksum_errors": stats.checksum_errors,
        "moved_bytes": stats.moved_clusters * PAGE as u64,
        "snapshots": machine.snapshots().len(),
        "state": state,
        "findings": findings,
    })
}
