//! `superpeer bench relay --relay`: a daemon that runs already is measured.
//!
//! The daemon is this program once more: what `cargo test` builds for one package does not have the other's programs. A
//! harness of its own leaves its command line to the daemon.

#[cfg(not(target_os = "linux"))]
fn main() {}

#[cfg(target_os = "linux")]
fn main() -> std::process::ExitCode {
    linux::main()
}

#[cfg(target_os = "linux")]
mod linux {
    use std::io::{BufRead, BufReader};
    use std::net::{SocketAddr, UdpSocket};
    use std::path::Path;
    use std::process::{Child, Command, ExitCode, Output, Stdio};
    use std::sync::mpsc;
    use std::thread;
    use std::time::{Duration, Instant};

    use libtest_mimic::{Arguments, Trial};
    use serde_json::Value;

    /// Makes this program the daemon.
    const DAEMON: &str = "SUPERPEER_TEST_DAEMON";

    /// What has not happened after this time does not happen.
    const DEADLINE: Duration = Duration::from_secs(30);

    pub(super) fn main() -> ExitCode {
        if std::env::var_os(DAEMON).is_some() {
            return relay::run(std::env::args_os());
        }
        let tests: [(&str, fn()); 8] = [
            ("everything_but_what_only_an_own_relay_tells_is_reported", everything_is_reported),
            ("without_a_status_what_is_not_known_is_null_or_a_dash", unknown_is_null_or_a_dash),
            ("a_relay_that_does_not_carry_the_channels_is_told_to_be_opened", not_open),
            ("limits_of_the_relay_are_an_error_with_the_number_that_is_needed", limits),
            ("ctrl_c_reports_what_there_is_and_ends_every_session", ctrl_c),
            ("options_of_an_own_relay_are_refused", options),
            ("a_status_that_is_not_the_relays_is_refused", wrong_status),
            ("a_port_where_nobody_listens_is_said_so", nobody),
        ];
        let tests = tests.map(|(name, test)| {
            Trial::test(name, move || {
                test();
                Ok(())
            })
        });
        libtest_mimic::run(&Arguments::from_args(), tests.into()).exit_code()
    }

    /// Between two looks at a daemon's status.
    const LOOK_INTERVAL: Duration = Duration::from_millis(20);

    /// A running daemon; killed when dropped.
    struct Daemon {
        child: Child,
        address: SocketAddr,
        admin: SocketAddr,
    }

    impl Daemon {
        fn start(more: &[&str]) -> Daemon {
            let mut command = Command::new(std::env::current_exe().unwrap());
            command.args(["--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0"]).args(more);
            command.env(DAEMON, "1").env_remove("RUST_LOG").stdin(Stdio::null());
            let mut child = command.stderr(Stdio::piped()).spawn().unwrap();
            let stderr = BufReader::new(child.stderr.take().unwrap());
            let (line_to, lines) = mpsc::channel();
            thread::spawn(move || {
                for line in stderr.lines().map_while(Result::ok) {
                    // Nobody reads on once the addresses are known.
                    let _ = line_to.send(line);
                }
            });
            let find = |text: &str| loop {
                let line: String = lines.recv_timeout(DEADLINE).expect("a line that names an address");
                if let Some((_, rest)) = line.split_once(text) {
                    return rest.split(',').next().unwrap().parse().unwrap();
                }
            };
            let admin = find("status and metrics on http://");
            Daemon { child, admin, address: find(" on UDP ") }
        }

        fn open() -> Daemon {
            Daemon::start(&["--open", "--workers", "2"])
        }

        fn with_limits(limits: &str, folder: &Path) -> Daemon {
            let path = folder.join("superpeer.toml");
            std::fs::write(&path, format!("open = true\n[limits]\n{limits}\n")).unwrap();
            Daemon::start(&["--config", path.to_str().unwrap(), "--workers", "1"])
        }

        fn status(&self) -> relay::status::Status {
            let body = ureq::get(format!("http://{}/status", self.admin)).call().unwrap();
            serde_json::from_reader(body.into_body().into_reader()).unwrap()
        }

        fn bench(&self, more: &[&str]) -> Output {
            bench(&[&["--relay", &self.address.to_string()], more].concat())
        }

        fn bench_with_status(&self, more: &[&str]) -> Output {
            self.bench(&[&["--relay-status", &self.admin.to_string()], more].concat())
        }
    }

    impl Drop for Daemon {
        fn drop(&mut self) {
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
    }

    fn superpeer() -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_superpeer"));
        command.args(["bench", "relay"]);
        command
    }

    fn bench(arguments: &[&str]) -> Output {
        superpeer().args(arguments).output().unwrap()
    }

    /// The object that a bench printed, which must have succeeded quietly.
    fn json(output: &Output) -> Value {
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!((output.status.code(), &*said), (Some(0), ""));
        serde_json::from_slice(&output.stdout).unwrap()
    }

    /// What a bench complained of, which must have failed with this status.
    fn complaint(output: &Output, status: i32) -> String {
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(status), "{said}");
        assert!(output.stdout.is_empty());
        said
    }

    fn everything_is_reported() {
        let daemon = Daemon::open();
        let found = json(&daemon.bench_with_status(&["--subscribers", "20", "--seconds", "2", "--json"]));
        assert_eq!(found["relay"], daemon.address.to_string());
        assert_eq!((&found["workers"], &found["sink"]), (&2.into(), &"loopback".into()));
        let status = daemon.status();
        let io = if status.uses_io_uring { "io_uring" } else { "sendmmsg" };
        assert_eq!((&found["io"], &found["kernel"]), (&io.into(), &status.probe.clone().into()));
        let positive = [
            "goodput_gbps",
            "wire_gbps",
            "relay_cpu_s",
            "relay_process_cpu_s",
            "relay_core_share",
            "cpu_s_per_gbit",
            "limit_gbps",
            "ratio_to_limit",
            "train_mean",
            "rss_bytes",
            "window_bytes",
            "chunks",
            "checked_datagrams",
        ];
        for name in positive {
            assert!(found[name].as_f64().is_some_and(|number| number > 0.0), "{name} in {found}");
        }
        assert_eq!(found["worker_core_shares"].as_array().unwrap().len(), 2);
        for name in ["jobs_skipped", "gave_up", "send_errors", "rcvbuf_errors_relay", "copies_missing"] {
            assert_eq!(found["drops"][name], 0, "{name} in {found}");
        }
        for name in ["send_eagain_enobufs", "receive_enobufs", "cq_overflow"] {
            assert!(found["pressure"][name].is_number(), "{name} in {found}");
        }
        for name in ["relay_waited_share", "bytes_per_subscriber"] {
            assert!(found[name].is_null(), "{name} in {found}");
        }
        let trains = ["copied_bytes", "zero_copy_bytes"].map(|name| found[name].as_u64().unwrap());
        assert!(trains.iter().sum::<u64>() > 0, "{found}");
        // Both sides count the same stream, in the same units.
        let [goodput, wire] = ["goodput_gbps", "wire_gbps"].map(|name| found[name].as_f64().unwrap());
        assert!((0.1..10.0).contains(&(goodput / wire)), "{found}");
        assert_eq!(found["wrong_datagrams"], 0, "{found}");
        ended(&daemon);
    }

    /// No session is left, and none had to run out: a lease is longer than this is waited for.
    fn ended(daemon: &Daemon) {
        let give_up_at = Instant::now() + mesh::limits::LEASE / 2;
        while daemon.status().sessions > 0 {
            assert!(Instant::now() < give_up_at, "{:?}", daemon.status());
            thread::sleep(LOOK_INTERVAL);
        }
    }

    fn unknown_is_null_or_a_dash() {
        let daemon = Daemon::open();
        let small = ["--subscribers", "3", "--channels", "2", "--seconds", "1"];
        let found = json(&daemon.bench(&[&small[..], &["--json"]].concat()));
        let unknown = [
            "workers",
            "io",
            "kernel",
            "wire_gbps",
            "relay_cpu_s",
            "relay_process_cpu_s",
            "relay_core_share",
            "worker_core_shares",
            "cpu_s_per_gbit",
            "limit_gbps",
            "ratio_to_limit",
            "train_mean",
            "rss_bytes",
            "zero_copy_bytes",
        ];
        for name in unknown {
            assert!(found[name].is_null(), "{name} in {found}");
        }
        assert!(found["drops"]["jobs_skipped"].is_null() && found["pressure"]["cq_overflow"].is_null());
        // Its socket is on this machine.
        assert_eq!(found["drops"]["rcvbuf_errors_relay"], 0, "{found}");
        assert_eq!(found["drops"]["copies_missing"], 0, "{found}");
        assert!(found["goodput_gbps"].as_f64().unwrap() > 0.0, "{found}");
        assert!(found["delay_us"]["last"]["p99"].as_u64().unwrap() > 0, "{found}");
        // Once more, against the same relay: the channels of the run before are not in the way.
        let output = daemon.bench(&small);
        let table = String::from_utf8(output.stdout).unwrap();
        assert_eq!(output.status.code(), Some(0), "{table}");
        assert!(table.contains("relay       – of a core by worker, waited – %"), "{table}");
        assert!(table.contains("drops       – late trains"), "{table}");
        assert!(table.contains("memory      – MiB"), "{table}");
    }

    fn not_open() {
        let daemon = Daemon::start(&[]);
        let said = complaint(&daemon.bench(&["--subscribers", "2", "--seconds", "10"]), 1);
        assert!(said.contains("does not carry that channel") && said.contains("--open"), "{said}");
        assert!(said.contains(&daemon.address.to_string()), "{said}");
    }

    fn limits() {
        let folder = tempfile::tempdir().unwrap();
        for (limit, needed) in [
            ("sessions_per_address = 2", "limits.sessions_per_address to 3 or more"),
            ("subscribers = 11", "limits.subscribers to 12 or more"),
            ("channels = 2", "limits.channels to 6 or more"),
        ] {
            let daemon = Daemon::with_limits(limit, folder.path());
            let load = ["--subscribers", "4", "--channels", "3", "--seconds", "10"];
            let said = complaint(&daemon.bench(&load), 1);
            assert!(said.contains(needed), "{limit}: {said}");
            // Those that were granted before one was refused.
            ended(&daemon);
        }
    }

    fn ctrl_c() {
        let daemon = Daemon::open();
        let (relay, status) = (daemon.address.to_string(), daemon.admin.to_string());
        let mut command = superpeer();
        command.args([
            "--relay",
            &relay,
            "--relay-status",
            &status,
            "--subscribers",
            "5",
            "--seconds",
            "600",
        ]);
        let child = command.arg("--json").stdout(Stdio::piped()).spawn().unwrap();
        let give_up_at = Instant::now() + DEADLINE;
        while daemon.status().totals.trains_sent == 0 {
            assert!(Instant::now() < give_up_at, "{:?}", daemon.status());
            thread::sleep(LOOK_INTERVAL);
        }
        let id = nix::unistd::Pid::from_raw(child.id() as i32);
        nix::sys::signal::kill(id, nix::sys::signal::Signal::SIGINT).unwrap();
        let output = child.wait_with_output().unwrap();
        assert_eq!(output.status.code(), Some(0));
        let found: Value = serde_json::from_slice(&output.stdout).unwrap();
        assert_eq!((&found["interrupted"], &found["wrong_datagrams"]), (&true.into(), &0.into()), "{found}");
        ended(&daemon);
    }

    fn options() {
        for option in [&["--sink", "lab"][..], &["--io", "auto"], &["--workers", "1"]] {
            let said = complaint(&bench(&[&["--relay", "127.0.0.1:1"], option].concat()), 2);
            assert!(said.contains(&option.join(" ")) || said.contains(option[0]), "{said}");
            assert!(said.contains("cannot go with --relay"), "{said}");
        }
        let said = complaint(&bench(&["--relay-status", "127.0.0.1:1"]), 2);
        assert!(said.contains("--relay <HOST:PORT>"), "{said}");
        let said = complaint(&bench(&["--relay", "[::1]:1"]), 2);
        assert!(said.contains("no IPv4 address"), "{said}");
        let said = complaint(&bench(&["--relay", "no port"]), 2);
        assert!(said.contains("no port"), "{said}");
    }

    fn wrong_status() {
        let [daemon, other] = [(); 2].map(|()| Daemon::open());
        let said = complaint(&daemon.bench(&["--relay-status", &other.admin.to_string()]), 1);
        assert!(said.contains(&other.address.to_string()), "{said}");
        let nobody = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let said = complaint(&daemon.bench(&["--relay-status", &nobody.to_string()]), 1);
        assert!(said.contains(&nobody.to_string()) && said.contains("admin.listen"), "{said}");
    }

    fn nobody() {
        let silent = UdpSocket::bind("127.0.0.1:0").unwrap();
        let address = silent.local_addr().unwrap().to_string();
        let said = complaint(&bench(&["--relay", &address, "--subscribers", "1", "--seconds", "1"]), 1);
        assert!(said.contains(&address) && said.contains("no relay answered"), "{said}");
    }
}
