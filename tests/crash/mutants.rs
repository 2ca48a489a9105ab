//! Mutants: each has to be noticed.

use std::fmt;

use vhost_user_btt::btt::mutant::Mutant;
use vhost_user_btt::dax::mutant::Mutant as DaxMutant;
use vhost_user_btt::vhost_user::mutant::Mutant as WorkerMutant;

use super::creation;
use super::cuts::Violation;
use super::dax;
use super::dax_creation;
use super::dax_growth;
use super::dax_repair;
use super::dax_resizing;
use super::dax_torn;
use super::deferred;
use super::defragmented;
use super::exhaust::{self, exhaust, exhaust_moves};
use super::failing;
use super::figures::Figures;
use super::groups;
use super::growth;
use super::killed;
use super::killed_change;
use super::medium_mutants::MediumMutant;
use super::region_mutants::RegionMutant;
use super::ring;
use super::scenarios;
use super::update_mutants::UpdateMutant;

/// An engine with an error, or the one that we have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AnyMutant {
    None,
    Engine(Mutant),
    Medium(MediumMutant),
    Dax(DaxMutant),
    Region(RegionMutant),
    Update(UpdateMutant),
    Worker(WorkerMutant),
}

impl AnyMutant {
    pub fn all() -> Vec<AnyMutant> {
        let engine = Mutant::CRASH.iter().chain(Mutant::GROUPS).chain(Mutant::SYNCS);
        let engine = engine.map(|mutant| AnyMutant::Engine(*mutant));
        let medium = MediumMutant::ALL.map(AnyMutant::Medium);
        let dax = DaxMutant::CRASH.iter().map(|mutant| AnyMutant::Dax(*mutant));
        let worker = WorkerMutant::CRASH.iter().map(|mutant| AnyMutant::Worker(*mutant));
        let region = RegionMutant::ALL.map(AnyMutant::Region);
        let update = UpdateMutant::ALL.map(AnyMutant::Update);
        engine.chain(medium).chain(update).chain(dax).chain(region).chain(worker).collect()
    }

    pub fn of_engine(self) -> Option<Mutant> {
        if let AnyMutant::Engine(mutant) = self { Some(mutant) } else { None }
    }

    pub fn of_dax(self) -> Option<DaxMutant> {
        if let AnyMutant::Dax(mutant) = self { Some(mutant) } else { None }
    }

    pub fn of_region(self) -> Option<RegionMutant> {
        if let AnyMutant::Region(mutant) = self { Some(mutant) } else { None }
    }

    pub fn of_update(self) -> Option<UpdateMutant> {
        if let AnyMutant::Update(mutant) = self { Some(mutant) } else { None }
    }

    /// Returns whether nothing but changes of regions can notice it.
    fn is_of_regions(self) -> bool {
        self.of_dax().is_some() || self.of_region().is_some() || self.is_of_clean_pages()
    }

    pub fn of_worker(self) -> Option<WorkerMutant> {
        if let AnyMutant::Worker(mutant) = self { Some(mutant) } else { None }
    }

    /// Returns whether it is about what opening a region makes of clean pages.
    fn is_of_clean_pages(self) -> bool {
        use MediumMutant::{CleanEntryTrusted, CleanSuperblockTrusted};
        matches!(
            self,
            AnyMutant::Dax(DaxMutant::RightWordSkipped)
                | AnyMutant::Medium(CleanSuperblockTrusted | CleanEntryTrusted)
        )
    }

    /// Returns whether it is about what opening does.
    fn is_of_opening(self) -> bool {
        use MediumMutant::{
            OpenedBackupUnflushed, OpenedFlogUnflushed, OpenedMapUnflushed, OpenedPrimaryUnflushed,
            OpenedSuperblockUnflushed, OpenedUnfenced,
        };
        self.of_medium().is_some_and(|mutant| {
            matches!(
                mutant,
                OpenedBackupUnflushed
                    | OpenedFlogUnflushed
                    | OpenedMapUnflushed
                    | OpenedPrimaryUnflushed
                    | OpenedSuperblockUnflushed
                    | OpenedUnfenced
            )
        })
    }

    /// Returns whether it is about what comes after a failure.
    fn is_of_failures(self) -> bool {
        use MediumMutant::{FailedFenceGood, FailureForgotten, FailureUnseen, TouchForgotten};
        let of_medium = [FailedFenceGood, FailureForgotten, FailureUnseen, TouchForgotten];
        of_medium.map(AnyMutant::Medium).contains(&self)
    }

    /// Returns whether it is about groups, so that nothing else can notice it.
    fn is_of_groups(self) -> bool {
        use MediumMutant::{RecordAfterFence, RecordUnflushed, UndoUnfenced};
        let of_medium = [RecordAfterFence, RecordUnflushed, UndoUnfenced].map(AnyMutant::Medium);
        of_medium.contains(&self)
            || self.of_engine().is_some_and(|mutant| Mutant::GROUPS.contains(&mutant))
    }

    /// Returns whether it is about syncs that are shared or deferred, so that nothing else can notice it.
    fn is_of_syncs(self) -> bool {
        self.of_engine().is_some_and(|mutant| Mutant::SYNCS.contains(&mutant))
    }

    /// Returns whether it is about moving sectors, so that nothing else can notice it.
    fn is_of_moves(self) -> bool {
        use Mutant::{
            MovedUnfenced, MovedUnlocked, MovedUnsynced, MovedZeroForgotten, MovedZeroUnfilled,
            NeverWrittenMoved,
        };
        self.of_engine().is_some_and(|mutant| {
            matches!(
                mutant,
                MovedUnfenced
                    | MovedUnlocked
                    | MovedUnsynced
                    | MovedZeroForgotten
                    | MovedZeroUnfilled
                    | NeverWrittenMoved
            )
        })
    }

    pub fn of_medium(self) -> Option<MediumMutant> {
        if let AnyMutant::Medium(mutant) = self { Some(mutant) } else { None }
    }
}

impl fmt::Display for AnyMutant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            AnyMutant::None => f.write_str("none"),
            AnyMutant::Engine(mutant) => write!(f, "{mutant:?}"),
            AnyMutant::Medium(mutant) => write!(f, "{mutant:?}"),
            AnyMutant::Dax(mutant) => write!(f, "dax {mutant:?}"),
            AnyMutant::Region(mutant) => write!(f, "region {mutant:?}"),
            AnyMutant::Update(mutant) => write!(f, "update {mutant:?}"),
            AnyMutant::Worker(mutant) => write!(f, "worker {mutant:?}"),
        }
    }
}

/// What noticed a mutant first: the scenario, and what was wrong there.
pub fn hunt(mutant: AnyMutant) -> Option<(String, Violation)> {
    if mutant.is_of_regions() {
        return hunt_dax(mutant);
    }
    if mutant.of_worker().is_some() {
        return hunt_in(ring::all(), |ring| ring.exhaust(mutant, &mut Figures::default()));
    }
    let mut figures = Figures::default();
    let mut scenarios = || {
        scenarios::for_mutants().into_iter().find_map(|scenario| {
            let violation = exhaust(&scenario, mutant, scenarios::PREEMPTIONS, &mut figures);
            violation.map(|violation| (scenario.name.clone(), violation))
        })
    };
    let creations = || {
        creation::for_mutants().into_iter().find_map(|creation| {
            let violation = creation.exhaust(mutant, &mut Figures::default());
            violation.map(|violation| (creation.to_string(), violation))
        })
    };
    let growths = || {
        growth::for_mutants().into_iter().find_map(|growth| {
            let violation = growth.exhaust(mutant, &mut Figures::default());
            violation.map(|violation| (growth.to_string(), violation))
        })
    };
    let kills =
        || hunt_in(killed::for_mutants(), |killed| killed.exhaust(mutant, &mut Figures::default()));
    let changes =
        || hunt_in(killed_change::all(), |change| change.exhaust(mutant, &mut Figures::default()));
    let failures = || {
        hunt_in(failing::for_mutants(), |faulty| faulty.exhaust(mutant, &mut Figures::default()))
    };
    let wide = || {
        hunt_in(scenarios::wide_for_mutants(), |scenario| {
            exhaust::sample(scenario, mutant, &mut Figures::default())
        })
    };
    if mutant.is_of_moves() {
        return hunt_in(defragmented::for_mutant(mutant), |scenario| {
            exhaust_moves(scenario, mutant, scenarios::PREEMPTIONS, &mut Figures::default())
        });
    }
    if mutant.is_of_syncs() {
        let deferred = || {
            hunt_in(deferred::for_mutants(), |deferred| {
                deferred.exhaust(mutant, &mut Figures::default())
            })
        };
        return match mutant.of_engine() {
            Some(Mutant::DeferredFailureForgotten | Mutant::UnsyncedOverlooked) => failures(),
            _ => deferred(),
        };
    }
    if mutant.is_of_groups() {
        let groups = || {
            hunt_in(groups::for_mutants(), |grouped| {
                grouped.exhaust(mutant, &mut Figures::default())
            })
        };
        // Where it is noticed soonest: the others take minutes.
        return match mutant.of_engine() {
            Some(Mutant::OnlyWholeRecordsSeen) => kills().or_else(groups),
            _ => groups().or_else(kills),
        };
    }
    // Where it is noticed if anywhere, or soonest: the others take minutes.
    if mutant.is_of_opening() {
        return changes().or_else(kills).or_else(failures).or_else(scenarios);
    }
    if mutant.is_of_failures() {
        return failures().or_else(changes).or_else(kills).or_else(scenarios);
    }
    if mutant == AnyMutant::Medium(MediumMutant::NoInfoFence) {
        return creations().or_else(growths).or_else(scenarios);
    }
    if mutant.of_update().is_some() {
        return creations().or_else(growths);
    }
    let found = scenarios().or_else(wide).or_else(creations).or_else(growths);
    found.or_else(kills).or_else(changes).or_else(failures)
}

/// The first of `all` in which there is a violation.
fn hunt_in<T: fmt::Display>(
    all: Vec<T>,
    exhaust: impl Fn(&T) -> Option<Violation>,
) -> Option<(String, Violation)> {
    all.into_iter().find_map(|item| Some((item.to_string(), exhaust(&item)?)))
}

fn hunt_dax(mutant: AnyMutant) -> Option<(String, Violation)> {
    let creations = dax_creation::all().into_iter().find_map(|creation| {
        let violation = creation.exhaust(mutant, &mut Figures::default());
        violation.map(|violation| (creation.to_string(), violation))
    });
    let growths = || {
        dax_growth::all().into_iter().find_map(|growth| {
            let violation = growth.exhaust(mutant, &mut Figures::default());
            violation.map(|violation| (growth.to_string(), violation))
        })
    };
    let repairs = || {
        dax_repair::all().into_iter().find_map(|repair| {
            let violation = repair.exhaust(mutant, &mut Figures::default());
            violation.map(|violation| (repair.to_string(), violation))
        })
    };
    let torn = || hunt_in(dax_torn::all(), |twice| twice.exhaust(mutant, &mut Figures::default()));
    let resizings = || {
        hunt_in(dax_resizing::all(), |resizing| resizing.exhaust(mutant, &mut Figures::default()))
    };
    if mutant.is_of_clean_pages() {
        // Where it is noticed if anywhere: the others take minutes.
        return resizings();
    }
    creations.or_else(growths).or_else(repairs).or_else(torn).or_else(resizings).or_else(|| {
        dax::all().into_iter().find_map(|history| {
            let violation = history.exhaust(mutant, &mut Figures::default());
            violation.map(|violation| (history.to_string(), violation))
        })
    })
}
