//! What control calls say about volumes.

use format::entry::Uuid;
use machines::qos::Limits;
use serde::Deserialize;

use crate::error::{Error, Result};
use crate::replication::DtlSpec;

/// The snapshot that a clone starts from.
#[derive(Clone, Debug, Deserialize, serde::Serialize)]
pub(crate) struct Parent {
    pub(crate) volume: String,
    pub(crate) snapshot: String,
}

#[derive(Clone, Debug, Deserialize)]
pub(crate) struct CreateSpec {
    pub(crate) uuid: String,
    pub(crate) size: u64,
    #[serde(default)]
    pub(crate) parent: Option<Parent>,
    #[serde(default)]
    pub(crate) preset: Option<serde_json::Value>,
}

#[derive(Clone, Debug, Deserialize)]
pub(crate) struct OpenVolume {
    pub(crate) uuid: String,
    pub(crate) size: u64,
    pub(crate) epoch: u64,
    /// Of the lease, when its record was read; without it: the present one.
    #[serde(default)]
    pub(crate) term: Option<u64>,
    /// Of its attachments: earlier ones are shut out.
    #[serde(default)]
    pub(crate) generation: u64,
    #[serde(default)]
    pub(crate) read_only: bool,
    #[serde(default)]
    pub(crate) ancestors: Vec<String>,
    #[serde(default)]
    pub(crate) parent: Option<Parent>,
    #[serde(default)]
    pub(crate) snapshots: Option<Vec<String>>,
    #[serde(default)]
    pub(crate) sco_size: Option<u64>,
    #[serde(default)]
    pub(crate) preset: Option<serde_json::Value>,
    #[serde(default)]
    pub(crate) qos: Option<QosSpec>,
    #[serde(default)]
    pub(crate) dtl: Option<DtlSpec>,
    #[serde(default)]
    pub(crate) followers: Vec<FollowerSpec>,
}

/// A node that is to follow the map of a volume.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct FollowerSpec {
    pub(crate) node: String,
    pub(crate) address: std::net::SocketAddr,
}

/// Who is to follow the map of an open volume.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct FollowSpec {
    pub(crate) followers: Vec<FollowerSpec>,
    #[serde(default)]
    pub(crate) parent: Option<Parent>,
}

/// Limits on the requests of a volume, per second; nothing given: no limit.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct QosSpec {
    read_iops: Option<f64>,
    write_iops: Option<f64>,
    total_iops: Option<f64>,
    read_bytes_s: Option<f64>,
    write_bytes_s: Option<f64>,
    total_bytes_s: Option<f64>,
    burst_s: Option<f64>,
}

/// A tenth of a second, as QEMU's own throttling has it.
const BURST_S: f64 = 0.1;
const BURST_S_MAX: f64 = 3600.0;

impl QosSpec {
    pub(crate) fn limits(&self, what: &str) -> Result<Limits> {
        let rates = [
            self.read_iops,
            self.write_iops,
            self.total_iops,
            self.read_bytes_s,
            self.write_bytes_s,
            self.total_bytes_s,
        ];
        let bad = |why: String, fix| Err(Error::new("BAD_QOS", what, why, fix));
        let useless = |rate: &Option<f64>| rate.is_some_and(|rate| rate <= 0.0);
        if let Some(at) = rates.iter().position(useless) {
            let why = format!("{} lets nothing through", machines::qos::NAMES[at]);
            return bad(why, "give more than 0, or leave it out for no limit");
        }
        // Less than one per second is one: a bucket counts whole requests and bytes.
        let rates = rates.map(|rate| rate.map(|rate| (rate.round() as u64).max(1)));
        let burst = self.burst_s.unwrap_or(BURST_S);
        if !(0.0..=BURST_S_MAX).contains(&burst) {
            return bad(format!("burst_s is {burst}, not 0 to 3600 seconds"), "give another burst");
        }
        Ok(Limits { rates, burst_ns: (burst * 1e9) as u64 })
    }
}

pub(crate) fn parse<T: serde::de::DeserializeOwned>(what: &str, json: &str) -> Result<T> {
    serde_json::from_str(json).map_err(|e| {
        Error::new("BAD_REQUEST", what, e.to_string(), "this is a fault of the caller: report it")
    })
}

/// Parses a UUID of 8-4-4-4-12 hexadecimal digits.
pub(crate) fn uuid(text: &str) -> Result<Uuid> {
    let digits: Vec<u8> = text.bytes().filter(|b| *b != b'-').collect();
    let mut id = [0; 16];
    let whole = digits.len() == 32 && text.len() == 36 && digits.iter().all(u8::is_ascii_hexdigit);
    if whole {
        for (byte, pair) in id.iter_mut().zip(digits.chunks_exact(2)) {
            let pair = std::str::from_utf8(pair).unwrap_or("0");
            *byte = u8::from_str_radix(pair, 16).unwrap_or(0);
        }
    }
    if !whole || volume::uuid_text(&id) != text.to_ascii_lowercase() {
        let what = format!("cannot use {text:?} as a UUID");
        let why = "it is not of the form 8-4-4-4-12 hexadecimal digits";
        return Err(Error::new("BAD_REQUEST", what, why, "give the UUID of a volume or snapshot"));
    }
    Ok(id)
}

/// A size must be whole clusters and addressable.
pub(crate) fn check_size(what: &str, size: u64) -> Result<()> {
    const MAX: u64 = 64 << 40;
    if size == 0 || !size.is_multiple_of(4096) || size > MAX {
        let why = format!("{size} bytes is not a multiple of 4096 from 4096 to 64 TiB");
        return Err(Error::new("BAD_SIZE", what, why, "give another size"));
    }
    Ok(())
}
