//! Where a cluster's data is.

/// A location in a log: cluster number `ordinal` (counting data clusters only, from 0) of SCO `sco`
/// of ancestor `log` (an index into the volume's table of logs). 8 bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Loc {
    /// Index into the volume's table of logs (its ancestors; its own log is the last).
    pub log: u16,
    /// Number of the SCO in that log.
    pub sco: u32,
    /// Number of the data cluster in that SCO.
    pub ordinal: u16,
}

impl Loc {
    /// The location `clusters` further on in the same SCO. Ordinals of stored runs never pass
    /// 65535 (`Map::set` refuses them), so the addition does not wrap for any run of a map.
    #[inline]
    pub fn plus(self, clusters: u32) -> Loc {
        Loc { ordinal: self.ordinal.wrapping_add(clusters as u16), ..self }
    }

    /// Whether `self` is the location `clusters` after `before`, so that the two make one run.
    #[inline]
    pub fn follows(self, before: Loc, clusters: u32) -> bool {
        self.log == before.log
            && self.sco == before.sco
            && u32::from(self.ordinal) == u32::from(before.ordinal) + clusters
    }
}

/// `len` clusters of one leaf, from `start`, that lie at consecutive ordinals. 12 bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Run {
    sco: u32,
    ordinal: u16,
    log: u16,
    pub(super) start: u16,
    pub(super) len: u16,
}

impl Run {
    #[inline]
    pub(super) fn new(start: usize, len: usize, loc: Loc) -> Run {
        let Loc { log, sco, ordinal } = loc;
        Run { sco, ordinal, log, start: start as u16, len: len as u16 }
    }

    #[inline]
    pub(super) fn loc(&self) -> Loc {
        Loc { log: self.log, sco: self.sco, ordinal: self.ordinal }
    }

    /// First cluster after the run.
    #[inline]
    pub(super) fn end(&self) -> usize {
        usize::from(self.start) + usize::from(self.len)
    }

    /// The part of the run inside `[from, to)`; the caller knows that there is one.
    #[inline]
    pub(super) fn clip(&self, from: usize, to: usize) -> Run {
        let start = from.max(usize::from(self.start));
        let end = to.min(self.end());
        let skipped = (start - usize::from(self.start)) as u32;
        Run::new(start, end - start, self.loc().plus(skipped))
    }

    /// Whether `self` begins where `before` ends, on the volume and in the log.
    #[inline]
    pub(super) fn continues(&self, before: &Run) -> bool {
        usize::from(self.start) == before.end()
            && self.loc().follows(before.loc(), u32::from(before.len))
    }
}
