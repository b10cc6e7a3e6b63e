//! What a volume has is brought to the backend while it is served.

use std::time::Duration;

use volume::{Control, Saving};

use crate::engine::{Asked, Engine, MOVE_PATIENCE};
use crate::error::{Error, Result};
use crate::mailbox::Command;
use crate::places::Place;

/// How things are, as it is looked at now and then.
#[derive(Debug, PartialEq, Eq)]
struct Progress {
    volume: Saving,
    /// What the backend took of any volume: grows.
    taken: u64,
}

impl Progress {
    /// Whether it is worth waiting: something of the volume was stored, or what it waits for has its
    /// turn after what the backend takes of others, or is under way itself. What failed since then
    /// may fail for ever, however much of others is stored.
    fn goes_on_since(&self, before: &Progress) -> bool {
        let (now, then) = (&self.volume, &before.volume);
        let stored = (now.oldest, now.checkpoint) != (then.oldest, then.checkpoint);
        stored || (now.asked && now.failures == then.failures && self.taken != before.taken)
    }
}

impl Engine {
    /// Brings what a volume has now to the backend, and into a checkpoint, while it is served: what
    /// closing it has to bring there afterwards is little. However much that is, and however much of
    /// other volumes comes before it, it is waited for as long as the backend takes some of it every
    /// minute.
    pub fn settle_volume(&self, text: &str) -> Result<()> {
        self.settle_within(text, MOVE_PATIENCE)
    }

    pub(crate) fn settle_within(&self, text: &str, patience: Duration) -> Result<()> {
        let why = format!("the backend took nothing of it for {} s", patience.as_secs());
        self.settle_looking(text, &why, &mut |settled| settled.wait_at_most(patience))
    }

    /// `wait`: until it is settled, or it is time to look whether that goes on; `why`: said when not.
    fn settle_looking(
        &self,
        text: &str,
        why: &str,
        wait: &mut dyn FnMut(&Asked<()>) -> Option<Result<()>>,
    ) -> Result<()> {
        let what = format!("cannot bring what volume {text} has to the backend");
        let (_, place) = self.place(what.clone(), text)?;
        let (volume, control) = (place.volume, Control::Settle);
        let mut before = self.progress(&place)?;
        let settled = self.begin(place.shard, |reply| Command::Control { volume, control, reply });
        loop {
            if let Some(answer) = wait(&settled) {
                return answer;
            }
            let now = self.progress(&place)?;
            if !now.goes_on_since(&before) {
                let trouble = now.volume.why.map(|why| format!(": {why}")).unwrap_or_default();
                let fix = "it is served as before, and nothing is lost; see what 'vstorage status' \
                           says about the backend, then try again";
                return Err(Error::new("BACKEND", what, format!("{why}{trouble}"), fix));
            }
            before = now;
        }
    }

    fn progress(&self, place: &Place) -> Result<Progress> {
        let volume = place.volume;
        let saving = self.ask(place.shard, |reply| Command::Saving { volume, reply })?;
        Ok(Progress { volume: saving, taken: self.workers.done() + self.backend.taken() })
    }
}

#[cfg(test)]
#[path = "settling_tests.rs"]
mod tests;
