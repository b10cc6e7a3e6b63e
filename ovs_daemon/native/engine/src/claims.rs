//! Which volumes control calls are at work on, so that no two get in each other's way.
//!
//! Who opens a volume, or fetches its tail, has it alone: others that want to open it are refused,
//! because they ask too early or twice. Who creates or deletes waits for what it needs: of a clone
//! also the parent, which must not miss it while it is being opened. Nobody waits for a volume that
//! is none of his, however slow the backend is.

use std::collections::HashMap;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

use format::entry::Uuid;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Opening,
    Changing,
}

#[derive(Debug, Default)]
pub(crate) struct Claims {
    held: Mutex<HashMap<Uuid, Kind>>,
    freed: Condvar,
}

/// Volumes that are one call's until this is dropped.
#[derive(Debug)]
pub(crate) struct Claim<'a> {
    claims: &'a Claims,
    volumes: Vec<Uuid>,
}

impl Claims {
    /// To open a volume; `None` while somebody else does.
    pub(crate) fn opening(&self, volume: Uuid) -> Option<Claim<'_>> {
        let changing = |held: &mut HashMap<_, _>| held.get(&volume) == Some(&Kind::Changing);
        let held = self.freed.wait_while(self.held(), changing);
        let mut held = held.unwrap_or_else(PoisonError::into_inner);
        if held.contains_key(&volume) {
            return None;
        }
        held.insert(volume, Kind::Opening);
        Some(Claim { claims: self, volumes: vec![volume] })
    }

    /// To create or delete: all of them at once, as soon as nobody else has any.
    pub(crate) fn changing(&self, volumes: Vec<Uuid>) -> Claim<'_> {
        let busy = |held: &mut HashMap<Uuid, Kind>| volumes.iter().any(|v| held.contains_key(v));
        let held = self.freed.wait_while(self.held(), busy);
        let mut held = held.unwrap_or_else(PoisonError::into_inner);
        held.extend(volumes.iter().map(|volume| (*volume, Kind::Changing)));
        Claim { claims: self, volumes }
    }

    fn held(&self) -> MutexGuard<'_, HashMap<Uuid, Kind>> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Claim<'_> {
    fn drop(&mut self) {
        let mut held = self.claims.held();
        for volume in &self.volumes {
            held.remove(volume);
        }
        self.claims.freed.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::sync_channel;
    use std::time::Duration;

    use super::*;

    const PARENT: Uuid = [1; 16];
    const CLONE: Uuid = [2; 16];
    const OTHER: Uuid = [3; 16];

    #[test]
    fn a_volume_is_opened_by_one_at_a_time_and_refused_to_others() {
        let claims = Claims::default();
        let first = claims.opening(PARENT);
        assert!(first.is_some() && claims.opening(PARENT).is_none());
        assert!(claims.opening(OTHER).is_some());
        drop(first);
        assert!(claims.opening(PARENT).is_some());
    }

    #[test]
    fn who_makes_a_clone_and_who_opens_its_parent_wait_for_each_other() {
        let claims = Claims::default();
        let opening = claims.opening(PARENT).unwrap();
        std::thread::scope(|scope| {
            let (tell, hear) = sync_channel(2);
            let (claims, said) = (&claims, tell.clone());
            scope.spawn(move || {
                let clone = claims.changing(vec![CLONE, PARENT]);
                let _ = said.send("made");
                drop(clone);
            });
            // Others are served meanwhile.
            drop(claims.changing(vec![OTHER]));
            let _ = tell.send("opened");
            drop(opening);
            let patience = Duration::from_secs(60);
            assert_eq!(hear.recv_timeout(patience), Ok("opened"));
            assert_eq!(hear.recv_timeout(patience), Ok("made"));
        });
        let deleting = claims.changing(vec![CLONE]);
        std::thread::scope(|scope| {
            let claims = &claims;
            let opened = scope.spawn(move || claims.opening(CLONE).is_some());
            drop(deleting);
            assert!(opened.join().unwrap(), "who waits for a change is not refused");
        });
    }
}
