//! Errors of control calls.

use std::fmt;

/// What was attempted, on which object, why it failed, and what to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Error {
    /// Stable name, for programs.
    pub code: &'static str,
    /// What was attempted, on which object.
    pub what: String,
    /// Why it failed.
    pub why: String,
    /// What to do.
    pub fix: String,
}

impl Error {
    pub(crate) fn new(
        code: &'static str,
        what: impl Into<String>,
        why: impl Into<String>,
        fix: impl Into<String>,
    ) -> Self {
        Self { code, what: what.into(), why: why.into(), fix: fix.into() }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}; {} [{}]", self.what, self.why, self.fix, self.code)
    }
}

impl std::error::Error for Error {}

/// Result of a control call.
pub(crate) type Result<T> = std::result::Result<T, Error>;
