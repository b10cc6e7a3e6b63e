//! Whose job is next.

use volume::{Standing, Work};

use super::*;

fn delete(volume: u32, sco: u32, standing: &Arc<Standing>) -> Errand {
    job(volume, Work::Delete { log_text: "log".to_owned(), sco }, standing)
}

fn index(volume: u32, sco: u32, standing: &Arc<Standing>) -> Errand {
    job(volume, Work::Index { log: [1; 16], log_text: "log".to_owned(), sco }, standing)
}

fn job(volume: u32, work: Work, standing: &Arc<Standing>) -> Errand {
    Errand::Job(Job { volume, work, standing: standing.clone() }, 0)
}

/// Volumes and SCOs of what waits, in order.
fn order(queue: &Queue) -> Vec<(u32, u32)> {
    queue.stop();
    let which = |(_, errand)| match errand {
        Errand::Job(Job { volume, work: Work::Delete { sco, .. }, .. }, _) => (volume, sco),
        Errand::Job(Job { volume, work: Work::Index { sco, .. }, .. }, _) => (volume, sco),
        _ => panic!("nothing else was put there"),
    };
    std::iter::from_fn(|| queue.next()).map(which).collect()
}

#[test]
fn a_volume_that_leaves_waits_for_no_other_and_for_no_deletion() {
    let queue = Queue::default();
    let [stays, leaves] = [(); 2].map(|()| Arc::<Standing>::default());
    queue.push(0, index(1, 1, &stays));
    queue.push(0, delete(2, 2, &leaves));
    queue.push(0, index(2, 3, &leaves));
    leaves.leave();
    queue.hasten();
    queue.push(0, delete(2, 4, &leaves));
    queue.push(0, index(1, 5, &stays));
    queue.push(0, index(2, 6, &leaves));
    assert_eq!(order(&queue), [(2, 3), (2, 6), (1, 1), (2, 2), (2, 4), (1, 5)]);
}

#[test]
fn what_nobody_has_begun_for_a_volume_that_is_gone_is_forgotten() {
    let queue = Queue::default();
    let [stays, leaves] = [(); 2].map(|()| Arc::<Standing>::default());
    leaves.leave();
    queue.push(0, index(2, 1, &leaves));
    queue.push(0, delete(2, 2, &leaves));
    // Of another shard, where this number is another volume's.
    queue.push(1, delete(2, 3, &stays));
    queue.push(0, delete(1, 4, &stays));
    assert_eq!((queue.drop_jobs(0, 2), queue.drop_jobs(0, 2)), (2, 0));
    assert_eq!(order(&queue), [(2, 3), (1, 4)]);
}
