//! Errors that tests can give the engine, its opening and its repair.

mutants! {
    /// Those that the crash tests must notice.
    CRASH: {
        /// Sequence numbers go 1, 2, 3, 4.
        SequenceRunsOn,
        /// A lane's next entry has the sequence number of its last.
        SequenceKept,
        /// A lane's next entry goes over its last.
        SlotKept,
        /// A lane keeps its free block, which a sector has by now.
        FreeBlockKept,
        /// The flag bits of flog entries are taken for block numbers.
        FlogFlagsKept,
        /// The flog does not say that the freed block was unreadable.
        ErrorForgotten,
        /// Poison of a free block is not cleared before it is filled.
        PoisonKept,
        /// A free block is filled while it is being read.
        NoWaitForReaders,
        /// A writer looks at the first of the blocks only that a queue is reading together.
        FirstSlotAlone,
        /// A queue says of the first block only that it is reading it.
        FirstBlockPublished,
        /// A reader looks again at the first of its sectors only.
        FirstSectorLookedAt,
        /// A reader does not look again whether its block is still the sector's.
        NoSecondLook,
        /// Map locks are released before the map entries are durable.
        EarlyUnlock,
        /// Map locks are not taken.
        NoMapLocks,
        /// Map locks are taken in the order of the requests.
        UnsortedLocks,
        /// A map entry is not flushed if the next sector of the round has its own in a cache line of the
        /// same number, in whichever arena.
        LineOfAnyArena,
        /// A sector may be in a round twice.
        SameSectorTwice,
        /// Part of a sector is replaced without the map lock.
        ModifyUnlocked,
        /// Sectors are trimmed without the map lock.
        TrimUnlocked,
        /// A trimmed sector is mapped to the block of its own number.
        TrimForgetsBlock,
        /// A trimmed sector that could not be read is no longer known to be so.
        TrimForgetsError,
        /// A sector is marked as unreadable without a look whether it was written since.
        ErrorMarkedBlindly,
        /// Writes that were superseded are replayed too.
        SupersededReplayed,
        /// A trim takes it for durable that another one has zeroed its sector.
        TrimTrustsZero,
        /// A read takes it for durable that a sector was trimmed.
        TrimShownUnfenced,
        /// A sector that was never written is moved with what its block happens to hold.
        NeverWrittenMoved,
        /// A sector is moved without the map lock.
        MovedUnlocked,
        /// What a moved sector holds is not durable before the flog names its new block.
        MovedUnfenced,
        /// In the page cache, the steps of a move are ordered by the CPU alone.
        MovedUnsynced,
        /// A moved sector that reads as zeroes keeps the flag, and its new block has what was in the old one.
        MovedZeroUnfilled,
        /// A moved sector that reads as zeroes is one with data.
        MovedZeroForgotten,
    }
    /// Those of syncs that are shared or deferred, which the crash tests must notice.
    SYNCS: {
        /// The flog entry of a lane is replaced though the map entry of its last write is not durable.
        LaneUnsettled,
        /// A sector is logged although the map entry that another lane has stored for it is not durable.
        SectorUnsettled,
        /// A sync that had begun before a map entry was stored is taken for one that made it durable.
        BegunSyncTrusted,
        /// A queue shares a sync that had begun before it asked for one.
        BegunSyncJoined,
        /// A sync that was to make map entries durable fails, and the round goes on.
        DeferredFailureForgotten,
        /// A reader believes a page of the map that is not durable.
        UnsyncedOverlooked,
    }
    /// Those that the crash tests of groups must notice.
    GROUPS: {
        /// A write is cut into groups from its first sector on, wherever that is.
        PieceUncut,
        /// Of a group, only the first sector is looked for in the round.
        FirstOfGroupLookedAt,
        /// Recovery does not know records.
        RecordIgnored,
        /// Recovery takes a record for one of as many sets as lanes have now.
        RecordOfOneSet,
        /// Recovery takes a record's window to begin with the set's first lane.
        RecordFromFirstLane,
        /// Opening leaves the records.
        RecordsKept,
        /// A group is complete if all its members but the last have an entry.
        AllButLastSuffices,
        /// A group is complete if one of its members has an entry.
        OneSuffices,
        /// Entries are taken back whether they are pending or not.
        UndoneUnlessPending,
        /// A sector that was never written is not taken for pending.
        UndoneByRawEntry,
        /// An entry that is taken back gets the number of the other slot's.
        UndoneAsSuccessor,
        /// An entry of a lane's first write gets a number when it is taken back.
        UndoneFirstNumbered,
        /// A group that does not fit into the round is written sector by sector.
        GroupOverRounds,
        /// A round without groups leaves the record of the round before.
        RecordOutlived,
        /// A round's record is cleared before its flog entries are durable.
        RecordClearedEarly,
        /// Opening clears records that are whole only, and takes what is in the slack for durable.
        OnlyWholeRecordsSeen,
        /// A disk that is opened for reading only completes groups that are incomplete.
        RecordsUnseenByReaders,
        /// A sector that was never written is taken for one with block 0.
        UndoneByMaskedEntry,
        /// The other slot of a lane is stored to when an entry is taken back.
        UndoneInOtherSlot,
        /// An entry is taken back by two stores, the sequence number last.
        UndoneInTwoStores,
    }
    /// Those that the unit tests of groups must notice, which let single stores and lanes fail.
    FAILED_GROUPS: {
        /// Where a member of a group cannot be logged, those before it stay.
        MembersLeft,
        /// A member of a group is looked up only when those before it are logged.
        MembersSeenLate,
        /// Lanes that are out of use are left out of the positions of a record.
        LostLanesUncounted,
        /// A repair completes groups that are incomplete.
        GroupsRepaired,
    }
    /// Those that `tests/loom` must notice: they let CPUs see each other's stores in another order, which
    /// takes a model of that to notice.
    ORDER: {
        /// A reader looks its sector up again before writers can see which block it is to read.
        NoReaderFence,
        /// A writer looks for readers before they can see what it has mapped.
        NoWriterFence,
        /// A reader that goes on to another block does not say when it has done with the last.
        RelaxedPublish,
        /// A reader does not say when it has done.
        RelaxedClear,
        /// Map locks are released before the map entries are stored.
        UnlockedMap,
        /// All sets of lanes have one record of groups.
        OneRecordForAll,
    }
    /// Those that the tests of repair must notice.
    REPAIR: {
        /// A lane that says nothing may say something while it is written anew.
        LaneNotSilenced,
        /// A page of the flog is zeroed while lanes in it still say something.
        PageNotSilenced,
        /// What an entry in a lane's other slot said stays there.
        OtherSlotKept,
        /// Sectors are given blocks while the last of them are being marked as lost.
        StepsMerged,
        /// Sectors that are lost are not marked so.
        LossForgotten,
        /// One of several sectors with a block keeps it, and is not marked as lost.
        DoubtForgotten,
        /// Sectors are given up without having been asked for.
        UnaskedLoss,
        /// Of all lanes that need a block, each gets the same.
        OneBlockForAll,
        /// The map entry of an interrupted write is left as it was.
        PendingKept,
        /// Of two info blocks that differ, the ERROR flag of the second is forgotten.
        ErrorFlagForgotten,
        /// An arena that is read-only after an error is repaired unasked.
        ErrorIgnored,
        /// A rebuilt info block is believed wherever it leads.
        AnyInfoFits,
    }
}
