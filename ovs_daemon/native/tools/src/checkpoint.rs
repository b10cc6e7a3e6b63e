//! Checkpoint objects of the directory backend.

use format::checkpoint::{ChunkRef, FOOTER, Footer, Metadata};
use format::{chunk, crc32c};
use media::{File, StoreError};

use crate::report::{Report, uuid};

pub(crate) fn look(file: &File, verify: bool, report: &mut Report) -> Result<(), StoreError> {
    report.kind = "checkpoint";
    let len = file.len()?;
    let footer_at = len.saturating_sub(FOOTER as u64);
    let mut raw = [0; FOOTER];
    file.read_some_at(footer_at, &mut raw)?;
    let footer = match Footer::decode(&raw) {
        Ok(footer) => footer,
        Err(why) => {
            report.damage(footer_at, format!("footer: {why}"));
            return Ok(());
        }
    };
    report.fact("volume", uuid(&footer.log));
    report.fact("number", footer.number);
    report.fact("epoch", footer.epoch);
    let end = footer.metadata_at.checked_add(u64::from(footer.metadata_len));
    if end != Some(footer_at) {
        report.damage(footer_at, "footer: its lengths do not fit the file");
        return Ok(());
    }
    let mut bytes = vec![0; footer.metadata_len as usize];
    file.read_some_at(footer.metadata_at, &mut bytes)?;
    let metadata = match Metadata::decode(&bytes) {
        Ok(metadata) if crc32c(&bytes) == footer.metadata_crc => metadata,
        Ok(_) => {
            report.damage(footer.metadata_at, "metadata: its checksum does not match");
            return Ok(());
        }
        Err(why) => {
            report.damage(footer.metadata_at, format!("metadata: {why}"));
            return Ok(());
        }
    };
    report.fact("position (SCO)", metadata.position);
    report.fact("last batch", metadata.last_sequence);
    report.fact("scos", metadata.scos.len());
    report.fact("maps", metadata.maps.len());
    for (sco, clusters) in &metadata.scos {
        report.lines.push(format!("SCO {sco:08x}: {clusters} data clusters"));
    }
    for map in &metadata.maps {
        let name = match map.snapshot {
            [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0] => "head".to_owned(),
            id => format!("snapshot {}", uuid(&id)),
        };
        report.lines.push(format!("{name} at SCO {:08x}", map.position));
        for at in &map.chunks {
            report.lines.push(format!(
                "    chunk {:<6} log {} checkpoint {:016x} bytes {} + {}",
                at.index, at.log, at.object, at.offset, at.len
            ));
            if verify && at.object == footer.number {
                check_chunk(file, at, footer.metadata_at, report)?;
            }
        }
    }
    Ok(())
}

/// Chunks of other checkpoints are checked with those; a chunk of an ancestor's checkpoint of the
/// same number can't be told from an own one here, and is looked for in vain only if it lies
/// outside this file.
fn check_chunk(
    file: &File,
    at: &ChunkRef,
    records_end: u64,
    report: &mut Report,
) -> Result<(), StoreError> {
    if at.offset.saturating_add(u64::from(at.len)) > records_end {
        return Ok(());
    }
    let mut record = vec![0; at.len as usize];
    file.read_some_at(at.offset, &mut record)?;
    match chunk::decode(&record) {
        Ok(decoded) if decoded.index() == at.index => {}
        Ok(decoded) => {
            let why = format!("chunk {} is in the place of chunk {}", decoded.index(), at.index);
            report.damage(at.offset, why);
        }
        Err(why) => report.damage(at.offset, format!("chunk {}: {why}", at.index)),
    }
    Ok(())
}
