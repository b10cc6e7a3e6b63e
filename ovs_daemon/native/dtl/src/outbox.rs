//! What waits to be sent on a connection. Nearly always nothing: one system call sends it at once,
//! from where it lies.

use std::collections::VecDeque;
use std::io::{self, IoSlice};

use media::{Fd, Ring, Slice};
use net::send_parts_now;

/// Slices of one send of the ring.
const SLICES_MAX: usize = 512;

/// See the top of the file.
#[derive(Debug, Default)]
pub struct Outbox {
    waiting: VecDeque<Slice>,
    /// Bytes that the ring is sending.
    sending: usize,
}

impl Outbox {
    /// Parts that wait until the socket takes them.
    pub fn waiting(&self) -> usize {
        self.waiting.len()
    }

    /// Sends the parts, or keeps for later what the socket does not take now. `token`: of the event
    /// of a send by the ring.
    ///
    /// # Errors
    /// The connection is over, or there is no memory.
    pub fn send(
        &mut self,
        fd: &Fd,
        head: &[&[u8]],
        data: &[Slice],
        token: u64,
        ring: &mut Ring,
    ) -> io::Result<()> {
        let mut sent = 0;
        if self.sending == 0 && self.waiting.is_empty() {
            let mut parts = [IoSlice::new(&[]); 4];
            let count = head.len().min(parts.len());
            for (part, bytes) in parts.iter_mut().zip(head) {
                *part = IoSlice::new(bytes);
            }
            sent = send_parts_now(fd, &parts[..count], data)?;
        }
        for bytes in head {
            let skip = sent.min(bytes.len());
            sent -= skip;
            if skip < bytes.len() {
                self.waiting.push_back(Slice::copy_of(&bytes[skip..])?);
            }
        }
        for slice in data {
            let skip = sent.min(slice.len());
            sent -= skip;
            if skip < slice.len() {
                self.waiting.push_back(slice.sub(skip, slice.len() - skip));
            }
        }
        self.go_on(fd, token, ring);
        Ok(())
    }

    fn go_on(&mut self, fd: &Fd, token: u64, ring: &mut Ring) {
        if self.sending > 0 || self.waiting.is_empty() {
            return;
        }
        let count = self.waiting.len().min(SLICES_MAX);
        let slices: Vec<Slice> = self.waiting.drain(..count).collect();
        self.sending = slices.iter().map(Slice::len).sum();
        ring.send_all(fd, slices, token);
    }

    /// A send of the ring has ended; false: the connection is over.
    pub fn sent(&mut self, result: i32, fd: &Fd, token: u64, ring: &mut Ring) -> bool {
        let whole = usize::try_from(result).is_ok_and(|bytes| bytes == self.sending);
        self.sending = 0;
        if whole {
            self.go_on(fd, token, ring);
        }
        whole
    }
}
