//! What a relay reads of a file descriptor when it starts: nothing in it makes the node panic.

use std::time::Duration;

use mesh::{Admission, Handover, Limits, Node, NodeConfig, Outbox, Progress, SLOT_BYTES, Time};

const START: Time = Time(1_700_000_000_000_000);
const SLOTS: usize = 12;
const POLLS_MAX: usize = 10_000;

/// Any bytes are refused, or taken up by a node that goes on and can hand over again.
pub(crate) fn handover(bytes: &[u8]) {
    let Ok(left) = postcard::from_bytes::<Handover>(bytes) else { return };
    let config = NodeConfig::new(Admission::Open, Limits::default());
    let mut node = Node::new(config, [7; 32], Box::new(vec![0; SLOTS * SLOT_BYTES]));
    node.resume(START, left);
    let mut outbox = Outbox::new(64);
    for round in 0..40 {
        // The first second in steps of a tick, then longer than any lease.
        let passed = if round < 20 { 5 * round } else { 1_000 * (round - 19) };
        let now = START.after(Duration::from_millis(passed));
        node.handle_timeout(now);
        let mut polls = 0;
        loop {
            outbox.clear();
            let progress = node.poll_transmit(now, &mut outbox);
            for transmit in outbox.transmits() {
                assert!(!node.bytes_of(transmit, &outbox).is_empty());
            }
            if progress == Progress::Idle {
                break;
            }
            polls += 1;
            assert!(polls < POLLS_MAX, "no end of sending");
        }
        if round % 8 == 0 {
            let again = postcard::to_stdvec(&node.hand_over(now, usize::MAX)).expect("a handover is written");
            postcard::from_bytes::<Handover>(&again).expect("what was taken up can be handed over again");
        }
    }
    assert_eq!(node.sessions(), 0, "every lease has run out");
}
