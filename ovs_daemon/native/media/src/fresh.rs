//! Writing a new file past the page cache.
//!
//! What a disk of the backend stores is read again hours later, if ever: the page cache would find a
//! page for each 4 KiB, copy the bytes to it, write them from there and take the page back, at
//! several times the cost of letting the device read the bytes where they are (O_DIRECT).

use std::fs::{File, OpenOptions};
use std::io::{self, IoSlice, Write};
use std::os::fd::AsRawFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use crate::pool::Buffer;

/// What addresses, lengths and offsets have to be multiples of: enough for every device.
const UNIT: usize = 4096;
/// A first part of no more bytes is a header.
const HEADER_MAX: usize = 4 * UNIT;
/// Vectors of one call.
const VECTORS: usize = 64;

fn is_aligned(part: &[u8]) -> bool {
    part.as_ptr().addr().is_multiple_of(UNIT) && part.len().is_multiple_of(UNIT)
}

/// Writes a new file of these parts, in order. Nothing of it is durable before it is synced.
///
/// Parts that begin at a page and are whole pages go to the device from where they are, as long as
/// none before them is different (but for a small first one); the rest, and everything where the
/// file system cannot do that, goes through the page cache. `step`: bytes (whole pages) that are
/// written at a time, so that others have their turn at the device.
///
/// # Errors
/// The file exists, or cannot be written; part of it may have been.
pub fn write_new(path: &Path, parts: &[&[u8]], step: usize) -> io::Result<File> {
    match parts.split_first() {
        // A header, behind which the bulk is: copied to where the device can take it from.
        Some((header, bulk)) if header.len() <= HEADER_MAX && !is_aligned(header) => {
            let header = Buffer::copy_of(header)?;
            write_parts(path, &[&[&header[..]], bulk].concat(), step)
        }
        _ => write_parts(path, parts, step),
    }
}

fn write_parts(path: &Path, parts: &[&[u8]], step: usize) -> io::Result<File> {
    let whole = parts.iter().take_while(|part| is_aligned(part)).count();
    let (mut direct, mut rest) = parts.split_at(whole);
    let last;
    // Of the first one that is not whole, what is.
    if let Some((first, others)) = rest.split_first()
        && first.as_ptr().addr().is_multiple_of(UNIT)
        && first.len() > UNIT
    {
        let (pages, tail) = first.split_at(first.len() / UNIT * UNIT);
        last = ([direct, &[pages]].concat(), [&[tail], others].concat());
        (direct, rest) = (&last.0, &last.1);
    }
    let mut options = OpenOptions::new();
    options.write(true).create_new(true);
    if direct.iter().all(|part| part.is_empty()) {
        return write_all(options.open(path)?, parts, step);
    }
    match options.custom_flags(libc::O_DIRECT).open(path) {
        Ok(file) => match write_all(file, direct, step) {
            Ok(file) => {
                buffered(&file)?;
                write_all(file, rest, step)
            }
            Err(e) if e.raw_os_error() == Some(libc::EINVAL) => again(path, parts, step),
            Err(e) => Err(e),
        },
        // Whether the file was made before the refusal differs from file system to file system.
        Err(e) if e.raw_os_error() == Some(libc::EINVAL) => again(path, parts, step),
        Err(e) => Err(e),
    }
}

/// Writes the same file, which only this caller knows of, through the page cache.
fn again(path: &Path, parts: &[&[u8]], step: usize) -> io::Result<File> {
    write_all(OpenOptions::new().write(true).create(true).truncate(true).open(path)?, parts, step)
}

/// From now on what is written goes through the page cache.
fn buffered(file: &File) -> io::Result<()> {
    // SAFETY: plain system calls on a live descriptor.
    let done = unsafe {
        let flags = libc::fcntl(file.as_raw_fd(), libc::F_GETFL);
        flags >= 0 && libc::fcntl(file.as_raw_fd(), libc::F_SETFL, flags & !libc::O_DIRECT) == 0
    };
    if done { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// The first slices, no more than so many bytes of them.
fn first<'a>(left: &'a [IoSlice<'a>], most: usize) -> Vec<IoSlice<'a>> {
    let mut room = most;
    let cut = |slice: &'a IoSlice<'a>| {
        let taken = slice.len().min(room);
        room -= taken;
        (taken > 0).then(|| IoSlice::new(&slice[..taken]))
    };
    left.iter().take(VECTORS).map_while(cut).collect()
}

fn write_all(mut file: File, parts: &[&[u8]], step: usize) -> io::Result<File> {
    let mut left: Vec<IoSlice> =
        parts.iter().filter(|part| !part.is_empty()).map(|part| IoSlice::new(part)).collect();
    let mut left = left.as_mut_slice();
    while !left.is_empty() {
        let written = file.write_vectored(&first(left, step));
        match written {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(written) => IoSlice::advance_slices(&mut left, written),
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
    Ok(file)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Pool;

    fn scratch(name: &str) -> std::path::PathBuf {
        let name = format!("ovs-media-fresh-{}-{name}", std::process::id());
        let path = std::env::temp_dir().join(name);
        let _ = std::fs::remove_file(&path);
        path
    }

    /// Parts of these lengths, which begin at a page or one byte behind it.
    fn check(path: &Path, lens: &[usize], shift: usize) {
        let pool = Pool::new(0);
        let mut buffers = Vec::new();
        for (number, len) in lens.iter().enumerate() {
            let mut buffer = pool.take(len + shift).unwrap();
            for (at, byte) in buffer.iter_mut().enumerate() {
                *byte = (at * 7 + at / 4096 + number) as u8;
            }
            buffers.push(buffer);
        }
        let parts: Vec<&[u8]> = buffers.iter().map(|buffer| &buffer[shift..]).collect();
        for step in [usize::MAX, 4096, 3 * 4096] {
            write_new(path, &parts, step).unwrap().sync_all().unwrap();
            assert!(std::fs::read(path).unwrap() == parts.concat(), "{lens:?} + {shift}, {step}");
            let again = write_new(path, &parts, step).unwrap_err();
            assert_eq!(again.kind(), io::ErrorKind::AlreadyExists);
            std::fs::remove_file(path).unwrap();
        }
    }

    #[test]
    fn a_step_is_no_longer_than_was_said() {
        let bytes = [7; 100];
        let all = [&bytes[..60], &bytes[60..]].map(IoSlice::new);
        let lens = |most| first(&all, most).iter().map(|one| one.len()).collect::<Vec<_>>();
        assert_eq!((lens(60), lens(70), lens(usize::MAX)), (vec![60], vec![60, 10], vec![60, 40]));
    }

    #[test]
    fn files_are_what_was_written_whatever_is_aligned() {
        let path = scratch("all");
        for lens in [
            &[][..],
            &[0],
            &[1],
            &[4096],
            &[4097],
            &[8191, 5],
            &[4096, 1 << 20, 1024],
            &[4096, 0, 8192],
            &[5, 4096],
            &[(3 << 20) + 777],
            &[4096; 100],
        ] {
            check(&path, lens, 0);
            check(&path, lens, 1);
        }
    }
}
