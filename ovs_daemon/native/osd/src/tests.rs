//! A cluster over real servers on loopback: 3 Domains of 3 nodes with one disk each.

use std::collections::BTreeMap;
use std::fs;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use alba::cluster::{OsdAddress, Place};
use alba::folder::{FolderOsd, read_claim};
use alba::osd::{Osd, Request, bytes_of};
use alba::preset::Preset;
use alba::remote::{Fleet, Link, roll};
use alba::{Backend, Cause, Cluster, Put};
use format::osd::wire::{Frame, Hello, Kind, VERSION};
use format::osd::{Claim, Role};
use machines::alba::Standing;
use net::{ClusterKey, RELEASE};

use crate::{Bounds, Running, Setup};

pub(crate) const CLUSTER: [u8; 16] = [7; 16];

pub(crate) fn key() -> ClusterKey {
    ClusterKey::new(&[b'k'; 32]).unwrap()
}

/// Whatever should happen has by then, however busy the machine is.
const PATIENCE: Duration = Duration::from_secs(120);

/// Waits until it is so.
pub(crate) fn until(what: &str, mut is: impl FnMut() -> bool) {
    let end = Instant::now() + PATIENCE;
    while !is() {
        assert!(Instant::now() < end, "after {PATIENCE:?} still not so: {what}");
        std::thread::sleep(Duration::from_millis(2));
    }
}

pub(crate) struct Lab {
    root: PathBuf,
    servers: Vec<Option<Running>>,
    addresses: Vec<SocketAddr>,
    /// Nodes of a Domain, and disks of a node, each with a server of its own.
    nodes: usize,
    disks: usize,
    /// Of disks that are no members, by number.
    pub(crate) standings: BTreeMap<usize, Standing>,
    /// How often a disk was replaced.
    lives: Vec<u8>,
    /// Those that were removed.
    former: Vec<OsdAddress>,
    /// What servers say they are of, where it is not what they are.
    releases: BTreeMap<usize, &'static str>,
}

impl Drop for Lab {
    fn drop(&mut self) {
        self.servers.clear();
        let _ = fs::remove_dir_all(&self.root);
    }
}

impl Lab {
    pub(crate) fn new(name: &str) -> Self {
        Self::of(name, 3, 1)
    }

    pub(crate) fn of(name: &str, nodes: usize, disks: usize) -> Self {
        let root = std::env::temp_dir().join(format!("ovs-osd-{}-{name}", std::process::id()));
        let _ = fs::remove_dir_all(&root);
        let (servers, addresses) = (Vec::new(), Vec::new());
        let standings = BTreeMap::new();
        let (lives, former) = (vec![0; 3 * nodes * disks], Vec::new());
        let releases = BTreeMap::new();
        let mut lab =
            Self { root, servers, addresses, nodes, disks, standings, lives, former, releases };
        for number in 0..lab.count() {
            lab.claim(number);
            let server = lab.serve(number, "127.0.0.1:0".parse().unwrap());
            lab.addresses.push(server.address());
            lab.servers.push(Some(server));
        }
        lab
    }

    /// Nobody knows any more of those that were removed.
    pub(crate) fn forget_former(&mut self) {
        self.former.clear();
    }

    fn claim(&self, number: usize) {
        let (domain, node) = self.stands(number);
        let osd = self.osd(number);
        let claim = Claim { cluster: CLUSTER, osd, domain, node, role: Role::Capacity };
        FolderOsd::claim(&self.folder(number), &claim).unwrap();
    }

    /// The UUID of a disk.
    pub(crate) fn osd(&self, number: usize) -> [u8; 16] {
        [number as u8 + 1 + 100 * self.lives[number]; 16]
    }

    /// A new disk is where one was that was removed.
    pub(crate) fn replace(&mut self, number: usize) {
        let mut gone = self.places().swap_remove(number);
        gone.standing = Standing::Removed;
        self.former.push(gone);
        self.standings.remove(&number);
        self.servers[number] = None;
        let _ = fs::remove_dir_all(self.folder(number));
        self.lives[number] += 1;
        self.claim(number);
        self.restart(number);
    }

    fn count(&self) -> usize {
        3 * self.nodes * self.disks
    }

    /// Domain and node of a disk.
    fn stands(&self, number: usize) -> (String, String) {
        let (domain, rest) =
            (number / (self.nodes * self.disks), number % (self.nodes * self.disks));
        (format!("dc{domain}"), format!("node{}", rest / self.disks))
    }

    pub(crate) fn folder(&self, number: usize) -> PathBuf {
        self.root.join(format!("disk{number}"))
    }

    fn serve(&self, number: usize, listen: SocketAddr) -> Running {
        let folders = vec![self.folder(number)];
        let bounds = Bounds::default();
        let (reserve, cache_bytes) = (0, 0);
        let release = self.releases.get(&number).copied().unwrap_or(RELEASE);
        let setup = Setup { listen, key: key(), folders, reserve, cache_bytes, bounds, release };
        Running::start(&setup).unwrap()
    }

    pub(crate) fn stop(&mut self, number: usize) {
        self.servers[number] = None;
    }

    pub(crate) fn restart(&mut self, number: usize) {
        self.servers[number] = Some(self.serve(number, self.addresses[number]));
    }

    pub(crate) fn places(&self) -> Vec<OsdAddress> {
        let place = |number: usize| {
            let (domain, node) = self.stands(number);
            let osd = format!("{:032x}", u128::from_be_bytes(self.osd(number)));
            let standing = self.standings.get(&number).copied().unwrap_or_default();
            OsdAddress { osd, address: self.addresses[number], domain, node, standing }
        };
        (0..self.count()).map(place).chain(self.former.iter().cloned()).collect()
    }

    pub(crate) fn addresses(&self) -> &[SocketAddr] {
        &self.addresses
    }

    pub(crate) fn link(&self) -> Link {
        Link::new(CLUSTER, key())
    }

    /// For tests in which no server stays away: whoever asks one waits as long as it takes.
    pub(crate) fn patient_link(&self) -> Link {
        Link { grace: PATIENCE, ..self.link() }
    }

    pub(crate) fn open(&self) -> Cluster {
        self.open_with(self.link())
    }

    /// A cluster that has reached each server which runs.
    pub(crate) fn open_with(&self, link: Link) -> Cluster {
        let mut preset = Preset::shipped().remove(0);
        preset.fragment_size = 64 << 10;
        let places: Vec<Place> = self.places().into_iter().map(Place::Server).collect();
        let cluster = Cluster::connect(&places, preset, 0, Some(link)).unwrap();
        let asked = |number: &usize| self.standings.get(number).is_none_or(|one| one.is_asked());
        let run = (0..self.count()).filter(|number| self.servers[*number].is_some());
        let run: Vec<[u8; 16]> = run.filter(asked).map(|number| self.osd(number)).collect();
        until("those that run are reached", || {
            let osds = cluster.osds();
            osds.iter().all(|osd| osd.reachable() || !run.contains(&osd.claim().osd))
        });
        cluster
    }

    pub(crate) fn files(&self, object: &str) -> Vec<PathBuf> {
        let mut files = Vec::new();
        for number in 0..self.count() {
            let folder = self.folder(number).join(format!("{object}.obj"));
            let Ok(entries) = fs::read_dir(folder) else { continue };
            let paths = entries.map(|entry| entry.unwrap().path());
            files.extend(paths.filter(|path| !path.to_string_lossy().contains(".put-")));
        }
        files.sort();
        files
    }
}

pub(crate) fn content(seed: usize, len: usize) -> Vec<u8> {
    (0..len).map(|at| (at * 31 + at / 251 + seed * 97) as u8).collect()
}

pub(crate) fn put(cluster: &Cluster, name: &str, bytes: &[u8]) -> alba::Result<Put> {
    cluster.put(name, &mut |sink| bytes.chunks(10_000).try_for_each(|part| sink.write(part)))
}

pub(crate) fn get(cluster: &Cluster, name: &str) -> alba::Result<Vec<u8>> {
    let mut bytes = vec![0; cluster.len(name)?.expect("it is stored") as usize];
    cluster.read(name, 0, &mut bytes)?;
    Ok(bytes)
}

#[test]
fn a_cluster_over_servers_is_a_backend() {
    let lab = Lab::new("backend");
    let cluster = lab.open();
    let bytes = content(1, 700_001);
    assert_eq!(put(&cluster, "log/sco/1", &bytes), Ok(Put::Created));
    assert_eq!(put(&cluster, "log/sco/1", b"other"), Ok(Put::Exists));
    assert_eq!(get(&cluster, "log/sco/1").unwrap(), bytes);
    let mut part = vec![0; 5000];
    cluster.read("log/sco/1", 300_000, &mut part).unwrap();
    assert_eq!(part, bytes[300_000..305_000]);
    assert_eq!(cluster.list("log/sco").unwrap(), ["1"]);
    assert_eq!(cluster.list("log").unwrap(), ["sco"]);
    let error = cluster.read("log/sco/2", 0, &mut part).unwrap_err();
    assert_eq!(error.cause, Cause::NotFound);
    assert!(cluster.space().unwrap().unwrap().free > 0);
    assert_eq!(cluster.troubles(), []);
    // Another node of the same cluster sees the same.
    let other = lab.open();
    assert_eq!(get(&other, "log/sco/1").unwrap(), bytes);
    other.delete("log/sco/1").unwrap();
    cluster.distrust("log/sco/1");
    assert_eq!(cluster.len("log/sco/1"), Ok(None));
    put(&other, "log/sco/3", b"x").unwrap();
    cluster.delete_folder("log").unwrap();
    assert!(lab.files("log/sco/3").is_empty());
}

/// A cluster that is told of no OSD does not know of any object, and says so; they may come.
#[test]
fn without_any_osd_nothing_is_taken_for_absent() {
    let lab = Lab::new("none");
    let bytes = content(3, 50_000);
    put(&lab.open(), "a/1", &bytes).unwrap();
    let preset = Preset::shipped().remove(0);
    let cluster = Cluster::connect(&[], preset, 0, Some(lab.link())).unwrap();
    for error in [cluster.len("a/1").unwrap_err(), cluster.list("a").unwrap_err()] {
        assert!(error.to_string().contains("out of reach"), "{error}");
    }
    cluster.set_servers(&lab.places()).unwrap();
    assert_eq!(get(&cluster, "a/1").unwrap(), bytes);
    assert_eq!(cluster.osds().len(), 9);
    cluster.set_servers(&lab.places()).unwrap();
    assert_eq!(cluster.osds().len(), 9, "those that are known stay what they are");
}

#[test]
fn servers_die_and_come_back_and_nothing_is_taken_for_absent() {
    let mut lab = Lab::new("die");
    let bytes = content(2, 400_000);
    let cluster = lab.open();
    put(&cluster, "a/1", &bytes).unwrap();
    // A Domain and a disk.
    [0, 1, 2, 4].into_iter().for_each(|number| lab.stop(number));
    assert_eq!(get(&cluster, "a/1").unwrap(), bytes);
    let late = lab.open();
    assert_eq!(get(&late, "a/1").unwrap(), bytes);
    assert_eq!(late.troubles().len(), 4);
    assert!(late.troubles()[0].why.contains("refused"), "{}", late.troubles()[0]);
    [5, 6].into_iter().for_each(|number| lab.stop(number));
    late.distrust("a/1");
    for error in [
        late.len("a/1").unwrap_err(),
        late.list("a").unwrap_err(),
        put(&late, "a/2", b"new").unwrap_err(),
    ] {
        assert!(error.to_string().contains("out of reach"), "{error}");
    }
    [0, 1, 2, 4, 5, 6].into_iter().for_each(|number| lab.restart(number));
    until("all are back", || late.troubles().is_empty());
    assert_eq!(get(&late, "a/1").unwrap(), bytes);
    assert_eq!(put(&late, "a/2", b"new"), Ok(Put::Created));
}

/// A server that is replaced within the grace: what was asked is asked again of the next one.
#[test]
fn a_restart_is_hardly_noticed() {
    let mut lab = Lab::new("restart");
    let cluster = lab.open_with(lab.patient_link());
    for round in 0..5 {
        lab.stop(round);
        lab.restart(round);
        let (name, bytes) = (format!("a/{round}"), content(round, 100_000));
        assert_eq!(put(&cluster, &name, &bytes), Ok(Put::Created));
        // Those that were slow come later.
        until("all fragments are there", || lab.files(&name).len() >= 9);
        assert_eq!(get(&cluster, &name).unwrap(), bytes);
    }
}

/// What is on one disk changes, bit by bit of every kind of content: it is found by its checksum, and
/// computed from others.
#[test]
fn damage_is_noticed_and_computed_away() {
    let lab = Lab::new("damage");
    let bytes = content(5, 100_000);
    let cluster = lab.open();
    put(&cluster, "a", &bytes).unwrap();
    until("all fragments are there", || lab.files("a").len() >= 9);
    for file in lab.files("a") {
        let sound = fs::read(&file).unwrap();
        for at in (0..sound.len()).step_by(4001) {
            let mut damaged = sound.clone();
            damaged[at] ^= 1;
            fs::write(&file, &damaged).unwrap();
            cluster.distrust("a");
            assert_eq!(get(&cluster, "a").unwrap(), bytes, "byte {at} of {}", file.display());
        }
        fs::write(&file, &sound).unwrap();
    }
}

#[test]
fn a_replaced_disk_is_refilled_over_the_network() {
    let mut lab = Lab::new("repair");
    let bytes = content(7, 300_000);
    let cluster = lab.open();
    for name in ["x/sco/1", "x/parent"] {
        put(&cluster, name, &bytes).unwrap();
    }
    let claim = read_claim(&lab.folder(4)).unwrap().unwrap();
    lab.stop(4);
    fs::remove_dir_all(lab.folder(4)).unwrap();
    FolderOsd::claim(&lab.folder(4), &claim).unwrap();
    lab.restart(4);
    until("it is back", || cluster.troubles().is_empty());
    let done = cluster.repair().unwrap();
    assert_eq!((done.objects, done.mended.unplaced, done.lost), (2, 0, 0));
    assert!(done.mended.fragments >= 2 && done.mended.between_domains == 0, "{done:?}");
    assert!(lab.files("x/sco/1").iter().any(|file| file.starts_with(lab.folder(4))));
    assert_eq!(cluster.repair().unwrap().mended.fragments, 0, "nothing is left to do");
}

#[test]
fn only_whole_fragments_are_stored_and_paths_lead_nowhere_else() {
    let lab = Lab::new("whole");
    let fleet = Fleet::start(lab.patient_link()).unwrap();
    let claim = read_claim(&lab.folder(0)).unwrap().unwrap();
    let osd: &dyn Osd = &fleet.add(claim, lab.addresses[0]);
    let cluster = lab.open();
    put(&cluster, "a/b", &content(1, 5000)).unwrap();
    let name = osd.fragments("a/b").unwrap()[0];
    let file = fs::read(lab.folder(0).join(format!("a/b.obj/{name}"))).unwrap();
    let path = |object: &str| format!("{object}.obj/{name}");
    let put = |path: String, bytes: Vec<u8>| {
        osd.call(Request::Put { path, parts: std::sync::Arc::new(vec![bytes.into()]) }).unwrap_err()
    };
    assert_eq!(put(path("a/c"), file.clone()).cause, Cause::Corrupt);
    for at in (0..file.len()).step_by(501) {
        let mut damaged = file.clone();
        damaged[at] ^= 1;
        osd.delete("a/b", &name).unwrap();
        // Liberasurecode's CRC of the payload says nothing that the others do not.
        assert_eq!(put(path("a/b"), damaged).cause, Cause::Corrupt, "byte {at}");
        assert!(osd.fragments("a/b").unwrap().is_empty());
    }
    for wrong in ["../a.obj/x", "osd.claim", "uses/x", "a/b.obj/.put-1"] {
        let delete = Request::Delete { path: wrong.to_owned() };
        let error = osd.call(delete).unwrap_err();
        assert!(error.why.contains("no OSD has a place of this name"), "{wrong}: {error}");
    }
    let error = osd.call(Request::DeleteFolder { folder: "uses".to_owned() }).unwrap_err();
    assert!(error.why.contains("no OSD has a place"), "{error}");
}

#[test]
fn more_small_reads_than_there_is_room_for_are_all_answered() {
    let lab = Lab::new("reads");
    let fleet = Fleet::start(lab.patient_link()).unwrap();
    let claim = read_claim(&lab.folder(0)).unwrap().unwrap();
    let osd: &dyn Osd = &fleet.add(claim, lab.addresses[0]);
    let cluster = lab.open();
    put(&cluster, "a/b", &content(1, 3_000_000)).unwrap();
    let name = osd.fragments("a/b").unwrap()[0];
    let payload_len = osd.header("a/b", &name).unwrap().payload_len() as u64;
    let path = format!("a/b.obj/{name}");
    // What was written past the page cache comes from the device first, and then from memory.
    let (length, mut rounds) = (4096 * 2, Vec::new());
    for _ in 0..2 {
        let (sender, hear) = std::sync::mpsc::channel();
        let places = (0..payload_len - length).step_by(4096);
        for offset in (0..10).flat_map(|_| places.clone()) {
            let len = length as u32;
            let get = Request::Get { path: path.clone(), payload_len, offset, len };
            let sender = sender.clone();
            let reply = move |answer| drop(sender.send((offset, bytes_of(answer))));
            osd.start(get, Box::new(reply));
        }
        drop(sender);
        rounds.push(hear.iter().collect::<Vec<_>>());
    }
    let file = fs::read(lab.folder(0).join(&path)).unwrap();
    for answers in rounds {
        assert!(answers.len() > 128, "{}", answers.len());
        for (offset, bytes) in answers {
            let expected = &file[4096 + offset as usize..][..length as usize];
            assert!(bytes.unwrap() == expected, "{offset}");
        }
    }
    let beyond = Request::Get { path, payload_len, offset: payload_len, len: 4096 };
    assert!(osd.call(beyond).unwrap_err().why.contains("no fragment has such a range"));
}

#[test]
fn a_full_disk_refuses_puts_and_goes_on_with_the_rest() {
    let mut lab = Lab::new("full");
    let cluster = lab.open();
    put(&cluster, "a/1", &content(1, 50_000)).unwrap();
    lab.stop(3);
    let (listen, folders) = (lab.addresses[3], vec![lab.folder(3)]);
    let (reserve, bounds) = (u64::MAX, Bounds::default());
    let (cache_bytes, release) = (0, RELEASE);
    let full = Setup { listen, key: key(), folders, reserve, cache_bytes, bounds, release };
    lab.servers[3] = Some(Running::start(&full).unwrap());
    let fleet = Fleet::start(lab.patient_link()).unwrap();
    let claim = read_claim(&lab.folder(3)).unwrap().unwrap();
    let osd: &dyn Osd = &fleet.add(claim, lab.addresses[3]);
    assert_eq!(osd.space().unwrap().1, 0);
    let name = osd.fragments("a/1").unwrap()[0];
    let file = fs::read(lab.folder(3).join(format!("a/1.obj/{name}"))).unwrap();
    let error = osd.put("a/1", &name, std::sync::Arc::new(vec![file.into()])).unwrap_err();
    assert_eq!(error.cause, Cause::NoSpace, "{error}");
    assert!(osd.header("a/1", &name).is_ok());
    osd.delete("a/1", &name).unwrap();
    assert_eq!(osd.fragments("a/1").unwrap(), []);
}

#[test]
fn servers_of_other_releases_serve_and_say_of_which_they_are() {
    let mut lab = Lab::new("releases");
    lab.releases = BTreeMap::from([(1, "0.0.9"), (2, "")]);
    (1..4).for_each(|number| lab.stop(number));
    (1..3).for_each(|number| lab.restart(number));
    let cluster = lab.open();
    put(&cluster, "a/b", &content(1, 300_000)).unwrap();
    let said: Vec<_> = (0..4)
        .map(|number| {
            let osds = cluster.osds();
            let osd = osds.iter().find(|osd| osd.claim().osd == lab.osd(number)).unwrap();
            osd.release()
        })
        .collect();
    let known = |release: &str| Some(release.to_owned());
    assert_eq!(said, [known(RELEASE), known("0.0.9"), known(""), None]);
    // Upgraded, it says so to who was connected before.
    lab.releases.clear();
    lab.stop(1);
    lab.restart(1);
    let osds = cluster.osds();
    let upgraded = osds.iter().find(|osd| osd.claim().osd == lab.osd(1)).unwrap();
    until("it is of this release", || upgraded.release() == known(RELEASE));
}

#[test]
fn who_lacks_the_key_is_told_nothing() {
    let lab = Lab::new("key");
    let other = Link { key: ClusterKey::new(&[b'x'; 32]).unwrap(), ..lab.link() };
    let error = roll(lab.addresses[0], &other).unwrap_err().to_string();
    assert!(error.contains("another cluster's key"), "{error}");
    let other = Link { cluster: [8; 16], ..lab.link() };
    let error = roll(lab.addresses[0], &other).unwrap_err().to_string();
    assert!(error.contains("another cluster"), "{error}");
    let claims = roll(lab.addresses[0], &lab.link()).unwrap();
    assert_eq!(claims, [read_claim(&lab.folder(0)).unwrap().unwrap()]);

    // Without any proof: the server says no word about what it has.
    let hello = Hello { cluster: CLUSTER, osd: [1; 16], nonce: [0; 32] }.encode();
    let frame = Frame { code: VERSION, ..Frame::new(Kind::Hello, 0, &hello, 0) };
    let names = Frame::new(Kind::Names, 1, b"\0", 0);
    let mut stream = TcpStream::connect(lab.addresses[0]).unwrap();
    let all = [&frame.encode()[..], &hello, &names.encode()[..], b"\0"].concat();
    stream.write_all(&all).unwrap();
    let mut heard = Vec::new();
    // It may be cut off with what it has not read.
    let _ = stream.read_to_end(&mut heard);
    assert!(heard.len() <= 128, "a challenge at most: {} bytes", heard.len());
}
