//! The server against hand-made requests of a kernel, and volumes of plain memory.

use std::os::unix::net::UnixDatagram;

use format::fuse::{KEEP_SIZE, PUNCH_HOLE, SEEK_DATA, SEEK_HOLE, ZERO_RANGE};
use media::Wait;

use super::*;
use crate::memory::MemoryTargets;
use crate::patience::Patience;

const MIB: u64 = 1 << 20;
const CLASS: u8 = 9;

const GETATTR: u32 = 3;
const SETATTR: u32 = 4;
const READ: u32 = 15;
const WRITE: u32 = 16;
const FSYNC: u32 = 20;
const INIT: u32 = 26;
const FALLOCATE: u32 = 43;
const LSEEK: u32 = 46;

const ENXIO: i32 = 6;
const EFBIG: i32 = 27;
const ENOSPC: i32 = 28;
const EROFS: i32 = 30;
const ENOSYS: i32 = 38;
const EOPNOTSUPP: i32 = 95;

/// The kernel's end of a mount.
struct Kernel {
    socket: UnixDatagram,
    unique: u64,
}

type Answer = Result<Vec<u8>, i32>;

impl Kernel {
    fn send(&mut self, opcode: u32, arguments: &[u8]) -> u64 {
        self.unique += 2;
        let len = 40 + arguments.len();
        let mut bytes = Vec::with_capacity(len);
        bytes.extend_from_slice(&(len as u32).to_le_bytes());
        bytes.extend_from_slice(&opcode.to_le_bytes());
        bytes.extend_from_slice(&self.unique.to_le_bytes());
        bytes.extend_from_slice(&[0; 24]);
        bytes.extend_from_slice(arguments);
        assert_eq!(self.socket.send(&bytes).unwrap(), len);
        self.unique
    }

    fn receive(&self) -> Option<(u64, Answer)> {
        let mut bytes = vec![0; 1 << 20];
        let len = self.socket.recv(&mut bytes).ok()?;
        bytes.truncate(len);
        let word = |at: usize| u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap());
        assert_eq!(word(0) as usize, len, "the reply says its length");
        let unique = u64::from_le_bytes(bytes[8..16].try_into().unwrap());
        let errno = -(word(4) as i32);
        Some((unique, if errno == 0 { Ok(bytes[16..].to_vec()) } else { Err(errno) }))
    }
}

struct World {
    ring: Ring,
    server: FuseServer,
    volumes: MemoryTargets,
    kernels: Vec<Kernel>,
}

impl World {
    /// Volumes of 1 MiB, which can grow to 2 MiB, each of them a file.
    fn new(files: u32) -> Self {
        let arena = Arena::anonymous(16 * memory::CHUNK_BYTES).unwrap();
        let mut world = Self {
            ring: Ring::new(64).unwrap(),
            server: FuseServer::new(CLASS, arena, 0),
            volumes: MemoryTargets::default(),
            kernels: Vec::new(),
        };
        for id in 0..files {
            world.volumes.add(id, [id as u8; 16], MIB, 2 * MIB).unwrap();
            world.mount(id, false);
        }
        world
    }

    fn mount(&mut self, id: u32, read_only: bool) {
        let (ours, theirs) = UnixDatagram::pair().unwrap();
        ours.set_nonblocking(true).unwrap();
        theirs.set_nonblocking(true).unwrap();
        let name = format!("web{id}");
        let (volume, mode, owner) = (VolumeId(id), 0o660, (107, 108));
        let offer = FileOffer { volume, name, read_only, mode, owner };
        self.server.adopt(&mut self.ring, offer, FuseDevice::over(ours.into()));
        self.kernels.push(Kernel { socket: theirs, unique: 0 });
    }

    fn turn(&mut self) {
        let mut events = Vec::new();
        self.ring.turn(Wait::No, &mut events).unwrap();
        for event in events {
            self.server.on_event(event, &mut self.ring, &mut self.volumes);
        }
        loop {
            let mut done = Vec::new();
            self.volumes.take_completions(&mut done);
            done.into_iter().for_each(|completion| self.server.complete(completion));
            if !self.server.end_turn(&mut self.ring, &mut self.volumes) {
                return;
            }
        }
    }

    /// What the next reply is.
    #[track_caller]
    fn reply(&mut self, file: usize) -> (u64, Answer) {
        let patience = Patience::new();
        loop {
            patience.wait_on(|| self.server.take_log());
            self.turn();
            if let Some(reply) = self.kernels[file].receive() {
                return reply;
            }
        }
    }

    fn ask_of(&mut self, file: usize, opcode: u32, arguments: &[u8]) -> Answer {
        let unique = self.kernels[file].send(opcode, arguments);
        let (answered, answer) = self.reply(file);
        assert_eq!(answered, unique);
        answer
    }

    fn ask(&mut self, opcode: u32, arguments: &[u8]) -> Answer {
        self.ask_of(0, opcode, arguments)
    }

    fn write(&mut self, offset: u64, bytes: &[u8]) -> Result<u32, i32> {
        let answer = self.ask(WRITE, &[&io_arguments(offset, bytes.len()), bytes].concat())?;
        Ok(u32::from_le_bytes(answer[..4].try_into().unwrap()))
    }

    fn read(&mut self, offset: u64, len: usize) -> Answer {
        self.ask(READ, &io_arguments(offset, len))
    }

    fn size(&mut self) -> u64 {
        let answer = self.ask(GETATTR, &[0; 16]).unwrap();
        u64::from_le_bytes(answer[24..32].try_into().unwrap())
    }

    fn set_size(&mut self, size: u64) -> Answer {
        let mut arguments = [0; 88];
        arguments[0] = 8;
        arguments[16..24].copy_from_slice(&size.to_le_bytes());
        self.ask(SETATTR, &arguments)
    }

    fn allocate(&mut self, offset: u64, len: u64, mode: u32) -> Answer {
        let words = [0, offset, len, u64::from(mode)];
        self.ask(FALLOCATE, &words.map(u64::to_le_bytes).concat())
    }

    fn seek(&mut self, offset: u64, whence: u32) -> Result<u64, i32> {
        let words = [0, offset, u64::from(whence)];
        let answer = self.ask(LSEEK, &words.map(u64::to_le_bytes).concat())?;
        Ok(u64::from_le_bytes(answer[..8].try_into().unwrap()))
    }
}

fn io_arguments(offset: u64, len: usize) -> Vec<u8> {
    [0, offset, len as u64, 0, 0].map(u64::to_le_bytes).concat()
}

#[test]
fn what_is_written_is_read() {
    let mut world = World::new(1);
    assert_eq!(
        world.ask(INIT, &[7, 0, 0, 0, 40, 0, 0, 0, 0, 0, 0, 0, 255, 255, 255, 255]).unwrap().len(),
        64
    );
    assert_eq!(world.write(5000, &[7; 3000]), Ok(3000));
    assert_eq!(world.read(5000, 3000).unwrap(), [7; 3000]);
    assert_eq!(world.read(4999, 2).unwrap(), [0, 7]);
    assert_eq!(world.ask(FSYNC, &[0; 16]), Ok(Vec::new()));
    assert!(world.server.is_idle());
}

#[test]
fn the_end_is_where_the_volume_ends() {
    let mut world = World::new(1);
    assert_eq!(world.size(), MIB);
    assert_eq!(world.read(MIB - 10, 4096).unwrap().len(), 10);
    assert_eq!(world.read(MIB, 4096).unwrap().len(), 0);
    assert_eq!(world.write(MIB - 10, &[1; 20]), Err(ENOSPC));
    assert_eq!(world.write(u64::MAX - 1, &[1; 20]), Err(ENOSPC));
    world.volumes.resize(0, 2 * MIB);
    assert_eq!(world.size(), 2 * MIB, "it is asked for each time");
    assert_eq!(world.write(MIB - 10, &[1; 20]), Ok(20));
    assert!(world.server.is_idle());
}

#[test]
fn what_is_cut_off_reads_as_zeroes_and_the_size_stays() {
    let mut world = World::new(1);
    world.write(0, &[1; 8192]).unwrap();
    world.set_size(4096).unwrap();
    assert_eq!(world.size(), MIB);
    assert_eq!(world.read(4095, 2).unwrap(), [1, 0]);
    assert_eq!(world.set_size(MIB).map(|_| ()), Ok(()), "as it is");
    assert_eq!(world.set_size(MIB + 1).map(|_| ()), Err(EFBIG));
    world.set_size(0).unwrap();
    assert_eq!(world.read(0, 4096).unwrap(), [0; 4096]);
}

#[test]
fn ranges_are_forgotten_and_zeroed() {
    let mut world = World::new(1);
    world.write(0, &[1; 16384]).unwrap();
    assert_eq!(world.allocate(0, 4096, PUNCH_HOLE | KEEP_SIZE), Ok(Vec::new()));
    assert_eq!(world.allocate(8192, 4096, ZERO_RANGE), Ok(Vec::new()));
    assert_eq!(world.read(4095, 2).unwrap(), [0, 1]);
    assert_eq!(world.read(8191, 2).unwrap(), [1, 0]);
    assert_eq!(world.allocate(0, 4096, 0), Err(EOPNOTSUPP), "nothing can be set aside");
    assert_eq!(world.allocate(0, 2 * MIB, ZERO_RANGE), Err(EFBIG));
    let behind = world.allocate(MIB - 4096, MIB, PUNCH_HOLE | KEEP_SIZE);
    assert_eq!(behind, Ok(Vec::new()));
}

#[test]
fn data_and_holes_are_found() {
    let mut world = World::new(1);
    world.write(8192, &[1; 4096]).unwrap();
    assert_eq!(world.seek(0, SEEK_DATA), Ok(8192));
    assert_eq!(world.seek(9000, SEEK_DATA), Ok(9000));
    assert_eq!(world.seek(8192, SEEK_HOLE), Ok(12288));
    assert_eq!(world.seek(12288, SEEK_DATA), Err(ENXIO));
    world.write(MIB - 4096, &[1; 4096]).unwrap();
    assert_eq!(world.seek(MIB - 4096, SEEK_HOLE), Ok(MIB), "the end counts as one");
    assert_eq!(world.seek(MIB, SEEK_HOLE), Err(ENXIO));
}

#[test]
fn owner_and_mode_can_be_changed() {
    let mut world = World::new(1);
    let mut arguments = [0; 88];
    arguments[0] = 1 | 2;
    arguments[68..72].copy_from_slice(&0o100_644u32.to_le_bytes());
    arguments[76..80].copy_from_slice(&42u32.to_le_bytes());
    let answer = world.ask(SETATTR, &arguments).unwrap();
    let word = |at: usize| u32::from_le_bytes(answer[at..at + 4].try_into().unwrap());
    assert_eq!((word(76), word(84), word(88)), (0o100_644, 42, 108));
    assert_eq!(world.ask(GETATTR, &[0; 16]).unwrap(), answer);
}

#[test]
fn a_read_only_file_takes_nothing() {
    let mut world = World::new(1);
    world.mount(0, true);
    let write = [io_arguments(0, 1), vec![1]].concat();
    assert_eq!(world.ask_of(1, WRITE, &write), Err(EROFS));
    let punch = [0, 0, 4096, 3].map(u64::to_le_bytes).concat();
    assert_eq!(world.ask_of(1, FALLOCATE, &punch), Err(EROFS));
    assert_eq!(world.ask_of(1, 99, &[]), Err(ENOSYS));
    world.volumes.set_read_only(0, true);
    assert_eq!(world.write(0, &[1]), Err(EROFS), "the volume itself is");
}

#[test]
fn a_volume_that_does_not_answer_holds_up_no_other() {
    let mut world = World::new(3);
    world.volumes.stall(true);
    let page = [io_arguments(0, 4096), vec![1; 4096]].concat();
    // More than fit: the rest stays with the kernel.
    for _ in 0..16 {
        world.kernels[0].send(WRITE, &page);
        world.turn();
    }
    let waiting = world.volumes.stalled_count();
    assert!(waiting < 12, "{waiting}");
    world.kernels[1].send(WRITE, &page);
    world.turn();
    assert_eq!(world.volumes.stalled_count(), waiting + 1, "another volume's is taken");
    assert_eq!(world.ask_of(2, GETATTR, &[0; 16]).unwrap().len(), 104);
    world.volumes.stall(false);
    for _ in 0..16 {
        assert!(world.reply(0).1.is_ok());
    }
    assert!(world.reply(1).1.is_ok());
    assert!(world.server.is_idle());
}

#[test]
fn what_comes_late_for_a_gone_file_does_not_reach_its_successor() {
    let mut world = World::new(1);
    world.volumes.stall(true);
    world.kernels[0].send(READ, &io_arguments(0, 4096));
    let patience = Patience::new();
    while world.volumes.stalled_count() == 0 {
        patience.wait_on(|| world.server.take_log());
        world.turn();
    }
    world.server.unmount(VolumeId(0));
    assert!(!world.server.is_idle(), "its memory may still be written to");
    world.mount(0, false);
    world.volumes.stall(false);
    world.turn();
    assert!(world.kernels[1].receive().is_none());
    assert!(world.server.is_idle());
    assert_eq!(world.ask_of(1, READ, &io_arguments(0, 10)).unwrap(), [0; 10]);
}
