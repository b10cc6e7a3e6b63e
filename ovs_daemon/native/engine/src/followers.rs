//! The thread that follows the maps of other nodes' volumes: an `mds::Server` on an io_uring of its
//! own, so that it takes no time from the shards' guests. A second thread loads maps for it.

use std::collections::VecDeque;
use std::io;
use std::sync::mpsc::{Receiver, Sender, SyncSender, channel, sync_channel};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;

use alba::Backend;
use format::entry::Uuid;
use machines::mds::Warm;
use mds::{Followed, Load, Server};
use media::{Fd, Ring, Wait};
use net::Bell;
use volume::load_warm;

/// Token of the bell; those of the server are all above it.
const MAIL: u64 = 0;

enum Order {
    Adopt { fd: Fd, received: Vec<u8> },
    Give { volume: Uuid, reply: SyncSender<Option<Warm>> },
    Retain { wanted: Vec<Uuid> },
    Status { reply: SyncSender<Vec<Followed>> },
    Loaded { volume: Uuid, result: Result<Option<Warm>, String> },
    Stop,
}

/// Orders to the thread.
pub(crate) struct Followers {
    /// `None`: there is no thread.
    orders: Mutex<Option<VecDeque<Order>>>,
    bell: Bell,
}

impl Followers {
    /// Starts the threads.
    pub(crate) fn start(
        cluster: Uuid,
        backend: Arc<dyn Backend>,
    ) -> io::Result<(Arc<Self>, Vec<JoinHandle<()>>)> {
        let orders = Mutex::new(Some(VecDeque::new()));
        let followers = Arc::new(Self { orders, bell: Bell::new()? });
        let (load, loads) = channel();
        let (mine, theirs) = (followers.clone(), followers.clone());
        let named = |name: &str| std::thread::Builder::new().name(name.to_owned());
        let follow = named("vs-follow").spawn(move || mine.run(cluster, &load))?;
        let loader = named("vs-follow-load").spawn(move || theirs.load(&*backend, &loads))?;
        Ok((followers, vec![follow, loader]))
    }

    /// Takes a connection of an owner, with what it has sent so far.
    pub(crate) fn adopt(&self, fd: Fd, received: Vec<u8>) {
        self.order(Order::Adopt { fd, received });
    }

    /// The map of a volume that becomes this node's, if it was followed here.
    pub(crate) fn give(&self, volume: &Uuid) -> Option<Warm> {
        let (reply, hear) = sync_channel(1);
        self.order(Order::Give { volume: *volume, reply });
        hear.recv().ok().flatten()
    }

    /// Forgets all but these.
    pub(crate) fn retain(&self, wanted: Vec<Uuid>) {
        self.order(Order::Retain { wanted });
    }

    pub(crate) fn status(&self) -> Vec<Followed> {
        let (reply, hear) = sync_channel(1);
        self.order(Order::Status { reply });
        hear.recv().unwrap_or_default()
    }

    /// Has the threads end.
    pub(crate) fn stop(&self) {
        self.order(Order::Stop);
    }

    /// Without a thread the order is dropped, and with it its reply.
    fn order(&self, order: Order) {
        if let Some(orders) = &mut *self.orders.lock().expect("no holder panics") {
            orders.push_back(order);
        }
        // The eventfd's counter can't overflow: the thread empties it at each wake-up.
        let _ = self.bell.ring();
    }

    fn take(&self) -> VecDeque<Order> {
        self.bell.silence();
        let mut orders = self.orders.lock().expect("no holder panics");
        orders.as_mut().map(std::mem::take).unwrap_or_default()
    }

    fn run(&self, cluster: Uuid, loads: &Sender<Load>) {
        let _closing = Closing(self);
        if let Err(error) = self.work(cluster, loads) {
            eprintln!("vstorage follow: its io_uring fails, maps are not followed here: {error}");
        }
    }

    fn work(&self, cluster: Uuid, loads: &Sender<Load>) -> io::Result<()> {
        let (mut ring, mut server) = (Ring::new(64)?, Server::new(cluster));
        let mut events = Vec::new();
        self.bell.listen(&mut ring, MAIL);
        let mut working = true;
        while working {
            events.clear();
            ring.turn(Wait::Forever, &mut events)?;
            for event in events.iter().copied() {
                if event.token != MAIL {
                    server.on_event(event, &mut ring);
                    continue;
                }
                for order in self.take() {
                    working &= obey(&mut server, order, &mut ring);
                }
                self.bell.listen(&mut ring, MAIL);
            }
            for load in server.take_loads() {
                // Its thread ends after this one.
                let _ = loads.send(load);
            }
            server.take_log().iter().for_each(|line| eprintln!("vstorage follow: {line}"));
        }
        Ok(())
    }

    fn load(&self, backend: &dyn Backend, loads: &Receiver<Load>) {
        while let Ok(Load { volume, ancestors, base }) = loads.recv() {
            let result = load_warm(backend, &ancestors, base.as_ref()).map_err(|e| e.to_string());
            self.order(Order::Loaded { volume, result });
        }
    }
}

/// However the thread ends: nobody waits for its answers.
struct Closing<'a>(&'a Followers);

impl Drop for Closing<'_> {
    fn drop(&mut self) {
        self.0.orders.lock().expect("no holder panics").take();
    }
}

/// False: nothing more is to be done.
fn obey(server: &mut Server, order: Order, ring: &mut Ring) -> bool {
    match order {
        Order::Adopt { fd, received } => server.adopt(fd, &received, ring),
        Order::Give { volume, reply } => {
            let _ = reply.send(server.give(&volume, ring));
        }
        Order::Retain { wanted } => server.retain(&wanted, ring),
        Order::Status { reply } => {
            let _ = reply.send(server.status());
        }
        Order::Loaded { volume, result } => server.loaded(volume, result, ring),
        Order::Stop => return false,
    }
    true
}
