//! Where a volume is served, as the daemon says it and as it is kept in `edge.json`.

use std::net::SocketAddr;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::client::{Address, Whereabouts, parse_token};

/// One place: `{"shm": PATH}` or `{"tcp": "ADDRESS:PORT"}`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Target {
    /// The socket of an engine on this host.
    Shm(PathBuf),
    /// Where an engine listens for Edges of other hosts.
    Tcp(SocketAddr),
}

/// See [`Whereabouts`].
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Where {
    /// The likeliest first; empty: the engine on this host.
    #[serde(default)]
    targets: Vec<Target>,
    /// Attach token, 128 hexadecimal digits; none: only engines on this host.
    #[serde(default)]
    token: Option<String>,
    /// The host that the token is for.
    #[serde(default)]
    host: String,
    /// No engine with an older epoch owns the volume.
    #[serde(default)]
    epoch: u64,
}

impl Where {
    /// For the session.
    ///
    /// # Errors
    /// A token that is none.
    pub(super) fn parse(&self) -> Result<Whereabouts, String> {
        let address = |target: &Target| match target {
            Target::Shm(path) => Address::Shm(path.clone()),
            Target::Tcp(address) => Address::Tcp(*address),
        };
        let token = match &self.token {
            None => [0; 64],
            Some(text) => parse_token(text).ok_or("\"token\" is not 128 hexadecimal digits")?,
        };
        Ok(Whereabouts {
            targets: self.targets.iter().map(address).collect(),
            token,
            host: self.host.clone(),
            epoch: self.epoch,
        })
    }

    /// The session needs no telling: an epoch alone changes nothing for one that is served.
    pub(super) fn same_places(&self, other: &Self) -> bool {
        (&self.targets, &self.token, &self.host) == (&other.targets, &other.token, &other.host)
            && self.epoch >= other.epoch
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_daemon_says_reads_as_it_means() {
        let text = r#"{"targets": [{"shm": "/run/a.sock"}, {"tcp": "[::1]:26203"}],
            "token": null, "host": "a", "epoch": 7}"#;
        let parsed = serde_json::from_str::<Where>(text).unwrap().parse().unwrap();
        let tcp = Address::Tcp("[::1]:26203".parse().unwrap());
        assert_eq!(parsed.targets, [Address::Shm("/run/a.sock".into()), tcp]);
        assert_eq!((parsed.epoch, parsed.token), (7, [0; 64]));
        assert_eq!(serde_json::from_str::<Where>("{}").unwrap(), Where::default());
        for wrong in ["00", &"g".repeat(128), &"é".repeat(64)] {
            let place = Where { token: Some((*wrong).to_owned()), ..Where::default() };
            assert!(place.parse().unwrap_err().contains("hexadecimal"));
        }
        let place = Where { token: Some("0f".repeat(64)), ..Where::default() };
        assert_eq!(place.parse().unwrap().token, [15; 64]);
    }
}
