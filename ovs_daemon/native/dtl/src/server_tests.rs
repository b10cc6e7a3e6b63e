//! Callers that are turned away, and those that come while a volume is being forgotten.
#![allow(clippy::disallowed_methods)]

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::time::{Duration, Instant};

use buffer::DiskFiles;
use media::{Dir, Wait};

use super::*;
use crate::owner::Owner;
use crate::replica::{read, store_fence};
use crate::tasks::Lane;

const CLUSTER: Uuid = [1; 16];
const VOLUME: Uuid = [0x33; 16];

fn hello(cluster: Uuid, role: Role, epoch: u64) -> Hello {
    Hello { version: VERSION, role, volume: VOLUME, cluster, epoch, generation: 0 }
}

/// What a caller hears whose connection another shard has accepted, and whether that is all.
fn call(server: &mut Server, ring: &mut Ring, hello: Hello) -> Frame {
    let (here, mut caller) = UnixStream::pair().unwrap();
    let fd = Arc::new(OwnedFd::from(here));
    server.adopt(Guest { fd, hello }, ring);
    for task in server.take_tasks() {
        server.on_task(task.run(), ring);
    }
    let mut heard = Vec::new();
    caller.read_to_end(&mut heard).unwrap();
    Frame::decode(heard.as_slice().try_into().unwrap()).unwrap()
}

#[test]
fn a_caller_that_is_turned_away_leaves_no_connection() {
    let root = std::env::temp_dir().join(format!("ovs-dtl-turned-{}", std::process::id()));
    let _ = std::fs::remove_dir_all(&root);
    Dir::create(&root.join(uuid_text(&VOLUME))).unwrap();
    let fence = Fence { volume: VOLUME, epoch: 5, suspect: false };
    store_fence(&DiskFiles::new(&root), &fence).unwrap();
    let mut ring = Ring::new(64).unwrap();
    let mut server = Server::new(5, &root, CLUSTER, 0, 1);

    let stranger = hello([9; 16], Role::Owner, 6);
    let heard = call(&mut server, &mut ring, stranger);
    assert_eq!(heard, Frame::Rejected(Rejection::Cluster));
    assert!(server.connections.is_empty(), "of another cluster");

    // The fence has to be read first; for the second one it is known.
    for role in [Role::Successor, Role::Remover, Role::Owner] {
        let heard = call(&mut server, &mut ring, hello(CLUSTER, role, 3));
        assert_eq!(heard, Frame::Refused { fence: 5 });
        assert!(server.connections.is_empty(), "of an older epoch, {role:?}");
    }
    let _ = std::fs::remove_dir_all(&root);
}

/// A server with a fence of epoch 5, in a folder of its own.
struct World {
    root: PathBuf,
    ring: Ring,
    server: Server,
}

/// One that has said hello.
struct Visitor(UnixStream);

impl World {
    fn new(name: &str) -> Self {
        let root = std::env::temp_dir().join(format!("ovs-dtl-{name}-{}", std::process::id()));
        let _ = std::fs::remove_dir_all(&root);
        Dir::create(&root.join(uuid_text(&VOLUME))).unwrap();
        let (ring, server) = (Ring::new(64).unwrap(), Server::new(5, &root, CLUSTER, 0, 1));
        let world = Self { root, ring, server };
        world.fence(5, false);
        world
    }

    fn fence(&self, epoch: u64, suspect: bool) {
        let fence = Fence { volume: VOLUME, epoch, suspect };
        store_fence(&DiskFiles::new(&self.root), &fence).unwrap();
    }

    fn hello(&mut self, role: Role, epoch: u64) -> Visitor {
        let (here, caller) = UnixStream::pair().unwrap();
        caller.set_nonblocking(true).unwrap();
        let fd = Arc::new(OwnedFd::from(here));
        self.server.adopt(Guest { fd, hello: hello(CLUSTER, role, epoch) }, &mut self.ring);
        Visitor(caller)
    }

    /// What comes before the removal: the fence is read.
    fn work_until_removal(&mut self) {
        let load = self.server.take_tasks().pop().unwrap();
        self.done(load.run());
    }

    /// Threads do all that is to be done.
    fn work(&mut self) {
        loop {
            let tasks = self.server.take_tasks();
            if tasks.is_empty() {
                return;
            }
            tasks.into_iter().for_each(|task| self.done(task.run()));
        }
    }

    fn done(&mut self, done: TaskDone) {
        self.server.on_task(done, &mut self.ring);
    }

    fn listen(&mut self) -> SocketAddr {
        self.server.listen("127.0.0.1:0".parse().unwrap(), &mut self.ring).unwrap()
    }

    /// Serves until this is so.
    fn serve_until(&mut self, what: &str, mut done: impl FnMut(&Server) -> bool) {
        let (mut events, end) = (Vec::new(), Instant::now() + Duration::from_secs(60));
        while !done(&self.server) {
            assert!(Instant::now() < end, "{what}: not by now");
            self.ring.turn(Wait::AtMost(Duration::from_millis(20)), &mut events).unwrap();
            events.drain(..).for_each(|event| self.server.on_event(event, &mut self.ring));
            self.work();
        }
    }

    fn serve_until_closed(&mut self, stream: &mut TcpStream) {
        stream.set_nonblocking(true).unwrap();
        self.serve_until("it is closed", |_| match stream.read(&mut [0]) {
            Ok(bytes) => bytes == 0,
            Err(error) => error.kind() == ErrorKind::ConnectionReset,
        });
    }

    /// One who is greeted, by a socket.
    fn greet(&mut self, address: SocketAddr) -> TcpStream {
        let mut stream = TcpStream::connect(address).unwrap();
        stream.write_all(&Frame::Hello(hello(CLUSTER, Role::Owner, 5)).encode()).unwrap();
        stream.set_nonblocking(true).unwrap();
        let mut bytes = [0; FRAME];
        self.serve_until("greeted", |_| stream.read_exact(&mut bytes).is_ok());
        assert!(matches!(Frame::decode(&bytes), Ok(Frame::Greeted(_))));
        stream
    }

    /// An owner that is greeted, and has sent so many SCOs of one batch each.
    fn filled(name: &str, scos: u32) -> (Self, Visitor, u32) {
        let mut world = Self::new(name);
        let mut visitor = world.hello(Role::Owner, 5);
        world.work();
        assert!(visitor.is_greeted());
        let connection = *world.server.connections.keys().next().unwrap();
        world.tell(Message::Resume { connection }, None);
        let mut owner = Owner::new(VOLUME);
        for sequence in 1..=scos {
            owner.next_sco();
            let payload = Slice::copy_of(&owner.batch(1)).unwrap();
            let new = inspect(&payload, &VOLUME, &mut Vec::new()).unwrap();
            let message = Message::Append { connection, piece: new.piece };
            world.tell(message, Some((&new, &payload)));
            let sequence = sequence.into();
            assert_eq!(visitor.hears(), Some(Frame::Acknowledged { sequence }));
        }
        (world, visitor, connection)
    }

    fn tell(&mut self, message: Message, append: Option<(&Contents, &Slice)>) {
        self.server.tell(VOLUME, message, append, &mut self.ring);
    }

    /// Names in the volume's folder that begin so.
    fn count(&self, prefix: &str) -> usize {
        let names = Dir::at(&self.root.join(uuid_text(&VOLUME))).list().unwrap();
        names.iter().filter(|name| name.starts_with(prefix)).count()
    }

    fn folder_exists(&self) -> bool {
        self.root.join(uuid_text(&VOLUME)).exists()
    }
}

impl Drop for World {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.root);
    }
}

impl Visitor {
    /// The next frame, if there is one.
    fn hears(&mut self) -> Option<Frame> {
        let mut bytes = [0; FRAME];
        self.0.read_exact(&mut bytes).ok().and_then(|()| Frame::decode(&bytes).ok())
    }

    fn is_greeted(&mut self) -> bool {
        matches!(self.hears(), Some(Frame::Greeted(_)))
    }
}

/// What was appended to files that are being removed would be acknowledged, and be gone.
#[test]
fn an_owner_is_greeted_after_a_removal_and_not_during_it() {
    let mut world = World::new("during");
    let mut remover = world.hello(Role::Remover, 5);
    world.work_until_removal();
    let removal = world.server.take_tasks().pop().unwrap();
    assert!(remover.is_greeted());
    let mut owner = world.hello(Role::Owner, 5);
    assert!(world.server.take_tasks().is_empty());
    assert_eq!(owner.hears(), None, "the files are being removed");
    world.done(removal.run());
    assert_eq!(remover.hears(), Some(Frame::Done));
    assert!(!world.folder_exists());
    world.work();
    let Some(Frame::Greeted(greeted)) = owner.hears() else { panic!("it waits in vain") };
    assert_eq!((greeted.fence, greeted.end), (5, None));
    assert!(greeted.suspect, "nobody knows what this node had held");
    assert!(world.folder_exists());
}

/// The second removal would take the volume away from an owner that has come in between.
#[test]
fn of_two_removers_the_second_waits_for_the_first() {
    let mut world = World::new("twice");
    let mut first = world.hello(Role::Remover, 5);
    world.work_until_removal();
    let mut second = world.hello(Role::Remover, 5);
    let removals = world.server.take_tasks();
    assert_eq!(removals.len(), 1, "one at a time");
    removals.into_iter().for_each(|task| world.done(task.run()));
    assert!(first.is_greeted());
    assert_eq!(first.hears(), Some(Frame::Done));
    world.work();
    assert!(second.is_greeted());
    assert_eq!(second.hears(), Some(Frame::Done));
    assert!(world.server.volumes.is_empty() && world.server.connections.is_empty());
    assert!(!world.folder_exists());
}

/// The fence would bring a part of the folder back.
#[test]
fn a_removal_waits_for_a_fence_that_is_being_stored() {
    let mut world = World::new("fence");
    let mut owner = world.hello(Role::Owner, 5);
    world.work();
    assert!(owner.is_greeted());
    let mut newer = world.hello(Role::Owner, 6);
    let store = world.server.take_tasks().pop().unwrap();
    let mut remover = world.hello(Role::Remover, 5);
    assert!(remover.is_greeted());
    assert!(world.server.take_tasks().is_empty(), "a fence is being stored");
    world.done(store.run());
    world.work();
    assert_eq!(remover.hears(), Some(Frame::Done));
    assert!(newer.is_greeted(), "it was asked again");
}

/// Who has said hello later wants the volume.
#[test]
fn a_remover_that_was_superseded_removes_nothing() {
    let mut world = World::new("superseded");
    let mut remover = world.hello(Role::Remover, 6);
    let mut owner = world.hello(Role::Owner, 6);
    world.work();
    assert!(remover.is_greeted());
    assert_eq!(remover.hears(), None);
    assert!(owner.is_greeted());
    assert!(world.folder_exists());
}

/// The fence of a successor would go back, and let the owner before it in again after a restart.
#[test]
fn vouching_for_what_is_held_lowers_no_fence() {
    let mut world = World::new("vouch");
    world.fence(5, true);
    let mut owner = world.hello(Role::Owner, 5);
    world.work();
    let Some(Frame::Greeted(greeted)) = owner.hears() else { panic!("it is not greeted") };
    assert!(greeted.suspect);
    let connection = *world.server.connections.keys().next().unwrap();
    let mut successor = world.hello(Role::Successor, 6);
    world.server.tell(VOLUME, Message::Resume { connection }, None, &mut world.ring);
    world.work();
    assert!(matches!(successor.hears(), Some(Frame::Greeted(_))));
    let stored = read(&DiskFiles::new(&world.root), &VOLUME).unwrap().fence;
    assert_eq!(stored, Fence { volume: VOLUME, epoch: 6, suspect: false });
}

#[test]
fn an_answer_that_nobody_reads_ends_the_connection_at_last() {
    let mut world = World::new("deaf");
    let owner = world.hello(Role::Owner, 5);
    world.work();
    let number = *world.server.connections.keys().next().unwrap();
    let mut answers = 0;
    while !world.server.connections[&number].closed {
        world.server.send(number, Frame::Acknowledged { sequence: 1 }, &mut world.ring);
        answers += 1;
        assert!(answers < 1_000_000, "they pile up");
    }
    assert!(world.server.take_log().concat().contains("does not read"));
    drop(owner);
}

#[test]
fn without_descriptors_it_says_so_once() {
    let mut world = World::new("short");
    world.server.listen("127.0.0.1:0".parse().unwrap(), &mut world.ring).unwrap();
    let token = world.server.token(ACCEPT, 0);
    for _ in 0..3 {
        // EMFILE (errno(3)).
        world.server.on_event(Event { token, result: -24 }, &mut world.ring);
    }
    assert_eq!(world.server.take_log().len(), 1);
}

#[test]
fn who_does_not_say_hello_in_time_is_closed() {
    let mut world = World::new("late");
    world.server.lobby = Lobby::new(8, Duration::from_millis(50));
    let address = world.listen();
    let mut silent = TcpStream::connect(address).unwrap();
    world.serve_until_closed(&mut silent);
    assert!(world.server.take_log().concat().contains("did not say who they are in 50ms"));
    // Part of a frame is no hello.
    let mut slow = TcpStream::connect(address).unwrap();
    slow.write_all(&Frame::Hello(hello(CLUSTER, Role::Owner, 5)).encode()[..FRAME - 1]).unwrap();
    world.serve_until_closed(&mut slow);
    world.serve_until("both are forgotten", |server| server.connections.is_empty());
}

#[test]
fn of_too_many_that_say_no_hello_the_oldest_is_closed() {
    let mut world = World::new("many");
    world.server.lobby = Lobby::new(2, Duration::from_secs(3600));
    let address = world.listen();
    let mut silent: Vec<TcpStream> = (0..3).map(|_| TcpStream::connect(address).unwrap()).collect();
    world.serve_until_closed(&mut silent[0]);
    assert!(world.server.take_log().concat().contains("2 connections have not said who they are"));
    let _owner = world.greet(address);
    world.serve_until_closed(&mut silent[1]);
    assert!(world.server.take_log().is_empty(), "said once");
    world.serve_until("one is silent, one greeted", |server| server.connections.len() == 2);
}

#[test]
fn there_are_only_so_many_connections_and_silent_ones_give_way() {
    let mut world = World::new("full");
    world.server.connections_max = 1;
    let address = world.listen();
    let mut silent = TcpStream::connect(address).unwrap();
    world.serve_until("it is let in", |server| server.connections.len() == 1);
    let owner = world.greet(address);
    world.serve_until_closed(&mut silent);
    let mut other = TcpStream::connect(address).unwrap();
    world.serve_until_closed(&mut other);
    assert!(world.server.take_log().concat().contains("1 connections are open"));
    drop(owner);
    world.serve_until("the owner is gone", |server| server.connections.is_empty());
    world.greet(address);
}

/// Its payload would fill the room that a connection has.
#[test]
fn what_comes_before_a_hello_ends_it_at_once() {
    let mut world = World::new("payload");
    let address = world.listen();
    let mut stranger = TcpStream::connect(address).unwrap();
    let append = Frame::Append { payload: PAYLOAD_MAX as u32 };
    stranger.write_all(&append.encode()).unwrap();
    world.serve_until_closed(&mut stranger);
}

/// A shard has no time to give back what large files take: acknowledgements wait for it.
#[test]
fn what_is_trimmed_or_wiped_is_removed_by_a_thread() {
    let (mut world, _visitor, connection) = World::filled("unlink", 6);
    let (files, kept) =
        (|world: &World| world.count("0000"), |world: &World| world.count("spare-"));
    world.tell(Message::Trim { connection, below: 6 }, None);
    assert_eq!((files(&world), kept(&world), world.count("gone-")), (1, 2, 3));
    let tasks = world.server.take_tasks();
    assert_eq!(tasks.iter().map(Task::lane).collect::<Vec<_>>(), [Lane::Removal]);
    tasks.into_iter().for_each(|task| world.done(task.run()));
    assert_eq!((files(&world), kept(&world), world.count("gone-")), (1, 2, 0));

    let (mut world, mut owner, _) = World::filled("wipe", 6);
    let mut again = world.hello(Role::Owner, 5);
    assert!(again.is_greeted());
    assert_eq!(owner.hears(), None);
    let connection = *world.server.connections.keys().max().unwrap();
    world.tell(Message::Fresh { connection }, None);
    assert_eq!((files(&world), world.count("gone-")), (0, 6));
    let tasks = world.server.take_tasks();
    assert_eq!(tasks.iter().map(Task::lane).collect::<Vec<_>>(), [Lane::Removal]);
    tasks.into_iter().for_each(|task| world.done(task.run()));
    assert_eq!((files(&world), world.count("gone-")), (0, 0));
    assert!(world.server.gone.is_empty() && world.server.take_log().is_empty());
}

#[test]
fn what_no_thread_has_come_to_is_removed_when_the_folder_is_read_again() {
    let (mut world, visitor, connection) = World::filled("again", 6);
    world.tell(Message::Trim { connection, below: 6 }, None);
    drop((visitor, world.server.take_tasks()));
    world.server = Server::new(5, &world.root, CLUSTER, 0, 1);
    let mut owner = world.hello(Role::Owner, 5);
    world.work();
    assert!(owner.is_greeted());
    assert_eq!((world.count("0000"), world.count("gone-"), world.count("spare-")), (1, 0, 0));
}

/// What is on its way out is what a full disk needs.
#[test]
fn a_full_disk_does_not_wait_for_a_thread() {
    let (mut world, _visitor, connection) = World::filled("space", 6);
    assert!(!world.server.make_space());
    world.tell(Message::Trim { connection, below: 6 }, None);
    assert!(world.server.make_space());
    assert_eq!((world.count("0000"), world.count("gone-"), world.count("spare-")), (1, 0, 0));
    assert!(!world.server.make_space(), "there is no more");
    // The thread comes late.
    world.work();
    assert!(world.server.take_log().is_empty());
}

/// Anything of what was to be wiped may be gone, and nobody is to take it for held.
#[test]
fn of_what_could_not_be_wiped_nothing_is_held() {
    let (mut world, _filler, _) = World::filled("unwiped", 3);
    // The last to go: it can neither be given that name nor be removed.
    let folder = world.root.join(uuid_text(&VOLUME));
    let in_the_way = ["00000000.sco", "gone-0000000000000003/it"].map(|name| folder.join(name));
    in_the_way.iter().for_each(|path| std::fs::create_dir_all(path).unwrap());
    let mut greetings = Vec::new();
    for left in [1, 0] {
        let mut owner = world.hello(Role::Owner, 5);
        let Some(Frame::Greeted(greeted)) = owner.hears() else { panic!("it is not greeted") };
        greetings.push((greeted.end.map(|(sequence, _)| sequence), greeted.suspect));
        let connection = *world.server.connections.keys().max().unwrap();
        world.tell(Message::Fresh { connection }, None);
        assert_eq!(world.count("000"), left);
        in_the_way.iter().for_each(|path| drop(std::fs::remove_dir_all(path)));
    }
    assert_eq!(greetings, [(Some(3), false), (None, true)]);
}
