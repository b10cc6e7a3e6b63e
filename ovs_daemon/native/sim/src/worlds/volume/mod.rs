//! The world of the volume owner ([`machines::volume`]): clients, the write buffer, the backend,
//! crashes and failures around the production `step`.
//!
//! Actions of the machine wait in `flight` and are done in any order, or fail (leaving their effect
//! behind or not). Completions reach the client at once, which makes every promise count as early
//! as it can. `kill -9` and power loss open the volume again in the same move; what an open reads
//! and decides is in [`disk`], what clients may then see in [`reference`].
//!
//! That an action took effect, its answer was lost and the process died then needs no move of its
//! own: the disk is the same as if the answer had arrived just before the crash, and then more had
//! been promised.

mod disk;
mod moves;
mod reference;
mod scenarios;

use std::hash::{Hash, Hasher};

use machines::map::count_refs;
use machines::volume::{
    Action, Limits, Message, Mutant, Op, OpId, Recovered, Sco, Stage, Taken, Verb, Volume,
};

use crate::explore::{Goal, Violation, World};
use disk::{Checkpoint, Disk, Identity, Record, Safety, uuid};
use moves::{Compaction, RELOCATIONS};
use reference::{Reference, Value};

pub use disk::OpenPolicy;
pub use moves::MovePolicy;
pub use reference::Request;
pub use scenarios::scenarios;

/// Tells whether a goal is reached.
pub type Reached = fn(&VolumeWorld) -> bool;

/// How much may happen in a world.
#[derive(Clone, Debug)]
pub struct Bounds {
    /// Sizes of the machine.
    pub limits: Limits,
    /// What clients may ask for, and how often each.
    pub menu: Vec<(Request, u8)>,
    /// They ask for it in this order only.
    pub in_order: bool,
    /// Operations in all.
    pub operations: u8,
    /// Operations that wait for their answer at the same time.
    pub outstanding: usize,
    /// Crashes: `kill -9` or power loss.
    pub crashes: u8,
    /// Failing actions.
    pub failures: u8,
    /// Which actions may fail.
    pub may_fail: fn(&Action) -> bool,
    /// How the volume is opened.
    pub open: OpenPolicy,
    /// Where compaction reads what it moves.
    pub moves: MovePolicy,
    /// The volume may be drained.
    pub drain: bool,
    /// The volume may be settled.
    pub settle: bool,
    /// What must be reached.
    pub goals: Vec<(&'static str, Reached)>,
}

/// One thing that happens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Move {
    /// A client asks (the number of the request in the menu).
    Submit(usize),
    /// The loop's turn ends: what was submitted goes on.
    Turn,
    /// An action is done and its answer arrives.
    Done(Action),
    /// An action fails; whether it took effect all the same.
    Fail(Action, bool),
    /// The next run of a compaction is read.
    Read,
    /// The process dies; the volume is opened again.
    Kill,
    /// The power goes. Which of the batches stay that were not durable, as bits from the oldest;
    /// whether the objects that were deleted last are back.
    PowerLoss(u32, bool),
    /// The volume is to be closed.
    Drain,
    /// What it has is to go to the backend.
    Settle,
}

/// The bounds are the same in all states of a world: nothing to compare.
#[derive(Clone, Debug)]
struct Fixed(&'static Bounds);

impl PartialEq for Fixed {
    fn eq(&self, _: &Self) -> bool {
        true
    }
}

impl Eq for Fixed {}

impl Hash for Fixed {
    fn hash<H: Hasher>(&self, _: &mut H) {}
}

/// What is left of the bounds.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Budget {
    menu: Vec<u8>,
    operations: u8,
    crashes: u8,
    failures: u8,
    drains: u8,
    settles: u8,
}

/// The volume and everything around it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct VolumeWorld {
    bounds: Fixed,
    mutant: Option<Mutant>,
    volume: Volume,
    /// Actions that the machine asked for and that are not done; sorted.
    flight: Vec<Action>,
    disk: Disk,
    reference: Reference,
    /// First value of each operation that brings data and is not appended.
    data: Vec<(OpId, Vec<Value>)>,
    compaction: Option<Compaction>,
    /// Something was submitted since the last turn.
    turn: bool,
    life: u8,
    tail: Identity,
    drained: bool,
    /// The last batch before a settling that is under way.
    settling: Option<u64>,
    settled: bool,
    budget: Budget,
}

impl VolumeWorld {
    /// A new volume.
    pub fn new(bounds: &'static Bounds, mutant: Option<Mutant>) -> Self {
        let mut disk = Disk::default();
        let opened = disk.open(bounds.open).expect("nothing is wrong with nothing");
        let budget = Budget {
            menu: bounds.menu.iter().map(|(_, times)| *times).collect(),
            operations: bounds.operations,
            crashes: bounds.crashes,
            failures: bounds.failures,
            drains: u8::from(bounds.drain),
            settles: u8::from(bounds.settle),
        };
        VolumeWorld {
            bounds: Fixed(bounds),
            mutant,
            volume: machine(bounds, opened.recovered, mutant),
            flight: Vec::new(),
            disk,
            reference: Reference::default(),
            data: Vec::new(),
            compaction: None,
            turn: false,
            life: 0,
            tail: opened.tail,
            drained: false,
            settling: None,
            settled: false,
            budget,
        }
    }

    /// Gives the machine a message and takes what it wants.
    fn step(&mut self, message: Message) -> Result<(), Violation> {
        let mut actions = Vec::new();
        self.turn = matches!(message, Message::Submit(_));
        let paused = self.flight.iter().any(|one| matches!(one, Action::RetryDeletes { .. }));
        self.volume.step(message, &mut actions);
        self.check_evictions(&actions)?;
        if paused && actions.iter().any(|action| matches!(action, Action::Delete(_))) {
            return Err(Violation::new("a refused delete waits", format!("{actions:?}")));
        }
        for action in actions {
            match action {
                Action::Complete(id) => self.complete(id)?,
                Action::Drained => self.drained = true,
                Action::Settled => self.settle()?,
                other => self.flight.push(other),
            }
        }
        Ok(())
    }

    /// The machine says that what was there when it was asked is stored.
    fn settle(&mut self) -> Result<(), Violation> {
        let stored = self.disk.checkpoint.as_ref().map_or(0, |stored| stored.taken.last_sequence);
        match self.settling.take() {
            Some(sequence) if stored < sequence => {
                let detail = format!("batch {sequence} was appended, {stored} is stored");
                Err(Violation::new("settled is stored", detail))
            }
            _ => {
                self.settled = true;
                Ok(())
            }
        }
    }

    /// What is evicted, other than to be deleted, had no room; what is kept has.
    fn check_evictions(&self, actions: &[Action]) -> Result<(), Violation> {
        let scos = self.volume.scos();
        let evicted = actions.iter().filter_map(|action| match action {
            Action::Evict(sco) => scos.get(sco).filter(|sco| sco.stage == Stage::Evicted),
            _ => None,
        });
        let limits = self.volume.limits();
        let smallest = limits.sco_clusters.div_ceil(16);
        let weight = |sco: &Sco| sco.room.max(smallest);
        let lost: u32 = evicted.map(weight).sum();
        let kept =
            scos.values().filter(|sco| sco.stage == Stage::Uploaded).map(weight).sum::<u32>();
        let room = limits.keep_scos * limits.sco_clusters;
        if kept > room || lost > 0 && kept + lost <= room {
            let detail = format!("{kept} clusters are kept and {lost} evicted, {room} have room");
            return Err(Violation::new("the cache is used up and bounded", detail));
        }
        Ok(())
    }

    fn submit(&mut self, number: usize) -> Result<(), Violation> {
        self.budget.menu[number] -= 1;
        self.budget.operations -= 1;
        let request = self.bounds.0.menu[number].0;
        // Unique among all operations of the world, and so are the values made of it.
        let id = OpId::from(self.bounds.0.operations - self.budget.operations);
        let value = id as u8 * 4;
        let verb = match request {
            Request::Write { lba, clusters, fua } => {
                self.data.push((id, (0..clusters).map(|n| value + n).collect()));
                Verb::Write { lba: lba.into(), clusters: clusters.into(), fua }
            }
            Request::Trim { lba } => Verb::Trim { lba: lba.into(), clusters: 1, fua: false },
            Request::Flush => Verb::Flush,
            Request::Snapshot(id) => Verb::Snapshot(uuid(id)),
            Request::DeleteSnapshot(id) => Verb::DeleteSnapshot(uuid(id)),
            Request::Revert(id) => Verb::Revert(uuid(id)),
        };
        self.reference.submit(id, request, value);
        self.step(Message::Submit(Op { id, verb }))
    }

    fn complete(&mut self, id: OpId) -> Result<(), Violation> {
        if let Some(compaction) = &mut self.compaction
            && compaction.waits_for.take_if(|other| *other == id).is_some()
        {
            self.data.retain(|(other, _)| *other != id);
            return Ok(());
        }
        match self.reference.complete(id) {
            Some(_) => Ok(()),
            None => {
                let detail = format!("operation {id} was answered, nobody asked");
                Err(Violation::new("one answer each", detail))
            }
        }
    }

    /// Does an action, as the shell would.
    fn perform(&mut self, action: Action) -> Result<(), Violation> {
        match action {
            Action::Append => self.append(),
            Action::Open(sco) => match self.disk.files.insert(sco, Vec::new()) {
                None => Ok(()),
                Some(_) => Err(Violation::new("numbers are not used twice", format!("SCO {sco}"))),
            },
            Action::Sync { through, .. } => {
                self.disk.sync(through);
                Ok(())
            }
            Action::Upload(sco) => self.upload(sco),
            Action::Evict(sco) => self.evict(sco),
            Action::Checkpoint => self.store_checkpoint(),
            Action::Delete(sco) => self.delete(sco),
            Action::Compact(sco) => self.compact(sco),
            Action::Retry
            | Action::RetryDeletes { .. }
            | Action::Complete(_)
            | Action::Drained
            | Action::Settled => Ok(()),
        }
    }

    fn answer(&mut self, action: Action) -> Result<(), Violation> {
        let message = match action {
            Action::Append => Message::Appended,
            Action::Open(sco) => Message::Opened { sco },
            Action::Sync { through, .. } => Message::Synced { through },
            Action::Upload(sco) => Message::Uploaded { sco },
            Action::Checkpoint => {
                let taken = self.volume.taken().ok_or_else(nothing_taken)?;
                Message::CheckpointStored { referenced: referenced(taken) }
            }
            Action::Delete(sco) => Message::Deleted { sco },
            Action::Retry => Message::Retry,
            Action::RetryDeletes { .. } => Message::RetryDeletes,
            Action::Evict(_)
            | Action::Compact(_)
            | Action::Complete(_)
            | Action::Drained
            | Action::Settled => {
                return Ok(());
            }
        };
        self.step(message)
    }

    fn fail(&mut self, action: Action, effect: bool) -> Result<(), Violation> {
        self.budget.failures -= 1;
        if effect {
            self.perform(action)?;
        }
        let message = match action {
            Action::Append => Message::AppendFailed { no_space: true },
            Action::Open(sco) => Message::OpenFailed { sco, no_space: true },
            Action::Sync { after, through } => {
                self.disk.forget_dirty(after, through);
                Message::SyncFailed
            }
            Action::Upload(sco) => Message::UploadFailed { sco },
            Action::Checkpoint => Message::CheckpointFailed,
            Action::Delete(sco) => Message::DeleteFailed { sco },
            _ => return Ok(()),
        };
        self.step(message)
    }

    fn append(&mut self) -> Result<(), Violation> {
        let Some(batch) = self.volume.batch().cloned() else {
            return Err(Violation::new("batches are in order", "there is none to append"));
        };
        let Some(file) = self.disk.files.get_mut(&batch.sco) else {
            let detail = format!("batch {} goes to SCO {}, no file", batch.sequence, batch.sco);
            return Err(Violation::new("batches are in order", detail));
        };
        if batch.sequence != self.tail.1 + 1 {
            let detail = format!("batch {} follows {}", batch.sequence, self.tail.1);
            return Err(Violation::new("batches are in order", detail));
        }
        let mut data = Vec::new();
        for part in &batch.parts {
            let known = self.data.iter().find(|(id, _)| *id == part.op).map(|(_, values)| values);
            let from = part.skip as usize;
            let wanted = known.and_then(|values| values.get(from..from + part.clusters as usize));
            data.extend_from_slice(wanted.ok_or_else(|| {
                Violation::new("batches are in order", format!("no data for {part:?}"))
            })?);
        }
        let identity = (self.life, batch.sequence);
        file.push(Record {
            identity,
            previous: self.tail,
            durable_sequence: self.volume.durable(),
            entries: batch.entries.clone(),
            data,
            safety: Safety::Dirty,
        });
        // Each batch has a header page here.
        let pages = file.len() as u32;
        if pages > self.volume.limits().sco_clusters {
            let detail = format!("SCO {} has {pages} header pages", batch.sco);
            return Err(Violation::new("a SCO is bounded", detail));
        }
        self.tail = identity;
        let appended = |id: OpId| id < RELOCATIONS && batch.parts.iter().any(|part| part.op == id);
        self.data.retain(|(id, _)| !appended(*id));
        Ok(())
    }

    fn upload(&mut self, sco: u32) -> Result<(), Violation> {
        let Some(file) = self.disk.files.get(&sco) else {
            let detail = format!("SCO {sco} is to be uploaded and its file is gone");
            return Err(Violation::new("buffer until stored", detail));
        };
        // A put syncs the folder.
        self.disk.lingering.clear();
        let stored = |record: &Record| Record { safety: Safety::Durable, ..record.clone() };
        let object: Vec<Record> = file.iter().map(stored).collect();
        match self.disk.objects.insert(sco, object.clone()) {
            Some(other) if other != object => {
                Err(Violation::new("numbers are not used twice", format!("object {sco} differs")))
            }
            _ => Ok(()),
        }
    }

    fn evict(&mut self, sco: u32) -> Result<(), Violation> {
        let covered = self.covered_by_checkpoint(sco) && !self.is_referenced(sco);
        if !self.disk.objects.contains_key(&sco) && !covered {
            let detail = format!("the file of SCO {sco} is removed, there is no object");
            return Err(Violation::new("buffer until stored", detail));
        }
        self.disk.files.remove(&sco);
        Ok(())
    }

    /// Open does not replay this SCO.
    fn covered_by_checkpoint(&self, sco: u32) -> bool {
        self.disk.checkpoint.as_ref().is_some_and(|stored| sco <= stored.taken.position)
    }

    /// The head, a snapshot or the stored checkpoint refers to this SCO.
    fn is_referenced(&self, sco: u32) -> bool {
        let stored = self.disk.checkpoint.as_ref().map(|checkpoint| &checkpoint.taken);
        let snapshots = self.volume.snapshots().iter().map(|snapshot| &snapshot.map);
        let mut maps = vec![self.volume.map()];
        maps.extend(snapshots);
        maps.extend(stored.map(|taken| &taken.map));
        maps.extend(stored.iter().flat_map(|taken| &taken.snapshots).map(|other| &other.map));
        count_refs(&maps, 0).contains_key(&sco)
    }

    fn store_checkpoint(&mut self) -> Result<(), Violation> {
        let taken = self.volume.taken().cloned().ok_or_else(nothing_taken)?;
        let refers_to = referenced(&taken);
        let below = self.volume.scos().range(..=taken.position).filter(|(_, sco)| sco.clusters > 0);
        let gone = below.filter(|(_, sco)| sco.stage != Stage::Deleting).map(|(number, _)| number);
        let missing =
            gone.chain(refers_to.keys()).find(|number| !self.disk.objects.contains_key(number));
        if let Some(number) = missing {
            let detail = format!("position {}, SCO {number} has no object", taken.position);
            return Err(Violation::new("checkpoints hold what is stored", detail));
        }
        let records = self.disk.files.values().chain(self.disk.objects.values()).flatten();
        let last = records
            .map(|record| record.identity)
            .find(|(_, sequence)| *sequence == taken.last_sequence)
            .or(self.disk.checkpoint.as_ref().map(|checkpoint| checkpoint.last))
            .filter(|(_, sequence)| *sequence == taken.last_sequence);
        let Some(last) = last else {
            let detail = format!("no batch {} is stored", taken.last_sequence);
            return Err(Violation::new("checkpoints hold what is stored", detail));
        };
        self.disk.checkpoint = Some(Checkpoint { taken, last });
        Ok(())
    }

    fn delete(&mut self, sco: u32) -> Result<(), Violation> {
        if !self.covered_by_checkpoint(sco) {
            let detail = format!("SCO {sco} is deleted, open would replay it");
            return Err(Violation::new("no reference dangles", detail));
        }
        if self.is_referenced(sco) {
            let detail = format!("SCO {sco} is deleted and referred to");
            return Err(Violation::new("no reference dangles", detail));
        }
        if self.disk.objects.remove(&sco).is_some() {
            self.disk.lingering.insert(sco);
        }
        Ok(())
    }

    fn crash(&mut self, power: Option<(u32, bool)>) -> Result<(), Violation> {
        self.budget.crashes -= 1;
        if let Some((kept, back)) = power {
            self.disk.lose_power(kept, back);
        }
        let opened = self.disk.open(self.bounds.0.open)?;
        if !self.reference.crash(&opened.content, power.is_some()) {
            let expected = self.reference.expected(power.is_some());
            let detail = format!("found {:?}, expected {expected}", opened.content);
            return Err(Violation::new(survival(power.is_some()), detail));
        }
        self.flight.clear();
        self.data.clear();
        self.compaction = None;
        self.turn = false;
        // Whatever is left continues one chain, so its lives need not be told apart any more.
        self.disk.start_life();
        self.life = 1;
        self.tail = (0, opened.tail.1);
        self.drained = false;
        self.settling = None;
        self.volume = machine(self.bounds.0, opened.recovered, self.mutant);
        Ok(())
    }

    /// Would a crash in this state lose something?
    fn check_crash(&self, power: bool) -> Result<(), Violation> {
        let mut disk = self.disk.clone();
        if power {
            disk.lose_power(0, true);
        }
        let found = disk.open(self.bounds.0.open)?.content;
        let fine = if power {
            self.reference.allows_after_power_loss(&found)
        } else {
            self.reference.allows(&found)
        };
        if fine {
            return Ok(());
        }
        let expected = self.reference.expected(power);
        Err(Violation::new(survival(power), format!("would find {found:?}, expected {expected}")))
    }

    /// The machine knows every object, so that it can delete it one day.
    fn check_leaks(&self) -> Result<(), Violation> {
        let known = self.volume.scos();
        match self.disk.objects.keys().find(|number| !known.contains_key(number)) {
            None => Ok(()),
            Some(number) => {
                let detail = format!("nobody knows of object {number}");
                Err(Violation::new("nothing leaks", detail))
            }
        }
    }

    /// What is dead is deleted one day, and never much of it at a time.
    fn check_deletes(&self) -> Result<(), Violation> {
        let asked = self.flight.iter().filter(|action| matches!(action, Action::Delete(_)));
        let (asked, most) = (asked.count(), self.volume.limits().deletes as usize);
        if asked > most {
            let detail = format!("{asked} are under way");
            return Err(Violation::new("deletes are few at a time", detail));
        }
        let paused = self.flight.iter().any(|one| matches!(one, Action::RetryDeletes { .. }));
        let dead = self.volume.scos().iter().find(|(_, sco)| sco.stage == Stage::Deleting);
        match dead {
            Some((number, _)) if asked == 0 && !paused => {
                let detail = format!("SCO {number} is to be deleted, and nothing happens");
                Err(Violation::new("what is dead is deleted", detail))
            }
            _ => Ok(()),
        }
    }

    fn check_snapshots(&self) -> Result<(), Violation> {
        for snapshot in self.volume.snapshots() {
            let open = self.volume.scos().get(&snapshot.position);
            if open.is_some_and(|sco| sco.stage == Stage::Open) {
                let detail = format!("SCO {} is still open", snapshot.position);
                return Err(Violation::new("snapshots end their SCO", detail));
            }
        }
        Ok(())
    }

    /// Something is always on its way as long as somebody waits.
    fn check_progress(&self) -> Result<(), Violation> {
        if self.turn || !self.flight.is_empty() {
            return Ok(());
        }
        if let Some(op) = self.reference.outstanding().first() {
            let detail = format!("nothing is in flight, {:?} waits", op.request);
            return Err(Violation::new("no operation is forgotten", detail));
        }
        if self.settling.is_some() {
            let detail = "nothing is in flight and the volume does not settle";
            return Err(Violation::new("no operation is forgotten", detail));
        }
        if self.budget.drains == 0 && self.bounds.0.drain && self.life == 0 && !self.drained {
            let detail = "nothing is in flight and the volume does not drain";
            return Err(Violation::new("no operation is forgotten", detail));
        }
        Ok(())
    }
}

fn machine(bounds: &Bounds, recovered: Recovered, mutant: Option<Mutant>) -> Volume {
    let mut volume = Volume::new(bounds.limits, recovered);
    if let Some(mutant) = mutant {
        volume.plant(mutant);
    }
    volume
}

fn nothing_taken() -> Violation {
    Violation::new("checkpoints hold what is stored", "there is nothing to store")
}

fn referenced(taken: &Taken) -> std::collections::BTreeMap<u32, u32> {
    let mut maps = vec![&taken.map];
    maps.extend(taken.snapshots.iter().map(|snapshot| &snapshot.map));
    count_refs(&maps, 0)
}

fn survival(power: bool) -> &'static str {
    if power { "flushed survives power loss" } else { "acknowledged survives kill -9" }
}

impl World for VolumeWorld {
    type Move = Move;

    fn moves(&self, out: &mut Vec<Move>) {
        if self.turn {
            out.push(Move::Turn);
        }
        if self.has_listed() {
            out.push(Move::Read);
        }
        let mut last = None;
        for action in &self.flight {
            if last != Some(action) {
                out.push(Move::Done(*action));
            }
            last = Some(action);
        }
        let idle = self.budget.drains == u8::from(self.bounds.0.drain);
        if self.budget.operations > 0
            && self.reference.outstanding().len() < self.bounds.0.outstanding
            && idle
        {
            let left = self.budget.menu.iter().enumerate().filter(|(_, times)| **times > 0);
            let most = if self.bounds.0.in_order { 1 } else { usize::MAX };
            out.extend(left.take(most).map(|(number, _)| Move::Submit(number)));
        }
        if self.budget.drains > 0 {
            out.push(Move::Drain);
        }
        if self.budget.settles > 0 && idle {
            out.push(Move::Settle);
        }
        if self.budget.failures > 0 {
            for action in self.flight.iter().filter(|action| (self.bounds.0.may_fail)(action)) {
                out.push(Move::Fail(*action, false));
                if matches!(action, Action::Upload(_) | Action::Checkpoint | Action::Delete(_)) {
                    out.push(Move::Fail(*action, true));
                }
            }
        }
        if self.budget.crashes > 0 {
            out.push(Move::Kill);
            let records = self.disk.unsafe_records().min(4);
            out.extend((0..1 << records).map(|kept| Move::PowerLoss(kept, false)));
            if !self.disk.lingering.is_empty() {
                out.extend((0..1 << records).map(|kept| Move::PowerLoss(kept, true)));
            }
        }
    }

    fn apply(&mut self, step: &Move) -> Result<(), Violation> {
        match step {
            Move::Submit(number) => self.submit(*number)?,
            Move::Turn => self.step(Message::Turn)?,
            Move::Done(action) => {
                self.land(*action);
                self.perform(*action)?;
                self.answer(*action)?;
            }
            Move::Fail(action, effect) => {
                self.land(*action);
                self.fail(*action, *effect)?;
            }
            Move::Read => self.read_listed()?,
            Move::Kill => self.crash(None)?,
            Move::PowerLoss(kept, back) => self.crash(Some((*kept, *back)))?,
            Move::Drain => {
                self.budget.drains -= 1;
                self.give_up_compaction();
                self.step(Message::Drain)?;
            }
            Move::Settle => {
                self.budget.settles -= 1;
                self.settling = Some(self.volume.sequence());
                self.step(Message::Settle)?;
            }
        }
        self.finish_compaction()
    }

    fn check(&self) -> Result<(), Violation> {
        self.check_crash(false)?;
        self.check_crash(true)?;
        let found = self.disk.content(self.volume.map(), self.volume.snapshots())?;
        if !self.reference.allows(&found) {
            let detail = format!("found {found:?}, expected {}", self.reference.expected(false));
            return Err(Violation::new("reads return what was written", detail));
        }
        self.check_snapshots()?;
        self.check_leaks()?;
        self.check_deletes()?;
        self.check_progress()
    }

    fn canonical(&mut self) {
        self.disk.forget();
        self.flight.sort_unstable_by_key(order);
        self.reference.forget();
    }

    fn goals(&self) -> Vec<Goal<Self>> {
        let goals = self.bounds.0.goals.iter();
        goals.map(|(name, holds)| Goal { name, holds: *holds }).collect()
    }

    fn describe(&self, step: &Move) -> String {
        match step {
            Move::Submit(number) => format!("client: {:?}", self.bounds.0.menu[*number].0),
            Move::Turn => "turn".to_string(),
            Move::Done(Action::Append) => match self.volume.batch() {
                Some(batch) => format!(
                    "append batch {} to SCO {}: {:?}",
                    batch.sequence, batch.sco, batch.entries
                ),
                None => "append".to_string(),
            },
            Move::Done(action) => format!("done: {action:?}"),
            Move::Fail(action, false) => format!("FAILS: {action:?}"),
            Move::Fail(action, true) => format!("FAILS after taking effect: {action:?}"),
            Move::Read => "read what is to be moved".to_string(),
            Move::Kill => "KILL -9, open again".to_string(),
            Move::PowerLoss(kept, back) => {
                let records = self.disk.unsafe_records();
                let back = if *back { ", deleted objects are back" } else { "" };
                format!(
                    "POWER LOSS, {kept:0records$b} of the last {records} batches stay{back}; open"
                )
            }
            Move::Drain => "drain".to_string(),
            Move::Settle => "settle".to_string(),
        }
    }
}

impl VolumeWorld {
    /// Takes an action out of the air.
    fn land(&mut self, action: Action) {
        let at = self.flight.iter().position(|other| *other == action);
        self.flight.remove(at.expect("only what is in flight is moved"));
    }
}

/// A fixed order of actions, so that states that differ only in the order of asking are one.
fn order(action: &Action) -> (u8, u64) {
    match *action {
        Action::Append => (0, 0),
        Action::Open(sco) => (1, sco.into()),
        Action::Sync { through, .. } => (2, through),
        Action::Upload(sco) => (3, sco.into()),
        Action::Evict(sco) => (4, sco.into()),
        Action::Checkpoint => (5, 0),
        Action::Delete(sco) => (6, sco.into()),
        Action::Compact(sco) => (7, sco.into()),
        Action::Retry => (8, 0),
        Action::Complete(id) => (9, id.into()),
        Action::Drained => (10, 0),
        Action::Settled => (11, 0),
        Action::RetryDeletes { doublings } => (12, doublings.into()),
    }
}
