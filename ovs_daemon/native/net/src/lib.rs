//! Sockets, descriptor passing, shared-memory rings and the loop's clock.
//!
//! `unsafe` is allowed here as in `media`: system calls take raw addresses, and rings lie in memory
//! that another process writes to. Each file says what keeps that sound.
#![allow(unsafe_code)]
#![allow(clippy::disallowed_methods)]

mod acceptor;
mod bell;
pub mod clock;
mod conduit;
mod fuse;
mod key;
mod listen;
mod lobby;
pub mod pass;
mod random;
mod release;
pub mod shm;
mod signal;
mod stream;
mod tcp;

pub use acceptor::Acceptor;
pub use bell::Bell;
pub use conduit::Conduit;
pub use fuse::FuseDevice;
pub use key::{ClusterKey, KEY_BYTES_MIN};
pub use listen::{ListenError, UnixSocket, listen_tcp, peer_name, send_now, tune_stream};
pub use lobby::{GREETING, Lobby, UNGREETED_MAX};
pub use random::random_name;
pub use release::{RELEASE, release_of};
pub use signal::Signals;
pub use stream::{Stream, send_parts_now, send_some_now};
pub use tcp::{PIECES_MAX, send_all_now, tcp_socket, tune_peer, unpaced_socket, wake_at};
