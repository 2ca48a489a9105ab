//! Errors in what is done to the medium.
//!
//! What an engine that forgets a flush or a fence does to its medium is what an engine that has it does,
//! less that: so these mutants need no place in the engine.

/// An error in what is done to the medium.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MediumMutant {
    /// Data are not fenced before the flog.
    NoDataFence,
    /// The flog is not fenced before the map.
    NoFlogFence,
    /// The map is not fenced before the next write.
    NoMapFence,
    /// Flog entries are not flushed.
    NoFlogFlush,
    /// Map entries are not flushed.
    NoMapFlush,
    /// Of the flog entries between two fences, only the first is flushed.
    OnlyFirstFlogFlushed,
    /// The half of a flog entry that commits is stored first.
    HalvesSwapped,
    /// The half that commits is stored as two words, the sequence number first.
    CommitInTwoStores,
    /// The half that commits is streamed, past the cache line of the other half.
    CommitStreamed,
    /// Flog entries are stored after the map entries.
    MapBeforeFlog,
    /// Freed blocks are filled before the write that freed them is durable: neither flog nor map are
    /// fenced, the next round's data are on their way.
    ReusedEarly,
    /// Info blocks are not fenced.
    NoInfoFence,
    /// Of the flog entries between two fences, the last is not flushed.
    LastFlogUnflushed,
    /// Of the map entries between two fences, the last is not flushed.
    LastMapUnflushed,
    /// Of the map entries between two fences, only the first is flushed.
    OnlyFirstMapFlushed,
    /// Data are stored only when the flog has been fenced.
    DataAfterFlog,
    /// The last cache line of a sector is not stored.
    DataCutOff,
    /// Metadata bytes of sectors are not stored.
    MetadataKept,
    /// Only the first half of what is to be zero is zeroed.
    ZeroedInPart,
    /// Opening does not flush the map entries that it relies on.
    OpenedMapUnflushed,
    /// Opening does not flush the flog.
    OpenedFlogUnflushed,
    /// Opening does not flush the first info blocks of arenas.
    OpenedPrimaryUnflushed,
    /// Opening does not flush the backups of info blocks.
    OpenedBackupUnflushed,
    /// Opening a region does not flush its superblock.
    OpenedSuperblockUnflushed,
    /// Opening does not fence.
    OpenedUnfenced,
    /// Fences do not sync the file.
    FenceUnsynced,
    /// Every second fence does not sync the file.
    EveryOtherFenceUnsynced,
    /// A failed fence is taken for a good one.
    FailedFenceGood,
    /// A failed sync is forgotten as soon as it has been told of.
    FailureForgotten,
    /// Stores are made although a sync has failed.
    FailureUnseen,
    /// Flushes of the guest do not sync the file.
    SyncIgnored,
    /// What is to be made dirty again is only looked at.
    TouchForgotten,
    /// Opening a region looks at its superblocks only, and does not make their pages dirty.
    CleanSuperblockTrusted,
    /// Replay looks at its entry only, and does not make its page dirty.
    CleanEntryTrusted,
    /// Replayed map entries are not fenced.
    ReplayUnfenced,
    /// The map entries of a round that share a cache line are flushed after the first of them is
    /// stored, not after the last.
    FlushedTooSoon,
    /// The record of a round's groups is stored after the fence of its data.
    RecordAfterFence,
    /// The record of a round's groups is not flushed.
    RecordUnflushed,
    /// What was taken back is not durable before the record is cleared.
    UndoUnfenced,
}

impl MediumMutant {
    pub const ALL: [MediumMutant; 39] = [
        MediumMutant::NoDataFence,
        MediumMutant::NoFlogFence,
        MediumMutant::NoMapFence,
        MediumMutant::NoFlogFlush,
        MediumMutant::NoMapFlush,
        MediumMutant::OnlyFirstFlogFlushed,
        MediumMutant::HalvesSwapped,
        MediumMutant::CommitInTwoStores,
        MediumMutant::CommitStreamed,
        MediumMutant::MapBeforeFlog,
        MediumMutant::ReusedEarly,
        MediumMutant::NoInfoFence,
        MediumMutant::LastFlogUnflushed,
        MediumMutant::LastMapUnflushed,
        MediumMutant::OnlyFirstMapFlushed,
        MediumMutant::DataAfterFlog,
        MediumMutant::DataCutOff,
        MediumMutant::MetadataKept,
        MediumMutant::ZeroedInPart,
        MediumMutant::OpenedMapUnflushed,
        MediumMutant::OpenedFlogUnflushed,
        MediumMutant::OpenedPrimaryUnflushed,
        MediumMutant::OpenedBackupUnflushed,
        MediumMutant::OpenedSuperblockUnflushed,
        MediumMutant::OpenedUnfenced,
        MediumMutant::FenceUnsynced,
        MediumMutant::EveryOtherFenceUnsynced,
        MediumMutant::FailedFenceGood,
        MediumMutant::FailureForgotten,
        MediumMutant::FailureUnseen,
        MediumMutant::SyncIgnored,
        MediumMutant::TouchForgotten,
        MediumMutant::CleanSuperblockTrusted,
        MediumMutant::CleanEntryTrusted,
        MediumMutant::ReplayUnfenced,
        MediumMutant::FlushedTooSoon,
        MediumMutant::RecordAfterFence,
        MediumMutant::RecordUnflushed,
        MediumMutant::UndoUnfenced,
    ];
}
