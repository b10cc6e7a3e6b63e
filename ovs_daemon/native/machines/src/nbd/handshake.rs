//! Options: what is negotiated before the first request.

use alloc::string::String;
use alloc::vec::Vec;

use format::nbd::{self, ContextQuery, InfoQuery, OptionHeader, handshake, info, option, reply};

use super::{
    ALLOCATION_ID, Action, BLOCK_BYTES_MIN, BLOCK_BYTES_PREFERRED, Catalogue, Export,
    OPTION_BYTES_MAX, OPTIONS_MAX, PAYLOAD_BYTES_MAX, Phase, Reason, Session,
};

impl Session {
    pub(super) fn client_flags(&mut self, bytes: &[u8], actions: &mut Vec<Action>) {
        let known = u32::from(handshake::FIXED_NEWSTYLE | handshake::NO_ZEROES);
        let flags = bytes.iter().fold(0u32, |flags, byte| flags << 8 | u32::from(*byte));
        if flags & !known != 0 {
            return self.close(Reason::ClientFlags(flags), actions);
        }
        self.no_zeroes = flags & u32::from(handshake::NO_ZEROES) != 0;
        self.phase = Phase::OptionHeader;
    }

    pub(super) fn option_header(
        &mut self,
        bytes: &[u8],
        exports: &dyn Catalogue,
        actions: &mut Vec<Action>,
    ) {
        let Some(header) = OptionHeader::parse(bytes) else {
            return self.close(Reason::Unexpected, actions);
        };
        if header.magic != nbd::MAGIC_OPTION {
            return self.close(Reason::OptionMagic(header.magic), actions);
        }
        self.options += 1;
        if self.options > OPTIONS_MAX {
            return self.close(Reason::TooManyOptions, actions);
        }
        if header.len == 0 {
            return self.option(header.option, &[], exports, actions);
        }
        if header.len <= OPTION_BYTES_MAX {
            self.phase = Phase::OptionData { option: header.option, len: header.len };
        } else if header.option == option::EXPORT_NAME {
            self.close(Reason::BadName, actions);
        } else {
            self.phase = Phase::OptionSkip { option: header.option, left: header.len };
        }
    }

    pub(super) fn option(
        &mut self,
        number: u32,
        data: &[u8],
        exports: &dyn Catalogue,
        actions: &mut Vec<Action>,
    ) {
        match number {
            option::EXPORT_NAME => self.export_name(data, exports, actions),
            option::ABORT => {
                send_option(actions, number, reply::ACK, &[]);
                self.close(Reason::Aborted, actions);
            }
            option::LIST | option::STRUCTURED_REPLY if !data.is_empty() => {
                let text = "this option has no data";
                self.option_error(number, reply::ERR_INVALID, text, actions);
            }
            option::LIST => {
                let mut out = Vec::new();
                for name in exports.names() {
                    let entry = nbd::server_entry(&name);
                    nbd::put_option_reply(&mut out, number, reply::SERVER, &entry);
                }
                nbd::put_option_reply(&mut out, number, reply::ACK, &[]);
                actions.push(Action::Send(out));
            }
            option::STRUCTURED_REPLY => {
                self.structured = true;
                send_option(actions, number, reply::ACK, &[]);
            }
            option::INFO | option::GO => self.info_or_go(number, data, exports, actions),
            option::LIST_META_CONTEXT | option::SET_META_CONTEXT => {
                self.meta_context(number, data, exports, actions);
            }
            option::STARTTLS => {
                let text = "TLS is not offered; use the unix socket or a protected network";
                self.option_error(number, reply::ERR_POLICY, text, actions);
            }
            _ => self.option_error(number, reply::ERR_UNSUP, "unknown option", actions),
        }
    }

    pub(super) fn option_error(
        &mut self,
        number: u32,
        kind: u32,
        text: &str,
        actions: &mut Vec<Action>,
    ) {
        send_option(actions, number, kind, text.as_bytes());
    }

    fn export_name(&mut self, data: &[u8], exports: &dyn Catalogue, actions: &mut Vec<Action>) {
        let Some(name) = nbd::parse_name(data) else {
            return self.close(Reason::BadName, actions);
        };
        let Some(export) = exports.find(&name) else {
            return self.close(Reason::NoSuchExport(name), actions);
        };
        let flags = self.flags(&export);
        let bytes = nbd::export_reply(export.size, flags, !self.no_zeroes);
        actions.push(Action::Send(bytes));
        self.serve(export, actions);
    }

    fn info_or_go(
        &mut self,
        number: u32,
        data: &[u8],
        exports: &dyn Catalogue,
        actions: &mut Vec<Action>,
    ) {
        let Some(query) = InfoQuery::parse(data) else {
            let text = "name and list of information types do not add up";
            return self.option_error(number, reply::ERR_INVALID, text, actions);
        };
        let Some(export) = exports.find(&query.name) else {
            return self.option_error(number, reply::ERR_UNKNOWN, "no such export", actions);
        };
        let mut out = Vec::new();
        let mut put = |data: &[u8]| nbd::put_option_reply(&mut out, number, reply::INFO, data);
        put(&nbd::info_export(export.size, self.flags(&export)));
        if query.wanted.contains(&info::NAME) {
            put(&nbd::info_text(info::NAME, &export.name));
        }
        if query.wanted.contains(&info::DESCRIPTION) && !export.description.is_empty() {
            put(&nbd::info_text(info::DESCRIPTION, &export.description));
        }
        if query.wanted.contains(&info::BLOCK_SIZE) {
            let (min, preferred) = (BLOCK_BYTES_MIN, BLOCK_BYTES_PREFERRED);
            put(&nbd::info_block_size(min, preferred, PAYLOAD_BYTES_MAX));
        }
        nbd::put_option_reply(&mut out, number, reply::ACK, &[]);
        actions.push(Action::Send(out));
        if number == option::GO {
            self.serve(export, actions);
        }
    }

    fn meta_context(
        &mut self,
        number: u32,
        data: &[u8],
        exports: &dyn Catalogue,
        actions: &mut Vec<Action>,
    ) {
        let set = number == option::SET_META_CONTEXT;
        if set {
            // The protocol: whatever comes of it, an earlier selection is gone.
            self.context = None;
        }
        if !self.structured {
            let text = "structured replies must be negotiated first";
            return self.option_error(number, reply::ERR_INVALID, text, actions);
        }
        let Some(query) = ContextQuery::parse(data) else {
            let text = "name and list of queries do not add up";
            return self.option_error(number, reply::ERR_INVALID, text, actions);
        };
        let Some(export) = exports.find(&query.name) else {
            return self.option_error(number, reply::ERR_UNKNOWN, "no such export", actions);
        };
        let matches = |query: &String| {
            query == nbd::BASE_ALLOCATION || (!set && (query == "base:" || query.is_empty()))
        };
        let all = !set && query.queries.is_empty();
        let mut out = Vec::new();
        if all || query.queries.iter().any(matches) {
            let id = if set { ALLOCATION_ID } else { 0 };
            let data = nbd::meta_context(id, nbd::BASE_ALLOCATION);
            nbd::put_option_reply(&mut out, number, reply::META_CONTEXT, &data);
            if set {
                self.context = Some(export.name);
            }
        }
        nbd::put_option_reply(&mut out, number, reply::ACK, &[]);
        actions.push(Action::Send(out));
    }

    fn serve(&mut self, export: Export, actions: &mut Vec<Action>) {
        self.allocation = self.context.as_ref() == Some(&export.name);
        self.size = export.size;
        self.read_only = export.read_only;
        self.phase = Phase::Request;
        actions.push(Action::Serve(export.name));
    }

    fn flags(&self, export: &Export) -> u16 {
        use nbd::transmission as t;
        let mut flags = t::HAS_FLAGS | t::SEND_FLUSH | t::SEND_FUA | t::CAN_MULTI_CONN;
        flags |= t::SEND_CACHE;
        if export.read_only {
            flags |= t::READ_ONLY;
        } else {
            flags |= t::SEND_TRIM | t::SEND_WRITE_ZEROES | t::SEND_FAST_ZERO;
        }
        if self.structured {
            flags |= t::SEND_DF;
        }
        flags
    }
}

fn send_option(actions: &mut Vec<Action>, number: u32, kind: u32, data: &[u8]) {
    let mut out = Vec::new();
    nbd::put_option_reply(&mut out, number, kind, data);
    actions.push(Action::Send(out));
}
