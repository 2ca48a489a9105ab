//! Mutants of a queue's worker.

mutants! {
    /// Those that the crash tests must notice.
    CRASH: {
        /// The guest is told of a flush before that is over.
        ToldBeforeFlushed,
        /// The guest is told of requests before a flush that came before them.
        ToldOutOfOrder,
        /// The guest is told of writes that are not durable, though it has chosen that they are.
        WriteThroughForgotten,
    }
}
