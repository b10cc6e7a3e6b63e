//! A volume that is settled while the backend has much else to do, or does nothing.

use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use alba::{Backend, Directory, Put, Sink};

use super::*;
use crate::config::Config;
use crate::group::support::{Guest, PAGE, Place as Folder, create, open};

const A: &str = "aaaaaaaa-0000-4000-8000-000000000001";
const B: &str = "bbbbbbbb-0000-4000-8000-000000000002";
const WHY: &str = "the backend took nothing of it for a while";
const PATIENCE: Duration = Duration::from_secs(60);

#[derive(Default)]
struct Gate {
    open: bool,
    /// Writes that wait, may go on, and have gone on.
    waiting: u32,
    may: u32,
    went: u32,
}

/// A folder of objects; into those of one folder each write waits until the test lets it.
struct Gated {
    objects: Directory,
    folder: String,
    gate: Mutex<Gate>,
    changed: Condvar,
}

impl Gated {
    fn gate(&self) -> MutexGuard<'_, Gate> {
        self.gate.lock().unwrap()
    }

    fn pass(&self) {
        let mut gate = self.gate();
        gate.waiting += 1;
        self.changed.notify_all();
        while !gate.open && gate.may == 0 {
            gate = self.changed.wait(gate).unwrap();
        }
        gate.may = gate.may.saturating_sub(1);
        gate.waiting -= 1;
        gate.went += 1;
        self.changed.notify_all();
    }

    /// Lets one write go on; returns when it is done, and the next one waits.
    fn step(&self) {
        let went = {
            let mut gate = self.gate();
            gate.may += 1;
            self.changed.notify_all();
            gate.went + 1
        };
        self.until(|gate| gate.went == went && gate.waiting > 0);
    }

    fn until_one_waits(&self) {
        self.until(|gate| gate.waiting > 0);
    }

    fn until(&self, holds: impl Fn(&Gate) -> bool) {
        let waited = self.changed.wait_timeout_while(self.gate(), PATIENCE, |gate| !holds(gate));
        assert!(!waited.unwrap().1.timed_out(), "nothing is written to {}", self.folder);
    }

    fn open(&self) {
        self.gate().open = true;
        self.changed.notify_all();
    }
}

impl Backend for Gated {
    fn put(
        &self,
        name: &str,
        fill: &mut dyn FnMut(&mut dyn Sink) -> alba::Result<()>,
    ) -> alba::Result<Put> {
        let gated = name.starts_with(&self.folder);
        self.objects.put(name, &mut |sink| match gated {
            true => fill(&mut Slow { sink, gated: self }),
            false => fill(sink),
        })
    }

    fn read(&self, name: &str, offset: u64, into: &mut [u8]) -> alba::Result<()> {
        self.objects.read(name, offset, into)
    }

    fn len(&self, name: &str) -> alba::Result<Option<u64>> {
        self.objects.len(name)
    }

    fn list(&self, folder: &str) -> alba::Result<Vec<String>> {
        self.objects.list(folder)
    }

    fn delete(&self, name: &str) -> alba::Result<()> {
        self.objects.delete(name)
    }

    fn delete_folder(&self, folder: &str) -> alba::Result<()> {
        self.objects.delete_folder(folder)
    }

    fn taken(&self) -> u64 {
        self.objects.taken()
    }

    fn sweep(&self, folder: &str) -> alba::Result<()> {
        self.objects.sweep(folder)
    }
}

struct Slow<'a> {
    sink: &'a mut dyn Sink,
    gated: &'a Gated,
}

impl Sink for Slow<'_> {
    fn write(&mut self, bytes: &[u8]) -> alba::Result<()> {
        self.gated.pass();
        self.sink.write(bytes)
    }
}

/// Two open volumes, on a backend where writes to what the first one has in `folder` wait.
fn engine(place: &Folder, folder: &str) -> (Engine, Arc<Gated>) {
    let objects = Directory::open(&place.root.join("backend")).unwrap();
    let folder = format!("{A}/{folder}");
    let (gate, changed) = (Mutex::default(), Condvar::new());
    let backend = Arc::new(Gated { objects, folder, gate, changed });
    let config = Config::parse(&place.config().to_string()).unwrap();
    let engine = Engine::start(config, (backend.clone(), None)).unwrap();
    for volume in [A, B] {
        create(&engine, volume, None).unwrap();
        open(&engine, volume, None).unwrap();
    }
    (engine, backend)
}

#[test]
fn its_checkpoint_is_waited_for_while_the_backend_takes_others() {
    let place = Folder::new("settle-busy");
    let (engine, backend) = engine(&place, "ckpt");
    Guest::new(&engine, A).write(0, &[1; PAGE]);
    let mut other = Guest::new(&engine, B);
    let mut looks = 0;
    let settled = engine.settle_looking(A, WHY, &mut |settled| {
        looks += 1;
        if looks > 3 {
            backend.open();
            return settled.wait_at_most(PATIENCE);
        }
        backend.until_one_waits();
        other.write(0, &[looks; PAGE]);
        engine.settle_volume(B).unwrap();
        None
    });
    settled.unwrap();
    assert_eq!(looks, 4);
    engine.shutdown(true).unwrap();
}

#[test]
fn a_checkpoint_is_not_waited_for_while_the_backend_takes_nothing() {
    let place = Folder::new("settle-still");
    let (engine, backend) = engine(&place, "ckpt");
    Guest::new(&engine, A).write(0, &[1; PAGE]);
    let mut looks = 0;
    let refused = engine.settle_looking(A, WHY, &mut |_| {
        looks += 1;
        assert!(looks <= 2, "it waits for a backend that stands still");
        backend.until_one_waits();
        None
    });
    let refused = refused.unwrap_err();
    assert_eq!((refused.code, refused.why.as_str()), ("BACKEND", WHY));
    assert_eq!(looks, 2, "before the first look its data was stored");
    backend.open();
    engine.settle_volume(A).unwrap();
    engine.shutdown(true).unwrap();
}

#[test]
fn one_large_object_is_waited_for_while_the_backend_takes_some_of_it() {
    let place = Folder::new("settle-large");
    let (engine, backend) = engine(&place, "sco");
    let mut guest = Guest::new(&engine, A);
    for part in 0..3 {
        guest.write(part << 18, &[1; 1 << 18]);
    }
    let mut looks = 0;
    let settled = engine.settle_looking(A, WHY, &mut |settled| {
        looks += 1;
        if looks > 3 {
            backend.open();
            return settled.wait_at_most(PATIENCE);
        }
        backend.until_one_waits();
        backend.step();
        None
    });
    settled.unwrap();
    assert_eq!(looks, 4);
    engine.shutdown(true).unwrap();
}

#[test]
fn what_fails_is_not_waited_for_however_much_of_others_is_taken() {
    let place = Folder::new("settle-fails");
    let (engine, _) = engine(&place, "nothing");
    let in_the_way = place.root.join("backend").join(A).join("sco");
    std::fs::create_dir_all(in_the_way.parent().unwrap()).unwrap();
    std::fs::write(&in_the_way, b"in the way").unwrap();
    Guest::new(&engine, A).write(0, &[1; PAGE]);
    let mut other = Guest::new(&engine, B);
    let (_, at) = engine.place(String::new(), A).unwrap();
    let (mut failures, mut looks) = (0, 0);
    let refused = engine.settle_looking(A, WHY, &mut |_| {
        looks += 1;
        assert!(looks <= 2, "it waits for what fails");
        other.write(0, &[1; PAGE]);
        engine.settle_volume(B).unwrap();
        let end = Instant::now() + PATIENCE;
        while engine.progress(&at).unwrap().volume.failures == failures {
            assert!(Instant::now() < end, "it is not tried again");
            std::thread::yield_now();
        }
        failures = engine.progress(&at).unwrap().volume.failures;
        None
    });
    let refused = refused.unwrap_err();
    assert_eq!(refused.code, "BACKEND");
    let said = refused.why.strip_prefix(WHY).expect("it says what was waited for");
    assert!(said.contains("cannot store object"), "{said}");
    std::fs::remove_file(&in_the_way).unwrap();
    engine.settle_volume(A).unwrap();
    engine.shutdown(true).unwrap();
}

#[test]
fn what_is_with_the_backend_again_after_a_failure_is_not_waited_for() {
    let at = |oldest, asked, failures, taken| {
        let volume = Saving { oldest: Some(oldest), asked, failures, ..Saving::default() };
        Progress { volume, taken }
    };
    let before = at(7, true, 1, 1);
    assert!(at(7, true, 1, 2).goes_on_since(&before));
    assert!(!at(7, true, 1, 1).goes_on_since(&before), "nothing was taken");
    assert!(!at(7, false, 1, 2).goes_on_since(&before), "nothing was asked for");
    assert!(!at(7, true, 2, 2).goes_on_since(&before), "it failed meanwhile");
    assert!(at(8, true, 2, 1).goes_on_since(&before), "some of it was stored");
}
