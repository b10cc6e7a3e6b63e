//! An object in memory as stored fragments, and back.

use std::io;
use std::sync::Arc;

use format::fragment::{ErasureHeader, NAME_MAX, PayloadSums, StoredFragment, crc32, payload_crcs};
use format::log::PAGE;
use format::{Malformed, crc32c};
use machines::alba::{Cut, Layout, Over, Set, plan};
use media::Pool;

use crate::code::Codec;
use crate::osd::Parts;
use crate::part::Part;

/// A fragment and what belongs to it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fragment {
    /// Its header page.
    pub header: StoredFragment,
    /// Its payload.
    pub payload: Part,
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

/// An object, padded with zeroes to [`padded_len`].
#[derive(Clone, Debug)]
pub struct Padded {
    /// Its bytes.
    pub bytes: Part,
    /// The CRC32C of its 4 KiB, from the first on, as far as they are known.
    pub crcs: Vec<Option<u32>>,
}

impl From<Part> for Padded {
    fn from(bytes: Part) -> Self {
        Self { bytes, crcs: Vec::new() }
    }
}

/// A piece: its number, its first byte of the object, and its bytes.
pub type Extent = (u32, u64, u64);

impl Label<'_> {
    /// Fragment `number` of a piece, which has `piece_len` bytes of the object from `piece_at` on.
    pub fn fragment(
        &self,
        codec: &Codec,
        extent: Extent,
        number: usize,
        payload: Vec<u8>,
    ) -> Fragment {
        let mut sums = PayloadSums::new(payload.len());
        sums.add(&payload);
        self.summed(codec, extent, number, payload.into(), sums)
    }

    fn summed(
        &self,
        codec: &Codec,
        (piece, piece_at, piece_len): Extent,
        number: usize,
        payload: Part,
        sums: PayloadSums,
    ) -> Fragment {
        let layout = codec.layout();
        let (crcs, crc) = sums.finish();
        let (index, original_len) = position(codec, number, payload.len(), piece_len as usize);
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
            erasure: ErasureHeader {
                index: index as u32,
                payload_len: payload.len() as u32,
                original_len: original_len as u64,
                crc,
            },
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
        Arc::new(vec![self.header.encode().to_vec().into(), self.payload, self.crcs.into()])
    }

    /// The inverse of [`Self::encode`]; compares every checksum.
    pub fn decode(bytes: &[u8]) -> Result<Self, Malformed> {
        let header = StoredFragment::decode(bytes)?;
        let payload_at = PAGE;
        let crcs_at = payload_at + header.payload_len();
        let payload = bytes.get(payload_at..crcs_at).ok_or(Malformed::Short)?;
        let crcs = bytes.get(crcs_at..).ok_or(Malformed::Short)?;
        let sound = crc32c(crcs) == header.crcs_crc && payload_crcs(payload) == crcs;
        if !sound || crc32(payload) != header.erasure.crc {
            return Err(Malformed::Checksum);
        }
        Ok(Self { payload: payload.to_vec().into(), crcs: crcs.to_vec(), header })
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
/// # Errors
/// There is no memory.
///
/// # Panics
/// With a name of more than 1024 bytes.
pub fn encode_object(
    codec: &Codec,
    label: &Label,
    object: &[u8],
    cut: &Cut,
) -> io::Result<Vec<Fragment>> {
    let mut padded = object.to_vec();
    padded.resize(padded_len(codec, cut), 0);
    let (padded, pool) = (Padded::from(Part::from(padded)), Pool::new(0));
    let pieces = (0..cut.pieces()).map(|one| encode_piece(codec, label, &padded, cut, one, &pool));
    Ok(pieces.collect::<io::Result<Vec<_>>>()?.concat())
}

/// Bytes of an object with the zeroes behind it that fill its last piece.
pub fn padded_len(codec: &Codec, cut: &Cut) -> usize {
    cut.pieces() as usize * codec.layout().data() * cut.fragment_len() as usize
}

/// Encodes one piece of an object with its padding; the fragments come in order. Data is not copied;
/// parity is computed into a buffer of the pool.
///
/// # Errors
/// There is no memory.
///
/// # Panics
/// With a name of more than 1024 bytes, or an object without its padding.
pub fn encode_piece(
    codec: &Codec,
    label: &Label,
    padded: &Padded,
    cut: &Cut,
    piece: u32,
    pool: &Arc<Pool>,
) -> io::Result<Vec<Fragment>> {
    assert!(label.object.len() <= NAME_MAX, "the name has {} bytes", label.object.len());
    let (layout, len) = (codec.layout(), cut.fragment_len() as usize);
    let (at, piece_len) = (cut.piece_at(piece), cut.piece_len(piece));
    let first = at as usize;
    let data = padded.bytes.sub(first..first + layout.data() * len);
    let crcs = padded.crcs.get(first / PAGE..).unwrap_or_default();
    let mut parity = pool.take((layout.fragments() - layout.data()) * len)?;
    let mut sums = vec![PayloadSums::new(len); layout.fragments()];
    {
        let data: Vec<&[u8]> = data.chunks_exact(len).collect();
        let mut parity: Vec<&mut [u8]> = parity.chunks_exact_mut(len).collect();
        let mut seen = vec![0; layout.data()];
        codec.encode_seen(&data, &mut parity, &mut |number, stripe| {
            let Some(seen) = seen.get_mut(number) else { return sums[number].add(stripe) };
            let known = crcs.get((number * len + *seen) / PAGE..).unwrap_or_default();
            sums[number].add_known(stripe, known);
            *seen += stripe.len();
        });
    }
    let parity = Part::from(parity);
    let payload = |number: usize| match number.checked_sub(layout.data()) {
        None => data.sub(number * len..(number + 1) * len),
        Some(number) => parity.sub(number * len..(number + 1) * len),
    };
    let extent = (piece, at, piece_len);
    let numbered = sums.into_iter().enumerate();
    Ok(numbered
        .map(|(number, sums)| label.summed(codec, extent, number, payload(number), sums))
        .collect())
}

/// The index of a fragment in its code, and the bytes that the data of this code has.
fn position(codec: &Codec, number: usize, payload_len: usize, piece_len: usize) -> (usize, usize) {
    let layout = codec.layout();
    if number < layout.global() {
        return (number, piece_len);
    }
    let group = layout.group_of(number);
    let index = codec.row_of(Over::Group(group), number);
    (index, layout.member_count(group) * payload_len)
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
            Some(slot) if same => *slot = Some(payload.into_vec()),
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
