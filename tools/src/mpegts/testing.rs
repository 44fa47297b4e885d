//! Builds small transport streams.

use mpeg2ts_reader::mpegts_crc::sum32;

use super::PACKET_BYTES;

pub(super) const PMT_PID: u16 = 0x1000;
pub(super) const VIDEO_PID: u16 = 0x100;
pub(super) const AUDIO_PID: u16 = 0x101;

/// A packet of `pid` whose payload is filled up in front, by stuffing in the adaptation field.
fn packet(pid: u16, start: bool, flags: u8, pcr: Option<u64>, payload: &[u8]) -> Vec<u8> {
    let mut field = vec![flags | if pcr.is_some() { 0x10 } else { 0 }];
    if let Some(pcr) = pcr {
        let (base, extension) = (pcr / 300, pcr % 300);
        field.extend_from_slice(&(base << 15 | 0x7e00 | extension).to_be_bytes()[2..]);
    }
    field.resize(PACKET_BYTES - 5 - payload.len(), 0xff);
    let mut bytes = vec![0x47, (u8::from(start) << 6) | (pid >> 8) as u8, pid as u8, 0x30, field.len() as u8];
    bytes.extend(field);
    bytes.extend_from_slice(payload);
    assert_eq!(bytes.len(), PACKET_BYTES);
    bytes
}

fn section(table_id: u8, id: u16, body: &[u8]) -> Vec<u8> {
    let length = body.len() as u16 + 9;
    let mut bytes = vec![0, table_id, 0xb0 | (length >> 8) as u8, length as u8];
    bytes.extend_from_slice(&id.to_be_bytes());
    bytes.extend_from_slice(&[0xc1, 0, 0]);
    bytes.extend_from_slice(body);
    let crc = sum32(&bytes[1..]);
    bytes.extend_from_slice(&crc.to_be_bytes());
    bytes
}

pub(super) fn pat() -> Vec<u8> {
    let [high, low] = (0xe000 | PMT_PID).to_be_bytes();
    // A network information table comes first, as in broadcasts.
    packet(0, true, 0, None, &section(0, 1, &[0, 0, 0xe0, 0x10, 0, 1, high, low]))
}

/// A PMT with the PCR on the first of `streams` (type, PID).
pub(super) fn pmt(streams: &[(u8, u16)]) -> Vec<u8> {
    let mut body = (0xe000 | streams[0].1).to_be_bytes().to_vec();
    body.extend_from_slice(&[0xf0, 0]);
    for (kind, pid) in streams {
        body.push(*kind);
        body.extend_from_slice(&(0xe000 | pid).to_be_bytes());
        body.extend_from_slice(&[0xf0, 0]);
    }
    packet(PMT_PID, true, 0, None, &section(2, 1, &body))
}

pub(super) fn key_frame(pid: u16, pcr: u64) -> Vec<u8> {
    packet(pid, true, 0x40, Some(pcr), &[0; 100])
}

pub(super) fn frame(pid: u16, pcr: Option<u64>) -> Vec<u8> {
    packet(pid, true, 0, pcr, &[0; 100])
}

pub(super) fn more(pid: u16) -> Vec<u8> {
    packet(pid, false, 0, None, &[0x47; 100])
}
