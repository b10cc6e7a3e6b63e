//! An OSD's folder: the fragments on one disk.
//!
//! ```text
//! osd.claim                        whose it is (format::osd); without it nothing is stored here
//! osd.lock                         held by the process that uses it
//! osd.sealed                       it leaves the cluster: nothing is stored here any more
//! <object>.obj/<fragment name>     fragments (format::fragment)
//! <object>.obj/<generation>.deleted  a put of the object was deleted (see `cluster::deletion`)
//! <log>/log.deleted                a whole log was
//! uses/<name>                      which disks objects may lie on (see `uses`)
//! ```
//! A fragment is stored once, wholly and durably, or not at all (see [`Directory`]). What is read is
//! compared with its checksums.

use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock};

use format::fragment::{FragmentName, LOG_MARK, StoredFragment};
use format::log::PAGE;
use format::osd::wire::{Class, is_path};
use format::osd::{CLAIM_NAME, Claim, PLACE_MAX};
use format::{Malformed, crc32c};
use machines::alba::takes;
use media::{Dir, File, FileLock, read_cached_at};

use crate::batch::put_all;
use crate::directory::OnDisk;
use crate::osd::{
    Answer, OBJECT, Parts, Request, SEAL, USES, fragment_path, is_mark, is_mark_name, is_use,
    log_mark_path, use_path,
};
use crate::part::Part;
use crate::{Backend, BackendError, Cause, Directory, Put, Result};

/// Name of the file that the process which uses the folder holds locked.
const LOCK_NAME: &str = "osd.lock";
/// Bytes that are written at a time of what the upkeep stores.
const UPKEEP_STEP: usize = 256 << 10;
const GONE: &str = "its claim is gone or another one";

/// See the top of the file.
#[derive(Debug)]
pub struct FolderOsd {
    path: PathBuf,
    claim: Claim,
    store: Directory,
    /// Bytes that stay free on the disk.
    reserve: u64,
    disk: u64,
    /// Whether it is sealed. Held by those who store fragments until they have.
    sealed: RwLock<bool>,
    _lock: FileLock,
}

fn failed(attempted: &'static str, object: &str, cause: Cause, why: String) -> BackendError {
    BackendError { attempted, object: object.to_owned(), cause, why }
}

/// Whether a fragment's file is whole: header, length, every checksum. `sums`: the CRC32C of each
/// whole 4 KiB of the file.
pub fn check_file(path: &str, bytes: &[u8], sums: &[u8]) -> std::result::Result<(), Malformed> {
    let header = StoredFragment::decode(bytes)?;
    let whole = header.len() == bytes.len() as u64;
    let named = header.name().is_some_and(|name| fragment_path(&header.object, &name) == path);
    if !whole || !named {
        return Err(Malformed::Identity);
    }
    let crcs = &bytes[PAGE + header.payload_len()..];
    // The first is the header page's.
    if crc32c(crcs) != header.crcs_crc || sums.get(4..4 + crcs.len()) != Some(crcs) {
        return Err(Malformed::Checksum);
    }
    Ok(())
}

/// Where a range of a fragment's payload is.
#[derive(Debug)]
pub struct Located {
    /// The fragment's file.
    pub file: Arc<std::fs::File>,
    /// Where the range begins in it.
    pub data_at: u64,
    /// Where its checksums begin.
    pub crcs_at: u64,
}

impl Located {
    /// The same as [`FolderOsd::get`] gives, if that needs no device; `None`: ask for it there, which
    /// also says what is wrong, if something is.
    pub fn read_cached(&self, len: usize) -> Option<Vec<u8>> {
        let mut bytes = vec![0; len + len / PAGE * 4];
        let (data, crcs) = bytes.split_at_mut(len);
        let there = read_cached_at(&self.file, self.data_at, data)
            && read_cached_at(&self.file, self.crcs_at, crcs);
        (there && first_damaged(&bytes, len).is_none()).then_some(bytes)
    }
}

/// The clusters of what a get gave, compared with the checksums behind them: the number of the
/// first that differs, if one does.
pub fn first_damaged(bytes: &[u8], len: usize) -> Option<usize> {
    let (clusters, crcs) = bytes.split_at(len.min(bytes.len()));
    let mut pairs = clusters.chunks(PAGE).zip(crcs.chunks(4));
    pairs.position(|(cluster, crc)| crc32c(cluster).to_le_bytes() != *crc)
}

/// The claim in an OSD's folder; `None` when nobody has claimed it.
pub fn read_claim(path: &Path) -> Result<Option<Claim>> {
    let text = path.display().to_string();
    let wrong = |why: String| failed("read the claim of", &text, Cause::Failed, why);
    let mut page = vec![0; PAGE];
    let file = match File::open_read(&path.join(CLAIM_NAME)) {
        Ok(file) => file,
        Err(e) if e.is_not_found() => return Ok(None),
        Err(e) => return Err(wrong(e.to_string())),
    };
    file.read_some_at(0, &mut page).map_err(|e| wrong(e.to_string()))?;
    Claim::decode(&page).map(Some).map_err(|e| wrong(e.to_string()))
}

impl FolderOsd {
    /// Claims a folder for a cluster; it is created when missing. Claiming it again for the same
    /// changes nothing; a folder with another claim is refused.
    pub fn claim(path: &Path, claim: &Claim) -> Result<Claim> {
        let text = path.display().to_string();
        let refuse = |why: String| failed("claim", &text, Cause::Failed, why);
        for name in [&claim.domain, &claim.node] {
            if name.is_empty() || name.len() > PLACE_MAX {
                return Err(refuse(format!("{name:?} is no name of a Domain or node")));
            }
        }
        let found = match read_claim(path)? {
            Some(found) => found,
            None => {
                Directory::open(path)?.put(CLAIM_NAME, &mut |sink| sink.write(&claim.encode()))?;
                read_claim(path)?.ok_or_else(|| refuse("the claim is gone again".to_owned()))?
            }
        };
        if found.cluster != claim.cluster {
            return Err(refuse("another cluster stores its fragments there".to_owned()));
        }
        if (&found.domain, &found.node) != (&claim.domain, &claim.node) {
            let why = format!("it was claimed for node {} of {}", found.node, found.domain);
            return Err(refuse(why));
        }
        if found.role != claim.role {
            return Err(refuse(format!("it was claimed for the role {}", found.role.text())));
        }
        Ok(found)
    }

    /// Opens a claimed folder; `reserve`: bytes that stay free on its disk.
    pub fn open(path: &Path, reserve: u64) -> Result<Self> {
        let text = path.display().to_string();
        let wrong = |why: String| failed("open", &text, Cause::Failed, why);
        let claim = read_claim(path)?.ok_or_else(|| {
            wrong(
                "nobody has claimed it: it is new, was emptied, or its disk is not mounted".into(),
            )
        })?;
        let lock = FileLock::take(&path.join(LOCK_NAME)).map_err(|e| wrong(e.to_string()))?;
        let store = Directory::open(path)?;
        let disk = Dir::at(path).device().map_err(|e| wrong(e.to_string()))?;
        let sealed = RwLock::new(store.len(SEAL)?.is_some());
        Ok(Self { path: path.to_owned(), claim, store, reserve, disk, sealed, _lock: lock })
    }

    /// Whose it is and where it stands.
    pub fn claimed(&self) -> &Claim {
        &self.claim
    }

    /// Whether its folder is still the one that was opened.
    pub fn reachable(&self) -> bool {
        matches!(read_claim(&self.path), Ok(Some(claim)) if claim == self.claim)
    }

    /// Its folder.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The number of its file system: folders on one share its room.
    pub fn disk(&self) -> u64 {
        self.disk
    }

    /// Bytes in all, and bytes that may still be stored.
    pub fn space(&self) -> Result<(u64, u64)> {
        let space = Dir::at(&self.path).space();
        let space = space.map_err(|e| {
            failed("look at", &self.path.display().to_string(), Cause::Failed, e.to_string())
        })?;
        Ok((space.total, space.free.saturating_sub(self.reserve)))
    }

    /// Does what is asked for.
    pub fn perform(&self, request: &Request) -> Result<Answer> {
        self.perform_for(Class::Guest, request)
    }

    /// The same with its class.
    pub fn perform_for(&self, class: Class, request: &Request) -> Result<Answer> {
        self.check_path(request)?;
        match request {
            Request::Put { path, parts } => {
                let mut outcomes = self.put_all(&[(path.clone(), parts.clone())], class);
                outcomes.remove(0).map(Answer::Put)
            }
            Request::Get { path, payload_len, offset, len } => {
                let mut bytes = self.get(path, *payload_len, *offset, *len)?;
                bytes.truncate(*len as usize);
                Ok(Answer::Bytes(bytes))
            }
            Request::Header { path } => {
                let mut page = vec![0; PAGE];
                self.store.read(path, 0, &mut page)?;
                if StoredFragment::decode(&page).is_err() {
                    self.store.distrust(path);
                }
                Ok(Answer::Bytes(page))
            }
            Request::Names { folder } => {
                let mut names = self.store.list(folder)?;
                let log = folder.split('/').next().filter(|_| folder.ends_with(OBJECT));
                if let Some(log) = log
                    && self.store.len(&log_mark_path(log))?.is_some()
                {
                    names.push(LOG_MARK.to_owned());
                }
                if folder.is_empty() {
                    names.retain(|name| ![CLAIM_NAME, LOCK_NAME, SEAL].contains(&&**name));
                }
                // What is seen on a disk that was taken away meanwhile tells nothing.
                if names.is_empty() && !self.reachable() {
                    return Err(request.error(Cause::Failed, GONE));
                }
                Ok(Answer::Names(names))
            }
            Request::Delete { path } => {
                self.store.delete(path)?;
                self.store.prune(path);
                Ok(Answer::Done)
            }
            Request::DeleteFolder { folder } => {
                self.store.delete_folder_but(folder, &is_mark_name).map(|()| Answer::Done)
            }
            Request::Sweep { folder } => self.store.sweep(folder).map(|()| Answer::Done),
            Request::Space => self.space().map(|(total, free)| Answer::Space { total, free }),
            Request::PutRecord { name, text } if name == SEAL => self.seal(text),
            Request::PutRecord { name, text } => {
                let path = if is_mark(name) { name.clone() } else { use_path(name) };
                let put = self.store.put(&path, &mut |sink| sink.write(text))?;
                let here = self.reachable();
                here.then_some(Answer::Put(put)).ok_or_else(|| request.error(Cause::Failed, GONE))
            }
            Request::Record { name } => {
                let path = use_path(name);
                let mut text = vec![0; self.store.len(&path)?.unwrap_or(0) as usize];
                self.store.read(&path, 0, &mut text)?;
                Ok(Answer::Bytes(text))
            }
            Request::Keep { .. } | Request::Figures => {
                Err(request.error(Cause::Failed, "it is no cache"))
            }
        }
    }

    /// Takes no fragment any more, once those that are being stored are.
    fn seal(&self, text: &[u8]) -> Result<Answer> {
        let mut sealed = self.sealed.write().unwrap_or_else(PoisonError::into_inner);
        let put = self.store.put(SEAL, &mut |sink| sink.write(text))?;
        if !self.reachable() {
            return Err(failed("seal", SEAL, Cause::Failed, GONE.to_owned()));
        }
        *sealed = true;
        Ok(Answer::Put(put))
    }

    /// Refuses what leads out of the folder or to what is not for everybody.
    pub fn check_path(&self, request: &Request) -> Result<()> {
        let is_fragment = |path: &str| {
            let name = path.rsplit_once('/').filter(|(folder, _)| folder.ends_with(OBJECT));
            is_path(path) && name.is_some_and(|(_, name)| FragmentName::parse(name).is_some())
        };
        let is_folder = |path: &str| is_path(path) && path != USES;
        let fine = match request {
            Request::Put { path, .. }
            | Request::Get { path, .. }
            | Request::Header { path }
            | Request::Keep { path, .. } => is_fragment(path),
            Request::Delete { path } => {
                is_fragment(path) || is_path(path) && (is_mark(path) || is_use(path))
            }
            Request::Names { folder } => folder.is_empty() || is_path(folder),
            Request::DeleteFolder { folder } | Request::Sweep { folder } => is_folder(folder),
            Request::PutRecord { name, .. } => {
                is_path(name) && (!name.contains('/') || is_mark(name))
            }
            Request::Record { name } => is_path(name) && !name.contains('/'),
            Request::Space | Request::Figures => true,
        };
        if fine {
            return Ok(());
        }
        Err(request.error(Cause::Failed, "no OSD has a place of this name"))
    }

    /// Stores fragments, each if none has its name, with as few waits for the disk as that takes.
    /// Durable on return; outcomes in the same order. Of the upkeep they are written in small steps.
    pub fn put_all(&self, puts: &[(String, Parts)], class: Class) -> Vec<Result<Put>> {
        let sealed = self.sealed.read().unwrap_or_else(PoisonError::into_inner);
        if !takes(*sealed) {
            let refuse = |(path, _): &(String, Parts)| {
                let why = format!("{} is sealed: it leaves the cluster", self.path.display());
                Err(failed("store", path, Cause::Failed, why))
            };
            return puts.iter().map(refuse).collect();
        }
        let mut room = match self.space() {
            Ok((_, free)) => free,
            Err(e) => return puts.iter().map(|_| Err(e.clone())).collect(),
        };
        let mut fits = |(path, parts): &(String, Parts)| {
            let bytes = parts.iter().map(|part| part.len() as u64).sum();
            room = room.checked_sub(bytes).ok_or_else(|| {
                let why = format!("{} would have less than its reserve free", self.path.display());
                failed("store", path, Cause::NoSpace, why)
            })?;
            Ok(())
        };
        let refused: Vec<Option<BackendError>> = puts.iter().map(|put| fits(put).err()).collect();
        let taken: Vec<(&str, &[Part])> = puts
            .iter()
            .zip(&refused)
            .filter(|(_, refused)| refused.is_none())
            .map(|((path, parts), _)| (path.as_str(), parts.as_slice()))
            .collect();
        let step = match class {
            Class::Guest => usize::MAX,
            Class::Upkeep => UPKEEP_STEP,
        };
        let mut outcomes = put_all(&OnDisk { directory: &self.store, step }, &taken).into_iter();
        let lost = || Err(failed("store", "a fragment", Cause::Failed, "it was left out".into()));
        let outcome = |refused| match refused {
            Some(error) => Err(error),
            None => outcomes.next().unwrap_or_else(lost),
        };
        let outcomes: Vec<Result<Put>> = refused.into_iter().map(outcome).collect();
        if outcomes.iter().any(Result::is_ok) && !self.reachable() {
            // Its disk was taken away: they are on what lies below.
            let gone = |(path, _): &(String, Parts)| {
                Err(failed("store", path, Cause::Failed, GONE.to_owned()))
            };
            return puts.iter().map(gone).collect();
        }
        outcomes
    }

    /// Where a range of a fragment's payload is; `None`: its file is not open, or no fragment has
    /// such a range.
    pub fn locate(&self, path: &str, payload_len: u64, offset: u64, len: u32) -> Option<Located> {
        let page = PAGE as u64;
        let whole = [payload_len, offset, len.into()].iter().all(|n: &u64| n.is_multiple_of(page));
        let inside = offset.checked_add(len.into()).is_some_and(|end| end <= payload_len);
        if !whole || !inside || payload_len > u64::from(u32::MAX) {
            return None;
        }
        let file = self.store.opened(path)?;
        let crcs_at = page + payload_len + offset / page * 4;
        Some(Located { file, data_at: page + offset, crcs_at })
    }

    /// A range of a fragment's payload, whose 4 KiB were compared with their checksums, and these
    /// checksums behind it.
    pub fn get(&self, path: &str, payload_len: u64, offset: u64, len: u32) -> Result<Vec<u8>> {
        let wrong = |cause, why: &str| failed("read", path, cause, why.to_owned());
        let page = PAGE as u64;
        let end = offset.checked_add(len.into()).filter(|end| *end <= payload_len);
        let whole = [payload_len, offset, len.into()].iter().all(|n: &u64| n.is_multiple_of(page));
        if end.is_none() || !whole || payload_len > u64::from(u32::MAX) {
            return Err(wrong(Cause::Failed, "no fragment has such a range"));
        }
        let len = len as usize;
        let mut bytes = vec![0; len + len / PAGE * 4];
        let (data, crcs) = bytes.split_at_mut(len);
        self.store.read(path, page + offset, data)?;
        self.store.read(path, page + payload_len + offset / page * 4, crcs)?;
        if let Some(number) = first_damaged(&bytes, len) {
            self.store.distrust(path);
            let which = offset / page + number as u64;
            let why = format!("the checksum of its 4 KiB number {which} differs");
            return Err(wrong(Cause::Corrupt, &why));
        }
        Ok(bytes)
    }

    /// What was read of an object is read anew the next time.
    pub fn distrust(&self, object: &str) {
        let folder = format!("{object}{OBJECT}");
        for name in self.store.list(&folder).unwrap_or_default() {
            self.store.distrust(&format!("{folder}/{name}"));
        }
    }
}
