//! Updates that are made once, like the creation of a BTT: cut off everywhere.

use std::collections::HashSet;

use vhost_user_btt::pmem::simulated::{Contents, Effort, Event, Random, Unfenced};

use super::cuts::Violation;
use super::figures::Figures;

const EFFORT: Effort = Effort { most: 400, random: 8, lines: 64 };

/// Cuts off the update that did `events` to a medium with `base`, and lets `verify` look at what that
/// may leave; it is told whether the update had come to its end.
pub fn cut_everywhere(
    base: &Contents,
    events: &[Event],
    figures: &mut Figures,
    verify: &dyn Fn(&Contents, bool) -> Result<(), String>,
) -> Option<Violation> {
    figures.traces += 1;
    let (mut unfenced, mut durable) = (Unfenced::default(), base.clone());
    let mut random = Random::new(1);
    let mut seen = HashSet::new();
    let mut violation = None;
    for (position, event) in events.iter().enumerate() {
        event.replay(&mut unfenced, &mut durable);
        let is_done = position + 1 == events.len();
        let images = unfenced.images(&durable, &EFFORT, &mut random, &mut |image| {
            if violation.is_none() && seen.insert((image.fingerprint(base), is_done)) {
                figures.unique += 1;
                violation = verify(&image, is_done).err();
            }
        });
        figures.points += 1;
        figures.sampled_points += u64::from(!images.complete);
        figures.images += images.made as u64;
        if violation.is_some() {
            return violation.map(|what| Violation { position: Some(position), what });
        }
    }
    None
}
