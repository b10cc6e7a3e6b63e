//! Names that nobody else has.

/// 16 bytes from the kernel's source of randomness.
pub fn random_name() -> [u8; 16] {
    let mut bytes = [0u8; 16];
    // SAFETY: as many writable bytes as said. Up to 256 bytes are never cut short (getrandom(2)).
    let got = unsafe { libc::getrandom(bytes.as_mut_ptr().cast(), bytes.len(), 0) };
    assert_eq!(got, 16, "the kernel has no randomness: {}", std::io::Error::last_os_error());
    bytes
}

#[cfg(test)]
mod tests {
    #[test]
    fn names_differ() {
        assert_ne!(super::random_name(), super::random_name());
    }
}
