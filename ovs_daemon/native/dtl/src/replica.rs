//! What a DTL node has of a volume: a folder `<dtl_dir>/<uuid>` with a fence and SCO files in the
//! form of the write buffer.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use buffer::files::{Cause, FileError, Files};
use buffer::recover::parse_file_name;
use buffer::{ChainEnd, DiskFiles, RecoverError, file_name, recover, recover_whole};
use format::dtl::{FENCE, Fence};
use format::entry::Uuid;
use format::log::{PAGE, decode_sco_header};
use machines::dtl::{Held, Mark};
use media::{Dir, File, Slice, StoreError};

use crate::gone::Gone;
use crate::inspect::Contents;
use crate::spares::Spares;

pub(crate) const FENCE_FILE: &str = "fence";
const FENCE_NEW: &str = "fence.new";
const BOOT_FILE: &str = "boot";

/// A UUID as text: 8-4-4-4-12 hexadecimal digits.
pub(crate) fn uuid_text(uuid: &Uuid) -> String {
    let hex: String = uuid.iter().map(|b| format!("{b:02x}")).collect();
    format!("{}-{}-{}-{}-{}", &hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..])
}

/// The SCO that batches go to.
#[derive(Debug)]
struct Open {
    sco: u32,
    file: File,
    /// First free page.
    end_page: u64,
    /// Bytes of the file, when more than it holds.
    bytes: u64,
    /// It has the name of another SCO, or of none, until something of this one is in it.
    unnamed: bool,
}

/// See the top of the file.
#[derive(Debug)]
pub(crate) struct Replica {
    dir: Dir,
    open: Option<Open>,
    /// SCOs below are on the backend.
    trimmed: u32,
    /// Bytes of each SCO file.
    bytes: BTreeMap<u32, u64>,
    spares: Spares,
    gone: Gone,
}

/// What was found of a volume.
#[derive(Debug)]
pub(crate) struct Loaded {
    pub(crate) fence: Fence,
    pub(crate) held: Held,
    pub(crate) replica: Replica,
}

/// What the files of a folder say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Read {
    /// The fence; epoch 0: the volume is not known.
    pub fence: Fence,
    /// What is held.
    pub held: Held,
    /// Files that hold valid batches, and their valid bytes.
    pub scos: Vec<(u32, u64)>,
    /// Files that hold nothing of use.
    pub remove: Vec<String>,
}

/// Reads what a folder holds.
///
/// # Errors
/// When files cannot be read. Damage is no error: what is held is suspect then.
pub fn read(files: &dyn Files, volume: &Uuid) -> Result<Read, FileError> {
    let folder = uuid_text(volume);
    let fence = read_fence(files, &folder, volume)?;
    let known = fence.is_some();
    let fence = fence.unwrap_or(Fence { volume: *volume, epoch: 0, suspect: true });
    let mut read = Read {
        fence,
        held: Held { begin: 0, end: None, suspect: fence.suspect || !known },
        scos: Vec::new(),
        remove: Vec::new(),
    };
    let mut names: Vec<_> = files.list(&folder)?.into_iter().map(|(name, _)| name).collect();
    names.retain(|name| parse_file_name(name).is_some());
    let misnamed = drop_misnamed(files, &folder, volume, &mut names)?;
    let Some(first) = names.first().and_then(|name| parse_file_name(name)) else {
        read.remove = misnamed;
        return Ok(read);
    };
    let mut page = [0; PAGE];
    let there = files.read_at(&format!("{folder}/{}", file_name(first)), 0, &mut page)?;
    let Ok((link, _)) = decode_sco_header(&page) else {
        if there < PAGE && names.len() == 1 {
            // It was made for batches that never came, and all before them was on the backend.
            read.remove = [misnamed, names].concat();
        } else {
            // What was acknowledged lies there, or behind it, and a person may still want it.
            read.held.suspect = true;
        }
        return Ok(read);
    };
    let end = ChainEnd { sco: first - 1, sequence: link.sequence, crc: link.previous_crc };
    // What the headers say of durable batches is true of the owner's disk. Here all that came since
    // the pages were last written back may be missing, in any order: a file that was used again has
    // the length and the headers of batches whose data is not there.
    let recover = if read.held.suspect { recover_whole } else { recover };
    match recover(files, &folder, volume, end) {
        Ok(found) => {
            read.remove = found.remove;
            read.held.begin = link.sequence;
            for sco in &found.scos {
                let (sequence, crc) = (sco.index.last_sequence, sco.index.last_crc);
                read.held.end = Some(Mark { sequence, crc });
                read.scos.push((sco.sco, u64::from(sco.index.end_page) * PAGE as u64));
            }
        }
        // The owner's disk had what is missing here: power was lost, or the disk is bad. A person
        // may still want the files.
        Err(RecoverError::Damaged { .. }) => read.held.suspect = true,
        Err(RecoverError::File(error)) => return Err(error),
    }
    Ok(read)
}

/// Takes files that hold another SCO than their name says, and those before them, off `names`, and
/// returns them: a power loss undid that they were renamed when they were used again, which they were
/// since the backend had the SCOs up to there.
fn drop_misnamed(
    files: &dyn Files,
    folder: &str,
    volume: &Uuid,
    names: &mut Vec<String>,
) -> Result<Vec<String>, FileError> {
    let mut begin = 0;
    for (at, name) in names.iter().enumerate() {
        let mut page = [0; PAGE];
        files.read_at(&format!("{folder}/{name}"), 0, &mut page)?;
        if decode_sco_header(&page)
            .is_ok_and(|(link, _)| link.log != *volume || Some(link.sco) != parse_file_name(name))
        {
            begin = at + 1;
        }
    }
    Ok(names.drain(..begin).collect())
}

fn read_fence(files: &dyn Files, folder: &str, volume: &Uuid) -> Result<Option<Fence>, FileError> {
    let mut bytes = [0; FENCE];
    match files.read_at(&format!("{folder}/{FENCE_FILE}"), 0, &mut bytes) {
        Ok(FENCE) => {}
        Ok(_) => return Ok(None),
        Err(error) if error.cause == Cause::NotFound => return Ok(None),
        Err(error) => return Err(error),
    }
    Ok(Fence::decode(&bytes).ok().filter(|fence| fence.volume == *volume))
}

/// Stores a fence: on return it survives loss of power.
///
/// # Errors
/// The old fence or the new one is in force then.
pub fn store_fence(files: &dyn Files, fence: &Fence) -> Result<(), FileError> {
    let folder = uuid_text(&fence.volume);
    let (new, name) = (format!("{folder}/{FENCE_NEW}"), format!("{folder}/{FENCE_FILE}"));
    match files.create(&new) {
        Err(error) if error.cause != Cause::Exists => return Err(error),
        _ => {}
    }
    files.write_at(&new, 0, &[&fence.encode()])?;
    files.sync(&new)?;
    files.rename(&new, &name)?;
    files.sync_dir(&folder)?;
    files.sync_dir("")
}

/// Notes in every fence below `root` that power was lost, when it was: the page cache, where
/// acknowledged batches may have been, belongs to one boot of the kernel. Called before anything is
/// served.
///
/// # Errors
/// When the folder cannot be read or written: nothing may be served from it.
pub fn mark_power_loss(root: &Path, boot: &[u8]) -> Result<(), StoreError> {
    let dir = Dir::create(root)?;
    let path = dir.join(BOOT_FILE);
    let before = match File::open_read(&path) {
        Ok(file) => {
            let mut bytes = vec![0; boot.len()];
            let len = file.read_some_at(0, &mut bytes)?;
            bytes.truncate(len);
            bytes
        }
        Err(error) if error.is_not_found() => Vec::new(),
        Err(error) => return Err(error),
    };
    if before == boot {
        return Ok(());
    }
    let files = DiskFiles::new(root);
    for name in dir.list()? {
        let Some(volume) = parse_uuid(&name) else { continue };
        let failed = |e: FileError| StoreError {
            attempted: "mark as suspect",
            path: root.join(&name),
            source: std::io::Error::other(e.to_string()),
        };
        mark_suspect(&files, &volume).map_err(failed)?;
    }
    dir.unlink(BOOT_FILE)?;
    let file = File::create_new(&path)?;
    file.write_bytes_at(0, boot)?;
    file.datasync()?;
    dir.sync()
}

/// Notes in the fence of a volume, if it has one, that less may be held than was acknowledged.
pub(crate) fn mark_suspect(files: &dyn Files, volume: &Uuid) -> Result<(), FileError> {
    match read_fence(files, &uuid_text(volume), volume)? {
        Some(fence) => store_fence(files, &Fence { suspect: true, ..fence }),
        None => Ok(()),
    }
}

fn parse_uuid(text: &str) -> Option<Uuid> {
    let digits: String = text.chars().filter(|c| *c != '-').collect();
    if digits.len() != 32 || !digits.is_ascii() {
        return None;
    }
    let mut uuid = [0; 16];
    for (byte, at) in uuid.iter_mut().zip((0..).step_by(2)) {
        *byte = u8::from_str_radix(digits.get(at..at + 2)?, 16).ok()?;
    }
    (uuid_text(&uuid) == text).then_some(uuid)
}

impl Replica {
    /// Reads what is held and makes it ready for more.
    ///
    /// # Errors
    /// When files cannot be read or written.
    pub(crate) fn load(root: &Path, volume: &Uuid) -> Result<Loaded, StoreError> {
        let path = root.join(uuid_text(volume));
        let failed = |e: FileError| StoreError {
            attempted: "read what is kept in",
            path: path.clone(),
            source: std::io::Error::other(e.to_string()),
        };
        let found = read(&DiskFiles::new(root), volume).map_err(failed)?;
        let dir = Dir::create(&path)?;
        for name in found.remove.iter().rev() {
            dir.unlink(name)?;
        }
        Spares::clear(&path)?;
        Gone::clear(&path)?;
        let (open, trimmed, spares, gone) = (None, 0, Spares::default(), Gone::default());
        let bytes = found.scos.iter().copied().collect();
        let mut replica = Self { dir, open, trimmed, bytes, spares, gone };
        if let Some((sco, bytes)) = found.scos.last().copied() {
            let file = File::open(&replica.dir.join(&file_name(sco)))?;
            file.truncate(bytes)?;
            let end_page = bytes / PAGE as u64;
            replica.open = Some(Open { sco, file, end_page, bytes, unnamed: false });
        }
        Ok(Loaded { fence: found.fence, held: found.held, replica })
    }

    /// Puts batches behind what is held; on return they survive the end of this process.
    ///
    /// # Errors
    /// Nothing has changed then: what was written is overwritten by the next append.
    pub(crate) fn append(&mut self, new: &Contents, payload: &Slice) -> Result<(), StoreError> {
        if new.piece.starts_sco {
            self.create(new.sco)?;
        }
        let Some(open) = self.open.as_mut().filter(|open| open.sco == new.sco) else {
            return Err(StoreError {
                attempted: "append to",
                path: self.dir.join(&file_name(new.sco)),
                source: std::io::Error::other("it is not the SCO that is open"),
            });
        };
        open.file.write_at(open.end_page * PAGE as u64, std::slice::from_ref(payload))?;
        if open.unnamed {
            open.file.rename(&self.dir.join(&file_name(new.sco)))?;
            open.unnamed = false;
        }
        open.end_page += (payload.len() / PAGE) as u64;
        self.bytes.insert(new.sco, open.end_page * PAGE as u64);
        Ok(())
    }

    pub(crate) fn create(&mut self, sco: u32) -> Result<(), StoreError> {
        if let Some(before) = &mut self.open {
            let bytes = before.end_page * PAGE as u64;
            if before.unnamed {
                // Its first batch failed, and what there is of it must not lie behind another one.
                // One that keeps its name is removed when the folder is read again.
                let _ = self.gone.add(before.file.path());
            } else if before.bytes > bytes {
                // Only the newest file may be longer than what it holds.
                before.file.truncate(bytes)?;
                before.bytes = bytes;
            }
        }
        let name = file_name(sco);
        self.dir.unlink(&name)?;
        let (file, bytes, unnamed) = match self.spares.take() {
            Some(spare) => (spare.file, spare.bytes, true),
            None => (File::create_new(&self.dir.join(&name))?, 0, false),
        };
        self.open = Some(Open { sco, file, end_page: 0, bytes, unnamed });
        self.unlink(self.trimmed);
        Ok(())
    }

    /// Files that are kept for later SCOs.
    pub(crate) fn spares(&self) -> usize {
        self.spares.len()
    }

    /// Gives up one of them.
    pub(crate) fn drop_spare(&mut self) {
        self.spares.drop_one(&mut self.gone);
    }

    /// Files to be removed by somebody who has the time.
    pub(crate) fn take_gone(&mut self) -> Vec<PathBuf> {
        self.gone.take()
    }

    /// Takes the files of SCOs below a number out of use. The newest stays until another takes its
    /// place: an owner that copies may be in the middle of it, and it says where the log ends.
    pub(crate) fn unlink(&mut self, below: u32) {
        self.trimmed = self.trimmed.max(below);
        let newest = self.open.as_ref().map_or(below, |open| open.sco);
        let below = below.min(newest);
        while let Some(sco) = self.bytes.keys().next().copied().filter(|sco| *sco < below) {
            if !self.spares.keep(&self.dir, sco)
                && self.gone.add(&self.dir.join(&file_name(sco))).is_err()
            {
                // It is tried again when the next SCO begins. Until then those behind it stay as well:
                // a log with a hole is taken for damaged.
                return;
            }
            self.bytes.remove(&sco);
        }
    }

    /// Takes all SCO files out of use, also those that could not be read.
    ///
    /// # Errors
    /// Any of them may be left.
    pub(crate) fn wipe(&mut self) -> Result<(), StoreError> {
        (self.open, self.trimmed, self.bytes) = (None, 0, BTreeMap::new());
        let spares = self.spares.drop_all(&self.dir, &mut self.gone);
        let mut names = self.dir.list()?;
        names.retain(|name| parse_file_name(name).is_some());
        names.sort();
        // From the end: a crash in between leaves a shorter log, never one with a hole.
        names.iter().rev().try_for_each(|name| self.gone.add(&self.dir.join(name)))?;
        spares
    }

    /// SCOs that are held.
    pub(crate) fn scos(&self) -> Vec<(u32, u64)> {
        self.bytes.iter().map(|(sco, bytes)| (*sco, *bytes)).collect()
    }

    /// The folder.
    pub(crate) fn path(&self) -> PathBuf {
        self.dir.path().to_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_canonical_names_are_volumes() {
        let text = "0123abcd-0000-4000-8000-00000000beef";
        assert_eq!(uuid_text(&parse_uuid(text).unwrap()), text);
        for name in ["boot", "0123abcd", &text.to_uppercase(), &text.replace('-', "")] {
            assert_eq!(parse_uuid(name), None, "{name}");
        }
    }
}
