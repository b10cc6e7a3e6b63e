//! Which OSDs a server has: for those who register them.

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
}
