//! What a guest may see: an array of clusters, each with the values that it may have.
//!
//! A write without an answer may come into force at any time, once. Of acknowledged writes that
//! overlapped in time any may be the last. What a read has shown is what there is. Loss of power of
//! every node that had promised to have the log takes the volume back to something between the last
//! flush and now.

use std::fmt;

/// Identifies a write; 0 is what was never written or was trimmed.
pub(super) type Value = u32;

#[derive(Clone, Debug, Default)]
struct Cell {
    /// One of these is in force, with the moment of its acknowledgement.
    possible: Vec<(Value, u64)>,
    /// Not acknowledged.
    maybe: Vec<Value>,
    /// Asked by a guest that is gone; settled when the next one is let in.
    abandoned: Vec<Value>,
    /// What was in force at some time since the last flush.
    floor: Vec<Value>,
    /// All that was ever written.
    ever: Vec<Value>,
    changed: u64,
}

/// A read under way: what it may return, by cell.
#[derive(Clone, Debug)]
pub(super) struct Reading {
    id: u64,
    first: usize,
    allowed: Vec<Vec<Value>>,
    began: u64,
}

/// A write under way.
#[derive(Clone, Copy, Debug)]
pub(super) struct Writing {
    pub(super) first: usize,
    pub(super) cells: usize,
    pub(super) value: Value,
    pub(super) fua: bool,
    began: u64,
}

#[derive(Clone, Debug)]
struct Flush {
    id: u64,
    floors: Vec<Vec<Value>>,
}

/// See the top of the file.
#[derive(Clone, Debug)]
pub(super) struct Oracle {
    cells: Vec<Cell>,
    readings: Vec<Reading>,
    flushes: Vec<Flush>,
    clock: u64,
    /// Disks lie in this run: what is lost is lost, but it is never something else.
    pub(super) lying: bool,
}

/// What a read returned and why it cannot be.
pub(super) struct Wrong(pub(super) String);

impl fmt::Display for Wrong {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

fn add(values: &mut Vec<Value>, value: Value) {
    if !values.contains(&value) {
        values.push(value);
    }
}

impl Cell {
    fn values(&self) -> impl Iterator<Item = Value> {
        let possible = self.possible.iter().map(|(value, _)| *value);
        possible.chain(self.maybe.iter().copied()).chain(self.abandoned.iter().copied())
    }
}

impl Oracle {
    pub(super) fn new(cells: usize, lying: bool) -> Self {
        let fresh = Cell { possible: vec![(0, 0)], floor: vec![0], ..Cell::default() };
        Oracle {
            cells: vec![Cell { ever: vec![0], ..fresh }; cells],
            readings: Vec::new(),
            flushes: Vec::new(),
            clock: 0,
            lying,
        }
    }

    fn tick(&mut self) -> u64 {
        self.clock += 1;
        self.clock
    }

    pub(super) fn write(&mut self, first: usize, cells: usize, value: Value, fua: bool) -> Writing {
        let began = self.tick();
        for at in first..first + cells {
            self.cells[at].maybe.push(value);
            add(&mut self.cells[at].ever, value);
            self.allow(at, value);
        }
        Writing { first, cells, value, fua, began }
    }

    /// The value may be in force in a cell from now on: reads under way may return it.
    fn allow(&mut self, at: usize, value: Value) {
        for reading in &mut self.readings {
            if let Some(allowed) =
                at.checked_sub(reading.first).and_then(|i| reading.allowed.get_mut(i))
            {
                add(allowed, value);
            }
        }
    }

    /// The value was or is in force: loss of power may leave it.
    fn in_force(&mut self, at: usize, value: Value) {
        add(&mut self.cells[at].floor, value);
        for flush in &mut self.flushes {
            add(&mut flush.floors[at], value);
        }
    }

    /// `late`: the answer was on its way while all power was lost; it says nothing about now.
    pub(super) fn written(&mut self, writing: &Writing, late: bool) {
        let now = self.tick();
        for at in writing.first..writing.first + writing.cells {
            let cell = &mut self.cells[at];
            if let Some(found) = cell.maybe.iter().position(|value| *value == writing.value) {
                cell.maybe.swap_remove(found);
            }
            cell.possible
                .retain(|(value, when)| (late || *when > writing.began) && *value != writing.value);
            cell.possible.push((writing.value, now));
            cell.changed = now;
            self.in_force(at, writing.value);
            if writing.fua && !late {
                let cell = &mut self.cells[at];
                cell.floor = cell.possible.iter().map(|(value, _)| *value).collect();
            }
        }
    }

    pub(super) fn read(&mut self, id: u64, first: usize, cells: usize) {
        let began = self.tick();
        let allowed = self.cells[first..first + cells].iter().map(|c| c.values().collect());
        self.readings.push(Reading { id, first, allowed: allowed.collect(), began });
    }

    /// What the cells of a read showed.
    pub(super) fn has_read(&mut self, id: u64, values: &[Value]) -> Result<(), Wrong> {
        let Some(at) = self.readings.iter().position(|reading| reading.id == id) else {
            return Ok(());
        };
        let reading = self.readings.swap_remove(at);
        let now = self.tick();
        for (offset, value) in values.iter().enumerate() {
            let number = reading.first + offset;
            let cell = &mut self.cells[number];
            let allowed = &reading.allowed[offset];
            if !allowed.contains(value) {
                if self.lying && cell.ever.contains(value) {
                    continue;
                }
                return Err(Wrong(format!(
                    "cluster {number} shows write {value}, not one of {allowed:?}"
                )));
            }
            let known = cell.possible.len() == 1 && cell.possible[0].0 == *value;
            if cell.changed <= reading.began && !known && !self.lying {
                // Reads that began before may still show what was there before.
                (cell.possible, cell.changed) = (vec![(*value, now)], now);
                self.in_force(number, *value);
            }
        }
        Ok(())
    }

    /// A read that failed, or that nobody waits for any more.
    pub(super) fn drop_read(&mut self, id: u64) {
        self.readings.retain(|reading| reading.id != id);
    }

    pub(super) fn flush(&mut self, id: u64) {
        self.tick();
        let floors = self.cells.iter().map(|c| c.possible.iter().map(|(v, _)| *v).collect());
        self.flushes.push(Flush { id, floors: floors.collect() });
    }

    pub(super) fn flushed(&mut self, id: u64) {
        let Some(at) = self.flushes.iter().position(|flush| flush.id == id) else { return };
        let flush = self.flushes.swap_remove(at);
        for (cell, floor) in self.cells.iter_mut().zip(flush.floors) {
            cell.floor = floor;
        }
    }

    /// Power was lost in more places than acknowledged writes are promised to survive.
    pub(super) fn blackout(&mut self) {
        let now = self.tick();
        for at in 0..self.cells.len() {
            let cell = &mut self.cells[at];
            cell.possible = cell.floor.iter().map(|value| (*value, 0)).collect();
            cell.changed = now;
            for value in self.cells[at].floor.clone() {
                self.allow(at, value);
                self.in_force(at, value);
            }
        }
    }

    /// The guest is gone with all that it had asked: what it wrote may come into force until
    /// another one is let in.
    pub(super) fn abandon(&mut self) {
        self.readings.clear();
        self.flushes.clear();
        for cell in &mut self.cells {
            let maybe = std::mem::take(&mut cell.maybe);
            cell.abandoned.extend(maybe);
        }
    }

    /// Nothing of earlier guests can happen any more.
    pub(super) fn settle(&mut self) {
        let now = self.tick();
        for at in 0..self.cells.len() {
            for value in std::mem::take(&mut self.cells[at].abandoned) {
                self.cells[at].possible.push((value, now));
                self.cells[at].changed = now;
                self.in_force(at, value);
            }
        }
    }
}
