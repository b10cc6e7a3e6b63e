//! The server over real sockets, with volumes that wait, fail and change.
#![allow(clippy::disallowed_methods, reason = "tests make their own sockets and directories")]

mod entrance;
mod world;

use std::collections::BTreeMap;
use std::io::{Read, Write};

use format::nbd::{self, chunk, command, error, flag, option};
use machines::nbd::REQUESTS_IN_FLIGHT_MAX;
use media::{Event, Slice};

use crate::nbd::{ExportError, Stats, TokenKind};
use crate::target::{Completion, Outcome};

use world::{Client, DISK, DISK_BYTES, Dice, OTHER, STRANGE, World, client_option, header, offer};

const READ: (u16, u16) = (command::READ, 0);
const WRITE: (u16, u16) = (command::WRITE, 0);

/// Writes and checks the answer.
fn write(world: &mut World, client: &mut Client, offset: usize, data: &[u8]) {
    client.request(world, WRITE, 1, (offset, data.len()), data);
    assert_eq!(client.simple(world), (1, 0));
}

fn read(world: &mut World, client: &mut Client, place: (usize, usize)) -> Vec<u8> {
    client.request(world, READ, 2, place, &[]);
    client.data(world, place).unwrap()
}

#[test]
fn what_was_written_is_read_at_any_size_and_place() {
    for (structured, chunks) in [(false, 60), (true, 60), (true, 4)] {
        let mut world = World::new("sizes", chunks);
        let mut client = world.client("disk", structured);
        assert_eq!(client.size, DISK_BYTES as u64);
        let mut model = vec![0; DISK_BYTES];
        let mut dice = Dice(11);
        for round in 0..60 {
            let max = [1, 5000, 70_000, 300_000, 3 << 20][round % 5];
            let len = 1 + dice.below(max);
            let offset = dice.below(DISK_BYTES - len);
            let data = dice.bytes(len);
            write(&mut world, &mut client, offset, &data);
            model[offset..offset + len].copy_from_slice(&data);
            let start = offset.saturating_sub(dice.below(5000));
            let end = (offset + len + dice.below(5000)).min(DISK_BYTES);
            let found = read(&mut world, &mut client, (start, end - start));
            assert!(found == model[start..end], "round {round}: {len} at {offset}");
        }
        drop(client);
        world.assert_no_leak();
    }
}

#[test]
fn many_requests_in_one_stream_cut_anywhere() {
    let mut world = World::new("stream", 8);
    let mut client = world.client("disk", false);
    let mut dice = Dice(5);
    let mut model = vec![0; DISK_BYTES];
    for _ in 0..12 {
        let mut stream = Vec::new();
        let count = 1 + dice.below(60);
        for cookie in 0..count {
            let len = 1 + dice.below(if cookie % 9 == 0 { 200_000 } else { 9000 });
            let offset = dice.below(DISK_BYTES - len);
            let data = dice.bytes(len);
            stream.extend(header(WRITE, cookie as u64, (offset, len)));
            stream.extend_from_slice(&data);
            model[offset..offset + len].copy_from_slice(&data);
        }
        let mut rest = &stream[..];
        while !rest.is_empty() {
            let len = (1 + dice.below(70_000)).min(rest.len());
            client.send(&mut world, &rest[..len]);
            if dice.below(3) == 0 {
                world.turn();
            }
            rest = &rest[len..];
        }
        let mut cookies: Vec<u64> = (0..count).map(|_| client.simple(&mut world).0).collect();
        cookies.sort_unstable();
        assert!(cookies.into_iter().eq(0..count as u64));
    }
    assert!(world.volumes.bytes[&DISK].to_vec() == model);
    let stats = world.nbd.stats(DISK).unwrap();
    assert_eq!(stats.writes, world.volumes.seen.len() as u64 - pieces(&world));
    drop(client);
    world.assert_no_leak();
}

/// How many writes at the volume were second and later pieces, told by their place.
fn pieces(world: &World) -> u64 {
    let seen = &world.volumes.seen;
    let follows = |pair: &&[(&str, u64, u64, bool)]| pair[0].1 + pair[0].2 == pair[1].1;
    seen.windows(2).filter(follows).count() as u64
}

/// Cuts a region into requests: each one's place by its cookie.
fn cut(dice: &mut Dice, region: (usize, usize), max: usize) -> BTreeMap<u64, (usize, usize)> {
    let (start, end) = region;
    let mut places = BTreeMap::new();
    let mut at = start;
    while at < end {
        let len = (1 + dice.below(max)).min(end - at);
        places.insert(places.len() as u64, (at, len));
        at += len;
    }
    places
}

#[test]
fn volumes_that_answer_late_and_in_any_order_lose_and_mix_up_nothing() {
    // Simple replies of a mebibyte need 5 chunks, a quarter of all; structured ones need no more
    // than each connection's 3 and a third again.
    for (chunks, simple, seed) in [(20, 2, 13), (16, 0, 14)] {
        answer_late(chunks, simple, seed);
    }
}

fn answer_late(chunks: usize, simple: usize, seed: u64) {
    let mut world = World::new("lazy", chunks);
    world.volumes.held.insert(DISK, Vec::new());
    world.volumes.lazy = Some(Dice(seed * 7));
    let mut dice = Dice(seed);
    let mut clients: Vec<Client> = (0..4).map(|n| world.client("disk", n >= simple)).collect();
    let region = DISK_BYTES / 4;
    let mut model = vec![0; DISK_BYTES];
    for max in [5000, 300_000, 40_000, 2_000_000] {
        let mut written = Vec::new();
        for (index, client) in clients.iter_mut().enumerate() {
            let places = cut(&mut dice, (index * region, (index + 1) * region), max);
            for (cookie, (offset, len)) in &places {
                let data = dice.bytes(*len);
                model[*offset..offset + len].copy_from_slice(&data);
                client.request(&mut world, WRITE, *cookie, (*offset, *len), &data);
            }
            written.push(places.len());
        }
        for (client, count) in clients.iter_mut().zip(written) {
            let mut cookies: Vec<u64> = (0..count).map(|_| client.simple(&mut world).0).collect();
            cookies.sort_unstable();
            assert!(cookies.into_iter().eq(0..count as u64));
        }
        let mut asked = Vec::new();
        for client in &mut clients {
            let start = dice.below(DISK_BYTES - region);
            let places = cut(&mut dice, (start, start + region), max.min(1 << 20));
            // At once: a client that sends without receiving could wait for itself.
            let stream: Vec<u8> = places.iter().flat_map(|(c, p)| header(READ, *c, *p)).collect();
            client.send(&mut world, &stream);
            asked.push(places);
        }
        for (client, places) in clients.iter_mut().zip(asked) {
            for (cookie, data) in client.all_data(&mut world, &places) {
                let (offset, len) = places[&cookie];
                assert!(data == model[offset..offset + len], "{len} at {offset}");
            }
        }
    }
    drop(clients);
    world.assert_no_leak();
}

#[test]
fn a_durable_write_in_pieces_is_flushed_once_at_its_end() {
    let mut world = World::new("fua", 16);
    let mut client = world.client("disk", false);
    let data = Dice(3).bytes(1 << 20);
    let fua = (command::WRITE, flag::FUA);
    client.request(&mut world, fua, 1, (4096, data.len()), &data);
    assert_eq!(client.simple(&mut world), (1, 0));
    let (last, before) = world.volumes.seen.split_last().unwrap();
    assert_eq!(*last, ("flush", 0, 0, false));
    assert!(before.len() > 1 && before.iter().all(|seen| seen.0 == "write" && !seen.3));
    assert!(before[1..].iter().all(|seen| seen.1 % 4096 == 0), "clusters are not cut");
    client.request(&mut world, fua, 1, (0, 4096), &[1; 4096]);
    assert_eq!(client.simple(&mut world), (1, 0));
    assert_eq!(*world.volumes.seen.last().unwrap(), ("write", 0, 4096, true));
}

#[test]
fn errors_of_the_volume_reach_the_client_and_only_those_requests() {
    for structured in [false, true] {
        let mut world = World::new("errors", 60);
        let mut client = world.client("disk", structured);
        world.volumes.bad = Some((1 << 20, 5));
        for place in [(1 << 20, 4096), (0, 3 << 20)] {
            client.request(&mut world, READ, 1, place, &[]);
            assert_eq!(client.data(&mut world, place), Err(error::EIO));
        }
        let data = vec![7; 2 << 20];
        client.request(&mut world, WRITE, 3, (0, data.len()), &data);
        assert_eq!(client.simple(&mut world), (3, error::EIO));
        // An errno that the protocol does not know becomes EIO.
        world.volumes.bad = Some((1 << 20, 77));
        client.request(&mut world, WRITE, 4, (1 << 20, 512), &data[..512]);
        assert_eq!(client.simple(&mut world), (4, error::EIO));
        world.volumes.bad = None;
        assert_eq!(read(&mut world, &mut client, (0, 512)), [7; 512]);
        assert!(world.nbd.stats(DISK).unwrap().errors >= 4);
        drop(client);
        world.assert_no_leak();
    }
}

#[test]
fn a_volume_that_waits_does_not_stop_the_others() {
    let mut world = World::new("waits", 32);
    let mut stuck: Vec<Client> = (0..6).map(|_| world.client("disk", true)).collect();
    world.volumes.held.insert(DISK, Vec::new());
    let mut flood = Vec::new();
    for cookie in 0..2000u64 {
        flood.extend(header(WRITE, cookie, (4096 * cookie as usize % DISK_BYTES, 4096)));
        flood.extend_from_slice(&[1; 4096]);
    }
    let taken: usize = stuck.iter_mut().map(|c| c.try_send(&mut world, &flood)).sum();
    assert!(taken < 6 * flood.len() / 2, "the clients were slowed down");
    let mut other = world.client("other", true);
    write(&mut world, &mut other, 100, &[9; 600_000]);
    assert_eq!(read(&mut world, &mut other, (0, 2 << 20))[100..600_100], [9; 600_000]);
    drop(stuck);
    world.settle();
    world.volumes.release(DISK);
    drop(other);
    world.assert_no_leak();
}

#[test]
fn a_client_is_slowed_down_at_the_limit_and_then_served_completely() {
    let mut world = World::new("limit", 64);
    let mut client = world.client("disk", false);
    world.volumes.held.insert(DISK, Vec::new());
    let count = REQUESTS_IN_FLIGHT_MAX as u64 + 100;
    let stream: Vec<u8> = (0..count).flat_map(|c| header(READ, c, (c as usize, 1))).collect();
    client.send(&mut world, &stream);
    world.settle();
    assert_eq!(world.volumes.held[&DISK].len(), REQUESTS_IN_FLIGHT_MAX as usize);
    let infos: Vec<_> = world.nbd.connections().collect();
    assert_eq!(infos[0].export.as_deref(), Some("disk"));
    assert_eq!(infos[0].in_flight, REQUESTS_IN_FLIGHT_MAX);
    world.volumes.release(DISK);
    let mut cookies: Vec<u64> = (0..count)
        .map(|_| {
            let (cookie, error) = client.simple(&mut world);
            assert_eq!((error, client.receive(&mut world, 1)), (0, vec![0]));
            cookie
        })
        .collect();
    cookies.sort_unstable();
    assert!(cookies.into_iter().eq(0..count));
}

#[test]
fn a_client_that_dies_leaves_nothing_behind() {
    let mut world = World::new("dies", 32);
    world.volumes.held.insert(DISK, Vec::new());
    for cut in [10, 28, 1000, 300_000] {
        let mut client = world.client("disk", true);
        for cookie in 0..20 {
            client.request(&mut world, READ, cookie, (0, 1000), &[]);
            client.request(&mut world, WRITE, cookie, (0, 4096), &[1; 4096]);
        }
        let mut last = header(WRITE, 99, (0, 1 << 20));
        last.resize(1 << 20, 5);
        client.send(&mut world, &last[..cut]);
        drop(client);
        world.settle();
    }
    let log = world.log();
    assert!(log.contains("in the middle of a request"), "{log}");
    assert!(log.contains("in the middle of the payload of a write"), "{log}");
    world.volumes.release(DISK);
    world.assert_no_leak();
}

#[test]
fn a_client_that_lost_its_place_is_closed_alone_and_named_in_the_log() {
    let mut world = World::new("lost", 8);
    let mut good = world.client("disk", false);
    let mut bad = world.client("disk", false);
    bad.send(&mut world, &[0x55; 28]);
    bad.assert_closed(&mut world);
    let log = world.nbd.take_log();
    let line = log.iter().find(|line| line.warning).unwrap();
    for word in ["\"disk\"", &format!("pid {}", std::process::id()), "0x55555555"] {
        assert!(line.text.contains(word), "{word} is missing in: {}", line.text);
    }
    write(&mut world, &mut good, 0, &[1; 512]);
}

#[test]
fn a_client_that_takes_no_replies_is_not_served_further() {
    let mut world = World::new("deaf", 16);
    let mut client = world.client("disk", true);
    let stream: Vec<u8> = (0..200_000).flat_map(|c| header((9, 0), c, (0, 0))).collect();
    let taken = client.try_send(&mut world, &stream);
    assert!(taken < stream.len(), "it took {taken} bytes");
    let reads: Vec<u8> = (0..400).flat_map(|c| header(READ, c, (0, 1 << 20))).collect();
    let mut reader = world.client("other", true);
    reader.send(&mut world, &reads);
    world.settle();
    assert!(world.nbd.stats(OTHER).unwrap().reads < 400);
    let mut other = world.client("other", true);
    write(&mut world, &mut other, 0, &[1; 512]);
    drop((client, reader, other));
    world.assert_no_leak();
}

#[test]
fn a_new_size_is_seen_after_the_connections_were_dropped() {
    let mut world = World::new("resize", 8);
    let mut old = world.client("disk", false);
    let mut other = world.client("other", false);
    world.volumes.bytes.insert(DISK, Slice::zeroed(2 * DISK_BYTES).unwrap());
    world.nbd.drop_connections(DISK);
    world.turn();
    old.assert_closed(&mut world);
    let mut new = world.client("disk", false);
    assert_eq!(new.size, 2 * DISK_BYTES as u64);
    write(&mut world, &mut new, DISK_BYTES, &[3; 512]);
    write(&mut world, &mut other, 0, &[3; 512]);
    assert!(world.log().contains("changed its size"));
}

#[test]
fn a_withdrawn_volume_closes_its_socket_and_its_connections() {
    let mut world = World::new("withdraw", 8);
    let mut client = world.client("disk", false);
    let mut silent = world.connect("disk");
    silent.receive(&mut world, nbd::GREETING_BYTES);
    world.nbd.unexport(&mut world.ring, DISK);
    world.settle();
    client.assert_closed(&mut world);
    silent.assert_closed(&mut world);
    assert!(!world.directory.join("disk").exists());
    assert_eq!(world.nbd.stats(DISK), None);
    let path = world.directory.join("disk");
    world.nbd.listen_unix(&mut world.ring, offer(DISK, "disk"), &path, 0o600, None).unwrap();
    drop(world.client("disk", false));
    world.nbd.close(&mut world.ring);
    world.assert_no_leak();
    assert_eq!(world.nbd.listeners.len(), 0);
}

#[test]
fn a_server_that_stops_hangs_up_before_its_loop_ends() {
    let mut world = World::new("stops", 8);
    let mut client = world.client("disk", false);
    world.nbd.close(&mut world.ring);
    let mut byte = [0];
    assert_eq!(client.stream.read(&mut byte).unwrap(), 0);
    assert!(!world.directory.join("disk").exists());
    world.assert_no_leak();
}

#[test]
fn without_descriptors_it_pauses_and_says_so_once() {
    let mut world = World::new("short", 8);
    let index = world.nbd.listeners.iter_mut().next().unwrap().0;
    let token = world.nbd.core.token(TokenKind::Accept, index);
    // EMFILE (errno(3)), as if the accept under way had failed, and again after each pause.
    for _ in 0..3 {
        let event = Event { token, result: -24 };
        world.nbd.on_event(event, &mut world.ring, &mut world.volumes);
    }
    assert_eq!(world.log().matches("cannot accept").count(), 1);
    drop(world.client("disk", false));
    world.nbd.close(&mut world.ring);
}

#[test]
fn exports_that_cannot_be_made_say_why() {
    let mut world = World::new("refuse", 8);
    let taken = world.nbd.export(offer(OTHER, "disk")).unwrap_err();
    assert!(matches!(taken, ExportError::NameTaken(_)));
    assert!(taken.to_string().contains("\"disk\""));
    let long = world.nbd.export(offer(OTHER, &"x".repeat(4097))).unwrap_err();
    assert!(matches!(long, ExportError::NameTooLong(4097)));
    let path = world.directory.join("disk");
    let path = path.as_path();
    let error = world.nbd.listen_unix(&mut world.ring, offer(OTHER, "new"), path, 0o600, None);
    assert!(error.unwrap_err().to_string().contains("another process serves it"));
    world.nbd.export(offer(OTHER, "new")).unwrap();
}

#[test]
fn tcp_serves_every_export_by_name_and_a_single_one_by_default() {
    let mut world = World::new("tcp", 8);
    let address = "127.0.0.1:0".parse().unwrap();
    let address = world.nbd.listen_tcp(&mut world.ring, address).unwrap();
    let ask = |world: &mut World, name: &str| {
        let mut stream = std::net::TcpStream::connect(address).unwrap();
        stream.set_nonblocking(true).unwrap();
        let mut hello = vec![0, 0, 0, 3];
        hello.extend(client_option(option::EXPORT_NAME, name.as_bytes()));
        stream.write_all(&hello).unwrap();
        let mut bytes = Vec::new();
        world.settle();
        stream.set_nonblocking(false).unwrap();
        stream.set_read_timeout(Some(std::time::Duration::from_secs(30))).unwrap();
        let mut piece = [0; 28];
        while let Ok(len @ 1..) = stream.read(&mut piece[bytes.len()..]) {
            bytes.extend_from_slice(&piece[..len]);
            piece = [0; 28];
            if bytes.len() == 28 {
                break;
            }
        }
        bytes.len()
    };
    assert_eq!(ask(&mut world, "disk"), 28, "greeting and answer");
    assert_eq!(ask(&mut world, "other"), 28);
    assert_eq!(ask(&mut world, ""), 18, "two exports: no default");
    world.nbd.unexport(&mut world.ring, OTHER);
    assert_eq!(ask(&mut world, ""), 28);
    let log = world.log();
    assert!(log.contains("127.0.0.1:"), "{log}");
}

#[test]
fn requests_sent_along_with_the_last_option_are_answered_after_it() {
    let mut world = World::new("pipelined", 8);
    let mut client = world.connect("disk");
    let mut bytes = vec![0, 0, 0, 3];
    bytes.extend(client_option(option::EXPORT_NAME, b"disk"));
    bytes.extend(header(READ, 7, (0, 512)));
    client.send(&mut world, &bytes);
    client.receive(&mut world, nbd::GREETING_BYTES + 10);
    assert_eq!(client.simple(&mut world), (7, 0));
    assert_eq!(client.receive(&mut world, 512), [0; 512]);
}

#[test]
fn block_status_is_merged_and_cut_as_asked() {
    let mut world = World::new("status", 8);
    let mut client = world.client("disk", true);
    write(&mut world, &mut client, 8192, &[1; 8192]);
    for (flags, expected) in
        [(0, vec![(8192, 3), (8192, 0), (49152, 3)]), (flag::REQ_ONE, vec![(8192u32, 3u32)])]
    {
        let status = (command::BLOCK_STATUS, flags);
        client.request(&mut world, status, 5, (0, 65536), &[]);
        let (done, kind, body) = client.chunk(&mut world);
        assert_eq!((done, kind, &body[..4]), (true, chunk::BLOCK_STATUS, &[0, 0, 0, 1][..]));
        let word = |bytes: &[u8]| u32::from_be_bytes(bytes.try_into().unwrap());
        let found: Vec<_> =
            body[4..].chunks(8).map(|pair| (word(&pair[..4]), word(&pair[4..]))).collect();
        assert_eq!(found, expected);
    }
}

#[test]
fn data_that_must_not_be_fragmented_comes_whole_or_not_at_all() {
    let mut world = World::new("df", 8);
    let mut client = world.client("disk", true);
    let df = (command::READ, flag::DF);
    client.request(&mut world, df, 5, (100, 256 << 10), &[]);
    let (done, kind, body) = client.chunk(&mut world);
    assert_eq!((done, kind, body.len()), (true, chunk::OFFSET_DATA, (256 << 10) + 8));
    client.request(&mut world, df, 5, (0, (256 << 10) + 1), &[]);
    assert_eq!(client.data(&mut world, (0, 0)), Err(error::EOVERFLOW));
}

#[test]
fn a_large_simple_read_that_can_never_fit_is_refused() {
    let mut world = World::new("nomem", 4);
    let mut client = world.client("disk", false);
    client.request(&mut world, READ, 5, (0, 2 << 20), &[]);
    assert_eq!(client.data(&mut world, (0, 2 << 20)), Err(error::ENOMEM));
    assert_eq!(read(&mut world, &mut client, (0, 4096)), [0; 4096]);
}

#[test]
fn verbs_without_data_are_passed_on_and_counted() {
    let mut world = World::new("verbs", 8);
    let mut client = world.client("disk", false);
    let zero = (command::WRITE_ZEROES, flag::FUA | flag::FAST_ZERO | flag::NO_HOLE);
    for (command, place) in [
        (zero, (0, 8192)),
        ((command::TRIM, 0), (4096, 100)),
        ((command::FLUSH, 0), (0, 0)),
        ((command::CACHE, 0), (0, 4096)),
        ((command::READ, 0), (5, 0)),
        ((command::WRITE, 0), (5, 0)),
        ((command::TRIM, 0), (5, 0)),
    ] {
        client.request(&mut world, command, 6, place, &[]);
        assert_eq!(client.simple(&mut world), (6, 0), "{command:?}");
    }
    let expected = [("zero", 0, 8192, true), ("trim", 4096, 100, false), ("flush", 0, 0, false)];
    assert_eq!(world.volumes.seen, expected);
    let stats = world.nbd.stats(DISK).unwrap();
    let counted = Stats { reads: 1, writes: 1, flushes: 1, trims: 3, others: 1, ..stats };
    assert_eq!(stats, counted);
}

#[test]
fn an_outcome_of_no_request_is_ignored_and_logged() {
    let mut world = World::new("strange", 8);
    let mut client = world.client("disk", false);
    world.nbd.complete(Completion { id: STRANGE, outcome: Outcome::Done });
    assert!(world.log().contains("no request"));
    write(&mut world, &mut client, 0, &[1; 512]);
}
