//! Errors that tests can give a region, its journal and its repair.

mutants! {
    /// Those that the crash tests must notice.
    CRASH: {
        /// The stores that apply an entry are not flushed.
        ApplyUnflushed,
        /// The stores that apply an entry are not fenced before the next entry.
        ApplyUnfenced,
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
        /// An entry is written over what another one has left that was cut off.
        PlaceNotZeroed,
        /// Pages are zeroed after they were given to their owner.
        ZeroedLate,
        /// Pages are zeroed when they are freed and at no other time.
        ZeroedAtFreeOnly,
        /// Pages are zeroed while they are still their owner's.
        ZeroedBeforeFree,
        /// The superblock of a new region is written before its tables.
        SuperblockFirst,
        /// The superblock is written before its backup, in one go.
        SuperblocksUnfenced,
        /// A region that is replaced is not invalidated first.
        OldRegionLeft,
        /// The journal of a new region keeps what was there.
        JournalNotZeroed,
        /// Superblock and backup of a region that grows are written in one go.
        GrownAtOnce,
        /// The backup of a region that grows is written while the superblock is unusable.
        GrownFromBackup,
        /// Opening does not make the pages of the superblocks dirty.
        CleanSuperblockTrusted,
        /// Replay does not make the page of its entry dirty.
        CleanEntryTrusted,
        /// Replay does not store the words that are right already.
        RightWordSkipped,
        /// A repair does not go through the journal.
        MendedInPlace,
        /// A repair empties the journal before it begins.
        JournalEmptied,
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
