//! A VFS of SQLite whose database files are Rust objects.
//!
//! Registered once per process and never taken back. A connection is opened with the name of an
//! object that was put aside for it a moment before ([`open`]); from then on the object belongs to
//! SQLite's file handle and is dropped by `xClose`. All other files that SQLite opens for such a
//! connection are temporary ones without a name, by the system's VFS: its own, and the journals.
//!
//! Locks are no-ops, as nobody else can open the object. No method of newer file handles is offered,
//! so that SQLite maps no memory and does not try WAL mode. A panic of an object ends here: the call
//! fails, and so do all further ones.

use std::any::Any;
use std::collections::BTreeMap;
use std::ffi::{CStr, c_char, c_int, c_void};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::ptr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};

use rusqlite::ffi::{self, sqlite3_file, sqlite3_io_methods, sqlite3_vfs};
use rusqlite::{Connection, OpenFlags};

/// Name of the VFS, and beginning of the names of its databases.
const NAME: &CStr = c"anabranch-pages";
const FILE_PREFIX: &str = "anabranch-pages-";

/// Size that SQLite takes for what the disk writes at once: with "powersafe overwrite" it matters
/// only for the layout of the journal.
const SECTOR_BYTES: c_int = 512;

/// A database file beneath a connection.
pub(crate) trait DatabaseFile: Send {
    /// Reads from the byte `at` on; answers how many bytes there were before the end of the file.
    fn read(&mut self, at: u64, buf: &mut [u8]) -> Result<usize, Failed>;
    /// Writes at the byte `at`.
    fn write(&mut self, at: u64, data: &[u8]) -> Result<(), Failed>;
    /// Cuts the file off.
    fn truncate(&mut self, length: u64) -> Result<(), Failed>;
    /// Length in bytes.
    fn length(&mut self) -> Result<u64, Failed>;
    /// Whether it may be written.
    fn is_writable(&self) -> bool;
    /// One of the other calls panicked; none will follow.
    fn panicked(&mut self);
}

/// A call of a file failed; the file has kept why.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Failed {
    /// The disk is full.
    Full,
    /// Anything else.
    Io,
}

/// Opens a connection whose database is `file`.
pub(crate) fn open(file: Box<dyn DatabaseFile>, flags: OpenFlags) -> rusqlite::Result<Connection> {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    register()?;
    let number = NEXT.fetch_add(1, Ordering::Relaxed);
    waiting().insert(number, file);
    let conn = Connection::open_with_flags_and_vfs(format!("{FILE_PREFIX}{number}"), flags, NAME);
    // It is still there only if SQLite failed before it asked for it.
    let unused = waiting().remove(&number);
    drop(unused);
    conn
}

/// Files for connections that are being opened.
fn waiting() -> MutexGuard<'static, BTreeMap<u64, Box<dyn DatabaseFile>>> {
    static WAITING: Mutex<BTreeMap<u64, Box<dyn DatabaseFile>>> = Mutex::new(BTreeMap::new());
    WAITING.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The file that a connection by this name was meant to get.
fn take(name: &CStr) -> Option<Box<dyn DatabaseFile>> {
    let number = name.to_str().ok()?.strip_prefix(FILE_PREFIX)?.parse().ok()?;
    waiting().remove(&number)
}

/// What SQLite has room for in its file handle.
#[repr(C)]
struct Handle {
    base: sqlite3_file,
    /// From `Box::into_raw`; owned by the handle.
    inner: *mut Inner,
}

struct Inner {
    file: Box<dyn DatabaseFile>,
    panicked: bool,
}

static METHODS: sqlite3_io_methods = sqlite3_io_methods {
    iVersion: 1,
    xClose: Some(close),
    xRead: Some(read),
    xWrite: Some(write),
    xTruncate: Some(truncate),
    xSync: Some(sync),
    xFileSize: Some(file_size),
    xLock: Some(no_lock),
    xUnlock: Some(no_lock),
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

fn register() -> rusqlite::Result<()> {
    static REGISTERED: OnceLock<c_int> = OnceLock::new();
    super::check(*REGISTERED.get_or_init(register_once))
}

fn register_once() -> c_int {
    let own =
        Own { open: vfs_open, delete: vfs_delete, access: vfs_access, path: vfs_full_pathname };
    let Ok(bytes) = c_int::try_from(size_of::<Handle>()) else { return ffi::SQLITE_ERROR };
    register_above_system(NAME, own, |system| system.max(bytes))
}

/// What a VFS above the system's does itself.
pub(super) struct Own {
    pub(super) open: unsafe extern "C" fn(
        *mut sqlite3_vfs,
        *const c_char,
        *mut sqlite3_file,
        c_int,
        *mut c_int,
    ) -> c_int,
    pub(super) delete: unsafe extern "C" fn(*mut sqlite3_vfs, *const c_char, c_int) -> c_int,
    pub(super) access:
        unsafe extern "C" fn(*mut sqlite3_vfs, *const c_char, c_int, *mut c_int) -> c_int,
    pub(super) path:
        unsafe extern "C" fn(*mut sqlite3_vfs, *const c_char, c_int, *mut c_char) -> c_int,
}

/// Registers a VFS by the name `name` for ever, which leaves to the system's what is not in `own`. Its
/// file handles take what `handle_bytes` makes of the length of the system's.
pub(super) fn register_above_system(
    name: &'static CStr,
    own: Own,
    handle_bytes: impl FnOnce(c_int) -> c_int,
) -> c_int {
    // SAFETY: null asks for the default VFS; the answer is null or lives as long as the process, as
    // nothing here unregisters it.
    let system = unsafe { ffi::sqlite3_vfs_find(ptr::null()) };
    // SAFETY: null or valid, as above; only plain fields are read.
    let Some(beneath) = (unsafe { system.as_ref() }) else { return ffi::SQLITE_ERROR };
    let vfs = Box::leak(Box::new(sqlite3_vfs {
        iVersion: 2,
        szOsFile: handle_bytes(beneath.szOsFile),
        mxPathname: beneath.mxPathname,
        pNext: ptr::null_mut(),
        zName: name.as_ptr(),
        pAppData: system.cast(),
        xOpen: Some(own.open),
        xDelete: Some(own.delete),
        xAccess: Some(own.access),
        xFullPathname: Some(own.path),
        xDlOpen: Some(vfs_dl_open),
        xDlError: Some(vfs_dl_error),
        xDlSym: Some(vfs_dl_sym),
        xDlClose: Some(vfs_dl_close),
        xRandomness: Some(vfs_randomness),
        xSleep: Some(vfs_sleep),
        xCurrentTime: Some(vfs_current_time),
        xGetLastError: Some(vfs_get_last_error),
        xCurrentTimeInt64: Some(vfs_current_time_int64),
        xSetSystemCall: None,
        xGetSystemCall: None,
        xNextSystemCall: None,
    }));
    // SAFETY: the structure is complete and lives for ever; it does not become the default.
    unsafe { ffi::sqlite3_vfs_register(vfs, 0) }
}

/// The system's VFS.
///
/// # Safety
/// `vfs` must be one whose `pAppData` is the system's VFS, such as the one that was registered above.
pub(super) unsafe fn system(vfs: *mut sqlite3_vfs) -> *mut sqlite3_vfs {
    // SAFETY: as the caller says; `pAppData` is never changed.
    unsafe { (*vfs).pAppData.cast() }
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
    if flags & ffi::SQLITE_OPEN_MAIN_DB == 0 {
        // SAFETY: all arguments are SQLite's own.
        return unsafe { open_temporary(system(vfs), file, flags, out_flags) };
    }
    if name.is_null() {
        return ffi::SQLITE_CANTOPEN;
    }
    // SAFETY: not null, so a NUL-terminated string that lives during the call.
    let name = unsafe { CStr::from_ptr(name) };
    let Ok(Some(database)) = catch_unwind(|| take(name)) else { return ffi::SQLITE_CANTOPEN };
    let writable = database.is_writable();
    let inner = Box::into_raw(Box::new(Inner { file: database, panicked: false }));
    // SAFETY: the room at `file` is at least that of a `Handle`, as `szOsFile` says; `out_flags` is
    // null or a valid place.
    unsafe {
        file.cast::<Handle>()
            .write(Handle { base: sqlite3_file { pMethods: &raw const METHODS }, inner });
        if let Some(out) = out_flags.as_mut() {
            *out = if writable {
                flags
            } else {
                (flags & !ffi::SQLITE_OPEN_READWRITE) | ffi::SQLITE_OPEN_READONLY
            };
        }
    }
    ffi::SQLITE_OK
}

/// Opens a temporary file of SQLite, or a journal as one.
///
/// # Safety
/// `system` must be the system's VFS, the other arguments those of `xOpen`.
unsafe fn open_temporary(
    system: *mut sqlite3_vfs,
    file: *mut sqlite3_file,
    flags: c_int,
    out_flags: *mut c_int,
) -> c_int {
    let named = ffi::SQLITE_OPEN_MAIN_JOURNAL | ffi::SQLITE_OPEN_SUPER_JOURNAL;
    let flags = if flags & named == 0 {
        flags
    } else {
        ffi::SQLITE_OPEN_TEMP_JOURNAL
            | ffi::SQLITE_OPEN_READWRITE
            | ffi::SQLITE_OPEN_CREATE
            | ffi::SQLITE_OPEN_EXCLUSIVE
            | ffi::SQLITE_OPEN_DELETEONCLOSE
    };
    // SAFETY: as the caller says. The system's VFS chooses a name for null, and sets the methods, so
    // that all further calls go to it alone; there is room for its handle, as `szOsFile` says.
    unsafe {
        match (*system).xOpen {
            Some(open) => open(system, ptr::null(), file, flags, out_flags),
            None => ffi::SQLITE_CANTOPEN,
        }
    }
}

unsafe extern "C" fn vfs_delete(_: *mut sqlite3_vfs, _: *const c_char, _: c_int) -> c_int {
    // Nothing has a name.
    ffi::SQLITE_OK
}

unsafe extern "C" fn vfs_access(
    _: *mut sqlite3_vfs,
    _: *const c_char,
    _: c_int,
    out: *mut c_int,
) -> c_int {
    // No journal and no `-wal` was left by anybody.
    // SAFETY: SQLite gives a valid place for the answer.
    unsafe { *out = 0 };
    ffi::SQLITE_OK
}

unsafe extern "C" fn vfs_full_pathname(
    _: *mut sqlite3_vfs,
    name: *const c_char,
    room: c_int,
    out: *mut c_char,
) -> c_int {
    // SAFETY: SQLite gives a NUL-terminated name, and room for `room` bytes.
    unsafe {
        let bytes = CStr::from_ptr(name).to_bytes_with_nul();
        if usize::try_from(room).is_ok_and(|room| bytes.len() <= room) {
            ptr::copy_nonoverlapping(bytes.as_ptr().cast(), out, bytes.len());
            ffi::SQLITE_OK
        } else {
            ffi::SQLITE_CANTOPEN
        }
    }
}

unsafe extern "C" fn vfs_dl_open(_: *mut sqlite3_vfs, _: *const c_char) -> *mut c_void {
    ptr::null_mut()
}

unsafe extern "C" fn vfs_dl_error(_: *mut sqlite3_vfs, room: c_int, out: *mut c_char) {
    if room > 0 && !out.is_null() {
        // SAFETY: there is room for at least one byte.
        unsafe { *out = 0 };
    }
}

unsafe extern "C" fn vfs_dl_sym(
    _: *mut sqlite3_vfs,
    _: *mut c_void,
    _: *const c_char,
) -> Option<unsafe extern "C" fn(*mut sqlite3_vfs, *mut c_void, *const c_char)> {
    None
}

unsafe extern "C" fn vfs_dl_close(_: *mut sqlite3_vfs, _: *mut c_void) {}

unsafe extern "C" fn vfs_randomness(vfs: *mut sqlite3_vfs, n: c_int, out: *mut c_char) -> c_int {
    // SAFETY: `vfs` is ours, and the rest is handed on as it came.
    unsafe {
        let system = system(vfs);
        (*system).xRandomness.map_or(0, |call| call(system, n, out))
    }
}

unsafe extern "C" fn vfs_sleep(vfs: *mut sqlite3_vfs, microseconds: c_int) -> c_int {
    // SAFETY: as in `vfs_randomness`.
    unsafe {
        let system = system(vfs);
        (*system).xSleep.map_or(0, |call| call(system, microseconds))
    }
}

unsafe extern "C" fn vfs_current_time(vfs: *mut sqlite3_vfs, out: *mut f64) -> c_int {
    // SAFETY: as in `vfs_randomness`.
    unsafe {
        let system = system(vfs);
        (*system).xCurrentTime.map_or(ffi::SQLITE_ERROR, |call| call(system, out))
    }
}

unsafe extern "C" fn vfs_current_time_int64(vfs: *mut sqlite3_vfs, out: *mut i64) -> c_int {
    // SAFETY: as in `vfs_randomness`. The method is there from version 2 on.
    unsafe {
        let system = system(vfs);
        let call = if (*system).iVersion >= 2 { (*system).xCurrentTimeInt64 } else { None };
        call.map_or(ffi::SQLITE_ERROR, |call| call(system, out))
    }
}

unsafe extern "C" fn vfs_get_last_error(
    vfs: *mut sqlite3_vfs,
    room: c_int,
    out: *mut c_char,
) -> c_int {
    // SAFETY: as in `vfs_randomness`.
    unsafe {
        let system = system(vfs);
        (*system).xGetLastError.map_or(0, |call| call(system, room, out))
    }
}

/// Calls `f` with the file of a handle; answers `otherwise` if it panics, or did before.
///
/// # Safety
/// `file` must be a handle that `vfs_open` has filled in and that is not closed, used by no other
/// thread meanwhile.
unsafe fn with(
    file: *mut sqlite3_file,
    otherwise: c_int,
    f: impl FnOnce(&mut dyn DatabaseFile) -> c_int,
) -> c_int {
    // SAFETY: as above; `inner` comes from a box and is owned by the handle.
    let inner = unsafe { &mut *(*file.cast::<Handle>()).inner };
    if inner.panicked {
        return otherwise;
    }
    match catch_unwind(AssertUnwindSafe(|| f(&mut *inner.file))) {
        Ok(code) => code,
        Err(payload) => {
            discard(payload);
            inner.panicked = true;
            if let Err(payload) = catch_unwind(AssertUnwindSafe(|| inner.file.panicked())) {
                discard(payload);
            }
            otherwise
        }
    }
}

/// Forgets what a panic carries: dropping it could panic again.
fn discard(payload: Box<dyn Any + Send>) {
    std::mem::forget(payload);
}

fn code_of(failed: Failed, otherwise: c_int) -> c_int {
    match failed {
        Failed::Full => ffi::SQLITE_FULL,
        Failed::Io => otherwise,
    }
}

unsafe extern "C" fn close(file: *mut sqlite3_file) -> c_int {
    // SAFETY: SQLite closes a handle once and does not use it again; `inner` comes from a box.
    let inner = unsafe {
        (*file).pMethods = ptr::null();
        Box::from_raw((*file.cast::<Handle>()).inner)
    };
    match catch_unwind(AssertUnwindSafe(|| drop(inner))) {
        Ok(()) => ffi::SQLITE_OK,
        Err(payload) => {
            discard(payload);
            ffi::SQLITE_IOERR_CLOSE
        }
    }
}

unsafe extern "C" fn read(
    file: *mut sqlite3_file,
    buf: *mut c_void,
    amount: c_int,
    at: i64,
) -> c_int {
    let (Ok(amount), Ok(at)) = (usize::try_from(amount), u64::try_from(at)) else {
        return ffi::SQLITE_IOERR_READ;
    };
    // SAFETY: SQLite gives room for `amount` bytes at `buf`; they are initialised before a slice is
    // made of them, and what lies beyond the end of the file must read as zeros anyway.
    let buf = unsafe {
        ptr::write_bytes(buf.cast::<u8>(), 0, amount);
        std::slice::from_raw_parts_mut(buf.cast::<u8>(), amount)
    };
    // SAFETY: the handle is one of ours, as it has our methods.
    unsafe {
        with(file, ffi::SQLITE_IOERR_READ, |file| match file.read(at, buf) {
            Ok(read) if read == amount => ffi::SQLITE_OK,
            Ok(_) => ffi::SQLITE_IOERR_SHORT_READ,
            Err(_) => ffi::SQLITE_IOERR_READ,
        })
    }
}

unsafe extern "C" fn write(
    file: *mut sqlite3_file,
    data: *const c_void,
    amount: c_int,
    at: i64,
) -> c_int {
    let (Ok(amount), Ok(at)) = (usize::try_from(amount), u64::try_from(at)) else {
        return ffi::SQLITE_IOERR_WRITE;
    };
    // SAFETY: SQLite gives `amount` bytes at `data` that live during the call.
    let data = unsafe { std::slice::from_raw_parts(data.cast::<u8>(), amount) };
    // SAFETY: the handle is one of ours, as it has our methods.
    unsafe {
        with(file, ffi::SQLITE_IOERR_WRITE, |file| match file.write(at, data) {
            Ok(()) => ffi::SQLITE_OK,
            Err(failed) => code_of(failed, ffi::SQLITE_IOERR_WRITE),
        })
    }
}

unsafe extern "C" fn truncate(file: *mut sqlite3_file, length: i64) -> c_int {
    let Ok(length) = u64::try_from(length) else { return ffi::SQLITE_IOERR_TRUNCATE };
    // SAFETY: the handle is one of ours, as it has our methods.
    unsafe {
        with(file, ffi::SQLITE_IOERR_TRUNCATE, |file| match file.truncate(length) {
            Ok(()) => ffi::SQLITE_OK,
            Err(failed) => code_of(failed, ffi::SQLITE_IOERR_TRUNCATE),
        })
    }
}

unsafe extern "C" fn sync(_: *mut sqlite3_file, _: c_int) -> c_int {
    // What a connection here writes is not meant to outlive the process.
    ffi::SQLITE_OK
}

unsafe extern "C" fn file_size(file: *mut sqlite3_file, out: *mut i64) -> c_int {
    // SAFETY: the handle is one of ours, as it has our methods; SQLite gives a valid place for the
    // answer.
    unsafe {
        with(file, ffi::SQLITE_IOERR_FSTAT, |file| match file.length().map(i64::try_from) {
            Ok(Ok(length)) => {
                *out = length;
                ffi::SQLITE_OK
            }
            _ => ffi::SQLITE_IOERR_FSTAT,
        })
    }
}

unsafe extern "C" fn no_lock(_: *mut sqlite3_file, _: c_int) -> c_int {
    ffi::SQLITE_OK
}

unsafe extern "C" fn check_reserved_lock(_: *mut sqlite3_file, out: *mut c_int) -> c_int {
    // SAFETY: SQLite gives a valid place for the answer.
    unsafe { *out = 0 };
    ffi::SQLITE_OK
}

unsafe extern "C" fn file_control(_: *mut sqlite3_file, _: c_int, _: *mut c_void) -> c_int {
    ffi::SQLITE_NOTFOUND
}

unsafe extern "C" fn sector_size(_: *mut sqlite3_file) -> c_int {
    SECTOR_BYTES
}

unsafe extern "C" fn device_characteristics(_: *mut sqlite3_file) -> c_int {
    // Nothing survives a power failure, so whatever spares work on its account is true.
    ffi::SQLITE_IOCAP_POWERSAFE_OVERWRITE
        | ffi::SQLITE_IOCAP_SAFE_APPEND
        | ffi::SQLITE_IOCAP_SEQUENTIAL
}
