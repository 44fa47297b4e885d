//! A stream sent as UDP datagrams, with whole transport stream packets in each.

use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};

use crate::driver::is_broken;
use crate::mpegts::{PACKET_BYTES, Scanner};

/// Seven transport stream packets: what every receiver of MPEG-TS expects, and fits an Ethernet frame.
const DATAGRAM_BYTES: usize = 7 * PACKET_BYTES;

pub(super) struct Datagrams {
    socket: UdpSocket,
    scanner: Scanner,
    unsent: Vec<u8>,
}

impl Datagrams {
    pub(super) fn connect(to: SocketAddr) -> io::Result<Datagrams> {
        let any_address = match to {
            SocketAddr::V4(_) => SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0)),
            SocketAddr::V6(_) => SocketAddr::from((Ipv6Addr::UNSPECIFIED, 0)),
        };
        let socket = UdpSocket::bind(any_address)?;
        socket.connect(to)?;
        Ok(Datagrams { socket, scanner: Scanner::new(), unsent: Vec::new() })
    }

    /// Takes the next bytes of the stream.
    pub(super) fn push(&mut self, bytes: &[u8]) {
        self.scanner.push(bytes, &mut |_| ());
        self.unsent.extend_from_slice(bytes);
    }

    /// Sends all but an incomplete packet at the end; of a stream that is not MPEG-TS, all.
    pub(super) fn send_whole_packets(&mut self) -> io::Result<()> {
        let kept = self.scanner.incomplete_packet_bytes().unwrap_or(0);
        let packets_end = self.unsent.len().saturating_sub(kept);
        // A stream that was joined or has a gap in the middle of a packet: its rest goes first, so that everything
        // after it is whole.
        let rest_bytes =
            if self.scanner.incomplete_packet_bytes().is_some() { packets_end % PACKET_BYTES } else { 0 };
        let (rest, packets) = self.unsent[..packets_end].split_at(rest_bytes);
        for datagram in rest.chunks(DATAGRAM_BYTES).chain(packets.chunks(DATAGRAM_BYTES)) {
            send(&self.socket, datagram)?;
        }
        self.unsent.drain(..packets_end);
        Ok(())
    }

    /// Sends what is left at the end of the stream.
    pub(super) fn send_rest(&mut self) -> io::Result<()> {
        for datagram in self.unsent.chunks(DATAGRAM_BYTES) {
            send(&self.socket, datagram)?;
        }
        self.unsent.clear();
        Ok(())
    }
}

/// A player that is not there yet, or a network that is away for a moment, costs datagrams, not the stream; only a
/// socket that is gone ends it.
fn send(socket: &UdpSocket, datagram: &[u8]) -> io::Result<()> {
    loop {
        match socket.send(datagram) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) if is_broken(&error) => return Err(error),
            _ => return Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use core::time::Duration;

    use super::*;

    const SAMPLE: &[u8] = include_bytes!("../../tests/data/sample.ts");

    /// What a receiver gets of `stream`, given in chunks of `chunk_bytes`.
    fn datagrams_of(stream: &[u8], chunk_bytes: usize) -> Vec<Vec<u8>> {
        let receiver = UdpSocket::bind("127.0.0.1:0").unwrap();
        receiver.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        let mut sender = Datagrams::connect(receiver.local_addr().unwrap()).unwrap();
        let (mut received, mut received_bytes) = (Vec::new(), 0);
        let mut receive_until = |sent_bytes: usize| {
            while received_bytes < sent_bytes {
                let mut buffer = [0; 2 * DATAGRAM_BYTES];
                let bytes = receiver.recv(&mut buffer).unwrap();
                received_bytes += bytes;
                received.push(buffer[..bytes].to_vec());
            }
        };
        let mut pushed = 0;
        for chunk in stream.chunks(chunk_bytes) {
            sender.push(chunk);
            sender.send_whole_packets().unwrap();
            pushed += chunk.len();
            receive_until(pushed - sender.unsent.len());
        }
        sender.send_rest().unwrap();
        receive_until(pushed);
        received
    }

    #[test]
    fn a_transport_stream_is_sent_in_whole_packets() {
        let datagrams = datagrams_of(&SAMPLE[..50 * PACKET_BYTES], 3000);
        assert!(datagrams.concat() == SAMPLE[..50 * PACKET_BYTES]);
        for datagram in datagrams {
            assert!(datagram.len() <= 1316);
            assert!(datagram.chunks(PACKET_BYTES).all(|packet| packet.len() == 188 && packet[0] == 0x47));
        }
    }

    #[test]
    fn after_a_gap_packets_are_whole_again() {
        let stream = [&SAMPLE[..4000], &SAMPLE[10_000..16_000]].concat();
        let datagrams = datagrams_of(&stream, 4000);
        assert!(datagrams.concat() == stream);
        let is_broken = |datagram: &&Vec<u8>| datagram.chunks(PACKET_BYTES).any(|packet| packet[0] != 0x47);
        // At the gap: the bytes up to a whole number of packets, and those that share a datagram with good packets.
        assert!(datagrams.iter().filter(is_broken).count() <= 2);
    }

    #[test]
    fn another_stream_is_sent_as_it_comes() {
        let stream = vec![7; 5000];
        let datagrams = datagrams_of(&stream, 2000);
        let lengths: Vec<_> = datagrams.iter().map(Vec::len).collect();
        assert_eq!(lengths, [1316, 684, 1316, 684, 1000]);
    }
}
