//! The relay's port: free, a relay's, or somebody else's.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};

use relay::Config;
use relay::plane::SOCKET_RECEIVE_BYTES;

use super::finding::Finding;
use super::reach::{Caller, Outcome};
use super::system::System;

const ID: &str = "port";

/// `Hello`s to whoever has the port. None is lost on this machine, unless its socket is full.
const HELLOS: u32 = 2;

/// A UDP socket as the kernel lists it (/proc/net/udp, udp6).
#[derive(Debug, PartialEq, Eq)]
struct Listed {
    address: SocketAddr,
    inode: u64,
    /// Datagrams for which its buffer had no room.
    drops: u64,
}

/// Takes the port for a moment, to see whether it can be had; a relay that is being started waits for longer.
pub(super) fn check(system: &System, port: u16) -> Finding {
    let any = SocketAddr::new(Config::default().listen.ip(), port);
    let bound = match UdpSocket::bind(any) {
        // Where IPv6 is switched off.
        Err(error) if !is_in_use(&error) && any.is_ipv6() => UdpSocket::bind((Ipv4Addr::UNSPECIFIED, port)),
        bound => bound,
    };
    match bound {
        Ok(_) => Finding::ok(ID, format!("UDP {port} is free")),
        Err(error) if is_in_use(&error) => in_use(system, port),
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => Finding::problem(
            ID,
            format!("UDP {port} is not for unprivileged programs: {error}"),
            "the relay does not start as the unit, which has no privilege",
            "a port from 1024 on: `superpeerd --listen '[::]:7450'`, or `listen` in its configuration",
        ),
        Err(error) => Finding::problem(
            ID,
            format!("UDP {port} cannot be had: {error}"),
            "no relay starts here",
            "let this process open UDP sockets (a unit: RestrictAddressFamilies=AF_INET AF_INET6; a container: its seccomp profile)",
        ),
    }
}

fn in_use(system: &System, port: u16) -> Finding {
    let listed = listed(system, port);
    let who = owner(system, &listed).map(|(id, name)| format!("{name}, process {id}"));
    let addresses =
        listed.iter().map(|socket| reachable(socket.address)).chain([(Ipv4Addr::LOCALHOST, port).into()]);
    let mut asked: Vec<SocketAddr> = addresses.collect();
    asked.sort();
    asked.dedup();
    let answer = |address: SocketAddr| match Caller::open(address).ok()?.knock(HELLOS) {
        Outcome::Challenged { round_trip, .. } => Some((address, round_trip)),
        _ => None,
    };
    let Some((address, round_trip)) = asked.into_iter().find_map(answer) else {
        return Finding::problem(
            ID,
            format!(
                "UDP {port} is in use by {}, which does not answer as a relay does",
                who.unwrap_or("another program".to_owned())
            ),
            "the relay does not start",
            format!(
                "`sudo ss -ulpn sport = :{port}` shows the program: stop it, or have the relay listen on another port (`listen`)"
            ),
        );
    };
    let who = who.unwrap_or("a program of another user".to_owned());
    let round_trip = round_trip.as_secs_f64() * 1e3;
    let value =
        format!("UDP {port} is in use by a relay ({who}); it answers at {address} within {round_trip:.1} ms");
    match listed.iter().map(|socket| socket.drops).sum::<u64>() {
        0 => Finding::ok(ID, value),
        drops => Finding::note(
            ID,
            format!("{value}; {drops} datagrams found its receive buffer full"),
            "they are lost, and cost repairs",
            format!(
                "`sysctl -w net.core.rmem_max={SOCKET_RECEIVE_BYTES}` and a restart, more workers (`workers`), or less load"
            ),
        ),
    }
}

/// Where a socket that is bound to this answers on this machine.
fn reachable(bound: SocketAddr) -> SocketAddr {
    let ip = if bound.ip().is_unspecified() { Ipv4Addr::LOCALHOST.into() } else { bound.ip().to_canonical() };
    SocketAddr::new(ip, bound.port())
}

/// The process with one of these sockets. Those of other users show to root only.
fn owner(system: &System, sockets: &[Listed]) -> Option<(u32, String)> {
    let has_one = |process: u32| {
        system.sockets_of(process).iter().any(|inode| sockets.iter().any(|socket| socket.inode == *inode))
    };
    system.processes().into_iter().find(|(id, _)| has_one(*id))
}

/// The process that has the port, as far as that shows.
pub(super) fn owner_of(system: &System, port: u16) -> Option<(u32, String)> {
    owner(system, &listed(system, port))
}

fn listed(system: &System, port: u16) -> Vec<Listed> {
    let tables = ["/proc/net/udp", "/proc/net/udp6"].map(|table| system.read(table).unwrap_or_default());
    let sockets = tables.iter().flat_map(|table| table.lines().filter_map(parse_line));
    sockets.filter(|socket| socket.address.port() == port).collect()
}

/// `sl local_address rem_address st queues timer retrnsmt uid timeout inode ref pointer drops`; the line of names has no
/// address.
fn parse_line(line: &str) -> Option<Listed> {
    let words: Vec<&str> = line.split_whitespace().collect();
    let (ip, port) = words.get(1)?.split_once(':')?;
    let port = u16::from_str_radix(port, 16).ok()?;
    let address = SocketAddr::new(parse_ip(ip)?, port);
    Some(Listed { address, inode: words.get(9)?.parse().ok()?, drops: words.get(12)?.parse().ok()? })
}

/// Words of 32 bits in hexadecimal digits, each as the machine keeps a number.
fn parse_ip(digits: &str) -> Option<IpAddr> {
    let word = |at: usize| Some(u32::from_str_radix(digits.get(8 * at..8 * at + 8)?, 16).ok()?.to_ne_bytes());
    match digits.len() {
        8 => Some(Ipv4Addr::from(word(0)?).into()),
        32 => {
            let words = [word(0)?, word(1)?, word(2)?, word(3)?];
            let bytes: [u8; 16] = words.concat().try_into().ok()?;
            Some(Ipv6Addr::from(bytes).into())
        }
        _ => None,
    }
}

fn is_in_use(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::AddrInUse
}

#[cfg(test)]
mod tests {
    use super::super::system::Made;
    use super::*;

    const HEAD: &str = "   sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode ref pointer drops\n";

    fn line(address: &str, inode: u64, drops: u64) -> String {
        format!(
            " 9: {address} 00000000:0000 07 00000000:00000000 00:00000000 00000000   0        0 {inode} 2 00000000ab {drops}\n"
        )
    }

    #[cfg(target_endian = "little")]
    #[test]
    fn sockets_are_read_from_both_tables() {
        let v4 =
            HEAD.to_owned() + &line("0100007F:1D1A", 11, 3) + &line("0100007F:1D1B", 13, 0) + "not a line\n";
        let v6 = HEAD.to_owned() + &line("B80D0120000000000000000001000000:1D1A", 12, 0);
        let made = Made::with(&[("/proc/net/udp", &v4), ("/proc/net/udp6", &v6)]);
        let expected = [("127.0.0.1:7450", 11, 3), ("[2001:db8::1]:7450", 12, 0)]
            .map(|(address, inode, drops)| Listed { address: address.parse().unwrap(), inode, drops });
        assert_eq!(listed(&made.system, 7450), expected);
        made.write("/proc/42/comm", "superpeerd");
        made.link("/proc/42/fd/5", "socket:[12]");
        let superpeerd = (42, "superpeerd".to_owned());
        assert_eq!(owner(&made.system, &expected), Some(superpeerd.clone()));
        assert_eq!(owner_of(&made.system, 7450), Some(superpeerd));
        assert_eq!(owner_of(&made.system, 7451), None);
        assert_eq!(owner(&made.system, &expected[..1]), None);
    }

    #[test]
    fn a_wildcard_is_asked_at_loopback() {
        for (bound, asked) in
            [("[::]:1", "127.0.0.1:1"), ("0.0.0.0:1", "127.0.0.1:1"), ("10.0.0.1:1", "10.0.0.1:1")]
        {
            assert_eq!(reachable(bound.parse().unwrap()), asked.parse().unwrap());
        }
    }
}
