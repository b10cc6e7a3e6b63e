//! What `status` says.

use format::entry::Uuid;
use format::log::PAGE;
use machines::dtl::link::Mode;
use machines::qos::{Limits, NAMES};
use machines::volume::Stage;
use serde_json::{Value, json};
use volume::{DtlStatus, Volume, uuid_text};

use crate::events::state_name;
use crate::following::{finding, follower, start_name};

/// One volume: figures, and what an operator should know.
pub(crate) fn volume(uuid: &Uuid, volume: &Volume, now: u64) -> Value {
    let (machine, stats) = (volume.machine(), volume.stats());
    let uuid = uuid_text(uuid);
    let stages =
        |wanted: fn(Stage) -> bool| machine.scos().values().filter(|s| wanted(s.stage)).count();
    let unsaved = machine.scos().iter().find(|(_, sco)| sco.stage < Stage::Uploaded);
    let followers = volume.feed_status();
    let mut findings: Vec<Value> = volume
        .findings()
        .into_iter()
        .map(|f| {
            let severity = if f.code == "DATA_UNREADABLE" { "critical" } else { "warning" };
            let object = format!("volume {uuid}");
            json!({"code": f.code, "severity": severity, "object": object, "why": f.why, "fix": f.fix})
        })
        .collect();
    let object = format!("volume {uuid}");
    findings.extend(followers.iter().filter_map(|one| finding(&object, one, now)));
    let state = match machine.stall() {
        _ if volume.stopped().is_some() => "fenced",
        Some(_) => "writes_wait",
        None if volume.throttle_ns() > 0 => "throttled",
        None => "ok",
    };
    let qos = volume.qos(now);
    json!({
        "uuid": uuid,
        "size": volume.size(),
        "mapped_bytes": machine.map().mapped() * PAGE as u64,
        "map_ram_bytes": machine.map().memory(),
        "buffer_bytes": volume.buffer_bytes(),
        "scos": machine.scos().len(),
        "scos_buffered": stages(|s| s < Stage::Evicted),
        "scos_uploading": stages(|s| matches!(s, Stage::Closed | Stage::Uploading)),
        "oldest_unsaved_sco": unsaved.map(|(sco, _)| sco),
        "throttle_us": volume.throttle_ns() / 1000,
        "reads": stats.reads,
        "writes": stats.writes,
        "read_bytes": stats.read_bytes,
        "write_bytes": stats.write_bytes,
        "trims": stats.trims,
        "flushes": stats.flushes,
        "read_time_us": stats.read_ns / 1000,
        "write_time_us": stats.change_ns / 1000,
        "batches": stats.batches,
        "checksum_errors": stats.checksum_errors,
        "moved_bytes": stats.moved_clusters * PAGE as u64,
        "snapshots": machine.snapshots().len(),
        "qos": limits(&qos.limits),
        "throttled_by": qos.throttled_by,
        "requests_waiting": qos.waiting,
        "requests_delayed": qos.delayed_requests,
        "state": state,
        "followers": followers.iter().map(follower).collect::<Vec<_>>(),
        "opened": start_name(volume.start()),
        "dtl": volume.dtl_status().map(|dtl| self::dtl(&dtl)),
        "findings": findings,
    })
}

/// Limits as `set_qos` takes them; null when there are none.
fn limits(limits: &Limits) -> Value {
    if limits.is_unlimited() {
        return Value::Null;
    }
    let rates = NAMES.iter().zip(limits.rates);
    let mut object: serde_json::Map<String, Value> =
        rates.map(|(name, rate)| ((*name).to_owned(), json!(rate))).collect();
    object.insert("burst_s".to_owned(), json!(limits.burst_ns as f64 / 1e9));
    Value::Object(object)
}

/// The DTL of a volume.
fn dtl(status: &DtlStatus) -> Value {
    let mode = match status.mode {
        Mode::Sync => "sync",
        Mode::Async => "async",
        Mode::None => "none",
    };
    json!({
        "mode": mode,
        "state": state_name(status.state),
        "node": status.node,
        "address": status.address,
        "connected": status.connected,
        "lag_batches": status.lag_batches,
        "lag_bytes": status.lag_bytes,
    })
}
