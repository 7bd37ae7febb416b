//! Standard output while Core ML compiles and loads: its compiler prints there, in front of a program's own output.

use std::sync::atomic::{AtomicBool, Ordering};

static CLEAN: AtomicBool = AtomicBool::new(false);

/// Sends what is printed to standard output while Core ML compiles or loads a model to standard error instead, from now
/// on. For programs whose standard output is data: it moves the whole process's for that time.
pub fn keep_clean() {
    CLEAN.store(true, Ordering::Relaxed);
}

/// Runs `work`, with standard output moved to standard error if [`keep_clean`] was called.
#[cfg_attr(not(target_vendor = "apple"), allow(dead_code, reason = "only Core ML prints"))]
pub(crate) fn guarded<R>(work: impl FnOnce() -> R) -> R {
    #[cfg(unix)]
    let _moved = CLEAN.load(Ordering::Relaxed).then(|| unix::Moved::new(1, 2)).flatten();
    work()
}

#[cfg(unix)]
mod unix {
    use std::io::Write;
    use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
    use std::sync::{Mutex, MutexGuard, PoisonError};

    /// One move at a time: a second would keep the first one's target as the original.
    static MOVING: Mutex<()> = Mutex::new(());

    /// A descriptor that refers to another's file until this is dropped.
    pub(super) struct Moved {
        at: RawFd,
        original: OwnedFd,
        _alone: MutexGuard<'static, ()>,
    }

    impl Moved {
        /// `None` if the system has no descriptor left, or one of the two is closed.
        pub(super) fn new(at: RawFd, to: RawFd) -> Option<Self> {
            let alone = MOVING.lock().unwrap_or_else(PoisonError::into_inner);
            // What this program printed before goes where it was meant to.
            let _ = std::io::stdout().flush();
            // SAFETY: duplicating a descriptor touches no memory; a closed one is an error.
            let copy = unsafe { libc::fcntl(at, libc::F_DUPFD_CLOEXEC, 3) };
            if copy < 0 {
                return None;
            }
            // SAFETY: a new descriptor that nothing else owns.
            let original = unsafe { OwnedFd::from_raw_fd(copy) };
            // SAFETY: as above; `at` refers to another file afterwards, which its users can't tell.
            (unsafe { libc::dup2(to, at) } >= 0).then_some(Self { at, original, _alone: alone })
        }
    }

    impl Drop for Moved {
        fn drop(&mut self) {
            let _ = std::io::stdout().flush();
            // SAFETY: as in `new`.
            if unsafe { libc::dup2(self.original.as_raw_fd(), self.at) } < 0 {
                tracing::warn!("standard output stays on standard error");
            }
        }
    }

    #[cfg(test)]
    mod tests {
        use super::*;
        use std::fs::File;
        use std::io::{Read, Seek};

        #[test]
        #[cfg_attr(miri, ignore = "needs files")]
        fn writes_go_to_the_other_file_until_the_end() {
            let (mut one, mut two) = (tempfile::tempfile().expect("a file"), tempfile::tempfile().expect("a file"));
            let write = |file: &File, text: &str| (&*file).write_all(text.as_bytes()).expect("written");
            write(&one, "before ");
            {
                let _moved = Moved::new(one.as_raw_fd(), two.as_raw_fd()).expect("moved");
                write(&one, "meanwhile");
            }
            write(&one, "after");
            let text = |file: &mut File| {
                let mut text = String::new();
                file.rewind().and_then(|()| file.read_to_string(&mut text)).expect("read");
                text
            };
            assert_eq!((text(&mut one).as_str(), text(&mut two).as_str()), ("before after", "meanwhile"));
            assert!(Moved::new(-1, two.as_raw_fd()).is_none() && Moved::new(one.as_raw_fd(), -1).is_none());
        }
    }
}
