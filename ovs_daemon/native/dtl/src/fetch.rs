//! Taking over: fences the DTL node, copies what it holds into this node's write buffer.
//!
//! The copy is made beside the buffer's folder, checked against every checksum and synced; then it
//! takes the folder's place. A crash in between leaves the old folder, the new one, or none: the
//! DTL node still has everything, and the registry still says in_sync, so it is done again.

use std::fmt;
use std::path::{Path, PathBuf};

use buffer::files::{FileError, Files};
use buffer::recover::parse_file_name;
use buffer::{
    ChainEnd, DiskFiles, RecoverError, RecoveredLog, RecoveredSco, ScoFile, file_name, recover,
};
use format::crc32c;
use format::dtl::{Frame, Role};
use format::entry::Uuid;
use format::log::{PAGE, decode_sco_header};
use machines::dtl::Mark;
use media::{Dir, File, StoreError};
use net::Stream;

use crate::call::{CallError, Caller, Patience, next_frame};
use crate::replica::uuid_text;

/// Clusters that are read at a time to compare their checksums.
const BLOCK_CLUSTERS: u32 = 256;

/// What this node's own write buffer is worth.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Local {
    /// Another node served the volume last: nothing.
    Stale,
    /// This node did: it may have more than a DTL node that lost power.
    Newest,
}

/// What was put in place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fetched {
    /// The last batch; 0: there is none that is not on the backend.
    pub sequence: u64,
    /// SCO files.
    pub scos: usize,
    /// Their bytes.
    pub bytes: u64,
    /// This node's own write buffer had more, and was left as it is.
    pub local: bool,
}

/// Why nothing was put in place.
#[derive(Debug)]
pub enum FetchError {
    /// The DTL node, or the way to it.
    Call(CallError),
    /// What it holds may be less than what was acknowledged.
    Suspect,
    /// What it sent is damaged.
    Damaged(String),
    /// This node's disk.
    Store(String),
}

impl fmt::Display for FetchError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            FetchError::Call(error) => error.fmt(f),
            FetchError::Suspect => write!(
                f,
                "it lost power or does not know the volume: what it holds may be less than what \
                 was acknowledged"
            ),
            FetchError::Damaged(why) => write!(f, "what it holds is damaged: {why}"),
            FetchError::Store(why) => f.write_str(why),
        }
    }
}

impl std::error::Error for FetchError {}

impl From<CallError> for FetchError {
    fn from(error: CallError) -> Self {
        FetchError::Call(error)
    }
}

impl From<StoreError> for FetchError {
    fn from(error: StoreError) -> Self {
        FetchError::Store(error.to_string())
    }
}

impl From<FileError> for FetchError {
    fn from(error: FileError) -> Self {
        FetchError::Store(error.to_string())
    }
}

/// Fences the DTL node with the caller's epoch and puts what it holds into `<buffer_dir>/<uuid>`.
///
/// # Errors
/// See [`FetchError`]; the folder is as it was. The fence may be up: repeat it.
pub fn fetch(
    caller: &Caller,
    buffer_dir: &Path,
    local: Local,
    patience: Patience,
) -> Result<Fetched, FetchError> {
    let (mut stream, greeted) = caller.call(Role::Successor, patience)?;
    if greeted.suspect && local == Local::Stale {
        return Err(FetchError::Suspect);
    }
    let folders = Folders::new(buffer_dir, &caller.volume);
    folders.make_room()?;
    let files = receive(&mut stream, &folders.fetched)?;
    let disk = DiskFiles::new(buffer_dir);
    let there = survey(&disk, &folders.fetched_name, &caller.volume)?;
    let end = there.end();
    let promised = greeted.end.map(|(sequence, crc)| Mark { sequence, crc });
    // A node whose files were all trimmed still knows where the log ended.
    if files > 0 && promised != end {
        let text = format!("its log ends at {end:?}, it said {promised:?}");
        return Err(FetchError::Damaged(text));
    }
    there.verify(&folders.fetched)?;
    if greeted.suspect {
        let own = survey(&disk, &folders.name, &caller.volume)?;
        if own.rank() >= there.rank() {
            Dir::at(&folders.fetched).remove_all()?;
            return Ok(own.summary(true));
        }
    }
    folders.replace()?;
    Ok(there.summary(false))
}

/// The folder of the volume's write buffer, and those beside it.
struct Folders {
    root: Dir,
    name: String,
    fetched_name: String,
    own: PathBuf,
    fetched: PathBuf,
    replaced: PathBuf,
}

impl Folders {
    fn new(buffer_dir: &Path, volume: &Uuid) -> Self {
        let name = uuid_text(volume);
        let fetched_name = format!("{name}.fetched");
        Self {
            root: Dir::at(buffer_dir),
            own: buffer_dir.join(&name),
            fetched: buffer_dir.join(&fetched_name),
            replaced: buffer_dir.join(format!("{name}.replaced")),
            name,
            fetched_name,
        }
    }

    fn make_room(&self) -> Result<(), StoreError> {
        Dir::at(&self.fetched).remove_all()?;
        Dir::at(&self.replaced).remove_all()?;
        Dir::create(&self.fetched).map(|_| ())
    }

    fn replace(&self) -> Result<(), StoreError> {
        Dir::at(&self.fetched).sync()?;
        match media::rename(&self.own, &self.replaced) {
            Err(error) if !error.is_not_found() => return Err(error),
            _ => {}
        }
        media::rename(&self.fetched, &self.own)?;
        self.root.sync()?;
        Dir::at(&self.replaced).remove_all()
    }
}

/// Receives files into a folder and syncs them; how many.
fn receive(stream: &mut Stream, folder: &Path) -> Result<u32, FetchError> {
    let mut open: Option<(u32, File, u64)> = None;
    let mut block = Vec::new();
    let mut files = 0;
    let odd = |why: &str| FetchError::Damaged(why.to_owned());
    loop {
        match next_frame(stream)? {
            Frame::File { sco, offset, payload } => {
                block.resize(payload as usize, 0);
                stream.read_exact(&mut block).map_err(CallError::from)?;
                if open.as_ref().is_none_or(|(open, _, _)| *open != sco) {
                    close(open.take())?;
                    let file = File::create_new(&folder.join(file_name(sco)))?;
                    open = Some((sco, file, 0));
                    files += 1;
                }
                let Some((_, file, end)) = &mut open else { continue };
                if *end != offset {
                    return Err(odd("a part of a file is missing"));
                }
                file.write_bytes_at(offset, &block)?;
                *end += block.len() as u64;
            }
            Frame::End { files: sent } if sent == files => {
                close(open)?;
                return Ok(files);
            }
            Frame::End { .. } => return Err(odd("a file is missing")),
            _ => return Err(odd("a frame that does not belong to a tail")),
        }
    }
}

fn close(open: Option<(u32, File, u64)>) -> Result<(), StoreError> {
    open.map_or(Ok(()), |(_, file, _)| file.datasync())
}

/// The log that lies in a folder, without what the backend has.
#[derive(Clone, Debug)]
pub struct Survey {
    /// What was found.
    pub log: RecoveredLog,
}

/// Looks at the log that lies in `folder` of `files`.
///
/// # Errors
/// [`FetchError::Damaged`] or [`FetchError::Store`].
pub fn survey(files: &dyn Files, folder: &str, volume: &Uuid) -> Result<Survey, FetchError> {
    let names = files.list(folder)?;
    let Some(first) = names.iter().find_map(|(name, _)| parse_file_name(name)) else {
        return Ok(Survey { log: RecoveredLog::default() });
    };
    let mut page = [0; PAGE];
    files.read_at(&format!("{folder}/{}", file_name(first)), 0, &mut page)?;
    // An empty file is one that was made for batches that never came.
    let Ok((link, _)) = decode_sco_header(&page) else {
        return Ok(Survey { log: RecoveredLog::default() });
    };
    let end = ChainEnd { sco: first - 1, sequence: link.sequence, crc: link.previous_crc };
    match recover(files, folder, volume, end) {
        Ok(log) => Ok(Survey { log }),
        Err(RecoverError::File(error)) => Err(error.into()),
        Err(damaged) => Err(FetchError::Damaged(damaged.to_string())),
    }
}

impl Survey {
    fn last(&self) -> Option<&RecoveredSco> {
        self.log.scos.last()
    }

    /// Its last batch.
    pub fn end(&self) -> Option<Mark> {
        let mark = |sco: &RecoveredSco| Mark {
            sequence: sco.index.last_sequence,
            crc: sco.index.last_crc,
        };
        self.last().map(mark)
    }

    /// Of two logs of one volume the one with the newer epoch at its end is right; with the same
    /// epoch one is the beginning of the other.
    pub fn rank(&self) -> Option<(u64, u64)> {
        self.last().map(|sco| (sco.index.epoch, sco.index.last_sequence))
    }

    fn summary(&self, local: bool) -> Fetched {
        let pages: u64 = self.log.scos.iter().map(|sco| u64::from(sco.index.end_page)).sum();
        Fetched {
            sequence: self.end().map_or(0, |mark| mark.sequence),
            scos: self.log.scos.len(),
            bytes: pages * PAGE as u64,
            local,
        }
    }

    /// Compares every checksum.
    fn verify(&self, folder: &Path) -> Result<(), FetchError> {
        let mut block = Vec::new();
        for sco in &self.log.scos {
            let file = File::open_read(&folder.join(file_name(sco.sco)))?;
            let sco_file = ScoFile { file, index: sco.index.clone() };
            let clusters = sco.index.clusters();
            let mut ordinal = 0;
            while ordinal < clusters {
                let count = (clusters - ordinal).min(BLOCK_CLUSTERS);
                let runs = sco_file.read_blocking(ordinal, count, &mut block)?;
                let pages = runs.iter().flat_map(|(start, len)| *start..start + len);
                for (at, page) in pages.enumerate() {
                    let which = ordinal as usize + at;
                    if crc32c(&block[page * PAGE..(page + 1) * PAGE]) != sco.index.crcs[which] {
                        let text = format!("cluster {which} of SCO {}", sco.sco);
                        return Err(FetchError::Damaged(text));
                    }
                }
                ordinal += count;
            }
        }
        Ok(())
    }
}
