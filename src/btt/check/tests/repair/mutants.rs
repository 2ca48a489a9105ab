//! Mutants of repair: the other tests here have to notice each.

use std::panic::{AssertUnwindSafe, catch_unwind, set_hook, take_hook};

use super::trace_mutants::{self, TraceMutant};
use super::*;
use crate::btt::mutant::{self, Mutant};

/// What is to notice them, the quickest first.
const TESTS: [fn(); 11] = [
    every_damage_comes_to_the_end_it_should,
    the_only_sector_without_a_block_gets_its_data_back_by_force_alone,
    an_arena_that_is_read_only_after_an_error_is_left_alone,
    the_error_flag_of_either_info_block_stays,
    metadata_that_cannot_be_read_stay_as_they_are,
    a_later_arena_without_info_blocks_is_worked_out_if_it_fits,
    the_flog_is_rewritten_in_the_standard_layout,
    cut_off::a_page_of_lanes_that_is_cleared_may_be_cut_off,
    cut_off::a_rebuilt_arena_is_taken_up_too,
    cut_off::a_repair_that_is_cut_off_is_taken_up_by_the_next_one,
    cut_off::random_damage_is_repaired_once_and_for_all,
];

/// A repair with an error, or with steps in another order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum AnyMutant {
    Repair(Mutant),
    Trace(TraceMutant),
}

impl AnyMutant {
    fn all() -> impl Iterator<Item = AnyMutant> {
        let of_trace = TraceMutant::ALL.into_iter().map(AnyMutant::Trace);
        Mutant::REPAIR.iter().copied().map(AnyMutant::Repair).chain(of_trace)
    }

    fn activate(self) {
        match self {
            AnyMutant::Repair(mutant) => mutant::activate(Some(mutant)),
            AnyMutant::Trace(mutant) => trace_mutants::activate(Some(mutant)),
        }
    }

    fn is_noticed(self) -> bool {
        TESTS.iter().any(|test| {
            self.activate();
            let passed = catch_unwind(AssertUnwindSafe(test));
            mutant::activate(None);
            trace_mutants::activate(None);
            passed.is_err()
        })
    }
}

#[test]
fn every_mutant_of_repair_is_noticed() {
    // They are noticed by panics, none of which needs to be seen.
    let hook = take_hook();
    set_hook(Box::new(|_| {}));
    let live: Vec<AnyMutant> = AnyMutant::all().filter(|mutant| !mutant.is_noticed()).collect();
    set_hook(hook);
    let all = AnyMutant::all().count();
    println!("figures: repair mutants={all} killed={}", all - live.len());
    assert_eq!(live, []);
}
