//! Errors that tests can give a region, its journal and its repair.

mutants! {
    /// Those that the crash tests must notice.
    CRASH: {
        /// Entries whose checksum does not match are replayed.
        TornEntryReplayed,
        /// The oldest entry is replayed instead of the newest.
        OldestReplayed,
        /// Nothing is replayed.
        NoReplay,
        /// Sequence numbers start again when the region is opened.
        SequenceRestarts,
        /// The ring starts again at its first bucket when the region is opened.
        RingRestarts,
        /// An entry that no longer fits into a bucket reaches over its end.
        EntryCrossesBucket,
        /// The checksum of a page does not follow its contents.
        ChecksumForgotten,
        /// Replay does not store the words that are right already.
        RightWordSkipped,
        /// A repair does not complete what was pending.
        PendingForgotten,
    }
    /// Those that the unit tests must notice.
    UNIT: {
        /// A reader without a claim looks at the newest entry of the region once.
        LookedAtOnce,
        /// A reader without a claim does not compare the superblock of the region.
        GrowthOverlooked,
        /// An extent may have pages that are no whole unit of the alignment.
        RemainderIgnored,
        /// An extent may begin anywhere.
        StartIgnored,
        /// Growth takes all pages that are free behind the last extent, whole units or not.
        PiecesMisaligned,
        /// Where a metadata page is missing, growth does not try with fewer extents.
        NoFewerExtents,
        /// Unknown features that forbid changes are passed over.
        FeaturesIgnored,
    }
}
