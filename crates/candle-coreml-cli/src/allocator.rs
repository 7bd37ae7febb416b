//! Memory that a prediction frees stays with the process for the next one.

/// Tells glibc to serve large blocks from its heap and to keep what is freed: by default it maps each afresh, and a
/// prediction then spends up to a third of its time on pages that the kernel clears. Nothing on other systems.
pub(crate) fn keep_freed_memory() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    {
        /// Above what any activation takes.
        const LARGE: libc::c_int = 1 << 30;
        // SAFETY: sets two parameters of the allocator, before other threads exist.
        unsafe {
            libc::mallopt(libc::M_MMAP_THRESHOLD, LARGE);
            libc::mallopt(libc::M_TRIM_THRESHOLD, LARGE);
        }
    }
}
