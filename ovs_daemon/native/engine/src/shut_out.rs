//! Hosts that a volume was taken away from write to it no more (`machines::edge::Door`).

use std::time::Duration;

use crate::engine::Engine;
use crate::error::{Error, Result};
use crate::mailbox::Command;

/// How long the requests that they have on their way may take. They wait for the volume's disk and
/// for the node that keeps its log, and a caller is to hear that these are slow.
const PATIENCE: Duration = Duration::from_secs(5);

impl Engine {
    /// Shuts out earlier generations of a volume's attachments, from now on; returns when nothing of
    /// them can happen any more.
    pub fn shut_out(&self, text: &str, generation: u64) -> Result<()> {
        let what = format!("cannot shut out earlier users of volume {text}");
        let (_, place) = self.place(what.clone(), text)?;
        let volume = place.volume;
        let asked = self.begin(place.shard, |reply| Command::ShutOut { volume, generation, reply });
        asked.wait_at_most(PATIENCE).unwrap_or_else(|| {
            let why = format!(
                "requests that they have on their way are not done after {} s",
                PATIENCE.as_secs()
            );
            let fix = "look at the volume's disk and log with 'vstorage status'; no new request of \
                       theirs is taken, so try again";
            Err(Error::new("BUSY", what, why, fix))
        })
    }
}
