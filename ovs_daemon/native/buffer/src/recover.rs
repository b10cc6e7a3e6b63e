//! What a write buffer holds after a crash.
//!
//! Batches form a chain (each header has the CRC of the one before), so the valid log is the
//! longest chain from where the backend ends. What may be missing at its end is what was never
//! durable: each header says up to which sequence everything was durable when it was written. So
//! damage **above** the greatest such sequence is a torn tail, and is cut off; damage **at or
//! below** it is bit rot or a lost write, and is reported, never cut off silently.
//!
//! Data clusters of batches above that sequence are compared with their checksums here; those below
//! are compared when they are read or uploaded, or here by [`recover_whole`].

use std::fmt;

use format::crc32c;
use format::entry::Uuid;
use format::log::{BatchHeader, PAGE, decode_batch_header, decode_sco_header, peek_batch_pages};

use crate::files::{FileError, Files};
use crate::index::ScoIndex;

/// Name of the file of a SCO.
pub fn file_name(sco: u32) -> String {
    format!("{sco:08x}.sco")
}

/// The SCO number in a file's name.
pub fn parse_file_name(name: &str) -> Option<u32> {
    let digits = name.strip_suffix(".sco")?;
    (digits.len() == 8).then(|| u32::from_str_radix(digits, 16).ok()).flatten()
}

/// Where the chain stands before the first SCO that is looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ChainEnd {
    /// Last SCO that the backend has.
    pub sco: u32,
    /// Sequence of the last batch up to there.
    pub sequence: u64,
    /// Its header CRC.
    pub crc: u32,
}

/// A recovered SCO file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RecoveredSco {
    /// Its number.
    pub sco: u32,
    /// Its index.
    pub index: ScoIndex,
    /// The file is longer than its valid part and has to be cut to `index.end_page` pages.
    pub cut: bool,
    /// No header proves that all of it was durable: it has to be written again before it is synced.
    pub unproven: bool,
}

/// What was found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RecoveredLog {
    /// SCO files with at least one valid batch, in log order.
    pub scos: Vec<RecoveredSco>,
    /// Files to remove: already on the backend, empty, or behind the cut.
    pub remove: Vec<String>,
    /// Greatest SCO number of any file, to be remembered as used; 0 when there is none.
    pub greatest_sco: u32,
    /// Batches that were cut off (never durable, possibly acknowledged, never flushed).
    pub cut_pages: u64,
}

/// Why a log can't be recovered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RecoverError {
    /// A file can't be read.
    File(FileError),
    /// Something that was durable is damaged or missing.
    Damaged {
        /// The file.
        file: String,
        /// Its page (4096 bytes each).
        page: u32,
        /// What is wrong with it.
        why: String,
    },
}

impl From<FileError> for RecoverError {
    fn from(error: FileError) -> Self {
        RecoverError::File(error)
    }
}

impl fmt::Display for RecoverError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            RecoverError::File(error) => error.fmt(f),
            RecoverError::Damaged { file, page, why } => write!(
                f,
                "cannot recover the log: page {page} of {file}: {why}; it was durable, so this is \
                 not an unfinished write but damage of the disk: keep the file, and look at it \
                 with `vstorage-offline verify`"
            ),
        }
    }
}

impl std::error::Error for RecoverError {}

struct Found {
    header: BatchHeader,
    data_page: u32,
}

/// One file, read along the chain.
struct Walk {
    name: String,
    sco: u32,
    pages: u32,
    batches: Vec<Found>,
    /// Sequence and CRC before its first batch.
    start: (u64, u32),
    /// Why the chain ends in this file, when it does not end with the file.
    broken: Option<(u32, String)>,
}

/// Recovers the log in folder `dir` of `files`, after `end`.
pub fn recover(
    files: &dyn Files,
    dir: &str,
    log: &Uuid,
    end: ChainEnd,
) -> Result<RecoveredLog, RecoverError> {
    recover_with(files, dir, log, end, false)
}

/// The same, and compares the data of every batch: for a log whose headers speak of what is durable
/// elsewhere, and that has lost power itself.
pub fn recover_whole(
    files: &dyn Files,
    dir: &str,
    log: &Uuid,
    end: ChainEnd,
) -> Result<RecoveredLog, RecoverError> {
    recover_with(files, dir, log, end, true)
}

fn recover_with(
    files: &dyn Files,
    dir: &str,
    log: &Uuid,
    end: ChainEnd,
    whole: bool,
) -> Result<RecoveredLog, RecoverError> {
    let mut out = RecoveredLog::default();
    let mut walks: Vec<Walk> = Vec::new();
    let mut chain = (end.sequence, end.crc);
    let mut durable = 0;
    let mut broken = false;
    for (name, len) in files.list(dir)? {
        let Some(sco) = parse_file_name(&name) else { continue };
        out.greatest_sco = out.greatest_sco.max(sco);
        if sco <= end.sco {
            out.remove.push(name);
            continue;
        }
        let reader = FileReader { files, path: format!("{dir}/{name}"), log, sco };
        let pages = (len / PAGE as u64) as u32;
        let from = if broken {
            out.remove.push(name.clone());
            out.cut_pages += u64::from(pages);
            0
        } else {
            let walk = reader.walk(name.clone(), pages, chain)?;
            chain = walk.batches.last().map_or(chain, |b| (b.header.link.sequence, b.header.crc));
            let from = walk.broken.as_ref().map_or(pages, |(page, _)| *page);
            broken = walk.broken.is_some();
            durable =
                walk.batches.iter().fold(durable, |d, b| d.max(b.header.link.durable_sequence));
            walks.push(walk);
            from
        };
        durable = durable.max(reader.durable_claims(from, pages)?);
    }
    check_durable(&walks, chain, durable)?;
    settle(files, dir, walks, durable, whole, &mut out)?;
    Ok(out)
}

/// A file that was begun in a later epoch than what the backend has of its SCO is of: SCO, epoch of
/// the file, and that of the backend, which `stored` says. A former owner then stored it after
/// another had gone on in its place.
pub fn begun_later(
    files: &dyn Files,
    dir: &str,
    log: &Uuid,
    stored: &dyn Fn(u32) -> Option<u64>,
) -> Result<Option<(u32, u64, u64)>, FileError> {
    for (name, len) in files.list(dir)? {
        let Some(sco) = parse_file_name(&name).filter(|_| len >= PAGE as u64) else { continue };
        let Some(epoch) = stored(sco) else { continue };
        let first = FileReader { files, path: format!("{dir}/{name}"), log, sco }.page(0)?;
        let link = decode_sco_header(&first).ok().map(|(link, _)| link);
        let link = link.filter(|link| link.log == *log && link.sco == sco);
        if let Some(link) = link.filter(|link| link.epoch > epoch) {
            return Ok(Some((sco, link.epoch, epoch)));
        }
    }
    Ok(None)
}

/// The chain has to reach what was durable.
fn check_durable(walks: &[Walk], chain: (u64, u32), durable: u64) -> Result<(), RecoverError> {
    if chain.0 >= durable {
        return Ok(());
    }
    let broken = walks.iter().find_map(|w| Some((w.name.clone(), w.broken.clone()?)));
    let last_file = walks.last().map_or_else(String::new, |w| w.name.clone());
    let (file, (page, why)) =
        broken.unwrap_or((last_file, (0, "the batches after it are missing".to_owned())));
    Err(RecoverError::Damaged { file, page, why })
}

/// Decides what of the walked files is kept.
fn settle(
    files: &dyn Files,
    dir: &str,
    walks: Vec<Walk>,
    durable: u64,
    whole: bool,
    out: &mut RecoveredLog,
) -> Result<(), RecoverError> {
    let mut torn = false;
    for walk in walks {
        if torn {
            out.cut_pages += u64::from(walk.pages);
            out.remove.push(walk.name);
            continue;
        }
        let mut index = ScoIndex { previous_sequence: walk.start.0, ..ScoIndex::default() };
        for found in &walk.batches {
            let header = &found.header;
            let was_durable = header.link.sequence <= durable;
            if (whole || !was_durable)
                && !data_is_whole(files, &format!("{dir}/{}", walk.name), found)?
            {
                if was_durable {
                    let why = "the data of its batch is not what was written".to_owned();
                    return Err(RecoverError::Damaged {
                        file: walk.name,
                        page: found.data_page,
                        why,
                    });
                }
                torn = true;
                break;
            }
            if index.end_page == 0 {
                index.end_page = 1;
            }
            index.add(&header.entries, &header.crcs, header.pages as u32);
            index.epoch = header.link.epoch;
            index.last_sequence = header.link.sequence;
            index.last_crc = header.crc;
        }
        torn |= walk.broken.is_some();
        if index.last_sequence == 0 {
            out.cut_pages += u64::from(walk.pages);
            out.remove.push(walk.name);
            continue;
        }
        let cut = index.end_page < walk.pages;
        out.cut_pages += u64::from(walk.pages.saturating_sub(index.end_page));
        let unproven = index.last_sequence > durable;
        out.scos.push(RecoveredSco { sco: walk.sco, index, cut, unproven });
    }
    Ok(())
}

fn data_is_whole(files: &dyn Files, path: &str, found: &Found) -> Result<bool, RecoverError> {
    let mut cluster = [0; PAGE];
    for (index, crc) in found.header.crcs.iter().enumerate() {
        let at = (u64::from(found.data_page) + index as u64) * PAGE as u64;
        if files.read_at(path, at, &mut cluster)? < PAGE || crc32c(&cluster) != *crc {
            return Ok(false);
        }
    }
    Ok(true)
}

struct FileReader<'a> {
    files: &'a dyn Files,
    path: String,
    log: &'a Uuid,
    sco: u32,
}

impl FileReader<'_> {
    fn page(&self, page: u32) -> Result<[u8; PAGE], FileError> {
        let mut bytes = [0; PAGE];
        self.files.read_at(&self.path, u64::from(page) * PAGE as u64, &mut bytes)?;
        Ok(bytes)
    }

    fn walk(&self, name: String, pages: u32, start: (u64, u32)) -> Result<Walk, FileError> {
        let mut walk =
            Walk { name, sco: self.sco, pages, batches: Vec::new(), start, broken: None };
        if pages == 0 {
            return Ok(walk);
        }
        let first = self.page(0)?;
        let (mut sequence, mut crc) = match decode_sco_header(&first) {
            Ok((link, crc))
                if link.log == *self.log
                    && link.sco == self.sco
                    && (link.sequence, link.previous_crc) == start =>
            {
                (link.sequence, crc)
            }
            Ok(_) => {
                walk.broken = Some((0, "its header does not continue the log".to_owned()));
                return Ok(walk);
            }
            Err(why) => {
                walk.broken = Some((0, format!("its header: {why}")));
                return Ok(walk);
            }
        };
        let mut page = 1;
        while page < pages {
            match self.batch(page)? {
                Ok(header)
                    if header.link.log == *self.log
                        && header.link.sco == self.sco
                        && header.link.sequence == sequence + 1
                        && header.link.previous_crc == crc =>
                {
                    let data_page = page + header.pages as u32;
                    let next = data_page + header.crcs.len() as u32;
                    if next > pages {
                        walk.broken = Some((page, "its data is not there".to_owned()));
                        return Ok(walk);
                    }
                    (sequence, crc, page) = (header.link.sequence, header.crc, next);
                    walk.batches.push(Found { header, data_page });
                }
                Ok(_) => {
                    walk.broken = Some((page, "its header does not continue the log".to_owned()));
                    return Ok(walk);
                }
                Err(why) => {
                    walk.broken = Some((page, why));
                    return Ok(walk);
                }
            }
        }
        Ok(walk)
    }

    /// The batch header at `page`, if its bytes are one.
    fn batch(&self, page: u32) -> Result<Result<BatchHeader, String>, FileError> {
        let mut bytes = self.page(page)?.to_vec();
        let pages = match peek_batch_pages(&bytes) {
            Ok(pages) => pages,
            Err(why) => return Ok(Err(format!("its header: {why}"))),
        };
        for more in 1..pages {
            bytes.extend_from_slice(&self.page(page + more as u32)?);
        }
        Ok(decode_batch_header(&bytes).map_err(|why| format!("its header: {why}")))
    }

    /// The greatest durable sequence that any header in these pages claims. Headers are looked for
    /// at every page, since the chain does not lead there.
    fn durable_claims(&self, from: u32, pages: u32) -> Result<u64, FileError> {
        let mut durable = 0;
        for page in from..pages {
            let bytes = self.page(page)?;
            let link = match decode_sco_header(&bytes) {
                Ok((link, _)) => Some(link),
                Err(_) if peek_batch_pages(&bytes).is_ok() => {
                    self.batch(page)?.ok().map(|header| header.link)
                }
                Err(_) => None,
            };
            if let Some(link) = link
                && link.log == *self.log
                && link.sco == self.sco
            {
                durable = durable.max(link.durable_sequence);
            }
        }
        Ok(durable)
    }
}
