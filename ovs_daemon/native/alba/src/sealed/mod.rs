//! Objects of the erasure-coded backend compressed and encrypted, as presets ask for.
//!
//! A layer between an object's plain bytes and what is cut into pieces and coded, in the format of
//! `format::seal`: chunks that are read one by one. So 4 KiB of a SCO still cost one small read, of
//! the chunk that has them; the table that says where it lies is read once and kept.
//!
//! A preset that asks for neither stores objects as they are: they are the same bytes as without
//! this layer, and reading them costs nothing more. What an object is says its fragments' header,
//! so that objects of any preset can be read, whichever new ones are put with.

mod chunks;
mod keys;
mod memory;
mod reader;
mod recent;
#[cfg(test)]
mod tests;
mod writer;

use std::cell::RefCell;
use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock};

use format::seal::{Encryption, SALT};
use ring::rand::{SecureRandom, SystemRandom};

use crate::cluster::{Stored, failed};
use crate::preset::{Preset, PresetError};
use crate::same::is_same;
use crate::{Backend, BackendError, Cause, Cluster, Put, Result, Sink, Space};
pub use keys::{Key, Keys};
pub use memory::{seal, unseal};
use reader::Open;
use recent::Recent;
use writer::Sealer;

/// Plain bytes of a chunk, as a power of two: 16 KiB. Less compresses badly and needs a larger
/// table, more has to be read for 4 KiB.
const CHUNK_LOG2: u8 = 14;

/// Bytes of the sealed objects that this process has put.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Written {
    /// Before compression and encryption.
    pub plain: u64,
    /// What was cut into pieces and coded.
    pub sealed: u64,
}

/// See the top of the file.
#[derive(Debug)]
pub struct Sealed {
    cluster: Cluster,
    keys: Keys,
    /// By volume, which is the first part of an object's name; others have the cluster's preset.
    presets: RwLock<HashMap<String, Arc<Preset>>>,
    recent: Recent,
    plain: AtomicU64,
    sealed: AtomicU64,
}

fn drawn_salt(object: &str) -> Result<[u8; SALT]> {
    let mut salt = [0; SALT];
    let drawn = SystemRandom::new().fill(&mut salt);
    drawn.map_err(|_| failed("store", object, "the kernel gave no random bytes"))?;
    Ok(salt)
}

impl Sealed {
    /// On a cluster, whose preset must not ask for encryption when there is no key.
    pub fn new(cluster: Cluster, keys: Keys) -> std::result::Result<Self, PresetError> {
        let sealed = Self {
            cluster,
            keys,
            presets: RwLock::default(),
            recent: Recent::default(),
            plain: AtomicU64::new(0),
            sealed: AtomicU64::new(0),
        };
        sealed.check_key(sealed.cluster.preset())?;
        Ok(sealed)
    }

    fn check_key(&self, preset: &Preset) -> std::result::Result<(), PresetError> {
        if preset.encryption == Encryption::None || self.keys.current().is_some() {
            return Ok(());
        }
        let why = format!("preset {} asks for encryption, and no key is given", preset.name);
        Err(PresetError { why, fix: "set [alba] key_file or [alba] encryption_keys" })
    }

    /// Whether objects can be put with a preset now: there is a key if it asks for encryption, and
    /// the OSDs satisfy one of its policies.
    pub fn check(&self, preset: &Preset) -> std::result::Result<(), PresetError> {
        self.check_key(preset)?;
        match self.cluster.shortages(&[preset]).pop().flatten() {
            None => Ok(()),
            Some(why) => Err(PresetError {
                why: format!("no policy of preset {} fits: {why}", preset.name),
                fix: "choose another preset, or bring more OSDs; 'vstorage preset check' says what \
                      fits",
            }),
        }
    }

    /// From now on a volume's objects are put with this preset; `None`: with the cluster's.
    pub fn assign(
        &self,
        volume: &str,
        preset: Option<Preset>,
    ) -> std::result::Result<(), PresetError> {
        let mut presets = self.presets.write().unwrap_or_else(PoisonError::into_inner);
        match preset {
            Some(preset) => {
                self.check_key(&preset)?;
                presets.insert(volume.to_owned(), Arc::new(preset));
            }
            None => {
                presets.remove(volume);
            }
        }
        Ok(())
    }

    /// Presets in use of which the OSDs in reach satisfy no policy, and why.
    pub fn unsatisfied(&self) -> Vec<(String, String)> {
        let presets = self.presets.read().unwrap_or_else(PoisonError::into_inner);
        let mut used: Vec<&Preset> = presets.values().map(|preset| &**preset).collect();
        used.push(self.cluster.preset());
        used.sort_by(|one, other| one.name.cmp(&other.name));
        used.dedup_by(|one, other| one.name == other.name);
        let shortages = self.cluster.shortages(&used);
        let named = used.iter().zip(shortages);
        named.filter_map(|(preset, why)| Some((preset.name.clone(), why?))).collect()
    }

    /// Bytes of the sealed objects that were put so far.
    pub fn written(&self) -> Written {
        let [plain, sealed] = [&self.plain, &self.sealed].map(|one| one.load(Ordering::Relaxed));
        Written { plain, sealed }
    }

    /// The cluster below.
    pub fn cluster(&self) -> &Cluster {
        &self.cluster
    }

    fn preset_of(&self, object: &str) -> Option<Arc<Preset>> {
        let volume = object.split_once('/').map_or(object, |(volume, _)| volume);
        self.presets.read().unwrap_or_else(PoisonError::into_inner).get(volume).cloned()
    }

    /// The key for a new object, with the salt of its own; `None`: it is not to be encrypted.
    fn key_for(&self, name: &str, preset: &Preset) -> Result<Option<(&Key, [u8; SALT])>> {
        if preset.encryption == Encryption::None {
            return Ok(None);
        }
        let key = self.keys.current().ok_or_else(|| {
            failed("store", name, "its preset asks for encryption, and no key is given")
        })?;
        Ok(Some((key, drawn_salt(name)?)))
    }

    fn put_sealed(
        &self,
        name: &str,
        preset: &Preset,
        fill: &mut dyn FnMut(&mut dyn Sink) -> Result<()>,
    ) -> Result<Put> {
        let mut written = (0, 0);
        let fill = RefCell::new(fill);
        let mut seal = |sink: &mut dyn Sink| {
            // Drawn in here: whoever has the object written twice must not get one key for both.
            let key = self.key_for(name, preset)?;
            let mut sealer = Sealer::new(name, sink, preset.compression, key, CHUNK_LOG2)?;
            (fill.borrow_mut())(&mut sealer)?;
            written = sealer.finish()?;
            Ok(())
        };
        // Sealed bytes of the same object differ each time.
        let mut same = || {
            let len = self.len(name)?.unwrap_or(0);
            let read = |offset, into: &mut [u8]| self.read(name, offset, into);
            is_same(len, &read, &mut **fill.borrow_mut())
        };
        let put = self.cluster.put_comparing(name, preset, true, &mut seal, &mut same)?;
        if put == Put::Created {
            self.plain.fetch_add(written.0, Ordering::Relaxed);
            self.sealed.fetch_add(written.1, Ordering::Relaxed);
        }
        Ok(put)
    }

    fn open(&self, name: &str, stored: &Stored) -> Result<Arc<Open>> {
        if let Some(open) = self.recent.get(name, stored.generation) {
            return Ok(open);
        }
        let read = |offset, into: &mut [u8]| self.cluster.read(name, offset, into);
        let open = Arc::new(reader::open(name, stored, &self.keys, &read)?);
        self.recent.keep(name, &open);
        Ok(open)
    }

    fn read_sealed(&self, name: &str, stored: &Stored, offset: u64, into: &mut [u8]) -> Result<()> {
        let read = |offset, into: &mut [u8]| self.cluster.read(name, offset, into);
        self.open(name, stored)?.read(name, &self.recent, offset, into, &read)
    }
}

impl Backend for Sealed {
    fn put(&self, name: &str, fill: &mut dyn FnMut(&mut dyn Sink) -> Result<()>) -> Result<Put> {
        let own = self.preset_of(name);
        let preset = own.as_deref().unwrap_or(self.cluster.preset());
        if preset.seals() {
            self.put_sealed(name, preset, fill)
        } else {
            self.cluster.put_with(name, preset, false, fill)
        }
    }

    fn read(&self, name: &str, offset: u64, into: &mut [u8]) -> Result<()> {
        let stored = self.cluster.stored(name)?;
        let Some(stored) = stored.filter(|stored| stored.sealed) else {
            return self.cluster.read(name, offset, into);
        };
        match self.read_sealed(name, &stored, offset, into) {
            // Somebody may have put a good copy in its place.
            Err(error) if error.cause == Cause::Corrupt => {
                self.distrust(name);
                let stored = self.cluster.stored(name)?;
                let Some(stored) = stored.filter(|stored| stored.sealed) else { return Err(error) };
                self.read_sealed(name, &stored, offset, into)
            }
            done => done,
        }
    }

    fn len(&self, name: &str) -> Result<Option<u64>> {
        match self.cluster.stored(name)? {
            Some(stored) if stored.sealed => Ok(Some(self.open(name, &stored)?.seal.plain_len)),
            stored => Ok(stored.map(|stored| stored.len)),
        }
    }

    fn list(&self, folder: &str) -> Result<Vec<String>> {
        self.cluster.list(folder)
    }

    fn delete(&self, name: &str) -> Result<()> {
        self.recent.forget(name);
        self.cluster.delete(name)
    }

    fn settle(&self, folder: &str) -> Result<()> {
        self.cluster.settle(folder)
    }

    fn delete_folder(&self, folder: &str) -> Result<()> {
        self.recent.forget_folder(folder);
        self.cluster.delete_folder(folder)
    }

    fn delete_log(&self, log: &str) -> Result<()> {
        self.recent.forget_folder(log);
        self.cluster.delete_log(log)
    }

    fn distrust(&self, name: &str) {
        self.recent.forget(name);
        self.cluster.distrust(name);
    }

    fn checks(&self, name: &str) -> bool {
        matches!(self.cluster.stored(name), Ok(Some(stored)) if stored.sealed)
    }

    fn space(&self) -> Result<Option<Space>> {
        self.cluster.space()
    }

    fn taken(&self) -> u64 {
        self.cluster.taken()
    }

    fn troubles(&self) -> Vec<BackendError> {
        self.cluster.troubles()
    }

    fn sweep(&self, folder: &str) -> Result<()> {
        self.cluster.sweep(folder)
    }
}
