//! Finding the arenas, by their info blocks: a decision procedure of the checker's own.
//!
//! There are four places where a BTT may show itself: byte 0 (the primary of version 2.0), byte 4096
//! (that of 1.1), and the end of the namespace, or of its first 512 GiB, where the backup of the
//! first arena stands for both versions. Of these, byte 4096 lies in block 0 of a BTT of version 2.0,
//! and so within reach of a guest that writes info blocks as data; no guest can write byte 0.

use super::CheckOptions;
use super::finding::{Fault, InfoCopy};
use super::report::Findings;
use crate::btt::format::geometry::{ARENA_MAX_SIZE, ARENA_MIN_SIZE, INFO_SIZE};
use crate::btt::format::info_block::{InfoBlock, InfoFault, Version};
use crate::btt::format::units::Block;
use crate::pmem::{PAGE, PersistentMemory};

/// Bytes of an info block without a meaning, which are written as zeroes: the upper bits of the
/// flags, and all between the last offset and the checksum.
const RESERVED: [std::ops::Range<usize>; 2] = [49..52, 120..4088];
/// Offset of the flags in an info block, and the bits of their first byte without a meaning.
const FLAGS: (usize, u8) = (48, !1);

/// An arena that was found.
#[derive(Debug, Clone, Copy)]
pub(super) struct Located {
    /// Offset of the arena in the namespace.
    pub start: u64,
    /// What it says of itself: in the primary, if that can be used. The error flag of either counts.
    pub info: InfoBlock,
    pub primary: Result<InfoBlock, InfoFault>,
    pub backup: Result<InfoBlock, InfoFault>,
}

/// The two places of an arena's info block.
#[derive(Debug)]
struct Places {
    /// Offset of the arena in the namespace.
    start: u64,
    version: Version,
    primary: InfoPlace,
    backup: InfoPlace,
}

/// A place of an info block, and what is there.
#[derive(Debug)]
struct InfoPlace {
    /// Offset in the namespace.
    offset: u64,
    info: Result<InfoBlock, InfoFault>,
    /// The block as it stands there; of no meaning where it could not be read.
    bytes: Box<[u8; INFO_SIZE as usize]>,
}

impl Places {
    fn located(&self) -> Option<Located> {
        let (primary, backup) = (self.primary.info, self.backup.info);
        let mut info = primary.or(backup).ok()?;
        info.error = [primary, backup].iter().flatten().any(|info| info.error);
        Some(Located { start: self.start, info, primary, backup })
    }

    fn is_usable(&self) -> bool {
        self.primary.info.is_ok() || self.backup.info.is_ok()
    }

    /// Returns whether both copies are there, and say the same.
    fn is_whole(&self) -> bool {
        self.primary.info.is_ok() && self.primary.info == self.backup.info
    }

    /// The fault of an arena of which neither copy can be used.
    fn lost(&self) -> Option<Fault> {
        Some(Fault::InfoLost {
            version: self.version,
            start: self.start,
            backup_offset: self.backup.offset,
            primary: self.primary.info.err()?,
            backup: self.backup.info.err()?,
        })
    }
}

impl InfoPlace {
    /// Returns whether there is, or was, an info block here that was meant for this place.
    fn has_trace(&self) -> bool {
        !matches!(
            self.info,
            Err(InfoFault::Signature
                | InfoFault::Misplaced { .. }
                | InfoFault::CopyElsewhere { .. })
        )
    }
}

/// All arenas of the BTT, in order, up to one that has lost its info blocks. Finds fault with info
/// blocks (I1) on the way.
pub(super) fn arenas<M: PersistentMemory>(
    medium: &M,
    options: &CheckOptions,
    findings: &mut Findings,
) -> Vec<Located> {
    let mut found: Vec<Located> = Vec::new();
    let mut next = first(medium, options, findings);
    // Every arena leads forward by at least 16 MiB, and inside the medium, or is the last: the
    // validation of its geometry makes sure.
    while let Some(places) = next {
        let number = found.len();
        let Some(arena) = places.located() else {
            if let Some(fault) = places.lost() {
                findings.add(number, fault);
            }
            break;
        };
        judge_copies(number, &places, findings);
        match found.first() {
            Some(origin) => judge_kinship(number, &origin.info, &arena.info, findings),
            None => judge_namespace(&arena.info, options, findings),
        }
        found.push(arena);
        let nextoff = arena.info.geometry.nextoff;
        next = (nextoff != 0).then(|| look(medium, arena.start + nextoff, places.version));
    }
    found
}

/// The first arena of the BTT to be checked, whichever version it has.
fn first<M: PersistentMemory>(
    medium: &M,
    options: &CheckOptions,
    findings: &mut Findings,
) -> Option<Places> {
    let look = |version: Version| {
        let start = version.first_arena();
        let is_wanted = options.version.is_none_or(|wanted| wanted == version);
        let fits = medium.size() >= start + ARENA_MIN_SIZE;
        (is_wanted && fits).then(|| look(medium, start, version))
    };
    let (old, new) = (look(Version::V1_1), look(Version::V2_0));
    let is_usable = |found: &Option<Places>| found.as_ref().is_some_and(Places::is_usable);
    match (is_usable(&old), is_usable(&new)) {
        (true, true) => choose(medium, old?, new?, findings),
        (true, false) => match new.filter(|new| new.primary.has_trace()) {
            Some(new) => believe_beside(medium, old?, &new, findings),
            None => old,
        },
        (false, true) => new,
        (false, false) => {
            let candidates: Vec<Places> = [old, new].into_iter().flatten().collect();
            report_loss(&candidates, findings);
            None
        }
    }
}

/// Chooses between BTTs of both versions: one that is complete before one that is not.
///
/// A guest of the one can put info blocks of the other, both copies, into its own data, and even
/// chain arenas there; but the last backup of its own BTT stands behind all its data, where the last
/// backup of a complete one has to stand.
fn choose<M: PersistentMemory>(
    medium: &M,
    old: Places,
    new: Places,
    findings: &mut Findings,
) -> Option<Places> {
    match (is_complete(medium, &old), is_complete(medium, &new)) {
        (true, false) => {
            findings.add(None, other_btt(&new));
            Some(old)
        }
        (false, true) => {
            let place = if old.primary.info.is_ok() { &old.primary } else { &old.backup };
            findings.add(None, Fault::InfoInData { offset: place.offset });
            Some(new)
        }
        (true, true) | (false, false) => {
            findings.add(None, two_btts(&old, &new));
            None
        }
    }
}

/// Believes a BTT of version 1.1, beside what is left of one of version 2.0, if it is complete.
fn believe_beside<M: PersistentMemory>(
    medium: &M,
    old: Places,
    new: &Places,
    findings: &mut Findings,
) -> Option<Places> {
    if is_complete(medium, &old) {
        findings.add(None, other_btt(new));
        return Some(old);
    }
    findings.add(None, two_btts(&old, new));
    None
}

/// Returns whether the BTT whose first arena is at `first` has both copies of all its info blocks, and takes
/// up the whole medium.
fn is_complete<M: PersistentMemory>(medium: &M, first: &Places) -> bool {
    let mut places = look(medium, first.start, first.version);
    // Leads forward: see `arenas`.
    while places.is_whole() {
        let Some(arena) = places.located() else { return false };
        let geometry = arena.info.geometry;
        if geometry.nextoff == 0 {
            let left = medium.size() - places.start - geometry.info2off - INFO_SIZE;
            let is_largest = geometry.info2off + INFO_SIZE == ARENA_MAX_SIZE;
            return left < PAGE || (is_largest && left < ARENA_MIN_SIZE);
        }
        places = look(medium, places.start + geometry.nextoff, places.version);
    }
    false
}

/// The fault of a medium with two BTTs, neither of which is to be believed.
fn two_btts(old: &Places, new: &Places) -> Fault {
    // Where nothing says how large the one of version 2.0 was, anything behind byte 0 may be data.
    let data = new.located().map_or(INFO_SIZE..u64::MAX, |arena| {
        let geometry = arena.info.geometry;
        geometry.dataoff..geometry.block_offset(Block(geometry.internal_nlba))
    });
    let may_be_data = |place: &InfoPlace| place.info.is_err() || data.contains(&place.offset);
    let old_may_be_data = may_be_data(&old.primary) && may_be_data(&old.backup);
    Fault::TwoBtts { old_may_be_data }
}

/// A BTT of version 2.0 beside the one of version 1.1 that is checked.
fn other_btt(new: &Places) -> Fault {
    let place = if new.primary.has_trace() { &new.primary } else { &new.backup };
    Fault::OtherBtt { offset: place.offset, fault: place.info.err() }
}

/// Says what is left of a BTT that cannot be used.
///
/// The place of the backup is the same for both versions, so the primaries say which it was.
fn report_loss(candidates: &[Places], findings: &mut Findings) {
    let by_primary = candidates.iter().any(|places| places.primary.has_trace());
    let mut faults = candidates
        .iter()
        .filter(|places| {
            let copy = if by_primary { &places.primary } else { &places.backup };
            copy.has_trace()
        })
        .filter_map(Places::lost)
        .peekable();
    if faults.peek().is_none() {
        findings.add(None, Fault::NoBtt);
    }
    faults.for_each(|fault| findings.add(0, fault));
}

/// Reads both info blocks of an arena of version `version` at `start`, which has 16 MiB at least.
fn look<M: PersistentMemory>(medium: &M, start: u64, version: Version) -> Places {
    let room = medium.size() - start;
    let primary = InfoPlace::read(medium, start, version, room);
    let backup = if let Ok(info) = primary.info {
        InfoPlace::read_backup(medium, start, info.geometry.info2off, version)
    } else {
        // Where an arena ends that fills the room, or the largest.
        let end = room.min(ARENA_MAX_SIZE);
        let usual = InfoPlace::read_backup(medium, start, end - end % PAGE - INFO_SIZE, version);
        let elsewhere = usual.info.is_err() && !usual.has_trace();
        let seen = elsewhere.then(|| backup_before_others(medium, start, version)).flatten();
        seen.unwrap_or(usual)
    };
    Places { start, version, primary, backup }
}

/// The backup of the arena at `start`, where the medium ends with arenas of the same BTT: their
/// backups, from the last on, each say how long their arena is, and so where the one before ends.
fn backup_before_others<M: PersistentMemory>(
    medium: &M,
    start: u64,
    version: Version,
) -> Option<InfoPlace> {
    let mut end = medium.size() - medium.size() % PAGE;
    while end >= start + ARENA_MIN_SIZE {
        // No arena that counts starts before this one; how much room each has is seen afterwards.
        let last = InfoPlace::read(medium, end - INFO_SIZE, version, medium.size() - start);
        let length = last.info.ok()?.geometry.info2off + INFO_SIZE;
        let arena = end.checked_sub(length).filter(|_| length >= ARENA_MIN_SIZE)?;
        if arena == start {
            return Some(InfoPlace::read_backup(medium, start, length - INFO_SIZE, version));
        }
        end = arena;
    }
    None
}

impl InfoPlace {
    /// Reads the backup of the arena at `start`, `info2off` behind it.
    fn read_backup<M: PersistentMemory>(
        medium: &M,
        start: u64,
        info2off: u64,
        version: Version,
    ) -> InfoPlace {
        let mut backup = InfoPlace::read(medium, start + info2off, version, medium.size() - start);
        backup.info = backup.info.and_then(|info| {
            if info.geometry.info2off == info2off {
                Ok(info)
            } else {
                Err(InfoFault::CopyElsewhere { info2off: info.geometry.info2off, found: info2off })
            }
        });
        backup
    }

    /// Reads what is at `offset`, where an info block of version `expected` belongs, of an arena with
    /// `room` bytes.
    fn read<M: PersistentMemory>(
        medium: &M,
        offset: u64,
        expected: Version,
        room: u64,
    ) -> InfoPlace {
        let mut bytes = Box::new([0; INFO_SIZE as usize]);
        let info = medium
            .read_bytes(offset, &mut bytes[..])
            .map_err(InfoFault::from)
            .and_then(|()| InfoBlock::decode(&bytes))
            .and_then(|info| {
                let found = info.version;
                if found != expected {
                    return Err(InfoFault::Misplaced { found, expected });
                }
                info.geometry.validate(room)?;
                Ok(info)
            });
        InfoPlace { offset, info, bytes }
    }

    /// The first byte without a meaning that is not zero, and what it is.
    fn reserved(&self) -> Option<(usize, u8)> {
        let (flags, bits) = FLAGS;
        let rest = RESERVED.into_iter().flatten();
        std::iter::once((flags, self.bytes[flags] & bits))
            .chain(rest.map(|byte| (byte, self.bytes[byte])))
            .find(|&(_, value)| value != 0)
    }
}

/// Finds fault with the copies of one arena's info block, of which one at least can be used.
fn judge_copies(arena: usize, places: &Places, findings: &mut Findings) {
    let (primary, backup) = (&places.primary, &places.backup);
    for (copy, place) in [(InfoCopy::Primary, primary), (InfoCopy::Backup, backup)] {
        let offset = place.offset;
        match place.info {
            Err(fault) => findings.add(arena, Fault::InfoBad { copy, offset, fault }),
            Ok(_) => {
                if let Some((byte, value)) = place.reserved() {
                    findings.add(arena, Fault::InfoReserved { offset, byte, value });
                }
            }
        }
    }
    if primary.info.is_ok() && backup.info.is_ok() {
        let mut pairs = primary.bytes.iter().zip(backup.bytes.iter());
        if let Some(byte) = pairs.position(|(one, other)| one != other) {
            findings.add(
                arena,
                Fault::InfoDiffers { primary: primary.offset, backup: backup.offset, byte },
            );
        }
    }
    if places.located().is_some_and(|arena| arena.info.error) {
        findings.add(arena, Fault::ArenaError);
    }
}

/// Finds fault with an arena that is not of the same BTT as the first, `origin`.
fn judge_kinship(arena: usize, origin: &InfoBlock, info: &InfoBlock, findings: &mut Findings) {
    let (one, other) = (&origin.geometry, &info.geometry);
    let differences = [
        ("uuid", origin.uuid != info.uuid),
        ("parent uuid", origin.parent_uuid != info.parent_uuid),
        ("sector size", one.lba_size != other.lba_size),
    ];
    for (what, _) in differences.into_iter().filter(|(_, differs)| *differs) {
        findings.add(arena, Fault::ArenaForeign { what });
    }
}

/// Finds fault with a BTT in a namespace that is not its own. One without a parent belongs anywhere.
fn judge_namespace(origin: &InfoBlock, options: &CheckOptions, findings: &mut Findings) {
    let parent = origin.parent_uuid;
    if let Some(namespace) = options.namespace
        && !parent.is_nil()
        && parent != namespace
    {
        findings.add(None, Fault::NamespaceForeign { parent, namespace });
    }
}
