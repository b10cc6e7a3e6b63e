//! Which OSDs a server has: for those who register them. And how those of the backend are.

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

    /// How the OSDs of the backend are, and those of its cache tier, in JSON: `[{"osd", "name",
    /// "reachable", "why", "total", "free"}]`.
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
                    "total": total,
                    "free": free,
                })
            })
            .collect();
        all.extend(crate::cache::states(alba));
        Ok(json!(all).to_string())
    }
}
