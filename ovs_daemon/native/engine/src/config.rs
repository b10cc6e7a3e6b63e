//! Configuration of an engine.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use alba::cluster::Place;
use alba::remote::Link;
use edge::server::ClusterKey;
use format::entry::Uuid;
use format::log::PAGE;
use machines::volume::Limits;
use serde::Deserialize;

use crate::error::{Error, Result};
use crate::presets::KeyConfig;

/// The erasure-coded backend; see `ovs_daemon/_native.pyi`.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
#[allow(missing_docs)]
pub struct AlbaConfig {
    pub osds: Vec<Place>,
    /// A preset in its JSON form, or the name of one that is shipped.
    pub preset: serde_json::Value,
    pub reserve: u64,
    /// That of new objects first.
    #[serde(default)]
    pub keys: Vec<KeyConfig>,
}

/// See `ovs_daemon/_native.pyi` for the meaning of each key.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
#[allow(missing_docs)]
pub struct Config {
    pub buffer_dir: PathBuf,
    #[serde(default)]
    pub backend_dir: Option<PathBuf>,
    #[serde(default)]
    pub alba: Option<AlbaConfig>,
    pub run_dir: PathBuf,
    #[serde(default = "one")]
    pub shards: usize,
    #[serde(default = "sco_size")]
    pub sco_size: u64,
    #[serde(default = "buffer_size")]
    pub buffer_size: u64,
    #[serde(default = "reserve")]
    pub reserve: u64,
    #[serde(default = "checkpoint_scos")]
    pub checkpoint_scos: u32,
    #[serde(default = "compaction")]
    pub compaction_bytes_per_s: u64,
    #[serde(default)]
    pub socket_owner: Option<String>,
    #[serde(default = "socket_mode")]
    pub socket_mode: u32,
    #[serde(default)]
    pub nbd_tcp: Option<SocketAddr>,
    #[serde(default)]
    pub cluster: Option<String>,
    #[serde(default)]
    pub dtl_listen: Option<SocketAddr>,
    #[serde(default)]
    pub dtl_dir: Option<PathBuf>,
    #[serde(default)]
    pub edge_listen: Option<SocketAddr>,
    #[serde(default)]
    pub cluster_key_file: Option<PathBuf>,
}

fn one() -> usize {
    1
}
fn sco_size() -> u64 {
    64 << 20
}
fn buffer_size() -> u64 {
    1 << 30
}
fn reserve() -> u64 {
    1 << 30
}
fn checkpoint_scos() -> u32 {
    16
}
fn compaction() -> u64 {
    64 << 20
}
fn socket_mode() -> u32 {
    0o660
}

/// SCOs with at most this share of live clusters are compacted, in percent.
const COMPACT_PERCENT: u32 = 40;
/// Data clusters of one operation: 256 KiB, what front ends cut requests to.
const OP_CLUSTERS: u32 = 64;
/// Objects of a volume that are being deleted at a time, in the queue that uploads wait in too.
const DELETES: u32 = 4;
/// Data clusters of one batch: 4 MiB.
const BATCH_CLUSTERS: u32 = 1024;

fn key_error(path: &Path, why: String) -> Error {
    let what = format!("use the cluster key {}", path.display());
    let fix = "copy the file from a node that has it, readable for the daemon alone";
    Error::new("BAD_CONFIG", &what, why, fix)
}

impl Config {
    /// Parses and checks a configuration.
    pub fn parse(json: &str) -> Result<Self> {
        let bad = |why: String| {
            Error::new("BAD_CONFIG", "cannot start the engine", why, "correct the configuration")
        };
        let config: Config = serde_json::from_str(json).map_err(|e| bad(e.to_string()))?;
        let sco = config.sco_size;
        if !sco.is_power_of_two() || !((1 << 20)..=(256 << 20)).contains(&sco) {
            return Err(bad(format!("sco_size is {sco}, not a power of two from 1 to 256 MiB")));
        }
        if !(1..=256).contains(&config.shards) {
            return Err(bad(format!("shards is {}, not 1 to 256", config.shards)));
        }
        if config.backend_dir.is_some() == config.alba.is_some() {
            return Err(bad("give either backend_dir or alba".to_owned()));
        }
        if config.edge_listen.is_some() && config.cluster_key_file.is_none() {
            return Err(bad("edge_listen is set without a cluster_key_file".into()));
        }
        config.owner()?;
        config.cluster()?;
        Ok(config)
    }

    /// The cluster's UUID; all zero when there is none.
    pub(crate) fn cluster(&self) -> Result<Uuid> {
        self.cluster.as_deref().map_or(Ok([0; 16]), crate::spec::uuid)
    }

    /// The backend in words, for findings.
    pub(crate) fn backend_name(&self) -> String {
        match &self.backend_dir {
            Some(dir) => format!("directory {}", dir.display()),
            None => "the erasure-coded backend".to_owned(),
        }
    }

    /// Uid and gid that own the sockets of guests.
    pub(crate) fn owner(&self) -> Result<Option<(u32, u32)>> {
        let Some(text) = &self.socket_owner else { return Ok(None) };
        let ids = text.split_once(':').and_then(|(u, g)| Some((u.parse().ok()?, g.parse().ok()?)));
        ids.map(Some).ok_or_else(|| {
            let why = format!("socket_owner is {text:?}, not uid:gid in digits");
            Error::new("BAD_CONFIG", "cannot start the engine", why, "correct the configuration")
        })
    }

    /// How OSDs behind servers know this node; `None`: none of them can be used.
    pub(crate) fn link(&self) -> Result<Option<Link>> {
        let (Some(_), Some(path)) = (&self.cluster, &self.cluster_key_file) else {
            return Ok(None);
        };
        // Without a key file nobody else is in the cluster.
        let known = media::file_len(path).ok().flatten().is_some();
        let key = known.then(|| net::ClusterKey::read(path)).transpose();
        let key = key.map_err(|why| key_error(path, why))?;
        Ok(key.map(|key| Link::new(self.cluster().unwrap_or_default(), key)))
    }

    /// Where Edges of other hosts connect, and the key that their tokens are signed with.
    pub(crate) fn edge_tcp(&self) -> Result<Option<(SocketAddr, ClusterKey)>> {
        let (Some(address), Some(path)) = (self.edge_listen, &self.cluster_key_file) else {
            return Ok(None);
        };
        let key = net::ClusterKey::read(path).map_err(|why| key_error(path, why))?;
        Ok(Some((address, key.into())))
    }

    /// Sizes for a volume's machine.
    pub(crate) fn limits(&self, sco_size: Option<u64>) -> Limits {
        let sco_size = sco_size.unwrap_or(self.sco_size);
        let sco_clusters = (sco_size / PAGE as u64) as u32;
        let buffer_scos = (self.buffer_size / sco_size).clamp(2, 1 << 16) as u32;
        Limits {
            sco_clusters,
            buffer_scos,
            keep_scos: (buffer_scos / 4).max(1),
            checkpoint_scos: self.checkpoint_scos.max(1),
            batch_clusters: BATCH_CLUSTERS.min(sco_clusters),
            op_clusters: OP_CLUSTERS.min(sco_clusters),
            compact_percent: COMPACT_PERCENT,
            deletes: DELETES,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn impossible_sizes_are_refused_with_the_reason() {
        let paths = r#""buffer_dir":"b","backend_dir":"o","run_dir":"r""#;
        assert!(Config::parse(&format!("{{{paths}}}")).is_ok());
        for (key, word) in [
            (r#""sco_size":3000000"#, "power of two"),
            (r#""shards":0"#, "shards"),
            (r#""socket_owner":"root""#, "uid:gid"),
            (r#""scosize":1"#, "unknown field"),
            (r#""alba":{"osds":[],"preset":"default","reserve":0}"#, "either backend_dir or alba"),
            (r#""edge_listen":"127.0.0.1:0""#, "cluster_key_file"),
        ] {
            let error = Config::parse(&format!("{{{paths},{key}}}")).unwrap_err();
            assert!(error.why.contains(word), "{error}");
        }
    }
}
