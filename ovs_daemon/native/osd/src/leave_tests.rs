//! OSDs leave a cluster over real servers: 3 Domains of 4 nodes with one disk each.

use std::collections::BTreeSet;

use alba::cluster::{Survey, Terms};
use alba::{Backend, Cluster, Put};
use machines::alba::{Proof, Standing, next_standing};

use crate::tests::{Lab, content, get, put};

const OBJECTS: usize = 6;
const BYTES: usize = 200_000;

fn filled(name: &str) -> (Lab, Cluster) {
    let lab = Lab::of(name, 4, 1);
    let cluster = lab.open();
    for number in 0..OBJECTS {
        put(&cluster, &format!("x/sco/{number}"), &content(number, BYTES)).unwrap();
    }
    (lab, cluster)
}

fn survey(cluster: &Cluster) -> Survey {
    cluster.survey(&terms(cluster), &mut |_| true).unwrap()
}

fn terms(cluster: &Cluster) -> Terms {
    let emptied = cluster.parting().into_iter().filter(|(_, one)| one.is_emptied());
    Terms { leaving: emptied.map(|(osd, _)| osd.id()).collect(), ..Terms::default() }
}

/// Everything is mended; how many fragments that took.
fn mend(cluster: &Cluster) -> u64 {
    let terms = terms(cluster);
    let todo = survey(cluster).todo;
    todo.iter().map(|(_, name)| cluster.mend(name, &terms, &mut |_| true).unwrap().fragments).sum()
}

fn alone(cluster: &Cluster, osd: [u8; 16]) -> u64 {
    cluster.alone_on(&osd, &mut || true).unwrap().unwrap()
}

/// As an engine does it, which the registry lets change how the OSD stands.
fn advance(lab: &mut Lab, cluster: &Cluster, disk: usize, proof: &Proof) -> Option<Standing> {
    let next = next_standing(lab.standings[&disk], proof)?;
    lab.standings.insert(disk, next);
    cluster.set_servers(&lab.places()).unwrap();
    Some(next)
}

fn stand(lab: &mut Lab, cluster: &Cluster, disk: usize, standing: Standing) {
    lab.standings.insert(disk, standing);
    cluster.set_servers(&lab.places()).unwrap();
}

fn verified(cluster: &Cluster, numbers: impl IntoIterator<Item = usize>) {
    for number in numbers {
        let name = format!("x/sco/{number}");
        assert_eq!(get(cluster, &name).unwrap(), content(number, BYTES), "{name}");
    }
}

/// The disk of dc1 that has most fragments.
fn fullest(lab: &Lab) -> usize {
    let of = |disk: usize| {
        let there = |n: &usize| lab.folder(disk).join(format!("x/sco/{n}.obj")).exists();
        (0..OBJECTS).filter(there).count()
    };
    (4..8).max_by_key(|disk| of(*disk)).unwrap()
}

#[test]
fn an_osd_is_emptied_sealed_and_removed_and_not_believed_when_it_is_back() {
    let (mut lab, cluster) = filled("leave");
    let whole = survey(&cluster);
    let disk = fullest(&lab);
    let osd = lab.osd(disk);
    let unaware = lab.open();
    stand(&mut lab, &cluster, disk, Standing::Leaving);
    put(&cluster, "x/new", b"new").unwrap();
    assert!(!lab.folder(disk).join("x/new.obj").exists(), "it gets nothing new");
    let before = alone(&cluster, osd);
    assert!(before > 0);
    let proof = Proof { alone: before, after: true, ..Proof::default() };
    assert_eq!(next_standing(Standing::Leaving, &proof), None);
    assert_eq!(mend(&cluster), before, "each is moved once");
    assert_eq!(alone(&cluster, osd), 0);
    assert_eq!(advance(&mut lab, &cluster, disk, &Proof::default()), Some(Standing::Sealed));

    cluster.seal(&osd).unwrap();
    cluster.seal(&osd).unwrap();
    lab.stop(disk);
    lab.restart(disk);
    // Whoever has not heard of it stores nothing there, also when its server was started again.
    for number in 0..OBJECTS {
        put(&unaware, &format!("y/{number}"), &content(number, 1000)).unwrap();
        assert!(!lab.folder(disk).join(format!("y/{number}.obj")).is_dir());
    }
    assert_eq!(alone(&cluster, osd), 0);
    mend(&cluster);
    assert_eq!((survey(&cluster).missing, survey(&cluster).hidden), (0, false));
    let proof = Proof { after: true, ..Proof::default() };
    assert_eq!(advance(&mut lab, &cluster, disk, &proof), Some(Standing::Removed));

    // It still runs, and what it says about deleted objects is not heard.
    assert!(cluster.parting().is_empty() && cluster.troubles().is_empty());
    cluster.delete("x/sco/0").unwrap();
    assert!(!lab.files("x/sco/0").is_empty(), "it was not asked to delete");
    for other in [cluster, lab.open()] {
        assert_eq!(other.len("x/sco/0"), Ok(None));
        assert_eq!(put(&other, "z", b"z").unwrap(), Put::Created);
        other.delete("z").unwrap();
        verified(&other, 1..OBJECTS);
        let now = survey(&other);
        assert_eq!((now.missing, now.unknown, now.short), (0, 0, 0));
        assert_eq!(now.by_safety.keys().min(), whole.by_safety.keys().min());
    }
}

#[test]
fn a_put_that_may_be_under_way_keeps_an_osd_in_the_cluster() {
    let (mut lab, cluster) = filled("under-way");
    let disk = fullest(&lab);
    stand(&mut lab, &cluster, disk, Standing::Leaving);
    mend(&cluster);
    assert_eq!(alone(&cluster, lab.osd(disk)), 0);
    // What a put has stored so far: the first fragment, on the OSD that leaves.
    let other = (0..OBJECTS).find(|n| lab.folder(disk).join(format!("x/sco/{n}.obj")).exists());
    let from = lab.folder(disk).join(format!("x/sco/{}.obj", other.unwrap()));
    let to = lab.folder(disk).join("x/under-way.obj");
    std::fs::create_dir_all(&to).unwrap();
    let one = std::fs::read_dir(from).unwrap().next().unwrap().unwrap();
    std::fs::copy(one.path(), to.join(one.file_name())).unwrap();
    assert_eq!(alone(&cluster, lab.osd(disk)), 1);
    assert_eq!(cluster.collect("x/under-way", u64::MAX).unwrap(), 1);
    assert_eq!(alone(&cluster, lab.osd(disk)), 0);
}

/// Each disk of the cluster is lost and replaced, one after the other: what was stored first is
/// there, and puts go on. Unless those that are lost are forgotten, nothing can be told any more.
#[test]
fn every_disk_is_lost_and_replaced_and_puts_go_on() {
    let (mut lab, cluster) = filled("replace");
    for disk in 0..12 {
        lab.stop(disk);
        stand(&mut lab, &cluster, disk, Standing::Lost);
        put(&cluster, &format!("while/{disk}"), b"away").unwrap();
        mend(&cluster);
        let seen = survey(&cluster);
        let proof = Proof { alone: 0, short: seen.short, hidden: seen.hidden, after: true };
        assert_eq!(advance(&mut lab, &cluster, disk, &proof), Some(Standing::Removed), "{seen:?}");
        lab.replace(disk);
        cluster.set_servers(&lab.places()).unwrap();
    }
    for cluster in [cluster, lab.open()] {
        verified(&cluster, 0..OBJECTS);
        assert_eq!(survey(&cluster).missing, 0);
        put(&cluster, "after", b"all").unwrap();
        cluster.delete("after").unwrap();
    }
    let new: BTreeSet<[u8; 16]> = (0..12).map(|disk| lab.osd(disk)).collect();
    assert!(lab.open().osds().iter().all(|osd| new.contains(&osd.claim().osd)));
    lab.forget_former();
    let error = put(&lab.open(), "after", b"all").unwrap_err();
    assert!(error.to_string().contains("out of reach"), "{error}");
}

#[test]
fn what_is_lost_is_not_forgotten_before_it_is_stored_elsewhere() {
    let (mut lab, cluster) = filled("short");
    for disk in [0, 4] {
        lab.stop(disk);
        stand(&mut lab, &cluster, disk, Standing::Lost);
    }
    let seen = survey(&cluster);
    assert!(seen.short > 0 && !seen.hidden, "{seen:?}");
    mend(&cluster);
    assert_eq!(survey(&cluster).short, 0);
    // Whole objects could be on those that do not answer now.
    (8..12).chain([1, 2, 3]).for_each(|disk| lab.stop(disk));
    // Whoever asks them hears, after a while, that they are gone.
    assert!(cluster.list("x/sco").is_err());
    assert!(survey(&cluster).hidden);
}

#[test]
fn what_was_deleted_while_an_osd_was_away_goes_when_it_is_back() {
    let (mut lab, cluster) = filled("away");
    let disk = fullest(&lab);
    let names: Vec<String> = (0..OBJECTS).map(|number| format!("x/sco/{number}")).collect();
    lab.stop(disk);
    // Whoever asks it hears, after a while, that it is gone.
    let _ = cluster.list("x/sco");
    names.iter().skip(1).for_each(|name| cluster.delete(name).unwrap());
    lab.restart(disk);
    let cluster = lab.open();
    let left: usize = names[1..].iter().map(|name| lab.files(name).len()).sum();
    assert!(left > 0);
    assert_eq!(cluster.list("x/sco").unwrap(), ["0"], "nobody takes it for objects");
    let seen = survey(&cluster);
    assert_eq!((seen.objects, seen.unknown, seen.missing), (1, 0, 0));
    for name in &seen.partial {
        cluster.collect(name, u64::MAX).unwrap();
    }
    assert_eq!(names[1..].iter().map(|name| lab.files(name).len()).sum::<usize>(), 0);
    verified(&cluster, [0]);
}
