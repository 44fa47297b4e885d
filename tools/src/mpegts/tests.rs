use proptest::prelude::*;

use super::testing::{AUDIO_PID, PMT_PID, VIDEO_PID, frame, key_frame, more, pat, pmt};
use super::*;

const SAMPLE: &[u8] = include_bytes!("../../tests/data/sample.ts");
const H264: u8 = 0x1b;
const AAC: u8 = 0x0f;

/// Pushes `stream` cut by `lengths` in turn; returns the stream positions of the join points. Checks on the way what
/// holds for any bytes.
fn joins_of(stream: &[u8], lengths: &[usize]) -> (Vec<usize>, Scanner) {
    let mut scanner = Scanner::new();
    let (mut copy, mut joins) = (Vec::new(), Vec::new());
    let mut lengths = lengths.iter().cycle();
    let mut rest = stream;
    while !rest.is_empty() {
        let (bytes, after) = rest.split_at(rest.len().min(*lengths.next().unwrap()));
        let reach = scanner.join_reach_bytes();
        assert!(reach < 16 * PACKET_BYTES);
        scanner.push(bytes, &mut |piece| {
            assert!(!piece.bytes.is_empty());
            if let Some(back) = piece.join {
                assert!(back <= reach, "{back} bytes back, {reach} were announced");
                joins.push(copy.len() - back);
            }
            copy.extend_from_slice(piece.bytes);
        });
        assert_eq!(scanner.position(), copy.len() as u64);
        rest = after;
    }
    assert!(copy == stream, "the pieces are not the input");
    (joins, scanner)
}

fn joins(packets: &[Vec<u8>]) -> Vec<usize> {
    let (joins, _) = joins_of(&packets.concat(), &[usize::MAX]);
    assert!(joins.iter().all(|at| at % PACKET_BYTES == 0));
    joins.iter().map(|at| at / PACKET_BYTES).collect()
}

#[test]
fn the_sample_can_be_joined_each_second_at_a_pat() {
    let first_pat = SAMPLE.chunks(PACKET_BYTES).position(|packet| packet[1..3] == [0x40, 0]).unwrap();
    for lengths in [&[usize::MAX][..], &[7 * PACKET_BYTES], &[1], &[189, 3, 1000]] {
        let (joins, scanner) = joins_of(SAMPLE, lengths);
        assert_eq!(joins.len(), 4, "{lengths:?}");
        assert_eq!(joins[0], first_pat * PACKET_BYTES);
        assert!(joins.iter().all(|&at| SAMPLE[at..].starts_with(&[0x47, 0x40, 0])));
        assert_eq!(scanner.is_mpeg_ts(), Some(true));
        assert_eq!(scanner.incomplete_packet_bytes(), Some(0));
    }
}

#[test]
fn the_samples_clock_goes_forward_for_four_seconds() {
    let mut scanner = Scanner::new();
    let mut last = None;
    for packet in SAMPLE.chunks(PACKET_BYTES) {
        scanner.push(packet, &mut |_| ());
        let clock = scanner.clock();
        if let (Some(last), Some(clock)) = (last, clock) {
            let Clock { ticks, position, .. } = last;
            assert!(clock == last || (clock.ticks > ticks && clock.position > position));
        }
        last = clock;
    }
    let last = last.unwrap();
    let seconds = last.ticks as f64 / TICKS_PER_SECOND as f64;
    assert_eq!(last.breaks, 0);
    assert!((3.9..=4.0).contains(&seconds), "{seconds} s");
}

#[test]
fn a_join_starts_at_the_tables_only_when_no_video_came_between() {
    let av = pmt(&[(H264, VIDEO_PID), (AAC, AUDIO_PID)]);
    let second = TICKS_PER_SECOND;
    let stream = [
        more(VIDEO_PID),
        pat(),
        av.clone(),
        key_frame(VIDEO_PID, 0), // joined at the PAT, 1
        frame(VIDEO_PID, None),
        pat(),
        av.clone(),
        more(VIDEO_PID),
        key_frame(VIDEO_PID, second), // joined here, 8
        pat(),
        av,
        frame(AUDIO_PID, None),
        key_frame(VIDEO_PID, 2 * second), // joined at the PAT, 9
        key_frame(AUDIO_PID, 2 * second),
    ];
    assert_eq!(joins(&stream), [1, 8, 9]);
}

#[test]
fn tables_far_before_the_key_frame_are_not_reached_back_to() {
    let mut stream = vec![pat(), pmt(&[(H264, VIDEO_PID), (AAC, AUDIO_PID)])];
    stream.extend((0..16).map(|_| more(AUDIO_PID)));
    stream.push(key_frame(VIDEO_PID, 0));
    assert_eq!(joins(&stream), [18]);
}

#[test]
fn a_programme_without_video_is_joined_about_each_second() {
    let mut stream = Vec::new();
    for tenth in 0..50 {
        stream.extend([pat(), pmt(&[(AAC, AUDIO_PID)])]);
        stream.push(frame(AUDIO_PID, Some(tenth * TICKS_PER_SECOND / 10)));
        stream.push(more(AUDIO_PID));
    }
    assert_eq!(joins(&stream), [0, 40, 80, 120, 160]);
}

#[test]
fn a_programme_without_video_and_clock_is_joined_by_count() {
    let mut stream = vec![pat(), pmt(&[(AAC, AUDIO_PID)])];
    stream.extend((0..200).map(|_| frame(AUDIO_PID, None)));
    assert_eq!(joins(&stream), [0, 66, 130, 194]);
}

#[test]
fn garbage_in_between_costs_no_more_than_itself() {
    let start = [pat(), pmt(&[(H264, VIDEO_PID)]), key_frame(VIDEO_PID, 0), more(VIDEO_PID), more(VIDEO_PID)];
    let packets = start.concat();
    let stream = [&packets[..], &[0x47; 300], &packets, &packets].concat();
    for length in [1, 500, usize::MAX] {
        let (joins, _) = joins_of(&stream, &[length]);
        // The garbage is all sync bytes: it hides the first packets after it until the pattern breaks.
        assert!(joins.len() >= 2 && joins[0] == 0, "{joins:?}");
        assert_eq!(joins.last(), Some(&(2 * packets.len() + 300)));
    }
}

#[test]
fn what_is_no_transport_stream_is_called_so_and_passes() {
    let noise: Vec<u8> = (0..PROBE_BYTES as usize).map(|i| (i * i / 7) as u8).collect();
    let (joins, scanner) = joins_of(&noise[1..], &[1000]);
    assert_eq!((joins.len(), scanner.is_mpeg_ts()), (0, None));
    let (joins, mut scanner) = joins_of(&noise, &[1000]);
    assert_eq!((joins.len(), scanner.is_mpeg_ts()), (0, Some(false)));
    assert_eq!(scanner.incomplete_packet_bytes(), None);
    scanner.push(SAMPLE, &mut |_| ());
    assert_eq!(scanner.is_mpeg_ts(), Some(true));
}

/// Packets with random contents behind a few valid tables: reaches the parser, which pure noise does not.
fn damaged_stream() -> impl Strategy<Value = Vec<u8>> {
    let tables = [pat(), pmt(&[(H264, VIDEO_PID), (AAC, AUDIO_PID)]), key_frame(VIDEO_PID, 0)].concat();
    let changes = prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..40);
    (1..8usize, changes).prop_map(move |(repeats, changes)| {
        let mut stream = tables.repeat(repeats);
        for (at, byte) in changes {
            let at = at.index(stream.len());
            stream[at] = byte;
        }
        stream
    })
}

/// A first byte that keeps the sync, a PID that is looked at, and then anything.
fn wild_packets() -> impl Strategy<Value = Vec<u8>> {
    let pid = prop::sample::select(vec![0_u16, PMT_PID, VIDEO_PID, AUDIO_PID]);
    let packet = (pid, any::<u8>(), prop::collection::vec(any::<u8>(), PACKET_BYTES - 3));
    prop::collection::vec(packet, 5..40).prop_map(|packets| {
        let mut stream = [pat(), pmt(&[(H264, VIDEO_PID), (AAC, AUDIO_PID)])].concat();
        for (pid, flags, rest) in packets {
            stream.extend_from_slice(&[0x47, flags & 0xe0 | (pid >> 8) as u8, pid as u8]);
            stream.extend(rest);
        }
        stream
    })
}

proptest! {
    #[test]
    fn any_bytes_pass_whole(bytes in prop::collection::vec(any::<u8>(), 0..4000), lengths in lengths()) {
        joins_of(&bytes, &lengths);
    }

    #[test]
    fn damaged_streams_pass_whole(bytes in damaged_stream(), lengths in lengths()) {
        joins_of(&bytes, &lengths);
    }

    #[test]
    fn how_a_stream_is_cut_does_not_change_what_is_found(bytes in wild_packets(), lengths in lengths()) {
        let (whole, _) = joins_of(&bytes, &[usize::MAX]);
        let (cut, _) = joins_of(&bytes, &lengths);
        // Of several joins that were pushed before they are recognised only the last is reported.
        prop_assert!(cut.iter().all(|at| whole.contains(at)));
        prop_assert_eq!(cut.last(), whole.last());
    }
}

fn lengths() -> impl Strategy<Value = Vec<usize>> {
    prop::collection::vec(1..700_usize, 1..6)
}
