//! What has to be true of the repair of any image.
//!
//! * A plan stores nothing, and carried out comes to what it says.
//! * A second repair finds nothing to do, and the bytes that were saved take the first one back.
//! * What is clean after it, the engine opens; to what was clean before it, nothing is done but what
//!   opening does, or what was asked for.

use libfuzzer_sys::arbitrary::{self, Arbitrary};
use vhost_user_btt::btt::Version;
use vhost_user_btt::btt::check::repair::{Plan, RepairOptions};
use vhost_user_btt::btt::check::{CheckOptions, Verdict};
use vhost_user_btt::pmem::PersistentMemory;
use vhost_user_btt::pmem::simulated::{Contents, Simulated};

use crate::verify::verify;

/// How an image is repaired.
#[derive(Debug, Clone, Copy, Arbitrary)]
pub struct HowToRepair {
    force: bool,
    rewrite_log: bool,
}

/// Repairs an image.
pub fn verify_repair(contents: &Contents, version: Option<Version>, how: HowToRepair) {
    let HowToRepair { force, rewrite_log } = how;
    let check = CheckOptions { version, ..CheckOptions::default() };
    let options = RepairOptions { check, force, rewrite_log };
    let medium = Simulated::of(contents.clone());
    let plan = Plan::make(&medium, &options, &mut |_, _| {});
    assert!(medium.snapshot() == *contents, "a plan was carried out");
    let pending = plan.before.pending_count();
    if plan.before.verdict() == Verdict::Clean && pending == 0 && !rewrite_log && !force {
        assert!(plan.repairs.is_empty(), "nothing was wrong: {:?}", plan.repairs);
    }

    let saved = plan.save(&medium);
    plan.carry_out(&medium, &mut |_, _| {}).expect("every store is inside the medium");
    let again = Plan::make(&medium, &options, &mut |_, _| {});
    let findings = |plan: &Plan| format!("{:?}", plan.before.findings);
    assert_eq!(format!("{:?}", plan.after.findings), findings(&again), "another end than planned");
    assert!(again.repairs.is_empty(), "repaired, and again: {:?}", again.repairs);
    if plan.verdict() == Verdict::Clean {
        verify(&medium.snapshot(), version, &[]);
    }

    for saved in saved {
        let mut found = vec![0; saved.after.len()];
        medium.read_bytes(saved.offset, &mut found).expect("inside the medium");
        assert!(found == saved.after, "another repair than the backup says");
        let before = saved.before.as_ref().expect("nothing is poisoned");
        medium.write_bytes(saved.offset, before).expect("inside the medium");
    }
    assert!(medium.snapshot() == *contents, "a repair that is taken back leaves traces");
}
