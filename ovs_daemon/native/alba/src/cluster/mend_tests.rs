//! Mending while objects are deleted, and what cut-off puts leave.

use std::fs;

use format::crc32c;
use format::fragment::{crc32, payload_crcs};
use format::osd::Claim;
use machines::alba::{Layout, Policy};

use super::tests::{Lab, content, get, put};
use super::{Terms, random_id};
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
    let mut done = super::Mended::default();
    cluster.store_mended("a", &found, 0, &targets, payloads, &mut done);
    assert_eq!(done.fragments, 0);
    assert_eq!(lab.files("a"), Vec::<std::path::PathBuf>::new());
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

/// A disk came back after what it has was computed again elsewhere, and another one is lost.
#[test]
fn no_fragment_goes_beside_the_second_copy_of_another() {
    let lab = Lab::sized("beside", 1, 5);
    let policy = Policy::new(Layout::new(2, 1, 1, 0).unwrap(), 3, 1).unwrap();
    let cluster = lab.open_with(vec![policy]);
    put(&cluster, "a", &content(1, 10_000)).unwrap();
    let found = cluster.find("a").unwrap().unwrap();
    let has = |disk: usize| {
        fs::read_dir(lab.disk(0, disk).join("a.obj")).map_or(0, |files| files.flatten().count())
    };
    let mut free = (0..5).filter(|disk| has(*disk) == 0);
    let (second, last) = (free.next().unwrap(), free.next().unwrap());
    lab.take_away(&lab.disk(0, last));
    let file = format!("a.obj/{}", found.name(0, 0));
    let first = lab.disk(0, found.osd(0, 0).unwrap());
    fs::create_dir_all(lab.disk(0, second).join("a.obj")).unwrap();
    fs::copy(first.join(&file), lab.disk(0, second).join(&file)).unwrap();
    lab.take_away(&lab.disk(0, found.osd(0, 2).unwrap()));

    let mend = || cluster.mend("a", &Terms::default(), &mut |_| true).unwrap();
    let done = mend();
    assert_eq!((done.fragments, done.unplaced), (0, 1));
    assert_eq!(has(second), 1);
    // On a disk that has nothing of it there is a place.
    lab.bring_back(&lab.disk(0, last));
    let done = mend();
    assert_eq!((done.fragments, done.unplaced), (1, 0));
    assert_eq!((has(second), has(last)), (1, 1));
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
