//! Info blocks.

use uuid::Uuid;

use super::Round;
use super::remedy::{Remedy, Repair, Store};
use crate::btt::check::{ArenaReport, CheckOptions, Fault, Finding, InfoCopy, Severity, check};
use crate::btt::format::geometry::layout;
use crate::btt::format::geometry::{ARENA_MAX_SIZE, INFO_SIZE};
use crate::btt::format::info_block::{InfoBlock, InfoFault};
use crate::pmem::{Overlay, PersistentMemory};

/// Makes both info blocks of an arena say `info`. The second is written first: readers use the first one,
/// and one of them is always whole.
pub(super) fn write_both(start: u64, info: &InfoBlock) -> Vec<Store> {
    let bytes = info.encode().to_vec();
    let backup = start + info.geometry.info2off;
    vec![
        Store::Bytes { offset: backup, bytes: bytes.clone() },
        Store::Barrier,
        Store::Bytes { offset: start, bytes },
        Store::Barrier,
    ]
}

impl<M: PersistentMemory> Round<'_, M> {
    /// What to do about info blocks, one sort after another.
    pub(super) fn info_blocks(&self) -> Vec<Repair> {
        let sorts = [Self::copies, Self::meaningless, Self::parents, Self::others, Self::lost];
        let mut found = sorts.into_iter().map(|sort| sort(self));
        found.find(|repairs| !repairs.is_empty()).unwrap_or_default()
    }

    /// Copies that cannot be used, and copies that differ.
    fn copies(&self) -> Vec<Repair> {
        let mut repairs = Vec::new();
        for finding in self.report.findings.iter() {
            let Some(arena) = finding.arena else { continue };
            let (remedy, stores) = match finding.fault {
                Fault::InfoBad { copy, offset, fault } => {
                    let remedy = Remedy::RestoreInfo { copy, offset };
                    let good = self.other_copy(arena, copy);
                    (remedy, self.restored(good, offset, &fault))
                }
                Fault::InfoDiffers { primary, backup, .. } => {
                    (Remedy::EqualiseInfo { backup }, self.equalised(arena, primary, backup))
                }
                _ => continue,
            };
            repairs.extend(stores.map(|stores| Repair { arena: Some(arena), remedy, stores }));
        }
        repairs
    }

    /// Offset of the copy that is not `bad`.
    fn other_copy(&self, arena: usize, bad: InfoCopy) -> u64 {
        let ArenaReport { start, info, .. } = self.report.arenas[arena];
        match bad {
            InfoCopy::Primary => start + info.geometry.info2off,
            InfoCopy::Backup => start,
        }
    }

    /// Writes what is at `good` to `offset`, byte by byte the same.
    fn restored(&self, good: u64, offset: u64, fault: &InfoFault) -> Option<Vec<Store>> {
        let mut bytes = vec![0; INFO_SIZE as usize];
        self.medium.read_bytes(good, &mut bytes).ok()?;
        let mut stores = Vec::new();
        if matches!(fault, InfoFault::Media(_)) {
            stores.push(Store::Zero { offset, length: INFO_SIZE });
        }
        stores.push(Store::Bytes { offset, bytes });
        Some(stores)
    }

    /// Makes the backup the same as the primary. If only the backup has the ERROR flag, the process
    /// that set it ended before it set that of the primary, which then gets it.
    fn equalised(&self, arena: usize, primary: u64, backup: u64) -> Option<Vec<Store>> {
        let ArenaReport { start, primary: Ok(info), info: judged, .. } = self.report.arenas[arena]
        else {
            return None;
        };
        if judged.error && !info.error && !mutant!(btt::ErrorFlagForgotten) {
            return Some(write_both(start, &InfoBlock { error: true, ..info }));
        }
        let mut bytes = vec![0; INFO_SIZE as usize];
        self.medium.read_bytes(primary, &mut bytes).ok()?;
        Some(vec![Store::Bytes { offset: backup, bytes }])
    }

    /// Bytes without a meaning: a later version of the format may have given them one.
    fn meaningless(&self) -> Vec<Repair> {
        let found = self.report.findings.iter().filter_map(|finding| match finding.fault {
            Fault::InfoReserved { .. } if self.options.force => finding.arena,
            _ => None,
        });
        let mut arenas: Vec<usize> = found.collect();
        arenas.dedup();
        let repair = |number: usize| {
            let ArenaReport { start, info, .. } = self.report.arenas[number];
            let stores = write_both(start, &info);
            Repair { arena: Some(number), remedy: Remedy::CleanInfo, stores }
        };
        arenas.into_iter().map(repair).collect()
    }

    /// The parent of a BTT that is said to be in another namespace: in all arenas, for they have to be
    /// of the same.
    fn parents(&self) -> Vec<Repair> {
        let Some(namespace) = self.options.check.namespace.filter(|_| self.options.force) else {
            return Vec::new();
        };
        let is_foreign = |info: &InfoBlock| {
            let parent: Uuid = info.parent_uuid;
            !parent.is_nil() && parent != namespace
        };
        let Some(first) = self.report.arenas.first() else { return Vec::new() };
        let arenas = self.report.arenas.iter().enumerate();
        let ours = arenas.filter(|(_, arena)| arena.info.uuid == first.info.uuid);
        let repairs = ours.filter(|(_, arena)| is_foreign(&arena.info)).map(|(number, arena)| {
            let parent = arena.info.parent_uuid;
            let info = InfoBlock { parent_uuid: namespace, ..arena.info };
            let remedy = Remedy::AdoptNamespace { namespace, parent };
            Repair { arena: Some(number), remedy, stores: write_both(arena.start, &info) }
        });
        // The first arena's last: until then, the BTT is still not the namespace's.
        let mut repairs: Vec<Repair> = repairs.collect();
        repairs.reverse();
        repairs
    }

    /// What is left of a BTT of version 2.0 in the page that one of version 1.1 leaves alone.
    fn others(&self) -> Vec<Repair> {
        let found = self.report.findings.iter().filter_map(|finding| match finding.fault {
            Fault::OtherBtt { offset, .. } if self.options.force => Some(offset),
            _ => None,
        });
        // The place of the backup is the same for both versions: never the one in use.
        let in_use = |offset: &u64| {
            self.report.arenas.iter().any(|arena| {
                let size = arena.info.geometry.size();
                (arena.start..arena.start + size).contains(offset)
            })
        };
        let repair = |offset| {
            let stores = vec![Store::Bytes { offset, bytes: vec![0; INFO_SIZE as usize] }];
            Repair { arena: None, remedy: Remedy::WipeOther { offset }, stores }
        };
        found.filter(|offset| !in_use(offset)).map(repair).collect()
    }

    /// A later arena that has lost both its info blocks: what they said follows from the size of the
    /// namespace, and that of the first arena. Believed if flog and map are found where it says.
    fn lost(&self) -> Vec<Repair> {
        let found = self.report.findings.iter().find_map(|finding| match finding.fault {
            Fault::InfoLost { start, .. } if self.options.force => Some((finding.arena?, start)),
            _ => None,
        });
        let Some((number, start)) = found else { return Vec::new() };
        let infos = self.candidates(number, start).into_iter();
        let repair = infos.map(|info| Repair {
            arena: Some(number),
            remedy: Remedy::RebuildInfo { start },
            stores: write_both(start, &info),
        });
        repair.filter(|repair| self.fits(number, repair)).take(1).collect()
    }

    /// Returns whether an arena has no damage once its info blocks are written.
    fn fits(&self, number: usize, repair: &Repair) -> bool {
        let overlay = Overlay::new(self.medium);
        let is_done = repair.stores.iter().try_for_each(|store| store.apply(&overlay)).is_ok();
        let options = CheckOptions { most_findings: 1, ..self.options.check };
        let report = check(&overlay, &options, &mut |_, _| {});
        let is_damage = |finding: &Finding| {
            finding.arena == Some(number) && finding.fault.kind().severity() == Severity::Damage
        };
        mutant!(btt::AnyInfoFits)
            || is_done && report.arenas.len() > number && !report.findings.iter().any(is_damage)
    }

    /// What the info blocks of the arena at `start` will have said: as created together with the
    /// first, or appended as the last.
    fn candidates(&self, number: usize, start: u64) -> Vec<InfoBlock> {
        let Some(first) = self.report.arenas.first().filter(|_| number > 0) else {
            return Vec::new();
        };
        let (size, origin) = (self.medium.size(), first.info);
        let lba_size = origin.geometry.lba_size;
        let mut created = layout(size - first.start, origin.geometry.nextoff, lba_size);
        let created = created.find(|(offset, _)| first.start + offset == start);
        let mut appended = layout(size.saturating_sub(start), ARENA_MAX_SIZE, lba_size);
        let geometries = created.into_iter().chain(appended.next()).map(|(_, geometry)| geometry);
        geometries.map(|geometry| InfoBlock { error: false, geometry, ..origin }).collect()
    }
}
