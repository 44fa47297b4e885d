//! The golden vectors in `tests/vectors` (see "Golden vectors" in `PROTOCOL.md`): what is written must be what stands
//! there, and what stands there must read back as what was written. `SUPERPEER_BLESS=1` writes the files anew.

use std::fs;
use std::path::PathBuf;

use codec::wire::control::{
    Bye, ByeReason, Challenge, Control, Hello, Refuse, RefuseReason, Repair, Report, Role, Sender,
    SessionHeader, SessionId, Wanted, Welcome,
};
use codec::{
    ChannelLink, ChannelSecret, ChunkHeader, DATAGRAM_BYTES, Fec, Sequence, ShardSet, ShardView, SlotLayout,
    Stripes, restore_chunk, seal_chunk, verify_shard,
};
use sha2::{Digest, Sha256};

/// RFC 8032 §7.1, the secret key of TEST 1.
const SEED: &str = "9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60";

const NONCE: u64 = 0x0102_0304_0506_0708;
const COOKIE: [u8; 16] = *b"cookie of 16 byt";
const SESSION: SessionId = SessionId(0xf0f1_f2f3_f4f5_f6f7);

/// The lines of one vector file, in order.
type Lines = Vec<(String, String)>;

fn secret() -> ChannelSecret {
    ChannelSecret::from_seed(&from_hex(SEED).try_into().unwrap())
}

#[test]
fn channel() {
    let (secret, verifier) = (secret(), secret().key().verifier().unwrap());
    let signature = secret.sign_hello(NONCE, &COOKIE);
    assert!(verifier.signed_hello(NONCE, &COOKIE, &signature));
    let lines = [
        ("seed", SEED.to_owned()),
        ("key", secret.key().to_string()),
        ("tag", secret.key().tag().to_string()),
        ("hello_nonce", NONCE.to_string()),
        ("hello_cookie", hex(&COOKIE)),
        ("hello_signature", hex(&signature)),
    ];
    assert_is_vector("channel", named(lines));
}

#[test]
fn chunk_of_one_data_shard() {
    let mut header = header(1, 0, 1_000);
    header.last = true;
    check_chunk("chunk-1-0", header);
}

#[test]
fn chunk_of_three_data_and_two_parity_shards() {
    let mut header = header(3, 2, 3_000);
    header.join_distance = 25;
    check_chunk("chunk-3-2", header);
}

#[test]
fn chunk_of_thirty_two_data_and_sixteen_parity_shards() {
    check_chunk("chunk-32-16", header(32, 16, 32 * 1036));
}

/// Sequence numbers and capture times as a publisher's clock would give them on 2026-01-01.
fn header(k: usize, m: usize, payload_bytes: usize) -> ChunkHeader {
    let layout = SlotLayout::new(k, m).unwrap();
    let sequence = Sequence(1_767_225_600_000_001);
    let mut header = ChunkHeader::new(secret().key().tag(), sequence, layout, payload_bytes).unwrap();
    header.capture_us = 1_767_225_600_040_000;
    header
}

fn check_chunk(name: &str, header: ChunkHeader) {
    let layout = header.layout();
    let payload: Vec<u8> = (0..header.payload_bytes()).map(|at| (at % 251) as u8).collect();
    let mut slot = vec![0; layout.slot_bytes()];
    let mut fec = Fec::new();
    let sealed = seal_chunk(&mut slot, &header, payload.chunks(188), &secret(), &mut fec);

    // A chunk of more than a few datagrams is given by their digests.
    let in_full = layout.shards_total() <= 5;
    let mut lines = named([
        ("seed", SEED.to_owned()),
        ("k", layout.data_shards().to_string()),
        ("m", layout.parity_shards().to_string()),
        ("sequence", header.sequence.to_string()),
        ("capture_us", header.capture_us.to_string()),
        ("payload_bytes", header.payload_bytes().to_string()),
        ("join_distance", header.join_distance.to_string()),
        ("last", header.last.to_string()),
        ("payload_sha256", sha256(&payload)),
        ("root", hex(&sealed.root_bytes())),
        ("signature", hex(&slot[36..100])),
    ]);
    for (index, datagram) in slot.chunks(DATAGRAM_BYTES).enumerate() {
        lines.push((format!("sha256.{index}"), sha256(datagram)));
        if in_full {
            lines.push((format!("datagram.{index}"), hex(datagram)));
        }
    }
    assert_is_vector(name, lines);
    if in_full {
        check_reading(name, header, &payload);
    }
}

/// Reads the k last datagrams of the file, restores the others from them, and expects the same chunk.
fn check_reading(name: &str, header: ChunkHeader, payload: &[u8]) {
    let lines = read(name);
    let datagrams: Vec<Vec<u8>> = lines
        .iter()
        .filter(|(field, _)| field.starts_with("datagram."))
        .map(|(_, value)| from_hex(value))
        .collect();
    let layout = header.layout();
    assert_eq!(datagrams.len(), layout.shards_total());
    let verifier = secret().key().verifier().unwrap();
    let (mut slot, mut present, mut identity) = (vec![0; layout.slot_bytes()], ShardSet::EMPTY, None);
    for (index, datagram) in datagrams.iter().enumerate().skip(layout.parity_shards()) {
        let view = ShardView::parse(datagram).unwrap();
        assert_eq!((view.index(), view.header()), (index, header));
        identity = Some(verify_shard(&view, &verifier, identity.as_ref()).unwrap());
        slot[index * DATAGRAM_BYTES..][..DATAGRAM_BYTES].copy_from_slice(datagram);
        present.insert(index);
    }
    restore_chunk(&mut slot, &identity.unwrap(), present, &mut Fec::new()).unwrap();
    assert!(slot == datagrams.concat());
    assert_eq!(header.payload(&slot).collect::<Vec<_>>().concat(), payload);
}

#[test]
fn control() {
    for (name, message) in messages() {
        let mut lines = fields(&message);
        lines.push(("datagram".into(), hex(&message.encode())));
        assert_is_vector(name, lines);

        let lines = read(name);
        let (_, datagram) = lines.last().unwrap();
        let parsed = Control::parse(&from_hex(datagram)).unwrap();
        assert_eq!(parsed, message);
        assert_eq!(fields(&parsed), lines[..lines.len() - 1]);
    }
}

#[test]
fn link() {
    let link = ChannelLink {
        key: secret().key(),
        name: Some("News & weather, 24 h".into()),
        relays: vec!["relay.example:7450".into(), "[2001:db8::1]:7450".into(), "192.0.2.1:7450".into()],
    };
    let mut lines = named([("key", link.key.to_string()), ("name", link.name.clone().unwrap())]);
    lines.extend(link.relays.iter().map(|relay| ("relay".to_owned(), relay.clone())));
    lines.push(("link".into(), link.to_string()));
    assert_is_vector("link", lines);
    assert_eq!(read("link").last().unwrap().1.parse(), Ok(link));
}

fn messages() -> Vec<(&'static str, Control)> {
    let secret = secret();
    let subscribe = Hello {
        role: Role::Subscribe,
        key: secret.key(),
        nonce: NONCE,
        from: Sequence(1_767_225_600_000_001),
        cookie: [0; 16],
        signature: [0; 64],
    };
    let publish = Hello {
        role: Role::Publish,
        from: Sequence(0),
        cookie: COOKIE,
        signature: secret.sign_hello(NONCE, &COOKIE),
        ..subscribe
    };
    let welcome = Welcome {
        nonce: NONCE,
        session: SESSION,
        lease_ms: 10_000,
        edge: Sequence(1_767_225_600_000_050),
        oldest: Sequence(1_767_225_600_000_001),
        start: Sequence(1_767_225_600_000_026),
        observed: "192.0.2.7:40000".parse().unwrap(),
    };
    let nodes = ["198.51.100.2:7450", "[2001:db8::2]:7450"].map(|node| node.parse().unwrap());
    let refuse = Refuse {
        nonce: NONCE,
        reason: RefuseReason::Full,
        retry_after_ms: 30_000,
        nodes: nodes.into_iter().collect(),
    };
    let header = SessionHeader { sender: Sender::Subscriber, tag: secret.key().tag(), session: SESSION };
    let report = Report {
        header,
        stripes: Stripes::ALL,
        stamp_us: 123_456_789,
        echo_us: 987_654_321,
        held_us: 250_000,
        spread_us: 1_500,
        highest: Sequence(1_767_225_600_000_050),
        settled: Sequence(1_767_225_600_000_048),
        received: 1_600,
        lost: 40,
        recovered: 30,
        repaired: 9,
        chunks: 50,
        expected: 1_600,
        lost_squares: 120,
        slack_ms: 1_000,
        queued_ms: 25,
        strained: false,
    };
    let upstream = SessionHeader { sender: Sender::Upstream, ..header };
    let strained = Report { strained: true, stamp_us: 7, highest: report.highest, ..Report::new(upstream) };
    let half = Report { stripes: Stripes::one(1, 2), ..report };
    let wanted = [
        Wanted { sequence: Sequence(1_767_225_600_000_049), shards: ShardSet::range(1, 3) },
        Wanted { sequence: Sequence(1_767_225_600_000_050), shards: ShardSet::ALL },
    ];
    let repair = Repair { header, number: 258, wanted: wanted.into_iter().collect() };
    let bye = Bye { header: upstream, reason: ByeReason::Closing, nodes: nodes.into_iter().collect() };
    let reset = Bye { reason: ByeReason::UnknownSession, nodes: Default::default(), ..bye.clone() };
    vec![
        ("hello-subscribe", Control::Hello(subscribe)),
        ("hello-publish", Control::Hello(publish)),
        ("challenge", Control::Challenge(Challenge { nonce: NONCE, cookie: COOKIE })),
        ("welcome", Control::Welcome(welcome)),
        ("refuse", Control::Refuse(refuse)),
        ("report", Control::Report(report)),
        ("report-strained", Control::Report(strained)),
        ("report-half", Control::Report(half)),
        ("repair", Control::Repair(repair)),
        ("bye-closing", Control::Bye(bye)),
        ("bye-unknown-session", Control::Bye(reset)),
    ]
}

fn fields(message: &Control) -> Lines {
    match message {
        Control::Hello(hello) => named([
            ("role", format!("{:?}", hello.role)),
            ("key", hello.key.to_string()),
            ("nonce", hello.nonce.to_string()),
            ("from", hello.from.to_string()),
            ("cookie", hex(&hello.cookie)),
            ("signature", hex(&hello.signature)),
        ]),
        Control::Challenge(challenge) => {
            named([("nonce", challenge.nonce.to_string()), ("cookie", hex(&challenge.cookie))])
        }
        Control::Welcome(welcome) => named([
            ("nonce", welcome.nonce.to_string()),
            ("session", welcome.session.0.to_string()),
            ("edge", welcome.edge.to_string()),
            ("oldest", welcome.oldest.to_string()),
            ("start", welcome.start.to_string()),
            ("lease_ms", welcome.lease_ms.to_string()),
            ("observed", welcome.observed.to_string()),
        ]),
        Control::Refuse(refuse) => {
            let mut lines = named([
                ("reason", format!("{:?}", refuse.reason)),
                ("nonce", refuse.nonce.to_string()),
                ("retry_after_ms", refuse.retry_after_ms.to_string()),
            ]);
            lines.extend(refuse.nodes.iter().map(|node| ("node".to_owned(), node.to_string())));
            lines
        }
        Control::Report(report) => {
            let mut lines = session_fields(&report.header);
            lines.extend(named([
                ("stripes", stripes(report.stripes)),
                ("stamp_us", report.stamp_us.to_string()),
                ("echo_us", report.echo_us.to_string()),
                ("held_us", report.held_us.to_string()),
                ("spread_us", report.spread_us.to_string()),
                ("highest", report.highest.to_string()),
                ("settled", report.settled.to_string()),
                ("received", report.received.to_string()),
                ("lost", report.lost.to_string()),
                ("recovered", report.recovered.to_string()),
                ("repaired", report.repaired.to_string()),
                ("chunks", report.chunks.to_string()),
                ("expected", report.expected.to_string()),
                ("lost_squares", report.lost_squares.to_string()),
                ("slack_ms", report.slack_ms.to_string()),
                ("queued_ms", report.queued_ms.to_string()),
                ("strained", report.strained.to_string()),
            ]));
            lines
        }
        Control::Repair(repair) => {
            let mut lines = session_fields(&repair.header);
            lines.push(("number".into(), repair.number.to_string()));
            for wanted in &repair.wanted {
                lines.push(("sequence".into(), wanted.sequence.to_string()));
                lines.push(("shards".into(), format!("{:?}", wanted.shards)));
            }
            lines
        }
        Control::Bye(bye) => {
            let mut lines = session_fields(&bye.header);
            lines.push(("reason".into(), format!("{:?}", bye.reason)));
            lines.extend(bye.nodes.iter().map(|node| ("node".to_owned(), node.to_string())));
            lines
        }
    }
}

fn stripes(stripes: Stripes) -> String {
    format!("{:#06b} of {}", stripes.wanted(), stripes.of())
}

fn session_fields(header: &SessionHeader) -> Lines {
    named([
        ("sender", format!("{:?}", header.sender)),
        ("tag", header.tag.to_string()),
        ("session", header.session.0.to_string()),
    ])
}

fn named<const N: usize>(lines: [(&str, String); N]) -> Lines {
    lines.map(|(name, value)| (name.to_owned(), value)).to_vec()
}

fn assert_is_vector(name: &str, lines: Lines) {
    if std::env::var_os("SUPERPEER_BLESS").is_some() {
        let text: String = lines.iter().map(|(field, value)| format!("{field} = {value}\n")).collect();
        fs::write(path(name), text).unwrap();
    }
    assert_eq!(lines, read(name), "vector {name}");
}

fn read(name: &str) -> Lines {
    let text = fs::read_to_string(path(name)).unwrap();
    let pair = |line: &str| line.split_once(" = ").map(|(field, value)| (field.to_owned(), value.to_owned()));
    text.lines().map(|line| pair(line).expect("name = value")).collect()
}

fn path(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/vectors").join(format!("{name}.txt"))
}

fn sha256(bytes: &[u8]) -> String {
    hex(&Sha256::digest(bytes))
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn from_hex(text: &str) -> Vec<u8> {
    assert_eq!(text.len() % 2, 0);
    (0..text.len()).step_by(2).map(|at| u8::from_str_radix(&text[at..at + 2], 16).unwrap()).collect()
}
