//! Requests and answers as frames, and back: the one place that knows which is which.

use std::sync::Arc;

use format::Malformed;
use format::osd::wire::{Class, Frame, GET_MAX, Kind, META_MAX};

use crate::osd::{Answer, Parts, Request};
use crate::wire::Received;
use crate::{Cause, Put, Result};

/// Names in one answer.
pub const PAGE_NAMES: u32 = 4096;

/// What is sent: a frame, its meta, its data.
pub type Outgoing = (Frame, Vec<u8>, Option<Parts>);

/// A request as a server has it.
#[derive(Clone, Debug)]
pub struct Asked {
    /// What for.
    pub request: Request,
    /// Of names: only those behind this one.
    pub after: String,
    /// Of names: no more than these.
    pub limit: u32,
    /// Of a put: the checksums of what came (see [`Received::crcs`]).
    pub crcs: Vec<u8>,
    /// For whom it is.
    pub class: Class,
}

/// A request as a frame. `after`: of names, the last one that is known.
pub fn encode_request(request: &Request, class: Class, after: &str, tag: u64) -> Outgoing {
    let (frame, meta, parts) = frame_of(request, after, tag);
    (Frame { code: class as u16, ..frame }, meta, parts)
}

fn frame_of(request: &Request, after: &str, tag: u64) -> Outgoing {
    let plain = |kind, path: &str| {
        let meta = path.as_bytes().to_vec();
        (Frame::new(kind, tag, &meta, 0), meta, None)
    };
    match request {
        Request::Put { path, parts } => {
            let meta = path.as_bytes().to_vec();
            let bytes = parts.iter().map(|part| part.len()).sum();
            (Frame::new(Kind::Put, tag, &meta, bytes), meta, Some(parts.clone()))
        }
        Request::Get { path, payload_len, offset, len } => {
            let (frame, meta, _) = plain(Kind::Get, path);
            (Frame { a: *payload_len, b: *offset, c: *len, ..frame }, meta, None)
        }
        Request::Header { path } => plain(Kind::Header, path),
        Request::Names { folder } => {
            let meta = [folder.as_bytes(), &[0], after.as_bytes()].concat();
            (Frame { c: PAGE_NAMES, ..Frame::new(Kind::Names, tag, &meta, 0) }, meta, None)
        }
        Request::Delete { path } => plain(Kind::Delete, path),
        Request::DeleteFolder { folder } => plain(Kind::DeleteFolder, folder),
        Request::Sweep { folder } => plain(Kind::Sweep, folder),
        Request::Space => plain(Kind::Space, ""),
        Request::PutRecord { name, text } => {
            let meta = [name.as_bytes(), &[0], text].concat();
            (Frame::new(Kind::PutRecord, tag, &meta, 0), meta, None)
        }
        Request::Record { name } => plain(Kind::Record, name),
        Request::Keep { path, payload_len, offset, parts } => {
            let meta = path.as_bytes().to_vec();
            let frame = Frame::new(Kind::Keep, tag, &meta, request.payload());
            (Frame { a: *payload_len, b: *offset, ..frame }, meta, Some(parts.clone()))
        }
        Request::Figures => plain(Kind::Figures, ""),
    }
}

fn split(meta: &[u8]) -> std::result::Result<(&str, &[u8]), Malformed> {
    let at = meta.iter().position(|byte| *byte == 0).ok_or(Malformed::Field("name"))?;
    let name = std::str::from_utf8(&meta[..at]).map_err(|_| Malformed::Field("text"))?;
    Ok((name, &meta[at + 1..]))
}

/// The request that a frame is; what is no request of an OSD is malformed.
pub fn decode_request(received: Received) -> std::result::Result<Asked, Malformed> {
    let frame = received.frame;
    let text = |bytes: &[u8]| {
        std::str::from_utf8(bytes).map(str::to_owned).map_err(|_| Malformed::Field("text"))
    };
    let (mut after, mut limit) = (String::new(), 0);
    let request = match frame.kind {
        Kind::Put => {
            Request::Put { path: text(&received.meta)?, parts: Arc::new(vec![received.data]) }
        }
        Kind::Get if frame.c > GET_MAX => return Err(Malformed::Field("length")),
        Kind::Get => Request::Get {
            path: text(&received.meta)?,
            payload_len: frame.a,
            offset: frame.b,
            len: frame.c,
        },
        Kind::Header => Request::Header { path: text(&received.meta)? },
        Kind::Names => {
            let (folder, rest) = split(&received.meta)?;
            (after, limit) = (text(rest)?, frame.c);
            Request::Names { folder: folder.to_owned() }
        }
        Kind::Delete => Request::Delete { path: text(&received.meta)? },
        Kind::DeleteFolder => Request::DeleteFolder { folder: text(&received.meta)? },
        Kind::Sweep => Request::Sweep { folder: text(&received.meta)? },
        Kind::Space => Request::Space,
        Kind::PutRecord => {
            let (name, rest) = split(&received.meta)?;
            Request::PutRecord { name: name.to_owned(), text: rest.to_vec() }
        }
        Kind::Record => Request::Record { name: text(&received.meta)? },
        Kind::Keep => Request::Keep {
            path: text(&received.meta)?,
            payload_len: frame.a,
            offset: frame.b,
            parts: Arc::new(vec![received.data]),
        },
        Kind::Figures => Request::Figures,
        _ => return Err(Malformed::Field("kind")),
    };
    let class = Class::of(frame.code);
    Ok(Asked { request, after, limit, crcs: received.crcs, class })
}

fn cause_code(cause: Cause) -> u16 {
    match cause {
        Cause::NotFound => 1,
        Cause::NoSpace => 2,
        Cause::Corrupt => 3,
        // Who hears this has an answer.
        Cause::Unanswered | Cause::Failed => 4,
    }
}

/// An answer as a frame.
pub fn encode_answer(asked: &Asked, answer: Result<Answer>, tag: u64) -> Outgoing {
    let plain = |kind, code| (Frame { code, ..Frame::new(kind, tag, b"", 0) }, Vec::new(), None);
    match answer {
        Ok(Answer::Put(put)) => plain(Kind::Done, u16::from(put == Put::Exists)),
        Ok(Answer::Done) => plain(Kind::Done, 0),
        Ok(Answer::Bytes(text))
            if matches!(asked.request, Request::Record { .. } | Request::Figures) =>
        {
            (Frame::new(Kind::Done, tag, &text, 0), text, None)
        }
        Ok(Answer::Bytes(bytes)) => {
            let frame = Frame::new(Kind::Bytes, tag, b"", bytes.len());
            (frame, Vec::new(), Some(Arc::new(vec![bytes.into()])))
        }
        Ok(Answer::Names(names)) => {
            let (meta, more) = page(&names, &asked.after, asked.limit);
            let frame = Frame::new(Kind::Listed, tag, &meta, 0);
            (Frame { code: u16::from(more), ..frame }, meta, None)
        }
        Ok(Answer::Space { total, free }) => {
            let (frame, meta, _) = plain(Kind::Room, 0);
            (Frame { a: total, b: free, ..frame }, meta, None)
        }
        Err(error) => {
            let meta = error.why.into_bytes();
            let frame = Frame::new(Kind::Failed, tag, &meta, 0);
            (Frame { code: cause_code(error.cause), ..frame }, meta, None)
        }
    }
}

/// Sorted names behind `after`, as many as fit, and whether there are more.
fn page(names: &[String], after: &str, limit: u32) -> (Vec<u8>, bool) {
    let first = names.partition_point(|name| name.as_str() <= after);
    let mut meta = Vec::new();
    for (count, name) in names[first..].iter().enumerate() {
        if count >= limit.max(1) as usize || meta.len() + name.len() + 1 > META_MAX {
            return (meta, true);
        }
        meta.extend_from_slice(name.as_bytes());
        meta.push(0);
    }
    (meta, false)
}

/// What has been heard of an answer.
#[derive(Debug)]
pub enum Heard {
    /// All of it.
    Whole(Result<Answer>),
    /// These names, and there are more behind the last one.
    More(Vec<String>),
}

/// The answer to a request that a frame is; an error: it answers something else.
pub fn decode_answer(
    request: &Request,
    received: Received,
) -> std::result::Result<Heard, Malformed> {
    let frame = received.frame;
    let answer = match (frame.kind, request) {
        (Kind::Failed, _) => {
            let cause = match frame.code {
                1 => Cause::NotFound,
                2 => Cause::NoSpace,
                3 => Cause::Corrupt,
                _ => Cause::Failed,
            };
            Err(request.error(cause, received.text()?))
        }
        (Kind::Done, Request::Put { .. } | Request::PutRecord { .. } | Request::Keep { .. }) => {
            Ok(Answer::Put(if frame.code == 0 { Put::Created } else { Put::Exists }))
        }
        (Kind::Done, Request::Record { .. } | Request::Figures) => Ok(Answer::Bytes(received.meta)),
        (Kind::Done, Request::Delete { .. } | Request::DeleteFolder { .. })
        | (Kind::Done, Request::Sweep { .. }) => Ok(Answer::Done),
        (Kind::Bytes, Request::Get { len, .. }) => {
            get_answer(request, received.data.into_vec(), *len)
        }
        (Kind::Bytes, Request::Header { .. }) => Ok(Answer::Bytes(received.data.into_vec())),
        (Kind::Room, Request::Space) => Ok(Answer::Space { total: frame.a, free: frame.b }),
        (Kind::Listed, Request::Names { .. }) => {
            let text = received.text()?;
            let names: Vec<String> = text.split_terminator('\0').map(str::to_owned).collect();
            if frame.code != 0 && !names.is_empty() {
                return Ok(Heard::More(names));
            }
            Ok(Answer::Names(names))
        }
        _ => return Err(Malformed::Field("kind")),
    };
    Ok(Heard::Whole(answer))
}

fn get_answer(request: &Request, mut data: Vec<u8>, len: u32) -> Result<Answer> {
    let (len, page) = (len as usize, format::log::PAGE);
    if data.len() != len + len / page * 4 {
        return Err(request.error(Cause::Failed, "the OSD sent another number of bytes"));
    }
    if crate::folder::first_damaged(&data, len).is_some() {
        // The OSD has compared it: what is stored there is whole, and needs no mending.
        return Err(request.error(Cause::Failed, "it was damaged on its way from the OSD"));
    }
    data.truncate(len);
    Ok(Answer::Bytes(data))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn received((frame, meta, parts): Outgoing) -> Received {
        let data = parts.map(|parts| concat(&parts)).unwrap_or_default().into();
        let frame = Frame::decode(&frame.encode()).unwrap();
        frame.check_meta(&meta).unwrap();
        Received { frame, meta, data, crcs: Vec::new() }
    }

    fn concat(parts: &Parts) -> Vec<u8> {
        parts.iter().flat_map(|part| part.to_vec()).collect()
    }

    fn requests() -> Vec<Request> {
        let path = "a/b.obj/x".to_owned();
        vec![
            Request::Put {
                path: path.clone(),
                parts: Arc::new(vec![vec![1; 9].into(), vec![2; 7].into()]),
            },
            Request::Get { path: path.clone(), payload_len: 1 << 22, offset: 8192, len: 4096 },
            Request::Header { path: path.clone() },
            Request::Names { folder: "a".to_owned() },
            Request::Delete { path },
            Request::DeleteFolder { folder: "a".to_owned() },
            Request::Sweep { folder: "a".to_owned() },
            Request::Space,
            Request::PutRecord { name: "r".to_owned(), text: b"text\0".to_vec() },
            Request::Record { name: "r".to_owned() },
            Request::Keep {
                path: "a/b.obj/x".to_owned(),
                payload_len: 1 << 22,
                offset: 65_536,
                parts: Arc::new(vec![vec![1; 4096].into(), vec![2; 4].into()]),
            },
            Request::Figures,
        ]
    }

    fn asked(request: &Request, after: &str) -> Asked {
        decode_request(received(encode_request(request, Class::Guest, after, 7))).unwrap()
    }

    /// Whatever the pieces are in which its bytes lie.
    fn text_of(request: &Request) -> String {
        match request {
            Request::Put { path, parts } => format!("{path} {:?}", concat(parts)),
            Request::Keep { path, payload_len, offset, parts } => {
                format!("{path} {payload_len} {offset} {:?}", concat(parts))
            }
            other => format!("{other:?}"),
        }
    }

    #[test]
    fn requests_read_back() {
        for request in requests() {
            let asked = asked(&request, "last");
            assert_eq!(text_of(&asked.request), text_of(&request));
            let names = matches!(request, Request::Names { .. });
            assert_eq!(asked.after, if names { "last" } else { "" });
            assert_eq!(asked.class, Class::Guest);
            let (frame, meta, parts) = encode_request(&request, Class::Upkeep, "", 7);
            assert_eq!((frame.code, frame.tag), (1, 7));
            let asked = decode_request(received((frame, meta, parts))).unwrap();
            assert_eq!((text_of(&asked.request), asked.class), (text_of(&request), Class::Upkeep));
        }
        let large = Request::Get { path: "a".into(), payload_len: 0, offset: 0, len: GET_MAX + 1 };
        let error =
            decode_request(received(encode_request(&large, Class::Guest, "", 1))).unwrap_err();
        assert_eq!(error, Malformed::Field("length"));
    }

    #[test]
    fn answers_read_back() {
        let all = requests();
        let back = |request: &Request, answer: Result<Answer>| {
            let sent = encode_answer(&asked(request, ""), answer, 7);
            match decode_answer(request, received(sent)).unwrap() {
                Heard::Whole(answer) => answer,
                Heard::More(names) => panic!("{names:?}"),
            }
        };
        for put in [Put::Created, Put::Exists] {
            assert_eq!(back(&all[0], Ok(Answer::Put(put))), Ok(Answer::Put(put)));
        }
        let names = Answer::Names(vec!["a".to_owned(), "b".to_owned()]);
        assert_eq!(back(&all[3], Ok(names.clone())), Ok(names));
        assert_eq!(back(&all[4], Ok(Answer::Done)), Ok(Answer::Done));
        let space = Answer::Space { total: 9, free: 8 };
        assert_eq!(back(&all[7], Ok(space.clone())), Ok(space));
        let text = Answer::Bytes(b"text".to_vec());
        for asked in [&all[9], &all[11]] {
            assert_eq!(back(asked, Ok(text.clone())), Ok(text.clone()));
        }
        assert_eq!(back(&all[10], Ok(Answer::Put(Put::Exists))), Ok(Answer::Put(Put::Exists)));
        for cause in [Cause::NotFound, Cause::NoSpace, Cause::Corrupt, Cause::Failed] {
            let error = all[1].error(cause, "because");
            assert_eq!(back(&all[1], Err(error.clone())), Err(error));
        }
    }

    #[test]
    fn what_is_damaged_on_its_way_is_noticed() {
        let request = &requests()[1];
        let payload = vec![7; 4096];
        let mut sent = [payload.clone(), format::fragment::payload_crcs(&payload)].concat();
        let heard = |bytes: Vec<u8>| {
            let sent = encode_answer(&asked(request, ""), Ok(Answer::Bytes(bytes)), 7);
            match decode_answer(request, received(sent)).unwrap() {
                Heard::Whole(answer) => answer,
                Heard::More(names) => panic!("{names:?}"),
            }
        };
        assert_eq!(heard(sent.clone()), Ok(Answer::Bytes(payload)));
        sent[5] ^= 1;
        let error = heard(sent.clone()).unwrap_err();
        assert!(error.cause == Cause::Failed && error.why.contains("on its way"), "{error}");
        sent.pop();
        assert_eq!(heard(sent).unwrap_err().cause, Cause::Failed);
    }

    #[test]
    fn many_names_come_in_pages() {
        let request = Request::Names { folder: "a".to_owned() };
        let names: Vec<String> = (0..9000).map(|number| format!("{number:06}")).collect();
        let (mut all, mut after, mut pages) = (Vec::new(), String::new(), 0);
        loop {
            let sent = encode_answer(&asked(&request, &after), Ok(Answer::Names(names.clone())), 1);
            pages += 1;
            match decode_answer(&request, received(sent)).unwrap() {
                Heard::More(some) => {
                    after.clone_from(some.last().unwrap());
                    all.extend(some);
                }
                Heard::Whole(Ok(Answer::Names(rest))) => {
                    all.extend(rest);
                    break;
                }
                Heard::Whole(other) => panic!("{other:?}"),
            }
        }
        assert_eq!((all, pages), (names, 3));
    }
}
