//! The map of another node's volume: where a follower begins, and what is still to be known of it
//! when the volume becomes this node's.

use std::collections::HashMap;
use std::sync::Arc;

use alba::Backend;
use format::checkpoint::{ChunkRef, Metadata};
use format::entry::{Entry, Uuid};
use machines::map::{CHUNK_CLUSTERS, Chunk, Map, Stored};
use machines::mds::Warm;
use machines::replay::Content;

use crate::checkpoint::{Addresses, checkpoint_numbers, load_maps, metadata};
use crate::open::{Log, OpenError, uuid_text};

/// The content as the backend has it: the last checkpoint, and the objects after it. `None`: the
/// volume is a clone that has no checkpoint, and its parent has none with the snapshot.
///
/// Somebody else owns the volume and goes on meanwhile: what is read may be gone in the middle of
/// it, which is an error like any other, and tried again.
///
/// # Errors
/// The backend's, or what it has makes no sense.
pub fn load_warm(
    backend: &dyn Backend,
    ancestors: &[Uuid],
    base: Option<&Uuid>,
) -> Result<Option<Warm>, OpenError> {
    let ancestors: Vec<(Uuid, String)> =
        ancestors.iter().map(|uuid| (*uuid, uuid_text(uuid))).collect();
    let Some(((own, parents), own_log)) = ancestors.split_last().zip(own_log(&ancestors)) else {
        return Ok(None);
    };
    let mut content = Content::default();
    let number = checkpoint_numbers(backend, &own.1)?.last().copied();
    let metadata = number.map(|number| metadata(backend, &own.0, &own.1, number)).transpose()?;
    match (number.zip(metadata.as_ref()), base) {
        (Some((number, metadata)), _) => {
            let maps = load_maps(backend, &ancestors, number, metadata, Addresses::Dropped)?;
            (content.map, content.snapshots) = maps;
        }
        (None, Some(snapshot)) => match load_base(backend, parents, snapshot)? {
            Some(map) => content.map = map,
            None => return Ok(None),
        },
        (None, None) if !parents.is_empty() => return Ok(None),
        (None, None) => {}
    }
    let log = Log::on_backend(backend, own, metadata.as_ref())?;
    log.replay(log.checkpoint.sco, own_log, &mut content)?;
    Ok(Some(Warm { place: log.end(), content }))
}

fn own_log(ancestors: &[(Uuid, String)]) -> Option<u16> {
    u16::try_from(ancestors.len().checked_sub(1)?).ok()
}

/// A snapshot of the parent, as its last checkpoint has it.
fn load_base(
    backend: &dyn Backend,
    parents: &[(Uuid, String)],
    snapshot: &Uuid,
) -> Result<Option<Map>, OpenError> {
    let Some((log, text)) = parents.last() else { return Ok(None) };
    let Some(number) = checkpoint_numbers(backend, text)?.last().copied() else { return Ok(None) };
    let mut metadata = metadata(backend, log, text, number)?;
    // The head is of no use here.
    metadata.maps.retain(|map| map.snapshot == *snapshot);
    if metadata.maps.is_empty() {
        return Ok(None);
    }
    let (map, _) = load_maps(backend, parents, number, &metadata, Addresses::Dropped)?;
    Ok(Some(map))
}

/// Tells the chunks where the last checkpoint has them, so that the next one need not store all of
/// them again. `since`: what happened between that checkpoint and the content; what it touched is
/// not as the checkpoint has it.
pub(crate) fn address<'a>(
    content: &Content,
    metadata: &Metadata,
    since: impl Iterator<Item = &'a Entry>,
    ancestors: &[(Uuid, String)],
) {
    let Some((head, snapshots)) = metadata.maps.split_first() else { return };
    if let Some(touched) = Touched::by(since) {
        let untouched = head.chunks.iter().filter(|at| !touched.has(at.index));
        address_map(&content.map, untouched, ancestors);
    }
    for stored in snapshots {
        let mut same = content.snapshots.iter();
        let same = same.find(|s| s.id == stored.snapshot && s.position == stored.position);
        if let Some(snapshot) = same {
            address_map(&snapshot.map, stored.chunks.iter(), ancestors);
        }
    }
}

fn address_map<'a>(
    map: &Map,
    chunks: impl Iterator<Item = &'a ChunkRef>,
    ancestors: &[(Uuid, String)],
) {
    let present: HashMap<u32, &Arc<Chunk>> = map.chunks().collect();
    for at in chunks {
        if let (Some(chunk), Some((log, _))) =
            (present.get(&at.index), ancestors.get(usize::from(at.log)))
        {
            let (object, offset, length) = (at.object, at.offset, at.len);
            let _ = chunk.set_stored(Stored { log: *log, object, offset, length });
        }
    }
}

/// Chunks that entries may have changed.
struct Touched {
    /// First and last of each range, ascending, without overlaps.
    ranges: Vec<(u32, u32)>,
}

impl Touched {
    /// `None`: all of them.
    fn by<'a>(entries: impl Iterator<Item = &'a Entry>) -> Option<Self> {
        let mut ranges = Vec::new();
        for entry in entries {
            match *entry {
                Entry::Data { lba, clusters } | Entry::Trim { lba, clusters } => {
                    let chunk = |lba: u64| (lba / CHUNK_CLUSTERS as u64) as u32;
                    let last = lba + u64::from(clusters.max(1)) - 1;
                    ranges.push((chunk(lba), chunk(last)));
                }
                Entry::Reverted(_) => return None,
                Entry::SnapshotCreated(_) | Entry::SnapshotDeleted(_) | Entry::Closed => {}
            }
        }
        ranges.sort_unstable();
        ranges.dedup_by(|next, before| {
            let overlap = next.0 <= before.1;
            if overlap {
                before.1 = before.1.max(next.1);
            }
            overlap
        });
        Some(Self { ranges })
    }

    fn has(&self, chunk: u32) -> bool {
        let after = self.ranges.partition_point(|(first, _)| *first <= chunk);
        after.checked_sub(1).is_some_and(|at| self.ranges[at].1 >= chunk)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn touched_chunks_are_those_of_the_entries() {
        let chunk = CHUNK_CLUSTERS as u64;
        let entries = [
            Entry::Trim { lba: 3 * chunk, clusters: 2 * chunk as u32 },
            Entry::Data { lba: chunk - 1, clusters: 1 },
            Entry::Data { lba: 4 * chunk, clusters: 1 },
            Entry::Data { lba: 9 * chunk - 1, clusters: 2 },
            Entry::Closed,
        ];
        let touched = Touched::by(entries.iter()).unwrap();
        let found: Vec<u32> = (0..12).filter(|chunk| touched.has(*chunk)).collect();
        assert_eq!(found, [0, 3, 4, 8, 9]);
        assert!(Touched::by([Entry::Reverted([1; 16])].iter()).is_none());
    }
}
