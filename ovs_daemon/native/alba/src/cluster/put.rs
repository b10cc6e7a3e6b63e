//! Puts: encode, store on all OSDs that placement chose, acknowledge when c fragments are durable.

use std::collections::BTreeSet;
use std::sync::atomic::Ordering;
use std::sync::mpsc::channel;
use std::time::{Duration, Instant};

use format::fragment::{FragmentName, NAME_MAX};
use format::log::PAGE;
use machines::alba::{Cut, Layout, Policy, Seen, Standing, Verdict, counts, living, mix, place};
use media::Buffer;

use crate::osd::{Answer, Request, fragment_path};
use crate::pieces::{Fragment, Label, Padded, encode_piece, padded_len};
use crate::preset::Preset;
use crate::{BackendError, Cause, Fill, Put, Result, Sink};

use super::find::unknown;
use super::leftovers::{in_time, now};
use super::{Cluster, Terms, failed, random_id};

/// How long slow OSDs may take at least, after an object is stored without them.
const STRAGGLERS_MIN: Duration = Duration::from_millis(100);

/// So often an object is there at most, on too few OSDs each time: one that is reached but stores
/// nothing would let each try leave one more, until the others are full.
const SHORT_MAX: usize = 2;

/// When enough fragments are stored: so many of the first ones.
#[derive(Clone, Copy, Debug)]
pub(super) struct Enough {
    pub(super) of: usize,
    pub(super) are: usize,
}

/// How a put has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    /// Well.
    Put(Put),
    /// A put of this generation is there, which can be read, but on too few OSDs to count, and cannot
    /// be completed now.
    Short(u64),
}

/// An object, until its pieces are coded.
struct Memory<'a> {
    name: &'a str,
    bytes: Buffer,
    /// The CRC32C of its 4 KiB, as far as they are known.
    crcs: Vec<Option<u32>>,
}

impl Sink for Memory<'_> {
    fn write(&mut self, bytes: &[u8]) -> Result<()> {
        self.bytes.append(bytes).map_err(|e| no_memory(self.name, &e))
    }

    fn fill(&mut self, len: usize, fill: &mut Fill) -> Result<()> {
        let before = self.bytes.len();
        self.bytes.extend(len).map_err(|e| no_memory(self.name, &e))?;
        let filled = fill(&mut self.bytes[before..]);
        self.bytes.truncate(before + filled.as_ref().map_or(0, |filled| *filled));
        filled.map(|_| ())
    }

    fn compared(&mut self, crcs: &[u32]) {
        // Fragments are cut at whole 4 KiB of the object; of others they say nothing.
        let pages = self.bytes.len() / PAGE;
        if self.bytes.len().is_multiple_of(PAGE) && crcs.len() <= pages {
            self.crcs.resize(pages - crcs.len(), None);
            self.crcs.extend(crcs.iter().copied().map(Some));
        }
    }
}

fn no_memory(name: &str, why: &std::io::Error) -> BackendError {
    failed("store", name, format!("there is no memory for it: {why}"))
}

/// The number by which an object is placed.
pub(super) fn number_of(name: &str, piece: u32) -> u64 {
    name.bytes().fold(mix(u64::from(piece) + 1), |hash, byte| mix(hash ^ u64::from(byte)))
}

/// Later puts have higher numbers: the clock, or one more than what is seen. In front of what a clock
/// that was ahead has left two who put the object now would have the same number, and fragments of
/// both would be mixed: so it is drawn.
fn next_generation(seen: u64, drawn: u32) -> u64 {
    match now() {
        now if now > seen => now,
        _ => seen.saturating_add(1 + u64::from(drawn)),
    }
}

/// The name of the first fragment of an object that was put.
fn fragment_name(label: &Label, cut: &Cut, layout: &Layout) -> FragmentName {
    let [data, parity, domains, local] =
        [layout.data(), layout.parity(), layout.domains(), layout.local()].map(|count| count as u8);
    FragmentName {
        generation: label.generation,
        pieces: cut.pieces(),
        data,
        parity,
        acknowledge: label.acknowledge,
        domains,
        local,
        piece: 0,
        fragment: 0,
    }
}

impl Cluster {
    /// `beside`: the caller has found that the put of this generation, which is there on too few OSDs,
    /// says the same; then it is put once more, with a later generation.
    pub(super) fn put_object(
        &self,
        name: &str,
        preset: &Preset,
        sealed: bool,
        beside: Option<u64>,
        fill: &mut dyn FnMut(&mut dyn Sink) -> Result<()>,
    ) -> Result<Outcome> {
        if name.is_empty() || name.len() > NAME_MAX {
            return Err(failed("store", name, "its name has no or over 1024 bytes"));
        }
        let (verdict, sighting, reach) = self.judge(name);
        if sighting.log_is_deleted {
            return Err(failed("store", name, "its volume was deleted for good"));
        }
        match verdict {
            Verdict::Stored(_) => match self.complete(name)? {
                Outcome::Short(generation) if beside == Some(generation) => {}
                outcome => return Ok(outcome),
            },
            Verdict::Unknown => return Err(unknown("store", name)),
            Verdict::Absent => {}
        }
        let began = Instant::now();
        let seen = sighting.fragments.iter().map(|(fragment, _)| fragment.generation);
        let latest = seen.chain(sighting.deleted()).max();
        let [a, b, c, d, ..] = random_id().map_err(|e| failed("store", name, e.to_string()))?;
        let drawn = u32::from_le_bytes([a, b, c, d]);
        let generation = next_generation(latest.unwrap_or(0), drawn);
        // A SCO's object is a little larger than its data.
        let expected = preset.sco_size + preset.sco_size / 128;
        while self.pool.look_after() {}
        let bytes = self.pool.take_empty(expected as usize).map_err(|e| no_memory(name, &e))?;
        let mut object = Memory { name, bytes, crcs: Vec::new() };
        fill(&mut object)?;
        let Memory { bytes: mut object, crcs, .. } = object;
        let object_len = object.len() as u64;
        let (policy, osds) = self.prepare(name, object_len, preset)?;
        if let Some(beside) = beside {
            let puts = living(self.puts(&sighting, &reach), &sighting.deleted());
            self.is_not_often_short(name, &policy, beside, &puts)?;
        }
        let cut = Cut::new(policy.layout(), object_len, preset.fragment_size);
        let codec = self.codec(*policy.layout());
        object.resize(padded_len(&codec, &cut)).map_err(|e| no_memory(name, &e))?;
        let label = Label {
            object: name,
            object_len,
            acknowledge: policy.acknowledge() as u8,
            generation,
            sealed,
        };
        let padded = Padded { bytes: object.into(), crcs };
        let stored = self.store(&label, &padded, &cut, &policy, &osds);
        let stored = stored.and_then(|()| in_time(name, generation, began));
        if stored.is_err() {
            self.take_back(name, generation);
        }
        self.forget(name);
        stored?;
        if preset.cache_on_write {
            let first = fragment_name(&label, &cut, policy.layout());
            self.warm_cache(name, first, cut, padded.bytes.sub(0..object_len as usize));
        }
        Ok(Outcome::Put(Put::Created))
    }

    /// The object is there already; but whoever put it may not have got as far as c.
    fn complete(&self, name: &str) -> Result<Outcome> {
        self.forget(name);
        if self.must_find(name)?.enough() {
            return Ok(Outcome::Put(Put::Exists));
        }
        self.mend(name, &Terms::default(), &mut |_| true)?;
        self.forget(name);
        let found = self.must_find(name)?;
        Ok(match found.enough() {
            true => Outcome::Put(Put::Exists),
            false => Outcome::Short(found.seen.generation),
        })
    }

    /// Refuses one more put of this policy beside those that are there: what failed so often fails again.
    fn is_not_often_short(
        &self,
        name: &str,
        policy: &Policy,
        beside: u64,
        puts: &[Seen],
    ) -> Result<()> {
        let alike =
            |put: &&Seen| put.layout == *policy.layout() && put.acknowledge == policy.acknowledge();
        // One that is later than the latest that can be read has failed beside it.
        let short = |put: &&Seen| put.readable() || put.generation > beside;
        let count = puts.iter().filter(alike).filter(short).count();
        if count < SHORT_MAX {
            return Ok(());
        }
        let why = format!(
            "it was put {count} times, each time on too few OSDs to count; have those store again \
             that fail or are read-only, or bring more into reach"
        );
        Err(failed("store", name, why))
    }

    /// The policy for an object of so many bytes and the OSDs that may take it, which have been told
    /// of each other.
    fn prepare(&self, name: &str, bytes: u64, preset: &Preset) -> Result<(Policy, Vec<usize>)> {
        let mut up: Vec<usize> = self.reach().up().to_vec();
        loop {
            // One that leaves gets nothing new, as long as the others are enough.
            let member = |osd: &usize| self.standing(*osd) == Standing::Member;
            let mut stay: Vec<usize> = up.iter().copied().filter(member).collect();
            let mut roomy = self.roomy(&stay, bytes);
            if stay.len() < up.len() && preset.choose(&self.disks(&roomy)).0.is_none() {
                stay.clone_from(&up);
                roomy = self.roomy(&stay, bytes);
            }
            let (policy, shortages) = preset.choose(&self.disks(&roomy));
            let Some(policy) = policy.copied() else {
                let why: Vec<String> = shortages.iter().map(ToString::to_string).collect();
                let full = preset.choose(&self.disks(&up)).0.is_some();
                let cause = if full { Cause::NoSpace } else { Cause::Failed };
                let why = format!("no policy of preset {} fits: {}", preset.name, why.join("; "));
                return Err(BackendError { cause, ..failed("store", name, why) });
            };
            let used = self.use_on(&policy, &stay);
            if self.is_told(&used, &stay) {
                return Ok((policy, roomy));
            }
            let before = up.len();
            self.tell_uses(&mut up, &used);
            if 2 * up.len() < self.size() {
                // Whoever sees the others only would not know of it.
                return Err(unknown("store", name));
            }
            if up.len() == before {
                self.have_told(used, &up);
                return Ok((policy, roomy));
            }
        }
    }

    /// Those that can take an object of so many bytes.
    pub(super) fn roomy(&self, osds: &[usize], bytes: u64) -> Vec<usize> {
        let answers = self.ask_all(osds.iter().map(|osd| (*osd, Request::Space)).collect());
        let room = |answer| matches!(answer, Ok(Answer::Space { free, .. }) if free > bytes);
        let both = osds.iter().zip(answers);
        both.filter_map(|(osd, answer)| room(answer).then_some(*osd)).collect()
    }

    fn store(
        &self,
        label: &Label,
        padded: &Padded,
        cut: &Cut,
        policy: &Policy,
        osds: &[usize],
    ) -> Result<()> {
        let codec = self.codec(*policy.layout());
        let disks = self.disks(osds);
        let name = label.object;
        let mut stored: Vec<Vec<usize>> = Vec::new();
        for piece in 0..cut.pieces() {
            let placed = place(policy, &disks, number_of(name, piece));
            let placed = placed.map_err(|why| failed("store", name, why.to_string()))?;
            let fragments = encode_piece(&codec, label, padded, cut, piece, &self.pool);
            let fragments = fragments.map_err(|e| no_memory(name, &e))?;
            let jobs = placed.iter().map(|disk| osds[*disk]).zip(fragments).collect();
            let enough = Enough { of: policy.layout().global(), are: policy.acknowledge() };
            let outcomes = self.store_all(name, jobs, enough);
            let global = outcomes[..enough.of].iter().zip(&placed);
            let on: Vec<usize> =
                global.filter(|(one, _)| one.is_ok()).map(|(_, disk)| osds[*disk]).collect();
            if on.len() < enough.are {
                let why = outcomes.into_iter().find_map(Result::err);
                return Err(why.unwrap_or_else(|| failed("store", name, "too few were stored")));
            }
            stored.push(on);
        }
        // Some may be lost by now, and those who look for what is needed have not seen this object.
        let counted =
            |on: &Vec<usize>| on.iter().filter(|osd| counts(self.standing(**osd))).count();
        if stored.iter().any(|on| counted(on) < policy.acknowledge()) {
            return Err(failed("store", name, "OSDs were lost on which it is stored"));
        }
        Ok(())
    }

    /// Stores fragments on their OSDs, all at the same time; the outcomes in the same order. Once
    /// enough are stored the slow ones get as long again, and then finish by themselves or not.
    pub(super) fn store_all(
        &self,
        name: &str,
        jobs: Vec<(usize, Fragment)>,
        enough: Enough,
    ) -> Vec<Result<()>> {
        let begin = Instant::now();
        let (sender, hear) = channel();
        let mut outcomes: Vec<Result<()>> = Vec::with_capacity(jobs.len());
        let mut awaited: BTreeSet<usize> = BTreeSet::new();
        for (number, (osd, fragment)) in jobs.into_iter().enumerate() {
            let Some(file) = fragment.header.name() else {
                outcomes.push(Err(failed("store", name, "its header makes no sense")));
                continue;
            };
            outcomes.push(Err(failed("store", name, "the OSD has not answered yet")));
            let path = fragment_path(name, &file);
            let request = Request::Put { path, parts: fragment.into_parts() };
            let sender = sender.clone();
            let reply = move |answer: Result<Answer>| drop(sender.send((number, answer)));
            let osd = self.osd(osd);
            if !osd.may_lag() {
                awaited.insert(number);
            }
            osd.start(request, Box::new(reply));
        }
        drop(sender);
        let mut until = None;
        loop {
            let heard = match until {
                None => hear.recv().ok(),
                Some(until) => {
                    let left = Instant::saturating_duration_since(&until, Instant::now());
                    hear.recv_timeout(left).ok()
                }
            };
            let Some((number, answer)) = heard else { return outcomes };
            outcomes[number] = answer.map(|_| ());
            let taken = u64::from(outcomes[number].is_ok());
            self.taken.fetch_add(taken, Ordering::Relaxed);
            awaited.remove(&number);
            let global = outcomes.iter().take(enough.of);
            if until.is_none()
                && awaited.is_empty()
                && global.filter(|one| one.is_ok()).count() >= enough.are
            {
                until = Some(Instant::now() + begin.elapsed().max(STRAGGLERS_MIN));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use media::Pool;

    use super::*;

    #[test]
    fn checksums_are_kept_of_whole_4_kib_of_the_object_only() {
        let bytes = Pool::new(0).take_empty(1).unwrap();
        let mut object = Memory { name: "a", bytes, crcs: Vec::new() };
        object.write(&[1; PAGE]).unwrap();
        object.fill(3 * PAGE, &mut |_| Ok(2 * PAGE)).unwrap();
        object.compared(&[7, 8]);
        assert_eq!(object.crcs, [None, Some(7), Some(8)]);
        object.write(&[3; 5]).unwrap();
        object.compared(&[9]);
        object.write(&[3; PAGE - 5]).unwrap();
        object.compared(&[0; 5]);
        assert_eq!(object.crcs, [None, Some(7), Some(8)], "they are of other 4 KiB");
        object.write(&[4; PAGE]).unwrap();
        object.compared(&[6]);
        assert_eq!(object.crcs, [None, Some(7), Some(8), None, Some(6)]);
    }
}
