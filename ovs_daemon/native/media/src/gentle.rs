//! Threads that leave processors and disks to others first.
//!
//! What nobody waits for (repair, scrub, moving fragments) must not delay what guests wait for, on
//! the same processors and the same disks. Its threads run as batch work: woken, they take the
//! processor from nobody, and beside others that want it they get a tenth. On an idle host they are
//! as fast as any.

use std::io;

/// Beside a thread of the ordinary niceness of 0 a tenth of a processor is left.
const NICE: libc::c_int = 10;
/// `IOPRIO_PRIO_VALUE(IOPRIO_CLASS_BE, 7)`: the lowest of those that are served as they come. Not the
/// idle class, which a scheduler may keep waiting for longer than clients wait for an answer.
const IO_PRIORITY: libc::c_long = 2 << 13 | 7;
const WHO_THREAD: libc::c_long = 1;

/// From now on the calling thread, and those that it starts, give way to others. It can't be taken
/// back without privileges.
///
/// # Errors
/// The system does not allow it; the thread goes on as it was.
pub fn give_way() -> io::Result<()> {
    let none = libc::sched_param { sched_priority: 0 };
    // SAFETY: plain system calls on the calling thread; the parameters outlive the call.
    let done = unsafe {
        libc::sched_setscheduler(0, libc::SCHED_BATCH, &raw const none) == 0
            && libc::setpriority(libc::PRIO_PROCESS, 0, NICE) == 0
            && libc::syscall(libc::SYS_ioprio_set, WHO_THREAD, 0 as libc::c_long, IO_PRIORITY) == 0
    };
    if done { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Whether the calling thread gives way to others.
pub fn gives_way() -> bool {
    // SAFETY: a plain system call on the calling thread.
    unsafe { libc::sched_getscheduler(0) == libc::SCHED_BATCH }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn priorities() -> (libc::c_int, libc::c_long) {
        // SAFETY: plain system calls on the calling thread.
        unsafe {
            let disk = libc::syscall(libc::SYS_ioprio_get, WHO_THREAD, 0 as libc::c_long);
            (libc::getpriority(libc::PRIO_PROCESS, 0), disk)
        }
    }

    #[test]
    fn one_thread_gives_way_and_the_others_do_not() {
        let before = priorities();
        let told = || {
            give_way().unwrap();
            (gives_way(), priorities())
        };
        let (gives, (nice, disk)) = std::thread::spawn(told).join().unwrap();
        assert!(gives && nice == NICE.max(before.0) && disk == IO_PRIORITY, "{nice} {disk}");
        assert_eq!((gives_way(), priorities()), (false, before));
    }
}
