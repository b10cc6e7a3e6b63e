//! Deletes while OSDs are away, in a cluster of two Domains.

use std::collections::BTreeSet;
use std::fs;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use machines::alba::{Layout, Policy};

use super::faulty::{self, Faulty};
use super::tests::{Lab, content, get, put};
use super::views_tests::view;
use super::{Cluster, Terms};
use crate::osd::{Osd, is_mark, log_mark_path, mark_path};
use crate::{Backend, Put};

const NAMES: [&str; 3] = ["x/sco/1", "x/sco/2", "x/pins/y"];

fn two_domains() -> Vec<Policy> {
    vec![Policy::new(Layout::new(2, 2, 2, 1).unwrap(), 4, 1).unwrap()]
}

/// Two Domains of three disks, with objects.
fn filled(name: &str) -> (Lab, Cluster) {
    let lab = Lab::of(name, 2);
    let cluster = lab.open_with(two_domains());
    for (number, name) in NAMES.into_iter().enumerate() {
        put(&cluster, name, &content(number, 50_000)).unwrap();
    }
    (lab, cluster)
}

fn marks(lab: &Lab, object: &str) -> usize {
    let mark = |path: &std::path::PathBuf| path.extension().is_some_and(|end| end == "deleted");
    lab.files(object).iter().filter(|file| mark(file)).count()
}

/// As upkeep does it: what is left goes, and then the marks.
fn collected(cluster: &Cluster) -> Vec<String> {
    let look = || cluster.survey(&Terms::default(), &mut |_| true).unwrap();
    for _ in 0..2 {
        for name in look().partial {
            cluster.collect(&name, 0).unwrap();
        }
    }
    look().partial
}

#[test]
fn what_is_deleted_while_a_domain_is_away_stays_deleted_when_it_is_back() {
    let (lab, cluster) = filled("deleted-away");
    lab.take_domain_away(1);
    cluster.delete("x/sco/1").unwrap();
    assert_eq!(cluster.len("x/sco/1"), Ok(None));
    assert_eq!(marks(&lab, "x/sco/1"), 3);
    assert_eq!(get(&cluster, "x/sco/2").unwrap(), content(1, 50_000));
    lab.bring_domain_back(1);

    let other = view(&cluster, cluster.osds());
    assert_eq!(lab.files("x/sco/1").len(), 3 + 3);
    assert_eq!(other.len("x/sco/1"), Ok(None));
    assert_eq!(other.list("x/sco").unwrap(), ["2"]);
    let survey = other.survey(&Terms::default(), &mut |_| true).unwrap();
    assert_eq!((survey.objects, survey.to_mend), (2, 0));
    assert_eq!(survey.partial, ["x/sco/1"]);
    assert_eq!(collected(&other), [""; 0]);
    assert_eq!(lab.files("x/sco/1").len(), 0);
    assert!(!lab.disk(0, 0).join("x/sco/1.obj").exists(), "no empty folder is left");
    assert_eq!(get(&other, "x/sco/2").unwrap(), content(1, 50_000));
}

/// As `volume::remove` does it.
fn remove(cluster: &Cluster, log: &str) -> crate::Result<()> {
    cluster.delete_folder(&format!("{log}/sco"))?;
    cluster.delete_log(log)
}

#[test]
fn a_log_that_is_deleted_while_a_domain_is_away_stays_deleted() {
    let (lab, cluster) = filled("log-away");
    put(&cluster, "z/sco/1", b"other").unwrap();
    lab.take_domain_away(0);
    remove(&cluster, "x").unwrap();
    let refused = put(&cluster, "x/sco/9", b"late").unwrap_err();
    assert!(refused.to_string().contains("deleted for good"), "{refused}");
    lab.bring_domain_back(0);
    let other = view(&cluster, cluster.osds());
    for name in NAMES {
        assert_eq!(other.len(name), Ok(None), "{name}");
    }
    assert_eq!(other.list("x/pins").unwrap(), [""; 0]);
    let survey = other.survey(&Terms::default(), &mut |_| true).unwrap();
    assert_eq!((survey.objects, survey.to_mend, &survey.logs[..]), (1, 0, &["x".to_owned()][..]));
    assert_eq!(other.collect_log("x"), Ok(true));
    for domain in 0..2 {
        (0..3).for_each(|disk| assert!(!lab.disk(domain, disk).join("x").exists()));
    }
    assert_eq!(get(&other, "z/sco/1").unwrap(), b"other");
}

/// The first Domain did what it was asked for, and the second one was cut off before.
#[test]
fn a_delete_that_was_cut_off_is_finished_while_the_other_domain_is_away() {
    let (lab, cluster) = filled("log-cut");
    for disk in 0..3 {
        fs::remove_dir_all(lab.disk(0, disk).join("x/sco")).unwrap();
    }
    lab.take_domain_away(1);
    remove(&cluster, "x").unwrap();
    lab.bring_domain_back(1);
    let other = view(&cluster, cluster.osds());
    assert_eq!(other.len("x/sco/1"), Ok(None));
    assert_eq!(other.collect_log("x"), Ok(true));
    assert_eq!(lab.files("x/sco/1").len(), 0);
}

/// A disk stops to answer in the middle of a delete, and its whole Domain with it.
#[test]
fn a_domain_that_dies_in_the_middle_of_a_delete_does_not_bring_the_object_back() {
    let (lab, cluster) = filled("delete-cut");
    let up: Vec<Arc<AtomicBool>> = (0..6).map(|_| Arc::new(AtomicBool::new(true))).collect();
    let odd = |(number, osd): (usize, Arc<dyn Osd>)| -> Arc<dyn Osd> {
        match number < 3 {
            true => osd,
            false => Faulty::switched(osd, faulty::deletes, &up[number]),
        }
    };
    let dying = view(&cluster, cluster.osds().into_iter().enumerate().map(odd).collect());
    dying.delete("x/sco/1").unwrap_err();
    up.iter().for_each(|up| up.store(false, Ordering::Relaxed));
    dying.delete("x/sco/1").unwrap();
    let other = view(&cluster, cluster.osds());
    assert_eq!(other.len("x/sco/1"), Ok(None));
    assert_eq!(collected(&other), [""; 0]);
    assert_eq!(lab.files("x/sco/1").len(), 0);
}

#[test]
fn a_log_that_is_deleted_leaves_nothing_when_all_are_here() {
    let (lab, cluster) = filled("log-here");
    remove(&cluster, "x").unwrap();
    (0..2).for_each(|domain| assert!(!lab.disk(domain, 0).join("x").exists()));
    let survey = cluster.survey(&Terms::default(), &mut |_| true).unwrap();
    assert_eq!((survey.objects, survey.partial.len(), survey.logs.len()), (0, 0, 0));
}

/// A mark is one put's: what is put again under the same name is another.
#[test]
fn what_is_put_again_is_not_taken_for_what_was_deleted() {
    let (lab, cluster) = filled("deleted-again");
    lab.take_domain_away(1);
    cluster.delete("x/sco/1").unwrap();
    lab.bring_domain_back(1);
    let other = view(&cluster, cluster.osds());
    let bytes = content(7, 60_000);
    assert_eq!(put(&other, "x/sco/1", &bytes), Ok(Put::Created));
    assert_eq!(get(&view(&cluster, cluster.osds()), "x/sco/1").unwrap(), bytes);
    assert_eq!(collected(&other), [""; 0]);
    assert_eq!((lab.files("x/sco/1").len(), marks(&lab, "x/sco/1")), (6, 0));
    assert_eq!(get(&view(&cluster, cluster.osds()), "x/sco/1").unwrap(), bytes);
}

/// The marks have to be where somebody sees them when the Domain is back.
#[test]
fn a_mark_outlives_the_disks_that_had_it_first() {
    let (lab, cluster) = filled("mark-outlives");
    lab.take_domain_away(1);
    cluster.delete("x/sco/1").unwrap();
    let first = cluster.survey(&Terms::default(), &mut |_| true).unwrap();
    assert_eq!(first.partial, ["x/sco/1"]);
    // As on new disks, which nobody has told.
    let found: Vec<_> = lab.files("x/sco/1");
    found[1..].iter().for_each(|file| fs::remove_file(file).unwrap());
    cluster.collect("x/sco/1", 0).unwrap();
    assert_eq!(marks(&lab, "x/sco/1"), 3, "not all are here: it is kept, and told to others");
    fs::remove_file(&found[0]).unwrap();
    lab.bring_domain_back(1);
    assert_eq!(view(&cluster, cluster.osds()).len("x/sco/1"), Ok(None));
}

/// An object that lies in one Domain alone, which is away.
#[test]
fn a_delete_of_what_nobody_sees_is_refused_until_it_is_seen() {
    let lab = Lab::of("delete-hidden", 2);
    let both = lab.open_with(two_domains());
    put(&both, "x/sco/2", b"both").unwrap();
    drop(both);
    let one = Policy::new(Layout::new(2, 1, 1, 0).unwrap(), 3, 1).unwrap();
    let cluster = lab.open_with(vec![one]);
    put(&cluster, "x/sco/1", b"hidden").unwrap();
    let found = cluster.find("x/sco/1").unwrap().unwrap();
    let domain = found.osd(0, 0).unwrap() / 3;
    lab.take_domain_away(domain);
    for refused in
        [cluster.delete("x/sco/1").unwrap_err(), cluster.delete("x/nothing").unwrap_err()]
    {
        assert!(refused.to_string().contains("bring them back"), "{refused}");
    }
    lab.bring_domain_back(domain);
    assert_eq!(get(&view(&cluster, cluster.osds()), "x/sco/1").unwrap(), b"hidden");
    cluster.delete("x/sco/1").unwrap();
    assert_eq!(cluster.len("x/sco/1"), Ok(None));
}

/// What is too little to be an object when it is back needs no mark.
#[test]
fn a_domain_of_three_that_is_away_costs_no_marks() {
    let lab = Lab::new("third-away");
    let cluster = lab.open();
    put(&cluster, "x/sco/1", &content(1, 50_000)).unwrap();
    lab.take_domain_away(1);
    cluster.delete("x/sco/1").unwrap();
    assert_eq!(lab.files("x/sco/1").len(), 0);
    lab.bring_domain_back(1);
    let other = view(&cluster, cluster.osds());
    assert_eq!(other.len("x/sco/1"), Ok(None));
    assert_eq!(other.collect("x/sco/1", u64::MAX), Ok(3));
}

#[test]
fn marks_have_names_of_their_own() {
    let names: BTreeSet<String> = (0..3).map(|put| mark_path("a/b", put)).collect();
    assert_eq!(names.first().unwrap(), "a/b.obj/0000000000000000.deleted");
    assert!(names.iter().all(|name| is_mark(name)));
    assert!(is_mark(&log_mark_path("a")) && !is_mark(&log_mark_path("a/b")));
    for other in ["a/b.obj/0.deleted", "a/0000000000000000.deleted", "0000000000000000.deleted"] {
        assert!(!is_mark(other), "{other}");
    }
}
