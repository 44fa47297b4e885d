//! A stream through bad networks: `superpeer impair` between the publisher, the relay and the viewer.

use std::fs;
use std::io::Read;
use std::net::UdpSocket;
use std::process::ChildStdout;
use std::time::Duration;

use serde_json::Value;

use crate::lab::{Lab, noise};
use crate::processes::{Superpeer, until, write_in_background};

/// A running `superpeer impair`.
struct Impairer {
    command: Superpeer,
    output: ChildStdout,
    /// Where clients send to.
    address: String,
}

impl Impairer {
    fn start(to: &str, settings: &[&str]) -> Impairer {
        let arguments = ["impair", "--listen", "127.0.0.1:0", "--to", to, "--seed", "5", "--json"];
        let (command, output) = Superpeer::start_with_output(&[&arguments[..], settings].concat());
        let address = until("the impairer listens", || {
            let said = command.said();
            let (_, rest) = said.split_once("listening on ")?;
            Some(rest.split(',').next()?.to_owned())
        });
        Impairer { command, output, address }
    }

    /// Ends it; its counts.
    fn finish(mut self) -> Value {
        self.command.signal("INT");
        self.command.succeed();
        let mut text = String::new();
        self.output.read_to_string(&mut text).unwrap();
        println!("{text}");
        serde_json::from_str(&text).unwrap()
    }
}

const BAD: [&str; 10] =
    ["--delay", "20ms", "--jitter", "10ms", "--loss", "4%", "--burst", "3", "--duplicate", "2%"];
const BAD_BACK: [&str; 8] =
    ["--back-delay", "20ms", "--back-loss", "4%", "--back-reorder", "2%", "--back-reorder-by", "30ms"];

#[test]
fn a_stream_reaches_its_viewer_whole_through_bad_networks_on_both_sides_of_the_relay() {
    let lab = Lab::new();
    let both = [&BAD[..], &BAD_BACK[..]].concat();
    let [near, far] = [(); 2].map(|()| Impairer::start(&lab.relay_name, &both));
    let key_only = lab.link.split('&').next().unwrap();
    let path = lab.path("out");
    let watch = ["watch", key_only, path.to_str().unwrap(), "--relay", &far.address, "--delay-ms", "10000"];
    let viewer = Superpeer::start(&watch);
    lab.until_sessions(1);
    let publish = ["publish", "--key", &lab.key, "--relay", &near.address];
    let (publisher, input) = Superpeer::start_with_input(&publish);
    lab.until_sessions(2);
    let bytes = noise(2_000_000);
    let written = write_in_background(input, bytes.clone());
    until("all of it is read", || written.is_finished().then_some(()));
    drop(written.join().unwrap().expect("it reads on"));
    publisher.succeed();
    let said = viewer.succeed();
    assert!(said.contains("missed 0;"), "{said}");
    assert!(fs::read(&path).unwrap() == bytes);
    let (near, far) = (near.finish(), far.finish());
    for (direction, counts) in [("forth", &near["forth"]), ("back", &far["back"])] {
        let [datagrams, lost] = ["datagrams", "lost"].map(|name| counts[name].as_u64().unwrap());
        assert!(datagrams > 1_700 && lost > 0, "{direction}: {counts}");
    }
    assert!(far["back"]["reordered"].as_u64() > Some(0) && near["forth"]["duplicated"].as_u64() > Some(0));
    assert_eq!(near["clients_total"], 1);
}

#[test]
fn datagrams_of_any_length_pass_each_client_has_a_line_of_its_own_and_answers_come_back() {
    let target = UdpSocket::bind("127.0.0.1:0").unwrap();
    let impairer = Impairer::start(&target.local_addr().unwrap().to_string(), &["--back-delay", "30ms"]);
    let clients = [(); 2].map(|()| UdpSocket::bind("127.0.0.1:0").unwrap());
    for socket in clients.iter().chain([&target]) {
        socket.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    }
    let mut buffer = vec![0; 65_536];
    for length in [0, 1, 1_232, 65_507] {
        let mut seen_from = Vec::new();
        for (number, client) in clients.iter().enumerate() {
            let sent = noise(length).iter().map(|byte| byte ^ number as u8).collect::<Vec<u8>>();
            client.send_to(&sent, &impairer.address).unwrap();
            let (received, from) = target.recv_from(&mut buffer).unwrap();
            assert!(buffer[..received] == sent);
            seen_from.push(from);
            target.send_to(&sent, from).unwrap();
            let (received, _) = client.recv_from(&mut buffer).unwrap();
            assert!(buffer[..received] == sent);
        }
        assert_ne!(seen_from[0], seen_from[1]);
    }
    let counts = impairer.finish();
    assert_eq!(
        (counts["clients_total"].as_u64(), counts["delivered"].as_u64(), counts["overflowed"].as_u64()),
        (Some(2), Some(16), Some(0))
    );
}

#[test]
fn an_impairer_whose_settings_make_no_sense_says_so() {
    let arguments = ["impair", "--listen", "127.0.0.1:0", "--to", "127.0.0.1:9"];
    let (status, said) =
        Superpeer::start(&[&arguments[..], &["--loss", "60%", "--burst", "1"]].concat()).wait();
    assert!(status == 2 && said.contains("60 %") && said.contains("50 %"), "{status}: {said}");
}
