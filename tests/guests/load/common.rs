//! What this program has in common with the tests of the whole path.

#![allow(dead_code, reason = "the tests need more of it")]

#[path = "../../common/driver.rs"]
pub mod driver;
#[path = "../../common/ledger.rs"]
pub mod ledger;
#[path = "../../common/load.rs"]
pub mod load;
#[path = "../../common/patience.rs"]
pub mod patience;
#[path = "../../common/sectors.rs"]
pub mod sectors;
