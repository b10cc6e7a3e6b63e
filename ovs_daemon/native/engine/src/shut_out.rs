//! Hosts that a volume was taken away from write to it no more (`machines::edge::Door`).

use std::sync::{Arc, Weak};
use std::time::Duration;

use edge::target::VolumeId;

use crate::engine::Engine;
use crate::error::{Error, Result};
use crate::mailbox::{Command, Reply};

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
        // Dropped when this returns: who tries again for hours must not leave an entry each time.
        let caller = Arc::new(());
        let asking = Asking { volume, caller: Arc::downgrade(&caller) };
        let asked = self.begin(place.shard, |reply| Command::ShutOut { asking, generation, reply });
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

/// A call that waits for its answer, as long as its caller does.
pub(crate) struct Asking {
    pub(crate) volume: VolumeId,
    caller: Weak<()>,
}

/// Calls of a shard that wait until nothing of earlier generations can happen any more.
#[derive(Default)]
pub(crate) struct ShutOuts {
    waiting: Vec<(Asking, Reply<()>)>,
}

impl ShutOuts {
    pub(crate) fn put(&mut self, asking: Asking, reply: Reply<()>) {
        self.waiting.push((asking, reply));
    }

    /// Answers the calls of volumes that are `settled`, and forgets those that nobody waits for.
    pub(crate) fn answer(&mut self, settled: impl Fn(VolumeId) -> bool) {
        self.waiting.retain(|(asking, reply)| {
            let settled = settled(asking.volume);
            if settled {
                let _ = reply.send(Ok(()));
            }
            !settled && asking.caller.strong_count() > 0
        });
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::{Receiver, TryRecvError, sync_channel};

    use super::*;

    const STALLED: VolumeId = VolumeId(1);
    const OTHER: VolumeId = VolumeId(2);

    fn ask(shut_outs: &mut ShutOuts, volume: VolumeId) -> (Arc<()>, Receiver<Result<()>>) {
        let ((reply, hear), caller) = (sync_channel(1), Arc::new(()));
        shut_outs.put(Asking { volume, caller: Arc::downgrade(&caller) }, reply);
        (caller, hear)
    }

    #[test]
    fn who_has_given_up_leaves_nothing_and_who_waits_is_answered() {
        let mut shut_outs = ShutOuts::default();
        let (first, hears) = ask(&mut shut_outs, STALLED);
        for _ in 0..100 {
            let (again, _) = ask(&mut shut_outs, STALLED);
            shut_outs.answer(|_| false);
            assert_eq!(shut_outs.waiting.len(), 2, "the first, and the one that tries again");
            drop(again);
            shut_outs.answer(|_| false);
            assert_eq!(shut_outs.waiting.len(), 1);
        }
        let (_second, also_hears) = ask(&mut shut_outs, STALLED);
        let (_other, hears_other) = ask(&mut shut_outs, OTHER);
        shut_outs.answer(|volume| volume == OTHER);
        assert!(matches!(hears_other.try_recv(), Ok(Ok(()))));
        assert!(matches!(hears.try_recv(), Err(TryRecvError::Empty)));
        shut_outs.answer(|_| true);
        assert!(matches!((hears.try_recv(), also_hears.try_recv()), (Ok(Ok(())), Ok(Ok(())))));
        assert_eq!(shut_outs.waiting.len(), 0);
        drop(first);
    }
}
