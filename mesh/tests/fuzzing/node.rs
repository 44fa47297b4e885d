//! Real sessions between real nodes, and anything that may happen to them.

use std::time::Duration;

use arbitrary::{Arbitrary, Unstructured};
use codec::wire::control::{Control, Hello, Repair, Report, Role, Sender, Wanted};
use codec::{ChunkHeader, DATAGRAM_BYTES, Sequence, ShardSet, SlotLayout, seal_chunk};
use mesh::{Admission, ChannelLimits, Handover, Whom};

use super::steps::{Number, Patch, Place, Setup, Step};
use super::world::{PUBLISHER, RELAYS, World, address, apply, relay_of, secret, viewer_of};

/// More say nothing that fewer do not, and take longer.
const STEPS_MAX: usize = 60;

/// Runs the program that the bytes are.
pub(crate) fn node(bytes: &[u8]) {
    let mut script = Unstructured::new(bytes);
    let Ok(setup) = Setup::arbitrary(&mut script) else { return };
    let mut world = World::new(&setup);
    if setup.is_running {
        for _ in 0..6 {
            world.push(3_000, true);
            world.run(Duration::from_millis(250), 0);
        }
    }
    for _ in 0..STEPS_MAX {
        let Ok(step) = Step::arbitrary(&mut script) else { break };
        world.step(&step);
        if script.is_empty() {
            break;
        }
    }
    world.run(Duration::from_millis(300), 0);
    let is_let_in = setup.cap_mbps.is_none() && !world.is_parted;
    if setup.heals && is_let_in && !world.has_ended && !world.is_tampered {
        world.heal();
    }
}

impl World {
    fn step(&mut self, step: &Step) {
        match step {
            Step::Sleep { us, ms } => {
                let time = Duration::from_micros(u64::from(*us)) + Duration::from_millis(u64::from(*ms));
                self.now = self.now.after(time);
            }
            Step::Run { ms, losses } => self.run(Duration::from_millis(u64::from(*ms)), *losses),
            Step::Push { bytes, joins } => self.push(usize::from(*bytes), *joins),
            Step::Finish => self.finish(),
            Step::Deliver { count } => self.deliver(*count),
            Step::Lose { which } => self.lose(*which),
            Step::Duplicate { which } => self.overtake(*which, true),
            Step::Overtake { which } => self.overtake(*which, false),
            Step::Corrupt { which, patch } => self.corrupt(*which, patch),
            Step::Poll { host, timeouts, room } => self.turn(*host, *timeouts, *room),
            Step::SayAgain { by, to, kind, patches } => self.say_again(*by, *to, *kind, patches),
            Step::AskFor { by, of, wanted } => self.ask_for(*by, *of, wanted),
            Step::Hello { .. } => self.hello(step),
            Step::SendChunk { .. } => self.send_chunk(step),
            Step::Say { by, to, bytes } => self.say(*by, *to, bytes),
            _ => self.operate(step),
        }
    }

    /// What whoever runs a node does.
    fn operate(&mut self, step: &Step) {
        let now = self.now;
        match *step {
            Step::HandOver { relay, kilobytes, pause_ms, ref patches } => {
                self.hand_over(relay_of(relay), kilobytes, pause_ms, patches);
            }
            Step::Restart { relay } => self.replace(relay_of(relay), None),
            Step::Configure { .. } => self.change_config(step),
            Step::Kick { relay, whom, by_channel, seconds } => {
                self.is_parted = true;
                let whom = if by_channel {
                    Whom::Channel(secret(whom % 2).key())
                } else {
                    Whom::Peer(address(whom))
                };
                let until = now.after(Duration::from_secs(seconds.into()));
                self.hosts[relay_of(relay)].node.kick(now, whom, until);
            }
            Step::LetGo { relay, sessions } => {
                self.hosts[relay_of(relay)].node.let_go(sessions.into());
            }
            Step::CloseTo { relay, all, subscribers } => {
                self.is_parted |= all || subscribers;
                let reason = |closed: bool| closed.then_some(codec::wire::control::RefuseReason::QuotaUsed);
                let node = &mut self.hosts[relay_of(relay)].node;
                node.close_to_newcomers(reason(all));
                node.close_to_subscribers(reason(subscribers));
            }
            Step::Close { relay } => {
                self.is_parted = true;
                self.hosts[relay_of(relay)].node.close();
            }
            Step::Refuse { relay, to, times } => {
                let node = &mut self.hosts[relay_of(relay)].node;
                (0..times).for_each(|_| node.note_refused(address(to)));
            }
            Step::Redirect { viewer, dial, to } => {
                self.is_parted = true;
                let host = &mut self.hosts[viewer_of(viewer)];
                if let Some(dial) = host.dials.get(usize::from(dial)) {
                    host.node.redirect(now, *dial, address(to));
                }
            }
            Step::Dial { viewer, to } => {
                let channel = self.channel;
                let host = &mut self.hosts[viewer_of(viewer)];
                if host.dials.len() < 4 {
                    let dial = host.node.dial(now, channel, address(to));
                    host.dials.push(dial);
                }
            }
            Step::HangUp { viewer, dial } => {
                self.is_parted = true;
                let host = &mut self.hosts[viewer_of(viewer)];
                if let Some(dial) = host.dials.get(usize::from(dial)) {
                    host.node.hang_up(*dial);
                }
            }
            _ => {}
        }
    }

    fn finish(&mut self) {
        if !std::mem::replace(&mut self.has_ended, true) {
            let (now, channel) = (self.now, self.channel);
            self.hosts[PUBLISHER].node.finish(now, channel);
        }
    }

    fn turn(&mut self, host: Place, timeouts: bool, room: u8) {
        let (host, now) = (usize::from(host) % self.hosts.len(), self.now);
        if timeouts {
            self.hosts[host].node.handle_timeout(now);
        }
        self.poll(host, usize::from(room).max(1));
    }

    fn say_again(&mut self, by: Place, to: Place, kind: u8, patches: &[Patch]) {
        let host = usize::from(to) % self.hosts.len();
        let (by, to, kind) = (address(by), address(host as u8), kind % 8);
        // Of strangers, who have never reported: as if they had nothing to say.
        let first_report = || {
            let session = self.session_of(by, to, Sender::Subscriber).filter(|_| kind == 5)?;
            Some(Control::Report(Report::new(session)).encode().to_vec())
        };
        let Some(mut bytes) = self.said(by, to, kind).cloned().or_else(first_report) else { return };
        patches.iter().for_each(|patch| apply(&mut bytes, patch));
        self.tell(host, by, &bytes);
    }

    fn ask_for(&mut self, by: Place, of: Place, wanted: &[(i8, u64)]) {
        let (by, host) = (address(by), relay_of(of));
        let Some(header) = self.session_of(by, address(host as u8), Sender::Subscriber) else { return };
        let key = secret(0).key();
        let carried = self.hosts[host].node.channels().find(|channel| channel.key == key);
        let edge = carried.map_or(0, |channel| channel.edge.0);
        // Some have no number, some are copies of others.
        let number = wanted.len() as u16 % 4;
        let wanted = wanted.iter().take(codec::wire::control::REPAIRS_MAX).map(|(ahead, shards)| Wanted {
            sequence: Sequence(edge.saturating_add_signed(i64::from(*ahead)).max(1)),
            shards: ShardSet::from_bits(shards | 1),
        });
        let repair = Repair { header, number, wanted: wanted.collect() };
        self.tell(host, by, &Control::Repair(repair).encode());
    }

    fn hello(&mut self, step: &Step) {
        let Step::Hello { by, to, publishes, other_channel, nonce, from_back } = *step else { return };
        let (by, host) = (address(by), relay_of(to));
        let channel = u8::from(other_channel);
        let secret = secret(channel);
        let canonical = std::net::SocketAddr::new(by.ip().to_canonical(), by.port());
        let challenge = self.said(address(host as u8), canonical, 2).map(|bytes| Control::parse(bytes));
        let cookie = match challenge {
            Some(Ok(Control::Challenge(challenge))) => challenge.cookie,
            _ => [0; 16],
        };
        // A stranger that has the channel's secret would be believed whatever it publishes.
        let is_signed = publishes && other_channel && cookie != [0; 16];
        let hello = Hello {
            role: if publishes { Role::Publish } else { Role::Subscribe },
            key: secret.key(),
            nonce: nonce.into(),
            from: Sequence(if from_back % 4 == 0 { 0 } else { self.now.0 - 10_000 * u64::from(from_back) }),
            cookie,
            signature: if is_signed { secret.sign_hello(nonce.into(), &cookie) } else { [0; 64] },
        };
        self.tell(host, by, &Control::Hello(hello).encode());
    }

    fn send_chunk(&mut self, step: &Step) {
        let Step::SendChunk { by, to, ref number, data, parity, shards } = *step else { return };
        let Some(layout) = SlotLayout::new(1 + usize::from(data % 32), usize::from(parity % 17)) else {
            return;
        };
        let secret = secret(1);
        let sequence = match *number {
            Number::Near(ahead) => self.now.0.saturating_add_signed(ahead.into()),
            Number::Any(number) => number,
        };
        let header =
            ChunkHeader::new(secret.key().tag(), Sequence(sequence), layout, layout.payload_bytes_max());
        let Some(header) = header.filter(|_| Sequence(sequence).is_valid()) else { return };
        let payload = vec![data; layout.payload_bytes_max()];
        let mut sealed = vec![0; layout.slot_bytes()];
        seal_chunk(&mut sealed, &header, [payload.as_slice()], &secret, &mut self.fec);
        self.note_shards(layout.shards_total() as u64);
        for shard in ShardSet::from_bits(shards).intersection(layout.all_shards()).iter() {
            let bytes = &sealed[shard * DATAGRAM_BYTES..][..DATAGRAM_BYTES];
            self.tell(relay_of(to), address(by), bytes);
        }
    }

    fn say(&mut self, by: Place, to: Place, bytes: &[u8]) {
        let host = usize::from(to) % self.hosts.len();
        let mut datagram = b"SP\x01".to_vec();
        datagram.extend(bytes.iter().take(DATAGRAM_BYTES));
        self.tell(host, address(by), &datagram);
    }

    fn hand_over(&mut self, relay: usize, kilobytes: u8, pause_ms: u8, patches: &[Patch]) {
        self.service(relay);
        let left = self.hosts[relay].node.hand_over(self.now, usize::from(kilobytes) << 10);
        let mut written = postcard::to_stdvec(&left).expect("a handover is written");
        self.now = self.now.after(Duration::from_millis(pause_ms.into()));
        if patches.is_empty() {
            let left = postcard::from_bytes(&written).expect("a handover is read");
            self.replace(relay, Some(left));
            return;
        }
        patches.iter().for_each(|patch| apply(&mut written, patch));
        if let Ok(left) = postcard::from_bytes::<Handover>(&written) {
            self.is_tampered = true;
            self.replace(relay, Some(left));
            let again = postcard::to_stdvec(&self.hosts[relay].node.hand_over(self.now, usize::MAX));
            let again = again.expect("a handover is written");
            postcard::from_bytes::<Handover>(&again).expect("what was taken up can be handed over again");
        }
    }

    fn change_config(&mut self, step: &Step) {
        let Step::Configure { cap_mbps, channel_mbps, subscribers, is_open } = *step else { return };
        self.is_parted = true;
        let mbps = |mbps: u8| u64::from(mbps) * 1_000_000;
        self.config.limits.egress_bps_max = cap_mbps.map(mbps);
        let own = ChannelLimits {
            subscribers_max: (subscribers > 9).then_some(subscribers.into()),
            egress_bps_max: channel_mbps.map(mbps),
        };
        self.config.channel_limits.insert(secret(0).key(), own);
        self.config.admission = match is_open {
            true => Admission::Open,
            false => Admission::Listed([secret(1).key()].into_iter().collect()),
        };
        // The bounds that are checked hold for both.
        RELAYS.into_iter().for_each(|relay| self.configure(relay));
    }
}
