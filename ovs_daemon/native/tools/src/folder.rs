//! Folders: each file in them; and for the write buffer of a volume, what recovery would find.

use std::path::Path;

use buffer::{ChainEnd, DiskFiles, recover};
use format::log::{PAGE, decode_sco_header};
use media::{Dir, File, StoreError, file_len};

use crate::report::Report;

pub(crate) fn look(path: &Path, verify: bool) -> Result<Vec<Report>, StoreError> {
    let dir = Dir::at(path);
    let mut names = dir.list()?;
    names.sort();
    let mut reports = Vec::new();
    for name in &names {
        let path = dir.join(name);
        if path.is_dir() {
            reports.extend(look(&path, verify)?);
        } else if file_len(&path)?.is_some() && !name.starts_with('.') {
            reports.push(crate::look_at(&path, verify)?);
        }
    }
    if let Some(first) = names.iter().find(|name| name.ends_with(".sco")) {
        reports.push(buffer_folder(path, first)?);
    }
    Ok(reports)
}

/// Recovers the write buffer in memory, from where its first file says that the log before ends.
fn buffer_folder(path: &Path, first: &str) -> Result<Report, StoreError> {
    let mut report = Report::new(path);
    report.kind = "write buffer of a volume";
    let mut page = vec![0; PAGE];
    File::open_read(&path.join(first))?.read_some_at(0, &mut page)?;
    let Ok((link, _)) = decode_sco_header(&page) else {
        report.damage(0, format!("{first} has no valid header"));
        return Ok(report);
    };
    let end = ChainEnd { sco: link.sco - 1, sequence: link.sequence, crc: link.previous_crc };
    match recover(&DiskFiles::new(path), ".", &link.log, end) {
        Ok(found) => {
            report.fact("SCOs", found.scos.len());
            report.fact("bytes to be cut off", found.cut_pages * PAGE as u64);
            if let Some(last) = found.scos.last() {
                report.fact("last batch", last.index.last_sequence);
            }
        }
        Err(why) => report.damage(0, why.to_string()),
    }
    Ok(report)
}
