//! The release of this software, as each program says it to those with which it speaks.
//!
//! It stands in one place, `setup.cfg`, from where Python has it as well. Those of the Rust packages
//! say nothing.

/// Longest text that is taken from somebody else as a release.
const TEXT_MAX: usize = 64;

/// Of what was built with this crate.
pub const RELEASE: &str = version_in(include_str!("../../../../setup.cfg"));

/// The value of the first line that begins with `version = `; without one this is not built.
const fn version_in(text: &str) -> &str {
    const KEY: &[u8] = b"\nversion = ";
    let bytes = text.as_bytes();
    let mut from = 0;
    let mut matched = 0;
    while matched < KEY.len() {
        matched = if bytes[from] == KEY[matched] { matched + 1 } else { 0 };
        // What did not match may begin the key itself.
        if matched == 0 && bytes[from] == KEY[0] {
            matched = 1;
        }
        from += 1;
    }
    let mut end = from;
    while bytes[end] != b'\n' {
        end += 1;
    }
    text.split_at(end).0.split_at(from).1
}

/// What somebody else says of its release; empty: nothing, as those of releases did that told none,
/// or what cannot be one.
pub fn release_of(said: &[u8]) -> String {
    let text = std::str::from_utf8(said).unwrap_or_default();
    let fits = text.len() <= TEXT_MAX && text.bytes().all(|byte| byte.is_ascii_graphic());
    if fits { text.to_owned() } else { String::new() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_release_is_that_of_setup_cfg() {
        assert_eq!(version_in("[metadata]\nname = x\n\nversion = 1.2.3\nversion = 9\n"), "1.2.3");
        assert!(RELEASE.starts_with(|first: char| first.is_ascii_digit()), "{RELEASE}");
        assert_eq!(release_of(RELEASE.as_bytes()), RELEASE);
    }

    #[test]
    fn what_cannot_be_a_release_is_unknown() {
        for said in [&b""[..], b"1.0 beta", b"\xff", &[b'1'; 65], b"1\n2"] {
            assert_eq!(release_of(said), "");
        }
    }
}
