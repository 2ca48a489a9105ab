//! What a frontend has set up over its connection, to be set up again at another process.

use std::collections::BTreeMap;
use std::io;
use std::os::fd::OwnedFd;
use std::rc::Rc;

use rustix::io::pread;
use vhost::vhost_user::message::FrontendReq;

use super::wire::Message;

/// Rings that a device can have, regions of guest memory, and where its configuration ends; the serving process
/// refuses more. They bound what a frontend can have remembered.
const MOST_RINGS: u32 = 64;
const MOST_REGIONS: usize = 509;
const CONFIG_END: u32 = 0x200;
/// In the messages that hand over the descriptor of a ring: the number of the ring.
const RING_MASK: u32 = 0xff;
/// Bytes of a region in a memory table.
const REGION: usize = 32;
/// Accepts that requests are answered.
pub(super) const REPLY_ACK: u64 = 1 << 3;

/// What a message sets, in the order in which it is set up again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Item {
    Owner,
    ProtocolFeatures,
    SharedMemory,
    /// Before the feature that switches it on.
    Log,
    Features,
    /// The region at this guest-physical address.
    Region(u64),
    /// The configuration space from this offset on.
    Config(u32),
    Ring(u32, RingItem),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum RingItem {
    Size,
    Base,
    Addresses,
    Error,
    Call,
    Kick,
    Enable,
}

/// Why a ring cannot go on.
#[derive(Debug, thiserror::Error)]
pub(super) enum RecordError {
    /// Its used ring is in no region of guest memory.
    #[error("the used ring of ring {0} is not in guest memory")]
    NotInMemory(u32),
    /// Guest memory cannot be read.
    #[error("the used index of ring {ring} cannot be read")]
    Read { ring: u32, source: io::Error },
}

/// The last message for each thing that can be set up.
#[derive(Debug, Default)]
pub(super) struct Record(BTreeMap<Item, Message>);

impl Record {
    /// Returns whether nothing is set up.
    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The serving process has carried `message` out, and has answered with `answer` if it did.
    pub(super) fn note(&mut self, message: &Message, answer: Option<&Message>) {
        let Ok(request) = FrontendReq::try_from(message.request) else { return };
        match request {
            FrontendReq::SET_MEM_TABLE => self.set_memory(message),
            FrontendReq::REM_MEM_REG => drop(self.0.remove(&Item::Region(message.word(8)))),
            FrontendReq::GET_VRING_BASE => self.stop_ring(message.half(0), answer),
            FrontendReq::RESET_OWNER => self.forget(|_, item| item == RingItem::Enable),
            FrontendReq::RESET_DEVICE => self.forget(|_, item| {
                matches!(item, RingItem::Call | RingItem::Kick | RingItem::Enable)
            }),
            request => {
                if let Some(item) = self.item(request, message) {
                    self.0.insert(item, message.clone());
                }
            }
        }
    }

    fn item(&self, request: FrontendReq, message: &Message) -> Option<Item> {
        let item = match request {
            FrontendReq::SET_OWNER => Item::Owner,
            FrontendReq::SET_PROTOCOL_FEATURES => Item::ProtocolFeatures,
            FrontendReq::GET_SHMEM_CONFIG => Item::SharedMemory,
            FrontendReq::SET_LOG_BASE => Item::Log,
            FrontendReq::SET_FEATURES => Item::Features,
            FrontendReq::SET_CONFIG => Item::Config(message.half(0)),
            FrontendReq::ADD_MEM_REG => Item::Region(message.word(8)),
            FrontendReq::SET_VRING_NUM => Item::Ring(message.half(0), RingItem::Size),
            FrontendReq::SET_VRING_BASE => Item::Ring(message.half(0), RingItem::Base),
            FrontendReq::SET_VRING_ADDR => Item::Ring(message.half(0), RingItem::Addresses),
            FrontendReq::SET_VRING_ENABLE => Item::Ring(message.half(0), RingItem::Enable),
            FrontendReq::SET_VRING_ERR => Item::Ring(message.half(0) & RING_MASK, RingItem::Error),
            FrontendReq::SET_VRING_CALL => Item::Ring(message.half(0) & RING_MASK, RingItem::Call),
            FrontendReq::SET_VRING_KICK => Item::Ring(message.half(0) & RING_MASK, RingItem::Kick),
            _ => return None,
        };
        let fits = match item {
            Item::Ring(ring, _) => ring < MOST_RINGS,
            Item::Config(offset) => offset < CONFIG_END,
            Item::Region(_) => self.regions().count() < MOST_REGIONS,
            _ => true,
        };
        fits.then_some(item)
    }

    /// Remembers each region of a table by itself.
    fn set_memory(&mut self, message: &Message) {
        self.0.retain(|item, _| !matches!(item, Item::Region(_)));
        let regions = message.body.get(8..).unwrap_or_default().chunks_exact(REGION);
        for (region, file) in regions.zip(&message.descriptors) {
            let request = FrontendReq::ADD_MEM_REG as u32;
            let body = [&[0; 8], region].concat();
            let message = Message::new(request, body, vec![file.clone()]);
            self.0.insert(Item::Region(message.word(8)), message);
        }
    }

    /// A ring goes on later at the index that the answer says, if it does.
    fn stop_ring(&mut self, ring: u32, answer: Option<&Message>) {
        self.forget(|other, item| other == ring && matches!(item, RingItem::Call | RingItem::Kick));
        if let Some(answer) = answer.filter(|_| ring < MOST_RINGS) {
            self.0.insert(Item::Ring(ring, RingItem::Base), base_message(ring, answer.half(4)));
        }
    }

    fn forget(&mut self, is_meant: impl Fn(u32, RingItem) -> bool) {
        self.0.retain(|item, _| !matches!(item, Item::Ring(ring, item) if is_meant(*ring, *item)));
    }

    /// The regions of guest memory, each with its file.
    fn regions(&self) -> impl Iterator<Item = (&Message, &Rc<OwnedFd>)> {
        let regions = self.0.iter().filter(|(item, _)| matches!(item, Item::Region(_)));
        regions.filter_map(|(_, message)| Some((message, message.descriptors.first()?)))
    }

    /// The messages that set the same up at another process, the first and the last of which are for the
    /// answers to those between. Rings that run go on at their used index: what was completed is told there, and
    /// all else is carried out anew.
    pub(super) fn replay(&self) -> Result<Vec<Message>, RecordError> {
        let protocol = self.0.get(&Item::ProtocolFeatures);
        let features = protocol.map_or(0, |message| message.word(0));
        let set_features = |features: u64| {
            let request = FrontendReq::SET_PROTOCOL_FEATURES as u32;
            Message::new(request, features.to_ne_bytes().to_vec(), Vec::new())
        };
        let mut messages = vec![set_features(features | REPLY_ACK)];
        for (item, message) in &self.0 {
            let message = match *item {
                Item::ProtocolFeatures => continue,
                Item::Ring(ring, RingItem::Base) if self.runs(ring) => {
                    base_message(ring, self.used_index(ring)?.into())
                }
                _ => message.clone(),
            };
            messages.push(message.asking_for_reply());
        }
        if features & REPLY_ACK == 0 {
            messages.push(set_features(features));
        }
        Ok(messages)
    }

    /// Returns whether the frontend has started a ring, and not stopped it.
    fn runs(&self, ring: u32) -> bool {
        let has = |item| self.0.contains_key(&Item::Ring(ring, item));
        has(RingItem::Kick) && has(RingItem::Addresses)
    }

    /// How far the completions of a ring have come: the second field of its used ring.
    fn used_index(&self, ring: u32) -> Result<u16, RecordError> {
        let addresses = self.0.get(&Item::Ring(ring, RingItem::Addresses));
        let used = addresses.map_or(0, |message| message.word(16));
        // Behind the padding: guest-physical address, size, address in the frontend, offset in the file.
        let place = self.regions().find_map(|(region, file)| {
            let offset = used.checked_sub(region.word(24))?;
            let is_inside = offset < region.word(16);
            is_inside.then(|| (file, region.word(32).wrapping_add(offset)))
        });
        let (file, offset) = place.ok_or(RecordError::NotInMemory(ring))?;
        let mut index = [0; 2];
        match pread(&**file, &mut index, offset.wrapping_add(2)) {
            Ok(2) => Ok(u16::from_le_bytes(index)),
            Ok(_) => Err(RecordError::NotInMemory(ring)),
            Err(errno) => Err(RecordError::Read { ring, source: errno.into() }),
        }
    }
}

fn base_message(ring: u32, index: u32) -> Message {
    let body = [ring, index].map(u32::to_ne_bytes).as_flattened().to_vec();
    Message::new(FrontendReq::SET_VRING_BASE as u32, body, Vec::new())
}
