//! The pure half of the erasure-coded backend: which fragments an object has, and from which of
//! them others can be computed.

mod cut;
mod layout;
mod plan;

pub use cut::{Cut, Place, UNIT};
pub use layout::{FRAGMENTS_MAX, GLOBAL_MAX, Layout, LayoutError, Set};
pub use plan::{Over, Step, plan};
