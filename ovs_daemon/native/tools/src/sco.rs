//! SCO files of the write buffer.

use format::crc32c;
use format::log::{PAGE, decode_batch_header, decode_sco_header, peek_batch_pages};
use media::{File, StoreError};

use crate::report::{Report, entry, uuid};

pub(crate) fn look(file: &File, verify: bool, report: &mut Report) -> Result<(), StoreError> {
    report.kind = "SCO file";
    let pages = file.len()? / PAGE as u64;
    let page = |at: u64, count: usize| -> Result<Vec<u8>, StoreError> {
        let mut bytes = vec![0; count * PAGE];
        file.read_some_at(at * PAGE as u64, &mut bytes)?;
        Ok(bytes)
    };
    let (header, mut crc) = match decode_sco_header(&page(0, 1)?) {
        Ok(header) => header,
        Err(why) => {
            report.damage(0, format!("SCO header: {why}"));
            return Ok(());
        }
    };
    report.fact("volume", uuid(&header.log));
    report.fact("sco", header.sco);
    report.fact("epoch", header.epoch);
    report.fact("first batch", header.sequence + 1);
    let (mut at, mut sequence, mut clusters) = (1u64, header.sequence, 0u64);
    let mut durable = header.durable_sequence;
    while at < pages {
        let offset = at * PAGE as u64;
        let first = page(at, 1)?;
        let read =
            peek_batch_pages(&first).map_err(|why| why.to_string()).map(|count| page(at, count));
        let header_bytes = match read {
            Ok(bytes) => bytes?,
            Err(why) => {
                report.damage(offset, format!("batch header: {why} (a torn tail, if it is last)"));
                break;
            }
        };
        let batch = match decode_batch_header(&header_bytes) {
            Ok(batch) => batch,
            Err(why) => {
                report.damage(offset, format!("batch header: {why} (a torn tail, if it is last)"));
                break;
            }
        };
        let follows = batch.link.previous_crc == crc && batch.link.sequence == sequence + 1;
        if batch.link.log != header.log || batch.link.sco != header.sco || !follows {
            report.damage(offset, "batch header: it does not continue the one before");
            break;
        }
        report.lines.push(format!(
            "page {at:<6} batch {} epoch {} durable up to {}",
            batch.link.sequence, batch.link.epoch, batch.link.durable_sequence
        ));
        report.lines.extend(batch.entries.iter().map(|e| format!("    {}", entry(e))));
        let data = at + batch.pages as u64;
        if verify {
            check_data(file, data, &batch.crcs, report)?;
        }
        (sequence, crc) = (batch.link.sequence, batch.crc);
        durable = durable.max(batch.link.durable_sequence);
        clusters += batch.crcs.len() as u64;
        at = data + batch.crcs.len() as u64;
    }
    report.fact("last batch", sequence);
    report.fact("durable up to batch", durable);
    report.fact("data clusters", clusters);
    Ok(())
}

fn check_data(file: &File, page: u64, crcs: &[u32], report: &mut Report) -> Result<(), StoreError> {
    let mut cluster = [0; PAGE];
    for (index, crc) in crcs.iter().enumerate() {
        let offset = (page + index as u64) * PAGE as u64;
        if file.read_some_at(offset, &mut cluster)? < PAGE {
            report.damage(offset, "the file ends before this data cluster");
            return Ok(());
        }
        if crc32c(&cluster) != *crc {
            report.damage(offset, "the checksum of this data cluster differs");
        }
    }
    Ok(())
}
