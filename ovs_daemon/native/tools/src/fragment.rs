//! Stored fragments of erasure-coded objects.

use format::crc32c;
use format::fragment::{StoredFragment, crc32, payload_crcs};
use format::log::PAGE;
use media::{File, StoreError};

use crate::report::Report;

pub(crate) fn look(file: &File, verify: bool, report: &mut Report) -> Result<(), StoreError> {
    report.kind = "fragment";
    let mut page = vec![0; PAGE];
    file.read_some_at(0, &mut page)?;
    let header = match StoredFragment::decode(&page) {
        Ok(header) => header,
        Err(why) => {
            report.damage(0, format!("header: {why}"));
            return Ok(());
        }
    };
    let [data, parity, domains, local] = header.code;
    report.fact("object", header.object.clone());
    report.fact("object bytes", header.object_len);
    report.fact("piece", header.piece);
    report.fact("piece at byte", header.piece_at);
    report.fact("code", format!("{data}+{parity} over {domains}, {local} local"));
    report.fact("fragment", header.fragment);
    report.fact("c", header.acknowledge);
    report.fact("sealed", if header.sealed { "yes" } else { "no" });
    report.fact("generation", format!("{:016x}", header.generation));
    report.fact("payload bytes", header.erasure.payload_len);
    report.fact("liberasurecode index", header.erasure.index);
    if file.len()? != header.len() {
        report.damage(0, format!("it has {} bytes instead of {}", file.len()?, header.len()));
        return Ok(());
    }
    if verify {
        let mut payload = vec![0; header.payload_len()];
        file.read_bytes_at(PAGE as u64, &mut payload)?;
        let crcs_at = PAGE + payload.len();
        let mut crcs = vec![0; header.crcs_len()];
        file.read_bytes_at(crcs_at as u64, &mut crcs)?;
        if crc32c(&crcs) != header.crcs_crc {
            report.damage(crcs_at as u64, "the checksum of the checksums differs");
        }
        let computed = payload_crcs(&payload);
        for (number, (a, b)) in computed.chunks(4).zip(crcs.chunks(4)).enumerate() {
            if a != b {
                let offset = (PAGE + number * PAGE) as u64;
                report.damage(offset, format!("the checksum of cluster {number} differs"));
            }
        }
        if crc32(&payload) != header.erasure.crc {
            report.damage(PAGE as u64, "the payload's checksum for liberasurecode differs");
        }
    }
    Ok(())
}
