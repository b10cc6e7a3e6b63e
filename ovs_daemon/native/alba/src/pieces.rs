//! An object in memory as stored fragments, and back.

use std::sync::Arc;

use format::fragment::{ErasureHeader, NAME_MAX, StoredFragment, crc32, payload_crcs};
use format::{Malformed, crc32c};
use machines::alba::{Cut, Layout, Over, Set, plan};

use crate::code::Codec;
use crate::osd::Parts;

/// A fragment and what belongs to it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fragment {
    /// Its header page.
    pub header: StoredFragment,
    /// Its payload.
    pub payload: Vec<u8>,
    /// The checksums behind it.
    pub crcs: Vec<u8>,
}

/// What the fragments of an object have in common.
#[derive(Clone, Copy, Debug)]
pub struct Label<'a> {
    /// Name of the object.
    pub object: &'a str,
    /// Bytes of the object.
    pub object_len: u64,
    /// How many of k + m make it count as stored.
    pub acknowledge: u8,
    /// Number of the put.
    pub generation: u64,
    /// Whether the object is sealed (see `format::seal`).
    pub sealed: bool,
}

impl Label<'_> {
    /// Fragment `number` of a piece, which has `piece_len` bytes of the object from `piece_at` on.
    pub fn fragment(
        &self,
        codec: &Codec,
        (piece, piece_at, piece_len): (u32, u64, u64),
        number: usize,
        payload: Vec<u8>,
    ) -> Fragment {
        let layout = codec.layout();
        let crcs = payload_crcs(&payload);
        let header = StoredFragment {
            object: self.object.to_owned(),
            object_len: self.object_len,
            piece_at,
            piece,
            code: [layout.data(), layout.parity(), layout.domains(), layout.local()]
                .map(|count| count as u8),
            fragment: number as u8,
            acknowledge: self.acknowledge,
            sealed: self.sealed,
            generation: self.generation,
            crcs_crc: crc32c(&crcs),
            erasure: erasure_header(codec, number, &payload, piece_len as usize),
        };
        Fragment { header, payload, crcs }
    }
}

impl Fragment {
    /// The file: header page, payload, checksums.
    pub fn encode(&self) -> Vec<u8> {
        let mut bytes = self.header.encode().to_vec();
        bytes.extend_from_slice(&self.payload);
        bytes.extend_from_slice(&self.crcs);
        bytes
    }

    /// The file in the pieces in which it lies in memory.
    pub fn into_parts(self) -> Parts {
        Arc::new(vec![self.header.encode().to_vec(), self.payload, self.crcs])
    }

    /// The inverse of [`Self::encode`]; compares every checksum.
    pub fn decode(bytes: &[u8]) -> Result<Self, Malformed> {
        let header = StoredFragment::decode(bytes)?;
        let payload_at = format::log::PAGE;
        let crcs_at = payload_at + header.payload_len();
        let payload = bytes.get(payload_at..crcs_at).ok_or(Malformed::Short)?;
        let crcs = bytes.get(crcs_at..).ok_or(Malformed::Short)?;
        let sound = crc32c(crcs) == header.crcs_crc && payload_crcs(payload) == crcs;
        if !sound || crc32(payload) != header.erasure.crc {
            return Err(Malformed::Checksum);
        }
        Ok(Self { payload: payload.to_vec(), crcs: crcs.to_vec(), header })
    }
}

/// Why an object can't be put together.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Unreadable {
    /// Fragments of different objects, or of different layouts.
    Mixed,
    /// Too few fragments of this piece.
    Lost {
        /// Number of the piece.
        piece: u32,
        /// How many of its fragments there are.
        present: u32,
    },
}

impl std::fmt::Display for Unreadable {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Mixed => write!(f, "the fragments belong to different objects"),
            Self::Lost { piece, present } => {
                write!(f, "{present} fragments of piece {piece} are too few to compute it")
            }
        }
    }
}

impl std::error::Error for Unreadable {}

/// Cuts and encodes an object.
///
/// # Panics
/// With a name of more than 1024 bytes.
pub fn encode_object(codec: &Codec, label: &Label, object: &[u8], cut: &Cut) -> Vec<Fragment> {
    (0..cut.pieces()).flat_map(|piece| encode_piece(codec, label, object, cut, piece)).collect()
}

/// Encodes one piece of an object; the fragments come in order.
///
/// # Panics
/// With a name of more than 1024 bytes.
pub fn encode_piece(
    codec: &Codec,
    label: &Label,
    object: &[u8],
    cut: &Cut,
    piece: u32,
) -> Vec<Fragment> {
    assert!(label.object.len() <= NAME_MAX, "the name has {} bytes", label.object.len());
    let (at, len) = (cut.piece_at(piece), cut.piece_len(piece));
    let payloads = payloads(codec, &object[at as usize..][..len as usize], cut.fragment_len());
    let numbered = payloads.into_iter().enumerate();
    numbered.map(|(number, one)| label.fragment(codec, (piece, at, len), number, one)).collect()
}

fn payloads(codec: &Codec, bytes: &[u8], len: u64) -> Vec<Vec<u8>> {
    let (layout, len) = (codec.layout(), len as usize);
    let mut payloads = vec![vec![0; len]; layout.fragments()];
    for (payload, part) in payloads.iter_mut().zip(bytes.chunks(len)) {
        payload[..part.len()].copy_from_slice(part);
    }
    let (data, parity) = payloads.split_at_mut(layout.data());
    let data: Vec<&[u8]> = data.iter().map(Vec::as_slice).collect();
    let mut parity: Vec<&mut [u8]> = parity.iter_mut().map(Vec::as_mut_slice).collect();
    codec.encode(&data, &mut parity);
    payloads
}

fn erasure_header(codec: &Codec, number: usize, payload: &[u8], piece_len: usize) -> ErasureHeader {
    let layout = codec.layout();
    let (index, original_len) = if number < layout.global() {
        (number, piece_len)
    } else {
        let group = layout.group_of(number);
        let index = codec.row_of(Over::Group(group), number);
        (index, layout.member_count(group) * payload.len())
    };
    ErasureHeader {
        index: index as u32,
        payload_len: payload.len() as u32,
        original_len: original_len as u64,
        crc: crc32(payload),
    }
}

/// Puts an object together from fragments in any order.
pub fn decode_object(fragments: Vec<Fragment>) -> Result<Vec<u8>, Unreadable> {
    let first = fragments.first().ok_or(Unreadable::Lost { piece: 0, present: 0 })?.header.clone();
    let [data, parity, domains, local] = first.code;
    let layout = Layout::new(data, parity, domains, local).map_err(|_| Unreadable::Mixed)?;
    let codec = Codec::new(layout);
    let len = first.payload_len();
    let piece_len = (layout.data() * len).max(1);
    let pieces = (first.object_len as usize).div_ceil(piece_len).max(1);
    let mut table = vec![vec![None; layout.fragments()]; pieces];
    for Fragment { header, payload, .. } in fragments {
        let same = header.object == first.object
            && header.generation == first.generation
            && header.object_len == first.object_len
            && header.code == first.code
            && payload.len() == len;
        let slot = table.get_mut(header.piece as usize);
        match slot.and_then(|piece| piece.get_mut(usize::from(header.fragment))) {
            Some(slot) if same => *slot = Some(payload),
            _ => return Err(Unreadable::Mixed),
        }
    }
    let mut object = Vec::with_capacity(pieces * piece_len);
    for (piece, mut fragments) in table.into_iter().enumerate() {
        restore(&codec, &mut fragments, (1 << layout.data()) - 1)
            .map_err(|present| Unreadable::Lost { piece: piece as u32, present })?;
        fragments.iter().take(layout.data()).flatten().for_each(|one| object.extend(one));
    }
    object.truncate(first.object_len as usize);
    Ok(object)
}

/// Computes those of the `wanted` fragments that are missing; an error is how many there are.
pub fn restore(codec: &Codec, fragments: &mut [Option<Vec<u8>>], wanted: Set) -> Result<(), u32> {
    let there = fragments.iter().enumerate().filter(|(_, one)| one.is_some());
    let present: Set = there.fold(0, |set, (number, _)| set | 1 << number);
    let steps = plan(codec.layout(), present, wanted).ok_or(present.count_ones())?;
    for step in &steps {
        codec.recover(step, fragments);
    }
    Ok(())
}
