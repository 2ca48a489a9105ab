//! libpmemblk, PMDK's block translation table in user space, where it is installed (`libpmemblk1`): not
//! linked, but looked for when the bench runs.

use std::ffi::{CStr, CString, c_char, c_int, c_longlong, c_void};
use std::mem::transmute;
use std::path::Path;
use std::ptr::NonNull;

/// A pool of blocks.
pub struct Pool {
    handle: NonNull<c_void>,
    write: Transfer,
    read: Transfer,
    close: unsafe extern "C" fn(*mut c_void),
    pub blocks: u64,
    block_size: usize,
    _folder: tempfile::TempDir,
}

type Create = unsafe extern "C" fn(*const c_char, usize, usize, libc::mode_t) -> *mut c_void;
type Count = unsafe extern "C" fn(*mut c_void) -> usize;
type Transfer = unsafe extern "C" fn(*mut c_void, *mut c_void, c_longlong) -> c_int;

/// The address of a function of the library.
fn function(library: NonNull<c_void>, name: &CStr) -> NonNull<c_void> {
    // SAFETY: the library is open, and stays so.
    let address = unsafe { libc::dlsym(library.as_ptr(), name.as_ptr()) };
    NonNull::new(address).expect("libpmemblk has its functions")
}

impl Pool {
    /// A new pool in memory, flushed as persistent memory is. `None`: there is no libpmemblk.
    pub fn create(block_size: u32, size: u64) -> Option<Pool> {
        // SAFETY: no other thread runs yet that could look at the environment.
        unsafe { std::env::set_var("PMEM_IS_PMEM_FORCE", "1") };
        // SAFETY: a library of the system, whose initialisers may run.
        let library = unsafe { libc::dlopen(c"libpmemblk.so.1".as_ptr(), libc::RTLD_NOW) };
        let library = NonNull::new(library)?;
        // SAFETY: these are the functions' types in <libpmemblk.h>; all pointers are as large.
        let (create, count, write, read, close): (Create, Count, Transfer, Transfer, _) = unsafe {
            let find = |name| function(library, name).as_ptr();
            (
                transmute::<*mut c_void, Create>(find(c"pmemblk_create")),
                transmute::<*mut c_void, Count>(find(c"pmemblk_nblock")),
                transmute::<*mut c_void, Transfer>(find(c"pmemblk_write")),
                transmute::<*mut c_void, Transfer>(find(c"pmemblk_read")),
                transmute::<*mut c_void, unsafe extern "C" fn(*mut c_void)>(find(c"pmemblk_close")),
            )
        };
        let memory = Path::new("/dev/shm");
        let folder = if memory.is_dir() { memory } else { Path::new("/tmp") };
        let folder = tempfile::tempdir_in(folder).expect("room for a temporary folder");
        let path = folder.path().join("pool").into_os_string().into_encoded_bytes();
        let path = CString::new(path).expect("no NUL in it");
        // SAFETY: the path is a string; the pool is a new file.
        let pool = unsafe { create(path.as_ptr(), block_size as usize, size as usize, 0o600) };
        let pool = NonNull::new(pool).expect("room for a pool");
        // SAFETY: the pool is open.
        let blocks = unsafe { count(pool.as_ptr()) } as u64;
        let block_size = block_size as usize;
        let mut new =
            Pool { handle: pool, write, read, close, blocks, block_size, _folder: folder };
        let mut data = vec![0x5a; block_size];
        (0..blocks).for_each(|block| new.write(block, &mut data));
        Some(new)
    }

    /// Writes block `block`.
    pub fn write(&mut self, block: u64, data: &mut [u8]) {
        self.transfer(self.write, block, data);
    }

    /// Reads block `block`.
    pub fn read(&mut self, block: u64, data: &mut [u8]) {
        self.transfer(self.read, block, data);
    }

    fn transfer(&mut self, transfer: Transfer, block: u64, data: &mut [u8]) {
        assert_eq!(data.len(), self.block_size);
        // SAFETY: the pool is open, and the data are of a block.
        let result = unsafe {
            transfer(self.handle.as_ptr(), data.as_mut_ptr().cast(), block.cast_signed())
        };
        assert_eq!(result, 0, "block {block}");
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        // SAFETY: the pool is open, and not used any more.
        unsafe { (self.close)(self.handle.as_ptr()) };
    }
}
