//! Removing a volume from the backend, and the marks that keep what clones refer to.
//!
//! A clone leaves two marks, in this order: `<clone>/parent` says what it is a clone of, and
//! `<parent>/pins/<clone>` keeps the parent and its snapshot. They go the other way round: while
//! the pin is there, or may come back after a power loss, there is `<clone>/parent` to find it by.
//! A pin that nobody could find would keep the parent for ever.

use alba::Backend;

use crate::checkpoint::checkpoint_folder;

/// Folder of the marks of a volume's clones.
pub fn pins_folder(log: &str) -> String {
    format!("{log}/pins")
}

/// Name of the mark that says what a volume is a clone of.
pub fn parent_name(log: &str) -> String {
    format!("{log}/parent")
}

/// Marks a volume as a clone. `mark`: what both marks say.
pub fn pin(backend: &dyn Backend, log: &str, parent: &str, mark: &[u8]) -> alba::Result<()> {
    backend.put(&parent_name(log), &mut |sink| sink.write(mark))?;
    backend.put(&format!("{}/{log}", pins_folder(parent)), &mut |sink| sink.write(mark))?;
    Ok(())
}

/// Removes all that the backend has of a volume, for good. Interrupted, it is to be repeated:
/// `parent` is what `<log>/parent` says then.
pub fn remove(backend: &dyn Backend, log: &str, parent: Option<&str>) -> alba::Result<()> {
    // Checkpoints first: a crash in between must not leave one that refers to missing data. The whole
    // log last: afterwards nobody can read its mark, by which the parent's pin is found.
    backend.delete_folder(&checkpoint_folder(log))?;
    backend.delete_folder(&format!("{log}/sco"))?;
    if let Some(parent) = parent {
        let pins = pins_folder(parent);
        backend.delete(&format!("{pins}/{log}"))?;
        backend.settle(&pins)?;
    }
    backend.delete_log(log)
}
