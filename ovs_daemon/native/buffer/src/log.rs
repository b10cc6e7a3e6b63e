//! The write buffer of one volume while it is open.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use format::entry::{Entry, Uuid};
use format::log::PAGE;
use media::{Dir, File, Slice, StoreError};

use crate::index::ScoIndex;
use crate::recover::{RecoveredSco, file_name};
use crate::tail::{NewBatch, Tail};

/// Bytes that [`rewrite`] moves at a time.
const REWRITE_BLOCK: usize = 1 << 20;

/// A SCO file and what is known of it.
#[derive(Debug)]
pub struct ScoFile {
    /// The file.
    pub file: File,
    /// Where its clusters are.
    pub index: ScoIndex,
}

/// A part of a read that is contiguous in a file.
#[derive(Clone, Debug)]
pub struct FileRange {
    /// First byte.
    pub offset: u64,
    /// Where the bytes go; its length is the length of the range.
    pub into: Slice,
}

impl ScoFile {
    /// The file ranges of clusters `ordinal ..` for a slice of whole clusters. Clusters that were
    /// written in one batch are one range.
    pub fn ranges(&self, ordinal: u32, into: &Slice, out: &mut Vec<FileRange>) {
        let count = into.len() / PAGE;
        let pages = &self.index.pages[ordinal as usize..ordinal as usize + count];
        let mut start = 0;
        for next in 1..=count {
            if next < count && pages[next] == pages[next - 1] + 1 {
                continue;
            }
            let part = into.sub(start * PAGE, (next - start) * PAGE);
            out.push(FileRange { offset: u64::from(pages[start]) * PAGE as u64, into: part });
            start = next;
        }
    }

    /// Compares the checksums of clusters that were read; `Err`: ordinal of the first that differs.
    pub fn verify(&self, ordinal: u32, read: &Slice) -> Result<(), u32> {
        for index in 0..read.len() / PAGE {
            let which = ordinal + index as u32;
            if read.sub(index * PAGE, PAGE).crc32c() != self.index.crcs[which as usize] {
                return Err(which);
            }
        }
        Ok(())
    }

    /// Bytes of the file from the first to the last of `count` clusters, with the headers between them.
    pub fn span(&self, ordinal: u32, count: u32) -> usize {
        let pages = &self.index.pages[ordinal as usize..(ordinal + count) as usize];
        match (pages.first(), pages.last()) {
            (Some(first), Some(last)) => (last - first + 1) as usize * PAGE,
            _ => 0,
        }
    }

    /// Reads `count` clusters and waits for them; for worker threads. One read fetches them with
    /// the headers between them, since small batches alternate with headers: `into`, as long as
    /// [`Self::span`] says, holds whole pages then, and the result says which of them (first page,
    /// pages) are data, in order.
    pub fn read_blocking(
        &self,
        ordinal: u32,
        count: u32,
        into: &mut [u8],
    ) -> Result<Vec<(usize, usize)>, StoreError> {
        let pages = &self.index.pages[ordinal as usize..(ordinal + count) as usize];
        let Some(first) = pages.first() else { return Ok(Vec::new()) };
        self.file.read_bytes_at(u64::from(*first) * PAGE as u64, into)?;
        let mut runs: Vec<(usize, usize)> = Vec::new();
        for page in pages.iter().map(|page| (page - first) as usize) {
            match runs.last_mut() {
                Some((start, len)) if *start + *len == page => *len += 1,
                _ => runs.push((page, 1)),
            }
        }
        Ok(runs)
    }
}

/// Writes a file's bytes over themselves, so that the sync that follows covers them.
///
/// A sync that failed in an earlier life leaves pages that are not on the disk and that the kernel
/// takes for clean: it reported the failure once, to a process that is dead. A sync alone would
/// succeed and mean nothing for them.
fn rewrite(file: &File, len: u64) -> Result<(), StoreError> {
    let mut block = vec![0; REWRITE_BLOCK];
    let mut at = 0;
    while at < len {
        let now = (len - at).min(REWRITE_BLOCK as u64);
        let bytes = &mut block[..now as usize];
        file.read_bytes_at(at, bytes)?;
        file.write_bytes_at(at, bytes)?;
        at += now;
    }
    Ok(())
}

/// The SCO files of a log.
#[derive(Debug)]
pub struct LogBuffer {
    dir: Dir,
    tail: Tail,
    open: Option<(u32, ScoFile)>,
    closed: BTreeMap<u32, Arc<ScoFile>>,
    header: Vec<u8>,
    scratch: Vec<u8>,
    crcs: Vec<u32>,
}

impl LogBuffer {
    /// The buffer in `dir` as recovery found it. Cuts what has to be cut and removes what has to be
    /// removed, and makes all that is left durable.
    pub fn open(
        dir: &Path,
        tail: Tail,
        recovered: &[RecoveredSco],
        remove: &[String],
    ) -> Result<Self, StoreError> {
        let dir = Dir::create(dir)?;
        dir.sync_entry()?;
        let mut closed = BTreeMap::new();
        for sco in recovered {
            let file = File::open(&dir.join(&file_name(sco.sco)))?;
            if sco.cut {
                file.truncate(u64::from(sco.index.end_page) * PAGE as u64)?;
            }
            if sco.unproven {
                rewrite(&file, u64::from(sco.index.end_page) * PAGE as u64)?;
            }
            file.datasync()?;
            closed.insert(sco.sco, Arc::new(ScoFile { file, index: sco.index.clone() }));
        }
        // From the end: a crash in between leaves a shorter log, never one with a hole.
        for name in remove.iter().rev() {
            dir.unlink(name)?;
        }
        dir.sync()?;
        let (header, scratch, crcs) = (Vec::new(), Vec::new(), Vec::new());
        Ok(Self { dir, tail, open: None, closed, header, scratch, crcs })
    }

    /// The log's UUID.
    pub fn log(&self) -> Uuid {
        self.tail.log
    }

    /// The folder.
    pub fn dir(&self) -> &Dir {
        &self.dir
    }

    /// Takes over the empty file of a new SCO; it becomes the open one with its first batch.
    pub fn add_empty(&mut self, sco: u32, file: File) {
        self.open = Some((sco, ScoFile { file, index: ScoIndex::default() }));
    }

    /// Appends a batch to the open SCO. `data`: its clusters in order, in slices of whole clusters.
    /// When it fails nothing is changed, and the same batch can be appended again.
    pub fn append(
        &mut self,
        sequence: u64,
        durable_sequence: u64,
        entries: &[Entry],
        data: &[Slice],
    ) -> Result<(), StoreError> {
        let (sco, open) = self.open.as_mut().expect("the machine appends to a SCO it opened");
        self.crcs.clear();
        for slice in data {
            for at in (0..slice.len()).step_by(PAGE) {
                self.crcs.push(slice.sub(at, PAGE).crc32c());
            }
        }
        let batch = NewBatch { sco: *sco, sequence, durable_sequence, entries, crcs: &self.crcs };
        let tail = self.tail.encode(&batch, &open.index, &mut self.header, &mut self.scratch);
        let at = u64::from(open.index.end_page) * PAGE as u64;
        open.file.append(at, &self.header, data)?;
        let index = &mut open.index;
        if index.end_page == 0 {
            index.previous_sequence = self.tail.sequence;
            index.end_page = 1;
        }
        index.add(entries, &self.crcs, (self.scratch.len() / PAGE) as u32);
        index.epoch = tail.epoch;
        index.last_sequence = tail.sequence;
        index.last_crc = tail.crc;
        self.tail = tail;
        Ok(())
    }

    /// The headers of the batch that was appended last, as they lie in front of its data.
    pub fn header(&self) -> &[u8] {
        &self.header
    }

    /// The end of the log.
    pub fn tail(&self) -> Tail {
        self.tail
    }

    /// The first SCO from this number on that is in the buffer and holds a batch.
    pub fn first_from(&self, sco: u32) -> Option<u32> {
        let closed = self.closed.range(sco..).next().map(|(number, _)| *number);
        let open = self.open.iter().filter(|(number, f)| *number >= sco && f.index.end_page > 0);
        closed.or(open.map(|(number, _)| *number).next())
    }

    /// Pages of the SCOs from this number on.
    pub fn pages_from(&self, sco: u32) -> u64 {
        let closed = self.closed.range(sco..).map(|(_, file)| file.index.end_page);
        let open = self.open.iter().filter(|(number, _)| *number >= sco);
        closed.chain(open.map(|(_, file)| file.index.end_page)).map(u64::from).sum()
    }

    /// The open SCO takes no more batches. Returns it for sharing.
    pub fn close(&mut self) -> Option<(u32, Arc<ScoFile>)> {
        let (sco, file) = self.open.take()?;
        let file = Arc::new(file);
        self.closed.insert(sco, file.clone());
        Some((sco, file))
    }

    /// A SCO that is in the buffer.
    pub fn get(&self, sco: u32) -> Option<&ScoFile> {
        match &self.open {
            Some((open, file)) if *open == sco => Some(file),
            _ => self.closed.get(&sco).map(|file| &**file),
        }
    }

    /// A closed SCO that is in the buffer.
    pub fn closed(&self, sco: u32) -> Option<&Arc<ScoFile>> {
        self.closed.get(&sco)
    }

    /// Closed SCOs, in log order.
    pub fn all_closed(&self) -> impl Iterator<Item = (u32, &Arc<ScoFile>)> {
        self.closed.iter().map(|(sco, file)| (*sco, file))
    }

    /// Files that hold batches in `(after, through]`.
    pub fn files_between(&self, after: u64, through: u64) -> Vec<File> {
        let closed = self.closed.values().map(|f| &**f).rev();
        let open = self.open.iter().map(|(_, f)| f);
        let newer = open
            .chain(closed)
            .take_while(|f| f.index.last_sequence > after || f.index.last_sequence == 0);
        let wanted =
            newer.filter(|f| f.index.last_sequence > after && f.index.previous_sequence < through);
        wanted.map(|f| f.file.clone()).collect()
    }

    /// Forgets a SCO; its file is removed by whoever performs the eviction.
    pub fn forget(&mut self, sco: u32) -> Option<Arc<ScoFile>> {
        self.closed.remove(&sco)
    }

    /// Bytes of all files.
    pub fn bytes(&self) -> u64 {
        let open = self.open.iter().map(|(_, f)| f.index.end_page);
        let pages: u64 =
            self.closed.values().map(|f| f.index.end_page).chain(open).map(u64::from).sum();
        pages * PAGE as u64
    }
}
