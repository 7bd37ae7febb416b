//! Memory available to this process.

use std::sync::OnceLock;

/// Memory available to this process in bytes: that of the machine, or less in a container or under an address-space
/// limit; `None` if unknown.
pub(crate) fn memory() -> Option<usize> {
    static KNOWN: OnceLock<Option<usize>> = OnceLock::new();
    *KNOWN.get_or_init(|| system::memory().map(|bytes| usize::try_from(bytes).unwrap_or(usize::MAX)))
}

#[cfg(target_os = "linux")]
mod system {
    use std::fs::read_to_string;
    use std::path::Path;

    pub(super) fn memory() -> Option<u64> {
        let total = total(&read_to_string("/proc/meminfo").ok()?);
        let space = address_space(&read_to_string("/proc/self/limits").unwrap_or_default());
        let group = group(Path::new("/sys/fs/cgroup"), &read_to_string("/proc/self/cgroup").unwrap_or_default());
        total.into_iter().chain(space).chain(group).min()
    }

    /// `MemTotal` of proc_meminfo(5), in bytes.
    pub(super) fn total(meminfo: &str) -> Option<u64> {
        let line = meminfo.lines().find_map(|l| l.strip_prefix("MemTotal:"))?;
        line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()?.checked_mul(1024)
    }

    /// Lowest soft limit of proc_pid_limits(5) that bounds all allocations.
    pub(super) fn address_space(limits: &str) -> Option<u64> {
        let soft =
            |name: &str| limits.lines().find_map(|l| l.strip_prefix(name))?.split_whitespace().next()?.parse().ok();
        [soft("Max address space"), soft("Max data size")].into_iter().flatten().min()
    }

    /// Lowest limit of this process's control group and its ancestors (cgroups(7), v1 or v2).
    pub(super) fn group(root: &Path, cgroup: &str) -> Option<u64> {
        let limits = cgroup.lines().flat_map(|line| {
            let mut parts = line.splitn(3, ':');
            let (_, controllers, path) = (parts.next(), parts.next().unwrap_or(""), parts.next().unwrap_or("/"));
            let (root, file) = match controllers {
                "" => (root.to_owned(), "memory.max"),
                c if c.split(',').any(|c| c == "memory") => (root.join("memory"), "memory.limit_in_bytes"),
                _ => return Vec::new(),
            };
            // In a container the path may be that of the host; the limit is then at the root.
            let own = Path::new(path.trim_start_matches('/'));
            own.ancestors().map(|above| root.join(above).join(file)).collect::<Vec<_>>()
        });
        limits.filter_map(|file| read_to_string(file).ok()?.trim().parse().ok()).min()
    }

    #[cfg(test)]
    mod tests {
        use super::*;

        #[test]
        fn what_the_system_says_is_read() {
            assert_eq!(total("MemFree: 1 kB\nMemTotal:       24689764 kB\n"), Some(24_689_764 * 1024));
            assert_eq!(total("MemTotal: much"), None);
            let limits = "Limit  Soft Limit  Hard Limit  Units\nMax data size             unlimited            unlimited            bytes\n\
                          Max address space         4294967296           unlimited            bytes\n";
            assert_eq!(address_space(limits), Some(1 << 32));
            assert_eq!(address_space(""), None);
            assert!(memory().is_some_and(|bytes| bytes > 1 << 20));
        }

        #[test]
        fn the_least_limit_of_a_group_and_those_around_it_counts() {
            let root = tempfile::tempdir().expect("a folder");
            let write = |path: &str, text: &str| {
                let file = root.path().join(path);
                std::fs::create_dir_all(file.parent().expect("a folder")).expect("folders");
                std::fs::write(file, text).expect("a file");
            };
            write("a/b/memory.max", "max\n");
            write("a/memory.max", "3000\n");
            write("memory/c/memory.limit_in_bytes", "2000\n");
            assert_eq!(group(root.path(), "0::/a/b\n"), Some(3000));
            assert_eq!(group(root.path(), "5:cpu,memory:/c\n0::/a/b\n"), Some(2000));
            assert_eq!(group(root.path(), "5:cpu:/c\n"), None);
        }
    }
}

/// What 32-bit addresses reach; how much of it a page may have, nobody tells.
#[cfg(target_family = "wasm")]
mod system {
    pub(super) fn memory() -> Option<u64> {
        Some(u64::from(u32::MAX))
    }
}

#[cfg(not(any(target_os = "linux", target_family = "wasm")))]
mod system {
    pub(super) fn memory() -> Option<u64> {
        let mut system = sysinfo::System::new().ok()?;
        system.refresh_memory();
        Some(system.total_memory()).filter(|&bytes| bytes > 0)
    }
}
