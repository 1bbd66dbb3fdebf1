//! Whether a file lies on a file system that other machines may write too.
//!
//! SQLite's WAL mode needs memory shared by all who have the database open, which machines do not
//! have in common; file locks are often not reliable there either. This module only knows the mount
//! table of Linux; elsewhere nothing is said.

use std::path::{Path, PathBuf};

/// Much more than any sane mount table, and little enough to hold.
const MOUNTINFO_BYTES_MAX: u64 = 4 * 1024 * 1024;

/// File systems whose content other machines (or the host of a virtual one) may change.
const SHARED: [&str; 17] = [
    "9p",
    "afs",
    "beegfs",
    "ceph",
    "cifs",
    "fuse.glusterfs",
    "fuse.sshfs",
    "fuse.vmhgfs-fuse",
    "gpfs",
    "lustre",
    "ncpfs",
    "nfs",
    "nfs4",
    "smb3",
    "smbfs",
    "vboxsf",
    "virtiofs",
];

/// The type of the file system that `path` lies on, if it is one that machines share.
pub(crate) fn shared_filesystem(path: &Path) -> Option<String> {
    use std::io::Read;
    let mut table = Vec::new();
    std::fs::File::open("/proc/self/mountinfo")
        .ok()?
        .take(MOUNTINFO_BYTES_MAX)
        .read_to_end(&mut table)
        .ok()?;
    let kind = type_of(&String::from_utf8_lossy(&table), path)?;
    SHARED.contains(&kind.as_str()).then_some(kind)
}

/// The file system type of the mount that `path` lies under: the longest mount point that leads to
/// it, the last of equals, as later mounts hide earlier ones.
fn type_of(table: &str, path: &Path) -> Option<String> {
    let mut best: Option<(usize, String)> = None;
    for line in table.lines() {
        // `36 35 98:0 /root /mount/point options [optional...] - type source options`
        let Some((left, right)) = line.split_once(" - ") else { continue };
        let (Some(point), Some(kind)) = (left.split(' ').nth(4), right.split(' ').next()) else {
            continue;
        };
        let point = PathBuf::from(unescape(point));
        let length = point.as_os_str().len();
        if path.starts_with(&point) && best.as_ref().is_none_or(|(longest, _)| *longest <= length) {
            best = Some((length, kind.to_owned()));
        }
    }
    best.map(|(_, kind)| kind)
}

/// Mount points have spaces, tabs, line feeds and backslashes as three octal digits.
fn unescape(text: &str) -> String {
    [("\\040", " "), ("\\011", "\t"), ("\\012", "\n"), ("\\134", "\\")]
        .iter()
        .fold(text.to_owned(), |text, (from, to)| text.replace(from, to))
}

#[cfg(test)]
mod tests {
    use super::*;

    const TABLE: &str = "\
22 1 8:1 / / rw,relatime shared:1 - ext4 /dev/sda1 rw
30 22 0:40 / /mnt/share rw - nfs4 host:/x rw
31 30 8:2 / /mnt/share/local\\040disk rw master:2 - xfs /dev/sdb rw
nonsense
32 22 0:41 / /over rw - tmpfs tmpfs rw
33 32 0:42 / /over rw - cifs //host/y rw
";

    #[test]
    fn the_innermost_and_latest_mount_counts() {
        for (path, kind) in [
            ("/home/a.db", "ext4"),
            ("/mnt/share/a.db", "nfs4"),
            ("/mnt/shared/a.db", "ext4"),
            ("/mnt/share/local disk/a.db", "xfs"),
            ("/over/a.db", "cifs"),
        ] {
            assert_eq!(type_of(TABLE, Path::new(path)).as_deref(), Some(kind), "{path}");
        }
        assert_eq!(type_of("", Path::new("/a")), None);
    }

    #[test]
    fn a_temporary_directory_of_this_machine_is_not_shared() {
        assert_eq!(shared_filesystem(Path::new("/proc/self/mountinfo")), None);
    }
}
