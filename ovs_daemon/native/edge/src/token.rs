//! Tokens of ring events: whose event it is, and for which of its objects.
//!
//! ```text
//! 63..56 class, given by the loop   55..48 kind   47..32 generation   31..0 index
//! ```
//! An index is reused; the generation tells an event of its earlier user from one of its present.

/// What a token says, apart from its class.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Token {
    pub(crate) kind: u8,
    pub(crate) generation: u16,
    pub(crate) index: u32,
}

impl Token {
    pub(crate) fn pack(self, class: u8) -> u64 {
        u64::from(class) << 56
            | u64::from(self.kind) << 48
            | u64::from(self.generation) << 32
            | u64::from(self.index)
    }

    pub(crate) fn unpack(token: u64) -> Self {
        let (kind, generation, index) = ((token >> 48) as u8, (token >> 32) as u16, token as u32);
        Self { kind, generation, index }
    }
}

/// The class of a token or request identifier: its top 8 bits.
pub fn class_of(token: u64) -> u8 {
    (token >> 56) as u8
}
