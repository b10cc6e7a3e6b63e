//! Verified reads of SCO objects (see `format::object`).

use format::entry::Uuid;
use format::log::PAGE;
use format::object::{ObjectHeader, ObjectIndex};
use format::{Malformed, crc32c};

use crate::{Backend, BackendError, Cause, Result};

/// Name of the object of a SCO.
pub fn sco_name(log: &str, sco: u32) -> String {
    format!("{log}/sco/{sco:08x}")
}

fn corrupt(backend: &dyn Backend, name: &str, why: String) -> BackendError {
    backend.distrust(name);
    BackendError { attempted: "read", object: name.to_owned(), cause: Cause::Corrupt, why }
}

/// Reads the header, which must belong to this log and SCO.
pub fn read_header(
    backend: &dyn Backend,
    name: &str,
    log: &Uuid,
    sco: u32,
) -> Result<ObjectHeader> {
    let mut page = [0; PAGE];
    backend.read(name, 0, &mut page)?;
    let header = ObjectHeader::decode(&page)
        .map_err(|e| corrupt(backend, name, format!("its header: {e}")))?;
    if header.log != *log || header.sco != sco {
        return Err(corrupt(backend, name, format!("its header: {}", Malformed::Identity)));
    }
    Ok(header)
}

/// Reads the index.
pub fn read_index(backend: &dyn Backend, name: &str, header: &ObjectHeader) -> Result<ObjectIndex> {
    let mut bytes = vec![0; header.index_len()];
    backend.read(name, ObjectHeader::data_at(header.clusters), &mut bytes)?;
    ObjectIndex::decode(header, &bytes)
        .map_err(|e| corrupt(backend, name, format!("its index: {e}")))
}

/// Fills `into` (whole clusters) from data cluster `ordinal` on and compares every checksum, unless
/// the backend has done so.
/// `clusters`: data clusters of the object; it tells where the checksums are.
pub fn read_clusters(
    backend: &dyn Backend,
    name: &str,
    clusters: u32,
    ordinal: u32,
    into: &mut [u8],
) -> Result<()> {
    let count = into.len() / PAGE;
    let inside = ordinal as usize + count <= clusters as usize;
    if !inside || !into.len().is_multiple_of(PAGE) {
        return Err(corrupt(backend, name, format!("it has no cluster {ordinal} + {count}")));
    }
    backend.read(name, ObjectHeader::data_at(ordinal), into)?;
    if backend.checks(name) {
        return Ok(());
    }
    let mut crcs = vec![0; count * 4];
    let crcs_at = ObjectHeader::data_at(clusters) + u64::from(ordinal) * 4;
    backend.read(name, crcs_at, &mut crcs)?;
    for (index, (cluster, crc)) in into.chunks_exact(PAGE).zip(crcs.chunks_exact(4)).enumerate() {
        if crc32c(cluster).to_le_bytes() != *crc {
            let which = ordinal as usize + index;
            return Err(corrupt(
                backend,
                name,
                format!("the checksum of its cluster {which} differs"),
            ));
        }
    }
    Ok(())
}
