//! Taking over: fences the DTL node, copies what it holds into this node's write buffer.
//!
//! The copy is made beside the buffer's folder, checked against every checksum and synced; then it
//! takes the folder's place, in one step. A crash in between leaves the old folder or the new one:
//! the registry still says in_sync, so it is done again.
//!
//! A DTL node that lost power may have lost the end of what it held, and also files at its beginning
//! or between: it does not sync their names. So its log takes the place of this node's own only
//! when it goes on from what the backend has, and goes further than the own one does.

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
    /// What this node's own write buffer has is damaged.
    OwnDamaged(String),
    /// This node's disk.
    Store(String),
    /// What the backend has of the log could not be found out.
    Backend(String),
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
            FetchError::OwnDamaged(why) | FetchError::Store(why) | FetchError::Backend(why) => {
                f.write_str(why)
            }
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

/// Finds out where the backend's part of the log ends.
pub type Saved<'a> = &'a dyn Fn() -> Result<ChainEnd, String>;

/// Fences the DTL node with the caller's epoch and puts what it holds into `<buffer_dir>/<uuid>`.
/// `saved` is asked when the DTL node lost power.
///
/// # Errors
/// See [`FetchError`]; the folder is as it was. The fence may be up: repeat it.
pub fn fetch(
    caller: &Caller,
    buffer_dir: &Path,
    local: Local,
    saved: Saved<'_>,
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
    let there = folders.check(&disk, &caller.volume, greeted.end, files);
    if greeted.suspect {
        let whole = match &there {
            Err(FetchError::Damaged(_)) => None,
            _ => Some(folders.fetched_name.as_str()),
        };
        let end = saved().map_err(FetchError::Backend)?;
        if let Some(own) = keep_own(&disk, &folders.name, whole, &caller.volume, end)? {
            Dir::at(&folders.fetched).remove_all()?;
            return Ok(own.summary(true));
        }
    }
    let there = there?;
    folders.replace()?;
    Ok(there.summary(false))
}

/// Removes what lies in `<buffer_dir>/<uuid>`, and what an earlier fetch left beside it; durably.
///
/// # Errors
/// Any of it may be left.
pub fn clear(buffer_dir: &Path, volume: &Uuid) -> Result<(), StoreError> {
    let folders = Folders::new(buffer_dir, volume);
    Dir::at(&folders.fetched).remove_all()?;
    Dir::at(&folders.own).remove_all()?;
    folders.root.sync()
}

/// The folder of the volume's write buffer, and those beside it.
struct Folders {
    root: Dir,
    name: String,
    fetched_name: String,
    own: PathBuf,
    fetched: PathBuf,
}

impl Folders {
    fn new(buffer_dir: &Path, volume: &Uuid) -> Self {
        let name = uuid_text(volume);
        let fetched_name = format!("{name}.fetched");
        Self {
            root: Dir::at(buffer_dir),
            own: buffer_dir.join(&name),
            fetched: buffer_dir.join(&fetched_name),
            name,
            fetched_name,
        }
    }

    fn make_room(&self) -> Result<(), StoreError> {
        Dir::at(&self.fetched).remove_all()?;
        Dir::create(&self.fetched).map(|_| ())
    }

    /// Compares what was fetched with every checksum, and with what the DTL node said.
    fn check(
        &self,
        disk: &DiskFiles,
        volume: &Uuid,
        promised: Option<(u64, u32)>,
        files: u32,
    ) -> Result<Survey, FetchError> {
        let there = survey(disk, &self.fetched_name, volume)?;
        let end = there.end();
        let promised = promised.map(|(sequence, crc)| Mark { sequence, crc });
        // A node whose files were all trimmed still knows where the log ended.
        if files > 0 && promised != end {
            let text = format!("its log ends at {end:?}, it said {promised:?}");
            return Err(FetchError::Damaged(text));
        }
        there.verify(&self.fetched)?;
        Ok(there)
    }

    /// In one step: a power loss leaves the old folder or the new one, never none.
    fn replace(&self) -> Result<(), StoreError> {
        Dir::at(&self.fetched).sync()?;
        match media::exchange(&self.fetched, &self.own) {
            Err(error) if error.is_not_found() => media::rename(&self.fetched, &self.own)?,
            done => done?,
        }
        self.root.sync()?;
        Dir::at(&self.fetched).remove_all()
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
    survey_after(files, folder, volume, end)
}

/// The same, of a log that goes on after `end`.
fn survey_after(
    files: &dyn Files,
    folder: &str,
    volume: &Uuid,
    end: ChainEnd,
) -> Result<Survey, FetchError> {
    match recover(files, folder, volume, end) {
        Ok(log) => Ok(Survey { log }),
        Err(RecoverError::File(error)) => Err(error.into()),
        Err(damaged) => Err(FetchError::Damaged(damaged.to_string())),
    }
}

/// Which log goes on when the DTL node lost power. `Some`: the one in the folder `own`, since what
/// was fetched does not go further, or is not whole. Both have to continue what the backend has, up
/// to `saved`: a later end is worth nothing behind a hole.
///
/// # Errors
/// [`FetchError::OwnDamaged`] or [`FetchError::Store`].
pub fn keep_own(
    files: &dyn Files,
    own: &str,
    fetched: Option<&str>,
    volume: &Uuid,
    saved: ChainEnd,
) -> Result<Option<Survey>, FetchError> {
    let there = fetched.map(|folder| survey_after(files, folder, volume, saved)).transpose();
    let there = match there {
        // It does not promise anything any more.
        Err(FetchError::Damaged(_)) => None,
        other => other?,
    };
    let own = survey_after(files, own, volume, saved).map_err(|error| match error {
        FetchError::Damaged(why) => FetchError::OwnDamaged(why),
        other => other,
    })?;
    let rank = there.and_then(|there| there.rank());
    Ok((own.rank() >= rank).then_some(own))
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
                block.resize(sco_file.span(ordinal, count), 0);
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

#[cfg(test)]
mod tests {
    use buffer::{NewBatch, ScoIndex, Tail};
    use format::entry::Entry;
    use sim::memory::MemoryFiles;

    use super::*;

    const VOLUME: Uuid = [0x44; 16];
    const OK: &str = "the memory twin has room and no faults";

    /// Where the log ends before SCO 1, 2, ..., and their files, of one batch each.
    fn log(durable: u64) -> Vec<(ChainEnd, Vec<u8>)> {
        let mut tail = Tail { log: VOLUME, epoch: 1, sequence: 0, crc: 0 };
        let mut out = Vec::new();
        for sco in 1..=5 {
            let end = ChainEnd { sco: sco - 1, sequence: tail.sequence, crc: tail.crc };
            let cluster = [sco as u8; PAGE];
            let new = NewBatch {
                sco,
                sequence: u64::from(sco),
                durable_sequence: durable.min(tail.sequence),
                entries: &[Entry::Data { lba: 7, clusters: 1 }],
                crcs: &[crc32c(&cluster)],
            };
            let (mut bytes, mut scratch) = (Vec::new(), Vec::new());
            tail = tail.encode(&new, &ScoIndex::default(), &mut bytes, &mut scratch);
            bytes.extend_from_slice(&cluster);
            out.push((end, bytes));
        }
        out
    }

    /// What goes on from SCO `saved`; `None`: what was fetched.
    fn kept(durable: u64, saved: u32, own: &[u32], there: &[u32]) -> Result<Option<u64>, String> {
        let (files, log) = (MemoryFiles::new(), log(durable));
        for (folder, scos) in [("own", own), ("there", there)] {
            for sco in scos {
                let path = format!("{folder}/{}", file_name(*sco));
                files.create(&path).expect(OK);
                files.write_at(&path, 0, &[&log[*sco as usize - 1].1]).expect(OK);
            }
        }
        let fetched = (!there.is_empty()).then_some("there");
        keep_own(&files, "own", fetched, &VOLUME, log[saved as usize].0)
            .map(|own| own.map(|own| own.end().map_or(0, |mark| mark.sequence)))
            .map_err(|error| error.to_string())
    }

    #[test]
    fn after_a_power_loss_the_log_goes_on_that_goes_further_without_a_hole() {
        for durable in [0, 9] {
            assert_eq!(kept(durable, 0, &[1, 2, 3], &[1, 2]), Ok(Some(3)));
            assert_eq!(kept(durable, 0, &[1, 2, 3], &[1, 2, 3]), Ok(Some(3)));
            assert_eq!(kept(durable, 0, &[1, 2, 3], &[1, 2, 3, 4]), Ok(None));
            assert_eq!(kept(durable, 0, &[1, 2, 3], &[]), Ok(Some(3)), "it was not whole");
            assert_eq!(kept(durable, 0, &[1, 2, 3], &[4, 5]), Ok(Some(3)), "its beginning is gone");
            assert_eq!(kept(durable, 2, &[3], &[4, 5]), Ok(Some(3)));
            assert_eq!(kept(durable, 2, &[], &[4]), Ok(Some(0)), "all is on the backend");
            assert_eq!(kept(durable, 2, &[], &[3]), Ok(None));
            assert_eq!(kept(durable, 2, &[3], &[1, 3, 4]), Ok(None), "a dropped file came back");
            assert_eq!(kept(durable, 2, &[1, 3], &[4]), Ok(Some(3)), "and here");
        }
    }

    #[test]
    fn a_damaged_write_buffer_is_left_as_it_is() {
        let error = kept(9, 0, &[1, 3], &[1, 2]).expect_err("its second SCO was durable");
        assert!(error.contains("00000003.sco"), "{error}");
    }
}
