//! A cluster of folders: 3 Domains of 3 nodes with one disk each, or more.

use std::fs;
use std::path::{Path, PathBuf};

use format::fragment::FragmentName;
use format::osd::{Claim, Role};

use machines::alba::Policy;

use super::{Cluster, OsdPlace, random_id};
use crate::folder::{FolderOsd, read_claim};
use crate::preset::Preset;
use crate::{Backend, Cause, Put};

pub(super) struct Lab {
    root: PathBuf,
    domains: usize,
    /// Nodes of each Domain.
    nodes: usize,
}

impl Drop for Lab {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.root);
    }
}

impl Lab {
    pub(super) fn new(name: &str) -> Self {
        Self::of(name, 3)
    }

    pub(super) fn of(name: &str, domains: usize) -> Self {
        Self::sized(name, domains, 3)
    }

    pub(super) fn sized(name: &str, domains: usize, nodes: usize) -> Self {
        let root = std::env::temp_dir().join(format!("ovs-cluster-{}-{name}", std::process::id()));
        let _ = fs::remove_dir_all(&root);
        Self { root, domains, nodes }
    }

    pub(super) fn disk(&self, domain: usize, disk: usize) -> PathBuf {
        self.root.join(format!("dc{domain}/disk{disk}"))
    }

    fn places(&self) -> Vec<OsdPlace> {
        let place = |number: usize| OsdPlace {
            path: self.disk(number / self.nodes, number % self.nodes),
            domain: format!("dc{}", number / self.nodes),
            node: format!("node{}", number % self.nodes),
        };
        (0..self.nodes * self.domains).map(place).collect()
    }

    pub(super) fn open(&self) -> Cluster {
        self.open_with(Preset::shipped().remove(0).policies)
    }

    pub(super) fn open_with(&self, policies: Vec<Policy>) -> Cluster {
        let mut preset = Preset::shipped().remove(0);
        (preset.fragment_size, preset.policies) = (64 << 10, policies);
        Cluster::open(&self.places(), preset, 0).unwrap()
    }

    /// Out of reach, with all that is on it.
    pub(super) fn take_away(&self, path: &Path) {
        fs::rename(path, path.with_extension("away")).unwrap();
    }

    pub(super) fn bring_back(&self, path: &Path) {
        fs::rename(path.with_extension("away"), path).unwrap();
    }

    pub(super) fn take_domain_away(&self, domain: usize) {
        (0..3).for_each(|disk| self.take_away(&self.disk(domain, disk)));
    }

    pub(super) fn bring_domain_back(&self, domain: usize) {
        (0..3).for_each(|disk| self.bring_back(&self.disk(domain, disk)));
    }

    /// Files of fragments of an object, and marks: disk and path.
    pub(super) fn files(&self, object: &str) -> Vec<PathBuf> {
        let mut files = Vec::new();
        for place in self.places() {
            let folder = place.path.join(format!("{object}.obj"));
            let Ok(entries) = fs::read_dir(folder) else { continue };
            files.extend(entries.map(|entry| entry.unwrap().path()));
        }
        files.sort();
        files
    }
}

pub(super) fn content(seed: usize, len: usize) -> Vec<u8> {
    (0..len).map(|at| (at * 31 + at / 251 + seed * 97) as u8).collect()
}

pub(super) fn put(cluster: &Cluster, name: &str, bytes: &[u8]) -> crate::Result<Put> {
    cluster.put(name, &mut |sink| bytes.chunks(10_000).try_for_each(|part| sink.write(part)))
}

pub(super) fn get(cluster: &Cluster, name: &str) -> crate::Result<Vec<u8>> {
    let mut bytes = vec![0; cluster.len(name)?.expect("it is stored") as usize];
    cluster.read(name, 0, &mut bytes)?;
    Ok(bytes)
}

#[test]
fn it_is_a_backend() {
    let lab = Lab::new("backend");
    let cluster = lab.open();
    let bytes = content(1, 700_001);
    assert_eq!(put(&cluster, "log/sco/1", &bytes), Ok(Put::Created));
    assert_eq!(put(&cluster, "log/sco/1", b"other"), Ok(Put::Exists));
    assert_eq!(put(&cluster, "log/parent", b"{}"), Ok(Put::Created));
    assert_eq!(put(&cluster, "log/empty", b""), Ok(Put::Created));
    assert_eq!(cluster.len("log/sco/1"), Ok(Some(700_001)));
    assert_eq!(cluster.len("log/empty"), Ok(Some(0)));
    assert_eq!(cluster.len("log/sco/2"), Ok(None));
    assert_eq!(get(&cluster, "log/sco/1").unwrap(), bytes);
    assert_eq!(get(&cluster, "log/parent").unwrap(), b"{}");
    for (offset, len) in [(0, 1), (4095, 2), (65_535, 4097), (262_100, 70_000), (700_000, 1)] {
        let mut part = vec![0; len];
        cluster.read("log/sco/1", offset as u64, &mut part).unwrap();
        assert_eq!(part, bytes[offset..offset + len]);
    }
    let mut past = [0; 2];
    assert_eq!(cluster.read("log/sco/1", 700_000, &mut past).unwrap_err().cause, Cause::Corrupt);
    assert_eq!(cluster.read("log/sco/2", 0, &mut past).unwrap_err().cause, Cause::NotFound);
    assert_eq!(cluster.list("log/sco").unwrap(), ["1"]);
    assert_eq!(cluster.list("log").unwrap(), ["empty", "parent", "sco"]);
    assert_eq!(cluster.list("nothing").unwrap(), [""; 0]);
    cluster.delete("log/sco/1").unwrap();
    cluster.delete("log/sco/1").unwrap();
    assert_eq!(cluster.len("log/sco/1"), Ok(None));
    drop(cluster);
    let again = lab.open();
    assert_eq!(get(&again, "log/parent").unwrap(), b"{}");
    again.delete_folder("log").unwrap();
    assert_eq!(again.list("log").unwrap(), [""; 0]);
    let space = again.space().unwrap().unwrap();
    assert!(space.free > 0 && space.free <= space.total);
    // All its folders are on one disk, and of nine bytes there four are data.
    let disk = media::Dir::at(&lab.disk(0, 0)).space().unwrap();
    let data = disk.total / 9 * 4;
    assert!(space.total <= data && space.total > data - data / 100, "{space:?} of {disk:?}");
}

#[test]
fn a_put_that_fails_leaves_nothing() {
    let lab = Lab::new("fail");
    let cluster = lab.open();
    let mut fill = |sink: &mut dyn crate::Sink| {
        sink.write(b"half")?;
        Err(super::failed("read", "source", "on purpose"))
    };
    assert!(cluster.put("a/b", &mut fill).is_err());
    assert_eq!(cluster.len("a/b"), Ok(None));
    assert_eq!(lab.files("a/b"), [""; 0].map(PathBuf::from));
}

/// Any disk, any Domain, any Domain and a disk of another: everything is read, nothing is
/// mistaken for absent, and new objects are stored as long as a policy fits.
#[test]
fn promised_losses_are_survived() {
    let lab = Lab::new("losses");
    let bytes = content(2, 300_000);
    put(&lab.open(), "log/sco/1", &bytes).unwrap();
    let mut losses: Vec<Vec<(usize, usize)>> = vec![vec![]];
    for domain in 0..3 {
        losses.extend((0..3).map(|disk| vec![(domain, disk)]));
        let whole: Vec<(usize, usize)> = (0..3).map(|disk| (domain, disk)).collect();
        losses.push(whole.clone());
        for number in 0..6 {
            let other = ((domain + 1 + number / 3) % 3, number % 3);
            losses.push(whole.iter().copied().chain([other]).collect());
        }
    }
    for (number, lost) in losses.iter().enumerate() {
        let before = lab.open();
        assert_eq!(get(&before, "log/sco/1").unwrap(), bytes);
        for (domain, disk) in lost {
            lab.take_away(&lab.disk(*domain, *disk));
        }
        assert_eq!(get(&before, "log/sco/1").unwrap(), bytes, "without {lost:?}, known place");
        before.forget("log/sco/1");
        assert_eq!(get(&before, "log/sco/1").unwrap(), bytes, "without {lost:?}");
        if lost.len() <= 3 {
            assert_eq!(before.list("log/sco").unwrap(), ["1"]);
            // With a Domain away c fragments cannot be had: it is not acknowledged once more.
            let again = put(&before, "log/sco/1", b"other");
            assert_eq!(again == Ok(Put::Exists), lost.len() < 3, "without {lost:?}: {again:?}");
            let name = format!("new/{number}");
            assert_eq!(put(&before, &name, &bytes), Ok(Put::Created), "without {lost:?}");
            assert_eq!(get(&before, &name).unwrap(), bytes);
        }
        drop(before);
        lost.iter().for_each(|(domain, disk)| lab.bring_back(&lab.disk(*domain, *disk)));
    }
}

/// The process is killed after any number of fragments were stored, in any order of OSDs; then the
/// object is put again with other content, which is cut off as well or not.
#[test]
fn a_put_that_was_cut_off_is_no_object() {
    let lab = Lab::new("cut");
    let (first, second) = (content(3, 50_000), content(4, 50_000));
    let cluster = lab.open();
    put(&cluster, "a/b", &first).unwrap();
    let files: Vec<(PathBuf, Vec<u8>)> =
        lab.files("a/b").into_iter().map(|file| (file.clone(), fs::read(file).unwrap())).collect();
    assert_eq!(files.len(), 9);
    for kept in 0..1u32 << 9 {
        cluster.delete("a/b").unwrap();
        for (number, (path, bytes)) in files.iter().enumerate() {
            if kept & 1 << number != 0 {
                fs::create_dir_all(path.parent().unwrap()).unwrap();
                fs::write(path, bytes).unwrap();
            }
        }
        let listed = cluster.list("a").unwrap();
        let again = put(&cluster, "a/b", &second).unwrap();
        let stored = get(&cluster, "a/b").unwrap();
        if listed.is_empty() {
            assert_eq!((again, &stored), (Put::Created, &second), "{kept:b}");
        } else {
            assert_eq!((again, &stored), (Put::Exists, &first), "{kept:b}");
        }
        cluster.collect("a/b", u64::MAX).unwrap();
        let names = lab.files("a/b");
        let name = |file: &PathBuf| file.file_name().unwrap().to_string_lossy().into_owned();
        let parsed = names.iter().map(|file| FragmentName::parse(&name(file)).unwrap());
        let mut generations: Vec<u64> = parsed.map(|name| name.generation).collect();
        generations.dedup();
        assert_eq!(generations.len(), 1, "no leftover stays: {kept:b}");
        assert!(names.len() >= 5);
    }
}

#[test]
fn leftovers_are_swept_and_objects_are_not() {
    let lab = Lab::new("sweep");
    let cluster = lab.open();
    put(&cluster, "a/whole", b"whole").unwrap();
    put(&cluster, "a/part", b"part").unwrap();
    lab.files("a/part").iter().skip(2).for_each(|file| fs::remove_file(file).unwrap());
    cluster.forget("a/part");
    cluster.sweep("a").unwrap();
    assert_eq!(lab.files("a/part").len(), 0);
    assert_eq!(lab.files("a/whole").len(), 9);
}

#[test]
fn damage_is_noticed_and_computed_away() {
    let lab = Lab::new("damage");
    let bytes = content(5, 100_000);
    let cluster = lab.open();
    put(&cluster, "a", &bytes).unwrap();
    for file in lab.files("a") {
        let sound = fs::read(&file).unwrap();
        for at in (0..sound.len()).step_by(1777) {
            let mut damaged = sound.clone();
            damaged[at] ^= 1;
            fs::write(&file, &damaged).unwrap();
            cluster.distrust("a");
            assert_eq!(get(&cluster, "a").unwrap(), bytes, "byte {at} of {}", file.display());
        }
        fs::write(&file, &sound).unwrap();
    }
}

#[test]
fn a_foreign_or_emptied_folder_is_not_used() {
    let lab = Lab::new("foreign");
    drop(lab.open());
    let disk = lab.disk(1, 1);
    let own = read_claim(&disk).unwrap().unwrap();
    let foreign = Claim { cluster: random_id().unwrap(), ..own.clone() };
    let error = FolderOsd::claim(&disk, &foreign).unwrap_err().to_string();
    assert!(error.contains("another cluster"), "{error}");
    assert_eq!(FolderOsd::claim(&disk, &own).unwrap(), own, "claiming again is harmless");

    fs::remove_dir_all(&disk).unwrap();
    fs::create_dir_all(&disk).unwrap();
    let cluster = lab.open();
    assert_eq!(cluster.missing().len(), 1);
    assert!(cluster.missing()[0].1.to_string().contains("nobody has claimed it"));
    put(&cluster, "a", &content(6, 9000)).unwrap();
    assert_eq!(fs::read_dir(&disk).unwrap().count(), 0);
    drop(cluster);

    FolderOsd::claim(&disk, &foreign).unwrap();
    let preset = Preset::shipped().remove(0);
    let error = Cluster::open(&lab.places(), preset, 0).unwrap_err().to_string();
    assert!(error.contains("belong to different clusters"), "{error}");
}

#[test]
fn a_folder_of_a_cache_gets_no_objects() {
    let lab = Lab::new("cache");
    drop(lab.open());
    let disk = lab.disk(1, 1);
    let claim = Claim { role: Role::Cache, ..read_claim(&disk).unwrap().unwrap() };
    let error = FolderOsd::claim(&disk, &claim).unwrap_err().to_string();
    assert!(error.contains("it was claimed for the role capacity"), "{error}");
    fs::remove_dir_all(&disk).unwrap();
    FolderOsd::claim(&disk, &claim).unwrap();
    let error = Cluster::open(&lab.places(), Preset::shipped().remove(0), 0).unwrap_err();
    assert!(error.to_string().contains("was claimed for a cache"), "{error}");
}

#[test]
fn an_osd_is_used_by_one_process() {
    let lab = Lab::new("lock");
    let _first = lab.open();
    let error = Cluster::open(&lab.places(), Preset::shipped().remove(0), 0).unwrap_err();
    assert!(error.to_string().contains("another process"), "{error}");
}

#[test]
fn with_too_many_disks_away_nothing_is_taken_for_absent() {
    let lab = Lab::new("unknown");
    let cluster = lab.open();
    put(&cluster, "log/sco/1", b"here").unwrap();
    for number in [0, 1, 3, 4, 6, 7] {
        lab.take_away(&lab.disk(number / 3, number % 3));
    }
    cluster.forget("log/sco/1");
    for error in [
        cluster.list("log/sco").unwrap_err(),
        cluster.len("log/sco/1").unwrap_err(),
        put(&cluster, "log/sco/1", b"other").unwrap_err(),
        put(&cluster, "log/sco/2", b"other").unwrap_err(),
    ] {
        assert!(error.to_string().contains("out of reach"), "{error}");
    }
    for number in [0, 1, 3, 4, 6, 7] {
        lab.bring_back(&lab.disk(number / 3, number % 3));
    }
    assert_eq!(get(&cluster, "log/sco/1").unwrap(), b"here");
}

#[test]
fn a_replaced_disk_is_refilled_without_a_byte_from_another_domain() {
    let lab = Lab::new("repair");
    let bytes = content(7, 600_000);
    let cluster = lab.open();
    for name in ["x/sco/1", "x/sco/2", "x/parent"] {
        put(&cluster, name, &bytes).unwrap();
    }
    drop(cluster);
    let before = lab.files("x/sco/1").len();
    let disk = lab.disk(2, 0);
    let claim = read_claim(&disk).unwrap().unwrap();
    fs::remove_dir_all(&disk).unwrap();
    FolderOsd::claim(&disk, &Claim { osd: random_id().unwrap(), ..claim }).unwrap();

    let cluster = lab.open();
    assert!(lab.files("x/sco/1").len() < before);
    let done = cluster.repair().unwrap();
    assert_eq!((done.objects, done.mended.unplaced, done.lost), (3, 0, 0));
    assert!(done.mended.fragments >= 3 && done.mended.between_domains == 0, "{done:?}");
    assert_eq!(lab.files("x/sco/1").len(), before);
    assert_eq!(cluster.repair().unwrap().mended.fragments, 0, "nothing is left to do");

    // The Domain that was lost comes back from the others.
    (0..3).for_each(|disk| lab.take_away(&lab.disk(1, disk)));
    assert_eq!(get(&cluster, "x/sco/2").unwrap(), bytes);
}
