//! Contact with relays, whatever they and the resolver say.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use arbitrary::{Arbitrary, Unstructured};
use codec::wire::control::{ByeReason, Nodes, RefuseReason};
use mesh::{Contact, DialId, Event, LostReason, Node, RelayState, Time};

const STEPS_MAX: usize = 200;

#[derive(Arbitrary, Debug)]
enum Step {
    Pass { s: u16 },
    Found { name: u8, addresses: Vec<u8> },
    NotFound { name: u8 },
    Happens { event: u8, reason: u8, nodes: Vec<u8> },
    SetNames { names: Vec<u8> },
}

/// Names of which some are addresses, two of them the same one.
const NAMES: [&str; 6] = ["a:1", "b:1", "c:1", "10.0.0.1:1", "[::ffff:10.0.0.1]:1", "[2001:db8::1]:1"];

fn address(of: u8) -> SocketAddr {
    SocketAddr::from(([10, 0, 0, of % 32], 1))
}

fn last_byte(of: SocketAddr) -> u8 {
    match of.ip() {
        IpAddr::V4(ip) => ip.octets()[3],
        IpAddr::V6(ip) => ip.octets()[15],
    }
}

fn names(of: &[u8]) -> Vec<String> {
    of.iter().map(|name| NAMES[usize::from(*name) % NAMES.len()].to_owned()).collect()
}

/// Runs the program that the bytes are: the dial is at most turned to where the contact says, and never to where others are.
pub(crate) fn contact(bytes: &[u8]) {
    let mut script = Unstructured::new(bytes);
    let Ok((first, others)) = <(Vec<u8>, u32)>::arbitrary(&mut script) else { return };
    let mut now = Time(1_700_000_000_000_000);
    let mut contact = Contact::new(now, &names(&first));
    let mut turned = None;
    let dial = a_dial(now);
    for _ in 0..STEPS_MAX {
        let Ok(step) = Step::arbitrary(&mut script) else { return };
        // Where another dial of the channel is already, this one cannot be turned to.
        let mut turn = |to: SocketAddr| {
            let is_free = others >> (last_byte(to) % 32) & 1 == 0;
            if is_free {
                turned = Some(to);
            }
            is_free
        };
        match step {
            Step::Pass { s } => now = now.after(Duration::from_secs(s.into())),
            Step::Found { name, addresses } => {
                let addresses: Vec<SocketAddr> = addresses.iter().take(8).map(|of| address(*of)).collect();
                contact.handle_found(NAMES[usize::from(name) % NAMES.len()], &addresses, &mut turn);
            }
            Step::NotFound { name } => {
                contact.handle_not_found(now, NAMES[usize::from(name) % NAMES.len()]);
            }
            // Nothing happens to a dial that there is not.
            Step::Happens { .. } if contact.target().is_none() => {}
            Step::Happens { event, reason, nodes } => {
                let nodes: Nodes = nodes.iter().take(8).map(|of| address(*of)).collect();
                contact.handle_event(now, &event_of(dial, event, reason, nodes), &mut turn);
            }
            Step::SetNames { names: of } => contact.set_names(now, &names(&of), &mut turn),
        }
        contact.poll(now, &mut turn);
        while contact.poll_lookup(now).is_some() {}
        assert!(contact.next_timeout().is_none_or(|at| at > now), "something is due for ever");
        if let Some(target) = contact.target() {
            assert_eq!(turned, Some(target), "the dial is elsewhere");
        }
        let at_it = |state| matches!(state, RelayState::Dialling(_) | RelayState::Connected(_));
        let current = contact.relays().filter(|(_, state)| at_it(*state)).count();
        assert_eq!(current, usize::from(contact.target().is_some()));
        assert!(contact.target().is_some() || !contact.is_connected(), "connected with nobody");
        assert!(contact.relays().count() <= NAMES.len() + mesh::limits::HINTS_MAX);
    }
}

fn a_dial(now: Time) -> DialId {
    let config = mesh::NodeConfig::new(mesh::Admission::Nobody, mesh::Limits::default());
    let mut node = Node::new(config, [7; 32], Box::new(vec![0; mesh::SLOT_BYTES]));
    let key = codec::ChannelSecret::from_seed(&[1; 32]).key();
    node.pull(now, &key, address(1)).expect("a valid key")
}

fn event_of(dial: DialId, event: u8, reason: u8, nodes: Nodes) -> Event {
    let byes = [ByeReason::Closing, ByeReason::Done, ByeReason::UnknownSession, ByeReason::LineTooThin];
    let refusals = [RefuseReason::ChannelNotAllowed, RefuseReason::Full, RefuseReason::KeyNotProven];
    match event % 8 {
        0 => Event::Connected { dial, is_live: true, observed: address(reason) },
        1 => Event::Refused { dial, reason: refusals[usize::from(reason) % refusals.len()], nodes },
        2 => Event::Unanswered { dial },
        3 => Event::Strained { dial },
        4 => Event::Lost { dial, reason: LostReason::Bye(byes[usize::from(reason) % byes.len()]), nodes },
        5 => Event::Lost { dial, reason: LostReason::Silence, nodes },
        6 => Event::Starved { dial },
        _ => Event::Itself { dial },
    }
}
