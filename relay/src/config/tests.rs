use mesh::ChannelLimits;

use super::*;

fn error(text: &str) -> String {
    Config::parse(text, "test.toml").unwrap_err().to_string()
}

#[test]
fn the_printed_default_is_the_default() {
    assert_eq!(Config::parse(DEFAULT_CONFIG, "default").unwrap(), Config::default());
}

#[test]
fn wrong_files_say_what_is_wrong_where() {
    let unknown = error("listen = \"[::]:1\"\n\n[limits]\nsubscriber = 5\n");
    assert_eq!(
        unknown,
        "test.toml:4: unknown key limits.subscriber = 5; the nearest there is: limits.subscribers"
    );
    let table = error("\n[limit]\nchannels = 1");
    assert!(table.starts_with("test.toml:2: unknown key limit") && table.ends_with("limits"), "{table}");
    let odd = error("zzz = \"x\"");
    assert!(odd.starts_with("test.toml:1: unknown key zzz = \"x\"; `superpeerd --print-config`"), "{odd}");
    let inner = error("channels = [{ link = \"x\", upstream = [] }]");
    assert!(inner.contains("channels.upstream = []") && inner.ends_with("channels.upstreams"), "{inner}");
    let value = error("listen = \"somewhere\"");
    assert!(value.contains("line 1"), "{value}");
    let io = error("io = \"dpdk\"");
    assert!(io.contains("line 1") && io.contains("`mmsg`"), "{io}");
    let channel = error("channels = [\"magnet:?dn=x\"]");
    assert!(channel.contains("no channel key"), "{channel}");
    let admin = error("[admin]\nlisten = \"0.0.0.0:7451\"");
    assert!(admin.contains("line 2") && admin.contains("no loopback address"), "{admin}");
    let others = error(&format!("others = [{}]", "\"192.0.2.1:7450\",".repeat(9)));
    assert!(others.contains("line 1") && others.contains("9 addresses"), "{others}");
    let range = error("[limits]\nwindow_seconds = 0");
    assert!(
        range.starts_with("test.toml:2: limits.window_seconds = 0") && range.contains("1 to 600"),
        "{range}"
    );
    let zero_copy = error("zero_copy_from_bytes = 60000");
    assert!(
        zero_copy.starts_with("test.toml:1: zero_copy_from_bytes = 60000")
            && zero_copy.contains("0 to 59136"),
        "{zero_copy}"
    );
}

#[test]
fn caps_are_in_mbit_per_second_and_0_is_none() {
    let key = ChannelKey([0xab; 32]);
    let node = |limits: &str, channel: &str| {
        let text = format!("channels = [{{ link = \"{key}\", {channel} }}]\n[limits]\n{limits}");
        Config::parse(&text, "test.toml").unwrap().node()
    };
    let capped = node("egress_mbps = 50\nsubscribers_per_channel = 9", "egress_mbps = 5, subscribers = 7");
    assert_eq!(capped.limits.egress_bps_max, Some(50_000_000));
    assert_eq!(capped.limits.subscribers_per_channel_max, Some(9));
    let own = ChannelLimits { subscribers_max: Some(7), egress_bps_max: Some(5_000_000) };
    assert_eq!(capped.channel_limits[&key], own);
    let free = node("egress_mbps = 0", "egress_mbps = 0, subscribers = 0");
    assert_eq!((free.limits, free.channel_limits[&key]), (Limits::default(), ChannelLimits::default()));
}

#[test]
fn workers_are_a_number_or_auto() {
    let workers = |text: &str| Config::parse(text, "test.toml").map(|config| config.workers);
    assert_eq!(workers("workers = 3").unwrap(), Workers::Fixed(3));
    assert_eq!(workers("workers = \"auto\"").unwrap(), Workers::Auto);
    for wrong in ["0", "65", "-1", "\"all\"", "2.5"] {
        let error = error(&format!("workers = {wrong}"));
        assert!(error.contains("line 1") && error.contains("workers"), "{error}");
    }
}

#[test]
fn channels_are_links_or_keys() {
    let key = "ab".repeat(32);
    let text = format!("channels = [\"{key}\", \"magnet:?xs=urn:btpk:{key}&dn=x\"]");
    let config = Config::parse(&text, "test.toml").unwrap();
    assert_eq!(config.admission(), Admission::Listed([ChannelKey([0xab; 32])].into()));
}
