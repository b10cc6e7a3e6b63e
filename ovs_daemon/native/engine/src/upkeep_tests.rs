//! The upkeep's worker, told what a look has found.

use std::fs;

use alba::Backend;
use alba::cluster::OsdPlace;
use alba::preset::Preset;
use alba::sealed::Keys;
use machines::alba::{Layout, Policy};

use super::*;

const OBJECTS: [&str; 2] = ["x/sco/1", "x/sco/2"];

#[test]
fn what_is_left_is_cleared_up_until_it_has_to_end() {
    let root = std::env::temp_dir().join(format!("ovs-upkeep-{}", std::process::id()));
    let _ = fs::remove_dir_all(&root);
    let place = |number: usize| OsdPlace {
        path: root.join(format!("dc{}/{number}", number / 3)),
        domain: format!("dc{}", number / 3),
        node: format!("node{number}"),
    };
    let places: Vec<OsdPlace> = (0..6).map(place).collect();
    let mut preset = Preset::shipped().remove(0);
    preset.policies = vec![Policy::new(Layout::new(2, 2, 2, 1).unwrap(), 4, 1).unwrap()];
    let sealed = Sealed::new(Cluster::open(&places, preset, 0).unwrap(), Keys::default()).unwrap();
    let cluster = sealed.cluster();
    for name in OBJECTS {
        cluster.put(name, &mut |sink| sink.write(b"x")).unwrap();
    }
    // Deleted while a Domain is away.
    fs::rename(root.join("dc1"), root.join("away")).unwrap();
    OBJECTS.iter().for_each(|name| cluster.delete(name).unwrap());
    fs::rename(root.join("away"), root.join("dc1")).unwrap();
    let survey = cluster.survey(&Terms::default(), &mut |_| true).unwrap();
    assert_eq!(survey.partial, OBJECTS);

    let orders = json!({
        "domains": null, "repair_bytes_per_s": 1, "scrub_bytes_per_s": 0, "delay_s": 60.0,
        "every_s": 60.0, "scrub_every_s": 60.0,
    });
    let orders: Orders = serde_json::from_value(orders).unwrap();
    let mut worker = Worker::new(&sealed, Arc::default());
    let collected = |worker: &mut Worker<'_>| {
        worker.clear_up(&survey, &orders);
        worker.shared.lock().collected
    };
    assert_eq!(collected(&mut worker), 0, "other orders were given");
    worker.shared.lock().orders = Some(orders.clone());
    worker.shared.lock().stopping = true;
    assert_eq!(collected(&mut worker), 0, "it has to end");
    worker.shared.lock().stopping = false;
    assert_eq!(collected(&mut worker), 6, "three fragments of each");
    fs::remove_dir_all(root).unwrap();
}
