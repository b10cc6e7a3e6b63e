//! The upkeep's last work: fragments go to emptier disks of their Domain, and copies that are there
//! twice are cleared up (see `machines::alba::rebalance`, `alba::cluster`).

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use alba::cluster::{DOUBLE_AGE, Doubles, MOVE_REST, Mended, Moving, Terms, walk_order};
use format::osd::wire::Class;
use machines::alba::{Balance, Fill, band, excess, gives, spread};
use serde_json::{Value, json};

use crate::budget::{Budget, gently};
use crate::upkeep::{Orders, Worker, figures};

/// Fragments that are copied before the old copies of all of them are deleted.
const BATCH_MAX: usize = 64;
/// For so long at most.
const BATCH_TIME: Duration = Duration::from_secs(10);
/// Objects with two copies of a fragment that are remembered.
const DOUBLES_MAX: usize = 10_000;

/// The difference between the fullest and the emptiest disk of a Domain at which it begins, in
/// millionths.
fn begin_of(orders: &Orders) -> u64 {
    (orders.rebalance_from.clamp(0.0, 1.0) * 1e6) as u64
}

/// Bytes each second: what is asked for is done even where it is not done by itself.
fn rate(orders: &Orders) -> u64 {
    match orders.rebalance_bytes_per_s {
        0 => orders.repair_bytes_per_s,
        some => some,
    }
}

/// What was done.
#[derive(Clone, Debug, Default)]
pub(crate) struct Rebalanced {
    /// Runs that have ended.
    runs: u64,
    moved: Mended,
    /// Copies that were there twice, cleared up.
    trimmed: u64,
    /// By Domain: the difference between its fullest and its emptiest disk, in millionths.
    spread: BTreeMap<String, u64>,
}

impl Rebalanced {
    pub(crate) fn runs(&self) -> u64 {
        self.runs
    }

    pub(crate) fn told(&self) -> Value {
        let mut told = figures(&self.moved);
        told["trimmed"] = json!(self.trimmed);
        told
    }

    pub(crate) fn spread(&self) -> BTreeMap<&String, f64> {
        self.spread.iter().map(|(domain, spread)| (domain, *spread as f64 / 1e6)).collect()
    }
}

/// A Domain whose disks are being made equal.
#[derive(Debug, Default)]
struct House {
    balance: Balance,
    /// Disks on which everything was looked at, in this run.
    seen: BTreeSet<u64>,
    /// The last object of the disk that is being looked at.
    last: Option<(u64, String)>,
    /// Fragments that were moved since it began with the first disk, and bytes in this run.
    again: usize,
    moved: u64,
}

/// How far it is.
#[derive(Debug, Default)]
pub(crate) struct Run {
    /// Whether there may be something to do.
    pub(crate) due: bool,
    /// Somebody wants it now.
    pub(crate) asked: bool,
    begun: bool,
    forced: bool,
    houses: BTreeMap<String, House>,
    /// Objects that have two copies of a fragment, and since when they have these.
    doubles: BTreeMap<String, (Instant, Doubles)>,
}

impl Run {
    /// What a look has found.
    pub(crate) fn found(&mut self, doubled: &[String]) {
        let doubled: BTreeSet<&String> = doubled.iter().collect();
        self.doubles.retain(|name, _| doubled.contains(name));
        for name in doubled.into_iter().take(DOUBLES_MAX) {
            self.doubles.entry(name.clone()).or_insert_with(|| (Instant::now(), Doubles::new()));
        }
        self.due = true;
    }
}

impl Worker<'_> {
    /// One batch; where more is to be done it is called again when nothing is more urgent.
    pub(crate) fn rebalance(&mut self, terms: &Terms, orders: &Orders) {
        let mut run = std::mem::take(&mut self.run);
        self.trim(&mut run, terms, orders);
        let domains = self.domains(orders);
        if std::mem::take(&mut run.asked) {
            for domain in &domains {
                run.houses.entry(domain.clone()).or_default().balance.ask();
            }
            (run.begun, run.forced) = (true, true);
        }
        let (mut on, mut cut) = (false, false);
        if orders.rebalance_bytes_per_s > 0 || run.forced {
            for domain in &domains {
                cut = self.is_urgent(orders);
                if cut {
                    break;
                }
                let house = run.houses.entry(domain.clone()).or_default();
                on |= self.rebalance_domain(domain, house, terms, orders);
            }
        }
        run.begun |= on;
        run.due = on || cut;
        if run.begun && !run.due {
            self.shared.lock().rebalanced.runs += 1;
            (run.begun, run.forced) = (false, false);
        }
        self.run = run;
    }

    fn domains(&self, orders: &Orders) -> BTreeSet<String> {
        let osds = self.cluster.osds();
        let all = osds.iter().map(|osd| osd.claim().domain.clone());
        let mine = |domain: &String| {
            orders.domains.as_ref().is_none_or(|domains| domains.contains(domain))
        };
        all.filter(mine).collect()
    }

    /// Whether there is more to be done.
    fn rebalance_domain(
        &mut self,
        domain: &str,
        house: &mut House,
        terms: &Terms,
        orders: &Orders,
    ) -> bool {
        // Where a disk is away or leaves there is something better to do.
        let fills = self.cluster.fills(domain).filter(|fills| fills.len() > 1);
        let Some(mut fills) = fills.filter(|_| !terms.waiting.contains_key(domain)) else {
            self.shared.lock().rebalanced.spread.remove(domain);
            return false;
        };
        self.shared.lock().rebalanced.spread.insert(domain.to_owned(), spread(&fills));
        let begin = begin_of(orders);
        if !house.balance.wants(&fills, begin) {
            (house.seen, house.last, house.moved, house.again) = Default::default();
            return false;
        }
        self.begin("rebalancing", house.moved + excess(&fills));
        self.shared.lock().done = house.moved;
        let moving = self.copy_batch(house, &mut fills, orders);
        if !moving.is_empty() {
            self.end_batch(&moving);
        }
        house.again += moving.len();
        let mut givers = fills.iter().filter(|disk| gives(&fills, disk, band(begin)));
        if givers.all(|disk| house.seen.contains(&disk.id)) {
            house.seen.clear();
            if std::mem::take(&mut house.again) > 0 {
                // Others may be better off there by now, or not be disturbed any more.
                return true;
            }
            // What is left cannot be moved.
            let fills = self.cluster.fills(domain).unwrap_or(fills);
            self.shared.lock().rebalanced.spread.insert(domain.to_owned(), spread(&fills));
            house.balance.settle(&fills);
            (house.last, house.moved) = Default::default();
            return false;
        }
        true
    }

    /// Copies fragments from the fullest disk of which not everything was looked at yet.
    fn copy_batch(
        &mut self,
        house: &mut House,
        fills: &mut [Fill],
        orders: &Orders,
    ) -> Vec<Moving> {
        let band = band(begin_of(orders));
        let givers = fills.iter().filter(|disk| gives(fills, disk, band));
        let fresh = givers.filter(|disk| !house.seen.contains(&disk.id));
        let Some(from) = fresh.max_by_key(|disk| (disk.level(), disk.id)).copied() else {
            return Vec::new();
        };
        let (cluster, shared) = (self.cluster, self.shared.clone());
        let behind = house.last.take().filter(|(disk, _)| *disk == from.id);
        let behind = behind.map(|(_, object)| walk_order(&object)).unwrap_or_default();
        let mut budget = Budget::new(self.cluster, &shared, rate);
        let mut moving: Vec<Moving> = Vec::new();
        // The way to the first object is not the batch's.
        let (mut first, mut last) = (None, None);
        let walked = cluster.walk_on(from.id, &behind, &mut |name| {
            let began = *first.get_or_insert_with(Instant::now);
            last = Some((from.id, name.to_owned()));
            let looked = Instant::now();
            let spend = &mut |bytes| budget.spend(Class::Upkeep, bytes);
            let given = gently(|| cluster.give(name, (from.id, fills), band, spend));
            // What is read and stored is paid for; looking in vain costs others time, too.
            let paid = given.as_ref().is_ok_and(|(_, moved)| moved.bytes > 0);
            let stopping = {
                let mut state = shared.lock();
                match given {
                    Ok((more, moved)) => {
                        let bytes = moved.bytes / 2;
                        state.rebalanced.moved.add(Mended { unplaced: 0, ..moved });
                        state.done += bytes;
                        house.moved += bytes;
                        moving.extend(more);
                    }
                    Err(error) => state.why = Some(error.to_string()),
                }
                state.stopping
            };
            if !paid && !shared.rest(looked.elapsed()) {
                return false;
            }
            let done = fills.iter().find(|disk| disk.id == from.id);
            let enough = moving.len() >= BATCH_MAX || began.elapsed() >= BATCH_TIME;
            let gives = done.is_some_and(|disk| gives(fills, disk, band));
            !stopping && !enough && gives && !self.is_urgent(orders)
        });
        match walked {
            Ok(true) => {
                house.seen.insert(from.id);
            }
            Ok(false) => house.last = last,
            Err(error) => {
                // It is looked at again in the next run.
                house.seen.insert(from.id);
                let mut state = self.shared.lock();
                state.failures += 1;
                state.why = Some(error.to_string());
            }
        }
        moving
    }

    fn end_batch(&self, moving: &[Moving]) {
        if !self.shared.rest(MOVE_REST) {
            // The next one that looks finds two copies of them.
            return;
        }
        for one in moving {
            if let Err(error) = self.cluster.end_move(one) {
                self.shared.lock().why = Some(error.to_string());
            }
        }
    }

    /// Clears up what was there twice for so long that nobody is at work on it.
    fn trim(&mut self, run: &mut Run, terms: &Terms, orders: &Orders) {
        let shared = self.shared.clone();
        let mut budget = Budget::new(self.cluster, &shared, rate);
        let mut looked = Instant::now();
        for (name, (since, known)) in &mut run.doubles {
            if known.is_empty() {
                *known = self.cluster.doubles(name);
                *since = Instant::now();
            } else if since.elapsed() >= DOUBLE_AGE {
                let spend = &mut |bytes| budget.spend(Class::Upkeep, bytes);
                match self.cluster.trim(name, terms, known, spend) {
                    Ok(trimmed) => self.shared.lock().rebalanced.trimmed += trimmed,
                    Err(error) => self.shared.lock().why = Some(error.to_string()),
                }
                // What is left is looked at anew.
                known.clear();
            } else {
                continue;
            }
            if !shared.rest(looked.elapsed()) || self.is_urgent(orders) {
                return;
            }
            looked = Instant::now();
        }
    }
}
