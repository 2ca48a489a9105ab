//! The concurrent protocols of the engine, in every interleaving: read tracking, map locks, lanes that
//! queues share, rounds, pages of several sectors; group commit, and write-back to the storage device.
//!
//! The engine is the real one, compiled against the atomics and mutexes of loom (feature `loom`). A
//! model is a few threads that read and write a few sectors through queues of their own; it is run
//! again and again, until each order of what the threads do to each other was tried, and each value
//! that a load may return. [`explore`] says what is made sure of in each, [`medium`] how the medium
//! lets threads see each other's stores. Every test of a model says what can be read, exactly: what
//! is not read in any interleaving fails it just as well, since then they are not all.
//!
//! Mutants show that the models would notice: the engine with one fence, wait, look or lock missing
//! fails.
//!
//! Not shown: interleavings of three threads with more preemptions than the model says (2 or 3;
//! models of two threads have no bound); what more threads do; what loom's memory model leaves out
//! (a fence orders more there than it does in C++). Nothing here fails but where it is said to: power
//! failures are for another test.
//!
//! `scripts/loom` runs all models, `scripts/loom --preemptions 4` more thoroughly.

mod explore;
mod failures;
mod flags;
mod group_commit;
mod groups;
mod image;
mod lanes;
mod medium;
mod pages;
mod parts;
mod reuse;
mod rounds;
mod sectors;
mod streaming;
mod writeback;
