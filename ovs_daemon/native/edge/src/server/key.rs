//! Who may open a session over a network: the checker of attach tokens.

use format::edge::token::Token;
use format::edge::{Hello, Refusal};
pub use net::KEY_BYTES_MIN;

use super::uuid;

/// The cluster's key, with which tokens are signed.
#[derive(Clone)]
pub struct ClusterKey {
    key: net::ClusterKey,
}

impl From<net::ClusterKey> for ClusterKey {
    fn from(key: net::ClusterKey) -> Self {
        Self { key }
    }
}

impl ClusterKey {
    /// The key in the text of its file; `None`: it is too short to be one.
    pub fn new(text: &[u8]) -> Option<Self> {
        net::ClusterKey::new(text).map(|key| Self { key })
    }

    /// A token for this volume and host, until `expires` (seconds since 1970).
    pub fn sign(&self, volume: &[u8; 16], host: &str, may_write: bool, expires: u64) -> Token {
        self.sign_of(0, volume, host, may_write, expires)
    }

    /// The same of a generation of the volume's attachments.
    pub fn sign_of(
        &self,
        generation: u64,
        volume: &[u8; 16],
        host: &str,
        may_write: bool,
        expires: u64,
    ) -> Token {
        let mut token = Token { may_write, expires, generation, mac: [0; 32] };
        token.mac = self.key.sign(&token.signed(volume, host));
        token
    }

    /// Whether the hello's token opens the session that it asks for, at `now` (seconds since 1970);
    /// its generation.
    ///
    /// # Errors
    /// Why it does not.
    pub fn check(&self, hello: &Hello, now: u64) -> Result<u64, Refusal> {
        let refusal = |why: &str, fix: &str| Refusal {
            code: "bad_token".into(),
            what: format!("attach volume {} from host {:?}", uuid(&hello.volume), hello.host),
            why: why.into(),
            fix: fix.into(),
        };
        let again = "attach it again through the daemon of that host, which issues tokens";
        let token = match Token::decode(&hello.token) {
            Ok(Some(token)) => token,
            Ok(None) => return Err(refusal("it came over TCP without an attach token", again)),
            Err(error) => return Err(refusal(&error.to_string(), again)),
        };
        let signed = token.signed(&hello.volume, &hello.host);
        if !self.key.is_genuine(&signed, &token.mac) {
            let fix = "give both nodes the same cluster_key_file, and try again";
            let why = "the token was not signed with this cluster's key for this volume and host";
            return Err(refusal(why, fix));
        }
        if token.expires <= now {
            let late = now - token.expires;
            let why = format!("the token expired {late} s ago");
            return Err(refusal(&why, "start the daemon of that host, and compare the clocks"));
        }
        if !token.may_write && !hello.read_only {
            return Err(refusal("the token allows reading only", again));
        }
        Ok(token.generation)
    }
}

/// The generation of an Edge of this host, to which the socket's mode gives the leave to attach: its
/// daemon says in a token of which generation it is, and need not have a key for that.
pub(super) fn generation_here(hello: &Hello) -> u64 {
    Token::decode(&hello.token).ok().flatten().map_or(0, |token| token.generation)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hello(token: [u8; 64]) -> Hello {
        Hello {
            version: 1,
            features: 0,
            volume: [7; 16],
            read_only: false,
            entries: 8,
            token,
            edge: [1; 16],
            connection: 1,
            host: "host-a".into(),
            client: "a test".into(),
        }
    }

    #[test]
    fn a_token_opens_what_it_was_made_for_and_nothing_else() {
        let key = ClusterKey::new(&[b'k'; 32]).unwrap();
        let token = key.sign(&[7; 16], "host-a", true, 100).encode();
        assert_eq!(key.check(&hello(token), 99), Ok(0));
        let refused = |hello: &Hello, now| key.check(hello, now).unwrap_err().why;
        assert!(refused(&hello(token), 100).contains("expired 0 s ago"));
        let others = [
            Hello { volume: [8; 16], ..hello(token) },
            Hello { host: "host-b".into(), ..hello(token) },
            hello(
                ClusterKey::new(&[b'x'; 32]).unwrap().sign(&[7; 16], "host-a", true, 100).encode(),
            ),
        ];
        for other in others {
            assert!(refused(&other, 0).contains("not signed"), "{other:?}");
        }
        assert!(refused(&hello([0; 64]), 0).contains("without an attach token"));
        assert!(refused(&hello([9; 64]), 0).contains("token version"));
        let reading = key.sign(&[7; 16], "host-a", false, 100).encode();
        assert!(refused(&hello(reading), 0).contains("reading only"));
        assert_eq!(key.check(&Hello { read_only: true, ..hello(reading) }, 0), Ok(0));
        let later = key.sign_of(3, &[7; 16], "host-a", true, 100).encode();
        assert_eq!(key.check(&hello(later), 99), Ok(3));
        assert_eq!(generation_here(&hello(later)), 3);
        for token in [token, later] {
            for bit in 0..512 {
                let mut wrong = token;
                wrong[bit / 8] ^= 1 << (bit % 8);
                assert!(key.check(&hello(wrong), 0).is_err(), "bit {bit}");
            }
        }
    }

    /// The same token as `tests/unit/control/test_tokens.py` expects of the daemon.
    #[test]
    fn the_bytes_of_a_token_are_those_that_the_daemon_makes() {
        let key = ClusterKey::new(b" 0123456789abcdef0123456789abcdef\n").unwrap();
        let token = key.sign(&[0x11; 16], "host-a", true, 1_800_000_000).encode();
        let hex: String = token.iter().map(|byte| format!("{byte:02x}")).collect();
        let fields = "010100000000000000d2496b00000000";
        let mac = "ce5dcdc8c5837292baaac31cf4b0d7ecba882dbad24ea72cd6a7df091a8c78f9";
        assert_eq!(hex, format!("{fields}{:032}{mac}", 0));
        let later = key.sign_of(258, &[0x11; 16], "host-a", true, 1_800_000_000).encode();
        let hex: String = later.iter().map(|byte| format!("{byte:02x}")).collect();
        let fields = "020100000000000000d2496b00000000";
        let mac = "58163529b4ee02bb6b5a787f6c2ad6e6221b01a6ae98fd383b8fd556c64465fb";
        assert_eq!(hex, format!("{fields}02010000000000000000000000000000{mac}"));
        assert_eq!(ClusterKey::new(b"too short").map(|_| ()), None);
    }
}
