use super::*;

const START: Time = Time(1_700_000_000_000_000);
const MS: Duration = Duration::from_millis(1);

/// Sends datagrams of 1,232 bytes, one each `every`; the deliveries of each.
fn send(impairment: Impairment, count: usize, every: Duration) -> Vec<ArrayVec<Time, 2>> {
    let mut link = Link::new(impairment, 7);
    (0..count).map(|number| link.pass(START.after(every * number as u32), 1_232)).collect()
}

/// Share of datagrams that did not come, and mean length of the runs of them.
fn losses(impairment: Impairment) -> (f64, f64) {
    let lost: Vec<bool> = send(impairment, 400_000, MS).iter().map(|times| times.is_empty()).collect();
    let total = lost.iter().filter(|lost| **lost).count() as f64;
    let runs = lost.windows(2).filter(|pair| !pair[0] && pair[1]).count() as f64;
    (total / lost.len() as f64, total / runs)
}

fn within(value: f64, low: f64, high: f64) {
    assert!((low..high).contains(&value), "{value} is not from {low} to {high}");
}

#[test]
fn a_link_that_does_nothing_delivers_at_once() {
    assert!(
        send(Impairment::default(), 100, MS)
            .iter()
            .enumerate()
            .all(|(number, times)| { times[..] == [START.after(MS * number as u32)] })
    );
}

#[test]
fn loss_comes_by_itself_or_in_bursts_of_the_mean_length_asked_for() {
    let (share, run) = losses(Impairment { loss: 0.03, ..Impairment::default() });
    within(share, 0.029, 0.031);
    within(run, 1.0, 1.06);
    for burst in [1.0, 5.0, 20.0] {
        let (share, run) = losses(Impairment { loss: 0.03, burst: Some(burst), ..Impairment::default() });
        within(share, 0.027, 0.033);
        within(run, burst * 0.93, burst * 1.07);
    }
    assert_eq!(losses(Impairment { loss: 0.0, burst: Some(5.0), ..Impairment::default() }).0, 0.0);
    assert!(
        send(Impairment { loss: 1.0, ..Impairment::default() }, 1_000, MS)
            .iter()
            .all(|times| times.is_empty())
    );
}

#[test]
fn more_loss_than_bursts_of_that_length_can_cause_is_refused_with_both_numbers() {
    let wrong = Impairment { loss: 0.6, burst: Some(1.0), ..Impairment::default() };
    let said = wrong.check().unwrap_err();
    assert!(said.contains("60 %") && said.contains("50 %"), "{said}");
    assert!(Impairment { loss: 0.6, burst: Some(2.0), ..Impairment::default() }.check().is_ok());
    assert!(Impairment { burst: Some(0.5), ..Impairment::default() }.check().is_err());
}

#[test]
fn jitter_delays_within_its_bounds_and_nothing_overtakes() {
    let jitter = Impairment { delay: 50 * MS, jitter: 10 * MS, ..Impairment::default() };
    let sent = send(jitter, 20_000, MS);
    let delays: Vec<Duration> = sent
        .iter()
        .enumerate()
        .map(|(number, times)| times[0].since(START.after(MS * number as u32)))
        .collect();
    assert!(delays.iter().all(|delay| (50 * MS..=60 * MS).contains(delay)));
    let mean = delays.iter().sum::<Duration>() / delays.len() as u32;
    assert!((53 * MS..58 * MS).contains(&mean), "{mean:?}");
    assert!(sent.windows(2).all(|pair| pair[0][0] <= pair[1][0]));
}

#[test]
fn only_the_share_asked_for_is_overtaken() {
    let reorder = Impairment { reorder: 0.02, reorder_by: 10 * MS, ..Impairment::default() };
    let sent = send(reorder, 100_000, MS);
    let overtaken = sent.windows(2).filter(|pair| pair[0][0] > pair[1][0]).count() as f64;
    // One in ten comes less than 1 ms later, before the next.
    within(overtaken / 100_000.0, 0.016, 0.020);
}

#[test]
fn duplicates_come_twice() {
    let sent = send(Impairment { duplicate: 0.1, ..Impairment::default() }, 100_000, MS);
    let twice = sent.iter().filter(|times| times.len() == 2).count() as f64;
    within(twice / 100_000.0, 0.095, 0.105);
}

#[test]
fn a_rate_is_kept_and_what_its_queue_has_no_room_for_is_dropped() {
    // 1,260 bytes of IP each ms are 10.08 Mbit/s.
    let half = Impairment { rate_bps: Some(5_040_000), queue: Queue::Time(20 * MS), ..Impairment::default() };
    let sent = send(half, 10_000, MS);
    let passed: Vec<Time> = sent.iter().flatten().copied().collect();
    within(passed.len() as f64, 5_000.0, 5_020.0);
    assert!(passed.windows(2).all(|pair| pair[1].since(pair[0]) == 2 * MS));
    let longest = sent
        .iter()
        .enumerate()
        .filter_map(|(number, times)| times.first().map(|at| at.since(START.after(MS * number as u32))));
    assert_eq!(longest.max(), Some(22 * MS), "a full queue and the datagram itself");

    let bytes = Impairment { queue: Queue::Bytes(3 * 1_260), ..half };
    let burst = send(bytes, 10, Duration::ZERO);
    assert_eq!(burst.iter().filter(|times| !times.is_empty()).count(), 3);
    let tiny = Impairment { queue: Queue::Bytes(0), ..half };
    assert_eq!(send(tiny, 5, 3 * MS).iter().flatten().count(), 5, "an idle line takes one of any length");
}

#[test]
fn equal_seeds_give_equal_deliveries() {
    let all = Impairment {
        loss: 0.1,
        burst: Some(3.0),
        delay: 20 * MS,
        jitter: 5 * MS,
        reorder: 0.05,
        duplicate: 0.05,
        rate_bps: Some(8_000_000),
        ..Impairment::default()
    };
    assert_eq!(send(all, 5_000, MS), send(all, 5_000, MS));
}
