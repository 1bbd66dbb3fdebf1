//! A VFS of SQLite that counts what temporary files take.
//!
//! Registered once per process and never taken back. It hands everything on to the system's VFS. Only a
//! file without a name that is created while an account is set for this thread gets a handle of ours,
//! with the system's own behind it in the same memory; every other file is the system's alone.
//!
//! No method of newer file handles is offered, so that SQLite maps no temporary file into memory, where
//! nothing would be counted.

use std::cell::RefCell;
use std::ffi::{CStr, c_char, c_int, c_void};
use std::path::Path;
use std::ptr;
use std::sync::{Arc, OnceLock};

use rusqlite::ffi::{self, sqlite3_file, sqlite3_int64, sqlite3_io_methods, sqlite3_vfs};
use rusqlite::{Connection, OpenFlags};

use super::vfs::{Own, register_above_system, system};
use crate::temp_files::Account;

/// Name of the VFS.
const NAME: &CStr = c"anabranch-counted";

/// Kinds of files that have no name.
const TEMPORARY: c_int = ffi::SQLITE_OPEN_TEMP_DB
    | ffi::SQLITE_OPEN_TRANSIENT_DB
    | ffi::SQLITE_OPEN_TEMP_JOURNAL
    | ffi::SQLITE_OPEN_SUBJOURNAL;

thread_local! {
    /// Whose files are created on this thread.
    static CURRENT: RefCell<Option<Arc<Account>>> = const { RefCell::new(None) };
}

/// Opens a connection over this VFS.
pub(crate) fn open(path: &Path, flags: OpenFlags) -> rusqlite::Result<Connection> {
    static REGISTERED: OnceLock<c_int> = OnceLock::new();
    super::check(*REGISTERED.get_or_init(register))?;
    Connection::open_with_flags_and_vfs(path, flags, NAME)
}

/// Sets the account of this thread for as long as `act` runs.
pub(crate) fn within<T>(account: &Arc<Account>, act: impl FnOnce() -> T) -> T {
    struct Before(Option<Arc<Account>>);
    impl Drop for Before {
        fn drop(&mut self) {
            CURRENT.replace(self.0.take());
        }
    }
    let _before = Before(CURRENT.replace(Some(Arc::clone(account))));
    act()
}

/// What SQLite has room for in its file handle; the system's handle follows at [`BEHIND`].
#[repr(C)]
struct Handle {
    base: sqlite3_file,
    /// From `Arc::into_raw`; owned by the handle.
    account: *const Account,
    /// Bytes that the file has taken from the account: up to its end.
    taken: u64,
}

/// Where the system's handle begins.
const BEHIND: usize = size_of::<Handle>().next_multiple_of(16);

static METHODS: sqlite3_io_methods = sqlite3_io_methods {
    iVersion: 1,
    xClose: Some(close),
    xRead: Some(read),
    xWrite: Some(write),
    xTruncate: Some(truncate),
    xSync: Some(sync),
    xFileSize: Some(file_size),
    xLock: Some(lock),
    xUnlock: Some(unlock),
    xCheckReservedLock: Some(check_reserved_lock),
    xFileControl: Some(file_control),
    xSectorSize: Some(sector_size),
    xDeviceCharacteristics: Some(device_characteristics),
    xShmMap: None,
    xShmLock: None,
    xShmBarrier: None,
    xShmUnmap: None,
    xFetch: None,
    xUnfetch: None,
};

fn register() -> c_int {
    let own =
        Own { open: vfs_open, delete: vfs_delete, access: vfs_access, path: vfs_full_pathname };
    let Ok(before) = c_int::try_from(BEHIND) else { return ffi::SQLITE_ERROR };
    register_above_system(NAME, own, |system| system.saturating_add(before))
}

unsafe extern "C" fn vfs_open(
    vfs: *mut sqlite3_vfs,
    name: *const c_char,
    file: *mut sqlite3_file,
    flags: c_int,
    out_flags: *mut c_int,
) -> c_int {
    // SAFETY: SQLite gives room for `szOsFile` bytes at `file`. Without methods it will not close it.
    unsafe { (*file).pMethods = ptr::null() };
    // SAFETY: `vfs` is ours, so the pointer is to the system's VFS, whose fields do not change.
    let (system, open) = unsafe { (system(vfs), (*system(vfs)).xOpen) };
    let Some(open) = open else { return ffi::SQLITE_CANTOPEN };
    let account = if name.is_null() && flags & TEMPORARY != 0 {
        // A thread that is ending has no account.
        CURRENT.try_with(|current| current.borrow().clone()).unwrap_or(None)
    } else {
        None
    };
    let Some(account) = account else {
        // SAFETY: all arguments are SQLite's own, and there is room for the system's handle; it sets
        // the methods, so that all further calls go to it alone.
        return unsafe { open(system, name, file, flags, out_flags) };
    };
    // SAFETY: there is room for both handles, as `szOsFile` says, and the second is aligned like the
    // first. It is closed by `close`, which is called exactly if ours has methods.
    unsafe {
        let behind = behind(file);
        (*behind).pMethods = ptr::null();
        let code = open(system, name, behind, flags, out_flags);
        if code == ffi::SQLITE_OK {
            let base = sqlite3_file { pMethods: &raw const METHODS };
            file.cast::<Handle>().write(Handle { base, account: Arc::into_raw(account), taken: 0 });
        } else if let Some(close) = (*behind).pMethods.as_ref().and_then(|methods| methods.xClose) {
            // The system may ask to be closed even so.
            close(behind);
        }
        code
    }
}

/// The system's handle behind ours.
///
/// # Safety
/// There must be room for both at `file`.
unsafe fn behind(file: *mut sqlite3_file) -> *mut sqlite3_file {
    // SAFETY: as the caller says.
    unsafe { file.byte_add(BEHIND) }
}

/// Calls a method of the system's handle.
macro_rules! hand_on {
    ($file:ident, $method:ident $(, $argument:expr)*) => {{
        // SAFETY: `$file` is a handle that `vfs_open` made, so the system's open one is behind it, with
        // its methods; the arguments are SQLite's own.
        unsafe {
            let behind = behind($file);
            match (*behind).pMethods.as_ref().and_then(|methods| methods.$method) {
                Some(method) => method(behind $(, $argument)*),
                None => ffi::SQLITE_IOERR,
            }
        }
    }};
}

unsafe extern "C" fn close(file: *mut sqlite3_file) -> c_int {
    let code = hand_on!(file, xClose);
    // SAFETY: a handle that `vfs_open` made; SQLite does not use it again, so the account is taken out
    // once.
    let (account, taken) = unsafe {
        let handle = file.cast::<Handle>();
        (Arc::from_raw((*handle).account), (*handle).taken)
    };
    account.give_back(taken);
    code
}

unsafe extern "C" fn read(
    file: *mut sqlite3_file,
    buf: *mut c_void,
    n: c_int,
    at: sqlite3_int64,
) -> c_int {
    hand_on!(file, xRead, buf, n, at)
}

unsafe extern "C" fn write(
    file: *mut sqlite3_file,
    buf: *const c_void,
    n: c_int,
    at: sqlite3_int64,
) -> c_int {
    let end = u64::try_from(at).unwrap_or(0).saturating_add(u64::try_from(n).unwrap_or(0));
    // SAFETY: a handle that `vfs_open` made; SQLite uses it from one thread at a time, and nothing else
    // borrows it during this call.
    unsafe {
        let handle = &mut *file.cast::<Handle>();
        let more = end.saturating_sub(handle.taken);
        if more > 0 {
            if !(*handle.account).take(more) {
                return ffi::SQLITE_FULL;
            }
            handle.taken = end;
        }
    }
    hand_on!(file, xWrite, buf, n, at)
}

unsafe extern "C" fn truncate(file: *mut sqlite3_file, length: sqlite3_int64) -> c_int {
    let code = hand_on!(file, xTruncate, length);
    if code == ffi::SQLITE_OK {
        // SAFETY: as in `write`.
        unsafe {
            let handle = &mut *file.cast::<Handle>();
            let less = handle.taken.saturating_sub(u64::try_from(length).unwrap_or(0));
            handle.taken -= less;
            (*handle.account).give_back(less);
        }
    }
    code
}

unsafe extern "C" fn sync(file: *mut sqlite3_file, flags: c_int) -> c_int {
    hand_on!(file, xSync, flags)
}

unsafe extern "C" fn file_size(file: *mut sqlite3_file, out: *mut sqlite3_int64) -> c_int {
    hand_on!(file, xFileSize, out)
}

unsafe extern "C" fn lock(file: *mut sqlite3_file, level: c_int) -> c_int {
    hand_on!(file, xLock, level)
}

unsafe extern "C" fn unlock(file: *mut sqlite3_file, level: c_int) -> c_int {
    hand_on!(file, xUnlock, level)
}

unsafe extern "C" fn check_reserved_lock(file: *mut sqlite3_file, out: *mut c_int) -> c_int {
    hand_on!(file, xCheckReservedLock, out)
}

unsafe extern "C" fn file_control(
    file: *mut sqlite3_file,
    op: c_int,
    argument: *mut c_void,
) -> c_int {
    if op == ffi::SQLITE_FCNTL_SIZE_HINT || op == ffi::SQLITE_FCNTL_CHUNK_SIZE {
        // A file may not grow but by being written.
        return ffi::SQLITE_NOTFOUND;
    }
    hand_on!(file, xFileControl, op, argument)
}

unsafe extern "C" fn sector_size(file: *mut sqlite3_file) -> c_int {
    hand_on!(file, xSectorSize)
}

unsafe extern "C" fn device_characteristics(file: *mut sqlite3_file) -> c_int {
    hand_on!(file, xDeviceCharacteristics)
}

unsafe extern "C" fn vfs_delete(vfs: *mut sqlite3_vfs, name: *const c_char, sync: c_int) -> c_int {
    // SAFETY: `vfs` is ours, and the rest is handed on as it came.
    unsafe {
        let system = system(vfs);
        (*system).xDelete.map_or(ffi::SQLITE_IOERR_DELETE, |call| call(system, name, sync))
    }
}

unsafe extern "C" fn vfs_access(
    vfs: *mut sqlite3_vfs,
    name: *const c_char,
    flags: c_int,
    out: *mut c_int,
) -> c_int {
    // SAFETY: as in `vfs_delete`.
    unsafe {
        let system = system(vfs);
        (*system).xAccess.map_or(ffi::SQLITE_IOERR_ACCESS, |call| call(system, name, flags, out))
    }
}

unsafe extern "C" fn vfs_full_pathname(
    vfs: *mut sqlite3_vfs,
    name: *const c_char,
    room: c_int,
    out: *mut c_char,
) -> c_int {
    // SAFETY: as in `vfs_delete`.
    unsafe {
        let system = system(vfs);
        (*system).xFullPathname.map_or(ffi::SQLITE_CANTOPEN, |call| call(system, name, room, out))
    }
}
