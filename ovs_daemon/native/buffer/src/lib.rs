//! See ARCHITECTURE.md.

pub mod files;
