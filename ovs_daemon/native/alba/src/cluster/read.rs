//! Reads: from the cache tier, of the one fragment that has the bytes, or computed from others, its
//! group's first.

use std::sync::mpsc::{Sender, channel};
use std::time::{Duration, Instant};

use format::osd::wire::{Class, GET_MAX};
use machines::alba::{Gather, Set, UNIT};

use super::find::Found;
use super::{Cluster, failed};
use crate::osd::{Request, bytes_of, fragment_path};
use crate::{BackendError, Cause, Result};

/// How often it is looked elsewhere for what nobody gives in time.
const PATIENCE: Duration = Duration::from_millis(100);

/// A range of each fragment of a piece.
#[derive(Clone, Copy, Debug)]
pub(super) struct Range {
    pub(super) piece: u32,
    pub(super) start: u64,
    pub(super) len: usize,
    /// For whom it is read.
    pub(super) class: Class,
}

impl Cluster {
    pub(super) fn read_object(&self, name: &str, offset: u64, into: &mut [u8]) -> Result<()> {
        let found = self.must_find(name)?;
        match self.read_found(name, &found, offset, into) {
            // Fragments may have moved, or OSDs come back, since their places were looked up.
            Err(error) if error.cause != Cause::NoSpace => {
                self.forget(name);
                let found = self.must_find(name)?;
                self.read_found(name, &found, offset, into)
            }
            done => done,
        }
    }

    fn read_found(&self, name: &str, found: &Found, offset: u64, into: &mut [u8]) -> Result<()> {
        if offset + into.len() as u64 > found.object_len() {
            let mut error = failed("read", name, "the object ends before");
            error.cause = Cause::Corrupt;
            return Err(error);
        }
        let mut done = 0;
        while done < into.len() {
            let place = found.cut.place(offset + done as u64);
            let rest = (found.cut.fragment_len() - place.offset) as usize;
            let part = rest.min(into.len() - done);
            let target = &mut into[done..done + part];
            let start = place.offset / UNIT * UNIT;
            let end = (place.offset + part as u64).next_multiple_of(UNIT);
            let (piece, fragment) = (place.piece, place.fragment);
            if (start, end) == (place.offset, place.offset + part as u64) {
                self.read_range(name, found, piece, fragment, start, target)?;
            } else {
                let mut whole = vec![0; (end - start) as usize];
                self.read_range(name, found, piece, fragment, start, &mut whole)?;
                let skip = (place.offset - start) as usize;
                target.copy_from_slice(&whole[skip..skip + part]);
            }
            done += part;
        }
        Ok(())
    }

    /// Fills `into` from a range of a fragment's payload, whole units.
    fn read_range(
        &self,
        name: &str,
        found: &Found,
        piece: u32,
        fragment: usize,
        start: u64,
        into: &mut [u8],
    ) -> Result<()> {
        let Err(missed) = self.read_cached(name, found, (piece, fragment), start, into) else {
            return Ok(());
        };
        let range = Range { piece, start, len: into.len(), class: Class::Guest };
        let have = self.gather(name, found, range, 1 << fragment, true)?;
        let bytes = have[fragment].as_ref().expect("it was read or computed");
        into.copy_from_slice(bytes);
        if let Some(missed) = missed {
            self.fill_cache(&missed, found, (piece, fragment), start, into.len());
        }
        Ok(())
    }

    /// A range of the fragments `wanted` of a piece: read where they are if `direct`, or computed
    /// from others, which then also happens when an answer is late; a repair rather waits than leaves
    /// its Domain. What was read or computed on the way
    /// is there, too.
    pub(super) fn gather(
        &self,
        name: &str,
        found: &Found,
        range: Range,
        wanted: Set,
        direct: bool,
    ) -> Result<Vec<Option<Vec<u8>>>> {
        let mut have: Vec<Option<Vec<u8>>> = vec![None; found.layout.fragments()];
        let mut gather = Gather::new(found.layout, wanted, found.present(range.piece), direct);
        let (sender, hear) = channel();
        let mut late_at = Instant::now();
        let mut why = None;
        loop {
            let ask = gather.ask();
            for one in (0..have.len()).filter(|one| ask & 1 << one != 0) {
                let patience = self.start_read(name, found, range, one, &sender);
                late_at = late_at.max(Instant::now() + patience);
            }
            if let Some(steps) = gather.ready() {
                let codec = self.codec(found.layout);
                steps.iter().for_each(|step| codec.recover(step, &mut have));
                return Ok(have);
            }
            if gather.is_lost() || !gather.waits() && ask == 0 {
                let (left, piece) = (gather.left(), range.piece);
                let mut text =
                    format!("{left} fragments of its piece {piece} are too few to compute it");
                // Those that could not be asked may still have it.
                let unsure = |why: &BackendError| why.cause.tells_nothing();
                let cause =
                    if why.as_ref().is_some_and(unsure) { Cause::Failed } else { Cause::Corrupt };
                if let Some(why) = why {
                    text = format!("{text}; {why}");
                }
                return Err(BackendError { cause, ..failed("read", name, text) });
            }
            match hear.recv_timeout(late_at.saturating_duration_since(Instant::now())) {
                Ok((one, Ok(bytes))) => {
                    gather.arrived(one);
                    have[one] = Some(bytes);
                }
                Ok((one, Err(error))) => {
                    gather.failed(one);
                    if error.cause == Cause::NotFound {
                        // It was moved, or is lost: the next one looks where it is by now.
                        self.forget(name);
                    }
                    why =
                        why.filter(|why: &BackendError| why.cause.tells_nothing()).or(Some(error));
                }
                Err(_) => {
                    if direct {
                        gather.time_passed();
                    }
                    // Who is asked now gets his own time; without anybody new this is the pace at
                    // which answers are awaited.
                    late_at = Instant::now() + PATIENCE;
                }
            }
        }
    }

    /// Asks for a range of a fragment where it is; how long its answer may take.
    pub(super) fn start_read(
        &self,
        name: &str,
        found: &Found,
        range: Range,
        fragment: usize,
        sender: &Sender<(usize, Result<Vec<u8>>)>,
    ) -> Duration {
        let Some(osd) = found.osd(range.piece, fragment) else {
            let _ = sender.send((fragment, Err(failed("read", name, "it is lost"))));
            return Duration::ZERO;
        };
        let osd = self.osd(osd);
        let path = fragment_path(name, &found.name(range.piece, fragment));
        let payload_len = found.cut.fragment_len();
        let sender = sender.clone();
        let most = GET_MAX as usize;
        if range.len > most {
            // In parts, by a thread of its own: it is a repair.
            std::thread::spawn(move || {
                let mut bytes = Vec::with_capacity(range.len);
                while bytes.len() < range.len {
                    let offset = range.start + bytes.len() as u64;
                    let len = (range.len - bytes.len()).min(most) as u32;
                    let path = path.clone();
                    let part =
                        osd.call_for(range.class, Request::Get { path, payload_len, offset, len });
                    match bytes_of(part) {
                        Ok(part) => bytes.extend(part),
                        Err(error) => return drop(sender.send((fragment, Err(error)))),
                    }
                }
                drop(sender.send((fragment, Ok(bytes))));
            });
            return Duration::from_secs(30);
        }
        let patience = osd.late_after();
        let request =
            Request::Get { path, payload_len, offset: range.start, len: range.len as u32 };
        let reply = move |answer| drop(sender.send((fragment, bytes_of(answer))));
        osd.start_for(range.class, request, Box::new(reply));
        patience + Duration::from_nanos(range.len as u64)
    }
}
