//! Requests: what is checked before anything reaches a volume.

use alloc::vec;
use alloc::vec::Vec;

use format::nbd::{self, RequestHeader, command, error, flag};

use super::{
    Action, PAYLOAD_BYTES_MAX, Phase, REQUESTS_IN_FLIGHT_MAX, Reason, Refusal, Request, Session,
    Verb,
};

impl Session {
    #[inline]
    pub(super) fn request(&mut self, header: &RequestHeader, actions: &mut Vec<Action>) {
        if header.magic != nbd::MAGIC_REQUEST {
            return self.close(Reason::RequestMagic(header.magic), actions);
        }
        if self.in_flight >= REQUESTS_IN_FLIGHT_MAX {
            return self.close(Reason::Unexpected, actions);
        }
        if header.command == command::DISC {
            self.phase = Phase::Draining;
            if self.in_flight == 0 {
                self.close(Reason::Disconnected, actions);
            }
            return;
        }
        let is_write = header.command == command::WRITE && header.len > 0;
        match self.judge(header) {
            Ok(verb) => {
                self.in_flight += 1;
                if is_write {
                    self.phase = Phase::Payload { left: header.len };
                }
                actions.push(Action::Request(Request {
                    cookie: header.cookie,
                    offset: header.offset,
                    len: header.len,
                    verb,
                }));
            }
            Err(refusal) if is_write => {
                self.phase =
                    Phase::PayloadSkip { left: header.len, cookie: header.cookie, refusal };
            }
            Err(refusal) => self.refuse(header.cookie, refusal, actions),
        }
    }

    /// Decides whether a request is served. FUA is allowed on every command, as the protocol says.
    #[inline]
    fn judge(&self, header: &RequestHeader) -> Result<Verb, Refusal> {
        let fua = header.flags & flag::FUA != 0;
        let refuse = |error, text| {
            Err(Refusal {
                error,
                text,
                structured: self.structured
                    && matches!(header.command, command::READ | command::BLOCK_STATUS),
            })
        };
        let (verb, allowed, changes) = match header.command {
            command::READ => {
                let whole = header.flags & flag::DF != 0;
                let df = if self.structured { flag::DF } else { 0 };
                (Verb::Read { whole }, df, false)
            }
            command::WRITE => (Verb::Write { fua }, 0, true),
            command::FLUSH => (Verb::Flush, 0, false),
            command::TRIM => (Verb::Trim { fua }, 0, true),
            command::CACHE => (Verb::Cache, 0, false),
            command::WRITE_ZEROES => {
                let flags = flag::NO_HOLE | flag::FAST_ZERO;
                (Verb::WriteZeroes { fua }, flags, true)
            }
            command::BLOCK_STATUS if !self.allocation => {
                return refuse(error::EINVAL, "base:allocation was not negotiated");
            }
            command::BLOCK_STATUS => {
                let one = header.flags & flag::REQ_ONE != 0;
                (Verb::BlockStatus { one }, flag::REQ_ONE, false)
            }
            _ => return refuse(error::EINVAL, "unknown command"),
        };
        if header.flags & !(allowed | flag::FUA) != 0 {
            return refuse(error::EINVAL, "a flag that this command does not know");
        }
        if changes && self.read_only {
            return refuse(error::EPERM, "the export is read-only");
        }
        if verb == Verb::Flush {
            return Ok(verb);
        }
        let end = header.offset.checked_add(u64::from(header.len));
        if end.is_none_or(|end| end > self.size) {
            let grows = matches!(verb, Verb::Write { .. } | Verb::WriteZeroes { .. });
            let error = if grows { error::ENOSPC } else { error::EINVAL };
            return refuse(error, "beyond the end of the export");
        }
        let moves = matches!(verb, Verb::Read { .. } | Verb::Write { .. });
        if moves && header.len > PAYLOAD_BYTES_MAX {
            return refuse(error::EINVAL, "longer than the maximum payload");
        }
        if matches!(verb, Verb::BlockStatus { .. }) && header.len == 0 {
            return refuse(error::EINVAL, "block status of nothing");
        }
        Ok(verb)
    }

    pub(super) fn refuse(&mut self, cookie: u64, refusal: Refusal, actions: &mut Vec<Action>) {
        let bytes = if refusal.structured {
            let mut bytes = vec![];
            nbd::put_error(&mut bytes, cookie, refusal.error, refusal.text);
            bytes
        } else {
            nbd::simple_reply(refusal.error, cookie).to_vec()
        };
        actions.push(Action::Send(bytes));
    }
}
