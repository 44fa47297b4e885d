//! A datagram that is not, bit for bit, what the publisher signed is refused, and for the right reason.

use codec::{
    ChannelSecret, ChannelVerifier, ChunkHeader, ChunkIdentity, DATAGRAM_BYTES, Fec, Sequence, ShardView,
    SlotLayout, VerifyError, seal_chunk, verify_shard,
};
use proptest::prelude::*;

const SIGNATURE_AT: usize = 36;
const PROOF_AT: usize = 100;

/// A sealed chunk and what its channel's nodes know about it.
struct Sealed {
    slot: Vec<u8>,
    identity: ChunkIdentity,
    verifier: ChannelVerifier,
}

impl Sealed {
    fn new(k: usize, m: usize, fill: u8) -> Sealed {
        let secret = ChannelSecret::from_seed(&[21; 32]);
        let layout = SlotLayout::new(k, m).unwrap();
        let payload = vec![fill; layout.payload_bytes_max()];
        let header =
            ChunkHeader::new(secret.key().tag(), Sequence((1 << 50) + 1), layout, payload.len()).unwrap();
        let mut slot = vec![0; layout.slot_bytes()];
        let identity = seal_chunk(&mut slot, &header, [payload.as_slice()], &secret, &mut Fec::new());
        Sealed { slot, identity, verifier: secret.verifier() }
    }

    fn datagram(&self, index: usize) -> Vec<u8> {
        self.slot[index * DATAGRAM_BYTES..][..DATAGRAM_BYTES].to_vec()
    }
}

/// What a node of this one channel makes of a datagram.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Outcome {
    Malformed,
    OtherChannel,
    Refused(VerifyError),
    Verified,
}

fn outcome(datagram: &[u8], sealed: &Sealed, known: Option<&ChunkIdentity>) -> Outcome {
    let Ok(view) = ShardView::parse(datagram) else { return Outcome::Malformed };
    if view.tag() != sealed.verifier.tag() {
        return Outcome::OtherChannel;
    }
    match verify_shard(&view, &sealed.verifier, known) {
        Ok(identity) => {
            assert_eq!(identity, sealed.identity);
            Outcome::Verified
        }
        Err(error) => Outcome::Refused(error),
    }
}

/// Flips one bit of shard `index` and checks both outcomes: with the chunk known, and as its first datagram.
fn check_flip(sealed: &Sealed, index: usize, bit: usize) {
    let mut datagram = sealed.datagram(index);
    datagram[bit / 8] ^= 1 << (bit % 8);
    let with_known = outcome(&datagram, sealed, Some(&sealed.identity));
    let alone = outcome(&datagram, sealed, None);
    let (proof, signature) = (Outcome::Refused(VerifyError::Proof), Outcome::Refused(VerifyError::Signature));
    let context = format!("bit {} of byte {} of shard {index}", bit % 8, bit / 8);
    match bit / 8 {
        0..4 => assert_eq!((with_known, alone), (Outcome::Malformed, Outcome::Malformed), "{context}"),
        8..16 => {
            assert_eq!((with_known, alone), (Outcome::OtherChannel, Outcome::OtherChannel), "{context}");
        }
        // No sequence number has the highest bit set.
        16 if bit % 8 == 7 => assert_eq!((with_known, alone), (Outcome::Malformed, Outcome::Malformed)),
        // The rest of it, capture time and join distance: any value is well-formed.
        16..32 | 34..SIGNATURE_AT => assert_eq!((with_known, alone), (proof, signature), "{context}"),
        // Flags, index, k, m and payload length are bound to one another: most flips break a rule.
        4..SIGNATURE_AT => {
            let expected = [(Outcome::Malformed, Outcome::Malformed), (proof, signature)];
            assert!(expected.contains(&(with_known, alone)), "{context}: {with_known:?}, {alone:?}");
        }
        SIGNATURE_AT..PROOF_AT => assert_eq!((with_known, alone), (signature, signature), "{context}"),
        _ => assert_eq!((with_known, alone), (proof, signature), "{context}"),
    }
}

#[test]
fn every_bit_of_a_data_shard_counts() {
    let sealed = Sealed::new(3, 2, 1);
    assert_eq!(outcome(&sealed.datagram(1), &sealed, None), Outcome::Verified);
    (0..DATAGRAM_BYTES * 8).for_each(|bit| check_flip(&sealed, 1, bit));
}

#[test]
fn every_bit_of_a_parity_shard_counts() {
    let sealed = Sealed::new(3, 2, 2);
    // Shard 4 has no sibling: it is paired with itself.
    assert_eq!(outcome(&sealed.datagram(4), &sealed, Some(&sealed.identity)), Outcome::Verified);
    (0..DATAGRAM_BYTES * 8).for_each(|bit| check_flip(&sealed, 4, bit));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn any_bit_of_any_shard_of_any_chunk_counts(
        (k, m, index) in (1..=32usize)
            .prop_flat_map(|k| (Just(k), 0..=48 - k))
            .prop_flat_map(|(k, m)| (Just(k), Just(m), 0..k + m)),
        bits in proptest::collection::vec(0..DATAGRAM_BYTES * 8, 16),
    ) {
        let sealed = Sealed::new(k, m, 3);
        bits.into_iter().for_each(|bit| check_flip(&sealed, index, bit));
    }
}

#[test]
fn another_shard_of_the_same_chunk_in_its_place_is_refused() {
    let sealed = Sealed::new(3, 2, 4);
    let mut datagram = sealed.datagram(0);
    datagram[PROOF_AT..].copy_from_slice(&sealed.datagram(1)[PROOF_AT..]);
    assert_eq!(outcome(&datagram, &sealed, Some(&sealed.identity)), Outcome::Refused(VerifyError::Proof));
}

#[test]
fn a_header_that_differs_under_the_known_signature_is_a_wrong_proof() {
    let sealed = Sealed::new(3, 2, 5);
    let mut datagram = sealed.datagram(0);
    datagram[24..32].copy_from_slice(&77u64.to_be_bytes());
    assert_eq!(outcome(&datagram, &sealed, Some(&sealed.identity)), Outcome::Refused(VerifyError::Proof));
}

#[test]
fn a_second_chunk_signed_under_one_sequence_number_is_an_equivocation() {
    let (first, second) = (Sealed::new(3, 2, 6), Sealed::new(3, 2, 7));
    let verify = |sealed: &Sealed, known: Option<&ChunkIdentity>| outcome(&sealed.datagram(0), sealed, known);
    assert_eq!(verify(&first, None), Outcome::Verified);
    assert_eq!(verify(&second, None), Outcome::Verified);
    assert_eq!(verify(&second, Some(&first.identity)), Outcome::Refused(VerifyError::Equivocation));
    assert_eq!(verify(&first, Some(&second.identity)), Outcome::Refused(VerifyError::Equivocation));
}

#[test]
fn another_channels_signature_is_not_this_channels() {
    let sealed = Sealed::new(2, 1, 8);
    let stranger = ChannelSecret::from_seed(&[22; 32]);
    let header = sealed.identity.header;
    let mut slot = vec![0; header.layout().slot_bytes()];
    let payload = vec![8; header.payload_bytes()];
    seal_chunk(&mut slot, &header, [payload.as_slice()], &stranger, &mut Fec::new());
    let forged = &slot[..DATAGRAM_BYTES];
    let refused = Outcome::Refused(VerifyError::Signature);
    assert_eq!(outcome(forged, &sealed, None), refused);
    assert_eq!(outcome(forged, &sealed, Some(&sealed.identity)), refused);
}
