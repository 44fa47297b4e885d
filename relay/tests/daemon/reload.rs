//! SIGHUP: the configuration is read anew.

use std::path::Path;

use codec::wire::control::{ByeReason, RefuseReason};

use crate::daemon::Daemon;
use crate::peer::{Peer, all_until, secret};

pub(crate) fn write(path: &Path, channels: &[u8], more: &str) {
    let keys: Vec<String> = channels.iter().map(|number| format!("\"{}\"", secret(*number).key())).collect();
    std::fs::write(path, format!("channels = [{}]\n{more}", keys.join(", "))).unwrap();
}

/// The next line that has this in it.
pub(crate) fn line_with(daemon: &Daemon, text: &str) -> String {
    std::iter::repeat_with(|| daemon.next_line())
        .find(|line| line.contains(text))
        .expect("an endless iterator")
}

#[test]
fn a_good_file_acts_at_once_and_a_bad_one_not_at_all_and_streams_go_on() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("superpeer.toml");
    write(&path, &[1, 2], "");
    let daemon = Daemon::start("127.0.0.1:0", &["--config", path.to_str().unwrap()]);
    let mut publisher = Peer::publisher(daemon.address(), secret(1));
    let mut viewer = Peer::viewer(daemon.address(), secret(1).key());
    let mut leaving = Peer::viewer(daemon.address(), secret(2).key());
    let mut peers = [&mut publisher, &mut viewer, &mut leaving];
    all_until(&mut peers, "all are connected", |peers| peers.iter().all(|peer| peer.is_connected()));
    let mut published = Vec::new();
    for round in 0..100_u32 {
        // Each of these files but the last is wrong in its third line.
        write(&path, &[1, 3], if round < 99 { "\nopne = true\n" } else { "io = \"mmsg\"\n" });
        daemon.signal("HUP");
        let piece: Vec<u8> = (round * 500..).flat_map(u32::to_le_bytes).take(2_000).collect();
        peers[0].push(&piece);
        published.extend(piece);
        peers.iter_mut().for_each(|peer| peer.turn());
        if round < 99 {
            let refusal = line_with(&daemon, "SIGHUP");
            assert!(
                refusal.contains("superpeer.toml:3: unknown key opne") && refusal.contains("as before"),
                "{refusal}"
            );
            assert!(peers[2].is_connected());
        }
    }
    assert!(line_with(&daemon, "started again").contains("io"));
    line_with(&daemon, "read anew");
    all_until(&mut peers, "the stream has come through", |peers| peers[1].output.len() == published.len());
    assert!(peers[1].output == published);
    all_until(&mut peers, "the channel is carried no more", |peers| {
        peers[2].was_told_bye(ByeReason::Closing) && peers[2].was_refused(RefuseReason::ChannelNotAllowed)
    });
    assert!(peers[0].is_connected() && peers[1].is_connected());
    let mut coming = Peer::viewer(daemon.address(), secret(3).key());
    coming.until("the new channel is carried", Peer::is_connected);
}
