//! Mutants that the tests of this module must notice.

use std::panic::catch_unwind;

use super::super::mutant::{Mutant, activate};
use super::{alignment, devices, features, look};

/// The test that notices a mutant.
fn test_for(mutant: Mutant) -> fn() {
    match mutant {
        Mutant::LookedAtOnce => look::changes_are_seen_wholly_or_not_at_all,
        Mutant::GrowthOverlooked => {
            look::a_device_in_pages_that_the_region_has_just_got_is_seen
        }
        Mutant::RemainderIgnored | Mutant::StartIgnored => {
            alignment::an_extent_begins_and_ends_at_multiples_of_its_alignment_inside_the_region
        }
        Mutant::PiecesMisaligned => {
            devices::growth_behind_the_last_extent_takes_whole_units_only
        }
        Mutant::NoFewerExtents => {
            devices::growth_takes_few_large_extents_where_small_ones_need_a_metadata_page_that_is_not_there
        }
        Mutant::FeaturesIgnored => {
            features::a_region_with_unknown_features_that_forbid_changes_is_open_for_reading
        }
        other => panic!("no test is named for {other:?}"),
    }
}

#[test]
fn each_mutant_of_the_unit_tests_is_noticed() {
    for mutant in Mutant::UNIT {
        let test = test_for(*mutant);
        test();
        activate(Some(*mutant));
        let noticed = catch_unwind(test).is_err();
        activate(None);
        assert!(noticed, "{mutant:?} lives");
    }
}
