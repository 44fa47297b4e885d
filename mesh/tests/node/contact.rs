//! Which relay a dial is turned to, without any dial.

use std::net::SocketAddr;
use std::time::Duration;

use codec::wire::control::{ByeReason, Nodes, RefuseReason};
use mesh::{Contact, DialId, Event, LostReason, Node, RelayState, SLOT_BYTES, Time};

use crate::lab::{edge_config, key};

const START: Time = Time(1_700_000_000_000_000);
const ONE: &str = "192.0.2.1:7450";
const TWO: &str = "192.0.2.2:7450";

fn at(address: &str) -> SocketAddr {
    address.parse().unwrap()
}

/// Some dial: of what node does not matter here.
fn dial() -> DialId {
    let mut node = Node::new(edge_config(), [1; 32], Box::new(vec![0; SLOT_BYTES]));
    node.pull(START, &key(), at(ONE)).unwrap()
}

/// A contact that has been polled, and with it the time.
struct Lab {
    contact: Contact,
    now: Time,
    dial: DialId,
}

impl Lab {
    fn new(names: &[&str]) -> Lab {
        let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
        let mut lab = Lab { contact: Contact::new(START, &names), now: START, dial: dial() };
        lab.poll();
        lab
    }

    fn poll(&mut self) {
        self.contact.poll(self.now, |_| true);
    }

    fn later(&mut self, seconds: u64) {
        self.now = self.now.after(Duration::from_secs(seconds));
        self.poll();
    }

    fn tell(&mut self, event: &Event) {
        self.contact.handle_event(self.now, event, |_| true);
    }

    fn connect(&mut self) {
        self.tell(&Event::Connected { dial: self.dial, is_live: true, observed: at("192.0.2.9:1") });
    }

    fn refuse(&mut self, reason: RefuseReason, nodes: &[&str]) {
        let nodes = nodes.iter().map(|node| at(node)).collect();
        self.tell(&Event::Refused { dial: self.dial, reason, nodes });
    }

    fn lose(&mut self, reason: LostReason) {
        self.tell(&Event::Lost { dial: self.dial, reason, nodes: Nodes::new() });
    }

    fn target(&self) -> Option<SocketAddr> {
        self.contact.target()
    }
}

#[test]
fn an_address_needs_no_lookup_and_a_name_is_looked_up_again_when_nobody_answers_there() {
    let mut lab = Lab::new(&["relay.example:7450"]);
    assert_eq!(lab.target(), None);
    assert_eq!(lab.contact.poll_lookup(lab.now).as_deref(), Some("relay.example:7450"));
    assert_eq!(lab.contact.poll_lookup(lab.now), None, "under way");
    lab.contact.handle_found("relay.example:7450", &[at(ONE)], |_| true);
    assert_eq!((lab.target(), lab.contact.next_timeout()), (Some(at(ONE)), None));
    lab.tell(&Event::Unanswered { dial: lab.dial });
    assert_eq!(lab.target(), Some(at(ONE)), "there is no other");
    assert_eq!(lab.contact.poll_lookup(lab.now).as_deref(), Some("relay.example:7450"));
    lab.contact.handle_found("relay.example:7450", &[at(TWO)], |_| true);
    assert_eq!(lab.target(), Some(at(TWO)), "it has moved");

    let mut literal = Lab::new(&[ONE]);
    assert_eq!((literal.target(), literal.contact.poll_lookup(literal.now)), (Some(at(ONE)), None));
}

#[test]
fn a_name_that_is_found_late_has_its_turn_before_those_after_it_but_once() {
    let mut lab = Lab::new(&["relay.example:7450", TWO]);
    assert_eq!(lab.target(), Some(at(TWO)), "nobody waits for a name");
    lab.contact.handle_found("relay.example:7450", &[at(ONE)], |_| true);
    assert_eq!(lab.target(), Some(at(ONE)));
    lab.tell(&Event::Unanswered { dial: lab.dial });
    assert_eq!(lab.target(), Some(at(TWO)));
    lab.contact.handle_found("relay.example:7450", &[at(ONE)], |_| panic!("it was tried"));
    let mut lab = Lab::new(&["relay.example:7450", TWO]);
    lab.connect();
    lab.contact.handle_found("relay.example:7450", &[at(ONE)], |_| panic!("there is a session"));
}

#[test]
fn a_name_that_is_not_found_is_looked_up_again_after_growing_waits() {
    let mut lab = Lab::new(&["relay.example:7450"]);
    let mut waits = Vec::new();
    for attempt in 0..6 {
        let name = lab.contact.poll_lookup(lab.now).expect("it is due");
        assert_eq!(lab.contact.handle_not_found(lab.now, &name), attempt == 0, "said once");
        assert_eq!(lab.contact.relays().next(), Some((name.as_str(), RelayState::NotFound)));
        let due = lab.contact.next_timeout().expect("another attempt");
        waits.push(due.since(lab.now).as_secs());
        lab.now = due;
    }
    assert_eq!(waits, [1, 2, 4, 8, 10, 10]);
}

#[test]
fn silence_and_goodbyes_turn_to_another_relay_but_a_new_start_does_not() {
    let mut lab = Lab::new(&[ONE, TWO]);
    for (reason, then) in [
        (LostReason::Bye(ByeReason::UnknownSession), ONE),
        (LostReason::Silence, TWO),
        (LostReason::Bye(ByeReason::Closing), ONE),
        (LostReason::Bye(ByeReason::Done), TWO),
    ] {
        lab.connect();
        assert!(lab.contact.is_connected());
        lab.lose(reason);
        assert_eq!(lab.target(), Some(at(then)), "{reason:?}");
        assert!(!lab.contact.is_connected());
    }
}

#[test]
fn a_relay_that_falls_silent_is_not_tried_at_its_other_addresses_before_it_had_time_to_return() {
    let mut lab = Lab::new(&["relay.example:7450"]);
    lab.contact.handle_found("relay.example:7450", &[at(ONE), at(TWO)], |_| true);
    lab.connect();
    lab.lose(LostReason::Silence);
    assert_eq!(lab.target(), Some(at(ONE)));
    lab.tell(&Event::Unanswered { dial: lab.dial });
    assert_eq!(lab.target(), Some(at(TWO)));
}

#[test]
fn a_session_that_brings_nothing_gives_way_to_another_relay_if_there_is_one() {
    let mut lab = Lab::new(&[ONE]);
    lab.connect();
    lab.tell(&Event::Starved { dial: lab.dial });
    assert!(lab.contact.is_connected() && lab.target() == Some(at(ONE)));
    let mut lab = Lab::new(&[ONE, TWO]);
    lab.connect();
    lab.tell(&Event::Starved { dial: lab.dial });
    assert!(!lab.contact.is_connected() && lab.target() == Some(at(TWO)));
}

#[test]
fn relays_named_in_a_refusal_are_tried_after_those_of_the_user_and_not_without_end() {
    let mut lab = Lab::new(&[ONE, TWO]);
    lab.refuse(RefuseReason::Full, &["192.0.2.3:7450", TWO]);
    assert_eq!(lab.target(), Some(at(TWO)));
    lab.refuse(RefuseReason::Full, &[]);
    assert_eq!(lab.target(), Some(at("192.0.2.3:7450")));
    for number in 4..100 {
        lab.refuse(RefuseReason::Full, &[&format!("192.0.2.{number}:7450")]);
    }
    assert_eq!(lab.contact.relays().count(), 2 + mesh::limits::HINTS_MAX);
}

#[test]
fn relays_named_long_ago_make_room_but_for_the_one_in_use() {
    let mut lab = Lab::new(&[ONE]);
    let hint = |number: usize| format!("192.0.2.{}:7450", 10 + number);
    for number in 0..mesh::limits::HINTS_MAX {
        lab.refuse(RefuseReason::Full, &[&hint(number)]);
    }
    while lab.target() != Some(at(&hint(7))) {
        lab.tell(&Event::Unanswered { dial: lab.dial });
    }
    lab.connect();
    lab.later(mesh::limits::HINT_KEPT.as_secs());
    lab.refuse(RefuseReason::Full, &[&hint(3)]);
    lab.later(60);
    let target = lab.target();
    lab.connect();
    lab.refuse(RefuseReason::Full, &[&hint(90)]);
    let names: Vec<String> = lab.contact.relays().map(|(name, _)| name.to_owned()).collect();
    let in_use = target.unwrap().to_string();
    assert_eq!(names, [ONE, &hint(3), &in_use, &hint(90)]);
    assert_eq!(lab.target(), Some(at(&hint(90))), "the next after the one that was in use");
}

#[test]
fn who_refuses_for_good_is_left_alone_for_a_minute_and_then_asked_again() {
    let mut lab = Lab::new(&[ONE, TWO]);
    lab.refuse(RefuseReason::ChannelNotAllowed, &[]);
    assert!(lab.target() == Some(at(TWO)) && !lab.contact.is_refused());
    lab.later(30);
    lab.refuse(RefuseReason::ChannelNotAllowed, &[]);
    assert!(lab.target().is_none() && lab.contact.is_refused(), "nobody is left");
    let states: Vec<RelayState> = lab.contact.relays().map(|(_, state)| state).collect();
    assert_eq!(states, [RelayState::Refused(RefuseReason::ChannelNotAllowed); 2]);
    lab.later(29);
    assert_eq!(lab.target(), None);
    lab.later(1);
    assert_eq!(lab.target(), Some(at(ONE)));
}

#[test]
fn a_node_that_meets_itself_goes_on_to_the_next_address_of_the_same_name() {
    let mut lab = Lab::new(&["relays.example:7450"]);
    lab.contact.handle_found("relays.example:7450", &[at(ONE), at(TWO)], |_| true);
    lab.tell(&Event::Itself { dial: lab.dial });
    assert_eq!(lab.target(), Some(at(TWO)));
    lab.tell(&Event::Itself { dial: lab.dial });
    assert_eq!(lab.target(), None);
    assert_eq!(lab.contact.relays().next().unwrap().1, RelayState::Itself);
    lab.later(60);
    assert_eq!(lab.target(), Some(at(ONE)), "the address may be another's by now");
}

#[test]
fn an_address_that_another_dial_has_is_passed_over() {
    let mut lab = Lab::new(&[ONE, TWO, "192.0.2.3:7450"]);
    let taken = at(TWO);
    lab.contact.handle_event(lab.now, &Event::Unanswered { dial: lab.dial }, |address| address != taken);
    assert_eq!(lab.target(), Some(at("192.0.2.3:7450")));
}

#[test]
fn other_names_keep_the_session_if_its_relay_is_among_them() {
    let names = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();
    let mut lab = Lab::new(&[ONE]);
    lab.connect();
    lab.contact.set_names(lab.now, &names(&[TWO, ONE]), |_| panic!("it has one"));
    assert!(lab.contact.is_connected() && lab.target() == Some(at(ONE)));
    lab.contact.set_names(lab.now, &names(&[TWO]), |_| true);
    assert!(!lab.contact.is_connected() && lab.target() == Some(at(TWO)));
    lab.refuse(RefuseReason::ChannelNotAllowed, &[]);
    assert_eq!(lab.target(), None);
    lab.contact.set_names(lab.now, &names(&[TWO]), |_| true);
    assert_eq!(lab.target(), Some(at(TWO)), "who refused is asked again");
    lab.refuse(RefuseReason::Full, &["192.0.2.3:7450"]);
    lab.contact.set_names(lab.now, &names(&[TWO]), |_| panic!("nothing has changed"));
    assert_eq!(lab.target(), Some(at("192.0.2.3:7450")));
    lab.contact.set_names(lab.now, &names(&[ONE]), |_| true);
    assert_eq!(
        (lab.target(), lab.contact.relays().count()),
        (Some(at(ONE)), 1),
        "hints of others are forgotten"
    );
}
