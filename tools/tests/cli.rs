//! The command as a user meets it: exit status, standard output, standard error.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use assert_cmd::Command;
use assert_cmd::cargo::cargo_bin_cmd;
use codec::ChannelLink;
use tempfile::TempDir;

fn superpeer() -> Command {
    cargo_bin_cmd!("superpeer")
}

/// Exit status, standard output and standard error of the command with these arguments.
fn run(arguments: &[&str]) -> (i32, String, String) {
    let output = superpeer().args(arguments).output().unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (output.status.code().unwrap(), text(output.stdout), text(output.stderr))
}

/// Runs a command that must succeed quietly; returns what it prints.
fn succeed(arguments: &[&str]) -> String {
    let (status, stdout, stderr) = run(arguments);
    assert_eq!((status, stderr.as_str()), (0, ""), "{arguments:?}");
    stdout
}

/// Runs a command that must fail with this status; returns what it says.
fn fail(status: i32, arguments: &[&str]) -> String {
    let (actual, stdout, stderr) = run(arguments);
    assert_eq!((actual, stdout.as_str()), (status, ""), "{arguments:?}: {stderr}");
    stderr
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

/// A folder with the key of a channel named `demo` in it.
fn folder_with_key() -> (TempDir, PathBuf, String) {
    let folder = tempfile::tempdir().unwrap();
    let key = folder.path().join("demo.key");
    let link = succeed(&["keygen", "--name", "demo", text(&key)]);
    (folder, key, link)
}

#[test]
fn every_help_has_an_example() {
    let commands = [
        "bench", "channels", "demo", "doctor", "drain", "impair", "keygen", "kick", "link", "manual",
        "publish", "reload", "sim", "status", "top", "watch",
    ];
    for command in [None].into_iter().chain(commands.map(Some)) {
        let arguments: Vec<_> = command.into_iter().chain(["--help"]).collect();
        let help = succeed(&arguments);
        let (_, example) = help.split_once("Example").expect("an example");
        assert!(example.contains("\n  superpeer "), "{help}");
    }
}

#[test]
fn every_visible_command_has_a_manual_page_and_completions() {
    let folder = tempfile::tempdir().unwrap();
    succeed(&["manual", text(folder.path())]);
    let read = |name: &str| fs::read_to_string(folder.path().join(name)).expect(name);
    let overview = read("superpeer.1");
    let command = tools::command();
    for subcommand in command.get_subcommands().filter(|subcommand| !subcommand.is_hide_set()) {
        let name = subcommand.get_name();
        assert!(overview.contains(&format!("superpeer\\-{name}(1)")), "{name}: {overview}");
        let page = read(&format!("superpeer-{name}.1"));
        for option in subcommand.get_arguments().filter_map(|argument| argument.get_long()) {
            assert!(page.contains(&option.replace('-', "\\-")), "{name} --{option}: {page}");
        }
        for completions in ["superpeer.bash", "_superpeer", "superpeer.fish"] {
            assert!(read(completions).contains(name), "{name}: {completions}");
        }
    }
    assert!(!folder.path().join("superpeer-manual.1").exists());
    #[cfg(target_os = "linux")]
    for file in ["superpeerd.8", "superpeerd.bash", "_superpeerd", "superpeerd.fish"] {
        assert!(read(file).contains("config"), "{file}");
    }
}

#[test]
fn wrong_usage_is_status_2_and_says_what_is_wrong() {
    let link = format!("magnet:?xs=urn:btpk:{}", "0".repeat(64));
    let cases: &[(&[&str], &str)] = &[
        (&[], "Usage"),
        (&["fly"], "fly"),
        (&["keygen"], "<FILE>"),
        (&["keygen", "--name", "", "x.key"], "at least one character"),
        (&["link", "--relay", "nowhere", "x.key"], "\"nowhere\" is not host:port"),
        (&["link", "--relay", "relay.example:0", "x.key"], "port from 1 to 65535"),
        (&["publish", "--key", "x.key"], "--relay"),
        (&["publish", "--key", "x.key", "--relay", "a:1", "udp://nowhere"], "udp://ADDR:PORT"),
        (&["watch"], "<LINK>"),
        (&["watch", "magnet:?dn=x"], "no channel key"),
        (&["watch", &link], "--relay HOST:PORT"),
        (&["watch", &link], "in quotes"),
        (&["watch", &link, "--upstreams", "5"], "from 1 to 4"),
        (&["watch", &link, "--exec", ""], "--exec <CMD>"),
        (&["watch", &link, "out.ts", "--exec", "mpv -"], "cannot be used with"),
        (&["watch", &link, "--delay-ms", "10001"], "0..=10000"),
        (&["watch", &link, "--from", "yesterday"], "live, start"),
        (&["bench"], "Usage"),
        (&["bench", "limit", "--destinations", "65537"], "1..=65536"),
        (&["bench", "limit", "--seconds", "0"], "0.01 to 60"),
        (&["bench", "relay", "--channels", "many"], "`auto` or a number from 1 to 500"),
        (&["bench", "relay", "--seconds", "0"], "1..=600"),
        (&["bench", "relay", "--channels", "500", "--subscribers", "2001"], "1000500 subscriptions"),
        (&["kick"], "ADDRESS"),
        (&["kick", "example.org"], "neither an IP address"),
        (&["kick", "--channel", "magnet:?dn=x"], "no channel key"),
        (&["kick", "192.0.2.1", "--for", "soon"], "10m"),
        (&["kick", "192.0.2.1", "--for", "2years"], "at most 365days"),
        (&["drain", "--to", "nowhere"], "\"nowhere\" is not host:port"),
        (&["drain", "--cancel", "--for", "1m"], "cannot be used with"),
        (&["impair", "--listen", "localhost:1", "--to", "127.0.0.1:9"], "no IP address with a port"),
        (&["impair", "--listen", "127.0.0.1:0", "--to", "127.0.0.1:9", "--burst", "5"], "bursts of 5"),
        (&["impair", "--listen", "127.0.0.1:0", "--to", "127.0.0.1:9", "--queue", "x"], "alone is bytes"),
        (&["demo", "--viewers", "0"], "1..=1000"),
        (&["demo", "--seconds", "4000"], "1..=3600"),
        (&["demo", "--bitrate", "1G"], "800K or 4M"),
        (&["demo", "--bitrate", "1M", "--bitrate", "1"], "--bitrate"),
    ];
    for (arguments, expected) in cases {
        let stderr = fail(2, arguments);
        assert!(stderr.contains(expected), "{arguments:?}: {stderr}");
    }
}

#[test]
fn keygen_and_link_print_the_same_channel() {
    let (_folder, key, printed) = folder_with_key();
    assert_eq!(printed.lines().count(), 1);
    assert_eq!(succeed(&["link", text(&key)]), printed);

    let relays = ["relay.example:7450", "[2001:db8::1]:7450"];
    let with_relays = succeed(&["link", "--relay", relays[0], "--relay", relays[1], text(&key)]);
    let link: ChannelLink = with_relays.parse().unwrap();
    assert_eq!(link.key, printed.parse::<ChannelLink>().unwrap().key);
    assert_eq!(link.name.as_deref(), Some("demo"));
    assert_eq!(link.relays, relays);
}

#[test]
fn two_keys_are_two_channels() {
    let (_one_folder, _, one) = folder_with_key();
    let (_other_folder, _, other) = folder_with_key();
    assert_ne!(one, other);
}

#[test]
fn keygen_never_overwrites() {
    let (folder, key, _) = folder_with_key();
    let before = fs::read(&key).unwrap();
    let stderr = fail(1, &["keygen", text(&key)]);
    assert!(stderr.starts_with("superpeer: ") && stderr.contains("not overwritten"), "{stderr}");
    assert_eq!(fs::read(&key).unwrap(), before);
    fail(1, &["keygen", text(folder.path())]);
    let missing = folder.path().join("missing/demo.key");
    assert!(fail(1, &["keygen", text(&missing)]).contains(text(&missing)));
}

#[test]
fn a_link_with_too_many_relays_is_not_printed() {
    let (_folder, key, _) = folder_with_key();
    let mut arguments = vec!["link"];
    arguments.extend(["--relay", "relay.example:7450"].repeat(17));
    arguments.push(text(&key));
    assert!(fail(2, &arguments).contains("at most 16 relays, this one 17"));
}

#[test]
fn a_wrong_key_file_says_what_is_wrong() {
    let folder = tempfile::tempdir().unwrap();
    let key = folder.path().join("wrong.key");
    assert!(fail(1, &["link", text(&key)]).contains("superpeer keygen"));
    assert!(fail(1, &["link", text(folder.path())]).contains("is not a file"));

    let cases = [
        (vec![b'a'; 63], "has 63 characters"),
        (vec![b'x'; 64], "other characters"),
        (vec![0xff; 64], "not text"),
        (vec![b'a'; 5000], "longer than"),
        (vec![], "64 hex digits"),
    ];
    for (contents, expected) in cases {
        fs::write(&key, contents).unwrap();
        only_for_me(&key);
        let stderr = fail(1, &["link", text(&key)]);
        assert!(stderr.contains(expected) && stderr.contains(text(&key)), "{stderr}");
    }
}

#[cfg(unix)]
#[test]
fn nobody_is_told_to_change_the_mode_of_a_file_that_is_no_key() {
    use std::os::unix::fs::PermissionsExt;
    let folder = tempfile::tempdir().unwrap();
    let other = folder.path().join("notes.txt");
    fs::write(&other, "something else").unwrap();
    fs::set_permissions(&other, fs::Permissions::from_mode(0o644)).unwrap();
    let stderr = fail(1, &["link", text(&other)]);
    assert!(stderr.contains("is not a key file") && !stderr.contains("chmod"), "{stderr}");
}

#[test]
fn an_address_that_is_taken_is_named() {
    let (_folder, key, _) = folder_with_key();
    let taken = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let input = format!("udp://{address}");
    let publish = ["publish", "--key", text(&key), "--relay", "127.0.0.1:9", &input];
    for arguments in [&["impair", "--listen", &address, "--to", "127.0.0.1:9"][..], &publish] {
        let stderr = fail(1, arguments);
        assert!(stderr.contains("cannot listen") && stderr.contains(&address), "{stderr}");
        assert!(stderr.contains("ss -uln"), "{stderr}");
    }
}

#[cfg(target_os = "linux")]
#[test]
fn a_file_is_no_relay() {
    let (_folder, key, _) = folder_with_key();
    let stderr = fail(1, &["status", "--socket", text(&key)]);
    assert!(stderr.contains(&format!("{} is no socket", text(&key))), "{stderr}");
}

#[test]
fn a_folder_that_cannot_be_made_is_named() {
    let (_folder, key, _) = folder_with_key();
    let inside = key.join("manual");
    assert!(fail(1, &["manual", text(&inside)]).contains(text(&inside)));
}

#[cfg(unix)]
fn only_for_me(path: &Path) {
    use std::os::unix::fs::PermissionsExt;
    fs::set_permissions(path, fs::Permissions::from_mode(0o600)).unwrap();
}

#[cfg(not(unix))]
fn only_for_me(_: &Path) {}

#[cfg(unix)]
#[test]
fn a_key_is_for_its_owner_only() {
    use std::os::unix::fs::PermissionsExt;
    let (_folder, key, _) = folder_with_key();
    assert_eq!(fs::metadata(&key).unwrap().permissions().mode() & 0o7777, 0o600);
    for mode in [0o640, 0o604, 0o660, 0o610] {
        fs::set_permissions(&key, fs::Permissions::from_mode(mode)).unwrap();
        let stderr = fail(1, &["link", text(&key)]);
        assert!(stderr.contains(&format!("chmod 600 {}", text(&key))), "{stderr}");
    }
    fs::set_permissions(&key, fs::Permissions::from_mode(0o400)).unwrap();
    succeed(&["link", text(&key)]);
}

#[test]
fn a_closed_standard_output_is_no_failure() {
    let (_folder, key, _) = folder_with_key();
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    let mut child = std::process::Command::new(superpeer().get_program())
        .args(["link", text(&key)])
        .stdout(writer)
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(0));
}

#[cfg(target_os = "linux")]
#[test]
fn a_full_disk_is_a_failure() {
    let (_folder, key, _) = folder_with_key();
    for arguments in [&["link", text(&key)][..], &["--help"], &["watch", "--help"]] {
        let full = fs::File::options().write(true).open("/dev/full").unwrap();
        let output = std::process::Command::new(superpeer().get_program())
            .args(arguments)
            .stdout(full)
            .stderr(Stdio::piped())
            .output()
            .unwrap();
        assert_eq!(output.status.code(), Some(1), "{arguments:?}");
        assert!(String::from_utf8(output.stderr).unwrap().contains("standard output"), "{arguments:?}");
    }
}
