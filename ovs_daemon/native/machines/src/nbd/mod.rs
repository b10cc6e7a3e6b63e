//! One NBD connection, server side, as a pure machine: bytes in, actions out.
//!
//! The machine says how many bytes it [`Wants`] next and is given exactly those; whoever performs
//! it collects them, so a byte stream means the same however the network cuts it. Payload of writes
//! never enters the machine: it only counts what was handed on, or thrown away because the request
//! is refused. The exports are passed in with each step, as part of the message.
//!
//! ```text
//!  ClientFlags -> OptionHeader <-> OptionData | OptionSkip
//!                      | GO, EXPORT_NAME
//!                      v
//!                   Request <-> Payload | PayloadSkip
//!                      | DISC, end of stream          (any phase: a violation)
//!                      v                                       v
//!                  Draining -- last answer -->  Closed  <------+
//! ```
//!
//! Each [`Action::Request`] is answered exactly once by the performer ([`Session::answered`]); what
//! the machine refuses by itself it answers with [`Action::Send`]. A session that has
//! [`REQUESTS_IN_FLIGHT_MAX`] unanswered requests wants no bytes: the peer is slowed down by its
//! own socket.

mod feeder;
mod handshake;
mod reason;
#[cfg(test)]
mod tests;
mod transmission;

use alloc::string::String;
use alloc::vec::Vec;

use format::nbd::{self, CLIENT_FLAGS_BYTES, OPTION_HEADER_BYTES, REQUEST_BYTES};

pub use feeder::Feeder;
pub use reason::Reason;

/// Longest read or write, in bytes; larger ones are refused with EINVAL.
pub const PAYLOAD_BYTES_MAX: u32 = 32 << 20;
/// Requests of one connection that may be unanswered at a time.
pub const REQUESTS_IN_FLIGHT_MAX: u32 = 512;
/// Longest data of an option that is looked at, in bytes; longer ones are refused unread.
pub const OPTION_BYTES_MAX: u32 = 16 << 10;
/// Options that a client may send before it has to use an export.
pub const OPTIONS_MAX: u32 = 1024;
/// Block sizes announced, in bytes. Any alignment is served; these are what is fast.
pub const BLOCK_BYTES_MIN: u32 = 512;
/// See [`BLOCK_BYTES_MIN`].
pub const BLOCK_BYTES_PREFERRED: u32 = 4096;
/// The identifier given to base:allocation.
pub const ALLOCATION_ID: u32 = 1;

/// What is offered under a name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Export {
    /// Its real name (the name asked for may have been the empty default).
    pub name: String,
    /// For people; may be empty.
    pub description: String,
    /// Bytes.
    pub size: u64,
    /// Writes are refused with EPERM.
    pub read_only: bool,
}

/// The exports that this connection may see, at this moment.
pub trait Catalogue {
    /// The export of that name; the empty name asks for the default export.
    fn find(&self, name: &str) -> Option<Export>;
    /// All names, for NBD_OPT_LIST.
    fn names(&self) -> Vec<String>;
}

/// What the machine needs before its next step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wants {
    /// Exactly so many bytes, at least one.
    Bytes(usize),
    /// Up to so many bytes of payload of the last [`Action::Request`], which is a write.
    Payload(u32),
    /// Up to so many bytes that are thrown away.
    Skip(u32),
    /// An answer to one of its requests; no bytes meanwhile.
    Answers,
    /// Nothing, ever again.
    Nothing,
}

/// What the performer must do, in this order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// Send these bytes.
    Send(Vec<u8>),
    /// From now on requests arrive for the export of this real name.
    Serve(String),
    /// Perform this and answer it.
    Request(Request),
    /// Close the connection after everything was sent.
    Close(Reason),
}

/// A valid request: inside the export, allowed, of acceptable size.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Request {
    /// Repeated in the reply.
    pub cookie: u64,
    /// Bytes.
    pub offset: u64,
    /// Bytes; of a write, the payload that follows.
    pub len: u32,
    /// What to do.
    pub verb: Verb,
}

/// What is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verb {
    /// Send the data.
    Read {
        /// In one chunk (NBD_CMD_FLAG_DF).
        whole: bool,
    },
    /// Store the payload.
    Write {
        /// Durable before the answer (NBD_CMD_FLAG_FUA).
        fua: bool,
    },
    /// Make everything answered before durable.
    Flush,
    /// The range may be forgotten.
    Trim {
        /// Durable before the answer.
        fua: bool,
    },
    /// The range is about to be read.
    Cache,
    /// The range becomes zero. Holes are always allowed to appear: a volume's log cannot reserve
    /// room for later writes, and waits instead of failing them, which is all that NO_HOLE wants.
    WriteZeroes {
        /// Durable before the answer.
        fua: bool,
    },
    /// Describe the allocation.
    BlockStatus {
        /// A single extent is enough (NBD_CMD_FLAG_REQ_ONE).
        one: bool,
    },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    ClientFlags,
    OptionHeader,
    OptionData { option: u32, len: u32 },
    OptionSkip { option: u32, left: u32 },
    Request,
    Payload { left: u32 },
    PayloadSkip { left: u32, cookie: u64, refusal: Refusal },
    Draining,
    Closed,
}

/// A request that is answered with an error by the machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Refusal {
    error: u32,
    text: &'static str,
    /// The protocol demands a structured reply (reads and block status, when negotiated).
    structured: bool,
}

/// See the module's essay.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Session {
    phase: Phase,
    no_zeroes: bool,
    structured: bool,
    /// Real name of the export for which base:allocation was selected.
    context: Option<String>,
    options: u32,
    size: u64,
    read_only: bool,
    allocation: bool,
    in_flight: u32,
}

impl Session {
    /// A fresh connection; the first action sends the greeting.
    pub fn new(actions: &mut Vec<Action>) -> Self {
        let flags = nbd::handshake::FIXED_NEWSTYLE | nbd::handshake::NO_ZEROES;
        actions.push(Action::Send(nbd::greeting(flags).to_vec()));
        Self {
            phase: Phase::ClientFlags,
            no_zeroes: false,
            structured: false,
            context: None,
            options: 0,
            size: 0,
            read_only: false,
            allocation: false,
            in_flight: 0,
        }
    }

    /// What must be given next.
    #[inline]
    pub fn wants(&self) -> Wants {
        match self.phase {
            Phase::Request if self.in_flight < REQUESTS_IN_FLIGHT_MAX => {
                Wants::Bytes(REQUEST_BYTES)
            }
            Phase::Request | Phase::Draining => Wants::Answers,
            Phase::Payload { left } => Wants::Payload(left),
            Phase::PayloadSkip { left, .. } | Phase::OptionSkip { left, .. } => Wants::Skip(left),
            Phase::ClientFlags => Wants::Bytes(CLIENT_FLAGS_BYTES),
            Phase::OptionHeader => Wants::Bytes(OPTION_HEADER_BYTES),
            Phase::OptionData { len, .. } => Wants::Bytes(len as usize),
            Phase::Closed => Wants::Nothing,
        }
    }

    /// Takes the bytes of [`Wants::Bytes`]. Any other number of bytes, or bytes that were not
    /// wanted, are a performer's error and close the session.
    #[inline]
    pub fn step(&mut self, bytes: &[u8], exports: &dyn Catalogue, actions: &mut Vec<Action>) {
        if let (Phase::Request, Ok(header)) = (self.phase, bytes.try_into()) {
            return self.request(&nbd::RequestHeader::parse(header), actions);
        }
        match self.phase {
            _ if self.wants() != Wants::Bytes(bytes.len()) => {
                self.close(Reason::Unexpected, actions);
            }
            Phase::ClientFlags => self.client_flags(bytes, actions),
            Phase::OptionHeader => self.option_header(bytes, exports, actions),
            Phase::OptionData { option, .. } => {
                self.phase = Phase::OptionHeader;
                self.option(option, bytes, exports, actions);
            }
            _ => self.close(Reason::Unexpected, actions),
        }
    }

    /// So many bytes of [`Wants::Payload`] were handed on, or of [`Wants::Skip`] thrown away.
    #[inline]
    pub fn consumed(&mut self, bytes: u32, actions: &mut Vec<Action>) {
        match &mut self.phase {
            Phase::Payload { left } if bytes < *left => *left -= bytes,
            Phase::Payload { left } if bytes == *left => self.phase = Phase::Request,
            Phase::PayloadSkip { left, .. } | Phase::OptionSkip { left, .. } if bytes < *left => {
                *left -= bytes;
            }
            Phase::PayloadSkip { left, cookie, refusal } if bytes == *left => {
                let (cookie, refusal) = (*cookie, *refusal);
                self.phase = Phase::Request;
                self.refuse(cookie, refusal, actions);
            }
            Phase::OptionSkip { left, option } if bytes == *left => {
                let option = *option;
                self.phase = Phase::OptionHeader;
                let text = "the option's data is too long; use shorter or fewer names";
                self.option_error(option, nbd::reply::ERR_TOO_BIG, text, actions);
            }
            _ => self.close(Reason::Unexpected, actions),
        }
    }

    /// The performer has answered one [`Action::Request`].
    #[inline]
    pub fn answered(&mut self, actions: &mut Vec<Action>) {
        self.in_flight = self.in_flight.saturating_sub(1);
        if self.phase == Phase::Draining && self.in_flight == 0 {
            self.close(Reason::Disconnected, actions);
        }
    }

    /// The peer will send nothing more.
    pub fn end_of_stream(&mut self, partial: bool, actions: &mut Vec<Action>) {
        let during = match self.phase {
            Phase::Closed => return,
            Phase::ClientFlags | Phase::OptionHeader if partial => "the handshake",
            Phase::OptionData { .. } | Phase::OptionSkip { .. } => "an option",
            Phase::Request if partial => "a request",
            Phase::Payload { .. } | Phase::PayloadSkip { .. } => "the payload of a write",
            _ => return self.close(Reason::PeerLeft, actions),
        };
        self.close(Reason::PeerLeftDuring(during), actions);
    }

    /// Replies to reads and block status are structured.
    #[inline]
    pub fn structured(&self) -> bool {
        self.structured
    }

    /// Requests not yet answered.
    pub fn in_flight(&self) -> u32 {
        self.in_flight
    }

    fn close(&mut self, reason: Reason, actions: &mut Vec<Action>) {
        if self.phase != Phase::Closed {
            self.phase = Phase::Closed;
            actions.push(Action::Close(reason));
        }
    }
}
