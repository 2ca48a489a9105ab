//! The persistence model: what of the stores to persistent memory a power failure may lose.
//!
//! * [`Unfenced`] is told of every store, flush and fence, and keeps what need not be durable yet.
//! * [`Contents`] is the bytes of a medium: sparse, and cheap to copy.
//! * [`Unfenced::images`] makes all that a failure may leave, or a sample; [`Unfenced::fail`] one of them.
//! * [`Random`] makes the choices, the same ones for the same seed.
//!
//! # What a power failure may leave
//!
//! What was flushed and fenced is there. Of the rest, per cache line, any prefix of the line's
//! ordinary stores, since a CPU may write a line back at any time; and of streaming stores any subset
//! of their aligned words of eight bytes. An aligned store of up to eight bytes never tears. A fence
//! speaks for its own thread: what another thread flushed or streamed is none of its business.

mod contents;
pub(super) mod images;
mod random;
pub(super) mod unfenced;

pub use contents::Contents;
pub use images::{Effort, Images};
pub use random::Random;
pub use unfenced::{Durable, Unfenced};
