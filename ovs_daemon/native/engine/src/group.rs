//! One snapshot of several volumes at the same instant.
//!
//! Every volume of the group holds what is asked of it from then on; once all hold, each gets its
//! snapshot, after what it took before the hold and before what waits; once all have theirs, all
//! are released. No write can then be in a snapshot without those that had been answered before it
//! was asked for: their answers came before the hold, or not before the release. Requests are in a
//! snapshot wholly or not at all, and guests wait for a few messages between threads, not for disks.
//!
//! The volumes may live on different shards, and groups may overlap: holds are counted, nobody
//! waits for anybody else's.

use format::entry::Uuid;
use volume::{Control, uuid_text};

use crate::engine::{Asked, Engine};
use crate::error::{Error, Result};
use crate::mailbox::Command;
use crate::places::Place;
use crate::spec::{parse, uuid};

struct Member {
    text: String,
    place: Place,
    snapshot: Uuid,
}

/// Releases the volumes whatever happens to the caller.
struct Held<'a> {
    engine: &'a Engine,
    members: &'a [Member],
}

impl Drop for Held<'_> {
    fn drop(&mut self) {
        for Member { place, .. } in self.members {
            self.engine.tell(place.shard, Command::Release { volume: place.volume });
        }
    }
}

impl Engine {
    /// Takes a snapshot of several open volumes at one instant: `[[volume, snapshot], ...]`.
    /// Durable on return; repeating it is harmless. When it fails, none of them is left.
    pub fn snapshot_group(&self, members_json: &str) -> Result<()> {
        let what = "cannot take a snapshot of a group of volumes";
        let members = self.members(what, members_json)?;
        let mut missing = false;
        let mut there = Vec::new();
        for member in &members {
            let ids = self.snapshot_ids(member.place.shard, member.place.volume)?;
            let known = ids.contains(&member.snapshot);
            missing |= !known;
            there.extend(known.then_some(member));
        }
        if !missing {
            return Ok(());
        }
        // An attempt that was interrupted left some: they are of another instant, and are replaced.
        for member in there {
            self.check_unused(what, &member.text, &uuid_text(&member.snapshot))?;
        }
        let asked = self.take_all(&members);
        self.settle(what, &members, asked)
    }

    fn members(&self, what: &str, members_json: &str) -> Result<Vec<Member>> {
        let pairs: Vec<(String, String)> = parse(what, members_json)?;
        let mut members: Vec<Member> = Vec::new();
        for (volume, snapshot) in pairs {
            let (id, place) = self.place(what.to_owned(), &volume)?;
            let text = uuid_text(&id);
            if members.iter().any(|other| other.text == text) {
                let why = format!("volume {text} is in it twice");
                return Err(Error::new("BAD_REQUEST", what, why, "name each volume once"));
            }
            members.push(Member { text, place, snapshot: uuid(&snapshot)? });
        }
        Ok(members)
    }

    /// Gives each volume its snapshot at one instant; the answers come when they are durable. A
    /// volume that was closed meanwhile fails by itself, in its answer.
    fn take_all(&self, members: &[Member]) -> Vec<Asked<()>> {
        match self.hold_all(members) {
            Ok(_held) => self.mark_all(members),
            Err(error) => vec![Asked::failed(error)],
        }
    }

    /// From the return on nothing new is taken by any volume of the group.
    fn hold_all<'a>(&'a self, members: &'a [Member]) -> Result<Held<'a>> {
        let held = Held { engine: self, members };
        let hold = |m: &Member| {
            let volume = m.place.volume;
            self.begin(m.place.shard, |reply| Command::Hold { volume, reply })
        };
        let holding: Vec<Asked<()>> = members.iter().map(hold).collect();
        holding.into_iter().map(Asked::wait).fold(Ok(()), Result::and).map(|()| held)
    }

    /// Puts a snapshot behind what each volume has taken so far.
    fn mark_all(&self, members: &[Member]) -> Vec<Asked<()>> {
        let mark = |m: &Member| {
            let (volume, control) = (m.place.volume, Control::Snapshot(m.snapshot));
            self.begin(m.place.shard, |reply| Command::Control { volume, control, reply })
        };
        let asked: Vec<Asked<()>> = members.iter().map(mark).collect();
        // Shards obey in order: who answers this has put the snapshot in its place.
        let look = |m: &Member| {
            let volume = m.place.volume;
            self.begin(m.place.shard, |reply| Command::Snapshots { volume, reply })
        };
        let seen: Vec<Asked<Vec<Uuid>>> = members.iter().map(look).collect();
        for answer in seen {
            let _ = answer.wait();
        }
        asked
    }

    /// Waits until all are durable; undoes what was taken when one is not.
    fn settle(&self, what: &str, members: &[Member], asked: Vec<Asked<()>>) -> Result<()> {
        let outcome = asked.into_iter().map(Asked::wait).fold(Ok(()), Result::and);
        let Err(error) = outcome else { return Ok(()) };
        let mut left = Vec::new();
        for Member { text, place, snapshot } in members {
            let (volume, control) = (place.volume, Control::DeleteSnapshot(*snapshot));
            let undone = self.ask(place.shard, |reply| Command::Control { volume, control, reply });
            if undone.is_err() {
                left.push(text.as_str());
            }
        }
        let mut why = format!("{} ({})", error.why, error.what);
        if !left.is_empty() {
            why += &format!("; it may be left on {}", left.join(", "));
        }
        let fix = "see that all volumes are open and try again: what is left is replaced then";
        Err(Error::new("GROUP_FAILED", what, why, fix))
    }
}

#[cfg(test)]
#[path = "../tests/support/mod.rs"]
pub(crate) mod support;

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::support::{Guest, PAGE, Place as Folder, create, open, until};
    use super::*;

    const A: &str = "aaaaaaaa-0000-4000-8000-000000000001";
    const B: &str = "bbbbbbbb-0000-4000-8000-000000000002";
    const S: &str = "cccccccc-0000-4000-8000-000000000003";
    const WHAT: &str = "cannot test";

    fn two_volumes(folder: &Folder) -> Engine {
        let engine = folder.engine_with(2);
        for uuid in [A, B] {
            create(&engine, uuid, None).unwrap();
            open(&engine, uuid, None).unwrap();
        }
        engine
    }

    fn group(engine: &Engine) -> Vec<Member> {
        engine.members(WHAT, &json!([[A, S], [B, S]]).to_string()).unwrap()
    }

    #[test]
    fn a_write_that_comes_while_the_group_holds_is_in_no_snapshot() {
        let folder = Folder::new("group-hold");
        let engine = two_volumes(&folder);
        let members = group(&engine);
        let mut guest = Guest::new(&engine, A);
        guest.write(0, &[1; PAGE]);
        let held = engine.hold_all(&members).unwrap();
        let late = guest.begin_write(4096, &[2; PAGE]);
        until(&engine, A, |status| status["requests_waiting"] == 1);
        let asked = engine.mark_all(&members);
        drop(held);
        assert_eq!(guest.answer(), late);
        engine.settle(WHAT, &members, asked).unwrap();
        assert_eq!(engine.diff_snapshots(A, None, Some(S)).unwrap(), "[[0,4096]]");
        assert_eq!(engine.diff_snapshots(A, Some(S), None).unwrap(), "[[4096,4096]]");
        engine.shutdown(false).unwrap();
    }

    /// A volume that is closed after the group was put together, and before it holds.
    #[test]
    fn when_a_volume_goes_meanwhile_the_others_are_undone_and_released() {
        let folder = Folder::new("group-gone");
        let engine = two_volumes(&folder);
        engine.create_snapshot(A, S).unwrap();
        let members = group(&engine);
        engine.close_volume(B, None).unwrap();
        let asked = engine.take_all(&members);
        let error = engine.settle(WHAT, &members, asked).unwrap_err();
        assert_eq!(error.code, "GROUP_FAILED");
        assert!(error.why.contains("closed meanwhile") && error.why.contains(B), "{error}");
        assert!(!error.why.contains(A), "nothing is left there: {error}");
        let status: Value = serde_json::from_str(&engine.status().unwrap()).unwrap();
        assert_eq!(status["volumes"][0]["snapshots"], 0);
        Guest::new(&engine, A).write(0, &[1; PAGE]);
        engine.shutdown(true).unwrap();
    }
}
