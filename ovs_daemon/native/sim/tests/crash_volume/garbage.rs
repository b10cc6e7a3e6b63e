//! Objects whose deletion was not synced come back after a power loss, when no checkpoint lists
//! them any more. Opened by `volume::open` itself, a volume must know them again, or they would
//! stay for ever.
#![allow(clippy::disallowed_methods)]

use std::fs;
use std::path::Path;
use std::sync::Arc;

use alba::Backend;
use machines::volume::Limits;
use sim::crash::{Crash, CrashBounds, enumerate};
use sim::explore::Violation;
use sim::faulty::FaultyFiles;
use sim::memory::{Image, MemoryFiles};
use volume::OpenSpec;

use crate::backend::FilesBackend;
use crate::log::{LOG, Log, NAME, Step};

/// The write buffer of an image, on a real disk: that is where `volume::open` looks for it.
fn lay_out(image: &Image, root: &Path) {
    let _ = fs::remove_dir_all(root);
    for (path, bytes) in image.iter().filter(|(path, _)| path.starts_with("buffer/")) {
        let path = root.join(path);
        fs::create_dir_all(path.parent().expect("it is below the root")).expect("a folder");
        fs::write(path, bytes).expect("a file");
    }
}

fn check(crash: &Crash<'_>, root: &Path, returned: &mut u32) -> Result<(), Violation> {
    lay_out(crash.image, root);
    let memory = MemoryFiles::from_image(crash.image.clone());
    let files = Arc::new(FaultyFiles::new(memory, Vec::new()));
    let backend = FilesBackend { files, sync_objects: true };
    let limits = Limits {
        sco_clusters: 16,
        buffer_scos: 8,
        keep_scos: 4,
        checkpoint_scos: 2,
        batch_clusters: 8,
        op_clusters: 4,
        compact_percent: 40,
        deletes: 2,
    };
    let buffer_dir = root.join("buffer");
    let spec =
        OpenSpec { ancestors: vec![LOG], epoch: 2, base: None, buffer_dir, limits, warm: None };
    let opened = volume::open(spec, &backend, &Arc::default())
        .map_err(|e| Violation::new("the volume can be opened", e.to_string()))?;
    for name in backend.list(&format!("{NAME}/sco")).expect("the memory twin has no faults") {
        let sco = u32::from_str_radix(&name, 16).expect("a SCO's name");
        let Some(known) = opened.scos().get(&sco) else {
            let detail = format!("object {name} is not among {:?}", opened.scos());
            return Err(Violation::new("no object stays for ever", detail));
        };
        *returned += u32::from(known.live == 0);
    }
    Ok(())
}

#[test]
fn objects_that_come_back_are_known_again() {
    use Step::{Checkpoint, Close, Upload, Write};
    // The first two SCOs are dead when the checkpoints are stored, and the second checkpoint
    // follows without an upload, whose sync would settle the deletions.
    let dead = [Write, Close, Upload, Write, Close, Upload];
    let steps = [&dead[..], &[Write, Write, Close, Upload, Checkpoint, Checkpoint]].concat();
    let memory = MemoryFiles::new().recording();
    let mut log = Log::new(Arc::new(FaultyFiles::new(memory.clone(), Vec::new())));
    steps.iter().for_each(|step| log.step(*step, None));
    let root = std::env::temp_dir().join(format!("ovs-garbage-{}", std::process::id()));
    let bounds = CrashBounds { exhaustive: 6, torn: 2, samples: 16, seed: 5 };
    let mut returned = 0;
    let report = enumerate(&Image::new(), &memory.log(), &bounds, &mut |crash| {
        check(crash, &root, &mut returned)
    });
    let _ = fs::remove_dir_all(&root);
    assert!(report.failure.is_none(), "{}", report.failure.expect("it was just asked"));
    assert!(returned > 2, "{returned} objects came back");
}
