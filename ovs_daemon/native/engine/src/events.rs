//! What the daemon has to decide or to know: handed over to whichever thread asks for it.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Condvar, Mutex};
use std::time::{Duration, Instant};

use edge::target::VolumeId;
use format::entry::Uuid;
use machines::dtl::State;
use machines::dtl::link::Reason;
use serde_json::{Value, json};
use volume::{DtlNews, uuid_text};

/// A state as the registry and Python call it.
pub(crate) fn state_name(state: State) -> &'static str {
    match state {
        State::Standalone => "standalone",
        State::Degraded => "degraded",
        State::CatchingUp => "catching_up",
        State::InSync => "in_sync",
    }
}

fn reason_name(reason: Reason) -> &'static str {
    match reason {
        Reason::NewerEpoch => "newer_epoch",
        Reason::SwapRefused => "swap_refused",
        Reason::Lease => "lease",
    }
}

/// Who waits for an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Asker {
    pub(crate) shard: usize,
    pub(crate) volume: VolumeId,
    pub(crate) proposal: u32,
}

#[derive(Debug, Default)]
struct Inner {
    next: u64,
    queue: VecDeque<Value>,
    asked: BTreeMap<u64, Asker>,
}

/// Events of all shards.
#[derive(Debug, Default)]
pub(crate) struct Events {
    inner: Mutex<Inner>,
    ready: Condvar,
}

impl Events {
    fn lock(&self) -> std::sync::MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    pub(crate) fn push(
        &self,
        shard: usize,
        volume: VolumeId,
        uuid: &Uuid,
        epoch: u64,
        news: &DtlNews,
    ) {
        let mut inner = self.lock();
        inner.next += 1;
        let (id, uuid) = (inner.next, uuid_text(uuid));
        inner.queue.push_back(match news {
            DtlNews::Propose { from, to, node, address, .. } => json!({
                "id": id, "kind": "dtl_state", "uuid": uuid, "epoch": epoch, "node": node,
                "address": address, "from": state_name(*from), "to": state_name(*to),
            }),
            DtlNews::Stopped(reason) => json!({
                "id": id, "kind": "fenced", "uuid": uuid, "epoch": epoch,
                "why": reason_name(*reason),
            }),
        });
        if let DtlNews::Propose { proposal, .. } = news {
            inner.asked.insert(id, Asker { shard, volume, proposal: *proposal });
        }
        self.ready.notify_one();
    }

    /// The next event, when one comes in time.
    pub(crate) fn next(&self, timeout: Duration) -> Option<String> {
        let end = Instant::now() + timeout;
        let mut inner = self.lock();
        loop {
            if let Some(event) = inner.queue.pop_front() {
                return Some(event.to_string());
            }
            let left = end.checked_duration_since(Instant::now())?;
            let waited = self.ready.wait_timeout(inner, left);
            inner = waited.unwrap_or_else(std::sync::PoisonError::into_inner).0;
        }
    }

    /// A volume is paired anew: what it has asked before is about the former pair, even where the new
    /// one has the same node.
    pub(crate) fn forget(&self, shard: usize, volume: VolumeId) {
        self.lock().asked.retain(|_, asker| (asker.shard, asker.volume) != (shard, volume));
    }

    /// Whether somebody waits for the answer still.
    pub(crate) fn stands(&self, id: u64) -> bool {
        self.lock().asked.contains_key(&id)
    }

    /// Who asked; once.
    pub(crate) fn take(&self, id: u64) -> Option<Asker> {
        self.lock().asked.remove(&id)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_asked_before_a_volume_is_paired_anew_stands_no_more() {
        let events = Events::default();
        let (a, b) = (VolumeId(1), VolumeId(2));
        let propose = |proposal| DtlNews::Propose {
            proposal,
            from: State::CatchingUp,
            to: State::InSync,
            node: "b1".to_owned(),
            address: None,
        };
        events.push(0, a, &[1; 16], 8, &propose(1));
        events.push(0, b, &[2; 16], 8, &propose(1));
        events.push(1, a, &[3; 16], 8, &propose(1));
        events.forget(0, a);
        events.push(0, a, &[1; 16], 8, &propose(3));
        assert_eq!([1, 2, 3, 4].map(|id| events.stands(id)), [false, true, true, true]);
        assert!(events.take(1).is_none());
        assert_eq!(events.take(4), Some(Asker { shard: 0, volume: a, proposal: 3 }));
        assert!(!events.stands(4));
    }
}
