//! The fence of a volume at its DTL node.

use format::dtl::{FENCE, Fence};
use media::{File, StoreError};

use crate::report::{Report, uuid};

pub(crate) fn look(file: &File, report: &mut Report) -> Result<(), StoreError> {
    report.kind = "fence of a DTL node";
    let mut bytes = [0; FENCE];
    let len = file.read_some_at(0, &mut bytes)?;
    match Fence::decode(&bytes[..len]) {
        Ok(fence) => {
            report.fact("volume", uuid(&fence.volume));
            report.fact("epoch", fence.epoch);
            report.fact("suspect", fence.suspect);
        }
        Err(why) => report.damage(0, why.to_string()),
    }
    Ok(())
}
