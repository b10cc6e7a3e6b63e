//! Mending while objects are deleted, and what cut-off puts leave.

use std::fs;
use std::path::{Path, PathBuf};

use format::crc32c;
use format::fragment::{crc32, payload_crcs};
use format::osd::Claim;
use format::osd::wire::Class;
use machines::alba::{Layout, Policy};

use super::faulty::{self, Faulty};
use super::tests::{Lab, content, get, put};
use super::views_tests::view;
use super::{Cluster, Mended, Survey, Terms, random_id};
use crate::Backend;
use crate::folder::{FolderOsd, read_claim};
use crate::pieces::Fragment;

fn replace(lab: &Lab, domain: usize, disk: usize) {
    let disk = lab.disk(domain, disk);
    let claim = read_claim(&disk).unwrap().unwrap();
    fs::remove_dir_all(&disk).unwrap();
    FolderOsd::claim(&disk, &Claim { osd: random_id().unwrap(), ..claim }).unwrap();
}

#[test]
fn what_is_deleted_while_it_is_mended_stays_deleted() {
    let lab = Lab::new("race");
    let names: Vec<String> = (0..12).map(|number| format!("x/sco/{number}")).collect();
    let cluster = lab.open();
    for name in &names {
        put(&cluster, name, &content(3, 300_000)).unwrap();
    }
    drop(cluster);
    replace(&lab, 1, 1);
    let cluster = lab.open();
    std::thread::scope(|scope| {
        scope.spawn(|| {
            for name in &names {
                // It may be gone meanwhile; then there is nothing to be read of it any more.
                let _ = cluster.mend(name, &Terms::default(), &mut |_| true);
            }
        });
        scope.spawn(|| names.iter().rev().for_each(|name| cluster.delete(name).unwrap()));
    });
    for name in &names {
        assert_eq!(lab.files(name), Vec::<std::path::PathBuf>::new());
        assert_eq!(cluster.len(name), Ok(None));
    }
}

#[test]
fn a_mender_sees_that_an_object_goes_and_takes_back_what_it_stored() {
    let lab = Lab::new("gone");
    let cluster = lab.open();
    put(&cluster, "a", &content(1, 100_000)).unwrap();
    let found = cluster.find("a").unwrap().unwrap();
    cluster.delete("a").unwrap();
    // As one that looked before the delete, and stores after it.
    let targets = [(0, found.osd(0, 0).unwrap())].into();
    let payloads = [(0, vec![0; found.cut.fragment_len() as usize])].into();
    let mut done = Mended::default();
    cluster.store_mended("a", &found, (0, Class::Upkeep), &targets, payloads, &mut done);
    assert_eq!(done.fragments, 0);
    assert_eq!(lab.files("a"), Vec::<std::path::PathBuf>::new());
}

fn payload(file: &Path) -> Vec<u8> {
    Fragment::decode(&fs::read(file).unwrap()).unwrap().payload.to_vec()
}

/// As one whose computed fragments are on their way while somebody else moves them to the same disks, and
/// deletes the old copies: there is no other.
#[test]
fn what_somebody_else_has_moved_there_is_not_taken_back_by_one_whose_put_failed() {
    for faulty in [Faulty::always, Faulty::unanswered] {
        let four = House::new("not-ours", 4);
        let found = four.cluster.find("a").unwrap().unwrap();
        let to = (0..4).find(|disk| four.has(*disk) == 0).unwrap();
        let [old, new] = four.copy(0, to);
        fs::remove_file(old).unwrap();
        let odd = |(number, osd)| if number == to { faulty(osd, faulty::puts) } else { osd };
        let osds = four.cluster.osds().into_iter().enumerate().map(odd).collect();
        let mender = view(&four.cluster, osds);
        let payload = payload(&new);
        let mut done = Mended::default();
        let (targets, payloads) = ([(0, to)].into(), [(0, payload)].into());
        mender.store_mended("a", &found, (0, Class::Upkeep), &targets, payloads, &mut done);
        assert_eq!((done.fragments, done.existed, done.unplaced), (0, 0, 1));
        assert!(new.exists(), "the last copy");
        assert_eq!(get(&mender, "a").unwrap(), content(1, 10_000));
        assert_eq!(four.survey().missing, 0);
    }
}

/// A put is done and nobody hears of it.
#[test]
fn what_is_left_of_a_put_that_was_not_answered_is_cleared_up() {
    let five = House::new("unanswered", 5);
    let free: Vec<usize> = (0..5).filter(|disk| five.has(*disk) == 0).collect();
    let odd = |osd| Faulty::unanswered(osd, faulty::puts);
    let mender = view(&five.cluster, five.cluster.osds().into_iter().map(odd).collect());
    let found = five.cluster.find("a").unwrap().unwrap();
    let both = [0, 1].map(|one| {
        let disk = five.lab.disk(0, found.osd(0, one).unwrap());
        (one, payload(&disk.join(format!("a.obj/{}", found.name(0, one)))))
    });
    let store = || {
        let mut done = Mended::default();
        let (targets, payloads) = ([(0, free[0]), (1, free[1])].into(), both.clone().into());
        mender.store_mended("a", &found, (0, Class::Upkeep), &targets, payloads, &mut done);
        assert_eq!((done.fragments, done.existed, done.unplaced), (0, 0, 2));
        // Of those that may come when the object is deleted there are never more.
        assert_eq!((five.has(free[0]), five.has(free[1])), (1, 0));
        five.cluster.distrust("a");
    };
    // Beside another copy, of which it is one more.
    store();
    assert_eq!(five.survey().doubled, ["a"]);
    five.trim();
    assert_eq!(five.survey().doubled, [""; 0]);
    assert_eq!(get(&five.cluster, "a").unwrap(), content(1, 10_000));

    five.cluster.delete("a").unwrap();
    store();
    let survey = five.survey();
    assert_eq!((survey.objects, &survey.partial[..]), (0, &["a".to_owned()][..]));
    assert_eq!(five.cluster.collect("a", found.seen.generation), Ok(0), "not yet");
    assert_eq!(five.cluster.collect("a", u64::MAX), Ok(1));
    assert_eq!(five.has(free[0]), 0);
}

#[test]
fn who_reads_what_is_mended_does_not_have_to_look_for_it() {
    let lab = Lab::new("known");
    put(&lab.open(), "x/sco/1", &content(1, 300_000)).unwrap();
    replace(&lab, 1, 1);
    let cluster = lab.open();
    let known = || super::lock(&cluster.found).get("x/sco/1").cloned();
    cluster.scrub("x/sco/1", &Terms::default(), &mut |_| true).unwrap();
    assert!(known().is_none(), "nobody reads it");
    assert_eq!(get(&cluster, "x/sco/1").unwrap(), content(1, 300_000));
    let is_whole = || known().is_some_and(|found| found.present(0) == found.layout.all());
    assert!(known().is_some() && !is_whole());
    let mut on = |_| {
        assert!(known().is_some());
        true
    };
    cluster.scrub("x/sco/1", &Terms::default(), &mut on).unwrap();
    assert_eq!(cluster.mend("x/sco/1", &Terms::default(), &mut on).unwrap().fragments, 1);
    assert!(is_whole(), "where it is by now");
    cluster.delete("x/sco/1").unwrap();
    assert!(known().is_none());
}

#[test]
fn fragments_of_puts_that_were_cut_off_go_when_they_are_old() {
    let lab = Lab::new("partial");
    let cluster = lab.open();
    put(&cluster, "x/sco/1", &content(1, 1000)).unwrap();
    put(&cluster, "x/sco/2", &content(2, 1000)).unwrap();
    let generation = cluster.find("x/sco/1").unwrap().unwrap().seen.generation;
    lab.files("x/sco/1").iter().skip(2).for_each(|file| fs::remove_file(file).unwrap());
    cluster.forget("x/sco/1");
    let survey = cluster.survey(&Terms::default(), &mut |_| true).unwrap();
    assert_eq!((survey.objects, &survey.partial[..]), (1, &["x/sco/1".to_owned()][..]));
    assert_eq!(cluster.collect("x/sco/1", generation).unwrap(), 0, "it may be under way");
    assert_eq!(cluster.collect("x/sco/2", u64::MAX).unwrap(), 0, "it is stored");
    assert_eq!(cluster.collect("x/sco/1", generation + 1).unwrap(), 2);
    assert_eq!(lab.files("x/sco/1").len(), 0);
    assert_eq!(get(&cluster, "x/sco/2").unwrap(), content(2, 1000));
}

/// A Domain of some disks, and a put on three of them.
struct House {
    lab: Lab,
    disks: usize,
    cluster: Cluster,
}

impl House {
    fn new(name: &str, disks: usize) -> Self {
        let lab = Lab::sized(name, 1, disks);
        let policy = Policy::new(Layout::new(2, 1, 1, 0).unwrap(), 3, 1).unwrap();
        let cluster = lab.open_with(vec![policy]);
        put(&cluster, "a", &content(1, 10_000)).unwrap();
        Self { lab, disks, cluster }
    }

    /// How many fragments a disk has.
    fn has(&self, disk: usize) -> usize {
        let folder = self.lab.disk(0, disk).join("a.obj");
        fs::read_dir(folder).map_or(0, |files| files.flatten().count())
    }

    /// Copies a fragment from one disk to another, and where it is then.
    fn copy(&self, fragment: usize, to: usize) -> [PathBuf; 2] {
        let found = self.cluster.find("a").unwrap().unwrap();
        let file = format!("a.obj/{}", found.name(0, fragment));
        let on = |disk: usize| self.lab.disk(0, disk).join(&file);
        let both = [on(found.osd(0, fragment).unwrap()), on(to)];
        fs::create_dir_all(both[1].parent().unwrap()).unwrap();
        fs::copy(&both[0], &both[1]).unwrap();
        self.cluster.distrust("a");
        both
    }

    fn mend(&self) -> (u64, u64) {
        let done = self.cluster.mend("a", &Terms::default(), &mut |_| true).unwrap();
        (done.fragments, done.unplaced)
    }

    /// Clears up what is there twice, as after ten minutes.
    fn trim(&self) -> u64 {
        let doubles = self.cluster.doubles("a");
        self.cluster.trim("a", &Terms::default(), &doubles, &mut |_| true).unwrap()
    }

    fn survey(&self) -> Survey {
        self.cluster.survey(&Terms::default(), &mut |_| true).unwrap()
    }
}

/// A disk came back after what it has was computed again elsewhere, or a mover was killed; another
/// one is lost.
#[test]
fn a_fragment_goes_beside_the_copy_of_another_that_goes_if_no_other_disk_is_left() {
    let five = House::new("beside", 5);
    let found = five.cluster.find("a").unwrap().unwrap();
    let mut free = (0..5).filter(|disk| five.has(*disk) == 0);
    let (second, last) = (free.next().unwrap(), free.next().unwrap());
    let first = found.osd(0, 0).unwrap();
    five.copy(0, second);
    let lost = five.lab.disk(0, found.osd(0, 2).unwrap());
    five.lab.take_away(&lost);
    // On a disk that has nothing of it there is a place.
    assert_eq!(five.mend(), (1, 0));
    assert_eq!((five.has(first), five.has(second), five.has(last)), (1, 1, 1));
    five.lab.take_away(&five.lab.disk(0, last));
    five.cluster.distrust("a");
    assert_eq!(five.mend(), (1, 0), "it does not wait until the copies are cleared up");
    assert_eq!(five.has(first) + five.has(second), 3);
    assert_eq!(five.survey().by_safety, [(1, 1)].into());
    assert_eq!(five.trim(), 1);
    assert_eq!((five.has(first), five.has(second)), (1, 1));
    let survey = five.survey();
    assert_eq!((survey.by_safety, survey.to_mend), ([(1, 1)].into(), 0));
    assert_eq!(get(&five.cluster, "a").unwrap(), content(1, 10_000));
}

/// As releases left it that mended fragments beside copies of others.
#[test]
fn fragments_that_share_a_disk_count_as_unsafe_and_are_taken_apart() {
    let five = House::new("together", 5);
    assert_eq!((five.survey().by_safety, five.mend()), ([(1, 1)].into(), (0, 0)));
    let found = five.cluster.find("a").unwrap().unwrap();
    let shared = found.osd(0, 0).unwrap();
    let [old, _] = five.copy(1, shared);
    fs::remove_file(old).unwrap();
    five.cluster.distrust("a");
    let survey = five.survey();
    assert_eq!((survey.by_safety, survey.missing), ([(0, 1)].into(), 0));
    assert_eq!((survey.to_mend, survey.todo), (1, vec![(0, "a".to_owned())]));

    assert_eq!(five.mend(), (1, 0));
    let survey = five.survey();
    assert_eq!((survey.by_safety, survey.to_mend), ([(1, 1)].into(), 0));
    assert_eq!((five.has(shared), survey.doubled.len()), (2, 1));
    assert_eq!(five.mend(), (0, 0), "nothing is left to be mended");
    // The copy on the shared disk goes where the other one comes later in its order.
    let trimmed = five.trim();
    assert_eq!(five.has(shared), 2 - trimmed as usize);
    assert_eq!(get(&five.cluster, "a").unwrap(), content(1, 10_000));

    // No disk is left: they stay, and that is told.
    let three = House::new("no-place", 3);
    let found = three.cluster.find("a").unwrap().unwrap();
    let [old, _] = three.copy(1, found.osd(0, 0).unwrap());
    fs::remove_file(old).unwrap();
    let empty = (0..three.disks).find(|disk| three.has(*disk) == 0).unwrap();
    three.lab.take_away(&three.lab.disk(0, empty));
    three.cluster.distrust("a");
    assert_eq!(three.mend(), (0, 1));
    assert_eq!(three.survey().to_mend, 1);
}

/// A fragment that was computed wrongly, say by a host with bad memory: its checksums are right.
fn falsify(bytes: &[u8]) -> Vec<u8> {
    let mut fragment = Fragment::decode(bytes).unwrap();
    let mut payload = fragment.payload.to_vec();
    payload[9] ^= 1;
    fragment.payload = payload.into();
    fragment.crcs = payload_crcs(&fragment.payload);
    fragment.header.crcs_crc = crc32c(&fragment.crcs);
    fragment.header.erasure.crc = crc32(&fragment.payload);
    fragment.encode()
}

#[test]
fn a_scrub_puts_nothing_wrong_in_the_place_of_what_is_damaged() {
    let lab = Lab::new("falsified");
    let cluster = lab.open();
    put(&cluster, "a", &content(1, 200_000)).unwrap();
    let found = cluster.find("a").unwrap().unwrap();
    // Both are of the group of Domain 0, by which each is computed.
    let [source, damaged] = [0, found.layout.domains()].map(|one| {
        let name = found.name(0, one).to_string();
        lab.files("a").into_iter().find(|file| file.ends_with(&name)).unwrap()
    });
    let (right, whole) = (fs::read(&source).unwrap(), fs::read(&damaged).unwrap());
    let mut flipped = whole.clone();
    flipped[5000] ^= 1;
    fs::write(&damaged, &flipped).unwrap();
    fs::write(&source, falsify(&right)).unwrap();
    cluster.distrust("a");
    let scrub = || cluster.scrub("a", &Terms::default(), &mut |_| true);
    let error = scrub().unwrap_err().to_string();
    assert!(error.contains("not what was stored"), "{error}");
    assert_eq!(fs::read(&damaged).unwrap(), flipped, "it is left as it is");

    fs::write(&source, &right).unwrap();
    cluster.distrust("a");
    assert_eq!(scrub().unwrap().damaged, 1);
    assert_eq!(fs::read(&damaged).unwrap(), whole);
}
