//! Which file this is: what tells a file from a copy, a replacement, and itself before a reboot.
//!
//! Only `stat` is used: opening and closing the database outside SQLite would drop this process's
//! locks on it.

use std::path::Path;
use std::sync::OnceLock;

use serde::{Deserialize, Serialize};

/// Device, inode and birth of the file, the machine and the boot it was looked at in. Each is `None`
/// where the system has no such thing; two unknowns count as equal.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct FileIdentity {
    /// Device number of the file system.
    pub device: Option<u64>,
    /// Inode number.
    pub inode: Option<u64>,
    /// When the file was created, in nanoseconds since 1970: a number of an inode is given to the
    /// next file as soon as it is free.
    #[serde(default)]
    pub born: Option<i64>,
    /// The machine's id.
    pub machine: Option<String>,
    /// An id that is new after each start of the machine.
    pub boot: Option<String>,
}

impl FileIdentity {
    /// Looks at the file at `path`, by `stat` alone.
    pub fn of(path: &Path) -> std::io::Result<Self> {
        let found = std::fs::metadata(path)?;
        let (device, inode) = device_and_inode(&found);
        let Host { machine, boot } = host();
        Ok(FileIdentity {
            device,
            inode,
            born: born(&found),
            machine: machine.clone(),
            boot: boot.clone(),
        })
    }

    /// Whether both are the same file on the same machine (perhaps in different boots). A device
    /// number may change with a reboot without the file being another, so across boots only the
    /// inode and its birth count.
    #[must_use]
    pub fn same_file(&self, other: &FileIdentity) -> bool {
        self.machine == other.machine
            && self.inode == other.inode
            && self.same_birth(other)
            && (self.device == other.device || !self.same_boot(other))
    }

    /// Whether the file at `path` is this one, by a single `stat`. For looking again and again in one
    /// boot of one machine.
    #[must_use]
    pub fn is_at(&self, path: &Path) -> bool {
        std::fs::metadata(path).is_ok_and(|found| {
            (self.device, self.inode) == device_and_inode(&found) && self.born == born(&found)
        })
    }

    /// Whether both were created at the same moment, as far as is known of both.
    #[must_use]
    pub fn same_birth(&self, other: &FileIdentity) -> bool {
        match (self.born, other.born) {
            (Some(a), Some(b)) => a == b,
            _ => true,
        }
    }

    /// Whether the machine was not restarted in between. Not known counts as restarted: what was
    /// not synced may be gone.
    #[must_use]
    pub fn same_boot(&self, other: &FileIdentity) -> bool {
        self.boot.is_some() && self.boot == other.boot
    }
}

/// The machine and its present boot.
struct Host {
    machine: Option<String>,
    boot: Option<String>,
}

/// Both outlive this process, so they are read once.
fn host() -> &'static Host {
    static HOST: OnceLock<Host> = OnceLock::new();
    HOST.get_or_init(|| Host {
        machine: line_of("/etc/machine-id").or_else(|| line_of("/var/lib/dbus/machine-id")),
        boot: line_of("/proc/sys/kernel/random/boot_id"),
    })
}

fn born(found: &std::fs::Metadata) -> Option<i64> {
    let since_1970 = found.created().ok()?.duration_since(std::time::UNIX_EPOCH).ok()?;
    i64::try_from(since_1970.as_nanos()).ok()
}

#[cfg(unix)]
fn device_and_inode(metadata: &std::fs::Metadata) -> (Option<u64>, Option<u64>) {
    use std::os::unix::fs::MetadataExt;
    (Some(metadata.dev()), Some(metadata.ino()))
}

#[cfg(not(unix))]
fn device_and_inode(_: &std::fs::Metadata) -> (Option<u64>, Option<u64>) {
    (None, None)
}

/// The one line of a small system file, if it is there and of a sane length.
fn line_of(path: &str) -> Option<String> {
    use std::io::Read;
    let mut text = String::new();
    std::fs::File::open(path).ok()?.take(128).read_to_string(&mut text).ok()?;
    let line = text.trim();
    (!line.is_empty()).then(|| line.to_owned())
}
