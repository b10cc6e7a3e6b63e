//! What a guest may see of two cells when requests overlap in time: linearizability, checked as
//! the history unfolds.
//!
//! A request takes effect at one moment between its submission and its answer. All histories that
//! fit what was answered so far are kept: each has the cells as they are in it and the requests
//! that took effect in it without being answered yet. An answer strikes out the histories that do
//! not fit; when none is left, no order of the requests explains what the guest saw.

use std::collections::BTreeSet;

/// What a guest asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Request {
    /// Write its own number to a cell.
    Write(u8),
    /// Write its own number to both cells.
    WriteBoth,
    /// Read a cell.
    Read(u8),
}

/// Contents of both cells.
pub(super) type Cells = [u8; 2];

/// Lets a request take effect; what it returns.
pub(super) fn execute(cells: &mut Cells, request: Request, number: u8) -> Option<u8> {
    match request {
        Request::Write(cell) => cells[usize::from(cell)] = number,
        Request::WriteBoth => *cells = [number; 2],
        Request::Read(cell) => return Some(cells[usize::from(cell)]),
    }
    None
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
struct History {
    cells: Cells,
    /// Requests that took effect and are not answered, with what they return; sorted.
    done: Vec<(u8, Option<u8>)>,
}

/// See the file's essay.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Register {
    /// Submitted and not answered, by number.
    pending: Vec<(u8, Request)>,
    possible: BTreeSet<History>,
}

impl Default for Register {
    fn default() -> Self {
        let start = History { cells: [0; 2], done: Vec::new() };
        Register { pending: Vec::new(), possible: BTreeSet::from([start]) }
    }
}

impl Register {
    /// A request is submitted: it may take effect from now on.
    pub(super) fn submitted(&mut self, number: u8, request: Request) {
        self.pending.push((number, request));
        let mut todo: Vec<History> = self.possible.iter().cloned().collect();
        while let Some(history) = todo.pop() {
            for (number, request) in &self.pending {
                if history.done.iter().any(|(done, _)| done == number) {
                    continue;
                }
                let mut next = history.clone();
                let value = execute(&mut next.cells, *request, *number);
                next.done.push((*number, value));
                next.done.sort_unstable();
                if self.possible.insert(next.clone()) {
                    todo.push(next);
                }
            }
        }
    }

    /// A request is answered. False: nothing explains this answer.
    pub(super) fn answered(&mut self, number: u8, value: Option<u8>) -> bool {
        let fitting = std::mem::take(&mut self.possible).into_iter().filter_map(|mut history| {
            let at = history.done.iter().position(|done| *done == (number, value))?;
            history.done.remove(at);
            Some(history)
        });
        self.possible = fitting.collect();
        self.pending.retain(|(pending, _)| *pending != number);
        !self.possible.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn overlapping_requests_may_take_effect_in_any_order() {
        let mut register = Register::default();
        register.submitted(1, Request::Write(0));
        register.submitted(2, Request::Read(0));
        let mut other = register.clone();
        assert!(register.answered(2, Some(0)));
        assert!(other.answered(2, Some(1)), "before the write is answered");
        assert!(!other.clone().answered(1, Some(9)));
        assert!(other.answered(1, None));
        other.submitted(3, Request::Read(0));
        assert!(!other.answered(3, Some(0)), "no way back");
    }

    #[test]
    fn a_write_that_takes_effect_twice_is_noticed() {
        let mut register = Register::default();
        register.submitted(1, Request::Write(0));
        register.submitted(2, Request::Write(0));
        for (number, seen) in [(3, 1), (4, 2), (5, 1)] {
            register.submitted(number, Request::Read(0));
            assert_eq!(register.answered(number, Some(seen)), number != 5);
        }
    }
}
