//! What the connections of a server may take of it.

use std::time::Duration;

use net::{GREETING, UNGREETED_MAX};

/// See the top of the file.
#[derive(Clone, Debug)]
pub struct Bounds {
    /// Connections at a time. A node of the cluster has three for each OSD, one of them
    /// for the upkeep.
    pub connections: usize,
    /// Those of them that have not proved who they are.
    pub ungreeted: usize,
    /// How long one may take for that.
    pub greeting: Duration,
    /// Bytes of answers that a connection has not read yet, or that are being read for it: beyond
    /// them its next requests wait.
    pub owed_bytes: usize,
}

impl Default for Bounds {
    fn default() -> Self {
        Self {
            connections: 16_384,
            ungreeted: UNGREETED_MAX,
            greeting: GREETING,
            // What ten gigabits bring in 25 ms, or eight of the largest reads.
            owed_bytes: 32 << 20,
        }
    }
}
