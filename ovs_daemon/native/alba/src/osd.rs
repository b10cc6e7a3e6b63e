//! What a cluster asks of an OSD, wherever that is: in a folder of this host ([`LocalOsd`]) or
//! behind a server ([`crate::remote::RemoteOsd`]).
//!
//! A request is started and its answer comes to a [`Reply`], so that one thread has many requests
//! under way on many OSDs. Who does not answer is out of reach: that tells nothing about what is
//! stored there.

use std::fmt;
use std::sync::mpsc::sync_channel;
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::Duration;

use format::fragment::{FragmentName, LOG_MARK, StoredFragment, mark_name, marked_generation};
use format::osd::Claim;
use format::osd::wire::Class;

use crate::folder::FolderOsd;
use crate::part::Part;
use crate::{BackendError, Cause, Put, Result};

/// Ending of the folder of an object.
pub const OBJECT: &str = ".obj";
/// Folder of the records of use.
pub const USES: &str = "uses";
/// Name of the record by which an OSD is sealed: it stores no fragment any more.
pub const SEAL: &str = "osd.sealed";

/// Bytes of a file in pieces, in order; shared by those that still have to send or store them.
pub type Parts = Arc<Vec<Part>>;

/// What an OSD is asked for. Paths are below its folder.
#[derive(Clone, Debug)]
pub enum Request {
    /// Store a fragment, if none has its name. Durable when answered.
    Put {
        /// Of [`fragment_path`].
        path: String,
        /// The file.
        parts: Parts,
    },
    /// Read a range of a fragment's payload; all three numbers are multiples of 4 KiB. Every 4 KiB
    /// is compared with its checksum.
    Get {
        /// Of [`fragment_path`].
        path: String,
        /// Bytes of the whole payload.
        payload_len: u64,
        /// Where the range begins.
        offset: u64,
        /// Its bytes.
        len: u32,
    },
    /// Read the header page of a fragment.
    Header {
        /// Of [`fragment_path`].
        path: String,
    },
    /// The names in a folder, sorted; a missing one is empty. Names of objects end with [`OBJECT`],
    /// all others are folders, or marks; in the folder of an object the mark of its log is one, too.
    Names {
        /// The folder; "" is everything.
        folder: String,
    },
    /// Delete a fragment, a mark, or a record of use that others cover; a missing one is fine.
    Delete {
        /// Of [`fragment_path`] or [`mark_path`], or below [`USES`].
        path: String,
    },
    /// Delete everything below a folder but marks; a missing one is fine. Durable when answered.
    DeleteFolder {
        /// The folder.
        folder: String,
    },
    /// Remove what interrupted puts left in a folder.
    Sweep {
        /// The folder.
        folder: String,
    },
    /// Bytes in all, and bytes that may still be stored.
    Space,
    /// Store a record of use, if none has its name; or [`SEAL`] the OSD; or mark a put of an object
    /// as deleted. Durable when answered.
    PutRecord {
        /// Its name; of a mark: [`mark_path`].
        name: String,
        /// What it says.
        text: Vec<u8>,
    },
    /// Read a record of use.
    Record {
        /// Its name.
        name: String,
    },
    /// Keep a block of a fragment's payload (`format::osd::wire::BLOCK`), as long as it is worth it:
    /// for OSDs of role cache, which give it to a `Get`.
    Keep {
        /// Of [`fragment_path`].
        path: String,
        /// Bytes of the whole payload.
        payload_len: u64,
        /// Where the block begins.
        offset: u64,
        /// The block, and its checksums.
        parts: Parts,
    },
    /// How well an OSD of role cache does, in JSON.
    Figures,
}

impl Request {
    /// What is attempted and on what, for errors.
    pub fn subject(&self) -> (&'static str, &str) {
        match self {
            Self::Put { path, .. } => ("store", path),
            Self::Get { path, .. } | Self::Header { path } => ("read", path),
            Self::Names { folder } => ("list", folder),
            Self::Delete { path } => ("delete", path),
            Self::DeleteFolder { folder } => ("delete", folder),
            Self::Sweep { folder } => ("sweep", folder),
            Self::Space => ("look at", "the room"),
            Self::PutRecord { name, .. } => ("store", name),
            Self::Record { name } => ("read", name),
            Self::Keep { path, .. } => ("keep", path),
            Self::Figures => ("look at", "the figures"),
        }
    }

    /// Bytes that are sent with it, without what is said about them.
    pub fn payload(&self) -> usize {
        match self {
            Self::Put { parts, .. } | Self::Keep { parts, .. } => {
                parts.iter().map(|part| part.len()).sum()
            }
            _ => 0,
        }
    }

    /// An error of this request.
    pub fn error(&self, cause: Cause, why: impl Into<String>) -> BackendError {
        let (attempted, object) = self.subject();
        BackendError { attempted, object: object.to_owned(), cause, why: why.into() }
    }
}

/// What an OSD answers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// To a put.
    Put(Put),
    /// What was read.
    Bytes(Vec<u8>),
    /// To [`Request::Names`].
    Names(Vec<String>),
    /// To [`Request::Space`].
    Space {
        /// Bytes in all.
        total: u64,
        /// Bytes that may still be stored.
        free: u64,
    },
    /// It is done.
    Done,
}

/// Takes an answer. It must not block: whoever calls it has others to serve.
pub type Reply = Box<dyn FnOnce(Result<Answer>) + Send>;

/// Bytes that went over the sockets to an OSD's server.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Exchanged {
    /// Sent.
    pub sent: u64,
    /// Received.
    pub received: u64,
    /// Of both: bytes of fragments, without what is said about them.
    pub fragments: u64,
}

/// See the top of the file.
pub trait Osd: Send + Sync + fmt::Debug {
    /// Whose it is and where it stands.
    fn claim(&self) -> &Claim;

    /// Where it is, in words.
    fn name(&self) -> String;

    /// Whether it can be reached, as far as is known; asks nobody.
    fn reachable(&self) -> bool;

    /// Why it can't be reached, in words; `None`: it can.
    fn trouble(&self) -> Option<String>;

    /// The release that its server says it is of, empty if it says none. `None`: it cannot be
    /// reached, or has no server.
    fn release(&self) -> Option<String> {
        None
    }

    /// Starts a request; the reply is called once, maybe before this returns.
    fn start(&self, request: Request, reply: Reply);

    /// The same for the upkeep: guests' requests go before it.
    fn start_gently(&self, request: Request, reply: Reply) {
        self.start(request, reply);
    }

    /// For whom a request is, said in its class.
    fn start_for(&self, class: Class, request: Request, reply: Reply) {
        match class {
            Class::Guest => self.start(request, reply),
            Class::Upkeep => self.start_gently(request, reply),
        }
    }

    /// What tells its disk from other disks of this host; `None`: it counts as one of its own.
    fn disk(&self) -> Option<u64> {
        None
    }

    /// After how long an answer to a read is late.
    fn late_after(&self) -> Duration;

    /// Whether a put goes on when nobody waits for it any more.
    fn may_lag(&self) -> bool {
        false
    }

    /// What was read of an object is read anew the next time.
    fn distrust(&self, _object: &str) {}

    /// What went over sockets to it and from it.
    fn traffic(&self) -> Exchanged {
        Exchanged::default()
    }
}

/// The path of a fragment.
pub fn fragment_path(object: &str, name: &FragmentName) -> String {
    format!("{object}{OBJECT}/{name}")
}

/// The path of the mark that a put of an object was deleted.
pub fn mark_path(object: &str, generation: u64) -> String {
    format!("{object}{OBJECT}/{}", mark_name(generation))
}

/// The path of the mark that a whole log was deleted.
pub fn log_mark_path(log: &str) -> String {
    format!("{log}/{LOG_MARK}")
}

/// Whether a name is one of a mark.
pub fn is_mark_name(name: &str) -> bool {
    name == LOG_MARK || marked_generation(name).is_some()
}

/// Whether a path is one of a mark.
pub fn is_mark(path: &str) -> bool {
    path.rsplit_once('/').is_some_and(|(folder, name)| match name == LOG_MARK {
        true => !folder.contains('/') && !folder.ends_with(OBJECT),
        false => folder.ends_with(OBJECT) && marked_generation(name).is_some(),
    })
}

/// The path of a record of use.
pub(crate) fn use_path(name: &str) -> String {
    format!("{USES}/{name}")
}

/// Whether a path is one of a record of use that a cluster has named, which others may cover.
pub(crate) fn is_use(path: &str) -> bool {
    let name = path.strip_prefix(USES).and_then(|rest| rest.strip_prefix('/'));
    let digit = |byte: u8| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte);
    name.is_some_and(|name| name.len() == 16 && name.bytes().all(digit))
}

/// The number of an OSD for placement.
pub fn disk_id(osd: &[u8; 16]) -> u64 {
    let (first, _) = osd.split_at(8);
    first.iter().fold(0, |id, byte| id << 8 | u64::from(*byte))
}

/// An OSD does not do what it was asked for, and says so in a wrong way.
fn odd(request: &str) -> BackendError {
    BackendError {
        attempted: "understand",
        object: request.to_owned(),
        cause: Cause::Failed,
        why: "the OSD answered something else than it was asked for".to_owned(),
    }
}

/// Calls that wait for their answer.
impl dyn Osd + '_ {
    /// Its number for placement.
    pub fn id(&self) -> u64 {
        disk_id(&self.claim().osd)
    }

    /// Asks and waits for the answer.
    pub fn call(&self, request: Request) -> Result<Answer> {
        self.call_for(Class::Guest, request)
    }

    /// The same with its class.
    pub fn call_for(&self, class: Class, request: Request) -> Result<Answer> {
        let died = request.error(Cause::Failed, "the OSD's client was stopped");
        let (sender, hear) = sync_channel(1);
        let reply = move |answer| drop(sender.send(answer));
        self.start_for(class, request, Box::new(reply));
        hear.recv().unwrap_or(Err(died))
    }

    /// Bytes in all, and bytes that may still be stored.
    pub fn space(&self) -> Result<(u64, u64)> {
        match self.call(Request::Space)? {
            Answer::Space { total, free } => Ok((total, free)),
            _ => Err(odd("space")),
        }
    }

    /// Stores a fragment's file, if none has its name. Durable on return.
    pub fn put(&self, object: &str, name: &FragmentName, parts: Parts) -> Result<Put> {
        match self.call(Request::Put { path: fragment_path(object, name), parts })? {
            Answer::Put(put) => Ok(put),
            _ => Err(odd("put")),
        }
    }

    /// The names in a folder.
    pub fn names(&self, folder: &str) -> Result<Vec<String>> {
        names_of(self.call(Request::Names { folder: folder.to_owned() }))
    }

    /// The fragments of an object.
    pub fn fragments(&self, object: &str) -> Result<Vec<FragmentName>> {
        fragments_of(self.call(Request::Names { folder: format!("{object}{OBJECT}") }))
    }

    /// The header of a fragment, which must be of this object and name.
    pub fn header(&self, object: &str, name: &FragmentName) -> Result<StoredFragment> {
        let request = Request::Header { path: fragment_path(object, name) };
        let wrong = request.error(Cause::Corrupt, "");
        let Answer::Bytes(page) = self.call(request)? else { return Err(odd("header")) };
        let header = StoredFragment::decode(&page)
            .map_err(|e| BackendError { why: e.to_string(), ..wrong.clone() })?;
        if header.object != object || header.name() != Some(*name) {
            let why = format!("it is fragment {} of {}", header.fragment, header.object);
            return Err(BackendError { why, ..wrong });
        }
        Ok(header)
    }

    /// Reads a range of a fragment's payload of `payload_len` bytes.
    pub fn read(
        &self,
        object: &str,
        name: &FragmentName,
        payload_len: u64,
        (offset, len): (u64, u32),
        class: Class,
    ) -> Result<Vec<u8>> {
        let path = fragment_path(object, name);
        bytes_of(self.call_for(class, Request::Get { path, payload_len, offset, len }))
    }

    /// Deletes a fragment; a missing one is fine.
    pub fn delete(&self, object: &str, name: &FragmentName) -> Result<()> {
        self.call(Request::Delete { path: fragment_path(object, name) }).map(|_| ())
    }
}

/// The names in an answer.
pub fn names_of(answer: Result<Answer>) -> Result<Vec<String>> {
    match answer? {
        Answer::Names(names) => Ok(names),
        _ => Err(odd("names")),
    }
}

/// The names of fragments in an answer.
pub fn fragments_of(answer: Result<Answer>) -> Result<Vec<FragmentName>> {
    let names = names_of(answer)?;
    Ok(names.iter().filter_map(|name| FragmentName::parse(name)).collect())
}

/// The bytes in an answer.
pub fn bytes_of(answer: Result<Answer>) -> Result<Vec<u8>> {
    match answer? {
        Answer::Bytes(bytes) => Ok(bytes),
        _ => Err(odd("bytes")),
    }
}

/// Counts puts that are under way.
#[derive(Debug, Default)]
struct Running {
    puts: Mutex<usize>,
    fewer: Condvar,
}

/// A folder of this host, used by this process itself. When it is dropped, puts that are under way
/// are waited for: somebody else may use the folder next.
#[derive(Debug)]
pub struct LocalOsd {
    folder: Arc<FolderOsd>,
    running: Arc<Running>,
}

impl LocalOsd {
    /// Of this folder.
    pub fn new(folder: FolderOsd) -> Self {
        Self { folder: Arc::new(folder), running: Arc::default() }
    }
}

impl LocalOsd {
    fn start_in(&self, class: Class, request: Request, reply: Reply) {
        if !matches!(request, Request::Put { .. }) {
            return reply(self.folder.perform(&request));
        }
        // A put waits for its disk: those on other disks go on meanwhile.
        let (folder, running) = (self.folder.clone(), self.running.clone());
        *running.puts.lock().unwrap_or_else(PoisonError::into_inner) += 1;
        std::thread::spawn(move || {
            let answer = folder.perform_for(class, &request);
            drop(folder);
            *running.puts.lock().unwrap_or_else(PoisonError::into_inner) -= 1;
            running.fewer.notify_all();
            reply(answer);
        });
    }
}

impl Drop for LocalOsd {
    fn drop(&mut self) {
        let mut puts = self.running.puts.lock().unwrap_or_else(PoisonError::into_inner);
        while *puts > 0 {
            puts = self.running.fewer.wait(puts).unwrap_or_else(PoisonError::into_inner);
        }
    }
}

impl Osd for LocalOsd {
    fn claim(&self) -> &Claim {
        self.folder.claimed()
    }

    fn name(&self) -> String {
        self.folder.path().display().to_string()
    }

    fn reachable(&self) -> bool {
        self.folder.reachable()
    }

    fn trouble(&self) -> Option<String> {
        (!self.reachable()).then(|| "its claim is gone or another one".to_owned())
    }

    fn start(&self, request: Request, reply: Reply) {
        self.start_in(Class::Guest, request, reply);
    }

    fn start_gently(&self, request: Request, reply: Reply) {
        self.start_in(Class::Upkeep, request, reply);
    }

    fn disk(&self) -> Option<u64> {
        Some(self.folder.disk())
    }

    fn late_after(&self) -> Duration {
        // It answers before anybody waits.
        Duration::from_secs(1)
    }

    fn distrust(&self, object: &str) {
        self.folder.distrust(object);
    }
}
