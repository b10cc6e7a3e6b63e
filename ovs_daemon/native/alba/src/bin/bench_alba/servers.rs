//! Real `vstorage-osd` processes, one for each disk: three Domains of three nodes.

use std::fs;
use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;

use alba::Cluster;
use alba::cluster::{OsdAddress, Place, new_osd_id};
use alba::folder::FolderOsd;
use alba::preset::Preset;
use alba::remote::Link;
use format::osd::{Claim, Role};
use machines::alba::Standing;
use net::ClusterKey;

use crate::relay::Relay;

const DOMAINS: usize = 3;
const NODES: usize = 3;
const CLUSTER: [u8; 16] = *b"the bench's own.";
const KEY: &str = "0123456789abcdef0123456789abcdef";
/// In proc(5) times are in units of 1/100 s whatever the kernel's own clock does.
const TICK_US: f64 = 10_000.0;

/// User and system time of a process so far, ended threads included.
pub(crate) fn cpu_us(pid: &str) -> f64 {
    let text = fs::read_to_string(format!("/proc/{pid}/stat")).expect("it runs");
    let (_, fields) = text.rsplit_once(')').expect("the name is in parentheses");
    let times = fields.split_whitespace().skip(11).take(2);
    times.map(|one| one.parse::<f64>().expect("a number")).sum::<f64>() * TICK_US
}

/// The same of the threads that a process has now, to the nanosecond (proc(5), schedstat): where many
/// processes do a little each, their hundredths of a second are too coarse.
pub(crate) fn threads_us(pid: &str) -> f64 {
    let threads = fs::read_dir(format!("/proc/{pid}/task")).expect("it runs");
    let used = threads.map(|thread| {
        let path = thread.expect("an entry").path().join("schedstat");
        let text = fs::read_to_string(path).expect("it runs");
        let first = text.split(' ').next().and_then(|first| first.parse::<f64>().ok());
        first.expect("its first field")
    });
    used.sum::<f64>() / 1e3
}

/// See the top of the file.
pub(crate) struct Server {
    pub(crate) folder: PathBuf,
    pub(crate) domain: usize,
    node: usize,
    osd: [u8; 16],
    address: SocketAddr,
    pub(crate) relay: Relay,
    child: Child,
}

impl Drop for Server {
    fn drop(&mut self) {
        self.kill();
    }
}

impl Server {
    fn start(
        (program, root): (&Path, &Path),
        (domain, node): (usize, usize),
        disk: &str,
        role: Role,
    ) -> Self {
        let folder = root.join(format!("dc{domain}-n{node}-{disk}"));
        let osd = new_osd_id().expect("a number");
        let (domain_name, node_name) = (format!("dc{domain}"), format!("n{node}"));
        let claim = Claim { cluster: CLUSTER, osd, domain: domain_name, node: node_name, role };
        FolderOsd::claim(&folder, &claim).expect("a new folder is claimed");
        let mut child = Command::new(program)
            .args(["serve", "--listen", "127.0.0.1:0", "--reserve", "0", "--key-file"])
            .args([&root.join("key"), &folder])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap_or_else(|e| panic!("{} starts: {e}", program.display()));
        let mut lines = BufReader::new(child.stderr.take().expect("it was piped")).lines();
        let mut said = String::new();
        let address = loop {
            let line = lines.next().unwrap_or_else(|| panic!("it serves, but says\n{said}"));
            let line = line.expect("a line");
            if let Some((_, address)) = line.split_once("listens on ") {
                break address.parse().expect("an address");
            }
            said = format!("{said}{line}\n");
        };
        // What it says later is read, so that it never waits for us.
        thread::spawn(move || lines.for_each(drop));
        let relay = Relay::new(address).expect("a relay");
        Self { folder, domain, node, osd, address, relay, child }
    }

    /// Ends it with SIGKILL.
    pub(crate) fn kill(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    fn cpu_us(&self) -> f64 {
        cpu_us(&self.child.id().to_string())
    }

    fn threads_us(&self) -> f64 {
        threads_us(&self.child.id().to_string())
    }

    fn place(&self, counted: bool) -> OsdAddress {
        OsdAddress {
            osd: format!("{:032x}", u128::from_be_bytes(self.osd)),
            address: if counted { self.relay.address } else { self.address },
            domain: format!("dc{}", self.domain),
            node: format!("n{}", self.node),
            standing: Standing::Member,
        }
    }
}

/// All servers.
pub(crate) struct Servers {
    program: PathBuf,
    root: PathBuf,
    pub(crate) all: Vec<Server>,
    cache: Option<Server>,
}

impl Drop for Servers {
    fn drop(&mut self) {
        self.all.clear();
        self.cache = None;
        let _ = fs::remove_dir_all(&self.root);
    }
}

impl Servers {
    /// In a new folder below this one.
    pub(crate) fn start(program: &Path, below: &Path) -> Self {
        let root = below.join(format!("bench-alba-{}", std::process::id()));
        fs::create_dir_all(&root).expect("a folder");
        fs::write(root.join("key"), KEY).expect("a key");
        let mut servers = Self { program: program.to_owned(), root, all: Vec::new(), cache: None };
        for place in 0..DOMAINS * NODES {
            servers.add(place / NODES, place % NODES, "first");
        }
        servers
    }

    /// One more, on a disk of its own.
    pub(crate) fn add(&mut self, domain: usize, node: usize, disk: &str) {
        let (paths, role) = ((self.program.as_path(), self.root.as_path()), Role::Capacity);
        self.all.push(Server::start(paths, (domain, node), disk, role));
    }

    /// One of role cache beside them, in the first Domain: its address.
    pub(crate) fn add_cache(&mut self) -> OsdAddress {
        let paths = (self.program.as_path(), self.root.as_path());
        let cache = Server::start(paths, (0, 0), "cache", Role::Cache);
        let place = cache.place(false);
        self.cache = Some(cache);
        place
    }

    /// Takes a server away, and its disk.
    pub(crate) fn lose(&mut self, number: usize) -> (usize, usize) {
        let server = self.all.remove(number);
        let _ = fs::remove_dir_all(&server.folder);
        (server.domain, server.node)
    }

    /// A cluster of all, through the relays if `counted`.
    pub(crate) fn cluster(&self, counted: bool) -> Cluster {
        let places: Vec<Place> =
            self.all.iter().map(|server| Place::Server(server.place(counted))).collect();
        let key = ClusterKey::new(KEY.as_bytes()).expect("it is long enough");
        let link = Link::new(CLUSTER, key);
        let cluster = Cluster::connect(&places, Preset::shipped().remove(0), 0, Some(link));
        cluster.expect("a cluster of them")
    }

    /// CPU that all servers have used.
    pub(crate) fn cpu_us(&self) -> f64 {
        self.all.iter().chain(&self.cache).map(Server::cpu_us).sum()
    }

    /// The same of the threads that they have now, more exactly.
    pub(crate) fn threads_us(&self) -> f64 {
        self.all.iter().chain(&self.cache).map(Server::threads_us).sum()
    }

    /// Counts from nothing.
    pub(crate) fn begin(&self) {
        self.all.iter().for_each(|server| server.relay.begin());
    }
}
