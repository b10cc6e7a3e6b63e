//! Upkeep of the erasure-coded backend: one thread that looks at all objects from time to time,
//! mends those that have lost fragments, worst first, and reads everything now and then; under a
//! budget, while guests go on.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use alba::cluster::{Mended, PARTIAL_AGE, Survey, Terms, walk_order};
use alba::osd::Exchanged;
use alba::{Cluster, Sealed};
use format::osd::wire::Class;
use machines::alba::{Standing, is_urgent};
use serde::Deserialize;
use serde_json::{Value, json};

use crate::budget::{Budget, gently};
use crate::engine::Engine;
use crate::error::{Error, Result};
use crate::farewell::Farewell;
use crate::rebalance::{Rebalanced, Run};
use crate::spec::{parse, uuid};

/// How often it is looked whether there is something to do.
const TICK: Duration = Duration::from_millis(500);
/// Of the time that looking at an object takes, the same again is left to others.
const REST: u32 = 1;

/// What is to be done.
#[derive(Clone, Debug, Deserialize, PartialEq)]
#[serde(deny_unknown_fields)]
pub(crate) struct Orders {
    /// Domains whose fragments this engine mends; `None`: all.
    pub(crate) domains: Option<BTreeSet<String>>,
    /// UUIDs of OSDs that are lost, of which every node has heard that, with a number that changes
    /// when one is said to be lost again.
    #[serde(default)]
    heard: BTreeMap<String, u64>,
    /// Bytes that mending may move each second.
    pub(crate) repair_bytes_per_s: u64,
    /// Bytes that scrubbing may read each second; 0: it is not done by itself.
    scrub_bytes_per_s: u64,
    /// Seconds after which an OSD that is away is taken for lost.
    delay_s: f64,
    /// Seconds between two looks at all objects.
    every_s: f64,
    /// Seconds between the ends of one scrub and the begin of the next.
    scrub_every_s: f64,
    /// Bytes that rebalancing may read and store each second; 0: it is not done by itself.
    #[serde(default)]
    pub(crate) rebalance_bytes_per_s: u64,
    /// The difference between the fullest and the emptiest disk of a Domain, of their sizes, at which
    /// it begins.
    #[serde(default = "rebalance_from")]
    pub(crate) rebalance_from: f64,
}

fn rebalance_from() -> f64 {
    0.1
}

#[derive(Debug, Default)]
pub(crate) struct State {
    pub(crate) orders: Option<Orders>,
    /// Somebody wants it now.
    repair_now: bool,
    scrub_now: bool,
    rebalance_now: bool,
    pub(crate) stopping: bool,
    doing: &'static str,
    /// Objects that are done, and how many there are, of what it does now; bytes, of a rebalancing.
    pub(crate) done: u64,
    of: u64,
    survey: Survey,
    /// Passes that have ended, so that one can wait for the next.
    surveys: u64,
    repairs: u64,
    scrubs: u64,
    surveyed_at: u64,
    scrubbed_at: u64,
    repaired: Mended,
    scrubbed: Mended,
    pub(crate) rebalanced: Rebalanced,
    collected: u64,
    /// OSDs that leave, by UUID.
    farewells: BTreeMap<String, Farewell>,
    /// Passes that could not be ended.
    pub(crate) failures: u64,
    pub(crate) why: Option<String>,
}

#[derive(Debug, Default)]
pub(crate) struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

impl Shared {
    pub(crate) fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits for so long; false when it is time to stop.
    pub(crate) fn rest(&self, time: Duration) -> bool {
        let until = Instant::now() + time;
        let mut state = self.lock();
        while !state.stopping {
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return true;
            }
            let waited = self.changed.wait_timeout(state, left);
            state = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
        false
    }
}

/// The thread and the way to it.
pub(crate) struct Upkeep {
    shared: Arc<Shared>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

impl Upkeep {
    /// Starts the thread; it does nothing until it is told what.
    pub(crate) fn start(sealed: &Arc<Sealed>) -> std::io::Result<Self> {
        let shared = Arc::new(Shared::default());
        let (sealed, inside) = (sealed.clone(), shared.clone());
        let thread = std::thread::Builder::new().name("vs-upkeep".to_owned());
        let thread = thread.spawn(move || Worker::new(&sealed, inside).run())?;
        Ok(Self { shared, thread: Mutex::new(Some(thread)) })
    }

    /// Returns when the thread has ended.
    pub(crate) fn stop(&self) {
        self.shared.lock().stopping = true;
        self.shared.changed.notify_all();
        let thread = self.thread.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(thread) = thread {
            let _ = thread.join();
        }
    }
}

impl Drop for Upkeep {
    fn drop(&mut self) {
        self.stop();
    }
}

/// How far a scrub is, which gives way to what is more urgent and waits for disks that are away.
#[derive(Debug, Default)]
struct Scrub {
    /// The last object that was read.
    last: Option<String>,
    done: u64,
}

pub(crate) struct Worker<'a> {
    pub(crate) cluster: &'a Cluster,
    /// The scrub that is to be done, or to be gone on with.
    scrub: Option<Scrub>,
    /// The last walk over all objects could not be ended; no scrub walks before a look has.
    blind: bool,
    /// The rebalancing that is under way.
    pub(crate) run: Run,
    pub(crate) shared: Arc<Shared>,
    /// OSDs that are away, by number, since when.
    away: BTreeMap<[u8; 16], Instant>,
    looked: Option<Instant>,
    /// OSDs that were taken for lost, or were leaving, at the last look, and of which of them all had
    /// heard.
    settled: BTreeMap<[u8; 16], Standing>,
    heard: BTreeMap<String, u64>,
    scrubbed: Instant,
}

impl<'a> Worker<'a> {
    fn new(sealed: &'a Sealed, shared: Arc<Shared>) -> Self {
        Self {
            cluster: sealed.cluster(),
            scrub: None,
            blind: false,
            run: Run::default(),
            shared,
            away: BTreeMap::new(),
            looked: None,
            settled: BTreeMap::new(),
            heard: BTreeMap::new(),
            scrubbed: Instant::now(),
        }
    }

    fn run(mut self) {
        while self.shared.rest(TICK) {
            self.watch();
            let (orders, repair, scrub) = {
                let mut state = self.shared.lock();
                let asked = (state.repair_now, state.scrub_now);
                (state.repair_now, state.scrub_now) = (false, false);
                self.run.asked |= std::mem::take(&mut state.rebalance_now);
                (state.orders.clone(), asked.0, asked.1)
            };
            let Some(orders) = orders else { continue };
            let terms = self.terms(&orders);
            let lost = self.lost(&orders);
            let every = Duration::from_secs_f64(orders.every_s);
            let due = self.looked.is_none_or(|looked| looked.elapsed() >= every);
            if repair || due || lost != self.settled || orders.heard != self.heard {
                (self.settled, self.heard) = (lost, orders.heard.clone());
                let seen = self.look_and_mend(&terms, &orders);
                self.blind = seen.is_none();
                // A look that was cut off tells nothing of what is there twice.
                if let Some(seen) = &seen {
                    self.run.found(&seen.doubled);
                }
                let farewells = self.farewells(&orders, seen.as_ref());
                self.shared.lock().farewells = farewells;
                self.looked = Some(Instant::now());
            }
            let every = Duration::from_secs_f64(orders.scrub_every_s);
            let due = orders.scrub_bytes_per_s > 0 && self.scrubbed.elapsed() >= every;
            if scrub || due {
                self.scrub.get_or_insert_default();
            }
            // One batch: a scrub goes on for long.
            if !self.blind && (self.run.due || self.run.asked) {
                self.rebalance(&terms, &orders);
            }
            if !self.blind && self.scrub.is_some() {
                self.scrub(&terms, &orders);
                self.scrubbed = Instant::now();
            }
            self.shared.lock().doing = "";
        }
    }

    /// Notes which OSDs are away.
    fn watch(&mut self) {
        for osd in self.cluster.osds() {
            let id = osd.claim().osd;
            if osd.reachable() || self.cluster.stands(&id) == Standing::Removed {
                self.away.remove(&id);
            } else {
                self.away.entry(id).or_insert_with(Instant::now);
            }
        }
    }

    /// Those that are away for longer than is waited, and those that are to leave.
    fn lost(&self, orders: &Orders) -> BTreeMap<[u8; 16], Standing> {
        let delay = Duration::from_secs_f64(orders.delay_s);
        let away = self.away.iter().filter(|(_, since)| since.elapsed() >= delay);
        let leaving = self.cluster.parting();
        let leaving = leaving.into_iter().map(|(osd, standing)| (osd.claim().osd, standing));
        away.map(|(id, _)| (*id, Standing::Member)).chain(leaving).collect()
    }

    fn terms(&self, orders: &Orders) -> Terms {
        let delay = Duration::from_secs_f64(orders.delay_s);
        let mut waiting: BTreeMap<String, usize> = BTreeMap::new();
        for osd in self.cluster.osds() {
            let since = self.away.get(&osd.claim().osd);
            let lost = self.cluster.stands(&osd.claim().osd) == Standing::Lost;
            if !lost && since.is_some_and(|since| since.elapsed() < delay) {
                *waiting.entry(osd.claim().domain.clone()).or_default() += 1;
            }
        }
        let parting = self.cluster.parting().into_iter();
        let leaving = parting.filter(|(_, standing)| standing.is_emptied());
        Terms {
            domains: orders.domains.clone(),
            waiting,
            leaving: leaving.map(|(osd, _)| osd.id()).collect(),
            class: Class::Upkeep,
        }
    }

    pub(crate) fn begin(&self, doing: &'static str, of: u64) {
        let mut state = self.shared.lock();
        (state.doing, state.done, state.of) = (doing, 0, of);
    }

    fn look(&self, terms: &Terms) -> Option<Survey> {
        let before = self.shared.lock().survey.objects;
        self.begin("looking", before);
        let mut last = Instant::now();
        let surveyed = self.cluster.survey(terms, &mut |survey| {
            self.shared.lock().done = survey.objects;
            let on = self.shared.rest(last.elapsed() * REST);
            last = Instant::now();
            on
        });
        let mut state = self.shared.lock();
        match surveyed {
            Ok(_) if state.stopping => None,
            Ok(survey) => {
                state.why = None;
                state.surveys += 1;
                state.surveyed_at = seconds();
                state.survey = Survey {
                    todo: Vec::new(),
                    partial: Vec::new(),
                    logs: Vec::new(),
                    doubled: Vec::new(),
                    ..survey.clone()
                };
                Some(survey)
            }
            Err(error) => {
                state.failures += 1;
                state.why = Some(error.to_string());
                None
            }
        }
    }

    /// What was seen at last, by a look that was not cut off.
    fn look_and_mend(&mut self, terms: &Terms, orders: &Orders) -> Option<Survey> {
        let survey = self.look(terms)?;
        let changed = self.mend(&survey, terms, orders);
        self.clear_up(&survey, orders);
        let latest = if changed > 0 { self.look(terms) } else { Some(survey) };
        self.shared.lock().repairs += 1;
        latest
    }

    /// How many fragments were stored anew.
    fn mend(&self, survey: &Survey, terms: &Terms, orders: &Orders) -> u64 {
        self.begin("repairing", survey.todo.len() as u64);
        let mut budget =
            Budget::new(self.cluster, &self.shared, |orders| orders.repair_bytes_per_s);
        let mut changed = 0;
        let cluster = self.cluster;
        let at_once = Terms { class: Class::Guest, ..terms.clone() };
        for (safety, name) in &survey.todo {
            let terms = if is_urgent(*safety) { &at_once } else { terms };
            let spend = &mut |bytes| budget.spend(terms.class, bytes);
            let mended = match terms.class {
                Class::Guest => cluster.mend(name, terms, spend),
                Class::Upkeep => gently(|| cluster.mend(name, terms, spend)),
            };
            let mut state = self.shared.lock();
            state.done += 1;
            match mended {
                Ok(mended) => {
                    state.repaired.add(Mended { unplaced: 0, ..mended });
                    changed += mended.fragments;
                }
                Err(error) => state.why = Some(error.to_string()),
            }
            if state.stopping || state.orders.as_ref() != Some(orders) {
                break;
            }
        }
        changed
    }

    /// Removes what deleted logs, and puts that were deleted or cut off, have left. After a Domain was
    /// away for long that can be much: others are left time, and what is more urgent goes first. What
    /// is not done, or fails, is tried again at the next look.
    fn clear_up(&mut self, survey: &Survey, orders: &Orders) {
        let before = now_ns().saturating_sub(PARTIAL_AGE.as_nanos() as u64);
        let logs = survey.logs.iter().map(|name| (name, true));
        for (name, is_log) in logs.chain(survey.partial.iter().map(|name| (name, false))) {
            if self.gives_way(orders) {
                return;
            }
            let began = Instant::now();
            let collected = match is_log {
                true => self.cluster.collect_log(name).map(|_| 0),
                false => self.cluster.collect(name, before),
            };
            match collected {
                Ok(collected) => self.shared.lock().collected += collected,
                Err(error) if is_log => self.shared.lock().why = Some(error.to_string()),
                Err(_) => {}
            }
            self.shared.rest(began.elapsed() * REST);
        }
    }

    /// How far those are that leave, of the Domains that are mended here. `seen`: what the look at
    /// all objects has found that has just ended.
    fn farewells(&self, orders: &Orders, seen: Option<&Survey>) -> BTreeMap<String, Farewell> {
        let mut all = BTreeMap::new();
        for (osd, standing) in self.cluster.parting() {
            let domain = &osd.claim().domain;
            if orders.domains.as_ref().is_some_and(|domains| !domains.contains(domain)) {
                continue;
            }
            let id = osd.claim().osd;
            let text = volume::uuid_text(&id);
            // The look counts when it began after that.
            let seen = seen.filter(|_| self.settled.get(&id) == Some(&standing));
            let heard = orders.heard.get(&text).copied();
            let mut last = Instant::now();
            let farewell = Farewell::of(self.cluster, &id, standing, (seen, heard), &mut || {
                let on = self.shared.rest(last.elapsed() * REST);
                last = Instant::now();
                on
            });
            all.insert(text, farewell);
        }
        all
    }

    /// Whether there is something to do that a scrub, which may take days, must not keep waiting.
    pub(crate) fn is_urgent(&mut self, orders: &Orders) -> bool {
        let every = Duration::from_secs_f64(orders.every_s);
        let due = self.looked.is_none_or(|looked| looked.elapsed() >= every);
        self.gives_way(orders) || due || self.shared.lock().repair_now
    }

    /// Whether it has to end, or other orders were given, or others are lost than were at the last
    /// look.
    fn gives_way(&mut self, orders: &Orders) -> bool {
        self.watch();
        let told = {
            let state = self.shared.lock();
            state.stopping || state.orders.as_ref() != Some(orders)
        };
        told || self.lost(orders) != self.settled
    }

    /// Reads everything, or goes on where it was; stops when something else is urgent.
    fn scrub(&mut self, terms: &Terms, orders: &Orders) {
        let (cluster, shared) = (self.cluster, self.shared.clone());
        let mut scrub = self.scrub.take().unwrap_or_default();
        let objects = shared.lock().survey.objects;
        self.begin("scrubbing", objects);
        shared.lock().done = scrub.done;
        let behind = scrub.last.as_deref().map(walk_order);
        let least = orders.repair_bytes_per_s;
        // One that is asked for is done even where it is not done by itself.
        let mut budget =
            Budget::new(cluster, &shared, move |orders| match orders.scrub_bytes_per_s {
                0 => least,
                some => some,
            });
        let walked = cluster.walk(&mut |name| {
            if behind.as_ref().is_some_and(|behind| walk_order(name) <= *behind) {
                return true;
            }
            let spend = &mut |bytes| budget.spend(Class::Upkeep, bytes);
            let scrubbed = gently(|| cluster.scrub(name, terms, spend));
            scrub.last = Some(name.to_owned());
            scrub.done += 1;
            let stopping = {
                let mut state = shared.lock();
                state.done = scrub.done;
                match scrubbed {
                    Ok(scrubbed) => state.scrubbed.add(scrubbed),
                    Err(error) => state.why = Some(error.to_string()),
                }
                state.stopping
            };
            !stopping && !self.is_urgent(orders)
        });
        let mut state = shared.lock();
        match walked {
            Ok(true) => {
                state.scrubs += 1;
                state.scrubbed_at = seconds();
                return;
            }
            Ok(false) => {}
            Err(error) => {
                state.failures += 1;
                state.why = Some(error.to_string());
                self.blind = true;
            }
        }
        self.scrub = Some(scrub);
    }
}

fn now_ns() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |time| time.as_nanos() as u64)
}

fn seconds() -> u64 {
    now_ns() / 1_000_000_000
}

pub(crate) fn figures(mended: &Mended) -> Value {
    json!({
        "fragments": mended.fragments,
        "damaged": mended.damaged,
        "bytes": mended.bytes,
        "bytes_between_domains": mended.between_domains,
    })
}

/// What went over sockets, by Domain of the servers.
fn exchanged(cluster: &Cluster) -> BTreeMap<String, Value> {
    let mut sums: BTreeMap<String, Exchanged> = BTreeMap::new();
    for osd in cluster.osds() {
        let one = osd.traffic();
        let sum = sums.entry(osd.claim().domain.clone()).or_default();
        sum.sent += one.sent;
        sum.received += one.received;
        sum.fragments += one.fragments;
    }
    let told = |one: Exchanged| {
        let (sent, received) = (one.sent, one.received);
        json!({"sent": sent, "received": received, "fragments": one.fragments})
    };
    sums.into_iter().map(|(domain, sum)| (domain, told(sum))).collect()
}

impl Engine {
    fn upkeep_of(&self, what: &str) -> Result<&Shared> {
        let why = "the backend of this engine is a directory";
        let none = || Error::new("NO_ALBA", what, why, "configure [alba] on this node");
        self.upkeep.as_ref().map(|upkeep| &*upkeep.shared).ok_or_else(none)
    }

    /// What the upkeep of the backend is to do, in JSON.
    pub fn set_upkeep(&self, orders_json: &str) -> Result<()> {
        let what = "cannot look after the backend";
        let orders: Orders = parse(what, orders_json)?;
        for text in orders.heard.keys() {
            uuid(text)?;
        }
        let shared = self.upkeep_of(what)?;
        shared.lock().orders = Some(orders);
        Ok(())
    }

    /// Repairs, scrubs or rebalances now: "repair", "scrub" or "rebalance".
    pub fn start_upkeep(&self, kind: &str) -> Result<()> {
        let what = format!("cannot {kind} the backend");
        let shared = self.upkeep_of(&what)?;
        let mut state = shared.lock();
        match kind {
            "repair" => state.repair_now = true,
            "scrub" => state.scrub_now = true,
            "rebalance" => state.rebalance_now = true,
            _ => {
                let fix = "repair, scrub or rebalance";
                return Err(Error::new("BAD_REQUEST", what, "no such work", fix));
            }
        }
        Ok(())
    }

    /// What the upkeep of the backend has seen and done, in JSON; `null`: there is none.
    pub fn upkeep(&self) -> String {
        let Some(upkeep) = &self.upkeep else { return "null".to_owned() };
        let cache = self.alba().map(crate::cache::figures);
        let state = upkeep.shared.lock();
        let wire: BTreeMap<String, Value> = self.alba().map(exchanged).unwrap_or_default();
        let by_safety: BTreeMap<String, u64> =
            state.survey.by_safety.iter().map(|(safety, n)| (safety.to_string(), *n)).collect();
        let farewells: BTreeMap<&String, Value> =
            state.farewells.iter().map(|(osd, farewell)| (osd, farewell.told())).collect();
        json!({
            "doing": if state.doing.is_empty() { "idle" } else { state.doing },
            "done": state.done,
            "of": state.of,
            "surveys": state.surveys,
            "repairs": state.repairs,
            "scrubs": state.scrubs,
            "rebalances": state.rebalanced.runs(),
            "surveyed_at": state.surveyed_at,
            "scrubbed_at": state.scrubbed_at,
            "objects": state.survey.objects,
            "by_safety": by_safety,
            "unknown": state.survey.unknown,
            "missing": state.survey.missing,
            "to_mend": state.survey.to_mend,
            "repaired": figures(&state.repaired),
            "scrubbed": figures(&state.scrubbed),
            "rebalanced": state.rebalanced.told(),
            "spread": state.rebalanced.spread(),
            "collected": state.collected,
            "domains": state.orders.as_ref().and_then(|orders| orders.domains.clone()),
            "leaving": farewells,
            "failures": state.failures,
            "wire": wire,
            "cache": cache,
            "why": state.why,
        })
        .to_string()
    }
}

#[cfg(test)]
#[path = "upkeep_tests.rs"]
mod tests;
