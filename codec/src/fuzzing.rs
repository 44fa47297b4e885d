//! Bodies of the fuzz targets, as plain functions: each takes any bytes and asserts a property. `cargo test` replays
//! the kept corpus through them; `cargo fuzz` searches on with the same code (`fuzz`).

use crate::link::ChannelLink;
use crate::wire::DATAGRAM_BYTES;
use crate::wire::control::Control;
use crate::{ChannelSecret, ChunkHeader, Fec, Sequence, ShardSet, ShardView, SlotLayout};
use crate::{restore_chunk, seal_chunk, verify_shard};

/// A shard datagram either is refused or keeps every promise of its view.
pub fn shard(bytes: &[u8]) {
    let Ok(view) = ShardView::parse(bytes) else { return };
    let header = view.header();
    let layout = header.layout();
    assert_eq!(bytes.len(), DATAGRAM_BYTES);
    assert!(view.index() < layout.shards_total());
    assert!(header.payload_bytes() <= layout.payload_bytes_max());
    assert_eq!(view.shard().len(), layout.shard_bytes());
    // Nobody signed it under this key.
    let verifier = ChannelSecret::from_seed(&[1; 32]).verifier();
    if view.tag() == verifier.tag() {
        assert!(verify_shard(&view, &verifier, None).is_err());
    }
}

/// A control datagram either is refused or means the same after being written and read again.
pub fn control(bytes: &[u8]) {
    if let Ok(message) = Control::parse(bytes) {
        let written = message.encode();
        assert_eq!(written.len(), bytes.len());
        assert_eq!(Control::parse(&written).as_ref(), Ok(&message));
    }
}

/// A link either is refused or reads back as what it was read as.
pub fn link(bytes: &[u8]) {
    let parsed = core::str::from_utf8(bytes).ok().and_then(|text| text.parse::<ChannelLink>().ok());
    if let Some(link) = parsed {
        let written = link.to_string();
        if written.len() <= crate::link::LINK_BYTES_MAX {
            assert_eq!(written.parse(), Ok(link));
        }
    }
}

/// Any chunk loses any shards but k of them and comes back bit for bit. The first bytes choose k, m and the losses;
/// the rest is the payload.
pub fn chunk(bytes: &[u8]) {
    let Some((choice, payload)) = bytes.split_first_chunk::<10>() else { return };
    let Some(layout) = SlotLayout::new(usize::from(choice[0]), usize::from(choice[1])) else { return };
    let payload = &payload[..payload.len().min(layout.payload_bytes_max())];
    let secret = ChannelSecret::from_seed(&[2; 32]);
    let Some(header) = ChunkHeader::new(secret.key().tag(), Sequence(9), layout, payload.len()) else {
        return;
    };

    let mut fec = Fec::new();
    let mut sealed = vec![0; layout.slot_bytes()];
    let identity = seal_chunk(&mut sealed, &header, [payload], &secret, &mut fec);
    for datagram in sealed.chunks_exact(DATAGRAM_BYTES) {
        let view = ShardView::parse(datagram).expect("what was sealed is valid");
        assert_eq!(verify_shard(&view, &secret.verifier(), None), Ok(identity));
    }

    let lost = crate::wire::u64_at(choice, 2);
    let mut present = layout.all_shards().minus(ShardSet::from_bits(lost));
    for index in 0..layout.shards_total() {
        if present.len() < layout.data_shards() {
            present.insert(index);
        }
    }
    let mut received = sealed.clone();
    for index in layout.all_shards().minus(present).iter() {
        received[index * DATAGRAM_BYTES..][..DATAGRAM_BYTES].fill(0xee);
    }
    restore_chunk(&mut received, &identity, present, &mut fec).expect("the publisher was honest");
    assert_eq!(received, sealed);
    assert_eq!(header.payload(&received).flatten().copied().collect::<Vec<_>>(), payload);
}
