//! `superpeer bench`, tiny: that it measures and says what it found, not how fast this machine is.
#![cfg(target_os = "linux")]

use std::process::{Command, Stdio};
use std::thread;
use std::time::Duration;

use assert_cmd::cargo::cargo_bin_cmd;
use serde_json::Value;

/// What the command prints, which must succeed quietly.
fn succeed(arguments: &[&str]) -> String {
    let output = cargo_bin_cmd!("superpeer").arg("bench").args(arguments).output().unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    let (stdout, stderr) = (text(output.stdout), text(output.stderr));
    assert_eq!((output.status.code(), stderr.as_str()), (Some(0), ""), "{arguments:?}");
    stdout
}

fn json(arguments: &[&str]) -> Value {
    let printed = succeed(arguments);
    assert_eq!(printed.lines().count(), 1, "one object: {printed}");
    serde_json::from_str(&printed).unwrap()
}

fn assert_numbers(object: &Value, names: &[&str]) {
    for name in names {
        assert!(object[name].is_number(), "{name} in {object}");
    }
}

#[test]
fn limit_measures_both_ways_to_send() {
    let found = json(&["limit", "--destinations", "3", "--seconds", "0.02", "--json"]);
    let rows = found["limits"].as_array().unwrap();
    assert_eq!(rows.len(), 10, "{found}");
    for (place, row) in rows.iter().enumerate() {
        assert_eq!(row["io"], if place < 5 { "io_uring" } else { "sendmmsg" });
        assert_eq!(row["train"], [1, 4, 16, 32, 48][place % 5]);
        assert!(row["sends"].as_u64().unwrap() > 0 && row["gbps"].as_f64().unwrap() > 0.0, "{row}");
        assert_numbers(row, &["us_per_send", "datagrams_per_s", "cpu_s"]);
    }
    assert!(found["datagrams_received"].as_u64().unwrap() > 0, "{found}");
}

#[test]
fn limit_prints_a_table() {
    let table = succeed(&["limit", "--destinations", "1", "--seconds", "0.01"]);
    assert_eq!(table.lines().count(), 11, "{table}");
    assert!(table.contains("Gbit/s"), "{table}");
}

#[test]
fn a_chart_that_cannot_be_written_does_not_take_the_figures_with_it() {
    let arguments = ["bench", "limit", "--destinations", "1", "--seconds", "0.01", "--svg", "/dev/full"];
    let output = cargo_bin_cmd!("superpeer").args(arguments).output().unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    let (stdout, stderr) = (text(output.stdout), text(output.stderr));
    assert_eq!(output.status.code(), Some(1), "{stderr}");
    assert!(stderr.contains("cannot write the chart /dev/full"), "{stderr}");
    assert_eq!(stdout.lines().count(), 11, "{stdout}");
}

#[test]
fn charts_are_drawn_and_a_file_that_cannot_be_written_is_refused_at_once() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
    let (limit, relay) = (path("limit.svg"), path("relay.svg"));
    succeed(&["limit", "--destinations", "1", "--seconds", "0.01", "--svg", &limit]);
    let found = json(&["relay", "--subscribers", "2", "--seconds", "1", "--json", "--svg", &relay]);
    let points = found["sweep"].as_array().unwrap();
    assert_eq!(
        points.iter().map(|point| point["subscribers"].as_u64()).collect::<Vec<_>>(),
        [Some(1), Some(2)]
    );
    for (file, unit) in [(&limit, "Gbit/s on the wire per core"), (&relay, "\nms\n")] {
        let chart = std::fs::read_to_string(file).unwrap();
        assert!(chart.starts_with("<svg") && chart.contains(unit), "{chart}");
    }
    let nowhere = path("no/such/folder.svg");
    for bench in ["limit", "relay"] {
        // With the longest time there is: it does not begin.
        let longest = if bench == "limit" { "60" } else { "600" };
        let mut command = cargo_bin_cmd!("superpeer");
        let refused =
            command.args(["bench", bench, "--seconds", longest, "--svg", &nowhere]).assert().code(1);
        let said = String::from_utf8(refused.get_output().stderr.clone()).unwrap();
        assert!(said.contains(&nowhere), "{said}");
    }
}

#[test]
fn zero_copy_over_loopback_says_that_the_kernel_copies() {
    let found =
        json(&["zero-copy", "--sink", "loopback", "--destinations", "3", "--seconds", "0.02", "--json"]);
    let rows = found["trains"].as_array().unwrap();
    assert_eq!((rows.len(), &rows[12]["train"], &rows[12]["bytes"]), (13, &48.into(), &59_136.into()));
    for row in rows {
        assert_numbers(row, &["copying_us", "zero_copy_us", "ratio"]);
        assert_eq!(row["copied"], 1.0, "{row}");
    }
    assert!(found["zero_copy_from_bytes"].is_null(), "{found}");
    assert!(found["verdict"].as_str().unwrap().contains("loopback"), "{found}");
}

#[test]
fn codec_measures_both_sizes_of_chunk() {
    let found = json(&["codec", "--json"]);
    let rows = found["chunks"].as_array().unwrap();
    assert_eq!(rows.len(), 2);
    for (row, counts) in rows.iter().zip([(16, 8), (32, 16)]) {
        assert_eq!((row["k"].as_u64(), row["m"].as_u64()), (Some(counts.0), Some(counts.1)));
        assert_numbers(row, &["parse_us", "verify_us", "verify_with_signature_us", "seal_us", "restore_us"]);
    }
}

#[test]
fn relay_reports_everything_and_loses_nothing_of_a_small_load() {
    let arguments = ["relay", "--subscribers", "20", "--workers", "1", "--seconds", "1", "--json"];
    let found = json(&arguments);
    assert_eq!((&found["subscribers"], &found["channels"]), (&20.into(), &1.into()));
    assert_eq!((&found["workers"], &found["io"]), (&1.into(), &"io_uring".into()));
    let numbers = [
        "goodput_gbps",
        "wire_gbps",
        "datagrams_per_s",
        "relay_cpu_s",
        "cpu_s_per_gbit",
        "limit_gbps",
        "ratio_to_limit",
        "train_mean",
        "rss_bytes",
        "bytes_per_subscriber",
        "zero_copy_bytes",
        "copied_bytes",
    ];
    assert_numbers(&found, &numbers);
    let drops = [
        "total",
        "jobs_skipped",
        "gave_up",
        "send_errors",
        "rcvbuf_errors",
        "publisher_unsent",
        "copies_missing",
    ];
    for name in drops {
        assert_eq!(found["drops"][name], 0, "{name} in {found}");
    }
    assert_numbers(&found["pressure"], &["send_eagain_enobufs", "receive_enobufs", "cq_overflow"]);
    assert_eq!(found["worker_core_shares"].as_array().unwrap().len(), 1);
    for copy in ["first", "median", "last"] {
        assert_numbers(&found["delay_us"][copy], &["p50", "p99", "p999"]);
    }
    assert!(
        found["chunks"].as_u64().unwrap() > 0 && found["goodput_gbps"].as_f64().unwrap() > 0.0,
        "{found}"
    );
    assert!(found["relay_process_cpu_s"].as_f64().unwrap() > 0.0, "{found}");
    assert!(found["verdict"].is_string(), "{found}");
}

#[test]
fn relay_checks_every_byte_that_a_sample_of_the_subscribers_gets() {
    let found = json(&["relay", "--subscribers", "40", "--channels", "3", "--seconds", "1", "--json"]);
    // Of 40 every second one: no more than 32 are checked.
    assert_eq!(found["checked_receivers"], 20);
    assert!(found["checked_datagrams"].as_u64().unwrap() > 1_000, "{found}");
    for name in ["wrong_datagrams", "duplicate_datagrams", "missing_datagrams", "missing_chunks"] {
        assert_eq!(found[name], 0, "{name} in {found}");
    }
}

#[test]
fn an_interrupted_relay_bench_reports_what_there_is_and_leaves_nothing_behind() {
    let mut command = Command::new(cargo_bin_cmd!("superpeer").get_program());
    command.args(["bench", "relay", "--subscribers", "5", "--seconds", "600", "--json"]);
    let child = command.stdout(Stdio::piped()).spawn().unwrap();
    let id = child.id();
    let relays = || relay_children_of(id);
    while relays().is_empty() {
        thread::sleep(Duration::from_millis(20));
    }
    let relay = relays()[0];
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(id as i32), nix::sys::signal::Signal::SIGINT).unwrap();
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(0));
    let found: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(found["interrupted"], true);
    assert!(!std::path::Path::new(&format!("/proc/{relay}")).exists(), "the relay's process is gone");
}

/// Processes whose parent this is.
fn relay_children_of(parent: u32) -> Vec<u32> {
    let children = std::fs::read_to_string(format!("/proc/{parent}/task/{parent}/children"));
    children.unwrap_or_default().split_whitespace().map(|id| id.parse().unwrap()).collect()
}
