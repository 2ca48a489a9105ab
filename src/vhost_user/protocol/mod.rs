//! The vhost-user protocol: messages, and what the ones of a frontend ask for.
//!
//! The field names, numbers and layouts are those of the specification ("Vhost-user Protocol" in QEMU's
//! documentation). The crate `vhost-user-backend`, on which this was built before, serves a trusted
//! frontend well and leaves a hostile one too much: half a message holds its thread for ever, a request
//! that it refuses ends the connection, each connection costs a descriptor for each queue, a region may be
//! longer than its file, a connected socket cannot be served, and neither dirty logs on a running ring nor
//! messages to the frontend are in reach. Here:
//!
//! * [`message`] sends and receives whole messages, each within a time limit, with their descriptors;
//! * [`request`] says what a message asks for, with every length and count checked;
//! * [`back_channel`] is the socket by which the device asks something of the frontend.

pub(super) mod back_channel;
pub(crate) mod message;
pub(super) mod request;
