//! Control calls about warm maps: who follows a volume's, and what is followed here.

use format::log::PAGE;
use machines::mds::feed::State;
use mds::Followed;
use serde_json::{Value, json};
use volume::{FeedStatus, FollowerAt, Following, Start, uuid_text};

use crate::engine::Engine;
use crate::error::Result;
use crate::mailbox::Command;
use crate::spec::{FollowSpec, FollowerSpec, OpenVolume, Parent, parse, uuid};

/// How long a follower may be apart from the owner before an operator is told.
const APART_NS: u64 = 10_000_000_000;

impl Engine {
    /// Who follows an open volume's map, from now on.
    pub fn set_followers(&self, text: &str, spec_json: &str) -> Result<()> {
        let what = format!("cannot have the map of volume {text} followed");
        let (_, place) = self.place(what.clone(), text)?;
        let spec: FollowSpec = parse(&what, spec_json)?;
        let following = self.follow(&spec.followers, spec.parent.as_ref())?;
        let volume = place.volume;
        self.ask(place.shard, |reply| Command::Follow { volume, following, reply })
    }

    /// Forgets the maps of all volumes but these: nobody wants this node to follow them.
    pub fn retain_followed(&self, uuids_json: &str) -> Result<()> {
        let uuids: Vec<String> = parse("cannot forget maps", uuids_json)?;
        self.followers.retain(uuids.iter().map(|text| uuid(text)).collect::<Result<_>>()?);
        Ok(())
    }

    pub(crate) fn following(&self, spec: &OpenVolume) -> Result<Following> {
        self.follow(&spec.followers, spec.parent.as_ref())
    }

    fn follow(&self, followers: &[FollowerSpec], parent: Option<&Parent>) -> Result<Following> {
        let at = |one: &FollowerSpec| FollowerAt { node: one.node.clone(), address: one.address };
        let base = parent.map(|parent| uuid(&parent.snapshot)).transpose()?;
        let followers = followers.iter().map(at).collect();
        Ok(Following { cluster: self.config.cluster()?, base, followers })
    }

    /// What `status` says about the maps that are followed here.
    pub(crate) fn followed(&self) -> Vec<Value> {
        self.followers.status().iter().map(describe).collect()
    }
}

fn describe(followed: &Followed) -> Value {
    json!({
        "uuid": uuid_text(&followed.volume),
        "epoch": followed.epoch,
        "state": if followed.fed { "following" } else { "apart" },
        "sequence": followed.sequence,
        "mapped_bytes": followed.mapped_clusters * PAGE as u64,
        "map_ram_bytes": followed.memory_bytes,
        "trouble": followed.trouble,
    })
}

/// A follower of a volume, as its owner sees it.
pub(crate) fn follower(status: &FeedStatus) -> Value {
    let state = match status.state {
        State::Away => "apart",
        State::Asked => "beginning",
        State::Unable => "unable",
        State::Fed => "following",
    };
    json!({
        "node": status.node,
        "address": status.address,
        "state": state,
        "lag_batches": status.lag_batches,
        "lag_bytes": status.lag_bytes,
        "trouble": status.trouble,
    })
}

/// What an operator should know of it.
pub(crate) fn finding(object: &str, status: &FeedStatus, now: u64) -> Option<Value> {
    let since = status.apart_since.filter(|since| now.saturating_sub(*since) >= APART_NS)?;
    let trouble = status.trouble.as_deref().unwrap_or("it has not said where it stands");
    Some(json!({
        "code": "MAP_NOT_FOLLOWED",
        "severity": "info",
        "object": object,
        "why": format!("node {} has not followed its map for {} s: {trouble}", status.node,
                       now.saturating_sub(since) / 1_000_000_000),
        "fix": "nothing is at risk: a takeover there would have to load the map first; it mends \
                itself when that node and the backend can be reached",
    }))
}

/// What a volume's map was made from.
pub(crate) fn start_name(start: &Start) -> &'static str {
    match start {
        Start::Cold => "loaded",
        Start::Warm => "warm",
        Start::Refused(_) => "warm_refused",
    }
}
