//! Mutants: each has to be noticed.

use std::fmt;

use vhost_user_btt::btt::mutant::Mutant;

use super::creation;
use super::cuts::Violation;
use super::exhaust::exhaust;
use super::figures::Figures;
use super::growth;
use super::medium::MediumMutant;
use super::scenarios;

/// An engine with an error, or the one that we have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AnyMutant {
    None,
    Engine(Mutant),
    Medium(MediumMutant),
}

impl AnyMutant {
    pub fn all() -> Vec<AnyMutant> {
        let engine = Mutant::ALL.iter().map(|mutant| AnyMutant::Engine(*mutant));
        engine.chain(MediumMutant::ALL.map(AnyMutant::Medium)).collect()
    }

    pub fn of_engine(self) -> Option<Mutant> {
        if let AnyMutant::Engine(mutant) = self { Some(mutant) } else { None }
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
        }
    }
}

/// What noticed a mutant first: the scenario, and what was wrong there.
pub fn hunt(mutant: AnyMutant) -> Option<(String, Violation)> {
    let mut figures = Figures::default();
    let scenarios = scenarios::for_mutants().into_iter().find_map(|scenario| {
        let violation = exhaust(&scenario, mutant, scenarios::PREEMPTIONS, &mut figures);
        violation.map(|violation| (scenario.name.clone(), violation))
    });
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
    scenarios.or_else(creations).or_else(growths)
}
