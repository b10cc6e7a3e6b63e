//! Kill points and power loss at every point of short lives of a DTL node's folder: the fence never
//! goes back, and what is held is always a beginning of the log, with all its data.

use std::collections::BTreeMap;

use buffer::file_name;
use buffer::files::{FileError, Files};
use format::dtl::Fence;
use format::entry::Uuid;
use format::log::PAGE;
use machines::dtl::Mark;
use sim::crash::{Crash, CrashBounds, enumerate};
use sim::explore::Violation;
use sim::memory::{Image, MemoryFiles};

use crate::owner::Owner;
use crate::replica::{mark_suspect, read, store_fence, uuid_text};

const VOLUME: Uuid = [0x33; 16];

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    /// A newer epoch says hello.
    Fence,
    /// A batch is taken.
    Append,
    /// The first batch of the next SCO is taken.
    NextSco,
    /// All but the newest SCO are on the backend.
    Trim,
    /// A fresh copy begins.
    Wipe,
    /// A thread removes what is of no use.
    Remove,
}

const STEPS: [Step; 6] =
    [Step::Fence, Step::Append, Step::NextSco, Step::Trim, Step::Wipe, Step::Remove];

/// A DTL node's folder on recording files: production encoders and fences, and the order of
/// operations of `Replica`.
struct Life {
    files: MemoryFiles,
    owner: Owner,
    epoch: u64,
    /// Every end that the log ever had.
    ends: Vec<Option<Mark>>,
    /// The bytes of every SCO that there ever was.
    written: BTreeMap<u32, Vec<u8>>,
    /// Files that were taken out of use.
    gone: u64,
    /// The folder has no room for their names.
    full: bool,
}

const OK: &str = "the memory twin has room and no faults";

impl Life {
    fn new() -> Self {
        let (files, owner) = (MemoryFiles::new().recording(), Owner::new(VOLUME));
        let (ends, written) = (vec![None], BTreeMap::new());
        let mut life = Life { files, owner, epoch: 0, ends, written, gone: 0, full: false };
        life.step(Step::Fence);
        life
    }

    fn path(&self, sco: u32) -> String {
        format!("{}/{}", uuid_text(&VOLUME), file_name(sco))
    }

    /// Where the file of a SCO lies that is kept for a later one.
    fn spare(&self) -> String {
        format!("{}/spare-00000001", uuid_text(&VOLUME))
    }

    fn has_spare(&self) -> bool {
        self.files.len(&self.spare()).is_ok()
    }

    fn scos(&self) -> Vec<String> {
        let names = self.files.list(&uuid_text(&VOLUME)).expect(OK);
        names.into_iter().map(|(name, _)| name).filter(|name| name.ends_with(".sco")).collect()
    }

    /// Takes files out of use.
    fn retire(&mut self, names: &[String]) {
        let folder = uuid_text(&VOLUME);
        for name in names {
            let (path, gone) =
                (format!("{folder}/{name}"), format!("{folder}/gone-{:016x}", self.gone));
            if self.full {
                self.files.unlink(&path).expect(OK);
            } else {
                self.files.rename(&path, &gone).expect(OK);
            }
            self.gone += 1;
        }
    }

    fn step(&mut self, step: Step) {
        match step {
            Step::Fence => {
                self.epoch += 1;
                let fence = Fence { volume: VOLUME, epoch: self.epoch, suspect: false };
                store_fence(&self.files, &fence).expect(OK);
                self.files.mark(self.epoch);
            }
            Step::Append if self.scos().is_empty() => self.step(Step::NextSco),
            Step::Append => self.append(),
            Step::NextSco => {
                let (before, end) = (self.path(self.owner.sco), self.owner.bytes());
                if self.files.len(&before).is_ok_and(|bytes| bytes > end) {
                    self.files.truncate(&before, end).expect(OK);
                }
                self.owner.next_sco();
                if self.has_spare() {
                    self.append_to(&self.spare());
                    self.files.rename(&self.spare(), &self.path(self.owner.sco)).expect(OK);
                } else {
                    self.files.create(&self.path(self.owner.sco)).expect(OK);
                    self.append();
                }
            }
            Step::Trim => {
                let mut names = self.scos();
                names.pop();
                if !self.has_spare()
                    && let Some(name) = names.pop()
                {
                    let path = format!("{}/{name}", uuid_text(&VOLUME));
                    self.files.rename(&path, &self.spare()).expect(OK);
                }
                self.retire(&names);
            }
            Step::Wipe => {
                if self.has_spare() {
                    self.retire(&["spare-00000001".to_owned()]);
                }
                let mut names = self.scos();
                names.reverse();
                self.retire(&names);
            }
            Step::Remove => {
                let folder = uuid_text(&VOLUME);
                let names = self.files.list(&folder).expect(OK).into_iter().map(|(name, _)| name);
                let gone = names.filter(|name| name.starts_with("gone-"));
                gone.for_each(|name| self.files.unlink(&format!("{folder}/{name}")).expect(OK));
            }
        }
    }

    fn append(&mut self) {
        self.append_to(&self.path(self.owner.sco));
    }

    fn append_to(&mut self, path: &str) {
        let (at, bytes) = (self.owner.bytes(), self.owner.batch(1));
        self.files.write_at(path, at, &[&bytes]).expect(OK);
        self.written.entry(self.owner.sco).or_default().extend_from_slice(&bytes);
        self.ends.push(Some(self.owner.end()));
    }

    /// What the process finds that starts after this one was killed.
    fn check_killed(&self) {
        let found = read(&self.files, &VOLUME).expect(OK);
        let last = if self.scos().is_empty() { None } else { self.ends.last().copied().flatten() };
        assert_eq!((found.fence.epoch, found.held.end), (self.epoch, last));
        assert!(!found.held.suspect);
    }

    /// What the node finds that starts after the power came back.
    fn check_after_power_loss(&self, crash: &Crash<'_>) -> Result<(), Violation> {
        let files = MemoryFiles::from_image(crash.image.clone());
        let failed = |why: FileError| Violation::new("the folder can be used", why.to_string());
        mark_suspect(&files, &VOLUME).map_err(failed)?;
        let found = read(&files, &VOLUME).map_err(failed)?;
        let promised = crash.marks.last().copied().unwrap_or(0);
        if found.fence.epoch < promised {
            let text = format!("{} after {promised}", found.fence.epoch);
            return Err(Violation::new("the fence never goes back", text));
        }
        if !self.ends.contains(&found.held.end) {
            let text = format!("{:?} is no end of {:?}", found.held.end, self.ends);
            return Err(Violation::new("what is held is a beginning of the log", text));
        }
        for (sco, bytes) in found.scos {
            let mut there = vec![0; bytes as usize];
            files.read_at(&self.path(sco), 0, &mut there).map_err(failed)?;
            if !self.written[&sco].starts_with(&there) {
                let text = format!("{bytes} bytes of SCO {sco}, up to {:?}", found.held.end);
                return Err(Violation::new("what is held has all its data", text));
            }
        }
        Ok(())
    }
}

#[test]
fn every_short_life_survives_being_killed_and_losing_power() {
    let bounds = CrashBounds { exhaustive: 6, torn: 2, samples: 32, ..CrashBounds::default() };
    let mut images = 0;
    for number in 0..2 * STEPS.len().pow(3) + STEPS.len().pow(2) {
        let place = |at: u32| STEPS[number / STEPS.len().pow(at) % STEPS.len()];
        // The second half begins with a file that can be used again, and so do some on a full disk.
        let steps: &[Step] = match number / STEPS.len().pow(3) {
            0 => &[Step::Append, place(2), place(1), place(0)],
            _ => &[
                Step::Append,
                Step::Append,
                Step::NextSco,
                Step::Trim,
                place(2),
                place(1),
                place(0),
            ],
        };
        let mut life = Life::new();
        life.full = number / STEPS.len().pow(3) == 2;
        for step in steps {
            life.step(*step);
            life.check_killed();
        }
        let report = enumerate(&Image::new(), &life.files.log(), &bounds, &mut |crash| {
            life.check_after_power_loss(crash)
        });
        if let Some(failure) = &report.failure {
            panic!("{steps:?}\n{failure}");
        }
        images += report.images;
    }
    assert!(images > 5_000, "{images} images are too few to mean something");
}

/// The header of the oldest file is spoilt: what lies there was acknowledged.
#[test]
fn a_spoilt_first_file_is_kept_and_no_longer_taken_for_the_whole() {
    let mut life = Life::new();
    [Step::Append, Step::NextSco].into_iter().for_each(|step| life.step(step));
    life.files.write_at(&life.path(1), 0, &[&[0xff; PAGE]]).expect(OK);
    let found = read(&life.files, &VOLUME).expect(OK);
    assert_eq!((found.held.suspect, found.held.end, found.remove), (true, None, Vec::new()));
}

#[test]
fn a_file_for_batches_that_never_came_is_of_no_use() {
    let life = Life::new();
    life.files.create(&life.path(4)).expect(OK);
    let found = read(&life.files, &VOLUME).expect(OK);
    assert!(!found.held.suspect);
    assert_eq!((found.held.end, found.remove), (None, vec![file_name(4)]));
}
