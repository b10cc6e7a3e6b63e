//! The engine's side of following: an Edge has one connection to a volume at a time, and only Edges
//! that the volume was not taken away from have any.
//!
//! *Whose it is.* A host has one Edge. So a connection belongs to the host that its token is for, also
//! when that was booted since, or set up anew. The Edge has a name besides, drawn by itself: its engine's
//! own host need not say who it is. Either tells that a later connection is of the same Edge as an
//! earlier one.
//!
//! *One connection.* Over a network the engine may not know yet that an Edge has given a connection
//! up: the end of it is still on its way, or lost, and behind it may lie writes that were received
//! and not executed. The Edge sends them again on its next connection, has them answered, and then
//! overwrites them. Were the old ones executed after that, an acknowledged write would be undone. So
//! a later connection of the same Edge is let in only when nothing of its earlier ones can happen
//! any more: they are told to take no more requests, and what was taken is waited for.
//!
//! *Generations.* The record of a volume has a generation, which is raised in the same step that
//! takes an attachment away from a host that may not hear of it (`control/fencing.py`). Each
//! connection has the generation of the record when its host still had the volume, signed into its
//! token. The door has the highest that it has heard of: from the record when the volume was opened,
//! from the daemon when it was raised since, or from a connection, whose token proves that it was.
//! Connections of earlier ones are ended and turned away, and nobody of a later one is let in while
//! anything of theirs can still happen: two hosts never write beside each other.
//!
//! One door belongs to one volume on one engine. What a *former* owner of the volume still has is
//! shut out by the ownership epoch, not here.

use alloc::sync::Arc;
use alloc::vec::Vec;

use super::Mutant;

/// Who knocks: an Edge, the number of its connection, and what its token is worth.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Guest {
    /// The host that the Edge is of; empty: the engine's own, which has not said so.
    pub host: Arc<str>,
    /// The name of the Edge, which is another one when it was lost.
    pub edge: [u8; 16],
    /// Later connections of it have higher numbers.
    pub connection: u64,
    /// Of the volume's attachments, when its token was made.
    pub generation: u64,
}

/// What becomes of a connection that knocks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Open its session now.
    Enter,
    /// End these connections, by key, now; open it when [`Door::gone`] says so.
    Wait {
        /// Connections that must take no more requests.
        end: Vec<u32>,
    },
    /// A later connection of the same Edge is here: refuse it.
    TooLate,
    /// The volume was taken away from its host: refuse it.
    ShutOut {
        /// The generation that would be let in.
        generation: u64,
    },
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
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
    generation: u64,
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

    /// The generation of those that are let in.
    pub fn generation(&self) -> u64 {
        self.generation
    }

    /// Earlier generations are shut out from now on. End these connections, by key; when
    /// [`Door::is_settled`], nothing of them can happen any more.
    pub fn raise(&mut self, generation: u64) -> Vec<u32> {
        self.generation = self.generation.max(generation);
        self.earlier().collect()
    }

    /// Nothing of an earlier generation can happen any more.
    pub fn is_settled(&self) -> bool {
        self.is(Mutant::ShutOutWithoutWait) || self.earlier().next().is_none()
    }

    fn earlier(&self) -> impl Iterator<Item = u32> {
        let present = if self.is(Mutant::NoShutOut) { 0 } else { self.generation };
        self.inside.iter().filter(move |one| one.guest.generation < present).map(|one| one.key)
    }

    fn are_of_one(&self, one: &Guest, other: &Guest) -> bool {
        let hosts = one.host == other.host && !self.is(Mutant::ForgetHost);
        one.edge == other.edge || hosts
    }

    /// A connection says hello; `key` is the engine's own name for it, not in use here.
    pub fn knock(&mut self, key: u32, guest: Guest) -> Verdict {
        if guest.generation < self.generation && !self.is(Mutant::EarlierGeneration) {
            return Verdict::ShutOut { generation: self.generation };
        }
        let same = |one: &&Inside| self.are_of_one(&one.guest, &guest);
        let later = |one: &Inside| one.guest.connection >= guest.connection;
        if self.inside.iter().filter(same).any(later) && !self.is(Mutant::AnyConnection) {
            return Verdict::TooLate;
        }
        let mut end: Vec<u32> = self.inside.iter().filter(same).map(|one| one.key).collect();
        let replaces = !end.is_empty() && !self.is(Mutant::NoDoor);
        for earlier in self.raise(guest.generation) {
            if !end.contains(&earlier) {
                end.push(earlier);
            }
        }
        let entered = !replaces && self.is_settled();
        self.inside.push(Inside { key, guest, entered });
        if entered { Verdict::Enter } else { Verdict::Wait { end } }
    }

    /// Nothing of a connection can happen any more; the keys of those that may enter now.
    pub fn gone(&mut self, key: u32) -> Vec<u32> {
        self.inside.retain(|one| one.key != key);
        let mut entering = Vec::new();
        if !self.is_settled() {
            return entering;
        }
        for at in 0..self.inside.len() {
            let Inside { key, ref guest, entered } = self.inside[at];
            let same = |other: &&Inside| self.are_of_one(&other.guest, guest);
            // Of several that wait, only the latest is still wanted, and the others leave first.
            if !entered && self.inside.iter().filter(same).count() == 1 {
                self.inside[at].entered = true;
                entering.push(key);
            }
        }
        entering
    }

    /// Nobody is inside, and it lets in everybody: a fresh one would do the same.
    pub fn is_like_new(&self) -> bool {
        self.inside.is_empty() && self.generation == 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Each Edge on a host of its own.
    fn guest(edge: u8, connection: u64) -> Guest {
        let name = [b'a' + edge];
        let host = core::str::from_utf8(&name).unwrap().into();
        Guest { host, edge: [edge; 16], connection, generation: 0 }
    }

    fn of(edge: u8, connection: u64, generation: u64) -> Guest {
        Guest { generation, ..guest(edge, connection) }
    }

    #[test]
    fn a_later_connection_waits_for_the_earlier_one_and_others_do_not() {
        let mut door = Door::default();
        assert_eq!(door.knock(1, guest(1, 5)), Verdict::Enter);
        assert_eq!(door.knock(2, guest(2, 1)), Verdict::Enter, "another Edge");
        assert_eq!(door.knock(3, guest(1, 6)), Verdict::Wait { end: [1].into() });
        assert_eq!(door.gone(2), []);
        assert_eq!(door.gone(1), [3]);
        assert_eq!(door.gone(3), []);
        assert!(door.is_like_new());
    }

    #[test]
    fn a_host_that_was_booted_and_an_edge_that_comes_another_way_are_known() {
        let on =
            |host: &str, edge, connection| Guest { host: host.into(), ..guest(edge, connection) };
        let mut door = Door::default();
        assert_eq!(door.knock(1, on("h1", 1, 5)), Verdict::Enter);
        assert_eq!(door.knock(2, on("h2", 2, 1)), Verdict::Enter);
        assert_eq!(door.knock(3, on("h1", 3, 9)), Verdict::Wait { end: [1].into() }, "booted");
        assert_eq!(door.knock(4, on("", 2, 2)), Verdict::Wait { end: [2].into() }, "its owner's");
        assert_eq!(door.knock(5, on("h1", 1, 6)), Verdict::TooLate, "of the life before");
        assert_eq!(door.gone(1), [3]);
        assert_eq!(door.gone(2), [4]);
        assert_eq!(door.knock(6, on("", 6, 1)), Verdict::TooLate, "it lost its name");
        assert_eq!(door.knock(7, on("", 6, 3)), Verdict::Wait { end: [4].into() });
    }

    #[test]
    fn an_earlier_connection_never_ends_a_later_one() {
        let mut door = Door::default();
        assert_eq!(door.knock(1, guest(1, 5)), Verdict::Enter);
        assert_eq!(door.knock(2, guest(1, 4)), Verdict::TooLate);
        assert_eq!(door.knock(3, guest(1, 5)), Verdict::TooLate, "the same one twice");
        assert_eq!(door.gone(2), [], "it was never inside");
    }

    #[test]
    fn of_several_that_wait_the_last_one_enters() {
        let mut door = Door::default();
        assert_eq!(door.knock(1, guest(1, 5)), Verdict::Enter);
        assert_eq!(door.knock(2, guest(1, 6)), Verdict::Wait { end: [1].into() });
        assert_eq!(door.knock(3, guest(1, 7)), Verdict::Wait { end: [1, 2].into() });
        assert_eq!(door.gone(2), [], "the first is still there");
        assert_eq!(door.gone(1), [3]);
    }

    #[test]
    fn an_earlier_generation_is_ended_and_turned_away() {
        let mut door = Door::default();
        assert_eq!(door.knock(1, of(1, 1, 0)), Verdict::Enter);
        assert_eq!(door.knock(2, of(2, 1, 0)), Verdict::Enter);
        assert_eq!(door.raise(1), [1, 2]);
        assert!(!door.is_settled());
        assert_eq!(door.knock(3, of(1, 2, 0)), Verdict::ShutOut { generation: 1 });
        assert_eq!(door.gone(1), []);
        assert_eq!(door.gone(2), []);
        assert!(door.is_settled() && !door.is_like_new(), "it must not be forgotten");
        assert_eq!(door.knock(4, of(1, 3, 0)), Verdict::ShutOut { generation: 1 });
        assert_eq!(door.knock(5, of(1, 4, 1)), Verdict::Enter, "it was attached anew");
    }

    #[test]
    fn a_later_generation_enters_when_nothing_of_earlier_ones_is_left() {
        let mut door = Door::default();
        assert_eq!(door.knock(1, of(1, 1, 3)), Verdict::Enter);
        assert_eq!(door.knock(2, of(1, 2, 3)), Verdict::Wait { end: [1].into() });
        assert_eq!(door.knock(3, of(2, 1, 4)), Verdict::Wait { end: [1, 2].into() });
        assert_eq!(door.knock(4, of(3, 1, 4)), Verdict::Wait { end: [1, 2].into() });
        assert_eq!(door.gone(1), [], "the one that waits is shut out as well");
        assert_eq!(door.gone(2), [3, 4]);
        assert_eq!(door.generation(), 4);
        assert_eq!(door.raise(2), [], "it never goes back");
        assert_eq!(door.generation(), 4);
    }
}
