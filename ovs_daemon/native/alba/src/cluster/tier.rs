//! The cache tier as a reader has it: the cache OSDs of its own Domain, in front of all others.
//!
//! A read of a fragment first asks the cache OSD that rendezvous hashing names for that fragment:
//! one round trip inside the Domain. Whoever misses reads as without a cache, and then has the block
//! kept, by callbacks only: the block is asked of the OSD that has the fragment, and its answer is
//! sent on to the cache. Few such fills are under way at a time; more are left out, a later read
//! makes up for it. So nobody ever waits for a cache, except for the one answer that a read may be
//! (`osd::cache` says what is kept and why it is never wrong): at most [`PATIENCE`], and an OSD that is
//! late again and again is not asked for a while (`machines::alba::Favour`).
//!
//! Blocks are below everything that presets do to an object: of an encrypted one they are encrypted.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{channel, sync_channel};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::{Duration, Instant};

use format::fragment::{FragmentName, payload_crcs};
use format::osd::Role;
use format::osd::wire::BLOCK;
use machines::alba::{Cut, Favour, digest, favourite};

use super::find::Found;
use super::{Cluster, OsdAddress, failed, lock};
use crate::osd::{OBJECT, Osd, Request, bytes_of, fragment_path};
use crate::part::Part;
use crate::remote::{Fleet, RemoteOsd};
use crate::{Cause, Result};

/// Longest wait for a cache.
const PATIENCE: Duration = Duration::from_millis(10);
/// Longest reads that ask the cache: larger ones cost a disk little for each byte.
const READ_MAX: usize = 256 << 10;
/// Blocks that are being brought to the cache at a time.
const FILLS_MAX: usize = 16;
/// Objects that are being brought to it after they were put, and blocks of each at a time: these have
/// memory of their own.
const WARMING_MAX: u64 = 2;
const WARMING_BLOCKS: usize = 4;
/// For how long a cache that could not keep a block gets no more, in microseconds.
const REFUSED_US: u64 = 1_000_000;
/// How long it is waited for figures, and for blocks to be forgotten.
const WORD: Duration = Duration::from_millis(500);

/// What the cache tier has done for the readers of this process.
#[derive(Debug, Default)]
#[allow(missing_docs, reason = "see `_native.pyi`, which says what each counts")]
pub struct CacheFigures {
    pub hits: AtomicU64,
    pub misses: AtomicU64,
    pub late: AtomicU64,
    pub passed: AtomicU64,
    pub damaged: AtomicU64,
    pub hit_bytes: AtomicU64,
    pub fills: AtomicU64,
    pub fill_bytes: AtomicU64,
    pub left_out: AtomicU64,
}

fn add(counter: &AtomicU64, count: u64) {
    counter.fetch_add(count, Ordering::Relaxed);
}

/// What outlives a set of cache OSDs, and what callbacks may hold. (Not the fleet: the last one who
/// lets go of it waits for its thread, which runs callbacks.)
#[derive(Debug, Default)]
struct Desk {
    figures: CacheFigures,
    /// Path and number of blocks that are on their way.
    filling: Mutex<BTreeSet<(String, u64)>>,
    warming: AtomicU64,
}

/// A cache OSD.
#[derive(Debug)]
struct Member {
    id: u64,
    osd: Arc<RemoteOsd>,
    favour: Mutex<Favour>,
    /// Of its clock: nothing is brought before.
    fill_at_us: AtomicU64,
    begin: Instant,
}

impl Member {
    fn now_us(&self) -> u64 {
        self.begin.elapsed().as_micros() as u64
    }

    /// Takes the answer to a block that was brought; whether it is kept.
    fn kept<T>(&self, answer: &Result<T>, bytes: u64, figures: &CacheFigures) -> bool {
        if answer.is_ok() {
            add(&figures.fills, 1);
            add(&figures.fill_bytes, bytes);
        } else {
            self.fill_at_us.store(self.now_us() + REFUSED_US, Ordering::Relaxed);
        }
        answer.is_ok()
    }
}

/// The OSD that has the blocks of a fragment, among those that can be reached.
fn pick<'a>(members: &'a [Arc<Member>], path: &str) -> Option<&'a Arc<Member>> {
    let up: Vec<_> = members.iter().filter(|member| member.osd.reachable()).collect();
    let place = favourite(up.iter().map(|member| member.id), digest(path.as_bytes()))?;
    up.get(place).copied()
}

/// The cache OSDs of the moment.
#[derive(Debug)]
struct Tier {
    addresses: Vec<OsdAddress>,
    members: Vec<Arc<Member>>,
    /// Ends when nobody reads any more.
    _fleet: Fleet,
}

/// See the top of the file.
#[derive(Debug, Default)]
pub(super) struct Cache {
    tier: RwLock<Option<Arc<Tier>>>,
    desk: Arc<Desk>,
}

/// What a cache said to a read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Heard {
    Hit,
    /// It does not have all of it, or not as it was.
    Missed,
    /// Nothing, in time.
    Late,
}

/// Where a block is missing.
pub(super) struct Missed {
    member: Arc<Member>,
    path: String,
}

/// How a cache OSD is.
#[derive(Clone, Debug)]
pub struct CacheOsd {
    /// Its number.
    pub osd: [u8; 16],
    /// Where it is, in words.
    pub name: String,
    /// Why it cannot be reached.
    pub trouble: Option<String>,
    /// As [`crate::osd::Osd::release`].
    pub release: Option<String>,
    /// What it says of itself, in JSON; `None`: nothing, so far.
    pub figures: Option<String>,
}

/// A block that is on its way: nobody else brings it meanwhile.
struct Ticket {
    desk: Arc<Desk>,
    block: (String, u64),
}

impl Drop for Ticket {
    fn drop(&mut self) {
        lock(&self.desk.filling).remove(&self.block);
    }
}

impl Desk {
    fn ticket(self: &Arc<Self>, path: &str, number: u64) -> Option<Ticket> {
        let block = (path.to_owned(), number);
        let mut filling = lock(&self.filling);
        let free = filling.len() < FILLS_MAX && filling.insert(block.clone());
        drop(filling);
        if !free {
            add(&self.figures.left_out, 1);
        }
        free.then(|| Ticket { desk: self.clone(), block })
    }
}

/// A block as it is sent to a cache.
fn keep(path: &str, payload_len: u64, offset: u64, block: Part) -> Request {
    let crcs = payload_crcs(&block);
    let parts = Arc::new(vec![block, crcs.into()]);
    Request::Keep { path: path.to_owned(), payload_len, offset, parts }
}

impl Tier {
    /// Asks for what `into` is to be filled with, and waits as long as there is patience.
    fn read(&self, member: &Member, request: Request, into: &mut [u8], desk: &Desk) -> Heard {
        let (sender, hear) = sync_channel(1);
        let reply = move |answer| drop(sender.send(bytes_of(answer)));
        let patience = member.osd.late_after().min(PATIENCE);
        member.osd.start(request, Box::new(reply));
        let figures = &desk.figures;
        let (heard, counter) = match hear.recv_timeout(patience) {
            Ok(Ok(bytes)) => {
                into.copy_from_slice(&bytes);
                add(&figures.hit_bytes, into.len() as u64);
                (Heard::Hit, &figures.hits)
            }
            Ok(Err(error)) if error.cause == Cause::NotFound => (Heard::Missed, &figures.misses),
            Ok(Err(error)) if error.cause == Cause::Corrupt => (Heard::Missed, &figures.damaged),
            Ok(Err(_)) | Err(_) => (Heard::Late, &figures.late),
        };
        add(counter, 1);
        let mut favour = lock(&member.favour);
        match heard {
            Heard::Late => favour.late(member.now_us()),
            Heard::Hit | Heard::Missed => favour.answered(),
        }
        heard
    }
}

impl Cache {
    fn tier(&self) -> Option<Arc<Tier>> {
        self.tier.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Fills `into` from byte `start` on of a fragment's payload, whole units, if the cache has all of
    /// it. Else: where it is to be brought, if it is.
    pub(super) fn read(
        &self,
        path: impl FnOnce() -> String,
        payload_len: u64,
        start: u64,
        into: &mut [u8],
    ) -> std::result::Result<(), Option<Missed>> {
        let tier = self.tier().filter(|_| into.len() <= READ_MAX && !into.is_empty());
        let Some(tier) = tier else { return Err(None) };
        let path = path();
        let Some(member) = pick(&tier.members, &path) else { return Err(None) };
        if !lock(&member.favour).may_ask(member.now_us()) {
            add(&self.desk.figures.passed, 1);
            return Err(None);
        }
        let len = into.len() as u32;
        let request = Request::Get { path: path.clone(), payload_len, offset: start, len };
        match tier.read(member, request, into, &self.desk) {
            Heard::Hit => Ok(()),
            Heard::Missed => Err(Some(Missed { member: member.clone(), path })),
            // It may be there.
            Heard::Late => Err(None),
        }
    }

    /// Brings the blocks of a range to the cache, from the OSD that has the fragment. Returns at once.
    pub(super) fn fill(
        &self,
        missed: &Missed,
        source: &Arc<dyn Osd>,
        payload_len: u64,
        start: u64,
        len: usize,
    ) {
        let member = &missed.member;
        if member.now_us() < member.fill_at_us.load(Ordering::Relaxed) {
            return;
        }
        for number in start / BLOCK..(start + len as u64).div_ceil(BLOCK) {
            let Some(ticket) = self.desk.ticket(&missed.path, number) else { continue };
            let (path, member) = (missed.path.clone(), member.clone());
            let offset = number * BLOCK;
            let len = (payload_len - offset).min(BLOCK) as u32;
            let request = Request::Get { path: path.clone(), payload_len, offset, len };
            let reply = move |answer| {
                let Ok(block) = bytes_of(answer) else { return };
                let (bytes, osd) = (block.len() as u64, member.osd.clone());
                let kept = move |answer| {
                    member.kept(&answer, bytes, &ticket.desk.figures);
                };
                osd.start(keep(&path, payload_len, offset, block.into()), Box::new(kept));
            };
            source.start(request, Box::new(reply));
        }
    }

    /// Has the cache forget what is below a folder, as far as that can be said at this moment: what
    /// is deleted is not asked for any more, so that it only makes room.
    pub(super) fn forget_below(&self, folder: &str) {
        let Some(tier) = self.tier() else { return };
        for member in tier.members.iter().filter(|member| member.osd.reachable()) {
            let request = Request::DeleteFolder { folder: folder.to_owned() };
            member.osd.start(request, Box::new(drop));
        }
    }

    /// Has the cache forget an object of which damaged bytes were read, and waits a moment for that.
    pub(super) fn distrust(&self, object: &str) {
        let Some(tier) = self.tier() else { return };
        let request = Request::DeleteFolder { folder: format!("{object}{OBJECT}") };
        tier.ask(&request);
    }
}

impl Tier {
    /// Asks all; the answers of those that give one within a moment.
    fn ask(&self, request: &Request) -> Vec<Option<Result<crate::osd::Answer>>> {
        let (sender, hear) = channel();
        let mut answers = vec![None; self.members.len()];
        for (number, member) in self.members.iter().enumerate() {
            if member.osd.reachable() {
                let sender = sender.clone();
                let reply = move |answer| drop(sender.send((number, answer)));
                member.osd.start(request.clone(), Box::new(reply));
            }
        }
        drop(sender);
        let until = Instant::now() + WORD;
        while let Ok((number, answer)) =
            hear.recv_timeout(until.saturating_duration_since(Instant::now()))
        {
            answers[number] = Some(answer);
        }
        answers
    }
}

/// An object that was just put, on its way to the cache.
struct Warming {
    desk: Arc<Desk>,
    tier: Vec<Arc<Member>>,
    object: Part,
    cut: Cut,
    /// Of each fragment, but for piece and number.
    name: (String, FragmentName),
    next: AtomicU64,
}

impl Drop for Warming {
    fn drop(&mut self) {
        self.desk.warming.fetch_sub(1, Ordering::AcqRel);
    }
}

impl Warming {
    /// Sends the next block; its answer sends the one after it. What fails ends it.
    fn go_on(self: &Arc<Self>) {
        let fragment_len = self.cut.fragment_len();
        let blocks = fragment_len.div_ceil(BLOCK);
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        let (fragment, offset) = (number / blocks, number % blocks * BLOCK);
        let from = (fragment * fragment_len + offset) as usize;
        if fragment * fragment_len >= self.object.len() as u64 {
            return;
        }
        let len = (fragment_len - offset).min(BLOCK) as usize;
        let end = self.object.len();
        let there = self.object.sub(from.min(end)..(from + len).min(end));
        let block = if there.len() == len {
            there
        } else {
            // Where the object ends its last fragments go on with zeroes.
            [&there[..], &vec![0; len - there.len()]].concat().into()
        };
        let place = self.cut.place(fragment * fragment_len);
        let (object, name) = &self.name;
        let name = FragmentName { piece: place.piece, fragment: place.fragment as u8, ..*name };
        let path = fragment_path(object, &name);
        let Some(member) = pick(&self.tier, &path).cloned() else { return };
        let (me, osd) = (self.clone(), member.osd.clone());
        let kept = move |answer| {
            if member.kept(&answer, len as u64, &me.desk.figures) {
                me.go_on();
            }
        };
        osd.start(keep(&path, fragment_len, offset, block), Box::new(kept));
    }
}

impl Cluster {
    /// The cache OSDs of the Domain of those who read here, from now on; none: there is no cache.
    pub fn set_caches(&self, addresses: &[OsdAddress]) -> Result<()> {
        let known = self.cache.tier();
        if known.as_ref().map_or(&[][..], |tier| &tier.addresses) == addresses {
            return Ok(());
        }
        let tier = if addresses.is_empty() { None } else { Some(self.new_tier(addresses)?) };
        *self.cache.tier.write().unwrap_or_else(PoisonError::into_inner) = tier;
        Ok(())
    }

    fn new_tier(&self, addresses: &[OsdAddress]) -> Result<Arc<Tier>> {
        let what = "the cache tier";
        let link = lock(&self.remotes).link();
        let link =
            link.ok_or_else(|| failed("use", what, "a cluster and its key are needed for it"))?;
        let cluster = link.cluster;
        let fleet = Fleet::start(link).map_err(|e| failed("use", what, e.to_string()))?;
        let member = |place: &OsdAddress| {
            let claim = place.claim(cluster, Role::Cache)?;
            let osd = Arc::new(fleet.add(claim, place.address));
            let id = (&*osd as &dyn Osd).id();
            let (favour, fill_at_us) = (Mutex::default(), AtomicU64::new(0));
            Ok(Arc::new(Member { id, osd, favour, fill_at_us, begin: Instant::now() }))
        };
        let members: Result<Vec<_>> = addresses.iter().map(member).collect();
        let (members, addresses) = (members?, addresses.to_vec());
        Ok(Arc::new(Tier { addresses, members, _fleet: fleet }))
    }

    /// What the cache tier has done for those who read here.
    pub fn cache_figures(&self) -> &CacheFigures {
        &self.cache.desk.figures
    }

    /// The numbers of the cache OSDs, each with what [`crate::osd::Osd::release`] has; asks nobody.
    pub fn cache_releases(&self) -> Vec<([u8; 16], Option<String>)> {
        let tier = self.cache.tier();
        let members = tier.iter().flat_map(|tier| tier.members.iter());
        members.map(|member| (member.osd.claim().osd, member.osd.release())).collect()
    }

    /// The cache OSDs, and what they say of themselves.
    pub fn caches(&self) -> Vec<CacheOsd> {
        let Some(tier) = self.cache.tier() else { return Vec::new() };
        let told = tier.ask(&Request::Figures);
        let text = |told: Option<Result<crate::osd::Answer>>| {
            told.and_then(|answer| bytes_of(answer).ok())
                .and_then(|text| String::from_utf8(text).ok())
        };
        let one = |(member, told): (&Arc<Member>, _)| CacheOsd {
            osd: member.osd.claim().osd,
            name: member.osd.name(),
            trouble: member.osd.trouble(),
            release: member.osd.release(),
            figures: text(told),
        };
        tier.members.iter().zip(told).map(one).collect()
    }

    /// Reads a range of a fragment's payload from the cache; see [`Cache::read`].
    pub(super) fn read_cached(
        &self,
        name: &str,
        found: &Found,
        (piece, fragment): (u32, usize),
        start: u64,
        into: &mut [u8],
    ) -> std::result::Result<(), Option<Missed>> {
        let path = || fragment_path(name, &found.name(piece, fragment));
        self.cache.read(path, found.cut.fragment_len(), start, into)
    }

    /// What was missed is brought to the cache.
    pub(super) fn fill_cache(
        &self,
        missed: &Missed,
        found: &Found,
        (piece, fragment): (u32, usize),
        start: u64,
        len: usize,
    ) {
        if let Some(osd) = found.osd(piece, fragment) {
            self.cache.fill(missed, &self.osd(osd), found.cut.fragment_len(), start, len);
        }
    }

    /// Brings an object that was just put to the cache. Returns at once.
    pub(super) fn warm_cache(&self, object: &str, name: FragmentName, cut: Cut, bytes: Part) {
        let Some(tier) = self.cache.tier() else { return };
        let desk = self.cache.desk.clone();
        if desk.warming.fetch_add(1, Ordering::AcqRel) >= WARMING_MAX {
            desk.warming.fetch_sub(1, Ordering::AcqRel);
            add(&desk.figures.left_out, bytes.len().div_ceil(BLOCK as usize) as u64);
            return;
        }
        let warming = Arc::new(Warming {
            desk,
            tier: tier.members.clone(),
            object: bytes,
            cut,
            name: (object.to_owned(), name),
            next: AtomicU64::new(0),
        });
        (0..WARMING_BLOCKS).for_each(|_| warming.go_on());
    }
}
