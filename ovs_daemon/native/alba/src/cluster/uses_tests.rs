//! Records of use that others cover go, and nobody is warned of less for that.

use std::collections::BTreeSet;
use std::fs;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use machines::alba::{Layout, Policy};

use super::Cluster;
use super::faulty::{self, Faulty};
use super::tests::{Lab, content, get, put};
use super::uses::Use;
use super::views_tests::view;
use crate::osd::{Osd, Request};

const DISKS: usize = 6;

/// Two fragments of three make an acknowledged object, or four of four.
fn policies() -> [Policy; 2] {
    let policy = |(k, m, c)| Policy::new(Layout::new(k, m, 1, 0).unwrap(), c, 1).unwrap();
    [(1, 2, 2), (2, 2, 4)].map(policy)
}

/// One of the first policy for each disk that was away, and one of the other one.
fn filled(name: &str) -> (Lab, Cluster) {
    let lab = Lab::sized(name, 1, DISKS);
    let cluster = lab.open_with(policies().to_vec());
    let osds = cluster.osds();
    let [first, second] = policies();
    let mut all = vec![Use::of(&second, osds.iter())];
    for away in 0..DISKS {
        let there = osds.iter().enumerate().filter(|(at, _)| *at != away);
        all.push(Use::of(&first, there.map(|(_, osd)| osd)));
    }
    for one in all {
        osds.iter().for_each(|osd| drop(osd.call(one.put()).unwrap()));
    }
    (lab, cluster)
}

fn records(lab: &Lab, disk: usize) -> usize {
    fs::read_dir(lab.disk(0, disk).join("uses")).unwrap().count()
}

/// For every set of disks: whether those who reach these only are warned that there may be an object.
fn warned(cluster: &Cluster) -> Vec<bool> {
    let up: Vec<Arc<AtomicBool>> = (0..DISKS).map(|_| Arc::new(true.into())).collect();
    let osds = || {
        let both = cluster.osds().into_iter().zip(&up);
        both.map(|(osd, up)| Faulty::switched(osd, faulty::nothing, up)).collect()
    };
    let sets = 1..1usize << DISKS;
    let warns = sets.map(|set| {
        for (at, up) in up.iter().enumerate() {
            up.store(set & 1 << at != 0, Ordering::Relaxed);
        }
        view(cluster, osds()).reach().hides()
    });
    warns.collect()
}

fn tell(cluster: &Cluster) {
    let all = Use::of(&policies()[0], cluster.osds().iter());
    cluster.tell_uses(&mut (0..DISKS).collect(), &all);
}

#[test]
fn what_a_record_of_use_covers_goes_when_it_is_told() {
    let (lab, cluster) = filled("covered");
    assert_eq!(records(&lab, 0), 1 + DISKS);
    let before = warned(&cluster);
    assert!(before.contains(&true) && before.contains(&false));
    let teller = view(&cluster, cluster.osds());
    tell(&teller);
    (0..DISKS).for_each(|disk| assert_eq!(records(&lab, disk), 2, "disk {disk}"));
    assert_eq!(warned(&cluster), before);
    // Who has told it puts objects, and who reads what is left finds them.
    put(&teller, "a", &content(1, 50_000)).unwrap();
    (0..DISKS).for_each(|disk| assert_eq!(records(&lab, disk), 2, "disk {disk}"));
    let other = view(&cluster, cluster.osds());
    assert_eq!(get(&other, "a").unwrap(), content(1, 50_000));
    assert_eq!(other.uses.lock().unwrap().len(), 2);
}

/// Those that fail to store the new one, and those of an earlier release, which delete no record.
#[test]
fn a_disk_keeps_what_is_not_covered_by_another_record_of_its_own() {
    let (lab, cluster) = filled("keeps");
    let before = warned(&cluster);
    let odd = |(number, osd): (usize, Arc<dyn Osd>)| match number {
        0 => Faulty::always(osd, |request| matches!(request, Request::PutRecord { .. })),
        1 => Faulty::always(osd, faulty::deletes),
        _ => osd,
    };
    let mut up = (0..DISKS).collect();
    let teller = view(&cluster, cluster.osds().into_iter().enumerate().map(odd).collect());
    teller.tell_uses(&mut up, &Use::of(&policies()[0], cluster.osds().iter()));
    assert_eq!(up, [1, 2, 3, 4, 5]);
    let left: Vec<usize> = (0..DISKS).map(|disk| records(&lab, disk)).collect();
    assert_eq!(left, [1 + DISKS, 2 + DISKS, 2, 2, 2, 2]);
    assert_eq!(warned(&cluster), before);
    tell(&view(&cluster, cluster.osds()));
    (0..DISKS).for_each(|disk| assert_eq!(records(&lab, disk), 2, "disk {disk}"));
}

/// Whoever tells and deletes dies before each of the requests that change something.
#[test]
fn nobody_is_warned_of_less_wherever_one_who_deletes_records_dies() {
    static LEFT: AtomicUsize = AtomicUsize::new(0);
    fn dies(request: &Request) -> bool {
        let changes = matches!(request, Request::PutRecord { .. } | Request::Delete { .. });
        let take = |left: usize| left.checked_sub(1);
        changes && LEFT.fetch_update(Ordering::Relaxed, Ordering::Relaxed, take).is_err()
    }
    let mut seen = BTreeSet::new();
    for steps in (0..).step_by(7) {
        assert!(steps < 1000, "it does not end");
        let (lab, cluster) = filled("dies");
        let before = warned(&cluster);
        let each = cluster.osds().into_iter().map(|osd| Faulty::always(osd, dies));
        let teller = view(&cluster, each.collect());
        LEFT.store(steps, Ordering::Relaxed);
        tell(&teller);
        let left: usize = (0..DISKS).map(|disk| records(&lab, disk)).sum();
        let less = warned(&cluster).into_iter().zip(before).filter(|(now, then)| *then && !now);
        assert_eq!(less.count(), 0, "after {steps} steps");
        seen.insert(left);
        if LEFT.load(Ordering::Relaxed) > 0 {
            assert_eq!(left, 2 * DISKS);
            break;
        }
    }
    assert!(seen.len() > 3, "{seen:?}");
}

/// Between the look at what there is to be read and the reading.
#[test]
fn a_record_of_use_that_goes_while_it_is_read_puts_no_disk_out_of_reach() {
    let (_lab, cluster) = filled("goes");
    let inner = Arc::new(view(&cluster, cluster.osds()));
    let reader = Cluster::connect(&[], cluster.preset.clone(), 0, None).unwrap();
    let osds = cluster.osds().into_iter().map(|osd| {
        let inner = inner.clone();
        let told = AtomicBool::new(false);
        let first = move |request: &Request| {
            let reads = matches!(request, Request::Record { .. });
            if reads && !told.swap(true, Ordering::Relaxed) {
                tell(&inner);
            }
        };
        faulty::before(osd, Box::new(first))
    });
    *reader.osds.write().unwrap() = osds.collect();
    reader.learn_uses();
    assert_eq!(reader.read.lock().unwrap().len(), DISKS);
    assert!(!reader.reach().hides());
}
