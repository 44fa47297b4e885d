//! What holds for any bytes, any message and any losses.

use std::net::SocketAddr;

use codec::wire::control::{Control, Hello, Role};
use codec::{
    ChannelKey, ChannelSecret, ChunkHeader, DATAGRAM_BYTES, Fec, Sequence, ShardSet, ShardView, SlotLayout,
    fuzzing, restore_chunk, seal_chunk,
};
use proptest::prelude::*;

/// Any bytes, half of them behind the preamble of a kind that exists.
fn any_datagram() -> impl Strategy<Value = Vec<u8>> {
    let bytes = proptest::collection::vec(any::<u8>(), 0..=1500);
    let length = prop_oneof![Just(1232usize), Just(32), Just(74), Just(112), 0..=1500usize];
    (bytes, proptest::option::of((0..=8u8, length, 0..=3u8))).prop_map(|(mut bytes, shape)| {
        if let Some((kind, length, byte_4)) = shape {
            bytes.resize(length.max(5), 0);
            bytes[..5].copy_from_slice(&[b'S', b'P', 1, kind, byte_4]);
        }
        bytes
    })
}

/// Any lost shards of any chunk, at most m of them.
fn any_losses() -> impl Strategy<Value = (SlotLayout, Vec<usize>)> {
    (1..=32usize).prop_flat_map(|k| (Just(k), 0..=48 - k)).prop_flat_map(|(k, m)| {
        let indices: Vec<usize> = (0..k + m).collect();
        (Just(SlotLayout::new(k, m).unwrap()), proptest::sample::subsequence(indices, 0..=m))
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4096))]

    #[test]
    fn no_bytes_break_a_parser(bytes in any_datagram()) {
        let _ = ShardView::parse(&bytes);
        let _ = Control::parse(&bytes);
        fuzzing::shard(&bytes);
        fuzzing::control(&bytes);
    }

    #[test]
    fn no_text_breaks_the_link_parser(text in "(magnet:\\?)?([a-z.%&=+:\\[\\]]|[0-9a-f]{64}|urn:btpk:|xs=|x.pe=|\\PC){0,40}") {
        fuzzing::link(text.as_bytes());
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn any_m_losses_come_back_bit_for_bit((layout, lost) in any_losses(), missing in 0..1036usize) {
        let secret = ChannelSecret::from_seed(&[31; 32]);
        let payload: Vec<u8> = (0..layout.payload_bytes_max() - missing).map(|at| (at * at / 3) as u8).collect();
        let header = ChunkHeader::new(secret.key().tag(), Sequence(5), layout, payload.len()).unwrap();
        let (mut sealed, mut fec) = (vec![0; layout.slot_bytes()], Fec::new());
        let identity = seal_chunk(&mut sealed, &header, payload.chunks(188), &secret, &mut fec);
        let (mut slot, mut present) = (sealed.clone(), layout.all_shards());
        for index in lost {
            slot[index * DATAGRAM_BYTES..][..DATAGRAM_BYTES].fill(0x5a);
            present = present.minus(ShardSet::range(index, index + 1));
        }
        restore_chunk(&mut slot, &identity, present, &mut fec).unwrap();
        prop_assert!(slot == sealed);
        prop_assert!(header.payload(&slot).flatten().eq(&payload));
    }
}

#[test]
fn shards_that_are_there_are_not_written_when_others_are_made() {
    let (secret, layout) = (ChannelSecret::from_seed(&[31; 32]), SlotLayout::new(4, 2).unwrap());
    let header = ChunkHeader::new(secret.key().tag(), Sequence(5), layout, 4_000).unwrap();
    let (mut slot, mut fec) = (vec![0; layout.slot_bytes()], Fec::new());
    let identity = seal_chunk(&mut slot, &header, [&[7; 4_000][..]], &secret, &mut fec);
    // The index of a shard that is held: it would be made good if the datagram were written.
    slot[DATAGRAM_BYTES + 5] ^= 1;
    let before = slot[..4 * DATAGRAM_BYTES].to_vec();
    restore_chunk(&mut slot, &identity, ShardSet::range(0, 4), &mut fec).unwrap_err();
    assert!(slot.starts_with(&before));
}

#[test]
fn what_is_reserved_in_a_control_datagram_is_ignored() {
    let hello = Control::Hello(Hello {
        role: Role::Publish,
        key: ChannelKey([1; 32]),
        nonce: 2,
        from: Sequence(0),
        cookie: [3; 16],
        signature: [4; 64],
    });
    let mut bytes = hello.encode();
    bytes[5..8].fill(0xff);
    bytes[136..].fill(0xff);
    assert_eq!(Control::parse(&bytes), Ok(hello));
}

#[test]
fn an_ipv4_address_reads_back_as_ipv4() {
    let observed: SocketAddr = "[::ffff:192.0.2.1]:9".parse().unwrap();
    let welcome = codec::wire::control::Welcome {
        nonce: 1,
        session: codec::wire::control::SessionId(2),
        lease_ms: 3,
        edge: Sequence(0),
        oldest: Sequence(0),
        start: Sequence(0),
        observed,
    };
    let Ok(Control::Welcome(parsed)) = Control::parse(&Control::Welcome(welcome).encode()) else {
        panic!("a Welcome reads back as one");
    };
    assert_eq!(parsed.observed, "192.0.2.1:9".parse().unwrap());
}
