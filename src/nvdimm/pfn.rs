//! Linux's own namespaces with DAX: the info block of an fsdax or devdax namespace.
//!
//! Such namespaces are not served, but they are listed as ndctl lists them: their `size` and `uuid` are those of
//! the info block. Format: `struct nd_pfn_sb` in `drivers/nvdimm/pfn.h` of Linux.

use uuid::Uuid;

use crate::pmem::{MediaError, PersistentMemory, fletcher64_without_field};

/// Offset of the info block in the namespace.
const PLACE: u64 = 4096;
/// Bytes of the info block.
const LENGTH: usize = 4096;
/// Offset of the checksum in the info block.
const CHECKSUM_OFFSET: usize = 4088;
const PFN_SIGNATURE: &[u8; 16] = b"NVDIMM_PFN_INFO\0";
const DAX_SIGNATURE: &[u8; 16] = b"NVDIMM_DAX_INFO\0";

/// What the info block of an fsdax or devdax namespace says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PfnInfo {
    /// The mode in ndctl's words: `fsdax` or `devdax`.
    pub mode: &'static str,
    /// Uuid of the info block.
    pub uuid: Uuid,
    /// Where the kernel keeps its page structures, in ndctl's words: `dev` or `mem`; `None`: neither.
    pub map: Option<&'static str>,
    /// Bytes that can be used.
    pub size: u64,
    /// Alignment of the usable bytes; `None` in blocks before version 1.2, which do not say.
    pub align: Option<u64>,
}

impl PfnInfo {
    /// Reads the info block of a namespace, all of which is `medium`. `None`: there is none that is valid, or
    /// that belongs to the namespace `parent`.
    pub fn find<M: PersistentMemory>(
        medium: &M,
        parent: Option<Uuid>,
    ) -> Result<Option<PfnInfo>, MediaError> {
        if medium.size() < PLACE + LENGTH as u64 {
            return Ok(None);
        }
        let mut bytes = [0; LENGTH];
        medium.read_bytes(PLACE, &mut bytes)?;
        Ok(PfnInfo::decode(&bytes, medium.size(), parent))
    }

    fn decode(bytes: &[u8; LENGTH], size: u64, parent: Option<Uuid>) -> Option<PfnInfo> {
        let mode = match &bytes[..16] {
            signature if signature == PFN_SIGNATURE => "fsdax",
            signature if signature == DAX_SIGNATURE => "devdax",
            _ => return None,
        };
        let sum = fletcher64_without_field(bytes, CHECKSUM_OFFSET);
        let is_foreign = parent.is_some_and(|parent| parent != uuid_at(bytes, 32));
        if sum != u64_at(bytes, CHECKSUM_OFFSET) || is_foreign {
            return None;
        }
        let minor = u16::from_le_bytes([bytes[54], bytes[55]]);
        let data = u64_at(bytes, 56);
        let (pad, cut) = if minor < 1 { (0, 0) } else { (u32_at(bytes, 76), u32_at(bytes, 80)) };
        let used = data.checked_add(u64::from(pad) + u64::from(cut))?;
        Some(PfnInfo {
            mode,
            uuid: uuid_at(bytes, 16),
            map: match u32_at(bytes, 72) {
                1 => Some("mem"),
                2 => Some("dev"),
                _ => None,
            },
            size: size.checked_sub(used)?,
            align: (minor >= 2).then(|| u64::from(u32_at(bytes, 84))),
        })
    }
}

fn u32_at(bytes: &[u8; LENGTH], offset: usize) -> u32 {
    let mut field = [0; 4];
    field.copy_from_slice(&bytes[offset..offset + 4]);
    u32::from_le_bytes(field)
}

fn u64_at(bytes: &[u8; LENGTH], offset: usize) -> u64 {
    let mut field = [0; 8];
    field.copy_from_slice(&bytes[offset..offset + 8]);
    u64::from_le_bytes(field)
}

fn uuid_at(bytes: &[u8; LENGTH], offset: usize) -> Uuid {
    let mut field = [0; 16];
    field.copy_from_slice(&bytes[offset..offset + 16]);
    Uuid::from_bytes(field)
}
