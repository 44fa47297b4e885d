use jiff::ToSpan;
use proptest::prelude::*;

use super::*;
use crate::config::QuotaPeriod;

const MAX: u64 = 100_000_000;
const RULES: Rules = Rules {
    max: MAX,
    layout: Layout { period: QuotaPeriod::Month, start_day: 1 },
    pacing: false,
    counts_sent: true,
};

fn now() -> Timestamp {
    "2026-11-16T00:00:00Z".parse().unwrap()
}

fn account(rules: Rules, used: u64) -> Account {
    let mut book = Book::new(rules.layout, now());
    book.current.used_bytes = used;
    let mut account = Account::new(rules, book);
    account.advance(now(), 0);
    account
}

/// Writes what is due, and says that it went well.
fn write(account: &mut Account) -> Option<Book> {
    let book = account.due()?;
    account.note_written(&book, true);
    account.advance(account_time(account), 0);
    Some(book)
}

fn account_time(account: &Account) -> Timestamp {
    account.book.current.period.start
}

/// Uses all that may be used for trains, message by message of this size; returns how much that was.
fn use_all(account: &mut Account, message: u64) -> u64 {
    let mut spent = 0;
    loop {
        write(account);
        let room = account.ends().trains / MESSAGE_IP_BYTES_MAX * MESSAGE_IP_BYTES_MAX / message * message;
        if room == 0 {
            return spent;
        }
        spent += room;
        account.advance(now(), room as i64);
    }
}

#[test]
fn nothing_is_sent_before_it_was_set_aside() {
    let mut account = account(RULES, 10_000_000);
    assert_eq!(account.ends().all, 0);
    let book = write(&mut account).unwrap();
    let aside = book.current.used_bytes - 10_000_000;
    assert_eq!(aside, MAX / SHARE_PARTS_LEAST);
    assert_eq!((account.ends().trains, account.ends().all, account.ends().tell), (aside, aside, aside / 2));
    assert!(account.due().is_none());
    account.advance(now(), aside as i64 / 2);
    assert!(write(&mut account).is_some(), "in time for more");
    account.note_rate(1_000_000_000);
    let book = write(&mut account).unwrap();
    assert_eq!(book.current.used_bytes - account.used(), MAX / SHARE_PARTS_MOST);
}

#[test]
fn at_the_end_trains_are_over_and_goodbyes_are_not() {
    let mut account = account(RULES, 0);
    let spent = use_all(&mut account, 1_260);
    let last = MAX - MAX / FAREWELL_PARTS;
    assert!((last - MESSAGE_IP_BYTES_MAX..=last).contains(&spent), "{spent}");
    assert!(account.is_used_up());
    let Ends { trains, all, .. } = account.ends();
    assert!(trains < MESSAGE_IP_BYTES_MAX && all >= MAX / FAREWELL_PARTS / 4, "{trains} {all}");
    // Refusals use up the rest, and then there is nothing.
    let mut rest = 0;
    for _ in 0..100_000 {
        write(&mut account);
        let refusal = account.ends().all.min(130);
        account.advance(now(), refusal as i64);
        rest += refusal;
    }
    assert_eq!(spent + rest, MAX);
    assert_eq!(account.ends(), Ends { trains: 0, all: 0, tell: u64::MAX });
    assert!(account.due().is_none(), "nothing is written for nothing");
}

#[test]
fn where_only_what_comes_in_counts_goodbyes_are_sent_however_much_came() {
    let mut account = account(Rules { counts_sent: false, ..RULES }, 0);
    write(&mut account);
    account.advance(now(), 2 * MAX as i64);
    assert!(account.is_used_up());
    let Ends { trains, all, .. } = account.ends();
    assert_eq!((trains, all), (0, u64::MAX));
}

#[test]
fn the_next_period_opens_by_itself() {
    let mut account = account(RULES, MAX);
    write(&mut account);
    assert!(account.is_used_up() && account.ends().trains == 0);
    account.advance("2026-11-30T23:59:59Z".parse().unwrap(), 0);
    assert!(account.is_used_up());
    account.advance("2026-12-01T00:00:00Z".parse().unwrap(), 0);
    assert!(!account.is_used_up());
    assert_eq!(account.ends().all, 0, "before it is written");
    write(&mut account);
    assert!(account.ends().trains > 0);
}

#[test]
fn warnings_come_once_in_a_period_and_again_in_the_next() {
    let mut account = account(RULES, 0);
    let steps: Vec<u8> = (0..100).filter_map(|_| account.advance(now(), 1_000_000)).collect();
    assert_eq!(steps, [80, 95]);
    let read = Account::new(RULES, write(&mut account).unwrap()).advance(now(), 0);
    assert_eq!(read, None, "nor after a restart");
    account.configure(Rules { max: 2 * MAX, ..RULES });
    assert_eq!(account.advance(now(), 59_000_000), None);
    assert_eq!(account.advance(now(), 1_000_000), Some(80), "of the larger one");
    account.configure(RULES);
    assert_eq!(account.advance(now(), 0), Some(95));
    let next = now() + 720.hours();
    assert_eq!(account.advance(next, 0), None);
    assert_eq!(account.advance(next, 80_000_000), Some(80));
}

#[test]
fn a_larger_quota_opens_at_once_and_a_smaller_one_closes() {
    let mut account = account(RULES, MAX);
    account.configure(Rules { max: 2 * MAX, ..RULES });
    account.advance(now(), 0);
    write(&mut account);
    assert!(!account.is_used_up() && account.ends().trains > 0);
    account.configure(Rules { max: MAX / 2, ..RULES });
    account.advance(now(), 0);
    assert!(account.is_used_up() && account.ends().all == 0);
}

#[test]
fn where_nothing_can_be_written_five_percent_are_left_until_it_can() {
    let mut account = account(RULES, 10_000_000);
    let book = account.due().unwrap();
    account.note_written(&book, false);
    account.advance(now(), 0);
    assert_eq!(account.ends().all, MAX / UNWRITTEN_PARTS);
    assert_eq!(account.ends().trains, MAX / UNWRITTEN_PARTS - MAX / FAREWELL_PARTS);
    account.advance(now(), 4_490_000);
    assert!(account.is_used_up());
    let book = account.due().unwrap();
    account.note_written(&book, true);
    account.advance(now(), 0);
    assert!(!account.is_used_up());
    write(&mut account);
    assert!(account.ends().trains > 0);
    let near = MAX - 1_000_000;
    account.advance(now(), (near - account.used()) as i64);
    let book = account.due().unwrap();
    account.note_written(&book, false);
    assert!(account.used() + account.ends().all <= MAX, "never beyond the quota");
}

#[test]
fn pacing_turns_newcomers_away_while_use_is_ahead() {
    let mut account = account(Rules { pacing: true, ..RULES }, 50_000_000);
    assert!(!account.is_paced(), "half of November");
    account.advance(now(), 3_300_000);
    assert!(!account.is_paced());
    account.advance(now(), 100_000);
    assert!(account.is_paced());
    account.advance(now() + 12.hours(), 0);
    assert!(account.is_paced(), "not at once");
    account.advance(now() + 13.hours(), 0);
    assert!(!account.is_paced());
    account.configure(RULES);
    account.advance(now(), 40_000_000);
    assert!(!account.is_paced(), "off");
}

proptest! {
    /// Whatever a kill finds on disk: the one before the last writing, or the last.
    #[test]
    fn however_often_it_is_killed_no_more_is_sent_than_there_is_and_little_is_lost(
        max in 10_000_000_u64..10_000_000_000_000,
        lives in prop::collection::vec((0_u64..u64::MAX, 0_usize..400, any::<bool>()), 1..6),
    ) {
        let rules = Rules { max, ..RULES };
        let mut disk = Book::new(rules.layout, now());
        let mut sent = 0;
        let kills = lives.len() as u64;
        for (rate, steps, is_killed_while_writing) in lives {
            let mut account = Account::new(rules, disk);
            account.advance(now(), 0);
            account.note_rate(rate);
            for step in 0..steps {
                if let Some(book) = account.due() {
                    disk = book;
                    if is_killed_while_writing && step == steps - 1 { break }
                    account.note_written(&book, true);
                    account.advance(now(), 0);
                }
                let room = account.ends().trains;
                prop_assert!(room <= account.ends().all);
                let spent = if room < MESSAGE_IP_BYTES_MAX { 0 } else { room / 2 + room / 3 };
                sent += spent;
                account.advance(now(), spent as i64);
                prop_assert!(sent <= max && sent <= disk.current.used_bytes);
            }
        }
        let mut last = Account::new(rules, disk);
        last.advance(now(), 0);
        sent += use_all(&mut last, 1);
        prop_assert!(sent <= max, "{sent} of {max}");
        let lost = kills * (max / SHARE_PARTS_MOST).max(2 * MESSAGE_IP_BYTES_MAX) + max / FAREWELL_PARTS + MESSAGE_IP_BYTES_MAX;
        prop_assert!(sent + lost >= max, "{sent} of {max}");
    }
}
