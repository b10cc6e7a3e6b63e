//! Several processes that use one cluster, none of which knows what the others do.

use std::collections::BTreeSet;
use std::fs;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use machines::alba::{Layout, Policy};

use super::faulty::{self, Faulty};
use super::leftovers::{Moment, in_time, now};
use super::tests::{Lab, content, get, put};
use super::uses::Use;
use super::{Cluster, Terms};
use crate::osd::{Osd, Request};
use crate::{Backend, Put, Sink};

/// Another process with these OSDs.
pub(super) fn view(cluster: &Cluster, osds: Vec<Arc<dyn Osd>>) -> Cluster {
    let other = Cluster::connect(&[], cluster.preset.clone(), 0, None).unwrap();
    *other.osds.write().unwrap() = osds;
    other.learn_uses();
    other
}

/// One that stores fragments on none but the first so many OSDs.
fn refused(cluster: &Cluster, but: usize) -> Cluster {
    let refuse = |(number, osd): (usize, Arc<dyn Osd>)| match number < but {
        true => osd,
        false => Faulty::always(osd, faulty::puts),
    };
    view(cluster, cluster.osds().into_iter().enumerate().map(refuse).collect())
}

/// A former owner of a volume puts a SCO that the new one has put meanwhile.
#[test]
fn a_put_that_fails_takes_back_its_own_fragments_only() {
    let lab = Lab::new("zombie");
    let cluster = lab.open();
    let former = refused(&cluster, 3);
    let bytes = content(1, 200_000);
    let mut fill = |sink: &mut dyn Sink| {
        assert_eq!(put(&cluster, "a/b", &bytes), Ok(Put::Created));
        sink.write(&bytes)
    };
    former.put("a/b", &mut fill).unwrap_err();
    cluster.forget("a/b");
    assert_eq!(get(&cluster, "a/b").unwrap(), bytes);
    assert!(lab.files("a/b").len() >= 9);
}

#[test]
fn a_put_that_fails_alone_leaves_no_fragment() {
    let lab = Lab::new("alone");
    let cluster = lab.open();
    put(&refused(&cluster, 3), "a/b", &content(1, 50_000)).unwrap_err();
    assert_eq!(lab.files("a/b"), Vec::<PathBuf>::new());
}

/// One disk is away, so that all the others of two Domains are needed; one of those dies in the middle
/// of a put, and the first one is back.
#[test]
fn who_puts_the_same_puts_it_elsewhere_when_a_put_was_cut_off() {
    let lab = Lab::new("elsewhere");
    let cluster = lab.open();
    let (away, dying) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicBool::new(true)));
    let odd = |(number, osd): (usize, Arc<dyn Osd>)| match number {
        0 => Faulty::switched(osd, faulty::nothing, &away),
        4 => Faulty::switched(osd, faulty::puts, &dying),
        _ => osd,
    };
    let osds: Vec<Arc<dyn Osd>> = cluster.osds().into_iter().enumerate().map(odd).collect();
    let own = view(&cluster, osds.clone());
    let bytes = content(1, 50_000);
    // Which fragment the dying disk was to have depends on the name: local parity is not waited for.
    let mut names = (0..20).map(|number| format!("a/{number}"));
    let name = names.find(|name| put(&own, name, &bytes).is_err()).unwrap();
    assert!(lab.files(&name).len() >= 3);
    away.store(true, Ordering::Relaxed);
    dying.store(false, Ordering::Relaxed);
    // Maybe the fragment on the dead disk was the last that was needed: nobody puts anything else.
    let other = view(&cluster, osds.clone());
    let refused = put(&other, &name, &content(2, 50_000)).unwrap_err();
    assert!(refused.to_string().contains("on too few OSDs"), "{refused}");
    put(&other, &name, &bytes[1..]).unwrap_err();
    // As after a restart, or by a node that goes on with the volume: it knows of no put of its own.
    drop(own);
    assert_eq!(put(&other, &name, &bytes), Ok(Put::Created));
    assert_eq!(put(&other, &name, &bytes), Ok(Put::Exists));
    assert_eq!(get(&other, &name).unwrap(), bytes);
}

/// All disks are needed, and one is read-only: each try would leave one more on the others.
#[test]
fn an_object_is_short_on_two_sets_of_osds_at_most() {
    for readable in [true, false] {
        let lab = Lab::sized("short", 1, 3);
        let policy = Policy::new(Layout::new(2, 1, 1, 0).unwrap(), 3, 1).unwrap();
        let cluster = lab.open_with(vec![policy]);
        let (sick, bytes) = (refused(&cluster, 2), content(1, 10_000));
        put(&sick, "a", &bytes).unwrap_err();
        assert_eq!(lab.files("a").len(), 2);
        // What is stored of it now can be read, or not even that.
        let sick = if readable { sick } else { refused(&cluster, 1) };
        put(&sick, "a", &bytes).unwrap_err();
        let files = lab.files("a");
        assert_eq!(files.len(), if readable { 4 } else { 3 });
        for _ in 0..3 {
            let refused = put(&sick, "a", &bytes).unwrap_err().to_string();
            assert!(refused.contains("put 2 times"), "{refused}");
            assert_eq!(lab.files("a"), files);
        }
        // Once all store again it is completed, and what is left of the other one goes.
        let well = view(&cluster, cluster.osds());
        assert_eq!(put(&well, "a", &bytes), Ok(Put::Exists));
        well.collect("a", u64::MAX).unwrap();
        assert_eq!(lab.files("a").len(), 3);
        assert_eq!(get(&well, "a").unwrap(), bytes);
    }
}

/// What is seen of a put that is under way may be acknowledged a moment later.
#[test]
fn a_put_leaves_young_fragments_of_others_alone() {
    let lab = Lab::new("young");
    let cluster = lab.open();
    put(&cluster, "a/b", &content(1, 50_000)).unwrap();
    lab.files("a/b").iter().skip(3).for_each(|file| fs::remove_file(file).unwrap());
    let (young, began) = (lab.files("a/b"), now());
    let later = view(&cluster, cluster.osds());
    assert_eq!(put(&later, "a/b", &content(2, 50_000)), Ok(Put::Created));
    young.iter().for_each(|file| assert!(file.exists(), "{}", file.display()));
    assert_eq!(get(&later, "a/b").unwrap(), content(2, 50_000));

    let survey = later.survey(&Terms::default(), &mut |_| true).unwrap();
    assert_eq!((survey.objects, &survey.partial[..]), (1, &["a/b".to_owned()][..]));
    assert_eq!(later.collect("a/b", began).unwrap(), 3);
    assert_eq!(lab.files("a/b").len(), 9);
    assert_eq!(get(&later, "a/b").unwrap(), content(2, 50_000));
}

/// A node whose clock was ahead has left fragments.
#[test]
fn two_puts_behind_a_later_one_never_have_the_same_number() {
    const AHEAD: u64 = 9 << 60;
    let lab = Lab::new("ahead");
    let cluster = lab.open();
    let mut numbers = BTreeSet::new();
    for round in 0..2 {
        put(&cluster, "a/b", &content(round, 50_000)).unwrap();
        let generation = cluster.find("a/b").unwrap().unwrap().seen.generation;
        for (number, file) in lab.files("a/b").into_iter().enumerate() {
            let name = file.file_name().unwrap().to_str().unwrap();
            let later = name.replace(&format!("{generation:016x}"), &format!("{AHEAD:016x}"));
            match number < 2 {
                true => fs::rename(&file, file.with_file_name(later)).unwrap(),
                false => fs::remove_file(&file).unwrap(),
            }
        }
        cluster.forget("a/b");
        put(&cluster, "a/b", &content(round, 50_000)).unwrap();
        let number = cluster.find("a/b").unwrap().unwrap().seen.generation;
        assert!(number > AHEAD && numbers.insert(number), "{number:x}");
        cluster.delete("a/b").unwrap();
    }
}

/// Two of the three disks that have an object are busy at this moment; all are in one Domain.
#[test]
fn what_lies_on_busy_disks_of_one_domain_is_not_taken_for_absent() {
    let lab = Lab::new("busy");
    let mut cluster = lab.open();
    let layout = Layout::new(2, 1, 1, 0).unwrap();
    cluster.preset.policies = vec![Policy::new(layout, 3, 1).unwrap()];
    let bytes = content(5, 100_000);
    put(&cluster, "log/sco/1", &bytes).unwrap();
    let found = cluster.find("log/sco/1").unwrap().unwrap();
    let busy = [0, 1].map(|fragment| found.osd(0, fragment).unwrap());
    let silence = |(number, osd): (usize, Arc<dyn Osd>)| match busy.contains(&number) {
        true => Faulty::always(osd, faulty::looks),
        false => osd,
    };
    let other = view(&cluster, cluster.osds().into_iter().enumerate().map(silence).collect());
    for error in [
        other.len("log/sco/1").unwrap_err(),
        other.list("log/sco").unwrap_err(),
        put(&other, "log/sco/1", b"other").unwrap_err(),
    ] {
        assert!(error.to_string().contains("out of reach"), "{error}");
    }
    other.sweep("log/sco").unwrap();
    assert_eq!(other.collect("log/sco/1", u64::MAX), Ok(0));
    assert_eq!(lab.files("log/sco/1").len(), 3);
    assert_eq!(get(&cluster, "log/sco/1").unwrap(), bytes);
}

/// As on a host that was asleep while they were asked.
#[test]
fn what_osds_say_too_late_is_not_used() {
    let lab = Lab::new("late");
    let cluster = lab.open();
    put(&cluster, "a", &content(1, 50_000)).unwrap();
    let reach = cluster.reach();
    let late = cluster.look_once("a", &reach, Moment::ago(Duration::from_secs(3600)));
    assert!(late.is_empty(), "{late:?}");
    // They are not asked in vain.
    assert_eq!(reach.up().len(), 9);
    assert_eq!(get(&cluster, "a").unwrap(), content(1, 50_000));
}

/// One node has heard of three OSDs only, another one of nine, which it uses.
#[test]
fn what_lies_on_unknown_disks_is_not_taken_for_absent() {
    let lab = Lab::new("stale");
    let cluster = lab.open();
    let known = cluster.osds().into_iter().step_by(3).collect();
    let stale = view(&cluster, known);
    let bytes = content(3, 300_000);
    put(&cluster, "log/sco/1", &bytes).unwrap();
    let all = lab.files("log/sco/1").len();
    for error in [
        stale.len("log/sco/1").unwrap_err(),
        stale.list("log/sco").unwrap_err(),
        put(&stale, "log/sco/1", b"other").unwrap_err(),
    ] {
        assert!(error.to_string().contains("out of reach"), "{error}");
    }
    stale.sweep("log/sco").unwrap();
    assert_eq!(stale.collect("log/sco/1", u64::MAX), Ok(0));
    assert_eq!(lab.files("log/sco/1").len(), all);
    assert_eq!(get(&cluster, "log/sco/1").unwrap(), bytes);
}

/// Who was to tell all disks of each other died when one had been told.
#[test]
fn a_record_of_use_that_was_only_read_is_told_to_all_again() {
    let lab = Lab::new("told");
    put(&lab.open(), "a", b"first").unwrap();
    for number in 1..9 {
        fs::remove_dir_all(lab.disk(number / 3, number % 3).join("uses")).unwrap();
    }
    put(&lab.open(), "b", b"second").unwrap();
    let told: BTreeSet<usize> = (0..9).filter(|disk| records(&lab, *disk) > 0).collect();
    assert_eq!(told, (0..9).collect());
}

/// The records of use that a disk has.
fn records(lab: &Lab, disk: usize) -> usize {
    fs::read_dir(lab.disk(disk / 3, disk % 3).join("uses")).map_or(0, Iterator::count)
}

/// As in an upgrade of one node after the other, and again.
#[test]
fn disks_that_are_away_for_a_while_make_no_records_of_use() {
    let lab = Lab::new("few");
    let cluster = lab.open();
    let up: Vec<Arc<AtomicBool>> = (0..9).map(|_| Arc::new(true.into())).collect();
    let osds = cluster.osds().into_iter().zip(&up);
    let osds = osds.map(|(osd, up)| Faulty::switched(osd, faulty::nothing, up)).collect();
    let cluster = view(&cluster, osds);
    put(&cluster, "whole", b"all are there").unwrap();
    let upgrade = |round: usize| -> Vec<usize> {
        for (number, up) in up.iter().enumerate() {
            up.store(false, Ordering::Relaxed);
            put(&cluster, &format!("away/{round}/{number}"), b"one is away").unwrap();
            up.store(true, Ordering::Relaxed);
            put(&cluster, &format!("back/{round}/{number}"), b"it is back").unwrap();
        }
        (0..9).map(|disk| records(&lab, disk)).collect()
    };
    let first = upgrade(1);
    // One for all, and where a disk less makes another policy be chosen, one without the first disk that
    // was away, and one for all.
    assert!(first.iter().all(|count| (1..=3).contains(count)), "{first:?}");
    assert_eq!(upgrade(2), first);
}

/// Who was away when the others were told gets no fragment before it has been told, too.
#[test]
fn a_disk_that_was_not_told_is_told_when_it_is_back() {
    let lab = Lab::new("later");
    put(&lab.open(), "a", b"names all of them").unwrap();
    fs::remove_dir_all(lab.disk(2, 2).join("uses")).unwrap();
    let first = lab.open();
    let away = Arc::new(AtomicBool::new(false));
    let odd = |(number, osd): (usize, Arc<dyn Osd>)| match number {
        8 => Faulty::switched(osd, faulty::nothing, &away),
        _ => osd,
    };
    let cluster = view(&first, first.osds().into_iter().enumerate().map(odd).collect());
    put(&cluster, "b", b"without the last").unwrap();
    assert_eq!(records(&lab, 8), 0);
    away.store(true, Ordering::Relaxed);
    put(&cluster, "c", b"with it").unwrap();
    assert!(records(&lab, 8) > 0);
}

/// What earlier releases have left: one for each set of disks that were there.
#[test]
fn many_records_that_one_covers_are_told_to_nobody_again() {
    static TOLD: AtomicUsize = AtomicUsize::new(0);
    fn counted(request: &Request) -> bool {
        TOLD.fetch_add(matches!(request, Request::PutRecord { .. }).into(), Ordering::Relaxed);
        false
    }
    let lab = Lab::new("many");
    let cluster = lab.open();
    let osds = cluster.osds();
    for policy in &cluster.preset.policies {
        for left_out in 0..1usize << 6 {
            let some = osds.iter().enumerate().filter(|(at, _)| left_out & 1 << at == 0);
            let record = Use::of(policy, some.map(|(_, osd)| osd)).put();
            osds.iter().for_each(|osd| drop(osd.call(record.clone()).unwrap()));
        }
    }
    assert!(records(&lab, 0) >= 64);
    let each = osds.iter().map(|osd| Faulty::always(osd.clone(), counted)).collect();
    put(&view(&cluster, each), "a", b"told").unwrap();
    let (told, policies) = (TOLD.load(Ordering::Relaxed), cluster.preset.policies.len());
    assert!((9..=9 * policies).contains(&told), "{told} records for 9 disks");
    assert_eq!(Backend::len(&view(&cluster, osds), "a"), Ok(Some(4)));
}

/// The disk that is asked for it goes in between, or has a damaged one.
#[test]
fn a_record_of_use_that_one_disk_does_not_give_is_read_from_another() {
    let lab = Lab::new("give");
    let cluster = lab.open();
    put(&cluster, "a", b"told").unwrap();
    let known = cluster.uses.lock().unwrap().clone();
    let all: BTreeSet<usize> = (0..9).collect();
    for silent in [[0].into(), [8].into(), [0, 3, 8].into(), all.clone()] {
        let silent: &BTreeSet<usize> = &silent;
        let odd = |(number, osd): (usize, Arc<dyn Osd>)| match silent.contains(&number) {
            true => Faulty::always(osd, |request| matches!(request, Request::Record { .. })),
            false => osd,
        };
        let other = view(&cluster, cluster.osds().into_iter().enumerate().map(odd).collect());
        let (uses, read) = (other.uses.lock().unwrap().clone(), other.read.lock().unwrap().clone());
        match silent == &all {
            true => assert_eq!((uses.len(), read.len()), (0, 0), "what they know is not known"),
            false => assert_eq!((uses, read), (known.clone(), all.clone()), "{silent:?}"),
        }
    }
}

/// As many fragments as make it readable, and too few to be acknowledged: who opens the volume takes
/// the SCO for stored, and lets go of what the write buffer has of it.
#[test]
fn an_object_that_was_cut_off_is_completed_before_anybody_relies_on_it() {
    let lab = Lab::new("complete");
    let cluster = lab.open();
    let bytes = content(4, 100_000);
    put(&cluster, "log/sco/1", &bytes).unwrap();
    let found = cluster.find("log/sco/1").unwrap().unwrap();
    for fragment in found.layout.data()..found.layout.fragments() {
        cluster
            .osd(found.osd(0, fragment).unwrap())
            .delete("log/sco/1", &found.name(0, fragment))
            .unwrap();
    }
    let next = view(&cluster, cluster.osds());
    next.sweep("log/sco").unwrap();
    assert_eq!(next.list("log/sco").unwrap(), ["1"]);
    assert_eq!(lab.files("log/sco/1").len(), 9);
    assert_eq!(get(&next, "log/sco/1").unwrap(), bytes);
}

#[test]
fn a_put_that_took_too_long_is_not_acknowledged() {
    assert_eq!(in_time("a", now(), Instant::now()), Ok(()));
    let hour = 3600 * 1_000_000_000;
    let error = in_time("a", now() - hour, Instant::now()).unwrap_err();
    assert!(error.to_string().contains("took so long"), "{error}");
}

/// As after a lazy umount: the folder is an empty one of the file system below.
#[test]
fn what_is_stored_where_the_disk_was_is_not_acknowledged() {
    let lab = Lab::new("umount");
    let cluster = lab.open();
    put(&cluster, "a", &content(1, 5000)).unwrap();
    let found = cluster.find("a").unwrap().unwrap();
    let (osd, file) = (found.osd(0, 0).unwrap(), found.name(0, 0));
    let path = lab.disk(osd / 3, osd % 3);
    let bytes = fs::read(path.join(format!("a.obj/{file}"))).unwrap();
    fs::rename(&path, path.with_extension("away")).unwrap();
    fs::create_dir_all(&path).unwrap();
    let outcome = cluster.osd(osd).put("a", &file, Arc::new(vec![bytes.into()]));
    assert!(outcome.unwrap_err().to_string().contains("claim is gone"));
    let record = Request::PutRecord { name: "record".to_owned(), text: b"{}".to_vec() };
    cluster.osd(osd).call(record).unwrap_err();
}
