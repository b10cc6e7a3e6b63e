//! Clients that choose no export, beside some that work.

use std::time::Duration;

use format::nbd::{GREETING_BYTES, option};
use net::Lobby;

use super::world::{Client, DISK, World, client_option, header};
use super::{WRITE, read, write};
use crate::patience::Patience;

const LONG: Duration = Duration::from_secs(3600);

impl World {
    fn lobbies(&mut self, max: usize, patience: Duration) {
        for (_, listener) in self.nbd.listeners.iter_mut() {
            listener.lobby = Lobby::new(max, patience);
        }
    }
}

fn works(world: &mut World, client: &mut Client) {
    write(world, client, 4096, &[7; 8192]);
    assert_eq!(read(world, client, (4096, 8192)), [7; 8192]);
}

fn closes(world: &mut World, client: &mut Client) {
    while client.try_receive(world, 1).is_some() {}
}

#[test]
fn who_chooses_no_export_in_time_is_closed_and_guests_stay() {
    let mut world = World::new("greeting", 60);
    let mut guest = world.client("disk", true);
    world.lobbies(8, Duration::from_millis(50));
    let mut silent = world.connect("disk");
    closes(&mut world, &mut silent);
    let log = world.log();
    assert!(log.contains("1 connections that did not say who they are in 50ms"), "{log}");
    // Part of an option is none.
    let mut slow = world.connect("disk");
    slow.send(&mut world, &[0, 0, 0, 3, 0x49, 0x48]);
    closes(&mut world, &mut slow);
    works(&mut world, &mut guest);
    let mut late = world.client("disk", false);
    works(&mut world, &mut late);
    drop((guest, late));
    world.assert_no_leak();
}

#[test]
fn a_flood_of_silent_clients_keeps_nobody_out_and_ends_no_guest() {
    let mut world = World::new("flood", 60);
    let mut guest = world.client("disk", true);
    world.lobbies(4, LONG);
    world.log();
    let mut flood: Vec<Client> = Vec::new();
    for _ in 0..100 {
        flood.push(world.connect("disk"));
        works(&mut world, &mut guest);
    }
    let mut newcomer = world.client("disk", false);
    works(&mut world, &mut newcomer);
    works(&mut world, &mut guest);
    flood[..95].iter_mut().for_each(|client| closes(&mut world, client));
    world.settle();
    assert!(world.nbd.connections().count() <= 2 + 4);
    let log = world.log();
    assert_eq!(log.matches("4 connections have not said who they are").count(), 1, "{log}");
    drop((flood, guest, newcomer));
    world.assert_no_leak();
}

#[test]
fn when_there_are_as_many_as_there_may_be_silent_clients_give_way() {
    let mut world = World::new("many", 60);
    world.nbd.connections_max = 4;
    let mut guest = world.client("disk", true);
    let mut flood: Vec<Client> = (0..20).map(|_| world.connect("other")).collect();
    world.settle();
    let mut newcomer = world.client("disk", false);
    works(&mut world, &mut newcomer);
    works(&mut world, &mut guest);
    closes(&mut world, &mut flood[0]);
    let log = world.log();
    assert_eq!(log.matches("connections are open, others wait").count(), 1, "{log}");
    // Guests give way to nobody.
    let others = [(); 2].map(|()| world.client("disk", false));
    let mut waits = world.connect("disk");
    world.settle();
    works(&mut world, &mut guest);
    drop(others);
    waits.negotiate(&mut world, "disk", false);
    works(&mut world, &mut waits);
    drop((flood, guest, newcomer, waits));
    world.assert_no_leak();
}

/// It is the server that has no memory to hear what it says.
#[test]
fn who_waits_for_memory_is_not_late() {
    let mut world = World::new("memory", 4);
    world.volumes.held.insert(DISK, Vec::new());
    let mut guest = world.client("disk", false);
    let payload = vec![1; 256 << 10];
    let writes = (0..8u64).flat_map(|at| {
        let place = (at as usize * payload.len(), payload.len());
        header(WRITE, at, place).into_iter().chain(payload.iter().copied())
    });
    let writes: Vec<u8> = writes.collect();
    assert!(guest.try_send(&mut world, &writes) < writes.len(), "it has taken all memory");
    let mut patient = world.connect("disk");
    patient.receive(&mut world, GREETING_BYTES);
    patient.send(&mut world, &[0, 0, 0, 3]);
    let patience = Patience::new();
    let waits = loop {
        let mut all = world.nbd.connections.iter_mut();
        if let Some((waits, _)) = all.find(|(_, one)| one.queued && one.is_choosing()) {
            break waits;
        }
        drop(all);
        patience.wait_on(|| world.log());
        world.turn();
    };
    // Its time is over.
    world.lobbies(8, Duration::ZERO);
    let (way, listener) = world.nbd.listeners.iter_mut().next().unwrap();
    listener.lobby.enter(waits, 0);
    world.nbd.close_late(way, &mut world.ring);
    world.turn();
    world.lobbies(8, LONG);
    world.volumes.release(DISK);
    patient.send(&mut world, &client_option(option::EXPORT_NAME, b"disk"));
    patient.receive(&mut world, 10);
    drop((guest, patient));
    world.assert_no_leak();
}
