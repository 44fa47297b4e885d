//! The stateless cookie of the handshake: proof that a peer receives at the address it sends from.

use core::hash::Hasher;
use std::net::SocketAddr;

use codec::ChannelKey;
use codec::wire::control::Role;
use siphasher::sip128::{Hasher128, SipHasher24};
use subtle::ConstantTimeEq;

use crate::limits::COOKIE_BUCKET;
use crate::time::{Time, micros};

/// Makes and checks cookies: SipHash-2-4-128 over address, port, channel, role and time bucket.
pub(crate) struct CookieJar {
    secret: [u8; 16],
}

impl CookieJar {
    pub(crate) fn new(secret: [u8; 16]) -> CookieJar {
        CookieJar { secret }
    }

    pub(crate) fn secret(&self) -> [u8; 16] {
        self.secret
    }

    pub(crate) fn bake(&self, now: Time, from: SocketAddr, key: &ChannelKey, role: Role) -> [u8; 16] {
        self.cookie(bucket(now), from, key, role)
    }

    /// Whether the cookie was made for just this peer and purpose in this time bucket or the one before.
    pub(crate) fn holds(
        &self,
        cookie: &[u8; 16],
        now: Time,
        from: SocketAddr,
        key: &ChannelKey,
        role: Role,
    ) -> bool {
        let current = bucket(now);
        let matches = |bucket: u64| self.cookie(bucket, from, key, role).ct_eq(cookie);
        (matches(current) | matches(current.wrapping_sub(1))).into()
    }

    fn cookie(&self, bucket: u64, from: SocketAddr, key: &ChannelKey, role: Role) -> [u8; 16] {
        let mut mac = SipHasher24::new_with_key(&self.secret);
        mac.write_u64(bucket);
        match from {
            SocketAddr::V4(from) => mac.write(&from.ip().to_ipv6_mapped().octets()),
            SocketAddr::V6(from) => mac.write(&from.ip().octets()),
        }
        mac.write_u16(from.port());
        mac.write(&key.0);
        mac.write_u8(match role {
            Role::Subscribe => 1,
            Role::Publish => 2,
        });
        mac.finish128().as_bytes()
    }
}

/// Tells the `Hello`s that the nodes of a process send from those of others: half of their nonce is random, the other half
/// SipHash-2-4 of that.
#[derive(Clone, Copy, Debug)]
pub(crate) struct OwnHellos {
    secret: [u8; 16],
}

impl OwnHellos {
    pub(crate) fn new(secret: [u8; 16]) -> OwnHellos {
        OwnHellos { secret }
    }

    pub(crate) fn nonce(&self, random: u32) -> u64 {
        u64::from(random) << 32 | u64::from(self.mark(random))
    }

    /// Of another's, one in 2^32 is taken for one: it is asked again with another nonce.
    pub(crate) fn made(&self, nonce: u64) -> bool {
        self.mark((nonce >> 32) as u32) == nonce as u32
    }

    fn mark(&self, random: u32) -> u32 {
        let mut mac = SipHasher24::new_with_key(&self.secret);
        mac.write(b"own hello");
        mac.write_u32(random);
        mac.finish128().h1 as u32
    }
}

fn bucket(now: Time) -> u64 {
    now.0 / micros(COOKIE_BUCKET)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn own_hellos_are_known_by_who_has_the_secret() {
        let (own, other) = (OwnHellos::new([1; 16]), OwnHellos::new([2; 16]));
        for random in 0..1_000 {
            let nonce = own.nonce(random);
            assert!(own.made(nonce) && !other.made(nonce) && !own.made(nonce ^ 1 << (random % 64)));
        }
    }

    #[test]
    fn a_cookie_holds_for_its_peer_and_purpose_only_and_not_for_long() {
        let jar = CookieJar::new([1; 16]);
        let (now, key) = (Time(1_000_000_000), ChannelKey([2; 32]));
        let from: SocketAddr = "192.0.2.1:7450".parse().unwrap();
        let cookie = jar.bake(now, from, &key, Role::Subscribe);
        let holds = |at: Time, from: &str, key: ChannelKey, role| {
            jar.holds(&cookie, at, from.parse().unwrap(), &key, role)
        };
        assert!(holds(now.after(COOKIE_BUCKET), "192.0.2.1:7450", key, Role::Subscribe));
        assert!(!holds(now.after(2 * COOKIE_BUCKET), "192.0.2.1:7450", key, Role::Subscribe));
        assert!(!holds(now, "192.0.2.1:7451", key, Role::Subscribe));
        assert!(!holds(now, "192.0.2.2:7450", key, Role::Subscribe));
        assert!(!holds(now, "192.0.2.1:7450", ChannelKey([3; 32]), Role::Subscribe));
        assert!(!holds(now, "192.0.2.1:7450", key, Role::Publish));
    }
}
