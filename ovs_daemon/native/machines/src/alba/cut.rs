//! How an object is cut into pieces, and where a byte of it lies.

use super::layout::Layout;

/// Bytes that a fragment's length is a multiple of, and that a checksum covers.
pub const UNIT: u64 = 4096;

/// An object's pieces: each is `data` fragments of `fragment_len` bytes, one after the other; the
/// last is padded with zeroes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cut {
    data: u64,
    object_len: u64,
    fragment_len: u64,
}

/// Where a byte of an object lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    /// Piece of the object.
    pub piece: u32,
    /// Data fragment of the piece.
    pub fragment: usize,
    /// Byte of the fragment's payload.
    pub offset: u64,
}

impl Cut {
    /// An object of `object_len` bytes. `fragment_size` is what a preset asks for; fragments come
    /// out nearest to it, for a SCO object is a little larger than the data of its SCO, and one
    /// more piece for the little would double the number of fragments.
    ///
    /// # Panics
    /// With a fragment size of 0.
    pub fn new(layout: &Layout, object_len: u64, fragment_size: u64) -> Self {
        let data = layout.data() as u64;
        let full = data * fragment_size;
        let pieces = ((object_len + full / 2) / full).max(1);
        let fragment_len = object_len.div_ceil(pieces * data).next_multiple_of(UNIT).max(UNIT);
        Self { data, object_len, fragment_len }
    }

    /// That of an object which is stored in fragments of `fragment_len` bytes.
    ///
    /// # Panics
    /// With fragments of 0 bytes.
    pub fn stored(layout: &Layout, object_len: u64, fragment_len: u64) -> Self {
        assert!(fragment_len > 0);
        Self { data: layout.data() as u64, object_len, fragment_len }
    }

    /// Bytes of each fragment's payload.
    pub fn fragment_len(&self) -> u64 {
        self.fragment_len
    }

    /// Pieces; an empty object has one.
    pub fn pieces(&self) -> u32 {
        self.object_len.div_ceil(self.fragment_len * self.data).max(1) as u32
    }

    /// Bytes of the object before a piece.
    pub fn piece_at(&self, piece: u32) -> u64 {
        u64::from(piece) * self.fragment_len * self.data
    }

    /// Bytes of the object in a piece.
    pub fn piece_len(&self, piece: u32) -> u64 {
        let rest = self.object_len.saturating_sub(self.piece_at(piece));
        rest.min(self.fragment_len * self.data)
    }

    /// Where byte `offset` of the object lies.
    pub fn place(&self, offset: u64) -> Place {
        let fragment = offset / self.fragment_len;
        Place {
            piece: (fragment / self.data) as u32,
            fragment: (fragment % self.data) as usize,
            offset: offset % self.fragment_len,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sco_object_stays_in_as_many_pieces_as_its_data() {
        let layout = Layout::new(16, 8, 3, 1).unwrap();
        let object_len = (64 << 20) + 4096 + (64 << 20) / 4096 * 20;
        let cut = Cut::new(&layout, object_len, 4 << 20);
        assert_eq!((cut.pieces(), cut.fragment_len()), (1, (4 << 20) + 6 * 4096));
        let small = Layout::new(4, 2, 3, 1).unwrap();
        assert_eq!(Cut::new(&small, object_len, 4 << 20).pieces(), 4);
    }

    #[test]
    fn every_byte_has_one_place_and_pieces_cover_the_object() {
        let layout = Layout::new(3, 2, 1, 0).unwrap();
        for object_len in [0, 1, 4095, 4096, 4097, 30_000, 36_864, 36_865, 100_000] {
            let cut = Cut::new(&layout, object_len, 8192);
            let lens = (0..cut.pieces()).map(|piece| cut.piece_len(piece));
            assert_eq!(lens.sum::<u64>(), object_len);
            assert!(object_len == 0 || cut.piece_len(cut.pieces() - 1) > 0);
            for offset in (0..object_len).step_by(509) {
                let place = cut.place(offset);
                assert!(place.offset < cut.fragment_len() && place.fragment < 3);
                let before = place.fragment as u64 * cut.fragment_len() + place.offset;
                assert_eq!(cut.piece_at(place.piece) + before, offset);
                assert!(place.piece < cut.pieces());
            }
        }
    }
}
