//! The simulator: seeds that are always run, seeds that once failed, and a few that nobody has seen before.

use assert_cmd::cargo::cargo_bin_cmd;
use serde_json::Value;
use tools::sim::{FailedSeed, search};

/// Seeds that are always run.
const FIXED: (u64, u64) = (1, 12);

/// Seeds never seen before, in each run of the tests; `.ci/run` tries many more.
const FRESH: u64 = 8;

/// Seeds that found something once, and what.
const REGRESSIONS: [(u64, &str); 15] = [
    (10_035, "whoever took a part of each chunk was let in for that part, and let go for the whole"),
    (10_082, "a relay's successor sent at once what its predecessor had sent at once"),
    (10_104, "a line on which nothing was sent any more stayed strained"),
    (50_250, "after a restart a relay near its cap let the newest go, for they caught up"),
    (60_030, "the one that was gone was asked for a chunk again and again, not the other"),
    (60_422, "under a cap parity took the room of data, and what was late for that called for more parity"),
    (2_875_928_868, "under a cap, what waited to be sent was asked for, and sent twice"),
    (2_875_928_948, "the same, of other chunks"),
    (
        2_875_929_296,
        "what the one that was gone had been asked for was asked of the other a quarter of a second later",
    ),
    (
        3_229_482_691,
        "the simulator's relay was replaced without what a cap held back, which the real one sends first",
    ),
    (1_334_429_365, "what others had just been sent was kept from who had taken half of it"),
    (1_334_428_518, "a copy of its own Hello, sent by somebody else, kept a relay from its upstream"),
    (
        4_008_909_155,
        "repair that a cap had held back for seconds, of no use any more, went first and held back a hand-over",
    ),
    (2_581_552_632, "data that had been made before it came counted as sent twice"),
    (3_584_669_603, "of three upstreams only the two that were gone were asked, in turn"),
];

fn all_pass(from: u64, count: u64) {
    println!("seeds {from} to {}", from + count - 1);
    let (_, failed) = search(from, count, None, |failed: &FailedSeed| println!("{failed:?}"));
    let replays: Vec<String> =
        failed.iter().map(|it| format!("superpeer sim {}: {}", it.seed, it.why)).collect();
    assert!(replays.is_empty(), "{replays:#?}");
}

#[test]
fn fixed_seeds_pass() {
    all_pass(FIXED.0, FIXED.1);
}

#[test]
fn fresh_seeds_pass() {
    all_pass(getrandom::u64().unwrap() >> 32, FRESH);
}

#[test]
fn what_seeds_found_once_stays_mended() {
    for (seed, found) in REGRESSIONS {
        println!("{found}:");
        all_pass(seed, 1);
    }
}

fn output(arguments: &[&str]) -> String {
    let output = cargo_bin_cmd!("superpeer").arg("sim").args(arguments).output().unwrap();
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn a_seed_replays_to_the_last_datagram() {
    let (one, again) = (output(&["3", "--trace"]), output(&["3", "--trace"]));
    assert!(
        one.lines().count() > 1_000 && one.contains("Connected") && one.contains("viewers wrote"),
        "{one}"
    );
    assert!(one == again);
}

#[test]
fn repair_and_regeneration_are_worth_what_they_cost() {
    let measure = |more: &[&str]| {
        let arguments = [
            "loss",
            "--minutes",
            "1",
            "--viewers",
            "1",
            "--bitrate",
            "1M",
            "--rtt",
            "40ms",
            "--json",
            "--loss",
        ];
        let measured: Value = serde_json::from_str(&output(&[&arguments[..], more].concat())).unwrap();
        println!("{measured}");
        let number = |name: &str| measured[name].as_f64().unwrap();
        (number("share_lost"), number("to_subscriber_beyond_data"), number("uplink_beyond_data"))
    };
    let (lost, beyond, uplink) = measure(&["10%"]);
    assert!(lost < 0.001 && beyond > 0.05 && uplink > 0.05);
    let (lost_without, beyond_without, _) = measure(&["10%", "--no-repair", "--no-regeneration"]);
    assert!(lost_without > 0.01 && beyond_without < beyond);
    let (lost_clean, beyond_clean, uplink_clean) = measure(&["0%"]);
    assert_eq!(lost_clean, 0.0);
    assert!(beyond_clean < 0.01 && uplink_clean < 0.01, "control datagrams alone");
}

#[test]
fn losses_and_round_trips_are_measured_each_with_each_and_drawn() {
    let folder = tempfile::tempdir().unwrap();
    let chart = folder.path().join("loss.svg");
    let lines = ["--uplink-loss", "0%", "--loss", "0%,10%", "--rtt", "20ms,40ms"];
    let more = ["--bitrate", "1M", "--viewers", "1", "--json", "--svg", chart.to_str().unwrap()];
    let text = output(&[&["loss"], &lines[..], &more].concat());
    let found: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let which = |it: &Value| (it["rtt_ms"].as_u64().unwrap(), it["loss"].as_f64().unwrap());
    let all: Vec<_> = found.iter().map(which).collect();
    assert_eq!(all, [(20, 0.0), (20, 0.1), (40, 0.0), (40, 0.1)]);
    for measured in &found {
        let beyond = |name: &str| measured[name].as_f64().unwrap();
        assert!(beyond("uplink_beyond_data") < 0.02, "the publisher's hop loses nothing: {measured}");
        assert_eq!(beyond("to_subscriber_beyond_data") > 0.1, beyond("loss") > 0.0, "{measured}");
    }
    let drawn = std::fs::read_to_string(chart).unwrap();
    assert!(drawn.contains("round trip 20 ms") && drawn.contains("round trip 40 ms"), "{drawn}");
}
