//! The cache tier of the backend: which OSDs it is, and how it does.

use std::sync::atomic::{AtomicU64, Ordering};

use alba::Cluster;
use alba::cluster::{CacheOsd, OsdAddress};
use serde_json::{Map, Value, json};
use volume::uuid_text;

use crate::engine::{Engine, backend_error};
use crate::error::{Error, Result};
use crate::spec::parse;

impl Engine {
    /// The cache OSDs of this node's Domain, in JSON, in place of those of before; see
    /// `_native.pyi`.
    pub fn set_caches(&self, osds_json: &str) -> Result<()> {
        let what = "cannot use cache OSDs";
        let osds: Vec<OsdAddress> = parse(what, osds_json)?;
        let Some(alba) = self.alba() else {
            let why = "the backend of this engine is a directory";
            return Err(Error::new("NO_ALBA", what, why, "configure [alba] on this node"));
        };
        alba.set_caches(&osds).map_err(|e| backend_error(what, &e))
    }
}

/// What a cache OSD says of itself; null: nothing.
fn told(osd: &CacheOsd) -> Value {
    osd.figures.as_ref().and_then(|text| serde_json::from_str(text).ok()).unwrap_or_default()
}

/// How the cache OSDs are, as `osd_states` says it.
pub(crate) fn states(alba: &Cluster) -> Vec<Value> {
    let state = |osd: &CacheOsd| {
        let told = told(osd);
        let total = told["size"].as_u64();
        let free = total.zip(told["bytes"].as_u64()).map(|(total, used)| total - used.min(total));
        json!({
            "osd": uuid_text(&osd.osd),
            "name": osd.name,
            "reachable": osd.trouble.is_none(),
            "why": osd.trouble,
            "release": osd.release,
            "total": total,
            "free": free,
        })
    };
    alba.caches().iter().map(state).collect()
}

/// What the cache tier has done for this node, and what its OSDs say of themselves; null: there is
/// none.
pub(crate) fn figures(alba: &Cluster) -> Value {
    let caches = alba.caches();
    if caches.is_empty() {
        return Value::Null;
    }
    let figures = alba.cache_figures();
    let of = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
    let osd = |osd: &CacheOsd| {
        let mut all: Map<String, Value> = told(osd).as_object().cloned().unwrap_or_default();
        all.insert("osd".to_owned(), json!(uuid_text(&osd.osd)));
        all.insert("name".to_owned(), json!(osd.name));
        all.insert("reachable".to_owned(), json!(osd.trouble.is_none()));
        Value::Object(all)
    };
    json!({
        "hits": of(&figures.hits),
        "misses": of(&figures.misses),
        "late": of(&figures.late),
        "passed": of(&figures.passed),
        "damaged": of(&figures.damaged),
        "hit_bytes": of(&figures.hit_bytes),
        "fills": of(&figures.fills),
        "fill_bytes": of(&figures.fill_bytes),
        "left_out": of(&figures.left_out),
        "osds": caches.iter().map(osd).collect::<Vec<_>>(),
    })
}
