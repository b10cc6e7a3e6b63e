//! Mending over real servers: 3 Domains of 4 nodes with two disks each; what crosses the sockets is
//! counted.

use std::collections::BTreeSet;
use std::fs;

use alba::Cluster;
use alba::cluster::{Mended, Survey, Terms};
use alba::osd::disk_id;
use format::osd::wire::Class;

use crate::tests::{Lab, content, get, put};

const FRAGMENT: u64 = 64 << 10;
const OBJECTS: usize = 3;
const BYTES: usize = 1_100_000;

fn filled(name: &str) -> Lab {
    let lab = Lab::of(name, 4, 2);
    let cluster = lab.open();
    for number in 0..OBJECTS {
        put(&cluster, &format!("x/sco/{number}"), &content(number, BYTES)).unwrap();
    }
    lab
}

fn verified(cluster: &Cluster) {
    for number in 0..OBJECTS {
        let name = format!("x/sco/{number}");
        assert_eq!(get(cluster, &name).unwrap(), content(number, BYTES), "{name}");
    }
}

fn terms(domain: usize) -> Terms {
    let domains = Some(BTreeSet::from([format!("dc{domain}")]));
    Terms { domains, class: Class::Upkeep, ..Terms::default() }
}

fn survey(cluster: &Cluster, terms: &Terms) -> Survey {
    cluster.survey(terms, &mut |_| true).unwrap()
}

fn mend(cluster: &Cluster, terms: &Terms) -> Mended {
    let mut done = Mended::default();
    for (_, name) in survey(cluster, terms).todo {
        done.add(cluster.mend(&name, terms, &mut |_| true).unwrap());
    }
    done
}

/// Bytes that went over the sockets between a Domain's client and the servers of other Domains: of
/// fragments, and of all that is said about them.
fn between(cluster: &Cluster, domain: usize) -> (u64, u64) {
    let osds = cluster.osds();
    let others = osds.iter().filter(|osd| osd.claim().domain != format!("dc{domain}"));
    others.map(|osd| osd.traffic()).fold((0, 0), |(fragments, all), one| {
        (fragments + one.fragments, all + one.sent + one.received)
    })
}

/// Every Domain mends its own; what was done, and what went between Domains.
fn all_mend(lab: &Lab) -> (Mended, u64, u64) {
    let (mut total, mut fragments, mut all) = (Mended::default(), 0, 0);
    for domain in 0..3 {
        let cluster = lab.open();
        let done = mend(&cluster, &terms(domain));
        let moved: u64 = cluster.osds().iter().map(|osd| osd.traffic().fragments).sum();
        assert!(moved >= done.bytes, "{done:?}: its bytes went over sockets");
        let bytes = between(&cluster, domain);
        (fragments, all) = (fragments + bytes.0, all + bytes.1);
        total.add(done);
    }
    (total, fragments, all)
}

/// The safety of the objects, which all have the same.
fn safety(lab: &Lab) -> usize {
    let survey = survey(&lab.open(), &Terms::default());
    assert_eq!((survey.objects, survey.unknown), (OBJECTS as u64, 0));
    assert_eq!(survey.by_safety.len(), 1, "{survey:?}");
    survey.by_safety.into_keys().next().unwrap()
}

fn lose(lab: &mut Lab, disk: usize) {
    lab.stop(disk);
    fs::remove_dir_all(lab.folder(disk)).unwrap();
}

/// The two disks of a node of dc1 that have most fragments of an object.
fn node_in_use(lab: &Lab) -> [usize; 2] {
    let used = |disk: &usize| fs::read_dir(lab.folder(*disk).join("x/sco/0.obj")).is_ok();
    let node =
        (4..8).max_by_key(|node| [2 * node, 2 * node + 1].iter().filter(|d| used(d)).count());
    let node = node.unwrap();
    [2 * node, 2 * node + 1]
}

#[test]
fn a_lost_disk_and_a_lost_node_are_mended_inside_their_domain() {
    let mut lab = filled("mend");
    let whole = safety(&lab);
    for lost in [vec![0], node_in_use(&lab).to_vec()] {
        lost.iter().for_each(|disk| lose(&mut lab, *disk));
        let (done, fragments, all) = all_mend(&lab);
        assert!(done.fragments > 0, "{done:?}");
        assert_eq!((done.unplaced, done.between_domains), (0, 0), "{done:?}");
        assert_eq!(fragments, 0, "bytes of fragments between Domains, at the sockets");
        // To know that an object is there, and is not being deleted, others are asked for names.
        assert!(all > 0 && done.bytes > 20 * FRAGMENT, "{all} {done:?}");
        assert_eq!(safety(&lab), whole, "it is as safe as before");
        verified(&lab.open());
    }
    let cluster = lab.open();
    assert_eq!(mend(&cluster, &Terms::default()), Mended::default(), "nothing is left to do");
}

#[test]
fn safety_falls_with_each_disk_and_a_cut_off_mender_is_carried_on() {
    let mut lab = filled("steps");
    let whole = safety(&lab);
    node_in_use(&lab).iter().for_each(|disk| lose(&mut lab, *disk));
    let cluster = lab.open();
    let before = survey(&cluster, &terms(1));
    assert!(before.by_safety.keys().all(|safety| *safety < whole), "{before:?}");
    assert!(before.todo.is_sorted() && before.todo.len() == OBJECTS, "worst first");
    let mut missing = before.missing;
    let mut turns = 0;
    while missing > 0 {
        // It stops after a piece of an object, as one that was killed, and others go on.
        let other = lab.open();
        let todo = survey(&other, &terms(1)).todo;
        let mut spent = 0;
        let mut spend = |_| {
            spent += 1;
            // What is read of a piece, and then what is stored.
            spent < 2
        };
        let done = other.mend(&todo[0].1, &terms(1), &mut spend).unwrap();
        assert!(done.fragments > 0, "{done:?}");
        let now = survey(&cluster, &terms(1)).missing;
        assert_eq!(missing - now, done.fragments, "what was stored counts, nothing else");
        missing = now;
        turns += 1;
    }
    assert!(turns > OBJECTS, "{turns}");
    assert_eq!(safety(&lab), whole);
}

#[test]
fn who_may_come_back_is_waited_for_and_who_leaves_is_emptied() {
    let mut lab = filled("leave");
    let whole = safety(&lab);
    let [first, second] = node_in_use(&lab);
    let leaving = disk_id(&[first as u8 + 1; 16]);
    let terms = Terms { leaving: BTreeSet::from([leaving]), ..terms(1) };
    let cluster = lab.open();
    let done = mend(&cluster, &terms);
    assert!(done.fragments > 0 && done.between_domains == 0, "{done:?}");
    assert_eq!(mend(&cluster, &terms).fragments, 0, "moved once");
    lose(&mut lab, first);
    assert_eq!(safety(&lab), whole, "nobody needs what was on it");

    lose(&mut lab, second);
    let mut patient = Terms { waiting: [("dc1".to_owned(), 2)].into(), ..Terms::default() };
    let cluster = lab.open();
    assert_eq!(mend(&cluster, &patient).fragments, 0);
    patient.waiting.clear();
    assert!(mend(&cluster, &patient).fragments > 0);
}

#[test]
fn a_domain_that_is_lost_for_good_is_not_mended_elsewhere_than_in_a_domain_of_its_own() {
    let mut lab = filled("domain");
    (0..8).for_each(|disk| lose(&mut lab, disk));
    let (done, ..) = all_mend(&lab);
    assert_eq!(done.fragments, 0, "two groups in a Domain would be lost together: {done:?}");
    assert!(done.unplaced > 0);
    verified(&lab.open());
}

#[test]
fn flipped_bits_are_found_and_computed_away_before_they_are_deleted() {
    let lab = filled("scrub");
    let cluster = lab.open();
    let mut damaged = 0;
    let mut sound = Vec::new();
    for (number, file) in lab.files("x/sco/1").into_iter().enumerate().filter(|(n, _)| n % 7 == 0) {
        let bytes = fs::read(&file).unwrap();
        let mut flipped = bytes.clone();
        let at = [10, 4096 + 700, bytes.len() - 1][number / 7 % 3];
        flipped[at] ^= 4;
        fs::write(&file, &flipped).unwrap();
        sound.push((file, bytes));
        damaged += 1;
    }
    let mut done = Mended::default();
    for domain in 0..3 {
        done.add(cluster.scrub("x/sco/1", &terms(domain), &mut |_| true).unwrap());
    }
    assert_eq!((done.damaged, done.fragments), (damaged, damaged), "{done:?}");
    for (file, bytes) in sound {
        assert!(fs::read(&file).unwrap() == bytes, "{} is as it was put", file.display());
    }
    let again = cluster.scrub("x/sco/1", &Terms::default(), &mut |_| true).unwrap();
    assert_eq!(again.damaged, 0);
    verified(&cluster);
}
