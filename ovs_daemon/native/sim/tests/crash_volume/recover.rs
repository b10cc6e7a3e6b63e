//! Opening a log from an image: the steps of `volume::open` on files in memory.

use std::collections::BTreeMap;

use alba::{Backend, read_clusters, read_header, read_index, sco_name};
use buffer::files::Files;
use buffer::{ChainEnd, ScoIndex, file_name, recover};
use format::crc32c;
use format::log::PAGE;
use machines::map::Map;
use machines::volume::Snapshot;

use crate::backend::{FilesBackend, TestFiles};
use crate::log::{CLUSTERS, Content, FOLDER, LOG, NAME, replay};

/// What the volume shows, or why it can't be opened or read.
pub(crate) fn open(files: &TestFiles) -> Result<Content, String> {
    let backend = FilesBackend { files: files.clone(), sync_objects: true };
    let text = |e: alba::BackendError| e.to_string();
    let mut end = ChainEnd { sco: 0, sequence: 0, crc: 0 };
    let (mut map, mut snapshots) = (Map::new(), Vec::new());
    let folder = volume::checkpoint_folder(NAME);
    let checkpoints = backend.list(&folder).map_err(text)?;
    if let Some(name) = checkpoints.last() {
        let number = u64::from_str_radix(name, 16).map_err(|e| e.to_string())?;
        let ancestors = [(LOG, NAME.to_owned())];
        let loaded = volume::load_checkpoint(&backend, &ancestors, number).map_err(text)?;
        let metadata = loaded.metadata;
        end = ChainEnd {
            sco: metadata.position,
            sequence: metadata.last_sequence,
            crc: metadata.last_crc,
        };
        (map, snapshots) = (loaded.map, loaded.snapshots);
    }
    let mut objects = BTreeMap::new();
    let position = end.sco;
    for name in backend.list(&format!("{NAME}/sco")).map_err(text)? {
        let sco = u32::from_str_radix(&name, 16).map_err(|e| e.to_string())?;
        let name = sco_name(NAME, sco);
        let header = read_header(&backend, &name, &LOG, sco).map_err(text)?;
        objects.insert(sco, header.clusters);
        if sco <= position {
            continue;
        }
        if header.previous_sequence != end.sequence {
            return Err(format!("object {name} does not continue the log"));
        }
        let index = read_index(&backend, &name, &header).map_err(text)?;
        replay(&index.entries, sco, 0, &mut map, &mut snapshots);
        end = ChainEnd { sco, sequence: header.last_sequence, crc: header.last_crc };
    }
    let found = recover(&**files, FOLDER, &LOG, end).map_err(|e| e.to_string())?;
    let mut indexes = BTreeMap::new();
    for sco in found.scos {
        replay(&sco.index.entries, sco.sco, 0, &mut map, &mut snapshots);
        indexes.insert(sco.sco, sco.index);
    }
    let reader = Reader { files, backend, objects, indexes };
    reader.content(&map, &snapshots)
}

struct Reader<'a> {
    files: &'a TestFiles,
    backend: FilesBackend,
    objects: BTreeMap<u32, u32>,
    indexes: BTreeMap<u32, ScoIndex>,
}

impl Reader<'_> {
    fn content(&self, map: &Map, snapshots: &[Snapshot]) -> Result<Content, String> {
        let mut content = Content { head: self.clusters(map)?, snapshots: Vec::new() };
        for snapshot in snapshots {
            content.snapshots.push((snapshot.id[0], self.clusters(&snapshot.map)?));
        }
        Ok(content)
    }

    /// The first byte of each cluster; all its bytes must be the same.
    fn clusters(&self, map: &Map) -> Result<[u8; CLUSTERS], String> {
        let mut bytes = [0; CLUSTERS];
        for (lba, byte) in bytes.iter_mut().enumerate() {
            let Some(loc) = map.get(lba as u64) else { continue };
            let cluster = self.cluster(loc.sco, u32::from(loc.ordinal))?;
            if cluster.iter().any(|other| *other != cluster[0]) {
                return Err(format!("cluster {lba} is a mixture"));
            }
            *byte = cluster[0];
        }
        Ok(bytes)
    }

    fn cluster(&self, sco: u32, ordinal: u32) -> Result<[u8; PAGE], String> {
        let mut cluster = [0; PAGE];
        if let Some(index) = self.indexes.get(&sco) {
            let at = u64::from(index.pages[ordinal as usize]) * PAGE as u64;
            let path = format!("{FOLDER}/{}", file_name(sco));
            self.files.read_at(&path, at, &mut cluster).map_err(|e| e.to_string())?;
            return match crc32c(&cluster) == index.crcs[ordinal as usize] {
                true => Ok(cluster),
                false => Err(format!("cluster {ordinal} of SCO {sco} is damaged")),
            };
        }
        let clusters = self.objects.get(&sco).ok_or_else(|| format!("SCO {sco} is missing"))?;
        read_clusters(&self.backend, &sco_name(NAME, sco), *clusters, ordinal, &mut cluster)
            .map_err(|e| e.to_string())?;
        Ok(cluster)
    }
}
