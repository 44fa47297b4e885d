use std::net::UdpSocket;
use std::path::Path;

use super::*;

fn sample() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/sample.ts")
}

fn open(spec: &str, looped: bool) -> Result<Input, InputError> {
    Input::open(&spec.parse().unwrap(), looped, Arc::default())
}

#[test]
fn an_input_is_a_file_standard_input_or_an_address() {
    let parse = |text: &str| text.parse::<InputSpec>();
    assert_eq!(parse("-"), Ok(InputSpec::Stdin));
    assert_eq!(parse("film.ts"), Ok(InputSpec::Path("film.ts".into())));
    let group = InputSpec::Udp("239.1.2.3:5000".parse().unwrap());
    assert_eq!(parse("udp://239.1.2.3:5000"), Ok(group.clone()));
    assert_eq!(parse("udp://@239.1.2.3:5000"), Ok(group));
    assert!(parse("udp://[ff02::1%2]:5000").is_ok());
    assert!(matches!(parse("udp://5000"), Err(InputSpecError::Address(_))));
    assert!(matches!(parse("udp://[::1]"), Err(InputSpecError::Address(_))));
    assert!(matches!(parse("rtmp://example/live"), Err(InputSpecError::Scheme(_))));
}

#[test]
fn what_cannot_be_paced_or_looped_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let text = folder.path().join("notes.txt");
    fs::write(&text, "no clock in here ".repeat(10_000)).unwrap();
    let refusal = |path: &Path| open(path.to_str().unwrap(), false).err().unwrap();
    assert!(matches!(refusal(&text), InputError::NoClock(_)));
    assert!(matches!(refusal(folder.path()), InputError::Folder(_)));
    assert!(matches!(refusal(&folder.path().join("missing.ts")), InputError::Open { .. }));
    assert!(matches!(open("udp://127.0.0.1:0", true), Err(InputError::NotLoopable(_))));
}

#[test]
fn a_stop_ends_a_file_that_waits_for_its_time() {
    let stop = Arc::new(AtomicBool::new(false));
    let mut input = Input::open(&InputSpec::Path(sample()), true, stop.clone()).unwrap();
    assert!(input.next_block().unwrap().is_some());
    stop.store(true, Ordering::Relaxed);
    assert!(input.next_block().unwrap().is_none());
}

#[test]
fn a_block_is_not_sent_before_its_time_and_a_late_start_is_forgiven() {
    let go = AtomicBool::new(false);
    let mut schedule = Schedule::default();
    let before = Instant::now();
    assert!(schedule.wait_until(Duration::ZERO, &go));
    assert!(schedule.wait_until(Duration::from_millis(30), &go));
    assert!(before.elapsed() >= Duration::from_millis(30));

    let hour = Duration::from_secs(3600);
    if let Some(long_ago) = Instant::now().checked_sub(hour) {
        let mut schedule = Schedule { start: Some(long_ago) };
        assert!(schedule.wait_until(Duration::ZERO, &go));
        assert!(schedule.start.unwrap() > long_ago + hour / 2);
    }
}

#[test]
fn datagrams_arrive_whole_and_a_stop_ends_the_wait() {
    for address in ["127.0.0.1:0", "[::1]:0"] {
        // A machine without IPv6 has nothing to bind to.
        let Ok(mut socket) = Datagrams::bind(address.parse().unwrap()) else { continue };
        let sender = UdpSocket::bind(address).unwrap();
        let to = socket.local_address().unwrap();
        let stop = AtomicBool::new(false);
        for bytes in [&[1; 1316][..], &[2; 20_000], &[3]] {
            sender.send_to(bytes, to).unwrap();
            assert_eq!(socket.receive(&stop).unwrap(), Some(bytes));
        }
        stop.store(true, Ordering::Relaxed);
        assert_eq!(socket.receive(&stop).unwrap(), None);
    }
}
