use super::*;

fn ring(count: u32) -> (Producer<8>, Consumer<8>, Arc<Arena>) {
    let ours = Arena::shared(8192).unwrap();
    let theirs = Arena::from_fd(ours.fd().unwrap().try_clone().unwrap()).unwrap();
    let producer = Producer::new(Place::new(&ours, 0, 4096, count).unwrap());
    let consumer = Consumer::new(Place::new(&theirs, 0, 4096, count).unwrap());
    (producer, consumer, ours)
}

#[test]
fn entries_arrive_in_order_through_a_full_ring_and_around_its_end() {
    let (mut producer, mut consumer, _) = ring(4);
    let (mut put, mut got) = (0u64, 0u64);
    for round in 0..1000 {
        while producer.push(&[put; 8]).unwrap() {
            put += 1;
        }
        assert_eq!(consumer.look().unwrap() as u64, 0, "not before it is published");
        assert!(!producer.publish(), "the consumer is awake");
        for _ in 0..=round % 4 {
            consumer.look().unwrap();
            assert_eq!(consumer.pop(), Some([got; 8]));
            got += 1;
        }
        consumer.release();
        while consumer.look().unwrap() > 0 {
            assert_eq!(consumer.pop(), Some([got; 8]));
            got += 1;
        }
        consumer.release();
    }
    assert_eq!(put, got);
}

#[test]
fn a_sleeper_is_rung_once() {
    let (mut producer, mut consumer, _) = ring(8);
    assert!(consumer.fall_asleep());
    assert!(producer.push(&[1; 8]).unwrap());
    assert!(producer.publish());
    assert!(producer.push(&[2; 8]).unwrap());
    assert!(!producer.publish(), "it was rung already");
    assert!(!consumer.fall_asleep(), "there is something to take");
    assert_eq!(consumer.look(), Ok(2));
}

#[test]
fn positions_that_cannot_be_are_refused() {
    let (mut producer, mut consumer, arena) = ring(4);
    let word = |which: usize, value: u32| {
        let at = which * CURSOR_STRIDE;
        arena.slice(at, 4).unwrap().write(0, &value.to_le_bytes());
    };
    word(1, 5);
    assert_eq!(consumer.look(), Err(PeerBroke));
    word(1, u32::MAX);
    assert_eq!(consumer.look(), Err(PeerBroke));
    for _ in 0..4 {
        assert!(producer.push(&[0; 8]).unwrap());
    }
    assert!(!producer.publish());
    word(0, 5);
    assert_eq!(producer.push(&[0; 8]), Err(PeerBroke), "taken before it was put");
    word(0, 4);
    assert_eq!(producer.push(&[0; 8]), Ok(true));
}

#[test]
fn a_producer_that_overwrites_what_was_not_released_is_refused() {
    let (mut producer, mut consumer, arena) = ring(4);
    for _ in 0..4 {
        assert!(producer.push(&[0; 8]).unwrap());
    }
    assert!(!producer.publish());
    assert_eq!(consumer.look(), Ok(4));
    assert!(consumer.pop().is_some());
    arena.slice(CURSOR_STRIDE, 4).unwrap().write(0, &5u32.to_le_bytes());
    assert_eq!(consumer.look(), Err(PeerBroke));
}

#[test]
fn a_ring_outside_its_arena_is_refused() {
    let arena = Arena::shared(8192).unwrap();
    assert!(Place::<8>::new(&arena, 0, 4096, 64).is_some());
    assert!(Place::<8>::new(&arena, 0, 4096, 128).is_none(), "too many entries");
    assert!(Place::<8>::new(&arena, 8000, 4096, 4).is_none(), "words past the end");
    assert!(Place::<8>::new(&arena, 4, 4096, 4).is_none(), "not aligned");
    assert!(Place::<8>::new(&arena, 0, usize::MAX - 7, 4).is_none());
    assert!(Place::<8>::new(&arena, 0, 4096, 3).is_none(), "not a power of two");
}

#[test]
fn two_threads_exchange_a_million_entries() {
    let (mut producer, mut consumer, _) = ring(64);
    let bell = Arc::new(crate::Bell::new().unwrap());
    let heard = bell.clone();
    let taker = std::thread::spawn(move || {
        let mut next = 0u64;
        while next < 1_000_000 {
            if consumer.look().unwrap() == 0 {
                if consumer.fall_asleep() {
                    heard.wait().unwrap();
                }
                continue;
            }
            while let Some(entry) = consumer.pop() {
                assert_eq!(entry, [next; 8]);
                next += 1;
            }
            consumer.release();
        }
    });
    let mut next = 0u64;
    while next < 1_000_000 {
        for _ in 0..next % 5 + 1 {
            if next < 1_000_000 && producer.push(&[next; 8]).unwrap() {
                next += 1;
            }
        }
        if producer.publish() {
            bell.ring().unwrap();
        }
    }
    taker.join().unwrap();
}
