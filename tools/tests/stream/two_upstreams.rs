//! Two relays at a time for one channel, of which one is killed in the middle of the stream.

use std::fs;
use std::net::Ipv4Addr;
use std::path::Path;
use std::process::ChildStdin;

use codec::ChannelLink;
use relay::config::Channel;
use relay::{Config, Relay};
use serde_json::Value;

use crate::daemon::Daemon;
use crate::lab::Lab;
use crate::processes::{Superpeer, until, until_bytes};
use crate::trouble::Live;

/// A publisher that publishes to both relays.
fn start_publisher(lab: &Lab, relays: &[Daemon; 2]) -> (Superpeer, ChildStdin) {
    let [one, other] = relays.each_ref().map(|relay| relay.address.as_str());
    let (publisher, input) =
        Superpeer::start_with_input(&["publish", "--key", &lab.key, "--relay", one, "--relay", other]);
    [one, other].iter().for_each(|name| publisher.until_said(&format!("connected to {name}")));
    (publisher, input)
}

/// How much each upstream gives, as a viewer last said.
fn shares(viewer: &Superpeer) -> Vec<String> {
    let said = viewer.said();
    let stats = said.lines().rev().find_map(|line| serde_json::from_str::<Value>(line).ok());
    let upstreams = stats.and_then(|stats| stats["upstreams"].as_array().cloned()).unwrap_or_default();
    upstreams.iter().map(|upstream| upstream["share"].as_str().unwrap().to_owned()).collect()
}

/// The viewer has all that was published, and left nothing out.
fn has_all(viewer: Superpeer, path: &Path, published: &[u8]) {
    until_bytes(path, published.len());
    assert!(fs::read(path).unwrap() == published);
    viewer.signal("INT");
    let (_, said) = viewer.wait();
    assert!(said.contains("missed 0;"), "{said}");
}

#[test]
fn when_one_upstream_of_two_is_killed_no_byte_is_missing_at_the_viewer() {
    for killed in 0..2 {
        let mut relays = [Daemon::start(), Daemon::start()];
        let lab = Lab::without_relay(&relays[0].address);
        let path = lab.path("out");
        let more = ["--relay", &relays[1].address, "--upstreams", "2", "--stats"];
        let viewer = lab.watch_into("out", &more);
        relays.iter().for_each(|relay| viewer.until_said(&format!("connected to {}", relay.address)));
        let (_publisher, input) = start_publisher(&lab, &relays);
        let live = Live::start(input);
        until("each gives a half", || (shares(&viewer) == ["1/2", "1/2"]).then_some(()));

        relays[killed].kill();
        until_bytes(&path, live.written() + 500_000);
        assert!(shares(&viewer).contains(&"1/1".to_owned()), "{:?}", shares(&viewer));
        has_all(viewer, &path, &live.finish());
    }
}

#[test]
fn when_one_upstream_of_two_of_a_relay_is_killed_no_byte_is_missing_behind_it() {
    let mut relays = [Daemon::start(), Daemon::start()];
    let mut lab = Lab::without_relay("127.0.0.1:1");
    let key = lab.link.parse::<ChannelLink>().unwrap().key;
    let upstreams = relays.each_ref().map(|relay| relay.address.clone()).to_vec();
    let config = Config {
        listen: (Ipv4Addr::LOCALHOST, 0).into(),
        channels: vec![Channel { upstreams, ..Channel::new(key) }],
        upstreams_at_once: 2,
        ..Config::default()
    };
    let edge = Relay::start(&config).unwrap();
    lab.link = lab.link.replace("127.0.0.1:1", &edge.local_addr().to_string());
    let path = lab.path("out");
    let viewer = lab.watch_into("out", &[]);
    let (_publisher, input) = start_publisher(&lab, &relays);
    let live = Live::start(input);
    until("each gives a half", || {
        let snapshot = edge.take_snapshot()?;
        let shares: Vec<_> = snapshot.upstreams.iter().map(|upstream| upstream.stripes.share()).collect();
        (shares == [(1, 2), (1, 2)]).then_some(())
    });
    relays[0].kill();
    until_bytes(&path, live.written() + 500_000);
    has_all(viewer, &path, &live.finish());
}
