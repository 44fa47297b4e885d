//! What the kernel and the distribution say in files.

use std::fs;
use std::path::{Path, PathBuf};

/// The files of a machine: this one's, or made ones in a test.
pub(super) struct System {
    root: PathBuf,
}

impl System {
    pub(super) fn here() -> System {
        System::at(Path::new("/"))
    }

    /// With `root` in place of `/`.
    pub(super) fn at(root: &Path) -> System {
        System { root: root.to_owned() }
    }

    fn path(&self, absolute: &str) -> PathBuf {
        self.root.join(absolute.trim_start_matches('/'))
    }

    /// A file's text without white space around it; `None` where it is missing or not to be read.
    pub(super) fn read(&self, path: &str) -> Option<String> {
        Some(fs::read_to_string(self.path(path)).ok()?.trim().to_owned())
    }

    /// A file that holds one number.
    pub(super) fn number<T: std::str::FromStr>(&self, path: &str) -> Option<T> {
        self.read(path)?.parse().ok()
    }

    pub(super) fn exists(&self, path: &str) -> bool {
        self.path(path).exists()
    }

    /// The value of `name` in a file of lines `name: value`.
    pub(super) fn field(&self, path: &str, name: &str) -> Option<String> {
        let text = self.read(path)?;
        let of_name = |line: &str| Some(line.strip_prefix(name)?.strip_prefix(':')?.trim().to_owned());
        text.lines().find_map(of_name)
    }

    /// All processes that can be seen: id and name, in order.
    pub(super) fn processes(&self) -> Vec<(u32, String)> {
        let Ok(entries) = fs::read_dir(self.path("/proc")) else { return Vec::new() };
        let ids = entries.flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok());
        let named = |id: u32| Some((id, self.read(&format!("/proc/{id}/comm"))?));
        let mut processes: Vec<(u32, String)> = ids.filter_map(named).collect();
        processes.sort();
        processes
    }

    /// The sockets that a process has open, by their inodes; none where that is not to be seen.
    pub(super) fn sockets_of(&self, process: u32) -> Vec<u64> {
        let Ok(entries) = fs::read_dir(self.path(&format!("/proc/{process}/fd"))) else { return Vec::new() };
        let inode = |link: PathBuf| link.to_str()?.strip_prefix("socket:[")?.strip_suffix(']')?.parse().ok();
        entries.flatten().filter_map(|entry| inode(fs::read_link(entry.path()).ok()?)).collect()
    }
}

/// A made machine.
#[cfg(test)]
pub(super) struct Made {
    folder: tempfile::TempDir,
    pub(super) system: System,
}

#[cfg(test)]
impl Made {
    pub(super) fn with(files: &[(&str, &str)]) -> Made {
        let folder = tempfile::tempdir().unwrap();
        let system = System::at(folder.path());
        let made = Made { folder, system };
        files.iter().for_each(|(path, text)| made.write(path, text));
        made
    }

    pub(super) fn write(&self, path: &str, text: &str) {
        let path = self.make_folder_of(path);
        fs::write(path, text).unwrap();
    }

    pub(super) fn link(&self, path: &str, target: &str) {
        std::os::unix::fs::symlink(target, self.make_folder_of(path)).unwrap();
    }

    fn make_folder_of(&self, path: &str) -> PathBuf {
        let path = self.folder.path().join(path.trim_start_matches('/'));
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        path
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_fields_processes_and_sockets_are_found_below_the_root() {
        let made = Made::with(&[
            ("/proc/sys/a", " 17\n"),
            ("/proc/7/status", "Name:\tx\nSeccomp:\t2\nSeccomp_filters:\t1\n"),
            ("/proc/7/comm", "superpeerd\n"),
            ("/proc/net/udp", ""),
        ]);
        made.link("/proc/7/fd/3", "socket:[4711]");
        made.link("/proc/7/fd/4", "/dev/null");
        let system = &made.system;
        assert_eq!((system.number("/proc/sys/a"), system.number::<u64>("/proc/sys/b")), (Some(17), None));
        assert_eq!(system.field("/proc/7/status", "Seccomp").as_deref(), Some("2"));
        assert_eq!(system.processes(), [(7, "superpeerd".to_owned())]);
        assert_eq!((system.sockets_of(7), system.sockets_of(8)), (vec![4711], vec![]));
    }
}
