//! The frontend's side of shared memory regions: it asks for their sizes, and maps and unmaps what the
//! device tells it to, as QEMU does: nothing over what is mapped, and nothing by halves.

use std::fs::File;
use std::io::{Read, Write};
use std::net::Shutdown;
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;
use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant};

use memmap2::{MmapOptions, MmapRaw};
use vmm_sys_util::sock_ctrl_msg::ScmSocket;

use super::patience::PATIENCE;

const GET_SHMEM_CONFIG: u32 = 44;
const SHMEM_MAP: u32 = 9;
const SHMEM_UNMAP: u32 = 10;
/// Protocol version 1, and that a message is a reply.
const VERSION: u32 = 1;
const REPLY: u32 = 4;
const HEADER_SIZE: usize = 12;
const MAP_SIZE: usize = 40;

/// What the frontend does when it is asked to map or unmap.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Manner {
    /// It does so.
    #[default]
    Obliging,
    /// It says no to requests to map.
    RefusesMaps,
    /// It says no to requests to unmap.
    RefusesUnmaps,
    /// It says nothing any more.
    Silent,
    /// It closes the socket instead of an answer.
    Closes,
}

/// A mapping of the frontend.
struct Mapped {
    region: u8,
    offset: u64,
    memory: MmapRaw,
    is_writable: bool,
}

impl Mapped {
    fn end(&self) -> u64 {
        self.offset + self.memory.len() as u64
    }
}

#[derive(Default)]
struct State {
    manner: Manner,
    mapped: Vec<Mapped>,
    /// Requests that have been answered, or not answered on purpose.
    requests: usize,
    /// Where they come from.
    socket: Option<UnixStream>,
}

/// The regions of one connection.
#[derive(Clone, Default)]
pub struct Regions {
    shared: Arc<(Mutex<State>, Condvar)>,
}

/// `VhostUserMMap`.
struct Request {
    code: u32,
    region: u8,
    file_offset: u64,
    offset: u64,
    length: u64,
    is_writable: bool,
    file: Option<File>,
}

impl Regions {
    /// Serves a new pair of sockets; returns the one for the device.
    pub fn serve(&self) -> UnixStream {
        let (ours, theirs) = UnixStream::pair().unwrap();
        self.shared.0.lock().unwrap().socket = Some(ours.try_clone().unwrap());
        let regions = self.clone();
        std::thread::spawn(move || while regions.serve_one(&ours).is_some() {});
        theirs
    }

    pub fn set_manner(&self, manner: Manner) {
        self.shared.0.lock().unwrap().manner = manner;
    }

    /// Closes the socket for requests.
    pub fn close(&self) {
        let socket = self.shared.0.lock().unwrap().socket.take().expect("an open socket");
        socket.shutdown(Shutdown::Both).unwrap();
    }

    /// Drops all mappings, as at a reset of the device.
    pub fn reset(&self) {
        self.shared.0.lock().unwrap().mapped.clear();
    }

    /// Waits until the mappings of a region are these, as pairs of offset and length.
    #[track_caller]
    pub fn wait_for(&self, region: u8, wanted: &[(u64, u64)]) {
        let deadline = Instant::now() + PATIENCE;
        let (state, changed) = &*self.shared;
        let mut state = state.lock().unwrap();
        loop {
            let mapped = state.mapped.iter().filter(|mapped| mapped.region == region);
            let mut there: Vec<_> =
                mapped.map(|mapped| (mapped.offset, mapped.end() - mapped.offset)).collect();
            there.sort_unstable();
            if there == wanted {
                return;
            }
            assert!(Instant::now() < deadline, "mapped: {there:?}, not {wanted:?}");
            state = changed.wait_timeout(state, Duration::from_millis(20)).unwrap().0;
        }
    }

    /// Number of requests so far.
    pub fn requests(&self) -> usize {
        self.shared.0.lock().unwrap().requests
    }

    /// Waits until there were more than `before` requests.
    #[track_caller]
    pub fn wait_for_request(&self, before: usize) {
        let deadline = Instant::now() + PATIENCE;
        while self.requests() <= before {
            assert!(Instant::now() < deadline, "no further request");
            std::thread::sleep(Duration::from_millis(2));
        }
    }

    /// What the guest sees of a region.
    pub fn read(&self, region: u8, offset: u64, length: usize) -> Vec<u8> {
        let mut bytes = vec![0; length];
        self.with(region, offset, length, |memory, _| {
            // SAFETY: the range lies in a mapping, which lives as long as the lock is held.
            unsafe { std::ptr::copy_nonoverlapping(memory, bytes.as_mut_ptr(), length) };
        });
        bytes
    }

    /// Stores as the guest does.
    pub fn write(&self, region: u8, offset: u64, bytes: &[u8]) {
        self.with(region, offset, bytes.len(), |memory, is_writable| {
            assert!(is_writable);
            // SAFETY: as in `read`.
            unsafe { std::ptr::copy_nonoverlapping(bytes.as_ptr(), memory, bytes.len()) };
        });
    }

    /// Returns whether the guest can store to a region.
    pub fn is_writable(&self, region: u8) -> bool {
        let mut writable = false;
        self.with(region, 0, 1, |_, is_writable| writable = is_writable);
        writable
    }

    fn with(&self, region: u8, offset: u64, length: usize, act: impl FnOnce(*mut u8, bool)) {
        let state = self.shared.0.lock().unwrap();
        let end = offset + length as u64;
        let holds = |mapped: &&Mapped| {
            mapped.region == region && mapped.offset <= offset && end <= mapped.end()
        };
        let mapped = state.mapped.iter().find(holds).expect("mapped bytes");
        let memory = mapped.memory.as_mut_ptr().wrapping_add((offset - mapped.offset) as usize);
        act(memory, mapped.is_writable);
    }

    /// Serves a request; `None`: there will be no other.
    fn serve_one(&self, socket: &UnixStream) -> Option<()> {
        let request = Request::receive(socket)?;
        let (state, changed) = &*self.shared;
        let mut state = state.lock().unwrap();
        state.requests += 1;
        let refused = match (state.manner, request.code) {
            (Manner::Silent, _) => return Some(()),
            (Manner::Closes, _) => {
                let _ = socket.shutdown(Shutdown::Both);
                return None;
            }
            (Manner::RefusesMaps, SHMEM_MAP) | (Manner::RefusesUnmaps, SHMEM_UNMAP) => true,
            _ => !state.carry_out(&request),
        };
        changed.notify_all();
        drop(state);
        let words = [request.code, VERSION | REPLY, 8, u32::from(refused), 0];
        let reply: Vec<u8> = words.iter().flat_map(|word| word.to_ne_bytes()).collect();
        (&*socket).write_all(&reply).ok()
    }
}

impl State {
    /// Maps or unmaps. Returns whether that could be done.
    fn carry_out(&mut self, request: &Request) -> bool {
        let Request { region, offset, length, is_writable, .. } = *request;
        if request.code == SHMEM_UNMAP {
            let is_it = |mapped: &Mapped| {
                (mapped.region, mapped.offset, mapped.end()) == (region, offset, offset + length)
            };
            let found = self.mapped.iter().position(is_it);
            return found.map(|index| self.mapped.remove(index)).is_some();
        }
        let overlaps = |mapped: &Mapped| {
            mapped.region == region && mapped.offset < offset + length && offset < mapped.end()
        };
        let Some(file) = &request.file else { return false };
        if self.mapped.iter().any(overlaps) {
            return false;
        }
        let mut options = MmapOptions::new();
        options.offset(request.file_offset).len(length as usize);
        let memory = if is_writable {
            options.map_raw(file.as_raw_fd())
        } else {
            options.map_raw_read_only(file.as_raw_fd())
        };
        let memory = memory.expect("a mapping");
        self.mapped.push(Mapped { region, offset, memory, is_writable });
        true
    }
}

impl Request {
    fn receive(socket: &UnixStream) -> Option<Request> {
        let mut header = [0; HEADER_SIZE];
        let (received, file) = socket.recv_with_fd(&mut header).ok()?;
        if received == 0 {
            return None;
        }
        assert_eq!(received, HEADER_SIZE);
        let mut body = [0; MAP_SIZE];
        (&*socket).read_exact(&mut body).ok()?;
        let word = |at: usize| u64::from_ne_bytes(body[at..at + 8].try_into().unwrap());
        Some(Request {
            code: u32::from_ne_bytes(header[..4].try_into().unwrap()),
            region: body[0],
            file_offset: word(8),
            offset: word(16),
            length: word(24),
            is_writable: word(32) == 1,
            file,
        })
    }
}

/// Asks the device at the other end of `socket`, on which nothing is under way, for the sizes of its
/// regions.
pub fn region_sizes(socket: &UnixStream) -> Vec<u64> {
    let header: Vec<u8> =
        [GET_SHMEM_CONFIG, VERSION, 0].iter().flat_map(|word| word.to_ne_bytes()).collect();
    (&*socket).write_all(&header).unwrap();
    let mut reply = vec![0; HEADER_SIZE + 8 + 256 * 8];
    (&*socket).read_exact(&mut reply).unwrap();
    let words = reply[HEADER_SIZE + 8..].chunks_exact(8);
    let sizes: Vec<u64> = words.map(|word| u64::from_ne_bytes(word.try_into().unwrap())).collect();
    let regions = u32::from_ne_bytes(reply[HEADER_SIZE..HEADER_SIZE + 4].try_into().unwrap());
    assert_eq!(sizes.iter().filter(|size| **size > 0).count(), regions as usize);
    sizes[..sizes.iter().rposition(|size| *size > 0).map_or(0, |last| last + 1)].to_vec()
}
