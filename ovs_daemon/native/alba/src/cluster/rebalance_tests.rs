//! Moves of fragments to emptier disks: read, cut off, disturbed, and cleared up.

use std::fs;

use format::osd::wire::Class;
use machines::alba::{Fill, Layout, Policy};

use super::read::Range;
use super::tests::{Lab, content, get, put};
use super::{Cluster, Moving, Terms, walk_order};
use crate::Backend;

/// With four disks in each Domain, for three fragments.
fn lab(name: &str) -> Lab {
    Lab::sized(name, 3, 4)
}

/// A Domain's disks as a planner sees them when one is full and all others are empty.
fn fills(cluster: &Cluster, full: u64, domain: &str) -> Vec<Fill> {
    let mut fills = cluster.fills(domain).unwrap();
    for fill in &mut fills {
        (fill.used, fill.total) = (if fill.id == full { 1 << 40 } else { 0 }, 1 << 40);
    }
    fills
}

/// Copies a fragment of one of these objects from a disk of a Domain where that can be done.
fn give_any(cluster: &Cluster, names: &[String]) -> Moving {
    for name in names {
        for disk in cluster.fills("dc1").unwrap() {
            let mut fills = fills(cluster, disk.id, "dc1");
            let given = cluster.give(name, (disk.id, &mut fills), 1, &mut |_| true).unwrap();
            assert_eq!(given.1.between_domains, 0);
            if let Some(moving) = given.0.into_iter().next() {
                return moving;
            }
        }
    }
    panic!("no fragment has a place that comes later");
}

fn objects(cluster: &Cluster) -> Vec<String> {
    let names: Vec<String> = (0..8).map(|number| format!("x/sco/{number}")).collect();
    for (seed, name) in names.iter().enumerate() {
        put(cluster, name, &content(seed, 300_000)).unwrap();
    }
    names
}

/// Name and place in the list of objects.
fn number_of(object: &str) -> usize {
    object.rsplit('/').next().unwrap().parse().unwrap()
}

fn survey_is_fine(cluster: &Cluster, doubled: usize) {
    let survey = cluster.survey(&Terms::default(), &mut |_| true).unwrap();
    assert_eq!((survey.missing, survey.unknown, survey.to_mend), (0, 0, 0));
    assert_eq!(survey.doubled.len(), doubled);
}

#[test]
fn what_was_moved_is_read_by_those_who_knew_the_old_place() {
    let lab = lab("moved");
    let cluster = lab.open();
    let names = objects(&cluster);
    let files = |name: &str| lab.files(name).len();
    let mut moved = 0;
    while moved < 3 {
        let known: Vec<_> = names.iter().map(|name| cluster.find(name).unwrap().unwrap()).collect();
        let moving = give_any(&cluster, &names[moved..]);
        let name = moving.object.clone();
        let before = known[number_of(&name)].clone();
        let whole = files(&name);
        assert!(cluster.end_move(&moving).unwrap());
        assert_eq!(files(&name), whole - 1);
        // As one who has looked before.
        super::lock(&cluster.found).insert(name.clone(), before.clone());
        assert_eq!(get(&cluster, &name).unwrap(), content(number_of(&name), 300_000));
        let (piece, one) = (moving.file.piece, usize::from(moving.file.fragment));
        let range = Range { piece, start: 0, len: 4096, class: Class::Upkeep };
        cluster.gather(&name, &before, range, 1 << one, true).unwrap();
        let now = cluster.find(&name).unwrap().unwrap();
        assert_eq!(now.osds(piece, one), [moving.to]);
        // A fragment never goes back.
        let from = cluster.osd(moving.to).id();
        let mut back = fills(&cluster, from, "dc1");
        let old = cluster.osd(moving.from).id();
        back.retain(|fill| fill.id == from || fill.id == old);
        let given = cluster.give(&name, (from, &mut back), 1, &mut |_| true).unwrap();
        assert!(given.0.iter().all(|other| other.file != moving.file));
        given.0.iter().for_each(|other| assert!(cluster.end_move(other).unwrap()));
        moved += 1;
    }
    survey_is_fine(&cluster, 0);
}

#[test]
fn a_move_that_was_cut_off_is_cleared_up() {
    let lab = lab("cut-off");
    let cluster = lab.open();
    let names = objects(&cluster);
    let moving = give_any(&cluster, &names);
    let name = &moving.object;
    let files = lab.files(name);
    drop(cluster);

    let cluster = lab.open();
    survey_is_fine(&cluster, 1);
    let doubles = cluster.doubles(name);
    assert_eq!(doubles.keys().collect::<Vec<_>>(), [&moving.file]);
    let trim = |aged: &super::Doubles| cluster.trim(name, &Terms::default(), aged, &mut |_| true);
    assert_eq!(trim(&super::Doubles::new()), Ok(0), "others were seen");
    let elsewhere = Terms { domains: Some(["dc0".to_owned()].into()), ..Terms::default() };
    let nothing = &mut |bytes| panic!("none of them goes, and {bytes} bytes were read");
    assert_eq!(cluster.trim(name, &elsewhere, &doubles, nothing), Ok(0));
    assert_eq!(lab.files(name), files);

    // That which stays must be sound.
    let new_disk = cluster.osd(moving.to).name();
    let here = |file: &&std::path::PathBuf| {
        file.ends_with(moving.file.to_string()) && file.starts_with(&new_disk)
    };
    let new = files.iter().find(here).unwrap();
    let whole = fs::read(new).unwrap();
    let mut flipped = whole.clone();
    flipped[5000] ^= 1;
    fs::write(new, &flipped).unwrap();
    cluster.distrust(name);
    assert_eq!(trim(&doubles), Ok(0));
    assert_eq!(lab.files(name), files);
    fs::write(new, &whole).unwrap();
    cluster.distrust(name);

    assert_eq!(trim(&doubles), Ok(1));
    assert!(new.exists() && lab.files(name).len() == files.len() - 1);
    assert_eq!(trim(&doubles), Ok(0));
    assert_eq!(get(&cluster, name).unwrap(), content(number_of(name), 300_000));
    survey_is_fine(&cluster, 0);
}

#[test]
fn nothing_is_left_of_what_was_deleted_or_lost_while_it_was_moved() {
    let lab = lab("disturbed");
    let cluster = lab.open();
    let names = objects(&cluster);
    let moving = give_any(&cluster, &names);
    cluster.delete(&moving.object).unwrap();
    assert!(!cluster.end_move(&moving).unwrap());
    assert_eq!(lab.files(&moving.object).len(), 0);

    // The new copy is gone: the old one stays.
    let names: Vec<String> = names.into_iter().filter(|name| *name != moving.object).collect();
    let moving = give_any(&cluster, &names);
    let name = &moving.object;
    cluster.osd(moving.to).delete(name, &moving.file).unwrap();
    let files = lab.files(name).len();
    assert!(!cluster.end_move(&moving).unwrap());
    assert_eq!(lab.files(name).len(), files);
    // And again, when somebody else has ended it.
    let moving = give_any(&cluster, std::slice::from_ref(name));
    assert!(cluster.end_move(&moving).unwrap());
    assert!(!cluster.end_move(&moving).unwrap());
    assert_eq!(lab.files(name).len(), files);
    assert_eq!(get(&cluster, name).unwrap(), content(number_of(name), 300_000));

    // An object that is not whole stays where it is.
    fs::remove_file(&lab.files(name)[0]).unwrap();
    for disk in cluster.fills("dc1").unwrap() {
        let mut fills = fills(&cluster, disk.id, "dc1");
        let given = cluster.give(name, (disk.id, &mut fills), 1, &mut |_| true).unwrap();
        assert!(given.0.is_empty());
    }
}

#[test]
fn a_walk_goes_on_behind_a_place_without_a_look_at_what_comes_before() {
    let lab = Lab::sized("walk", 1, 3);
    let policy = Policy::new(Layout::new(2, 1, 1, 0).unwrap(), 3, 1).unwrap();
    let cluster = lab.open_with(vec![policy]);
    // In the order of the walk, which is not that of the names.
    let names = ["a/sco/1", "b/ckpt/7", "b/sco/1", "b/sco/2", "b/sco/3", "b.c/sco/1", "c"];
    for name in names {
        put(&cluster, name, b"some").unwrap();
    }
    let disk = cluster.osd(0).id();
    let walk = |behind: &[String]| {
        let mut seen = Vec::new();
        let all = cluster.walk_on(disk, behind, &mut |name| {
            seen.push(name.to_owned());
            true
        });
        assert_eq!(all, Ok(true));
        seen
    };
    let order = walk(&[]);
    assert_eq!(order.len(), names.len());
    for (at, name) in order.iter().enumerate() {
        assert_eq!(walk(&walk_order(name)), order[at + 1..], "behind {name}");
    }
    // Of one that was deleted meanwhile the place is the same.
    assert_eq!(walk(&walk_order("b/sco/1a")), walk(&walk_order("b/sco/1")));
    // Where it is not to look it cannot.
    for folder in ["a", "b/ckpt"] {
        let folder = lab.disk(0, 0).join(folder);
        fs::remove_dir_all(&folder).unwrap();
        fs::write(&folder, "no folder").unwrap();
    }
    assert_eq!(
        walk(&walk_order("b/sco/2")),
        order[order.iter().position(|n| n == "b/sco/2").unwrap() + 1..]
    );
    let broken = cluster.walk_on(disk, &[], &mut |_| true);
    assert!(broken.is_err(), "the test breaks what a walk from the start needs");
}

/// A disk that no record of use names gets fragments, and is away with all others that have the rest.
#[test]
fn what_was_moved_to_a_new_disk_is_not_taken_for_absent_when_it_is_away() {
    let lab = Lab::sized("new-disk", 1, 8);
    // All fragments are needed for an acknowledgement.
    let policy = Policy::new(Layout::new(2, 2, 1, 0).unwrap(), 4, 1).unwrap();
    let all = lab.open_with(vec![policy]);
    let new = lab.disk(0, 7);
    lab.take_away(&new);
    let names: Vec<String> = (0..16).map(|number| format!("x/sco/{number}")).collect();
    for name in &names {
        put(&all, name, &content(1, 10_000)).unwrap();
    }
    lab.bring_back(&new);
    drop(all);
    let cluster = lab.open_with(vec![policy]);
    let to = cluster.osd(7).id();
    let give = |name: &String| {
        let from = cluster.find(name).unwrap().unwrap().osd(0, 0).unwrap();
        let id = cluster.osd(from).id();
        let mut fills = fills(&cluster, id, "dc0");
        fills.retain(|fill| fill.id == id || fill.id == to);
        let given = cluster.give(name, (id, &mut fills), 1, &mut |_| true).unwrap();
        given.0.into_iter().next()
    };
    let moving = names.iter().find_map(give).expect("the new disk comes later for one of them");
    assert!(cluster.end_move(&moving).unwrap());
    let found = cluster.find(&moving.object).unwrap().unwrap();
    drop(cluster);
    for one in 0..4 {
        lab.take_away(&lab.disk(0, found.osd(0, one).unwrap()));
    }
    let other = lab.open_with(vec![policy]);
    let error = other.find(&moving.object).unwrap_err().to_string();
    assert!(error.contains("out of reach"), "{error}");
}
