//! SCO objects of the directory backend.

use format::crc32c;
use format::entry::Entry;
use format::log::PAGE;
use format::object::{ObjectHeader, ObjectIndex};
use media::{File, StoreError};

use crate::report::{Report, entry, uuid};

pub(crate) fn look(file: &File, verify: bool, report: &mut Report) -> Result<(), StoreError> {
    report.kind = "SCO object";
    let mut page = [0; PAGE];
    file.read_some_at(0, &mut page)?;
    let header = match ObjectHeader::decode(&page) {
        Ok(header) => header,
        Err(why) => {
            report.damage(0, format!("header: {why}"));
            return Ok(());
        }
    };
    report.fact("volume", uuid(&header.log));
    report.fact("sco", header.sco);
    report.fact("epoch", header.epoch);
    report.fact("first batch", header.previous_sequence + 1);
    report.fact("last batch", header.last_sequence);
    report.fact("data clusters", header.clusters);
    let index_at = ObjectHeader::data_at(header.clusters);
    if file.len()? != header.len() {
        report.damage(0, format!("it has {} bytes instead of {}", file.len()?, header.len()));
    }
    let mut bytes = vec![0; header.index_len()];
    file.read_some_at(index_at, &mut bytes)?;
    let index = match ObjectIndex::decode(&header, &bytes) {
        Ok(index) => index,
        Err(why) => {
            report.damage(index_at, format!("index: {why}"));
            return Ok(());
        }
    };
    let mut ordinal = 0;
    for item in &index.entries {
        let place = if matches!(item, Entry::Data { .. }) {
            format!("cluster {ordinal:<6}")
        } else {
            " ".repeat(14)
        };
        ordinal += item.data_clusters();
        report.lines.push(format!("{place} {}", entry(item)));
    }
    if verify {
        let mut cluster = [0; PAGE];
        for (number, crc) in index.crcs.iter().enumerate() {
            let offset = ObjectHeader::data_at(number as u32);
            file.read_some_at(offset, &mut cluster)?;
            if crc32c(&cluster) != *crc {
                report.damage(offset, format!("the checksum of data cluster {number} differs"));
            }
        }
    }
    Ok(())
}
