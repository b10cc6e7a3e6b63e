//! The worlds: one folder for each machine that is explored exhaustively.

pub mod dtl;
pub mod edge;
pub mod mds;
pub mod volume;

use crate::scenario::Scenario;

/// Every scenario. `level` 0 keeps each of them within a CI run; higher levels allow more moves of
/// each kind and take correspondingly longer.
pub fn all(level: u32) -> Vec<Scenario> {
    let mut scenarios = volume::scenarios(level);
    scenarios.extend(dtl::scenarios(level));
    scenarios.extend(edge::scenarios(level));
    scenarios.extend(mds::scenarios(level));
    scenarios
}
