//! An OSD: the fragments on one disk, which is a folder here.
//!
//! ```text
//! osd.claim                        whose it is (format::osd); without it nothing is stored here
//! osd.lock                         held by the process that uses it
//! <object>.obj/<fragment name>     fragments (format::fragment)
//! uses/<name>                      which disks objects may lie on (see `uses`)
//! ```
//! A fragment is stored once, wholly and durably, or not at all (see [`Directory`]). What is read is
//! compared with its checksums.

use std::path::{Path, PathBuf};

use format::crc32c;
use format::fragment::{FragmentName, StoredFragment};
use format::log::PAGE;
use format::osd::{CLAIM_NAME, Claim, PLACE_MAX};
use media::{Dir, File, FileLock};

use crate::pieces::Fragment;
use crate::{Backend, BackendError, Cause, Directory, Put, Result};

/// Ending of the folder of an object.
pub(crate) const OBJECT: &str = ".obj";
/// Folder of the records of use.
pub(crate) const USES: &str = "uses";

/// See the top of the file.
#[derive(Debug)]
pub struct Osd {
    path: PathBuf,
    claim: Claim,
    store: Directory,
    /// Bytes that stay free on the disk.
    reserve: u64,
    _lock: FileLock,
}

fn failed(attempted: &'static str, object: &str, cause: Cause, why: String) -> BackendError {
    BackendError { attempted, object: object.to_owned(), cause, why }
}

fn fragment_path(object: &str, name: &FragmentName) -> String {
    format!("{object}{OBJECT}/{name}")
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

impl Osd {
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
        let lock = FileLock::take(&path.join("osd.lock")).map_err(|e| wrong(e.to_string()))?;
        let store = Directory::open(path)?;
        Ok(Self { path: path.to_owned(), claim, store, reserve, _lock: lock })
    }

    /// Whose it is and where it stands.
    pub fn claimed(&self) -> &Claim {
        &self.claim
    }

    /// Its number for placement.
    pub fn id(&self) -> u64 {
        disk_id(&self.claim.osd)
    }

    /// Whether its folder is still the one that was opened.
    pub fn reachable(&self) -> bool {
        matches!(read_claim(&self.path), Ok(Some(claim)) if claim == self.claim)
    }

    /// Its folder.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Bytes in all, and bytes that may still be stored.
    pub fn space(&self) -> Result<(u64, u64)> {
        let space = Dir::at(&self.path).space();
        let space = space.map_err(|e| {
            failed("look at", &self.path.display().to_string(), Cause::Failed, e.to_string())
        })?;
        Ok((space.total, space.free.saturating_sub(self.reserve)))
    }

    /// Stores a fragment, if none has its name. Durable on return.
    pub fn put(&self, object: &str, name: &FragmentName, fragment: &Fragment) -> Result<Put> {
        let bytes = fragment.header.len();
        if self.space()?.1 < bytes {
            let why = format!("{} would have less than its reserve free", self.path.display());
            return Err(failed("store", object, Cause::NoSpace, why));
        }
        self.store.put(&fragment_path(object, name), &mut |sink| {
            sink.write(&fragment.header.encode())?;
            sink.write(&fragment.payload)?;
            sink.write(&fragment.crcs)
        })
    }

    /// The fragments of an object.
    pub fn fragments(&self, object: &str) -> Result<Vec<FragmentName>> {
        let names = self.store.list(&format!("{object}{OBJECT}"))?;
        Ok(names.iter().filter_map(|name| FragmentName::parse(name)).collect())
    }

    /// The header of a fragment, which must be of this object and name.
    pub fn header(&self, object: &str, name: &FragmentName) -> Result<StoredFragment> {
        let path = fragment_path(object, name);
        let mut page = [0; PAGE];
        self.store.read(&path, 0, &mut page)?;
        let wrong = |why: String| {
            self.store.distrust(&path);
            failed("read", &path, Cause::Corrupt, why)
        };
        let header = StoredFragment::decode(&page).map_err(|e| wrong(e.to_string()))?;
        if header.object != object || header.name() != Some(*name) {
            return Err(wrong(format!("it is fragment {} of {}", header.fragment, header.object)));
        }
        Ok(header)
    }

    /// Fills `into` from byte `offset` of a fragment's payload of `payload_len` bytes; all three are
    /// multiples of 4 KiB. Every 4 KiB is compared with its checksum.
    pub fn read(
        &self,
        object: &str,
        name: &FragmentName,
        payload_len: u64,
        offset: u64,
        into: &mut [u8],
    ) -> Result<()> {
        let path = fragment_path(object, name);
        self.store.read(&path, PAGE as u64 + offset, into)?;
        let mut crcs = vec![0; into.len() / PAGE * 4];
        let crcs_at = PAGE as u64 + payload_len + offset / PAGE as u64 * 4;
        self.store.read(&path, crcs_at, &mut crcs)?;
        for (number, (cluster, crc)) in into.chunks(PAGE).zip(crcs.chunks(4)).enumerate() {
            if crc32c(cluster).to_le_bytes() != *crc {
                self.store.distrust(&path);
                let which = offset / PAGE as u64 + number as u64;
                let why = format!("the checksum of its 4 KiB number {which} differs");
                return Err(failed("read", &path, Cause::Corrupt, why));
            }
        }
        Ok(())
    }

    /// Deletes a fragment; a missing one is fine.
    pub fn delete(&self, object: &str, name: &FragmentName) -> Result<()> {
        self.store.delete(&fragment_path(object, name))
    }

    /// Deletes all fragments of an object.
    pub fn delete_object(&self, object: &str) -> Result<()> {
        self.store.delete_folder(&format!("{object}{OBJECT}"))
    }

    /// What was read of an object is read anew the next time.
    pub fn distrust(&self, object: &str) {
        for name in self.fragments(object).unwrap_or_default() {
            self.store.distrust(&fragment_path(object, &name));
        }
    }

    /// Removes what interrupted puts of fragments of an object left.
    pub fn sweep(&self, object: &str) -> Result<()> {
        self.store.sweep(&format!("{object}{OBJECT}"))
    }

    /// The plain files and folders below, for what belongs to the whole cluster.
    pub(crate) fn store(&self) -> &Directory {
        &self.store
    }
}

/// The number of an OSD for placement.
pub(crate) fn disk_id(osd: &[u8; 16]) -> u64 {
    let (first, _) = osd.split_at(8);
    first.iter().fold(0, |id, byte| id << 8 | u64::from(*byte))
}
