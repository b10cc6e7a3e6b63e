//! Messages to a shard from other threads.

use std::collections::VecDeque;
use std::io;
use std::path::PathBuf;
use std::sync::mpsc::SyncSender;
use std::sync::{Arc, Mutex};

use dtl::{Guest, TaskDone};
use edge::server::Adopted;
use edge::target::VolumeId;
use format::edge::Frame;
use format::entry::Uuid;
use machines::map::Map;
use machines::qos::Limits;
use media::Ring;
use net::Bell;
use volume::{Control, Following, JobDone, Pair, Saving, Volume};

use crate::error::Result;
use crate::shut_out::Asking;

/// Answers one call.
pub(crate) type Reply<T> = SyncSender<Result<T>>;

/// Makes a volume from its number on the shard.
pub(crate) type MakeVolume = Box<dyn FnOnce(u32) -> io::Result<Volume> + Send>;

/// What another thread wants of a shard.
pub(crate) enum Command {
    Add {
        uuid: Uuid,
        epoch: u64,
        /// Of the lease, when its opening began.
        term: u64,
        /// Of its attachments: earlier ones are shut out.
        generation: u64,
        make: MakeVolume,
        pair: Option<Pair>,
        following: Following,
        reply: Reply<VolumeId>,
    },
    Pair {
        volume: VolumeId,
        pair: Pair,
        reply: Reply<()>,
    },
    Follow {
        volume: VolumeId,
        following: Following,
        reply: Reply<()>,
    },
    DtlAnswer {
        volume: VolumeId,
        proposal: u32,
        accepted: bool,
    },
    DtlDone(TaskDone),
    DtlGuest(Box<Guest>),
    DtlUsage {
        reply: Reply<(usize, u64)>,
    },
    /// The lease has another end, or another term.
    Lease,
    Remove {
        volume: VolumeId,
        uuid: Uuid,
        /// What its Edges hear.
        farewell: Frame,
        reply: Reply<()>,
    },
    Control {
        volume: VolumeId,
        control: Control,
        reply: Reply<()>,
    },
    Grow {
        volume: VolumeId,
        size: u64,
        reply: Reply<()>,
    },
    Quiesce {
        volume: VolumeId,
        reply: Reply<()>,
    },
    /// `snapshot`: `None` for the head.
    Map {
        volume: VolumeId,
        snapshot: Option<Uuid>,
        reply: Reply<Option<Map>>,
    },
    Snapshots {
        volume: VolumeId,
        reply: Reply<Vec<Uuid>>,
    },
    Hold {
        volume: VolumeId,
        reply: Reply<()>,
    },
    Release {
        volume: VolumeId,
    },
    SetQos {
        volume: VolumeId,
        limits: Limits,
        reply: Reply<()>,
    },
    Export {
        volume: VolumeId,
        name: String,
        path: PathBuf,
        reply: Reply<()>,
    },
    Unexport {
        volume: VolumeId,
        reply: Reply<()>,
    },
    /// Answered when nothing of earlier generations can happen any more.
    ShutOut {
        asking: Asking,
        generation: u64,
        reply: Reply<()>,
    },
    /// How far it is with what is to be on the backend.
    Saving {
        volume: VolumeId,
        reply: Reply<Saving>,
    },
    Status {
        reply: Reply<Vec<serde_json::Value>>,
    },
    JobDone(JobDone),
    Adopt(Box<Adopted>),
    Stop,
}

/// A queue that wakes a shard.
pub(crate) struct Mailbox {
    /// `None`: nobody takes anything any more.
    queue: Mutex<Option<VecDeque<Command>>>,
    bell: Bell,
}

/// Closes a mailbox, however its shard ends: with its command a caller's reply goes, so that it
/// does not wait for ever.
pub(crate) struct Closing(pub(crate) Arc<Mailbox>);

impl Drop for Closing {
    fn drop(&mut self) {
        self.0.queue.lock().expect("no holder panics").take();
    }
}

impl Mailbox {
    pub(crate) fn new() -> io::Result<Self> {
        Ok(Self { queue: Mutex::new(Some(VecDeque::new())), bell: Bell::new()? })
    }

    /// False: its shard has ended, and the command is dropped.
    pub(crate) fn send(&self, command: Command) -> bool {
        match &mut *self.queue.lock().expect("no holder panics") {
            Some(queue) => queue.push_back(command),
            None => return false,
        }
        // The eventfd's counter can't overflow: the shard empties it at each wake-up.
        let _ = self.bell.ring();
        true
    }

    pub(crate) fn listen(&self, ring: &mut Ring, token: u64) {
        self.bell.listen(ring, token);
    }

    /// Everything sent so far. The bell is silenced first, so that nothing sent later is missed.
    pub(crate) fn take(&self) -> VecDeque<Command> {
        self.bell.silence();
        self.queue
            .lock()
            .expect("no holder panics")
            .as_mut()
            .map(std::mem::take)
            .unwrap_or_default()
    }
}
