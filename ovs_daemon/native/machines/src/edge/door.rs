//! The engine's side of following: an Edge has one connection to a volume at a time.
//!
//! Over a network the engine may not know yet that an Edge has given a connection up: the end of it
//! is still on its way, or lost, and behind it may lie writes that were received and not executed.
//! The Edge sends them again on its next connection, has them answered, and then overwrites them.
//! Were the old ones executed after that, an acknowledged write would be undone. So a later
//! connection of the same Edge is let in only when nothing of its earlier ones can happen any more:
//! they are told to take no more requests, and what was taken is waited for.
//!
//! One door belongs to one volume on one engine. What a *former* owner of the volume still has is
//! shut out by the ownership epoch, not here.

use alloc::vec::Vec;

use super::Mutant;

/// Who knocks: an Edge, and the number of its connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Guest {
    /// The Edge.
    pub edge: [u8; 16],
    /// Later connections of it have higher numbers.
    pub connection: u64,
}

/// What becomes of a connection that knocks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Open its session now.
    Enter,
    /// End these sessions, by key, now; open it when [`Door::gone`] says so.
    Wait {
        /// Sessions that must take no more requests.
        end: Vec<u32>,
    },
    /// A later connection of the same Edge is here: refuse it.
    TooLate,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Inside {
    key: u32,
    guest: Guest,
    /// Let in; otherwise it waits.
    entered: bool,
}

/// See the module's essay.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Door {
    inside: Vec<Inside>,
    mutant: Option<Mutant>,
}

impl Door {
    /// Plants a fault, for the explorer.
    #[cfg(feature = "mutants")]
    pub fn plant(&mut self, mutant: Mutant) {
        self.mutant = Some(mutant);
    }

    fn is(&self, mutant: Mutant) -> bool {
        cfg!(feature = "mutants") && self.mutant == Some(mutant)
    }

    /// A connection says hello; `key` is the engine's own name for it, not in use here.
    pub fn knock(&mut self, key: u32, guest: Guest) -> Verdict {
        let same = |one: &&Inside| one.guest.edge == guest.edge;
        let later = |one: &Inside| one.guest.connection >= guest.connection;
        if self.inside.iter().filter(same).any(later) && !self.is(Mutant::AnyConnection) {
            return Verdict::TooLate;
        }
        let end: Vec<u32> = self.inside.iter().filter(same).map(|one| one.key).collect();
        let entered = end.is_empty() || self.is(Mutant::NoDoor);
        self.inside.push(Inside { key, guest, entered });
        if entered { Verdict::Enter } else { Verdict::Wait { end } }
    }

    /// Nothing of a connection can happen any more; the key of one that may enter now.
    pub fn gone(&mut self, key: u32) -> Option<u32> {
        let at = self.inside.iter().position(|one| one.key == key)?;
        let guest = self.inside.swap_remove(at).guest;
        let same = |one: &&mut Inside| one.guest.edge == guest.edge;
        let mut left: Vec<&mut Inside> = self.inside.iter_mut().filter(same).collect();
        // Of several that wait, only the latest is still wanted, and the others leave first.
        let [last] = &mut left[..] else { return None };
        if core::mem::replace(&mut last.entered, true) { None } else { Some(last.key) }
    }

    /// Nobody is inside.
    pub fn is_empty(&self) -> bool {
        self.inside.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn guest(edge: u8, connection: u64) -> Guest {
        Guest { edge: [edge; 16], connection }
    }

    #[test]
    fn a_later_connection_waits_for_the_earlier_one_and_others_do_not() {
        let mut door = Door::default();
        assert_eq!(door.knock(1, guest(1, 5)), Verdict::Enter);
        assert_eq!(door.knock(2, guest(2, 1)), Verdict::Enter, "another Edge");
        assert_eq!(door.knock(3, guest(1, 6)), Verdict::Wait { end: [1].into() });
        assert_eq!(door.gone(2), None);
        assert_eq!(door.gone(1), Some(3));
        assert_eq!(door.gone(3), None);
        assert!(door.is_empty());
    }

    #[test]
    fn an_earlier_connection_never_ends_a_later_one() {
        let mut door = Door::default();
        assert_eq!(door.knock(1, guest(1, 5)), Verdict::Enter);
        assert_eq!(door.knock(2, guest(1, 4)), Verdict::TooLate);
        assert_eq!(door.knock(3, guest(1, 5)), Verdict::TooLate, "the same one twice");
        assert_eq!(door.gone(2), None, "it was never inside");
    }

    #[test]
    fn of_several_that_wait_the_last_one_enters() {
        let mut door = Door::default();
        assert_eq!(door.knock(1, guest(1, 5)), Verdict::Enter);
        assert_eq!(door.knock(2, guest(1, 6)), Verdict::Wait { end: [1].into() });
        assert_eq!(door.knock(3, guest(1, 7)), Verdict::Wait { end: [1, 2].into() });
        assert_eq!(door.gone(2), None, "the first is still there");
        assert_eq!(door.gone(1), Some(3));
    }
}
