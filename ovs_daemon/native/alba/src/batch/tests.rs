//! Crashes at every moment of a batch, with every part of what was not synced lost.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::{Path, PathBuf};

use super::{Shelf, put_all};
use crate::Put;
use crate::part::Part;

/// A file: what it holds, and whether that is durable.
#[derive(Clone, Debug, Default)]
struct Inode {
    bytes: Vec<u8>,
    durable: bool,
}

#[derive(Clone, Debug, Default)]
struct State {
    inodes: Vec<Inode>,
    names: BTreeMap<PathBuf, usize>,
    durable_names: BTreeMap<PathBuf, usize>,
    next: usize,
}

/// A disk in memory which keeps the state after each of its operations.
#[derive(Debug, Default)]
struct Twin {
    state: RefCell<State>,
    past: RefCell<Vec<State>>,
    /// The sync of this inode fails, once.
    bad: Option<usize>,
    told: RefCell<bool>,
}

impl Twin {
    fn change<T>(&self, work: impl FnOnce(&mut State) -> T) -> T {
        let result = work(&mut self.state.borrow_mut());
        self.past.borrow_mut().push(self.state.borrow().clone());
        result
    }
}

impl Shelf for Twin {
    type File = usize;

    fn prepare(&self, name: &str) -> io::Result<(PathBuf, PathBuf)> {
        let mut state = self.state.borrow_mut();
        state.next += 1;
        let path = PathBuf::from(name);
        let hidden = path.parent().unwrap().join(format!(".put-{}", state.next));
        Ok((hidden, path))
    }

    fn exists(&self, path: &Path) -> bool {
        self.state.borrow().names.contains_key(path)
    }

    fn write(&self, temporary: &Path, parts: &[Part]) -> io::Result<usize> {
        let number = self.change(|state| {
            state.inodes.push(Inode::default());
            let number = state.inodes.len() - 1;
            state.names.insert(temporary.to_owned(), number);
            number
        });
        self.change(|state| state.inodes[number].bytes = concat(parts));
        Ok(number)
    }

    fn sync(&self, file: &usize) -> io::Result<()> {
        if self.bad == Some(*file) && !self.told.replace(true) {
            return Err(io::ErrorKind::Other.into());
        }
        // After a failure the kernel says that all is well, and nothing is.
        let lost = self.bad == Some(*file);
        self.change(|state| state.inodes[*file].durable = !lost);
        Ok(())
    }

    fn link(&self, temporary: &Path, path: &Path) -> io::Result<()> {
        self.change(|state| {
            if state.names.contains_key(path) {
                return Err(io::ErrorKind::AlreadyExists.into());
            }
            let inode = state.names[temporary];
            state.names.insert(path.to_owned(), inode);
            Ok(())
        })
    }

    fn unlink(&self, temporary: &Path) {
        self.change(|state| state.names.remove(temporary));
    }

    fn sync_folder(&self, folder: &Path) -> io::Result<()> {
        self.change(|state| {
            let inside = |path: &Path| path.parent() == Some(folder);
            state.durable_names.retain(|path, _| !inside(path));
            let names = state.names.iter().filter(|(path, _)| inside(path));
            state.durable_names.extend(names.map(|(path, inode)| (path.clone(), *inode)));
        });
        Ok(())
    }
}

/// All that may be there after a loss of power in this state: each name that is not durable is there
/// or not, and content that is not durable is there or lost.
fn aftermaths(state: &State) -> Vec<BTreeMap<PathBuf, Vec<u8>>> {
    let every: BTreeSet<&PathBuf> = state.names.keys().chain(state.durable_names.keys()).collect();
    let unsure: Vec<&PathBuf> = every
        .into_iter()
        .filter(|path| state.names.get(*path) != state.durable_names.get(*path))
        .collect();
    let mut all = Vec::new();
    for subset in 0..1u32 << unsure.len() {
        let mut names = state.durable_names.clone();
        for (number, path) in unsure.iter().enumerate() {
            if subset & 1 << number != 0 {
                match state.names.get(*path) {
                    Some(inode) => names.insert((*path).clone(), *inode),
                    None => names.remove(*path),
                };
            }
        }
        for lost in [false, true] {
            let content = |inode: &usize| {
                let inode = &state.inodes[*inode];
                if lost && !inode.durable { Vec::new() } else { inode.bytes.clone() }
            };
            all.push(names.iter().map(|(path, inode)| (path.clone(), content(inode))).collect());
        }
    }
    all
}

const PUTS: [&str; 4] = ["a/1", "b/2", "a/3", "a/1"];

fn concat(parts: &[Part]) -> Vec<u8> {
    parts.iter().flat_map(|part| part.to_vec()).collect()
}

fn parts(number: usize) -> Vec<Part> {
    vec![vec![number as u8 + 1; 3].into(), vec![9].into()]
}

fn run(twin: &Twin) -> Vec<crate::Result<Put>> {
    let content: Vec<Vec<Part>> = (0..PUTS.len()).map(parts).collect();
    let puts: Vec<(&str, &[Part])> =
        PUTS.iter().zip(&content).map(|(name, parts)| (*name, parts.as_slice())).collect();
    put_all(twin, &puts)
}

#[test]
fn after_a_loss_of_power_a_put_is_whole_or_not_there() {
    let twin = Twin::default();
    let outcomes = run(&twin);
    let expected = [Put::Created, Put::Created, Put::Created, Put::Exists];
    assert_eq!(outcomes.into_iter().map(Result::unwrap).collect::<Vec<_>>(), expected);
    let mut seen = 0;
    for state in twin.past.borrow().iter() {
        for after in aftermaths(state) {
            for (path, bytes) in &after {
                let number = PUTS.iter().position(|name| path == Path::new(name));
                // Leftovers have hidden names and may hold anything.
                let Some(number) = number else { continue };
                assert_eq!(*bytes, concat(&parts(number)), "{} in {state:?}", path.display());
                seen += 1;
            }
        }
    }
    assert!(seen > 100);
    for after in aftermaths(&twin.state.borrow()) {
        PUTS.iter().for_each(|name| assert!(after.contains_key(Path::new(name)), "{name}"));
    }
}

#[test]
fn what_could_not_be_synced_gets_no_name_and_harms_no_other() {
    let twin = Twin { bad: Some(1), ..Twin::default() };
    let outcomes = run(&twin);
    assert!(outcomes[1].is_err());
    assert_eq!(outcomes.iter().filter(|outcome| outcome.is_ok()).count(), 3);
    let state = twin.state.borrow();
    let names: Vec<&str> = state.names.keys().map(|path| path.to_str().unwrap()).collect();
    assert_eq!(names, ["a/1", "a/3"]);
}
