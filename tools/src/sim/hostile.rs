//! A machine that wishes nobody well. It is on no path: what it knows of sessions it cannot use under another's address.

use std::net::SocketAddr;
use std::rc::Rc;

use codec::Sequence;
use codec::wire::control::{Control, Hello, Role};
use codec::wire::{SHARD, kind_of};

use super::book::Datagram;
use super::world::World;

/// What datagrams of this protocol begin with.
const MAGIC: [u8; 3] = *b"SP\x01";

/// Bytes of a control datagram up to the end of its session's name.
const SESSION_END: u64 = 24;

impl World {
    /// Sends a few datagrams from the machine `hostile`, or in others' names.
    pub(super) fn attack(&mut self, hostile: usize) {
        for _ in 0..self.dice.between(1, 6) {
            let target = self.dice.below(self.hosts.len());
            let own = self.hosts[hostile].address;
            let sent = match self.dice.below(5) {
                0 => Some((own, self.garbage())),
                1 => Some(self.spoofed_hello()),
                2 => self.replay(own),
                _ => self.mutation(own),
            };
            if let Some((from, bytes)) = sent {
                self.enter(target, from, bytes);
            }
        }
    }

    /// What a peer with a session says, with a few bits changed behind what names the session.
    pub(super) fn lie(&mut self, bytes: Datagram) -> Datagram {
        let is_of_session = matches!(Control::parse(&bytes), Ok(Control::Report(_) | Control::Repair(_)));
        if !is_of_session || self.dice.chance(0.5) {
            return bytes;
        }
        let mut bytes = bytes.to_vec();
        for _ in 0..self.dice.between(1, 8) {
            let place = self.dice.between(SESSION_END, bytes.len() as u64) as usize;
            bytes[place] ^= 1 << self.dice.below(8);
        }
        bytes.into()
    }

    fn garbage(&mut self) -> Datagram {
        let mut bytes = vec![0; self.dice.below(1_500)];
        self.dice.fill(&mut bytes);
        if bytes.len() > 4 && self.dice.chance(0.7) {
            bytes[..3].copy_from_slice(&MAGIC);
            bytes[3] %= 9;
        }
        bytes.into()
    }

    /// In the name of somebody who never asked for anything.
    fn spoofed_hello(&mut self) -> (SocketAddr, Datagram) {
        let victim = ([10, 99, 0, self.dice.below(200) as u8], 1_000).into();
        let stream = self.dice.below(self.streams.len());
        let role = if self.dice.chance(0.5) { Role::Subscribe } else { Role::Publish };
        let mut cookie = [0; 16];
        if self.dice.chance(0.5) {
            self.dice.fill(&mut cookie);
        }
        let (key, nonce) = (self.streams[stream].secret.key(), self.dice.seed());
        let hello = Hello { role, key, nonce, from: Sequence(0), cookie, signature: [7; 64] };
        (victim, Control::Hello(hello).encode()[..].into())
    }

    /// Something overheard, again: a shard in its sender's name, anything else in its own.
    fn replay(&mut self, own: SocketAddr) -> Option<(SocketAddr, Datagram)> {
        let (from, _, bytes) = self.overheard()?;
        let is_shard = kind_of(&bytes) == Some(SHARD);
        Some((if is_shard { from } else { own }, bytes))
    }

    /// Something overheard with a few bits changed, cut or longer.
    fn mutation(&mut self, own: SocketAddr) -> Option<(SocketAddr, Datagram)> {
        let (from, original) = self.replay(own)?;
        let mut bytes = original.to_vec();
        match self.dice.below(4) {
            0 => bytes.truncate(self.dice.below(bytes.len() + 1)),
            1 => bytes.push(0),
            _ => {
                for _ in 0..self.dice.between(1, 4) {
                    // As often in the header as in all the rest.
                    let end = if self.dice.chance(0.5) { bytes.len().min(140) } else { bytes.len() };
                    let place = self.dice.below(end.max(1));
                    bytes[place] ^= 1 << self.dice.below(8);
                }
            }
        }
        // What is no shard any more may be a control datagram of a session.
        let is_shard = kind_of(&bytes) == Some(SHARD);
        Some((if is_shard { from } else { own }, bytes.into()))
    }

    fn overheard(&mut self) -> Option<(SocketAddr, SocketAddr, Datagram)> {
        let overheard = self.overheard.as_ref()?;
        let (from, to, bytes) = overheard.get(self.dice.below(overheard.len().max(1)))?;
        Some((*from, *to, Rc::clone(bytes)))
    }
}
