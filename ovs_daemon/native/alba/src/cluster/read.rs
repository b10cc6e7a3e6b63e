//! Reads: of the one fragment that has the bytes, or computed from others, its group's first.

use format::fragment::FragmentName;
use machines::alba::{Set, UNIT, plan};

use crate::{Cause, Result};

use super::find::Found;
use super::{Cluster, failed};

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
        if self.read_one(name, found, piece, fragment, start, into).is_ok() {
            return Ok(());
        }
        let mut have: Vec<Option<Vec<u8>>> = vec![None; found.layout.fragments()];
        self.compute(name, found, piece, 1 << fragment, start, into.len(), &mut have)?;
        let bytes = have[fragment].as_ref().expect("it was computed");
        into.copy_from_slice(bytes);
        Ok(())
    }

    /// Computes a range of the fragments `wanted` of a piece from others; what is read or computed
    /// on the way is left in `have`.
    #[allow(clippy::too_many_arguments, reason = "a range of fragments of a piece of an object")]
    pub(super) fn compute(
        &self,
        name: &str,
        found: &Found,
        piece: u32,
        wanted: Set,
        start: u64,
        len: usize,
        have: &mut [Option<Vec<u8>>],
    ) -> Result<()> {
        let mut present = found.present(piece) & !wanted;
        let steps = 'choose: loop {
            let Some(steps) = plan(&found.layout, present, wanted) else {
                let count = present.count_ones();
                let why =
                    format!("{count} fragments of its piece {piece} are too few to compute it");
                let mut error = failed("read", name, why);
                error.cause = Cause::Corrupt;
                return Err(error);
            };
            let computed: Vec<usize> =
                steps.iter().flat_map(|step| &step.outputs).copied().collect();
            for source in steps.iter().flat_map(|step| &step.sources) {
                if computed.contains(source) || have[*source].is_some() {
                    continue;
                }
                let mut bytes = vec![0; len];
                if self.read_one(name, found, piece, *source, start, &mut bytes).is_err() {
                    present &= !(1 << source);
                    continue 'choose;
                }
                have[*source] = Some(bytes);
            }
            break steps;
        };
        let codec = self.codec(found.layout);
        for step in &steps {
            codec.recover(step, have);
        }
        Ok(())
    }

    /// Fills `into` from where the fragment itself is.
    pub(super) fn read_one(
        &self,
        name: &str,
        found: &Found,
        piece: u32,
        fragment: usize,
        start: u64,
        into: &mut [u8],
    ) -> Result<()> {
        let osd = found.osd(piece, fragment).ok_or_else(|| failed("read", name, "it is lost"))?;
        let file: FragmentName = found.name(piece, fragment);
        self.osds[osd].read(name, &file, found.cut.fragment_len(), start, into)
    }
}
