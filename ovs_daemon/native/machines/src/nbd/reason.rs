//! Why a connection ends, in words for a log.

use alloc::string::String;
use core::fmt;

/// Why the machine closes a connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reason {
    /// NBD_CMD_DISC.
    Disconnected,
    /// NBD_OPT_ABORT.
    Aborted,
    /// The stream ended between two messages, without goodbye.
    PeerLeft,
    /// The stream ended in the middle of something.
    PeerLeftDuring(&'static str),
    /// Client flags that this server does not know.
    ClientFlags(u32),
    /// An option that does not start with its magic.
    OptionMagic(u64),
    /// A request that does not start with its magic.
    RequestMagic(u32),
    /// NBD_OPT_EXPORT_NAME, which can only be refused by closing, for a name that is not served.
    NoSuchExport(String),
    /// NBD_OPT_EXPORT_NAME with a name that is too long or no UTF-8.
    BadName,
    /// Too many options without using an export.
    TooManyOptions,
    /// The performer broke the machine's contract.
    Unexpected,
}

impl Reason {
    /// The peer did what a good client does.
    pub fn is_clean(&self) -> bool {
        matches!(self, Reason::Disconnected | Reason::Aborted | Reason::PeerLeft)
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Reason::Disconnected => write!(f, "the client disconnected"),
            Reason::Aborted => write!(f, "the client ended the negotiation"),
            Reason::PeerLeft => write!(f, "the client closed the socket"),
            Reason::PeerLeftDuring(what) => {
                write!(f, "the client closed the socket in the middle of {what}")
            }
            Reason::ClientFlags(flags) => write!(
                f,
                "client flags {flags:#x} are unknown; this server speaks fixed newstyle NBD only"
            ),
            Reason::OptionMagic(magic) => write!(
                f,
                "an option starts with {magic:#018x} instead of IHAVEOPT; the peer does not speak \
                 NBD or lost its place"
            ),
            Reason::RequestMagic(magic) => write!(
                f,
                "a request starts with {magic:#010x} instead of NBD's request magic; the client \
                 lost its place"
            ),
            Reason::NoSuchExport(name) => write!(f, "export {name:?} does not exist"),
            Reason::BadName => write!(f, "the export name is longer than 4096 bytes or no UTF-8"),
            Reason::TooManyOptions => {
                write!(f, "the client sent {} options without using an export", super::OPTIONS_MAX)
            }
            Reason::Unexpected => write!(f, "bytes were given that were not asked for"),
        }
    }
}
