//! Which OSDs a server has: for those who register them. And how those of the backend are.

use std::collections::BTreeMap;

use alba::remote::roll;
use serde_json::{Value, json};

use crate::engine::Engine;
use crate::error::{Error, Result};

impl Engine {
    /// The OSDs of the server at `address`, in JSON: `[{"osd", "domain", "node", "role"}]`.
    pub fn osd_roll(&self, address: &str) -> Result<String> {
        let what = format!("ask the OSD server at {address} what it serves");
        let failed = |why: String| {
            let fix = "start vstorage-osd there with this cluster's key, and compare the address";
            Error::new("OSD_SERVER", &what, why, fix)
        };
        let server = address.parse().map_err(|e| failed(format!("the address: {e}")))?;
        let link = self.config.link()?;
        let link = link.ok_or_else(|| failed("this node has no cluster key".to_owned()))?;
        let claims = roll(server, &link).map_err(|e| failed(e.to_string()))?;
        let all: Vec<Value> = claims
            .iter()
            .map(|claim| {
                json!({
                    "osd": volume::uuid_text(&claim.osd),
                    "domain": claim.domain,
                    "node": claim.node,
                    "role": claim.role.text(),
                })
            })
            .collect();
        Ok(json!(all).to_string())
    }

    /// Of which release the servers of the OSDs are that are reached, those of the cache tier too, in
    /// JSON: `{UUID of an OSD: release, "" when its server tells none}`. Asks nobody.
    pub fn osd_releases(&self) -> Result<String> {
        let Some(alba) = self.alba() else { return Ok("{}".to_owned()) };
        let stored = alba.osds();
        let stored = stored.iter().map(|osd| (osd.claim().osd, osd.release()));
        let said = stored.chain(alba.cache_releases());
        let said: BTreeMap<String, String> =
            said.filter_map(|(osd, release)| Some((volume::uuid_text(&osd), release?))).collect();
        Ok(json!(said).to_string())
    }

    /// How the OSDs of the backend are, and those of its cache tier, in JSON: `[{"osd", "name",
    /// "reachable", "why", "release", "total", "free"}]`.
    pub fn osd_states(&self) -> Result<String> {
        let Some(alba) = self.alba() else { return Ok("[]".to_owned()) };
        let mut all: Vec<Value> = alba
            .osds()
            .iter()
            .zip(alba.rooms())
            .map(|(osd, room)| {
                let why = osd.trouble();
                let (total, free) = room.unzip();
                json!({
                    "osd": volume::uuid_text(&osd.claim().osd),
                    "name": osd.name(),
                    "reachable": why.is_none(),
                    "why": why,
                    "release": osd.release(),
                    "total": total,
                    "free": free,
                })
            })
            .collect();
        all.extend(crate::cache::states(alba));
        Ok(json!(all).to_string())
    }
}
