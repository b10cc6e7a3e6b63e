//! Growth and accounting of the map's allocations.
//!
//! A map lives in RAM for as long as its volume is open, so slack counts: vectors grow by a
//! sixteenth instead of doubling, and what an allocation costs is counted with the allocator's own
//! overhead (glibc's: 8 bytes of header, multiples of 16, at least 32).

use alloc::vec::Vec;
use core::mem::size_of;

/// Bytes that an allocation of `payload` bytes takes from the heap.
pub(super) const fn allocated(payload: usize) -> usize {
    let rounded = (payload + 8 + 15) & !15;
    if payload == 0 {
        0
    } else if rounded < 32 {
        32
    } else {
        rounded
    }
}

/// Bytes that an `Arc` of `T` takes (two counters and the value).
pub(super) const fn arc_bytes<T>() -> usize {
    allocated(2 * size_of::<usize>() + size_of::<T>())
}

/// Bytes that the elements of `vec` take.
pub(super) fn vec_bytes<T>(vec: &Vec<T>) -> usize {
    allocated(vec.capacity() * size_of::<T>())
}

fn slack(len: usize) -> usize {
    (len / 16).clamp(1, 16)
}

/// Makes room for `extra` more elements, growing by a sixteenth and never past `limit` unless the
/// elements themselves need it.
pub(super) fn reserve<T>(vec: &mut Vec<T>, extra: usize, limit: usize) {
    if vec.capacity() - vec.len() >= extra {
        return;
    }
    let needed = vec.len() + extra;
    let capacity = (needed + slack(needed) - 1).min(limit).max(needed);
    vec.reserve_exact(capacity - vec.len());
}

/// Gives back what removals left over, with enough hysteresis that a removal and an insertion in
/// turn do not move the vector each time.
pub(super) fn trim<T>(vec: &mut Vec<T>) {
    if vec.capacity() > vec.len() + 3 * slack(vec.len()) + 4 {
        vec.shrink_to(vec.len() + slack(vec.len()));
    }
}
